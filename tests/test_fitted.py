"""Priors fitted to codes: a mixture is recovered, a second VAE is bounded and sampled."""

import pytest
import torch

from jlebm_core.errors import UsageError
from jlebm_core.gaussians import standard_normal_log_prob
from jlebm_core.priors import MixturePrior, SecondVAE


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_mixture_is_standard_normal_until_it_is_fitted():
    prior = MixturePrior((2, 1), 4)
    z = torch.randn(6, 3, generator=seeded())
    torch.testing.assert_close(prior.log_prob(z), standard_normal_log_prob(z))
    torch.testing.assert_close(prior.f(z), torch.zeros(6), atol=1e-5, rtol=0)
    assert not list(prior.parameters()) and "factors" in prior.state_dict()


def test_a_mixture_recovers_the_one_that_made_its_codes():
    n = 20_000
    weights = torch.tensor([0.5, 0.3, 0.2])
    means = torch.tensor([[-4.0, 0.0], [3.0, 3.0], [2.0, -5.0]])
    factors = torch.tensor([[1.0, 0.0, 0.5, 0.4], [0.6, 0.0, -0.3, 1.0], [0.5, 0.0, 0.0, 0.5]])
    factors = factors.view(3, 2, 2)
    truth = MixturePrior((2,), 3)
    truth.load_state_dict({"weights": weights, "means": means, "factors": factors})
    z = truth.sample(n, rng=seeded())
    prior = MixturePrior((2,), 3)
    prior.fit(z)
    order = torch.cdist(means, prior.means).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2]
    covs, found = (f @ f.mT for f in (factors, prior.factors[order]))
    spread = covs.diagonal(dim1=1, dim2=2)
    counts = n * weights[:, None]
    assert ((prior.weights[order] - weights).abs() < 5 * (weights / n).sqrt()).all()
    assert ((prior.means[order] - means).abs() < 5 * (spread / counts).sqrt()).all()
    error = ((spread[:, :, None] * spread[:, None] + covs.square()) / counts[..., None]).sqrt()
    assert ((found - covs).abs() < 5 * error).all()
    again = prior.sample(n, rng=seeded(1))
    gaps = truth.log_prob(z) - prior.log_prob(z)
    assert 0 > gaps.mean() > -0.01  # its own likelihood is the highest, by about 17 / 2n
    assert abs(again.mean(0) - z.mean(0)).max() < 5 * (2 * z.var(0).max() / n) ** 0.5


def test_too_few_codes_are_refused():
    with pytest.raises(UsageError, match="3 codes cannot fit a mixture of 10"):
        MixturePrior((2,)).fit(torch.zeros(3, 2))


def linear_second_vae():
    """A second VAE with dec(u) = A u, gamma: the marginal of z is N(0, A A^T + gamma^2 I)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior = SecondVAE((2,), (8,)).double()
    a = torch.tensor([[1.0, 0.0], [0.7, 0.5]], dtype=torch.float64)
    with torch.no_grad():
        for head in (prior.mean_head, prior.posterior_head):
            head.weight.zero_()
            head.bias.zero_()
        prior.mean_head.weight[:, -2:] = a  # the input joins the last hidden layer
        prior.log_gamma.fill_(-0.5)
    return prior, a


def test_the_second_vae_bounds_and_samples_its_marginal():
    prior, a = linear_second_vae()
    gamma, n = prior.log_gamma.exp().item(), 100_000
    cov = a @ a.T + gamma**2 * torch.eye(2, dtype=torch.float64)
    z = prior.sample(n, rng=seeded()).detach()
    error = ((cov.diagonal()[:, None] * cov.diagonal() + cov.square()) / n).sqrt()
    assert ((z.T.cov() - cov).abs() < 5 * error).all()
    marginal = torch.distributions.MultivariateNormal(torch.zeros(2).double(), cov)
    with torch.no_grad():  # the exact posterior as far as a diagonal one goes: the bound is below
        precision = torch.eye(2).double() + a.T @ a / gamma**2
        prior.posterior_head.weight[:2, -2:] = torch.linalg.inv(precision) @ a.T / gamma**2
        prior.posterior_head.bias[2:] = -precision.diagonal().log()
        bound, exact = prior.elbo(z, rng=seeded(1)).mean(), marginal.log_prob(z).mean()
    # the gap is KL(q || p(u | z)) of a diagonal q with the exact mean: 1/2 (sum log P_ii - log |P|)
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    spread = (prior.elbo(z, rng=seeded(1)) - marginal.log_prob(z)).std().item()
    assert abs((exact - bound - gap).item()) < 5 * spread / n**0.5 and gap > 0.05


def test_the_second_vae_learns_codes_that_are_no_standard_normal():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior = SecondVAE((2,), (64, 64), act="silu")
    optimiser, rng = torch.optim.Adam(prior.parameters(), 5e-3), seeded()

    def ring(n):
        angle = torch.rand(n, generator=rng) * 2 * torch.pi
        z = 2 * torch.stack([angle.cos(), angle.sin()], 1)
        return z + 0.1 * torch.randn(n, 2, generator=rng)

    for _ in range(1000):
        optimiser.zero_grad()
        (-prior.elbo(ring(200), rng=rng).mean()).backward()
        optimiser.step()
    radius = prior.sample(2000, rng=rng).detach().norm(dim=1)
    assert abs(radius.mean() - 2) < 0.3 and radius.std() < 0.5  # N(0, I): 1.25 and 0.66
    assert prior.log_gamma.exp() < 0.5
