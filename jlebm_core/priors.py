r"""Priors p(z) over the joined latents z = [z_1, .., z_L], each a tilt of the standard normal.

p(z) = exp(f(z)) p_0(z) / Z  with  p_0 = N(0, I).  f is the **negative** energy: larger f, more
likely. Shapes: z is (B, D), layers bottom-up; f and every log-density are (B,).
"""

from collections.abc import Callable
from math import log, pi

import torch
from torch import Tensor, nn

from .langevin import CLOSED_FORM, langevin, langevin_mlp
from .nets import NegativeEnergy


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I), normalised. Shapes: (B, D) -> (B,)."""
    return -0.5 * (z.square() + log(2 * pi)).sum(1)


class StandardNormal(nn.Module):
    """p(z) = N(0, I): the prior of VAE and VLAE, and the f = 0 case of every prior here."""

    learned = False

    def __init__(self, dims: tuple[int, ...]):
        super().__init__()
        self.dims, self.dim = tuple(dims), sum(dims)
        self.register_buffer("_here", torch.empty(0), persistent=False)  # knows the device

    def f(self, z: Tensor) -> Tensor:
        """The tilt f(z) = 0. Shapes: (B, D) -> (B,)."""
        return z.new_zeros(len(z))

    def log_prob(self, z: Tensor) -> Tensor:
        """f(z) + log p_0(z), i.e. log p(z) up to the constant -log Z. Shapes: (B, D) -> (B,)."""
        return self.f(z) + standard_normal_log_prob(z)

    def base_sample(self, n: int, *, rng: torch.Generator | None = None) -> Tensor:
        """``n`` draws from p_0 = N(0, I), where every prior chain starts. Shape: (n, D)."""
        return torch.randn(n, self.dim, generator=rng, device=self._here.device)

    def sample(
        self,
        n: int,
        *,
        steps: int | None = None,
        rng: torch.Generator | None = None,
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """``n`` draws from p(z), exact here; ``steps`` and ``callback`` belong to chains."""
        return self.base_sample(n, rng=rng)


class EBMPrior(StandardNormal):
    r"""p(z) = exp(f(z)) N(z; 0, I) / Z: the latent space EBM prior (NeurIPS 2020, eq. 3) for one
    layer, the joint EBM prior (ICCV 2023, eq. 6) for several, since f sees all layers at once.

    Samples come from ``steps`` (K) of Langevin dynamics of size ``step_size`` (s) from N(0, I).
    """

    learned = True

    def __init__(
        self,
        dims: tuple[int, ...],
        hidden: tuple[int, ...] = (100, 100),
        *,
        act: str = "lrelu",
        spectral_norm: float | None = None,
        steps: int = 60,
        step_size: float = 0.4,
    ):
        super().__init__(dims)
        self.steps, self.step_size = steps, step_size
        self.net = NegativeEnergy(self.dim, hidden, act=act, spectral_norm=spectral_norm)

    def f(self, z: Tensor) -> Tensor:
        """The negative energy. Shapes: (B, D) -> (B,)."""
        return self.net(z)

    def sample(
        self,
        n: int,
        *,
        steps: int | None = None,
        rng: torch.Generator | None = None,
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """``n`` chains of ``steps`` (K by default) Langevin steps from N(0, I). Shape: (n, D).

        ``steps=0`` gives N(0, I) itself: the same model without its EBM. The callback sees
        ``(k, z, f(z) + log p_0(z))`` at every step; without one, and for the activations whose
        derivative is at hand, the gradient is written out (``langevin_mlp``): the same chains.
        """
        start = self.base_sample(n, rng=rng)
        steps = self.steps if steps is None else steps
        if callback is None and self.net.act in CLOSED_FORM and len(self.net.net):
            return langevin_mlp(
                self.net.layers(),
                self.net.act,
                start,
                steps=steps,
                step_size=self.step_size,
                rng=rng,
            )
        return langevin(
            self.log_prob,
            start,
            steps=steps,
            step_size=self.step_size,
            rng=rng,
            callback=callback,
        )
