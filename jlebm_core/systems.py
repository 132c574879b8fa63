"""The table of the field: a system is prior x generator x inference x objective.

A new paper adds a line to ``rows.SYSTEMS`` and perhaps a part, never a subclass of ``System``.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import checkpoints, paths
from .configs import Config
from .errors import UsageError
from .generators import (
    BottomGenerator,
    GatedGenerator,
    Generator,
    LadderGenerator,
    NoiseGenerator,
)
from .inference import (
    BidirectionalEncoder,
    DeterministicEncoder,
    Inference,
    LadderEncoder,
    LangevinPosterior,
    MergedEncoder,
)
from .nets import Shape, channels_last, check_batch, frozen
from .objectives import (
    CodesELBO,
    Contrast,
    FitToCodes,
    MaximumLikelihood,
    NoiseContrast,
    Objective,
    Outcome,
    PriorObjective,
    Regularised,
    Variational,
)
from .priors import (
    EBMPrior,
    GaussianChain,
    MixturePrior,
    Prior,
    RatioPrior,
    SecondVAE,
    StandardNormal,
    TiltedChain,
)
from .randomness import source
from .rows import SYSTEMS as SYSTEMS  # the table itself; it needs no PyTorch
from .rows import Row as Row
from .rows import configure as configure
from .rows import preset as preset
from .rows import row as row
from .surroundings import codes, floats, plain
from .training.stages import Training, stages

PARTS = ("prior", "generator", "inference")


def _f(c: Config) -> dict:
    return {"act": c.prior_act, "spectral_norm": c.spectral_norm}


def _chains(c: Config) -> dict:
    return {"steps": c.prior_steps, "step_size": c.prior_step_size}


def _chain(c: Config, **options) -> GaussianChain:
    return GaussianChain(c.dims, c.chain_hidden, act=c.prior_act, floor=c.chain_floor, **options)


PRIORS: dict[str, Callable[[Config], Prior]] = {
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


GENERATORS: dict[str, Callable[[Config], Generator]] = {
    "one-layer": lambda c: _generator(LadderGenerator, c),
    "ladder": lambda c: (
        _generator(GatedGenerator, c, enter=c.enter) if c.enter else _generator(LadderGenerator, c)
    ),
    "bottom": lambda c: _generator(BottomGenerator, c),
    "noise chain": lambda c: _generator(NoiseGenerator, c, chain=_chain(c)),
}


def _encoder(kind: type[Inference], c: Config, **options) -> Inference:
    options |= {"stem": c.stem, "act": c.encoder_act, "norm": c.norm, "bias": c.bias}
    return kind(c.dims, c.image, c.trunk, c.ladders, **options)


def _langevin(c: Config, **options) -> LangevinPosterior:
    return LangevinPosterior(c.posterior_steps, c.posterior_step_size, **options)


INFERENCES: dict[str, Callable[[Config], Inference]] = {
    "amortised": lambda c: _encoder(LadderEncoder, c),
    "deterministic": lambda c: _encoder(DeterministicEncoder, c),
    "merged": lambda c: _encoder(MergedEncoder, c),
    "bidirectional": lambda c: _encoder(BidirectionalEncoder, c, context=c.chain_hidden[-1]),
    "langevin": _langevin,
    "warm langevin": lambda c: _langevin(c, warm=True),
}


class Learning(NamedTuple):
    """The fourth axis: the objective of the nets, that of the prior, and when the prior learns."""

    nets: Callable[[Config], Objective]
    prior: Callable[[Config], PriorObjective] | None = None
    afterwards: bool = False  # the prior learns in stages of its own alone


def _variational(c: Config) -> Objective:
    return Variational(c.kl, c.warmup, c.free_bits)


def _maximum_likelihood(c: Config) -> Objective:
    return MaximumLikelihood()


def _regularised(c: Config) -> Objective:
    return Regularised(c.code_penalty, c.decoder_penalty)


def _contrast(c: Config) -> PriorObjective:
    return Contrast(c.penalty)


def _whole_contrast(c: Config) -> PriorObjective:
    return Contrast(c.penalty, base=True)


def _nce(c: Config) -> PriorObjective:
    return NoiseContrast(c.penalty)


OBJECTIVES: dict[str, Learning] = {
    "variational": Learning(_variational),
    "variational + contrast": Learning(_variational, _contrast),
    "variational + whole contrast": Learning(_variational, _whole_contrast),
    "variational, then nce": Learning(_variational, _nce, afterwards=True),
    "variational, then variational": Learning(_variational, lambda c: CodesELBO(), afterwards=True),
    "maximum-likelihood": Learning(_maximum_likelihood),
    "maximum-likelihood + contrast": Learning(_maximum_likelihood, _contrast),
    "maximum-likelihood + whole contrast": Learning(_maximum_likelihood, _whole_contrast),
    "maximum-likelihood + nce": Learning(_maximum_likelihood, _nce),
    "regularised, then mixture": Learning(_regularised, lambda c: FitToCodes()),
}


class System(nn.Module):
    """A prior, a generator, an inference model and an objective, put together.

    Shapes: images (B, C, H, W) in [-1, 1]; codes (B, D), layers bottom-up. ``config`` is what
    ``build`` made the parts from; a system of parts of your own has none.
    Raises UsageError where the generator does not make images of the prior's codes.
    """

    def __init__(
        self,
        prior: Prior,
        generator: Generator,
        inference: Inference,
        objective: Objective,
        *,
        config: Config | None = None,
    ):
        super().__init__()
        self.prior, self.generator, self.inference = prior, generator, inference
        self.objective, self.config = objective, config
        self.image: Shape = tuple(config.image) if config else self._image_made()

    def _image_made(self) -> Shape:
        """(C, H, W) of the images that the generator makes of the prior's codes."""
        z, training = self.prior.here.new_zeros(1, self.prior.dim), self.generator.training
        try:
            with torch.no_grad():
                x = self.generator.eval().mean(z)
        except RuntimeError as error:
            raise UsageError(
                f"the generator does not take codes of {self.prior.dim} dimensions: {error}"
            ) from None
        finally:
            self.generator.train(training)
        if x.dim() != 4:
            raise UsageError(f"the generator makes {tuple(x.shape)} of one code, no image.")
        return tuple(x.shape[1:])

    @property
    def dims(self) -> tuple[int, ...]:
        """(d_1, .., d_L), the dimensions of the layers of codes."""
        return self.prior.dims

    @property
    def device(self) -> torch.device:
        """Where the parts are."""
        return self.prior.here.device

    def plan(self) -> Training:
        """How ``config`` says that the system is trained; UsageError without one."""
        if self.config is None:
            raise UsageError("parts of your own have no settings: say how to train them.")
        return training(self.config, self.prior)

    def description(self) -> dict:
        """What the system is, as JSON: its configuration, or its parts and their parameters.

        A system whose parts were exchanged after ``build`` is one of parts of your own.
        """
        if self.config is not None:
            with torch.device("meta"):
                built = assemble(self.config)
            if outline(built) == outline(self):
                return {"config": self.config.to_json()}
        return {"parts": outline(self)}

    def loss(
        self,
        x: Tensor,
        *,
        objective: Objective | None = None,
        weight: float | Tensor = 1.0,
        rng: torch.Generator | int | None = None,
        rows: Tensor | None = None,
    ) -> Outcome:
        """The objective on images x, for generator and inference. The prior's parameters get a
        gradient only where no objective of their own teaches them.

        ``weight`` is that of the prior's term; ``rows`` (B,) says which training images they are,
        for an inference that remembers them.
        """
        x = floats(x, self.inference, self.image, self.device)
        check_batch(self, len(x), training=self.training)
        parts, rng = (self.prior, self.generator, self.inference), source(rng, x.device)
        with frozen(self.prior) if self.prior.learns_by else nullcontext():
            return (objective or self.objective)(x, *parts, weight=weight, rng=rng, rows=rows)

    def encode(
        self, x: Tensor, *, noise: bool = False, rng: torch.Generator | int | None = None
    ) -> Tensor:
        """Codes of images, (B, D): the mean of q(z | x), or with ``noise`` a draw; always one
        sample where q is a Langevin chain, always z(x) where the encoder is deterministic."""
        x = floats(x, self.inference, self.image, self.device)
        check_batch(self, len(x), training=self.training)
        with torch.no_grad():
            return self.inference.draw(x, self.prior, self.generator, noise=noise, rng=rng)[0]

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """The mean image h_1(z) of codes z. Shapes: (B, D) -> (B, C, H, W)."""
        z = codes(z, self.generator, self.prior.dim, self.device)
        check_batch(self, len(z), training=self.training)
        return self.generator.mean(z).float()

    def sample(
        self, n: int, *, steps: int | None = None, rng: torch.Generator | int | None = None
    ) -> Tensor:
        """``n`` images decoded from prior samples; ``steps=0`` leaves the EBM out."""
        return self.decode(self.prior.sample(n, steps=steps, rng=rng))

    def parameter_counts(self) -> dict[str, int]:
        """Numbers of parameters: {"prior": .., "generator": .., "inference": ..}."""
        return {name: sum(p.numel() for p in getattr(self, name).parameters()) for name in PARTS}

    def save(self, stem: str | Path, *, half: bool = False, **meta) -> None:
        """Store weights, description and ``meta`` at ``stem``; ``half`` shrinks the matrices.

        ``load`` reads a system back that was built from a configuration, ``load_weights`` one of
        parts of your own.
        """
        tensors = self.state_dict()
        tensors = checkpoints.halved(tensors) if half else tensors
        checkpoints.save(stem, tensors, {**self.description(), **meta})


