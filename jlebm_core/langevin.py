"""Langevin dynamics, the one sampler of the book."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils import parametrize


def langevin(
    log_prob: Callable[[Tensor], Tensor],
    z: Tensor,
    *,
    steps: int,
    step_size: float,
    noise: float = 1.0,
    rng: torch.Generator | None = None,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    r"""Run ``steps`` of unadjusted Langevin dynamics from ``z`` and return the last state.

    Shapes: z (B, D); ``log_prob``: (B, D) -> (B,), known up to a constant.
    z <- z + (s^2 / 2) grad log p(z) + s eps,  eps ~ N(0, I)      (ICCV 2023, eq. 13)
    ``step_size`` is s; ``noise`` multiplies eps (0 climbs the density without noise).
    ``callback(k, z, log_prob(z))`` sees every state, the start (k = 0) and the end (k = steps)
    included. Chain b follows from row b alone: ``log_prob`` must not mix the rows of a batch.
    """
    drift, spread = step_size**2 / 2, step_size * noise
    z = z.detach()
    with parametrize.cached():  # spectral norm: one power iteration a chain, not one a step
        for k in range(steps):
            value, grad = _value_and_grad(log_prob, z)
            if callback:
                callback(k, z, value)
            z = z + drift * grad
            if spread:
                eps = torch.randn(z.shape, generator=rng, device=z.device, dtype=z.dtype)
                z = z + spread * eps
    if callback:
        with torch.no_grad():
            callback(steps, z, log_prob(z))
    return z


def _value_and_grad(log_prob: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        value = log_prob(z)
        (grad,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), grad
