r"""Likelihood in nats: log Z of an EBM prior, its KL to N(0, I), a bound on log p(x).

p(z) = exp(f(z)) p_0(z) / Z with p_0 = N(0, I), so Z = E_{p_0}[exp f]. Directly, by importance
sampling, or along p_t ~ exp(t f) p_0, t from 0 to 1, by annealed importance sampling (AIS: Neal
2001); AIS from the other end bounds log Z from above (Grosse, Ghahramani and Adams 2015).

The transitions are preconditioned Crank-Nicolson steps (Cotter, Roberts, Stuart and White 2013)::

    z' = sqrt(1 - b^2) z + b eps,  accepted with probability min(1, exp(t f(z') - t f(z)))

The proposal is reversible for N(0, I), so only f enters the acceptance: no gradient, no limit on
the step, every p_t exactly invariant. Langevin dynamics (``langevin``) leaves none invariant.
"""

from collections.abc import Callable, Sequence
from math import log
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..errors import UsageError
from ..gaussians import standard_normal_log_prob
from ..priors import Prior, check_density
from ..randomness import source

SIZES = (0.8, 0.4, 0.2, 0.1)  # b of the steps made at each t: far ones first, where they pass
BLOCK = 500  # images decoded at a time


class Estimate(NamedTuple):
    """A figure in nats, its standard error, and how many equal weights its own are worth."""

    value: float
    error: float
    ess: float


class Bracket(NamedTuple):
    """log Z between two estimates of AIS: on average ``lower`` is below it, ``upper`` above."""

    lower: Estimate
    upper: Estimate


def log_mean_exp(log_w: Tensor) -> Estimate:
    r"""log (1/n) sum_i w_i of weights w = exp(log_w), (n,), its error by the delta method.

    ess = (sum w)^2 / sum w^2; error^2 = (1 / ess - 1 / n) n / (n - 1) = var(w) / (n mean(w)^2).
    Raises UsageError for fewer than two weights.
    """
    n, log_w = len(log_w), log_w.double()
    check_count("weights", n, least=2)
    ess = 1 / log_w.softmax(0).square().sum().item()
    variance = max(0.0, 1 / ess - 1 / n) * n / (n - 1)
    return Estimate(log_w.logsumexp(0).item() - log(n), variance**0.5, ess)


def mean(values: Tensor) -> Estimate:
    """The mean of values (n,), with its standard error. UsageError for fewer than two."""
    check_count("values", len(values), least=2)
    values = values.double()
    return Estimate(values.mean().item(), values.std().item() / len(values) ** 0.5, len(values))


@torch.no_grad()
def importance(
    prior: Prior, n: int, *, rng: torch.Generator | int | None = None, block: int = 20_000
) -> Estimate:
    """log Z = log E_{p_0}[exp f] from ``n`` draws of N(0, I). Raises UsageError for another p_0.

    On average too low. An ``ess`` of a few means that a few draws decided: do not trust it.
    """
    check_base(prior)
    check_count("draws", n, least=2)
    rng = source(rng, prior.here.device)
    sizes = [min(block, n - i) for i in range(0, n, block)]
    return log_mean_exp(torch.cat([prior.f(prior.base_sample(m, rng=rng)) for m in sizes]))


@torch.no_grad()
def crank_nicolson(
    f: Callable[[Tensor], Tensor],
    z: Tensor,
    *,
    t: float = 1.0,
    steps: int = 1,
    sizes: Sequence[float] = SIZES,
    rng: torch.Generator | int | None = None,
) -> tuple[Tensor, Tensor, float]:
    """``steps`` rounds of Metropolis-adjusted steps that leave exp(t f) N(0, I) invariant.

    A round makes one step of each of ``sizes`` (b, in (0, 1]). Shapes: z (B, D), f (B, D) -> (B,).
    Returns the states, f there (B,), and the share of accepted proposals.
    """
    value, accepted, rng = f(z), 0.0, source(rng, z.device)
    like = {"generator": rng, "device": z.device, "dtype": z.dtype}
    for b in [*sizes] * steps:
        new = (1 - b * b) ** 0.5 * z + b * torch.randn(z.shape, **like)
        new_value = f(new)
        yes = torch.rand(len(z), **like).log() < t * (new_value - value)
        z, value = torch.where(yes[:, None], new, z), torch.where(yes, new_value, value)
        accepted += yes.double().mean().item()
    return z, value, accepted / max(1, steps * len(sizes))