def outline(system: System) -> dict:
    """Class names of the parts and shapes of their tensors, as JSON."""
    kinds = {name: type(getattr(system, name)).__qualname__ for name in PARTS}
    return kinds | {"shapes": {k: list(v.shape) for k, v in system.state_dict().items()}}


def assemble(config: Config) -> System:
    """The system that ``config`` describes, its weights as PyTorch initialises them."""
    kind = row(config.system)
    return System(
        PRIORS[kind.prior](config),
        GENERATORS[kind.generator](config),
        INFERENCES[kind.inference](config),
        OBJECTIVES[kind.objective].nets(config),
        config=config,
    )


def training(config: Config, prior: Prior) -> Training:
    """The stages and numbers that ``config`` trains with: generator and inference for ``steps``,
    the prior with them unless it learns afterwards, then the prior alone for ``fit_steps``."""
    c, learning = config, OBJECTIVES[row(config.system).objective]
    plan = stages(
        learning.nets(c),
        learning.prior(c) if learning.prior else None,
        prior,
        steps=c.steps,
        prior_steps=c.fit_steps,
        afterwards=learning.afterwards,
    )
    numbers = ("batch", "lr", "lr_prior", "lr_chain", "betas", "weight_decay", "lr_decay", "ema")
    return Training(plan, **{k: getattr(c, k) for k in numbers})


