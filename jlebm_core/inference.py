r"""Inference q(z | x): one pass of a network (amortised), or Langevin dynamics on p(z | x)."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log, pi, prod

import torch
from torch import Tensor, nn

from .errors import UsageError
from .langevin import langevin
from .nets import Shape, stack


@dataclass(frozen=True)
class DiagonalGaussian:
    """N(mean, diag exp(log_var)). Shapes: mean and log_var (B, D); densities (B,)."""

    mean: Tensor
    log_var: Tensor

    def rsample(self, *, rng: torch.Generator | None = None) -> Tensor:
        """mean + std * eps: a draw through which gradients flow. Shape: (B, D)."""
        eps = torch.randn(self.mean.shape, generator=rng, device=self.mean.device)
        return self.mean + (0.5 * self.log_var).exp() * eps

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z). Shapes: (B, D) -> (B,)."""
        scaled = (z - self.mean).square() * (-self.log_var).exp()
        return -0.5 * (scaled + self.log_var + log(2 * pi)).sum(1)

    def kl_standard_normal(self) -> Tensor:
        r"""KL(q || N(0, I)) = 1/2 sum(mu^2 + sigma^2 - 1 - log sigma^2), exact. Shape: (B,)."""
        return 0.5 * (self.mean.square() + self.log_var.exp() - 1 - self.log_var).sum(1)


class LadderEncoder(nn.Module):
    """q(z | x) = prod_i N(z_i; mu_i, diag V_i): a trunk that is read at every level.

    t_0 = x, t_i = trunk_i(t_{i-1}); layer i is read off t_{i-1} by its own stack ``ladders[i]``
    and two linear maps (mean and log-variance). ICCV 2023, section 3.3; L = 1 is a plain encoder.
    Raises UsageError where dims, trunk and ladders do not fit together.
    """

    amortised = True

    def __init__(
        self,
        dims: tuple[int, ...],
        image: Shape,
        trunk: tuple[str, ...],
        ladders: tuple[str, ...],
        *,
        act: str = "lrelu",
        norm: bool = False,
        bias: bool = True,
    ):
        super().__init__()
        if not len(dims) == len(ladders) == len(trunk) + 1:
            raise UsageError(
                f"dims {tuple(dims)} do not fit an encoder with {len(ladders)} ladders on "
                f"{len(trunk)} trunk blocks: L layers need L ladders and L - 1 trunk blocks."
            )
        options = {"act": act, "norm": norm, "bias": bias}
        trunks, reads, heads, shape = [], [], [], tuple(image)
        for d, block, ladder in zip(dims, (*trunk, ""), ladders, strict=True):
            read, out = stack(ladder, shape, **options)
            reads.append(nn.Sequential(read, nn.Flatten()))
            heads.append(nn.ModuleList([nn.Linear(prod(out), d), nn.Linear(prod(out), d)]))
            below, shape = stack(block, shape, **options)
            trunks.append(below)
        self.trunk = nn.ModuleList(trunks[:-1])
        self.ladders, self.heads = nn.ModuleList(reads), nn.ModuleList(heads)

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """q(z | x) for images x. Shapes: (B, C, H, W) -> mean and log_var (B, D)."""
        means, log_vars, t = [], [], x
        for i, (ladder, (mean, log_var)) in enumerate(zip(self.ladders, self.heads, strict=True)):
            if i:
                t = self.trunk[i - 1](t)
            r = ladder(t)
            means.append(mean(r))
            log_vars.append(log_var(r))
        return DiagonalGaussian(torch.cat(means, 1).float(), torch.cat(log_vars, 1).float())


class LangevinPosterior(nn.Module):
    r"""q(z | x): ``steps`` of Langevin dynamics of size ``step_size`` on log p(x | z) + log p(z),
    started from N(0, I) (NeurIPS 2020, eq. 10). It has no parameters."""

    amortised = False

    def __init__(self, steps: int = 20, step_size: float = 0.1):
        super().__init__()
        self.steps, self.step_size = steps, step_size

    def sample(
        self,
        x: Tensor,
        prior: nn.Module,
        generator: nn.Module,
        *,
        rng: torch.Generator | None = None,
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """One posterior sample for each image. Shapes: (B, C, H, W) -> (B, D)."""
        return langevin(
            lambda z: generator.log_lik(x, z) + prior.log_prob(z),
            prior.base_sample(len(x), rng=rng),
            steps=self.steps,
            step_size=self.step_size,
            rng=rng,
            callback=callback,
        )
