"""Diagonal normals: densities, divergences and the precision merge against exact answers."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from jlebm_core.gaussians import (
    DiagonalGaussian,
    joined,
    merge,
    standard_normal,
    standard_normal_log_prob,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(seed=0, n=4, d=3):
    return DiagonalGaussian(*torch.randn(2, n, d, generator=seeded(seed), dtype=torch.float64))


def as_torch(q):
    return Normal(q.mean, q.std)


def test_density_and_divergences_match_torch_distributions():
    q, p = gaussian(), gaussian(1)
    z = torch.randn(4, 3, generator=seeded(2), dtype=torch.float64)
    torch.testing.assert_close(q.log_probs(z), as_torch(q).log_prob(z))
    torch.testing.assert_close(q.log_prob(z), as_torch(q).log_prob(z).sum(1))
    torch.testing.assert_close(q.kls(p), kl_divergence(as_torch(q), as_torch(p)))
    base = standard_normal(4, 3, z)
    torch.testing.assert_close(base.log_prob(z), standard_normal_log_prob(z))
    torch.testing.assert_close(q.kl_standard_normal(), q.kls(base).sum(1))


def test_monte_carlo_kl_averages_to_the_closed_form():
    rows = torch.tensor([[[0.5, -1.0]], [[-0.7, 0.3]]])
    q = DiagonalGaussian(*(t.repeat(100_000, 1) for t in rows))
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


def test_split_and_joined_are_inverse():
    q = gaussian(d=6)
    parts = q.split((1, 3, 2))
    assert [p.mean.shape[1] for p in parts] == [1, 3, 2]
    assert joined(parts).mean.equal(q.mean) and joined(parts).log_var.equal(q.log_var)


def test_the_merge_is_the_conditional_of_a_joint_normal():
    """z ~ N(mu_p, s_p^2) and m = z + N(0, s^2): p(z | m) by conditioning the joint of (z, m)."""
    prior, seen = gaussian(3), gaussian(4)
    merged = merge(seen, prior)
    for index in [(0, 0), (1, 2), (3, 1)]:
        mu, var, m, noise = (
            float(t[index])
            for t in (prior.mean, prior.log_var.exp(), seen.mean, seen.log_var.exp())
        )
        cov = torch.tensor([[var, var], [var, var + noise]], dtype=torch.float64)
        gain = cov[0, 1] / cov[1, 1]
        assert merged.mean[index].item() == pytest.approx(mu + gain.item() * (m - mu))
        variance = (cov[0, 0] - gain * cov[1, 0]).item()
        assert merged.log_var[index].exp().item() == pytest.approx(variance)


def test_the_merge_is_stable_and_symmetric():
    sharp = DiagonalGaussian(torch.tensor([[2.0]]), torch.tensor([[-200.0]]))
    flat = DiagonalGaussian(torch.tensor([[-5.0]]), torch.tensor([[200.0]]))
    for q in (merge(sharp, flat), merge(flat, sharp)):
        torch.testing.assert_close(q.mean, sharp.mean)
        torch.testing.assert_close(q.log_var, sharp.log_var)
