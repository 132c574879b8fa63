"""The table of the field: a system is prior x generator x inference x objective.

A new paper adds a line to ``SYSTEMS`` and perhaps a part, never a subclass of ``System``.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import checkpoints, paths
from .configs import LANGEVIN, NETS, PRESETS, Config
from .errors import UsageError
from .generators import LadderGenerator
from .inference import LadderEncoder, LangevinPosterior
from .nets import Shape
from .objectives import OBJECTIVES, Outcome
from .priors import EBMPrior, StandardNormal


class Row(NamedTuple):
    """One line of the table: the name of a part on each of the four axes."""

    prior: str  # "normal": N(0, I); "ebm": exp f(z) N(0, I) / Z
    generator: str  # "one-layer" or "ladder"
    inference: str  # "amortised" or "langevin"
    objective: str  # a name of OBJECTIVES


SYSTEMS: dict[str, Row] = {
    "vae": Row("normal", "one-layer", "amortised", "variational"),
    "vlae": Row("normal", "ladder", "amortised", "variational"),
    "lebm": Row("ebm", "one-layer", "langevin", "maximum-likelihood"),
    "joint-ebm": Row("ebm", "ladder", "amortised", "variational"),
}


def row(system: str) -> Row:
    """The line of ``system``; UsageError for an unknown name."""
    if system not in SYSTEMS:
        raise UsageError(f"unknown system {system!r}: choose one of {', '.join(SYSTEMS)}.")
    return SYSTEMS[system]


def configure(system: str, data: str, image: Shape, **overrides) -> Config:
    """The configuration of ``system`` on images of shape (C, H, W), with the nets of ``NETS``.

    A one-layer row gets the same layers as the ladder, joined end to end, and all its dimensions
    at the top. Raises UsageError for an unknown system, an image without nets, a bad override.
    """
    kind = row(system)
    if image[-1] not in NETS or image[-1] != image[-2]:
        sides = " or ".join(f"{s}x{s}" for s in NETS)
        raise UsageError(
            f"there are nets for images of {sides}, but {data!r} has {image[-2]}x{image[-1]}: "
            "resize the images, or give levels, trunk and ladders of your own."
        )
    own = LANGEVIN if kind.inference == "langevin" else {}
    settings = {**NETS[image[-1]], **own, **overrides}
    config = Config.from_json({"system": system, "data": data, "image": image, **settings})
    return single_layer(config) if kind.generator == "one-layer" else config


def preset(name: str, **overrides) -> Config:
    """The published settings called ``name`` in ``PRESETS``, with ``overrides``."""
    if name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}.")
    system, data, settings = PRESETS[name]
    return Config.from_json({"system": system, "data": data, **settings, **overrides})


def single_layer(config: Config) -> Config:
    """The same layers with every latent dimension at the top: dims (d_1 + .. + d_L,)."""
    return replace(
        config,
        dims=(sum(config.dims),),
        levels=(", ".join(reversed(config.levels)),),
        trunk=(),
        ladders=(", ".join([*config.trunk, *config.ladders[-1:]]),),
    )


class System(nn.Module):
    """A prior, a generator, an inference model and an objective, put together by a ``Config``.

    Shapes: images (B, C, H, W) in [-1, 1]; codes (B, D), layers bottom-up.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config, kind = config, row(config.system)
        c = config
        channels = c.image[0]
        levels = tuple(s.replace("C", str(channels)) for s in c.levels)
        shared = {"norm": c.norm, "bias": c.bias}
        self.prior = (
            EBMPrior(
                c.dims,
                c.prior_hidden,
                act=c.prior_act,
                spectral_norm=c.spectral_norm,
                steps=c.prior_steps,
                step_size=c.prior_step_size,
            )
            if kind.prior == "ebm"
            else StandardNormal(c.dims)
        )
        self.generator = LadderGenerator(
            c.dims, c.image, levels, join=c.join, sigma=c.sigma, act=c.act, **shared
        )
        self.inference = (
            LadderEncoder(c.dims, c.image, c.trunk, c.ladders, act=c.encoder_act, **shared)
            if kind.inference == "amortised"
            else LangevinPosterior(c.posterior_steps, c.posterior_step_size)
        )
        self.objective = kind.objective

    def loss(self, x: Tensor, *, prior_weight: float, rng: torch.Generator | None) -> Outcome:
        """The objective of this row on images x, for generator and inference."""
        step = OBJECTIVES[self.objective]
        return step(self, x, prior_weight=prior_weight, kl=self.config.kl, rng=rng)

    def encode(self, x: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """Codes of images: the mean of q(z | x), or one Langevin sample of p(z | x)."""
        if self.inference.amortised:
            with torch.no_grad():
                return self.inference.posterior(x).mean
        return self.inference.sample(x, self.prior, self.generator, rng=rng)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """The mean image h_1(z) of codes z. Shapes: (B, D) -> (B, C, H, W)."""
        return self.generator.mean(z).float()

    def sample(
        self, n: int, *, steps: int | None = None, rng: torch.Generator | None = None
    ) -> Tensor:
        """``n`` images decoded from prior samples; ``steps=0`` leaves the EBM out."""
        return self.decode(self.prior.sample(n, steps=steps, rng=rng))

    def parameter_counts(self) -> dict[str, int]:
        """Numbers of parameters: {"prior": .., "generator": .., "inference": ..}."""
        return {
            name: sum(p.numel() for p in getattr(self, name).parameters())
            for name in ("prior", "generator", "inference")
        }


def build(config: Config, *, seed: int = 0) -> System:
    """A freshly initialised system: Xavier-normal weights on maps, PyTorch's default elsewhere.

    The same ``seed`` gives the same weights, whatever the state of the global generator.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        system = System(config)
        for m in system.modules():
            if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_normal_(m.weight)
    return system


def save(system: System, stem: str | Path, **meta) -> None:
    """Store a system for use: weights in half precision, its configuration and ``meta``."""
    tensors = checkpoints.halved(system.state_dict())
    checkpoints.save(stem, tensors, {"config": system.config.to_json(), **meta})


def shipped_names() -> list[str]:
    """Names of the trained systems that come with the project."""
    found = sorted(paths.shipped("checkpoints").glob("*.json"))
    return [p.stem for p in found if not p.stem.startswith(("classifier-", "codes-"))]


def shipped(name: str) -> System:
    """The trained system called ``name``, e.g. ``joint-ebm-mnist-s0``."""
    return load(paths.shipped("checkpoints", name))


def load(stem: str | Path) -> System:
    """The system saved at ``stem``, in float32 and evaluation mode.

    Raises UsageError if it is missing, damaged, or does not fit its own configuration.
    """
    tensors, meta = checkpoints.load(stem)
    system = System(Config.from_json(meta.get("config", {})))
    try:
        system.load_state_dict(tensors)  # copies into float32 parameters
    except RuntimeError:
        raise UsageError(f"the weights of {stem} do not fit its own configuration.") from None
    return system.eval()
