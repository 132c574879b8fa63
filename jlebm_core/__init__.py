"""jlebm_core: energy-based priors in latent space, one file for each idea.

prior x generator x inference x objective: see ``rows.SYSTEMS`` for the table of systems, and
the book (chapters 01 to 04) for the equations.
"""

__version__ = "0.1.0"