def build(config: Config, *, seed: int = 0) -> System:
    """A freshly initialised system: Xavier-normal weights on maps, PyTorch's default elsewhere.

    The same ``seed`` gives the same weights, whatever the state of the global generator. They lie
    channels last, as those of ``load`` do.
    """
    with plain() as device, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        system = assemble(config)
        for m in system.modules():
            if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_normal_(m.weight)
        return channels_last(system.to(device))


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
    if "parts" in meta:
        raise UsageError(
            f"{stem} holds the weights of parts of your own: put the system together as it was "
            "and give it to load_weights(system, stem)."
        )
    with plain() as device:
        system = assemble(Config.from_json(meta.get("config", {})))
        _copy(system, tensors, stem, "its own configuration")
        return channels_last(system.to(device)).eval()


def load_weights(system: System, stem: str | Path) -> System:
    """Copy the weights saved at ``stem`` into a system of the same parts; returns it, in
    evaluation mode. Raises UsageError if they are missing, damaged, or do not fit the parts."""
    _copy(system, checkpoints.load(stem)[0], stem, "this system")
    return system.eval()


def _copy(system: System, tensors: dict[str, Tensor], stem: str | Path, what: str) -> None:
    try:
        system.load_state_dict(tensors)  # copies into float32 parameters
    except RuntimeError as error:
        reason = str(error).partition("\n")[2].strip() or str(error)
        raise UsageError(f"the weights of {stem} do not fit {what}: {reason}") from None
