"""Langevin dynamics, the one sampler of the book, and its fast path for priors given by an MLP."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils import parametrize

BLOCK = 1000  # chains at a time in the fast path: their activations stay in the cache


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


@torch.no_grad()
def langevin_mlp(
    layers: Sequence[tuple[Tensor, Tensor]],
    act: Callable[[Tensor], Tensor],
    act_backward: Callable[[Tensor, Tensor], Tensor],
    z: Tensor,
    *,
    steps: int,
    step_size: float,
    rng: torch.Generator | None = None,
) -> Tensor:
    r"""``langevin`` on f(z) + log N(z; 0, I) for an MLP f, its gradient written out.

    Shapes: z (B, D); ``layers`` are the (weight, bias) of f's linear maps, the last one to one
    number; ``act`` stands between them and ``act_backward(g, a)`` = g act'(a). With
    a_i = W_i h_{i-1} + b_i, h_i = act(a_i), h_0 = z and g_n = act'(a_n) w_out,
    g_i = act'(a_i) (W_{i+1}^T g_{i+1})  and  grad f = W_1^T g_1.
    The same noise in the same order as ``langevin``: the chains agree to rounding.
    """
    drift = step_size**2 / 2
    noise = (
        torch.stack([torch.empty_like(z).normal_(generator=rng) for _ in range(steps)])
        if steps
        else z.new_empty(0, *z.shape)
    )
    *hidden, (out, _) = [(w.detach(), b.detach()) for w, b in layers]
    forward = [(b, w.T.contiguous()) for w, b in hidden]
    first, *upper = [w for w, _ in hidden]
    first = drift * first
    ends = []
    for z_block, eps in zip(z.split(BLOCK), noise.mul_(step_size).split(BLOCK, 1), strict=True):
        top = out.expand(len(z_block), -1)
        for e in eps:
            h, a = z_block, []
            for b, w in forward:
                a.append(torch.addmm(b, h, w))
                h = act(a[-1])
            g = act_backward(top, a.pop())
            for w in reversed(upper):
                g = act_backward(torch.mm(g, w), a.pop())
            z_block = torch.addmm(e, g, first).add_(z_block, alpha=1 - drift)
        ends.append(z_block)
    return torch.cat(ends)
