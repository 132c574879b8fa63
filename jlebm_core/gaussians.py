"""Diagonal normal distributions over codes, the currency between inference and priors."""

from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor

from .randomness import source


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I), normalised. Shapes: (B, D) -> (B,)."""
    return -0.5 * (z.square() + log(2 * pi)).sum(1)


@dataclass(frozen=True)
class DiagonalGaussian:
    """N(mean, diag exp(log_var)). Shapes: mean and log_var (B, D); densities (B,)."""

    mean: Tensor
    log_var: Tensor

    @property
    def std(self) -> Tensor:
        """The standard deviations. Shape: (B, D)."""
        return (0.5 * self.log_var).exp()

    def rsample(self, *, rng: torch.Generator | int | None = None) -> Tensor:
        """mean + std * eps: a draw through which gradients flow. Shape: (B, D)."""
        rng = source(rng, self.mean.device)
        like = {"device": self.mean.device, "dtype": self.mean.dtype}
        return self.mean + self.std * torch.randn(self.mean.shape, generator=rng, **like)

    def log_probs(self, z: Tensor) -> Tensor:
        """log q(z), one number for each coordinate. Shapes: (B, D) -> (B, D)."""
        scaled = (z - self.mean).square() * (-self.log_var).exp()
        return -0.5 * (scaled + self.log_var + log(2 * pi))

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z). Shapes: (B, D) -> (B,)."""
        return self.log_probs(z).sum(1)

    def kls(self, p: "DiagonalGaussian") -> Tensor:
        r"""KL(q || p), exact, by coordinate:
        1/2 ((mu_q - mu_p)^2 / sigma_p^2 + r - 1 - log r) with r = sigma_q^2 / sigma_p^2; (B, D)."""
        log_ratio = self.log_var - p.log_var
        gap = (self.mean - p.mean).square() * (-p.log_var).exp()
        return 0.5 * (gap + log_ratio.exp() - 1 - log_ratio)

    def kl_standard_normal(self) -> Tensor:
        r"""KL(q || N(0, I)) = 1/2 sum(mu^2 + sigma^2 - 1 - log sigma^2), exact. Shape: (B,)."""
        return 0.5 * (self.mean.square() + self.log_var.exp() - 1 - self.log_var).sum(1)

    def split(self, sizes: tuple[int, ...]) -> list["DiagonalGaussian"]:
        """One distribution for each group of coordinates, in order."""
        pairs = zip(self.mean.split(sizes, 1), self.log_var.split(sizes, 1), strict=True)
        return [DiagonalGaussian(*pair) for pair in pairs]


def standard_normal(n: int, dim: int, like: Tensor) -> DiagonalGaussian:
    """N(0, I) for ``n`` rows of ``dim`` coordinates, on the device of ``like``."""
    zeros = torch.zeros(n, dim, device=like.device, dtype=like.dtype)
    return DiagonalGaussian(zeros, zeros)


def joined(parts: list[DiagonalGaussian]) -> DiagonalGaussian:
    """The inverse of ``split``."""
    return DiagonalGaussian(
        torch.cat([p.mean for p in parts], 1), torch.cat([p.log_var for p in parts], 1)
    )


def merge(a: DiagonalGaussian, b: DiagonalGaussian) -> DiagonalGaussian:
    r"""The normalised product of two normals, by precision (Ladder VAE, NeurIPS 2016, eqs. 17, 18):
    sigma^-2 = sigma_a^-2 + sigma_b^-2,  mu = sigma^2 (mu_a / sigma_a^2 + mu_b / sigma_b^2)."""
    log_var = -torch.logaddexp(-a.log_var, -b.log_var)
    weight = (log_var - a.log_var).exp()  # of a; that of b is 1 minus it
    return DiagonalGaussian(weight * a.mean + (1 - weight) * b.mean, log_var)
