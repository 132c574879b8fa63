"""What is timed: for each question the competitors, each as a function of a case without arguments.

A case is a dictionary: batch, steps (K), hidden (widths of f), dim, device. Every competitor gets
the same f, the same nets and the same amount of work. Floors say how much that is: ``gflop``.
"""

from collections.abc import Callable
from itertools import pairwise

import published
import torch
from torch.utils.flop_counter import FlopCounterMode

from jlebm_core import systems
from jlebm_core.langevin import closed_form_steps, langevin_mlp, recorded_steps
from jlebm_core.priors import EBMPrior
from jlebm_core.training.trainer import Trainer

STEP_SIZE = 0.4
# The authors' nets for hierarchical sampling (joint EBM prior) and those of LEBM on SVHN.
PRESETS = {"training-step": "iccv2023-svhn-hs", "lebm-step": "neurips2020-lebm-svhn"}
SIDE = 512  # of the matrices of a step's floor
LARGE = {"cpu": 2048, "cuda": 8192}  # side of matrices whose product is as quick as the machine is
IMAGES = 5000  # random ones: no time depends on what they show
SHIPPED = "joint-ebm-mnist-s0"  # whose samples are measured


def prior_of(case: dict) -> EBMPrior:
    torch.manual_seed(0)
    prior = EBMPrior((case["dim"],), tuple(case["hidden"]), steps=case["steps"])
    return prior.to(case["device"]).eval()


def chain_ours(case: dict) -> Callable[[], object]:
    """The prior's own sampler, whichever path it chooses."""
    prior = prior_of(case)
    return lambda: prior.sample(case["batch"])


def chain_published(case: dict) -> Callable[[], object]:
    prior, settings = prior_of(case), {"steps": case["steps"], "step_size": STEP_SIZE}
    return lambda: published.prior_chain(prior, case["batch"], **settings)


def chain_torchebm(case: dict) -> Callable[[], object]:
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    class Energy(BaseModel):
        def __init__(self, prior):
            super().__init__()
            self.prior = prior

        def forward(self, x, *_, **__):
            return 0.5 * x.square().sum(1) - self.prior.f(x)

    prior = prior_of(case)
    # their step is x - eta grad E + sqrt(2 eta) eps: eta = s^2 / 2
    energy = Energy(prior).to(case["device"])
    sampler = LangevinDynamics(energy, step_size=STEP_SIZE**2 / 2, device=case["device"])
    return lambda: sampler.sample(prior.base_sample(case["batch"]), n_steps=case["steps"])


def chain_ebmkit(case: dict) -> Callable[[], object]:
    from ebm.samplers import LangevinDynamics

    prior = prior_of(case)
    sampler = LangevinDynamics(step_size=STEP_SIZE**2 / 2, steps=case["steps"])

    class Energy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.prior = prior

        def forward(self, x):
            return 0.5 * x.square().sum(1) - self.prior.f(x)

    energy = Energy()
    return lambda: sampler.sample(energy, prior.base_sample(case["batch"]))


def chain_floor(case: dict) -> Callable[[], object]:
    """Not a sampler: its matrix products and normal draws alone, nothing else."""
    device, batch = case["device"], case["batch"]
    widths = (case["dim"], *case["hidden"])
    up = [torch.randn(a, b, device=device) for a, b in pairwise(widths)]
    down = [w.T.contiguous() for w in reversed(up)]
    x, eps = (torch.randn(batch, case["dim"], device=device) for _ in range(2))

    def run() -> None:
        for _ in range(case["steps"]):
            eps.normal_()
            h = x
            for w in (*up, *down):
                h = torch.mm(h, w)

    run.gflop = 2e-9 * case["steps"] * batch * sum(w.numel() for w in (*up, *down))
    return run


def product(case: dict) -> Callable[[], object]:
    """One large matrix product: what the machine reaches at its best."""
    n, dtype = LARGE[case["device"]], {"bf16": torch.bfloat16, "float32": torch.float32}
    a, b = (torch.randn(n, n, device=case["device"]).to(dtype[case["precision"]]) for _ in "ab")

    def run() -> None:
        torch.mm(a, b)

    run.gflop = 2e-9 * n**3
    return run


