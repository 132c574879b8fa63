r"""What is minimised: one function for (beta, phi), one for the prior alpha.

Variational joint learning (ICCV 2023, eqs. 9-14) minimises, with z ~ q(z | x),

    -log p(x | z) + KL(q(z | x) || p_0) - f(z)              over beta and phi,
    f(z_neg) - f(z_pos)                                     over alpha,

where z_pos = z (detached) and z_neg are Langevin samples of the prior. Maximum likelihood
(NeurIPS 2020, eqs. 6-9) draws z_pos by Langevin from p(z | x) and needs no KL and no phi.
With f = 0 the first is the ELBO of VAE and VLAE. All losses are means over the batch, in nats.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .inference import DiagonalGaussian
from .priors import standard_normal_log_prob

KL_ESTIMATES = ("exact", "monte-carlo")


class Outcome(NamedTuple):
    """What an objective gives: the loss, the posterior samples (detached), the terms to log."""

    loss: Tensor
    z_pos: Tensor
    terms: dict[str, Tensor]


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within, ``module`` passes gradients to its inputs, but its parameters receive none."""
    were = [(p, p.requires_grad) for p in module.parameters()]
    for p, _ in were:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p, was in were:
            p.requires_grad_(was)


def kl_to_base(q: DiagonalGaussian, z: Tensor, estimate: str = "exact") -> Tensor:
    """KL(q || N(0, I)), exact or by the one sample z (the authors' choice). Shape: (B,)."""
    if estimate == "exact":
        return q.kl_standard_normal()
    return q.log_prob(z) - standard_normal_log_prob(z)


def variational(
    system: nn.Module,
    x: Tensor,
    *,
    prior_weight: float = 1.0,
    kl: str = "exact",
    rng: torch.Generator | None = None,
) -> Outcome:
    """The negative ELBO with the tilt f, for beta and phi; the prior's parameters get no gradient.

    ``prior_weight`` in [0, 1] is the warm-up. It weighs KL - f as one term: with the KL alone
    held back, nothing holds the posterior while f grows, and both run away together.
    """
    q = system.inference.posterior(x)
    z = q.rsample(rng=rng)
    with frozen(system.prior):
        f = system.prior.f(z)
    nll = -system.generator.log_lik(x, z)
    divergence = kl_to_base(q, z, kl)
    loss = (nll + prior_weight * (divergence - f)).mean()
    return Outcome(loss, z.detach(), {"nll": nll.mean(), "kl": divergence.mean()})


def maximum_likelihood(
    system: nn.Module,
    x: Tensor,
    *,
    prior_weight: float = 1.0,
    kl: str = "exact",
    rng: torch.Generator | None = None,
) -> Outcome:
    """-log p(x | z) at Langevin samples z of p(z | x), for beta (NeurIPS 2020, eq. 8).

    ``prior_weight`` and ``kl`` belong to the variational objective and change nothing here.
    """
    z = system.inference.sample(x, system.prior, system.generator, rng=rng)
    nll = -system.generator.log_lik(x, z)
    return Outcome(nll.mean(), z, {"nll": nll.mean()})


OBJECTIVES = {"variational": variational, "maximum-likelihood": maximum_likelihood}


def prior_loss(
    prior: nn.Module, z_pos: Tensor, z_neg: Tensor, *, penalty: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""E[f(z_neg)] - E[f(z_pos)]: its gradient is minus the log-likelihood's (ICCV 2023, eq. 12).

    ``penalty`` c adds c E[f(z_pos)^2 + f(z_neg)^2], which keeps the scale of f in reach of K
    Langevin steps. Both samples are detached. Returns the loss and the terms to log.
    """
    f_pos, f_neg = prior.f(z_pos.detach()), prior.f(z_neg.detach())
    loss = f_neg.mean() - f_pos.mean()
    if penalty:
        loss = loss + penalty * (f_pos.square().mean() + f_neg.square().mean())
    return loss, {"f_pos": f_pos.mean(), "f_neg": f_neg.mean()}
