r"""Priors fitted to codes once encoder and generator are done: a second VAE, a normal mixture."""

from math import log, pi
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from ..errors import UsageError
from ..gaussians import DiagonalGaussian, standard_normal_log_prob
from ..nets import mlp
from ..objectives import CodesELBO, FitToCodes, PriorObjective
from ..randomness import source
from .base import NormalBase, no_density


class SecondVAE(NormalBase):
    r"""A VAE of the codes (2s-VAE, ICLR 2019): u ~ N(0, I), z | u ~ N(dec(u), gamma^2 I), with a
    learned gamma and as many dimensions in u as in z.

    To the first stage it is its base, N(0, I); the density that the second stage learns has no
    closed form, so that ``log_prob`` raises UsageError, and is bounded by ``elbo``. Both nets have
    their input joined to their last hidden layer.
    """

    learns_by: ClassVar[PriorObjective | None] = CodesELBO()
    density = False

    def __init__(self, dims: tuple[int, ...], hidden: tuple[int, ...] = (1024, 1024, 1024), **act):
        super().__init__(dims)
        if not hidden:
            raise UsageError(
                "a second VAE needs hidden layers: give prior_hidden one width or more."
            )
        width = hidden[-1]
        ends = act.get("act", "lrelu")
        self.encoder, self.decoder = (
            mlp(self.dim, hidden[:-1], width, **act, end=ends) for _ in range(2)
        )
        self.posterior_head = nn.Linear(width + self.dim, 2 * self.dim)
        self.mean_head = nn.Linear(width + self.dim, self.dim)
        self.log_gamma = nn.Parameter(torch.zeros(()))

    def posterior(self, z: Tensor) -> DiagonalGaussian:
        """q(u | z). Shapes: (B, D) -> mean and log_var (B, D)."""
        head = self.posterior_head(torch.cat([self.encoder(z), z], 1))
        return DiagonalGaussian(*head.chunk(2, 1))

    def mean(self, u: Tensor) -> Tensor:
        """dec(u), the mean of z given u. Shapes: (B, D) -> (B, D)."""
        return self.mean_head(torch.cat([self.decoder(u), u], 1))

    def log_prob(self, z: Tensor) -> Tensor:
        """Raises UsageError: log p(z) = log E_u N(z; dec(u), gamma^2 I) is an integral."""
        raise no_density(self)

    def elbo(self, z: Tensor, *, rng: torch.Generator | int | None = None) -> Tensor:
        r"""E_q log N(z; dec(u), gamma^2 I) - KL(q(u | z) || N(0, I)), with one draw of u; (B,)."""
        q = self.posterior(z)
        error = (z - self.mean(q.rsample(rng=rng))).square().sum(1)
        log_lik = -0.5 * error * (-2 * self.log_gamma).exp()
        log_lik = log_lik - self.dim * (self.log_gamma + 0.5 * log(2 * pi))
        return log_lik - q.kl_standard_normal()

    @torch.no_grad()
    def draw(self, n: int, *, rng: torch.Generator | int | None = None) -> Tensor:
        """``n`` draws z = dec(u) + gamma eps. Shape: (n, D)."""
        rng = source(rng, self.here.device)
        mean = self.mean(self.start(n, rng=rng))
        return mean + self.log_gamma.exp() * self.start(n, rng=rng)


class MixturePrior(NormalBase):
    r"""sum_k w_k N(z; m_k, S_k), S_k = C_k C_k^T full: the density fitted to the codes of RAE
    (ICLR 2020). N(0, I) until it is fitted; what is fitted is kept in buffers."""

    learns_by: ClassVar[PriorObjective | None] = FitToCodes()
    weights: Tensor
    means: Tensor
    factors: Tensor

    def __init__(self, dims: tuple[int, ...], components: int = 10):
        super().__init__(dims)
        eye = torch.eye(self.dim).repeat(components, 1, 1)
        self.register_buffer("weights", torch.full((components,), 1 / components))
        self.register_buffer("means", torch.zeros(components, self.dim))
        self.register_buffer("factors", eye)  # C_k, lower triangular

    def fit(self, z: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
        """Expectation-maximisation by scikit-learn on codes (N, D); the terms to log.

        Raises UsageError for fewer codes than components, or than two.
        """
        if len(z) < max(2, len(self.weights)):
            raise UsageError(
                f"{len(z)} codes cannot fit a mixture of {len(self.weights)} parts: give as many, "
                "and two at least."
            )
        from sklearn.mixture import GaussianMixture

        mixture = GaussianMixture(len(self.weights), random_state=seed).fit(
            z.double().cpu().numpy()
        )
        self.weights.copy_(torch.from_numpy(mixture.weights_))
        self.means.copy_(torch.from_numpy(mixture.means_))
        self.factors.copy_(torch.linalg.cholesky(torch.from_numpy(mixture.covariances_)))
        return {"code_log_lik": self.log_prob(z).mean()}

    def log_prob(self, z: Tensor) -> Tensor:
        """The log-density of the mixture, normalised. Shapes: (B, D) -> (B,)."""
        if not len(z):  # which torch's MultivariateNormal does not take
            return z.new_empty(0)
        parts = MultivariateNormal(self.means, scale_tril=self.factors)
        return MixtureSameFamily(Categorical(self.weights), parts).log_prob(z)

    def f(self, z: Tensor) -> Tensor:
        """log of the mixture over N(0, I). Shapes: (B, D) -> (B,)."""
        return self.log_prob(z) - standard_normal_log_prob(z)

    def draw(self, n: int, *, rng: torch.Generator | int | None = None) -> Tensor:
        """``n`` draws from the mixture. Shape: (n, D)."""
        rng = source(rng, self.here.device)
        if n < 1:  # none, which torch's multinomial cannot draw
            return self.start(n, rng=rng)
        k = self.weights.multinomial(n, replacement=True, generator=rng)
        eps = self.start(n, rng=rng)
        return self.means[k] + torch.einsum("nij,nj->ni", self.factors[k], eps)