def chain_library(case: dict) -> Callable[[], object]:
    """Ours without a kernel of its own: the closed form by PyTorch, on CUDA as one graph."""
    prior, on_cuda = prior_of(case), case["device"] == "cuda"
    layers = [(w.detach(), b.detach()) for w, b in prior.net.layers()]
    how = {"steps": case["steps"], "step_size": STEP_SIZE}
    how["run"] = recorded_steps if on_cuda else closed_form_steps
    return lambda: langevin_mlp(layers, prior.net.act, prior.base_sample(case["batch"]), **how)


def _system(case: dict):
    size = {"batch": case["batch"], "prior_steps": case["steps"]}
    config = systems.preset(PRESETS[case["what"]], **size)
    images = torch.randint(256, (IMAGES, *config.image), dtype=torch.uint8)
    return systems.build(config).to(case["device"]), images.to(case["device"])


def step_ours(case: dict) -> Callable[[], object]:
    """``Trainer.advance``, in the precision that the case names."""
    system, images = _system(case)
    trainer = Trainer(system.train(), images, precision=case["precision"])
    return trainer.advance


def step_published(case: dict) -> Callable[[], object]:
    return published.Training(*_system(case)).step


def step_floor(case: dict) -> Callable[[], object]:
    """Not a step: square bf16 matrix products of as many operations as all its layers have."""
    system, images = _system(case)
    trainer = Trainer(system.train(), images)
    with FlopCounterMode(display=False) as counter:
        trainer.advance()
    a, b = (torch.randn(SIDE, SIDE, device=case["device"]).bfloat16() for _ in range(2))
    products = range(round(counter.get_total_flops() / (2 * SIDE**3)))

    def run() -> None:
        for _ in products:
            torch.mm(a, b)

    run.gflop = counter.get_total_flops() * 1e-9
    return run


def images_ours(case: dict) -> Callable[[], object]:
    """Samples streamed into the extractor of FID, as ``jlebm evaluate`` does it."""
    from jlebm_core.evaluate.features import Extractor, Stream
    from jlebm_core.evaluate.report import sample_blocks
    from jlebm_core.training.batches import keep_freed_memory

    keep_freed_memory()
    system = systems.shipped(SHIPPED).to(case["device"])
    extract = Extractor("mnist-classifier", system.config.image, device=case["device"])
    n = case["images"]
    return lambda: extract(Stream(n, sample_blocks(system, n)))


def images_published(case: dict) -> Callable[[], object]:
    """All samples first, as float images in batches of 100, then their features 200 at a time."""
    from jlebm_core.data import to_uint8
    from jlebm_core.evaluate.classifier import load_classifier

    system = systems.shipped(SHIPPED).to(case["device"])
    classifier = load_classifier("mnist").to(case["device"])
    chain = {"steps": system.config.prior_steps, "step_size": system.config.prior_step_size}

    def run() -> None:
        images = []
        for _ in range(case["images"] // 100):
            z = published.prior_chain(system.prior, 100, **chain)
            with torch.no_grad():
                images.append(system.generator.mean(z).cpu())
        with torch.no_grad():
            for x in torch.cat(images).split(200):
                classifier.features(to_uint8(x).to(case["device"])).cpu()

    return run


def _mnist(case: dict):
    """Our MNIST nets on as many images as MNIST has."""
    config = systems.configure(case.get("system", "joint-ebm"), "mnist", (1, 28, 28))
    images = torch.randint(256, (60_000, *config.image), dtype=torch.uint8)
    return systems.build(config).to(case["device"]), images


def mnist_ours(case: dict) -> Callable[[], object]:
    system, images = _mnist(case)
    return Trainer(system.train(), images, precision=case["precision"]).advance


def mnist_published(case: dict) -> Callable[[], object]:
    system, images = _mnist(case)
    return published.Training(system, images.to(case["device"])).step


CHAINS = {
    "ours": chain_ours,
    "published": chain_published,
    "torchebm": chain_torchebm,
    "ebmkit": chain_ebmkit,
    "floor": chain_floor,
}
STEPS = {"ours": step_ours, "published": step_published}
COMPETITORS: dict[str, dict[str, Callable]] = {
    "matrix-product": {"floor": product},
    "prior-chain": CHAINS,
    "training-step": {**STEPS, "floor": step_floor},  # chains by autograd cannot be counted
    "lebm-step": STEPS,
    "fid-images": {"ours": images_ours, "published": images_published},
    "chain-forms": {"kernel": chain_ours, "library": chain_library},
    "system-step": {"ours": mnist_ours},
    "mnist-training": {"ours": mnist_ours, "published": mnist_published},
}
