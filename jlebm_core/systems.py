"""The table of the field: a system is prior x generator x inference x objective.

A new paper adds a line to ``rows.SYSTEMS`` and perhaps a part, never a subclass of ``System``.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from . import checkpoints, paths
from .chains import GaussianChain, TiltedChain
from .configs import Config
from .errors import UsageError
from .fitted import MixturePrior, SecondVAE
from .generators import BottomGenerator, GatedGenerator, LadderGenerator, NoiseGenerator
from .inference import (
    BidirectionalEncoder,
    DeterministicEncoder,
    LadderEncoder,
    LangevinPosterior,
    MergedEncoder,
)
from .nets import channels_last, check_batch
from .objectives import OBJECTIVES, Outcome
from .priors import EBMPrior, RatioPrior, StandardNormal
from .rows import SYSTEMS as SYSTEMS  # the table itself; it needs no PyTorch
from .rows import Row as Row
from .rows import configure as configure
from .rows import preset as preset
from .rows import row as row


def _f(c: Config) -> dict:
    return {"act": c.prior_act, "spectral_norm": c.spectral_norm}


def _chains(c: Config) -> dict:
    return {"steps": c.prior_steps, "step_size": c.prior_step_size}


def _chain(c: Config, **options) -> GaussianChain:
    return GaussianChain(c.dims, c.chain_hidden, act=c.prior_act, floor=c.chain_floor, **options)


PRIORS: dict[str, Callable[[Config], nn.Module]] = {
    "normal": lambda c: StandardNormal(c.dims),
    "ebm": lambda c: EBMPrior(c.dims, c.prior_hidden, **_f(c), **_chains(c)),
    "ratios": lambda c: RatioPrior(c.dims, c.ratios, c.prior_hidden, **_f(c), **_chains(c)),
    "chain": _chain,
    "skip chain": lambda c: _chain(c, skips=True),
    "ebm chain": lambda c: TiltedChain(
        c.dims, c.chain_hidden, c.prior_hidden, floor=c.chain_floor, **_f(c), **_chains(c)
    ),
    "second vae": lambda c: SecondVAE(c.dims, c.prior_hidden, act=c.prior_act),
    "mixture": lambda c: MixturePrior(c.dims, c.components),
}


def _generator(kind: type[LadderGenerator], c: Config, **options) -> LadderGenerator:
    if c.enter and kind is not GatedGenerator:
        raise UsageError(f"{c.system} has no ladder whose layers could enter in turn: drop enter.")
    levels = tuple(s.replace("C", str(c.image[0])) for s in c.levels)
    options |= {"join": c.join, "sigma": c.sigma, "learn_sigma": c.learn_sigma}
    return kind(c.dims, c.image, levels, act=c.act, norm=c.norm, bias=c.bias, **options)


GENERATORS: dict[str, Callable[[Config], nn.Module]] = {
    "one-layer": lambda c: _generator(LadderGenerator, c),
    "ladder": lambda c: (
        _generator(GatedGenerator, c, enter=c.enter) if c.enter else _generator(LadderGenerator, c)
    ),
    "bottom": lambda c: _generator(BottomGenerator, c),
    "noise chain": lambda c: _generator(NoiseGenerator, c, chain=_chain(c)),
}


def _encoder(kind: type[nn.Module], c: Config, **options) -> nn.Module:
    options |= {"stem": c.stem, "act": c.encoder_act, "norm": c.norm, "bias": c.bias}
    return kind(c.dims, c.image, c.trunk, c.ladders, **options)


def _langevin(c: Config, **options) -> LangevinPosterior:
    return LangevinPosterior(c.posterior_steps, c.posterior_step_size, **options)


INFERENCES: dict[str, Callable[[Config], nn.Module]] = {
    "amortised": lambda c: _encoder(LadderEncoder, c),
    "deterministic": lambda c: _encoder(DeterministicEncoder, c),
    "merged": lambda c: _encoder(MergedEncoder, c),
    "bidirectional": lambda c: _encoder(BidirectionalEncoder, c, context=c.chain_hidden[-1]),
    "langevin": _langevin,
    "warm langevin": lambda c: _langevin(c, warm=True),
}


class System(nn.Module):
    """A prior, a generator, an inference model and an objective, put together by a ``Config``.

    Shapes: images (B, C, H, W) in [-1, 1]; codes (B, D), layers bottom-up.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config, kind = config, row(config.system)
        self.prior = PRIORS[kind.prior](config)
        self.generator = GENERATORS[kind.generator](config)
        self.inference = INFERENCES[kind.inference](config)
        self.objective = OBJECTIVES[kind.objective]

    def loss(
        self,
        x: Tensor,
        *,
        prior_weight: float,
        rng: torch.Generator | int | None,
        rows: Tensor | None = None,
    ) -> Outcome:
        """The objective of this row on images x, for generator and inference; ``rows`` (B,) says
        which training images they are, for an inference that remembers them."""
        check_batch(self, len(x), training=self.training)
        return self.objective.nets(self, x, prior_weight=prior_weight, rng=rng, rows=rows)

    def encode(
        self, x: Tensor, *, noise: bool = False, rng: torch.Generator | int | None = None
    ) -> Tensor:
        """Codes of images, (B, D): the mean of q(z | x), or with ``noise`` a draw; always one
        sample where q is a Langevin chain, always z(x) where the encoder is deterministic."""
        check_batch(self, len(x), training=self.training)
        with torch.no_grad():
            return self.inference.draw(x, self.prior, self.generator, noise=noise, rng=rng)[0]

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """The mean image h_1(z) of codes z. Shapes: (B, D) -> (B, C, H, W)."""
        check_batch(self, len(z), training=self.training)
        return self.generator.mean(z).float()

    def sample(
        self, n: int, *, steps: int | None = None, rng: torch.Generator | int | None = None
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

    The same ``seed`` gives the same weights, whatever the state of the global generator. They lie
    channels last, as those of ``load`` do.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        system = System(config)
        for m in system.modules():
            if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_normal_(m.weight)
    return channels_last(system)


def save(system: System, stem: str | Path, **meta) -> None:
    """Store a system for use: weights in half precision, its configuration and ``meta``."""
    tensors = checkpoints.halved(system.state_dict())
    checkpoints.save(stem, tensors, {"config": system.config.to_json(), **meta})


def shipped_names() -> list[str]:
    """Names of the trained systems that come with the project."""
    found = sorted(paths.shipped("checkpoints").glob("*.json"))
    return [p.stem for p in found if not p.stem.startswith(("classifier-", "codes-", "features-"))]


def shipped(name: str) -> System:
    """The trained system called ``name``, e.g. ``joint-ebm-mnist-s0``.

    Raises UsageError if no such system comes with the project.
    """
    if name not in (names := shipped_names()):
        raise UsageError(f"no system {name!r} comes along: choose one of {', '.join(names)}.")
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
    return channels_last(system).eval()