def anneal(
    f: Callable[[Tensor], Tensor],
    z: Tensor,
    *,
    rungs: int = 200,
    reverse: bool = False,
    sizes: Sequence[float] = SIZES,
    rng: torch.Generator | int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""AIS: log-weights (B,) and the last states (B, D) of chains over ``rungs`` equal steps of t.

    Forward, z are draws of N(0, I): log w = sum_k f(z_{k-1}) / rungs, z_k moved at t = k / rungs,
    and E[w] = Z. ``reverse``: z are draws of p, the same path is walked down, and E[1 / w] = 1 / Z.
    """
    check_count("rungs", rungs)
    rng = source(rng, z.device)
    order = tuple(reversed(sizes)) if reverse else tuple(sizes)  # the reverse of each round
    log_w = torch.zeros(len(z), dtype=torch.float64, device=z.device)
    with torch.no_grad(), parametrize.cached():
        value = f(z)
        for k in range(rungs, 0, -1) if reverse else range(1, rungs + 1):
            if not reverse:
                log_w += value.double() / rungs
            z, value, _ = crank_nicolson(f, z, t=k / rungs, sizes=order, rng=rng)
            if reverse:
                log_w += value.double() / rungs
    return log_w, z


def annealed(
    prior: Prior,
    ends: Tensor,
    *,
    rungs: int = 200,
    sizes: Sequence[float] = SIZES,
    rng: torch.Generator | int | None = None,
) -> Bracket:
    r"""log Z between forward AIS from N(0, I) and reverse AIS from ``ends`` (n, D), draws of p.

    E[log mean w] <= log Z by Jensen's inequality, so P(lower > log Z + c) <= e^-c; reversed,
    E[-log mean 1 / w] >= log Z. The upper side holds as far as the ``ends`` have the law p: take
    long chains, and let ``crank_nicolson`` finish them. Raises UsageError for a p_0 that is not
    N(0, I).
    """
    check_base(prior)
    check_count("ends", len(ends), least=2)
    rng = source(rng, ends.device)
    options = {"rungs": rungs, "sizes": sizes, "rng": rng}
    forward, _ = anneal(prior.f, prior.base_sample(len(ends), rng=rng), **options)
    backward, _ = anneal(prior.f, ends, reverse=True, **options)
    above = log_mean_exp(-backward)
    return Bracket(log_mean_exp(forward), above._replace(value=-above.value))


def kl_from_base(prior: Prior, z: Tensor, log_z: Estimate) -> Estimate:
    """KL(p || p_0) = E_p[f] - log Z in nats, from draws z (n, D) of p and an estimate of log Z.

    The errors of both are added in squares. Where f is c-Lipschitz, KL <= c^2 / 2 (Gross 1975).
    """
    check_density(prior)
    with torch.no_grad():
        expected = mean(prior.f(z))
    error = (expected.error**2 + log_z.error**2) ** 0.5
    return Estimate(expected.value - log_z.value, error, min(expected.ess, log_z.ess))


def slope(prior: Prior, z: Tensor) -> Tensor:
    """The norm of grad f(z), without p_0: KL(p || p_0) <= E_p[slope^2] / 2. (n, D) -> (n,)."""
    check_density(prior)
    z = z.detach().requires_grad_(True)
    with torch.enable_grad():
        f = prior.f(z) + 0 * z.sum(1)  # an f = 0 knows nothing of z
        (gradient,) = torch.autograd.grad(f.sum(), z)
    return gradient.norm(dim=1)


@torch.no_grad()
def importance_weighted(
    system: nn.Module,
    x: Tensor,
    log_z: float,
    *,
    samples: int = 100,
    rng: torch.Generator | int | None = None,
) -> Tensor:
    r"""The importance-weighted bound on log p(x), x in [-1, 1]: (B, C, H, W) -> (B,), in nats.

    log (1/k) sum_j p(x | z_j) exp(f(z_j)) p_0(z_j) / (Z q(z_j | x)),  z_j ~ q(z | x), k = samples
    (IWAE, ICLR 2016, eq. 8). On average below log p(x), rising with k to it; k = 1 is the ELBO. log
    p(x) is of the continuous density N(x; h_1(z), sigma^2 I). ``log_z`` is 0 where f = 0; too
    small a ``log_z`` makes the figure too large by as much. Raises UsageError if q(z | x) is a
    Langevin chain or a point, which have no density to divide by.
    """
    check_density(system.prior)
    check_count("samples", samples)
    bounds, rng = [], source(rng, x.device)
    for image in x:
        weights = []
        for first in range(0, samples, BLOCK):
            rows = image.expand(min(BLOCK, samples - first), *image.shape)
            z, q = system.inference.draw(rows, system.prior, system.generator, rng=rng)
            if q is None:
                raise UsageError(
                    f"{type(system.inference).__name__} has no density q(z | x) to weigh by: "
                    "choose a system with an amortised, stochastic encoder."
                )
            log_joint = system.generator.log_lik(rows, z) + system.prior.log_prob(z)
            weights.append((log_joint - q.log_prob(z)).double())
        bounds.append(torch.cat(weights).logsumexp(0) - log(samples) - log_z)
    return torch.stack(bounds) if bounds else x.new_empty(0, dtype=torch.float64)


def check_count(name: str, count: int, *, least: int = 1) -> None:
    """Raise UsageError unless there are enough for an estimate, or for its error: two at least."""
    if count < least:
        one = f"an estimate needs at least one {name.removesuffix('s')}"
        what = f"an error needs at least two {name}" if least > 1 else one
        raise UsageError(f"{what}, and got {count}: take more.")


def check_base(prior: Prior) -> None:
    """Raise UsageError unless ``prior`` is exp(f) N(0, I) / Z, as the estimators here take it."""
    check_density(prior)
    z = prior.start(2, rng=torch.Generator(prior.here.device).manual_seed(0))
    if prior.base_parameters() or not torch.equal(
        prior.base_log_prob(z), standard_normal_log_prob(z)
    ):
        raise UsageError(
            f"log Z is estimated for exp(f) N(0, I), and the base of {type(prior).__name__} is "
            "another: choose an EBM prior on N(0, I)."
        )
