"""Chains of priors: a dense normal as oracle, noises and codes, the layer-wise tilt."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from jlebm_core.gaussians import DiagonalGaussian, standard_normal_log_prob
from jlebm_core.objectives import Contrast, kl_to_base
from jlebm_core.priors import GaussianChain, TiltedChain
from jlebm_core.settings import KL_ESTIMATES

DIMS = (2, 1, 3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def made(kind, *args, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(*args, **options).double()


def codes(n=5, seed=1):
    return torch.randn(n, sum(DIMS), generator=seeded(seed), dtype=torch.float64)


def linear_chain(floor=0.1):
    """Conditionals with linear means and constant deviations, and the dense normal they make."""
    chain = made(GaussianChain, DIMS, (), floor=floor)
    dim = sum(DIMS)
    # z = mean + A z + diag(sigma) eps, A strictly upper block triangular (z_i depends on z_{i+1})
    a = torch.zeros(dim, dim, dtype=torch.float64)
    shift, sigma = torch.zeros(dim, dtype=torch.float64), torch.ones(dim, dtype=torch.float64)
    start = 0
    for d, above, net in zip(DIMS, DIMS[1:], chain.conditionals, strict=False):
        weight, bias = net[0].weight.data, net[0].bias.data
        weight[d:] = 0.0  # log sigma does not depend on the layer above
        rows = slice(start, start + d)
        a[rows, start + d : start + d + above] = weight[:d]
        shift[rows], sigma[rows] = bias[:d], floor + bias[d:].exp()
        start += d
    inverse = torch.linalg.inv(torch.eye(dim, dtype=torch.float64) - a)
    cov = inverse @ torch.diag(sigma**2) @ inverse.T
    return chain, MultivariateNormal(inverse @ shift, cov)


def test_a_linear_chain_is_the_dense_normal():
    chain, dense = linear_chain()
    z = codes()
    torch.testing.assert_close(chain.log_prob(z), dense.log_prob(z))
    n = 200_000
    draws = chain.sample(n, rng=seeded())
    spread = dense.covariance_matrix.diagonal()
    assert ((draws.mean(0) - dense.mean).abs() < 5 * (spread / n).sqrt()).all()
    error = ((spread[:, None] * spread + dense.covariance_matrix.square()) / n).sqrt()
    assert ((draws.T.cov() - dense.covariance_matrix).abs() < 5 * error).all()


@pytest.mark.parametrize("skips", [False, True])
def test_noises_and_codes_are_one_change_of_variables(skips):
    """log p(z) = log N(eps; 0, I) - log |det dz / deps|, the determinant by autograd."""
    chain = made(GaussianChain, DIMS, (8,), skips=skips)
    eps = codes()
    z = chain.from_noise(eps)
    torch.testing.assert_close(chain.to_noise(z), eps)
    for e, one in zip(eps, z, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda t: chain.from_noise(t[None])[0], e)
        expected = standard_normal_log_prob(e[None]) - torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(chain.log_prob(one[None]), expected)


def test_skips_let_a_layer_see_all_layers_above_and_the_plain_chain_only_the_next():
    for skips in (False, True):
        chain = made(GaussianChain, DIMS, (8,), skips=skips)
        z = codes()
        moved = z.clone()
        moved[:, 3:] += 1.0  # the top layer
        bottom, other = (chain.base(t).mean[:, :2] for t in (z, moved))
        assert bottom.equal(other) != skips


def test_the_floor_bounds_every_deviation_and_one_layer_is_the_standard_normal():
    chain = made(GaussianChain, DIMS, (8,), floor=0.3)
    for p in chain.parameters():
        p.data *= 30
    std = chain.base(codes(200)).std
    assert std.min() >= 0.3 - 1e-9 and std.max() <= 0.3 + math.e**3 + 1e-9
    single = GaussianChain((4,))
    z = codes()[:, :4].float()
    assert not list(single.parameters())
    torch.testing.assert_close(single.log_prob(z), standard_normal_log_prob(z))


def test_exact_kl_of_each_layer_averages_to_the_divergence_of_the_whole():
    """sum_i KL(q_i || p_i) at draws of q against the exact KL between two dense normals."""
    chain, dense = linear_chain()
    n = 200_000
    mean, log_var = torch.randn(2, 1, sum(DIMS), generator=seeded(5), dtype=torch.float64)
    q = DiagonalGaussian(mean.expand(n, -1), log_var.expand(n, -1))
    normal = MultivariateNormal(mean[0], torch.diag(log_var[0].exp()))
    exact = torch.distributions.kl_divergence(normal, dense).item()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        z = q.mean + q.std * torch.randn_like(q.mean)
    for estimate in KL_ESTIMATES:
        kl = kl_to_base(q, z, chain.base(z), estimate).sum(1)
        assert abs(kl.mean().item() - exact) < 5 * kl.std().item() / n**0.5


def test_the_tilted_chain_without_energies_is_the_chain():
    tilted = made(TiltedChain, DIMS, (8,), ())
    chain = made(GaussianChain, DIMS, (8,))
    chain.load_state_dict(tilted.state_dict())
    z = codes()
    assert tilted.log_prob(z).equal(chain.log_prob(z))
    assert tilted.sample(3, steps=0, rng=seeded()).equal(chain.sample(3, rng=seeded()))


def test_each_energy_sees_its_own_layer_alone():
    prior = made(TiltedChain, DIMS, (8,), ((4,), (5, 5), (6,)))
    z = codes()
    parts = [net(t) for net, t in zip(prior.nets, z.split(DIMS, 1), strict=True)]
    torch.testing.assert_close(prior.f(z), sum(parts))
    assert [len(net.layers()) for net in prior.nets] == [2, 3, 2]


def test_the_prior_loss_has_the_gradient_of_the_split_form():
    """The released code writes it layer by layer, as energies e_1, e_2 and log p(z_1 | z_2)."""
    prior = made(TiltedChain, (2, 3), (8,), (6,))
    z_pos, z_neg = (codes(50, seed)[:, :5] for seed in (1, 2))
    loss, _ = Contrast(base=True)(prior, z_pos, z_neg)
    loss.backward()
    whole = {k: p.grad.clone() for k, p in prior.named_parameters()}
    prior.zero_grad()

    def split(z):
        z_1, z_2 = z.split((2, 3), 1)
        e_1, e_2 = -prior.nets[0](z_1), -prior.nets[1](z_2)
        mean, s = prior.conditionals[0](z_2).chunk(2, 1)
        sigma = prior.floor + s.exp()
        pz1gz2 = torch.distributions.Normal(mean, sigma).log_prob(z_1).sum(1)
        return e_1.mean(), e_2.mean(), pz1gz2.mean()

    (e_1_pos, e_2_pos, chain_pos), (e_1_neg, e_2_neg, chain_neg) = split(z_pos), split(z_neg)
    (e_1_pos - e_1_neg + e_2_pos - e_2_neg - (chain_pos - chain_neg)).backward()
    for k, p in prior.named_parameters():
        torch.testing.assert_close(p.grad, whole[k])


def test_chains_reach_the_tilted_density():
    """f_i(z_i) = a_i^T z_i on a linear chain: a dense normal of the same covariance, moved."""
    chain, dense = linear_chain(floor=0.5)
    n = 1_000
    prior = made(TiltedChain, DIMS, (), (), floor=0.5, steps=800, step_size=0.35)
    prior.load_state_dict(chain.state_dict())
    a = torch.tensor([0.5, -0.3, 0.4, -0.6, 0.2, 0.1], dtype=torch.float64)
    prior.f = lambda z: z @ a
    z = prior.double().sample(n, rng=seeded())
    cov = dense.covariance_matrix
    error = (cov.diagonal() / n).sqrt()
    # an unadjusted chain keeps the mean of a normal exactly, once its start is forgotten
    assert ((z.mean(0) - (dense.mean + cov @ a)).abs() < 5 * error).all()


def test_all_layers_of_a_prior_chain_start_from_the_standard_normal():
    prior, seen = made(TiltedChain, DIMS, (8,), (6,)), {}
    prior.sample(7, steps=2, rng=seeded(3), callback=lambda k, z, value: seen.update({k: z}))
    assert seen[0].equal(prior.start(7, rng=seeded(3))) and set(seen) == {0, 1, 2}
