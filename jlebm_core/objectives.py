r"""What is minimised: objectives of generator and inference (beta, phi), and of the prior (alpha).

Variational joint learning (ICCV 2023, eqs. 9-14) minimises, with z ~ q(z | x),

    -log p(x | z) + KL(q(z | x) || p_0) - f(z)              over beta and phi,
    f(z_neg) - f(z_pos)                                     over alpha,

where z_pos = z (detached) and z_neg are Langevin samples of the prior. Maximum likelihood
(NeurIPS 2020, eqs. 6-9) draws z_pos by Langevin from p(z | x) and needs no KL and no phi.
With f = 0 the first is the ELBO of VAE and VLAE. A prior may also be told from its base by a
classifier (noise contrast), or be fitted to codes afterwards: a second VAE, a mixture.

An objective is a frozen dataclass that holds its numbers and is called with the parts. All losses
are means over the batch, in nats.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import UsageError
from .gaussians import DiagonalGaussian
from .settings import KL_ESTIMATES

if TYPE_CHECKING:  # an objective calls the parts and needs none of them to exist
    from .generators import Generator
    from .inference import Inference
    from .priors import MixturePrior, Prior, RatioPrior, SecondVAE


class Outcome(NamedTuple):
    """What an objective gives: the loss, the posterior samples (detached), the terms to log."""

    loss: Tensor
    z_pos: Tensor
    terms: dict[str, Tensor]


class Objective(ABC):
    """The loss of generator and inference on a batch of images.

    A subclass is a frozen dataclass of the numbers that define it.
    """

    def weight(self, step: int) -> float:
        """The weight of the prior's term at a training step (from 0); 1 without a warm-up."""
        return 1.0

    @abstractmethod
    def __call__(
        self,
        x: Tensor,
        prior: "Prior",
        generator: "Generator",
        inference: "Inference",
        *,
        weight: float | Tensor = 1.0,
        rng: torch.Generator | int | None = None,
        rows: Tensor | None = None,
    ) -> Outcome:
        """The loss on images x (B, C, H, W); ``weight`` is that of the prior's term, ``rows`` (B,)
        says which training images they are, for an inference that remembers them."""


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


@dataclass(frozen=True)
class Variational(Objective):
    """The negative ELBO with the tilt f, for an inference that gives a distribution q(z | x).

    ``kl`` is "exact" or "monte-carlo" (the authors' one-sample estimate), ``warmup`` the steps in
    which the weight of KL - f rises to 1, ``free_bits`` the nats of each group of latents that the
    KL does not press. The weight is on KL - f as one term: with the KL alone held back, nothing
    holds the posterior while f grows, and both run away together.
    Raises UsageError for an unknown estimate, and where the inference gives no distribution.
    """

    kl: str = "exact"
    warmup: int = 0
    free_bits: float = 0.0

    def __post_init__(self) -> None:
        if self.kl not in KL_ESTIMATES:
            raise UsageError(f"kl must be one of {', '.join(KL_ESTIMATES)}, not {self.kl!r}.")

    def weight(self, step: int) -> float:
        """The weight of KL - f: (step + 1) / warmup, at most 1."""
        return min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0

    def __call__(self, x, prior, generator, inference, *, weight=1.0, rng=None, rows=None):
        """The loss, z ~ q(z | x), and the terms nll and kl."""
        z, q = inference.draw(x, prior, generator, rng=rng, rows=rows)
        if q is None:
            raise UsageError(
                "the variational objective needs an inference that gives a distribution q(z | x); "
                "for Langevin inference take MaximumLikelihood, for a deterministic encoder "
                "Regularised."
            )
        kl = kl_to_base(q, z, prior.base(z), self.kl if inference.exact_kl else "monte-carlo")
        nll = -generator.log_lik(x, z)
        divergence = free_bits(kl, inference.groups or prior.dims, self.free_bits)
        loss = nll.mean() + weight * (divergence - prior.f(z).mean())
        return Outcome(loss, z.detach(), {"nll": nll.mean(), "kl": kl.sum(1).mean()})


@dataclass(frozen=True)
class MaximumLikelihood(Objective):
    """-log p(x | z) at Langevin samples z of p(z | x), for beta (NeurIPS 2020, eq. 8)."""

    def __call__(self, x, prior, generator, inference, *, weight=1.0, rng=None, rows=None):
        """The loss, the posterior samples, and the term nll."""
        z, _ = inference.draw(x, prior, generator, rng=rng, rows=rows)
        nll = -generator.log_lik(x, z)
        return Outcome(nll.mean(), z.detach(), {"nll": nll.mean()})


@dataclass(frozen=True)
class Regularised(Objective):
    r"""``SSE + code_penalty / 2 |z|^2 + decoder_penalty |beta|^2``: a deterministic autoencoder,
    its decoder held smooth by the L2 norm of its weights (RAE-L2, ICLR 2020)."""

    code_penalty: float = 0.0
    decoder_penalty: float = 0.0

    def __call__(self, x, prior, generator, inference, *, weight=1.0, rng=None, rows=None):
        """The loss, the codes, and the terms sse, code_size and decoder_size."""
        z, _ = inference.draw(x, prior, generator, rng=rng, rows=rows)
        sse = generator.squared_error(x, z).mean()
        size = 0.5 * z.square().sum(1).mean()
        squares = [p.square().sum() for p in generator.parameters() if p.dim() > 1]
        weights = torch.stack(squares).sum() if squares else sse.new_zeros(())
        loss = sse + self.code_penalty * size + self.decoder_penalty * weights
        terms = {"sse": sse, "code_size": size, "decoder_size": weights}
        return Outcome(loss, z.detach(), terms)


