r"""Priors that run down the layers: the Gaussian chain, and the chain with an EBM on every layer.

p(z) = p(z_L) prod_{i<L} p(z_i | z_{>i})  with  p(z_L) = N(0, I)  and normal conditionals.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..gaussians import DiagonalGaussian, joined, standard_normal
from ..nets import NegativeEnergy, mlp
from ..objectives import Contrast, PriorObjective
from ..randomness import source
from .base import Prior

MAX_LOG_SIGMA = 3.0  # a wider conditional than e^3 says nothing about its layer

# choose(i, p_i, h): z_i, given its conditional and the context h above (None at the top)
Choice = Callable[[int, DiagonalGaussian, Tensor | None], Tensor]


class GaussianChain(Prior):
    r"""p(z_i | h_{i+1}) = N(mu_i, sigma_i^2), (mu_i, s_i) = MLP(h_{i+1}), sigma_i = floor + e^s_i.

    The context h_i is z_i itself, so that each layer sees the one above alone (LVAE, SRI, the
    layer-wise EBM prior), or with ``skips`` a deterministic path h_i = act(A_i [z_i, h_{i+1}])
    that lets it see every layer above (BIVA). ``floor`` keeps Langevin chains of step s stable:
    they need s < 2 sigma.
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        hidden: tuple[int, ...] = (200, 200),
        *,
        act: str = "lrelu",
        floor: float = 0.01,
        skips: bool = False,
    ):
        super().__init__(dims)
        self.floor, self.skips = floor, skips
        last = len(dims) - 1
        context = [hidden[-1] if skips else d for d in dims]
        self.conditionals = nn.ModuleList(
            mlp(context[i + 1], hidden, 2 * dims[i], act) for i in range(last)
        )
        self.path = nn.ModuleList(
            mlp(dims[i] + (context[i + 1] if i < last else 0), (), context[i], act, end=act)
            for i in range(1, last + 1)
            if skips
        )

    def context(self, i: int, z_i: Tensor, h: Tensor | None) -> Tensor:
        """h_i from z_i and h_{i+1}; i counts from 0. Shapes: (B, d_i), (B, w) -> (B, w')."""
        if not self.skips:
            return z_i
        return self.path[i - 1](z_i if h is None else torch.cat([z_i, h], 1))

    def top_down(self, n: int, choose: Choice) -> tuple[Tensor, DiagonalGaussian]:
        """One pass from the top; ``choose(i, p_i, h_{i+1})`` gives each z_i (i from 0, None above).

        The pass that sampling, densities and inference share. Returns z (n, D) and the
        conditionals p_i at it, joined into one distribution over all layers.
        """
        zs, ps, h = [], [], None
        with torch.autocast(self.here.device.type, enabled=False):  # its gradient steers chains
            for i in reversed(range(len(self.dims))):
                if h is None:
                    p = standard_normal(n, self.dims[i], self.here)
                else:
                    mean, s = self.conditionals[i](h).chunk(2, 1)
                    sigma = self.floor + s.clamp(max=MAX_LOG_SIGMA).exp()
                    p = DiagonalGaussian(mean, 2 * sigma.log())
                zs.append(choose(i, p, h))
                ps.append(p)
                h = self.context(i, zs[-1], h) if i else None
        return torch.cat(zs[::-1], 1), joined(ps[::-1])

    def base(self, z: Tensor) -> DiagonalGaussian:
        """The conditionals p(z_i | z_{>i}) at z, over all coordinates. Shape: (B, D)."""
        layers = z.split(self.dims, 1)
        return self.top_down(len(z), lambda i, p, h: layers[i])[1]

    def base_log_prob(self, z: Tensor) -> Tensor:
        """sum_i log p(z_i | z_{>i}), normalised. Shapes: (B, D) -> (B,)."""
        return self.base(z).log_prob(z)

    def base_parameters(self) -> list[nn.Parameter]:
        """beta_{>0}: the parameters of the conditionals and of the skip path."""
        return [*self.conditionals.parameters(), *self.path.parameters()]

    def base_sample(self, n: int, *, rng: torch.Generator | int | None = None) -> Tensor:
        """``n`` ancestral draws, from the top down. Shape: (n, D)."""
        rng = source(rng, self.here.device)
        with torch.no_grad():
            return self.top_down(n, lambda i, p, h: p.rsample(rng=rng))[0]

    def from_noise(self, eps: Tensor) -> Tensor:
        r"""z_i = mu_i + sigma_i eps_i, from the top down (ECCV 2020): eps ~ N(0, I) gives z ~ p.

        log p(z) = log N(eps; 0, I) - sum log sigma. Shapes: (B, D) -> (B, D).
        """
        layers = eps.split(self.dims, 1)
        return self.top_down(len(eps), lambda i, p, h: p.mean + p.std * layers[i])[0]

    def to_noise(self, z: Tensor) -> Tensor:
        """The inverse of ``from_noise``. Shapes: (B, D) -> (B, D)."""
        p = self.base(z)
        return (z - p.mean) / p.std


class TiltedChain(GaussianChain):
    r"""p(z) = exp(sum_i f_i(z_i)) p_chain(z) / Z: one EBM a layer on a Gaussian chain (CVPR 2023).

    ``hidden`` are the widths of each f_i, the same for all layers or one tuple a layer. Samples
    are ``steps`` (K) of Langevin dynamics of size ``step_size`` (s) on the whole log-density,
    started from N(0, I) in all layers.
    """

    tilted = True
    learns_by: ClassVar[PriorObjective | None] = Contrast(base=True)

    def __init__(
        self,
        dims: tuple[int, ...],
        chain_hidden: tuple[int, ...] = (200, 200),
        hidden: tuple = (100, 100),
        *,
        act: str = "lrelu",
        floor: float = 0.01,
        spectral_norm: float | None = None,
        steps: int = 60,
        step_size: float = 0.4,
    ):
        super().__init__(dims, chain_hidden, act=act, floor=floor)
        self.steps, self.step_size = steps, step_size
        nested = hidden if hidden and isinstance(hidden[0], tuple) else (hidden,) * len(dims)
        if len(nested) != len(dims):
            raise UsageError(
                f"prior_hidden {hidden} does not fit dims {tuple(dims)}: give one tuple of widths "
                "for each layer, or one for all."
            )
        self.nets = nn.ModuleList(
            NegativeEnergy(d, widths, act=act, spectral_norm=spectral_norm)
            for d, widths in zip(dims, nested, strict=True)
        )

    def f(self, z: Tensor) -> Tensor:
        """sum_i f_i(z_i). Shapes: (B, D) -> (B,)."""
        return sum(net(z_i) for net, z_i in zip(self.nets, z.split(self.dims, 1), strict=True))
