"""Inference: the diagonal Gaussian, the ladder encoder, Langevin against an exact posterior."""

import pytest
import torch
from torch import nn

from jlebm_core.errors import UsageError
from jlebm_core.inference import DiagonalGaussian, LadderEncoder, LangevinPosterior
from jlebm_core.priors import StandardNormal, standard_normal_log_prob


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(n=4, d=3):
    return DiagonalGaussian(*torch.randn(2, n, d, generator=seeded()))


def test_density_matches_torch_distributions():
    q, z = gaussian(), torch.randn(4, 3, generator=seeded(1))
    expected = torch.distributions.Normal(q.mean, (0.5 * q.log_var).exp())
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(z).sum(1))
    standard = torch.distributions.Normal(0.0, 1.0)
    kl = torch.distributions.kl_divergence(expected, standard).sum(1)
    torch.testing.assert_close(q.kl_standard_normal(), kl)


def test_monte_carlo_kl_averages_to_the_closed_form():
    q = DiagonalGaussian(
        *(t.repeat(100_000, 1) for t in torch.tensor([[[0.5, -1.0]], [[-0.7, 0.3]]]))
    )
    z = q.rsample(rng=seeded())
    estimates = q.log_prob(z) - standard_normal_log_prob(z)
    error = estimates.std().item() / len(z) ** 0.5
    assert abs(estimates.mean().item() - q.kl_standard_normal()[0].item()) < 5 * error


def test_samples_are_reparametrised():
    mean = torch.zeros(2, 3, requires_grad=True)
    log_var = torch.zeros(2, 3, requires_grad=True)
    q = DiagonalGaussian(mean, log_var)
    z = q.rsample(rng=seeded(7))
    z.sum().backward()
    assert mean.grad.equal(torch.ones(2, 3))
    torch.testing.assert_close(log_var.grad, 0.5 * z.detach())


def test_ladder_reads_each_layer_off_its_own_level():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = LadderEncoder((1, 2, 3), (1, 8, 8), ("down 2", "fc 5"), ("down 3", "fc 4", ""))
    x = torch.randn(6, 1, 8, 8, generator=seeded())
    q = encoder.posterior(x)
    t1 = encoder.trunk[0](x)
    t2 = encoder.trunk[1](t1)
    reads = [ladder(t) for ladder, t in zip(encoder.ladders, (x, t1, t2), strict=True)]
    for k, part in enumerate((q.mean, q.log_var)):
        expected = [head[k](r) for head, r in zip(encoder.heads, reads, strict=True)]
        assert part.equal(torch.cat(expected, 1))
    assert encoder.posterior(x[:1]).mean.shape == (1, 6)


def test_ladder_refuses_what_does_not_fit():
    with pytest.raises(UsageError, match="L layers need L ladders"):
        LadderEncoder((2, 2), (1, 8, 8), (), ("fc 3", "fc 3"))


class LinearGenerator(nn.Module):
    """x = W z + N(0, sigma^2): the posterior is a known normal."""

    def __init__(self, weight, sigma):
        super().__init__()
        self.weight, self.sigma = weight, sigma

    def log_lik(self, x, z):
        return -(x - z @ self.weight.T).square().sum(1) / (2 * self.sigma**2)


def test_posterior_langevin_reaches_the_exact_posterior():
    weight, sigma, s, n = torch.tensor([[1.0, 0.4], [0.0, 0.8], [0.5, 0.0]]), 0.5, 0.1, 20_000
    x = torch.tensor([0.3, -1.0, 0.6]).repeat(n, 1)
    precision = torch.eye(2) + weight.T @ weight / sigma**2
    mean = torch.linalg.solve(precision, weight.T @ x[0] / sigma**2)
    # unadjusted chain of step s: covariance (A (I - s^2 A / 4))^-1 for precision A
    cov = torch.linalg.inv(precision @ (torch.eye(2) - s**2 / 4 * precision))
    z = LangevinPosterior(1500, s).sample(
        x, StandardNormal((2,)), LinearGenerator(weight, sigma), rng=seeded()
    )
    error = (cov.diagonal() / n).sqrt()
    assert ((z.mean(0) - mean).abs() < 5 * error).all()
    assert ((z.T.cov() - cov).abs() < 5 * cov.diagonal().max() * (2 / n) ** 0.5).all()