class PriorObjective(ABC):
    """The loss of the prior, given posterior samples z_pos and its own samples z_neg.

    A subclass is a frozen dataclass of the numbers that define it. The prior learns with the nets,
    or in a stage of its own on the codes of a finished encoder (``training.stages``).
    """

    at_once: ClassVar[bool] = False  # is z_pos the codes of all training images, in one step?
    alone: ClassVar[bool] = False  # can the prior learn from the codes of a finished encoder only?

    def parts(self, prior: "Prior") -> int:
        """How many parts of the prior learn one after the other, each in a stage of its own."""
        return 1

    def check(self, prior: "Prior", images: int) -> None:  # noqa: B027 - most learn from any number
        """Raise UsageError if ``images`` are too few for the prior to learn from."""

    def finish(self, prior: "Prior") -> None:  # noqa: B027 - most have nothing to do
        """End a stage: what has been learned in it becomes part of the prior's density."""

    @abstractmethod
    def __call__(
        self,
        prior: "Prior",
        z_pos: Tensor,
        z_neg: Tensor,
        *,
        rng: torch.Generator | int | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and the terms to log. Shapes: z_pos and z_neg (B, D); both are detached."""


@dataclass(frozen=True)
class Contrast(PriorObjective):
    r"""E[f(z_neg)] - E[f(z_pos)]: its gradient is minus the log-likelihood's (ICCV 2023, eq. 12).

    ``penalty`` c adds c E[f(z_pos)^2 + f(z_neg)^2], which keeps the scale of f in reach of K
    Langevin steps. ``base`` takes the whole f(z) + log p_0(z) where p_0 has parameters too: they
    also sit in Z, so they learn from the same difference (the layer-wise EBM prior, CVPR 2023).
    """

    penalty: float = 0.0
    base: bool = False

    def __call__(self, prior, z_pos, z_neg, *, rng=None):
        """The loss, and the terms f_pos and f_neg (with ``base`` also base_pos and base_neg)."""
        f_pos, f_neg = prior.f(z_pos.detach()), prior.f(z_neg.detach())
        loss = f_neg.mean() - f_pos.mean() + penalised(self.penalty, f_pos, f_neg)
        terms = {"f_pos": f_pos.mean(), "f_neg": f_neg.mean()}
        if not self.base:
            return loss, terms
        base_pos, base_neg = (prior.base_log_prob(z.detach()).mean() for z in (z_pos, z_neg))
        return loss + base_neg - base_pos, terms | {"base_pos": base_pos, "base_neg": base_neg}


@dataclass(frozen=True)
class NoiseContrast(PriorObjective):
    r"""Binary cross-entropy of the ratio in training, posterior (1) against prior samples (0).

    At its optimum the logit is log q(z) / p(z) (NCP, NeurIPS 2021). ``penalty`` as in
    ``Contrast``. The ratios of a prior learn in one stage each.
    """

    penalty: float = 0.0

    def parts(self, prior: "RatioPrior") -> int:
        """One stage for each ratio."""
        return prior.ratios

    def finish(self, prior: "RatioPrior") -> None:
        """Switch the ratio on that has learned: it stays as it is from now on."""
        prior.switch_on()

    def __call__(self, prior: "RatioPrior", z_pos, z_neg, *, rng=None):
        """The loss, and the terms bce, f_pos, f_neg and ess, the effective sample size of the
        ratios of z_neg over their number."""
        pos, neg = prior.logit(z_pos.detach()), prior.logit(z_neg.detach())
        bce = F.softplus(-pos).mean() + F.softplus(neg).mean()
        ess = 1 / (len(neg) * neg.detach().softmax(0).square().sum())
        terms = {"bce": bce, "f_pos": pos.mean(), "f_neg": neg.mean(), "ess": ess}
        return bce + penalised(self.penalty, pos, neg), terms


@dataclass(frozen=True)
class CodesELBO(PriorObjective):
    """The negative ELBO of a second VAE at codes z_pos (2s-VAE); z_neg plays no part."""

    alone: ClassVar[bool] = True

    def __call__(self, prior: "SecondVAE", z_pos, z_neg, *, rng=None):
        """The loss, and the terms code_elbo and gamma."""
        loss = -prior.elbo(z_pos.detach(), rng=rng).mean()
        return loss, {"code_elbo": -loss, "gamma": prior.log_gamma.exp()}


@dataclass(frozen=True)
class FitToCodes(PriorObjective):
    """The prior's own ``fit`` to the codes of all training images, in one step (RAE)."""

    at_once: ClassVar[bool] = True
    alone: ClassVar[bool] = True

    def check(self, prior: "MixturePrior", images: int) -> None:
        """Raise UsageError for fewer images than components, or than two."""
        if images < max(2, len(prior.weights)):
            raise UsageError(
                f"a mixture of {len(prior.weights)} components cannot be fitted to {images} "
                "images: give more images, or fewer components."
            )

    def __call__(self, prior: "MixturePrior", z_pos, z_neg, *, rng=None):
        """A loss of 0 (there is no gradient), and the terms of the fit."""
        terms = prior.fit(z_pos, seed=rng.initial_seed() if rng else 0)
        return z_pos.new_zeros(()), terms


def penalised(penalty: float, f_pos: Tensor, f_neg: Tensor) -> Tensor | float:
    """penalty E[f(z_pos)^2 + f(z_neg)^2]; 0 without a penalty."""
    return penalty * (f_pos.square().mean() + f_neg.square().mean()) if penalty else 0.0
