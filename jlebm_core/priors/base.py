r"""What every prior is, and the simplest ones: p(z) = exp(f(z)) p_0(z) / Z with a base p_0.

An exact prior gives draws (``draw``). A tilted one gives f and where its chains start, and is
sampled by Langevin dynamics. ``sample`` is written once, here.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..gaussians import DiagonalGaussian, standard_normal, standard_normal_log_prob
from ..langevin import langevin, langevin_block
from ..objectives import PriorObjective
from ..randomness import source
from ..settings import check

Callback = Callable[[int, Tensor, Tensor], None]


class Prior(nn.Module, ABC):
    """p(z) over codes of L layers, ``dims`` = (d_1, .., d_L) bottom-up, D = ``dim`` in all.

    A subclass gives its base p_0 (``base``, ``base_log_prob``, ``base_sample``). An exact prior
    other than p_0 also gives ``draw`` and ``log_prob``; a tilted one sets ``tilted`` and gives
    ``f``, ``steps`` (K) and ``step_size`` (s).
    """

    tilted: bool = False  # are samples Langevin chains on f(z) + log p_0(z)?
    density: bool = True  # do samples follow ``log_prob``, in the limit of long chains?
    steps: int = 0
    step_size: float = 0.0
    # how the prior learns; None: by the loss of the nets, as far as it has parameters
    learns_by: ClassVar[PriorObjective | None] = None
    here: Tensor

    def __init__(self, dims: tuple[int, ...]):
        super().__init__()
        check({"dims": tuple(dims)})
        self.dims, self.dim = tuple(dims), sum(dims)
        self.register_buffer("here", torch.empty(0), persistent=False)  # knows the device

    @abstractmethod
    def base(self, z: Tensor) -> DiagonalGaussian:
        """p_0 as conditionals p_0(z_i | z_{>i}) at z. Shape: (B, D)."""

    @abstractmethod
    def base_log_prob(self, z: Tensor) -> Tensor:
        """log p_0(z), normalised. Shapes: (B, D) -> (B,)."""

    @abstractmethod
    def base_sample(self, n: int, *, rng: torch.Generator | int | None = None) -> Tensor:
        """``n`` draws from p_0. Shape: (n, D)."""

    def base_parameters(self) -> list[nn.Parameter]:
        """The parameters of p_0, as far as it has any."""
        return []

    def f(self, z: Tensor) -> Tensor:
        """The tilt f(z), the negative energy; 0 unless a subclass has one. (B, D) -> (B,)."""
        return z.new_zeros(len(z))

    def log_prob(self, z: Tensor) -> Tensor:
        """f(z) + log p_0(z), i.e. log p(z) up to the constant -log Z. Shapes: (B, D) -> (B,)."""
        return self.f(z) + self.base_log_prob(z)

    def draw(self, n: int, *, rng: torch.Generator | int | None = None) -> Tensor:
        """``n`` exact draws from a prior that is not tilted. Shape: (n, D)."""
        return self.base_sample(n, rng=rng)

    def start(self, n: int, *, rng: torch.Generator | int | None = None) -> Tensor:
        """``n`` draws from N(0, I), where every chain starts, whatever p_0 is. Shape: (n, D)."""
        if n < 0:
            raise UsageError(f"{n} draws were asked for: ask for 0 or more.")
        here, rng = self.here, source(rng, self.here.device)
        return torch.randn(n, self.dim, generator=rng, device=here.device, dtype=here.dtype)

    def chain(
        self,
        z: Tensor,
        *,
        steps: int,
        rng: torch.Generator | int | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """The ends of ``steps`` of Langevin dynamics of size s on ``log_prob`` from z; (B, D)."""
        options = {"steps": steps, "step_size": self.step_size}
        return langevin(self.log_prob, z, **options, rng=rng, callback=callback)

    def sample(
        self,
        n: int,
        *,
        steps: int | None = None,
        rng: torch.Generator | int | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """``n`` samples: exact draws, or of a tilted prior the ends of chains. Shape: (n, D).

        Chains take ``steps`` (K by default) from N(0, I); ``steps=0`` gives draws of the base p_0,
        the same model without its EBM. The callback sees ``(k, z, f(z) + log p_0(z))`` at every
        step of the chains.
        """
        rng = source(rng, self.here.device)
        if not self.tilted:
            return self.draw(n, rng=rng)
        steps = self.steps if steps is None else steps
        check({"prior_steps": steps})
        start = self.start(n, rng=rng) if steps else self.base_sample(n, rng=rng)
        return self.chain(start, steps=steps, rng=rng, callback=callback)


class NormalBase(Prior):
    """A prior whose base p_0 is N(0, I)."""

    def base(self, z: Tensor) -> DiagonalGaussian:
        """N(0, I) at any z. Shape: (B, D)."""
        return standard_normal(len(z), self.dim, z)

    def base_log_prob(self, z: Tensor) -> Tensor:
        """log N(z; 0, I). Shapes: (B, D) -> (B,)."""
        return standard_normal_log_prob(z)

    def base_sample(self, n: int, *, rng: torch.Generator | int | None = None) -> Tensor:
        """``n`` draws from N(0, I). Shape: (n, D)."""
        return self.start(n, rng=rng)


class StandardNormal(NormalBase):
    """p(z) = N(0, I): the prior of VAE and VLAE, and the f = 0 case of every tilt of it."""


def check_density(prior: Prior) -> None:
    """Raise UsageError unless ``prior`` has a ``log_prob`` that is the law of its samples."""
    if not prior.density:
        raise no_density(prior)


def no_density(prior: Prior) -> UsageError:
    """What to raise where ``prior`` has no density and one is needed."""
    return UsageError(
        f"{type(prior).__name__} has no density in closed form, and what is asked for needs one: "
        "choose a system with another prior."
    )


def sample_layer(
    prior: Prior,
    z: Tensor,
    layer: int,
    *,
    steps: int | None = None,
    rng: torch.Generator | int | None = None,
) -> Tensor:
    """z with one layer (from 1) drawn anew from p(z_i | z_1, .., z_{i-1}, z_{i+1}, .., z_L).

    By ``steps`` (K by default) of Langevin dynamics on that layer from N(0, I), the others held: a
    prior whose samples are chains. Shapes: (B, D) -> (B, D). Raises UsageError for another prior
    or a layer that it does not have.
    """
    if not prior.tilted:
        raise UsageError("a layer given the others is drawn by the chains of a learned prior.")
    if not 1 <= layer <= len(prior.dims):
        raise UsageError(f"there is no layer {layer}: the prior has 1 to {len(prior.dims)}.")
    first, rng = sum(prior.dims[: layer - 1]), source(rng, z.device)
    block = slice(first, first + prior.dims[layer - 1])
    return langevin_block(
        prior.log_prob,
        z,
        block,
        prior.start(len(z), rng=rng)[:, block],
        steps=prior.steps if steps is None else steps,
        step_size=prior.step_size,
        rng=rng,
    )
