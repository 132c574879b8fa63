r"""What is minimised: one function for (beta, phi), one for the prior alpha.

Variational joint learning (ICCV 2023, eqs. 9-14) minimises, with z ~ q(z | x),

    -log p(x | z) + KL(q(z | x) || p_0) - f(z)              over beta and phi,
    f(z_neg) - f(z_pos)                                     over alpha,

where z_pos = z (detached) and z_neg are Langevin samples of the prior. Maximum likelihood
(NeurIPS 2020, eqs. 6-9) draws z_pos by Langevin from p(z | x) and needs no KL and no phi.
With f = 0 the first is the ELBO of VAE and VLAE. A prior may also be told from its base by a
classifier (noise contrast), or be fitted to codes afterwards: a second VAE, a mixture.
All losses are means over the batch, in nats.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .gaussians import DiagonalGaussian


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


def kl_to_base(q: DiagonalGaussian, z: Tensor, p: DiagonalGaussian, estimate: str) -> Tensor:
    """KL(q || p_0) by coordinate, exact given the layers drawn before, or by the one sample z (the
    authors' choice). ``p`` holds the conditionals of p_0 at z. Shape: (B, D)."""
    return q.kls(p) if estimate == "exact" else q.log_probs(z) - p.log_probs(z)


def free_bits(kl: Tensor, groups: tuple[int, ...], bits: float) -> Tensor:
    """sum over groups of max(bits, mean KL): below ``bits`` nats a group of coordinates is not
    pressed further (BIVA). Without bits, the mean KL. Shapes: (B, D) -> ()."""
    if not bits:
        return kl.sum(1).mean()
    means = torch.stack([part.sum(1).mean() for part in kl.split(groups, 1)])
    return means.clamp_min(bits).sum()


def variational(
    system: nn.Module,
    x: Tensor,
    *,
    prior_weight: float = 1.0,
    rng: torch.Generator | int | None = None,
    rows: Tensor | None = None,
) -> Outcome:
    """The negative ELBO with the tilt f, for beta and phi. The prior's parameters get a gradient
    only if no loss of their own teaches them: those of a Gaussian chain do.

    ``prior_weight`` in [0, 1] is the warm-up. It weighs KL - f as one term: with the KL alone
    held back, nothing holds the posterior while f grows, and both run away together.
    """
    c, prior, inference = system.config, system.prior, system.inference
    with frozen(prior) if system.objective.prior else nullcontext():
        z, q = inference.draw(x, prior, system.generator, rng=rng, rows=rows)
        kl = kl_to_base(q, z, prior.base(z), c.kl if inference.exact_kl else "monte-carlo")
        f = prior.f(z)
    nll = -system.generator.log_lik(x, z)
    divergence = free_bits(kl, inference.groups, c.free_bits)
    loss = nll.mean() + prior_weight * (divergence - f.mean())
    return Outcome(loss, z.detach(), {"nll": nll.mean(), "kl": kl.sum(1).mean()})


def maximum_likelihood(
    system: nn.Module,
    x: Tensor,
    *,
    prior_weight: float = 1.0,
    rng: torch.Generator | int | None = None,
    rows: Tensor | None = None,
) -> Outcome:
    """-log p(x | z) at Langevin samples z of p(z | x), for beta (NeurIPS 2020, eq. 8).

    ``prior_weight`` belongs to the variational objective and changes nothing here.
    """
    z, _ = system.inference.draw(x, system.prior, system.generator, rng=rng, rows=rows)
    nll = -system.generator.log_lik(x, z)
    return Outcome(nll.mean(), z, {"nll": nll.mean()})


def regularised(
    system: nn.Module,
    x: Tensor,
    *,
    prior_weight: float = 1.0,
    rng: torch.Generator | int | None = None,
    rows: Tensor | None = None,
) -> Outcome:
    r"""``SSE + code_penalty / 2 |z|^2 + decoder_penalty |beta|^2``: a deterministic autoencoder,
    its decoder held smooth by the L2 norm of its weights (RAE-L2, ICLR 2020).

    ``prior_weight`` and ``rng`` belong to the variational objective and change nothing here.
    """
    c = system.config
    z, _ = system.inference.draw(x, system.prior, system.generator, rows=rows)
    sse = system.generator.squared_error(x, z).mean()
    size = 0.5 * z.square().sum(1).mean()
    weights = sum(p.square().sum() for p in system.generator.parameters() if p.dim() > 1)
    loss = sse + c.code_penalty * size + c.decoder_penalty * weights
    terms = {"sse": sse, "code_size": size, "decoder_size": weights}
    return Outcome(loss, z.detach(), terms)


def prior_loss(
    prior: nn.Module,
    z_pos: Tensor,
    z_neg: Tensor,
    *,
    penalty: float = 0.0,
    rng: torch.Generator | int | None = None,
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


def whole_prior_loss(
    prior: nn.Module,
    z_pos: Tensor,
    z_neg: Tensor,
    *,
    penalty: float = 0.0,
    rng: torch.Generator | int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """``prior_loss`` of the whole f(z) + log p_0(z), where p_0 has parameters too: they also sit
    in Z, so they learn from the same difference (the layer-wise EBM prior, CVPR 2023)."""
    loss, terms = prior_loss(prior, z_pos, z_neg, penalty=penalty)
    base_pos, base_neg = (prior.base_log_prob(z.detach()).mean() for z in (z_pos, z_neg))
    return loss + base_neg - base_pos, terms | {"base_pos": base_pos, "base_neg": base_neg}


def noise_contrast(
    prior: nn.Module,
    z_pos: Tensor,
    z_neg: Tensor,
    *,
    penalty: float = 0.0,
    rng: torch.Generator | int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Binary cross-entropy of the ratio in training, posterior (1) against prior samples (0).

    At its optimum the logit is log q(z) / p(z) (NCP, NeurIPS 2021). ``penalty`` as in
    ``prior_loss``. "ess" is the effective sample size of the ratios of z_neg, over their number.
    """
    pos, neg = prior.logit(z_pos.detach()), prior.logit(z_neg.detach())
    loss = F.softplus(-pos).mean() + F.softplus(neg).mean()
    ess = 1 / (len(neg) * neg.detach().softmax(0).square().sum())
    terms = {"bce": loss, "f_pos": pos.mean(), "f_neg": neg.mean(), "ess": ess}
    if penalty:
        loss = loss + penalty * (pos.square().mean() + neg.square().mean())
    return loss, terms


def codes_elbo(
    prior: nn.Module,
    z_pos: Tensor,
    z_neg: Tensor,
    *,
    penalty: float = 0.0,
    rng: torch.Generator | int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The negative ELBO of a second VAE at codes z_pos (2s-VAE); z_neg and penalty play no part."""
    loss = -prior.elbo(z_pos.detach(), rng=rng).mean()
    return loss, {"code_elbo": -loss, "gamma": prior.log_gamma.exp()}


class Objective(NamedTuple):
    """The loss of generator and inference, that of the prior, and when the prior learns."""

    nets: Callable
    prior: Callable | None = None  # None: its parameters, if any, learn by the loss of the nets
    afterwards: bool = False  # the prior learns in a second stage, on codes of the finished encoder
    fit: bool = False  # the second stage is one call of prior.fit on the codes of all images


OBJECTIVES: dict[str, Objective] = {
    "variational": Objective(variational),
    "variational + contrast": Objective(variational, prior_loss),
    "variational + whole contrast": Objective(variational, whole_prior_loss),
    "variational, then nce": Objective(variational, noise_contrast, afterwards=True),
    "variational, then variational": Objective(variational, codes_elbo, afterwards=True),
    "maximum-likelihood": Objective(maximum_likelihood),
    "maximum-likelihood + contrast": Objective(maximum_likelihood, prior_loss),
    "maximum-likelihood + whole contrast": Objective(maximum_likelihood, whole_prior_loss),
    "maximum-likelihood + nce": Objective(maximum_likelihood, noise_contrast),
    "regularised, then mixture": Objective(regularised, fit=True),
}
