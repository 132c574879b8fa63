r"""Outliers by a generative model: scores of single images, and how well they rank.

The paper's score is the unnormalised log-posterior at the inferred code (ICCV 2023, section 4):
log p(x | z) + f(z) + log p_0(z), large for a normal image. ``Parts`` keeps its terms apart.
``scores`` turns all signs, so that an outlier scores high and is a positive of ``auroc``.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..data import to_float
from ..errors import UsageError
from ..priors import check_density
from ..randomness import source
from .likelihood import check_base, check_count
from .report import device_of

BLOCK = 1000  # images at a time
PARTS = ("log-posterior", "reconstruction", "f", "log p_0", "prior")  # scores of one pass


class Parts(NamedTuple):
    """The terms of the score at codes z. Shapes: (B,) each."""

    log_lik: Tensor  # log p(x | z)
    f: Tensor
    log_base: Tensor  # log p_0(z)

    @property
    def log_prior(self) -> Tensor:
        """f(z) + log p_0(z): log p(z) up to -log Z. Shape: (B,)."""
        return self.f + self.log_base

    @property
    def log_posterior(self) -> Tensor:
        """log p(x | z) + f(z) + log p_0(z): log p(z | x) up to log(Z p(x)). Shape: (B,)."""
        return self.log_lik + self.log_prior


@torch.no_grad()
def parts(system: nn.Module, x: Tensor, z: Tensor) -> Parts:
    """The terms of the score of images at codes. Shapes: x (B, C, H, W) in [-1, 1], z (B, D)."""
    prior = system.prior
    check_density(prior)
    return Parts(system.generator.log_lik(x, z), prior.f(z), prior.base_log_prob(z))


def refine(system: nn.Module, x: Tensor, z: Tensor, *, steps: int, lr: float = 0.05) -> Tensor:
    r"""The best of ``steps`` codes on the way up log p(x | z) + f(z) + log p_0(z) from z, (B, D).

    Adam, since the curvature differs by orders of magnitude from image to image. It leads an
    outlier, for which the encoder was never trained, to a code that suits it; no code gets worse.
    """
    z = z.detach().clone().requires_grad_(True)
    optimiser = torch.optim.Adam([z], lr)
    best, highest = z.detach().clone(), z.new_full((len(z),), -torch.inf)
    for step in range(steps + 1):
        with torch.enable_grad():
            value = system.generator.log_lik(x, z) + system.prior.log_prob(z)
            (grad,) = torch.autograd.grad(-value.sum(), z)
        better = value.detach() > highest
        highest = torch.where(better, value.detach(), highest)
        best = torch.where(better[:, None], z.detach(), best)
        if step < steps:
            z.grad = grad
            optimiser.step()
    return best


@torch.no_grad()
def layer_bounds(
    system: nn.Module, x: Tensor, *, samples: int = 1, rng: torch.Generator | int | None = None
) -> Tensor:
    r"""L^{>k} for k = 0, .., L - 1: bounds on log p(x) + log Z, layers 1..k drawn blindly; (L, B).

    E[log p(x | z) + f(z) + log p_0(z_{>k}) - log q(z_{>k} | x)] over z_{>k} ~ q(z_{>k} | x) and
    z_{<=k} ~ N(0, I), in nats: Havtorn et al. (ICML 2021), with the tilt f as one more weight.
    k = 0 is the ELBO; every k takes the same draws. Raises UsageError if p_0 is not N(0, I) or if
    q(z | x) is a Langevin chain or a point, which have no density.
    """
    check_base(system.prior)
    check_count("samples", samples)
    dims, rng = system.dims, source(rng, x.device)
    found = torch.zeros(len(dims), len(x), dtype=torch.float64, device=x.device)
    for _ in range(samples):
        z, q = system.inference.draw(x, system.prior, system.generator, rng=rng)
        if q is None:
            raise UsageError(
                f"{type(system.inference).__name__} has no density q(z | x), which a bound needs: "
                "choose a system with an amortised, stochastic encoder."
            )
        ratio = system.prior.base(z).log_probs(z) - q.log_probs(z)
        blind = system.prior.base_sample(len(x), rng=rng)
        for k in range(len(dims)):
            below = sum(dims[:k])
            mixed = torch.cat([blind[:, :below], z[:, below:]], 1)
            weight = system.generator.log_lik(x, mixed) + system.prior.f(mixed)
            found[k] += weight + ratio[:, below:].sum(1)
    return found / samples


def scores(
    system: nn.Module,
    images: Tensor,
    *,
    samples: int = 0,
    steps: int = 0,
    rng: torch.Generator | int | None = None,
    block: int = BLOCK,
) -> dict[str, Tensor]:
    r"""Outlier scores of uint8 images (N, C, H, W) by name, (N,) each, larger for an outlier.

    "log-posterior" is the paper's score; "reconstruction", "f", "log p_0" and "prior" (the last
    two together) are its parts. With ``samples`` of ``layer_bounds``: "elbo" and, for each layer k
    below the top, "LLR>k" = L - L^{>k}, large where low layers explain what high ones do not.
    With ``steps`` of ``refine``: "log-posterior, refined" and "reconstruction, refined".
    """
    check_density(system.prior)
    rng = source(rng, device_of(system))
    found: dict[str, list[Tensor]] = {}
    for x in images.split(block):
        x = to_float(x.to(device_of(system)))
        z = system.encode(x, rng=rng)
        at = parts(system, x, z)
        logs = (at.log_posterior, at.log_lik, at.f, at.log_base, at.log_prior)
        new = {name: -log for name, log in zip(PARTS, logs, strict=True)}
        if samples:
            whole, *blind = layer_bounds(system, x, samples=samples, rng=rng)
            new |= {"elbo": -whole} | {f"LLR>{k}": whole - b for k, b in enumerate(blind, 1)}
        if steps:
            at = parts(system, x, refine(system, x, z, steps=steps))
            new["log-posterior, refined"] = -at.log_posterior
            new["reconstruction, refined"] = -at.log_lik
        for name, values in new.items():
            found.setdefault(name, []).append(values)
    return {name: torch.cat(values) for name, values in found.items()}


def calibrated(found: dict[str, Tensor], normal: dict[str, Tensor]) -> Tensor:
    """Reconstruction and prior in standard deviations of normal images, added. Shape: (N,).

    ``found`` and ``normal`` are ``scores`` of the images in question and of normal ones, best of
    the training set. In nats, the term that varies more decides alone. Raises UsageError where
    the normal images are fewer than two, or all score the same.
    """
    for part in ("reconstruction", "prior"):
        check_count("normal images", len(normal[part]), least=2)
        if not normal[part].std() > 0:
            raise UsageError(f"all normal images have one {part} score: give images that differ.")
    return sum(
        (found[part] - normal[part].mean()) / normal[part].std()
        for part in ("reconstruction", "prior")
    )


def nearest(z: Tensor, codes: Tensor, *, k: int = 5, block: int = BLOCK) -> Tensor:
    """Distance of each code to the ``k``-th nearest of ``codes``, (N, D), (M, D) -> (N,).

    Among codes of training images it is an outlier score that knows where codes lie, as the prior
    should, and asks no prior. Raises UsageError for fewer than ``k`` codes.
    """
    if not 1 <= k <= len(codes):
        raise UsageError(f"there is no {k}-th nearest of {len(codes)} codes: give more of them.")
    return torch.cat([torch.cdist(part, codes).kthvalue(k, 1).values for part in z.split(block)])


def auroc(score: Tensor, outlier: Tensor) -> float:
    """Area under the ROC curve: the chance that an outlier scores above a normal image, ties
    counted by half. Shapes: score (N,), outlier (N,) of bool."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*_arrays(score, outlier)))


def auprc(score: Tensor, outlier: Tensor) -> float:
    """Area under the precision-recall curve by the trapezoidal rule, outliers positive.

    The protocol of the paper's table 3. A score that knows nothing gives the share of outliers,
    not 1/2. Shapes: score (N,), outlier (N,) of bool.
    """
    from sklearn.metrics import auc, precision_recall_curve

    precision, recall, _ = precision_recall_curve(*_arrays(score, outlier))
    return float(auc(recall, precision))


def _arrays(score: Tensor, outlier: Tensor) -> tuple[np.ndarray, np.ndarray]:
    if score.shape != outlier.shape or outlier.dtype != torch.bool or score.dim() != 1:
        raise UsageError(
            f"scores {tuple(score.shape)} and marks {tuple(outlier.shape)} of {outlier.dtype} do "
            "not fit: give one score and one bool for each image."
        )
    if score.isnan().any():
        raise UsageError("a score is NaN, which ranks nowhere: leave its image out.")
    if outlier.all() or not outlier.any():
        raise UsageError("a ranking needs outliers and normal images: there are only one kind.")
    return outlier.cpu().numpy(), score.double().cpu().numpy()
