"""Hand-written kernels that run all steps of a prior chain at once: one for CPUs, one for CUDA.

They are chosen by ``langevin.langevin_mlp`` where they apply; each follows its PyTorch form.
"""
