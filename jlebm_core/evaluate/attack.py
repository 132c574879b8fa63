r"""The attack on one layer of codes (ICCV 2023, figure 9): how much hangs on that layer?

An image x_o is changed a little, so that one layer of its posterior becomes that of another image
x_t. Does its reconstruction then show the other image's class? That of the bottom layer should
not, that of the top layer should.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..data import to_uint8
from ..errors import UsageError
from ..gaussians import DiagonalGaussian
from ..inference import LadderEncoder
from .probes import check_some

RATES = {"linf": 10, "l2": 100}  # norm -> radius over Adam's step a pixel


class Attack(NamedTuple):
    """Changed images (B, C, H, W) in [-1, 1], and KL to the target's layer before and after."""

    x: Tensor
    before: Tensor  # (B,), in nats
    after: Tensor


def attack(
    system: nn.Module,
    x: Tensor,
    target: Tensor,
    layer: int,
    *,
    radius: float,
    norm: str = "linf",
    steps: int = 100,
) -> Attack:
    r"""Move layer ``layer`` (from 1, bottom) of the posterior of x towards that of ``target``.

    ``min KL(q(z_i | x + d) || q(z_i | x_t))`` over ``|d| <= radius`` and x + d in [-1, 1], each
    image for itself, by Adam projected after each of ``steps``; the best d on the way counts, so
    that no KL grows. ``norm`` "linf" bounds each pixel's change, "l2" the Euclidean length of d.
    Raises UsageError for another encoder than ``LadderEncoder``, whose layers are independent
    given x, for a layer that there is not, for another norm, or for images that do not pair.
    """
    q_i = layer_posterior(system, layer)
    if norm not in RATES:
        raise UsageError(f"unknown norm {norm!r}: choose one of {', '.join(RATES)}.")
    if x.shape != target.shape:
        raise UsageError(
            f"images {tuple(x.shape)} and targets {tuple(target.shape)} do not pair: give one "
            "target for each image."
        )
    with torch.no_grad():
        wanted = q_i(target)
        before = q_i(x).kls(wanted).sum(1)
    d = torch.zeros_like(x, requires_grad=True)
    optimiser = torch.optim.Adam([d], lr=radius / RATES[norm])
    best, lowest = x, before
    for _ in range(steps):
        with torch.enable_grad():
            kl = q_i(x + d).kls(wanted).sum(1)
            (d.grad,) = torch.autograd.grad(kl.sum(), d)
        optimiser.step()
        with torch.no_grad():
            d.copy_(project(d, radius, norm).add_(x).clamp_(-1, 1).sub_(x))
            kl = q_i(x + d).kls(wanted).sum(1)
        better = kl < lowest
        lowest = torch.where(better, kl, lowest)
        best = torch.where(better.view(-1, 1, 1, 1), (x + d).detach(), best)
    return Attack(best, before, lowest)


def project(d: Tensor, radius: float, norm: str) -> Tensor:
    """The point of the ball of ``radius`` nearest to d, image by image. Shape: (B, C, H, W)."""
    if norm == "linf":
        return d.clamp(-radius, radius)
    length = d.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return d * (radius / length.clamp_min(radius))


def layer_posterior(system: nn.Module, layer: int) -> Callable[[Tensor], DiagonalGaussian]:
    """x -> q(z_i | x), i = ``layer`` from 1; errors as of ``attack``."""
    inference, dims = system.inference, system.dims
    if type(inference) is not LadderEncoder:
        raise UsageError(
            f"{type(inference).__name__} does not give each layer's posterior by itself: choose a "
            "system with an amortised ladder encoder."
        )
    if not 1 <= layer <= len(dims):
        raise UsageError(f"there is no layer {layer}: choose one of 1 to {len(dims)}.")
    return lambda x: inference.posterior(x).split(dims)[layer - 1]


@torch.no_grad()
def label_rates(
    system: nn.Module, classify: Callable[[Tensor], Tensor], x: Tensor, *labels: Tensor
) -> list[float]:
    """How often the reconstruction of x takes each of ``labels``, (B,) each: own, target's, ..

    ``classify``: uint8 images (B, C, H, W) -> labels (B,). Raises UsageError for no images.
    """
    check_some("images", len(x))
    found = classify(to_uint8(system.decode(system.encode(x))))
    return [(found == y).double().mean().item() for y in labels]
