"""Priors: densities, tilts and chains against exact answers."""

import math

import pytest
import torch

from jlebm_core.errors import UsageError
from jlebm_core.gaussians import standard_normal_log_prob
from jlebm_core.langevin import langevin
from jlebm_core.priors import (
    EBMPrior,
    RatioPrior,
    StandardNormal,
    sample_layer,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_standard_normal_density_and_samples():
    prior = StandardNormal((1, 3))
    z = prior.sample(50_000, rng=seeded())
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(prior.log_prob(z), expected)
    assert z.shape == (50_000, 4)
    assert abs(z.mean().item()) < 5 / z.numel() ** 0.5
    assert abs(z.var().item() - 1) < 5 * (2 / z.numel()) ** 0.5


def test_no_hidden_layers_means_no_tilt():
    prior = EBMPrior((2, 2), ())
    z = torch.randn(7, 4, generator=seeded())
    assert prior.f(z).equal(torch.zeros(7))
    assert prior.log_prob(z).equal(standard_normal_log_prob(z))
    assert not list(prior.parameters())


def test_zero_steps_are_the_base():
    prior = EBMPrior((2,), (8,))
    assert prior.sample(9, steps=0, rng=seeded(4)).equal(
        StandardNormal((2,)).sample(9, rng=seeded(4))
    )


def test_chain_follows_a_two_dimensional_density_on_a_grid():
    """Histogram of chains against exp(f) p_0 / Z on a grid; Z against importance sampling."""

    def f(z):  # a ring of radius 1.5, smooth, with gradients small against 1/s
        return -2 * (z.square().sum(1) - 2.25).square() / (1 + z.square().sum(1))

    step, cells, limit = 0.1, 8, 4.0

    def log_prob(z):
        return f(z) + standard_normal_log_prob(z)

    n, rng = 20_000, seeded()
    start = StandardNormal((2,)).sample(n, rng=rng)
    z = langevin(log_prob, start, steps=2000, step_size=step, rng=rng)

    fine = 400  # quadrature points a side; every histogram cell holds 50 x 50 of them
    axis = (torch.arange(fine) + 0.5) / fine * 2 * limit - limit
    grid = torch.cartesian_prod(axis, axis)
    weights = log_prob(grid).exp() * (2 * limit / fine) ** 2
    log_z = weights.sum().log().item()

    p_0 = torch.randn(200_000, 2, generator=seeded(1))
    ratios = f(p_0).exp()
    error = (ratios.std() / ratios.mean() / len(p_0) ** 0.5).item()
    assert abs(ratios.mean().log().item() - log_z) < 5 * error

    exact = (weights / weights.sum()).view(cells, fine // cells, cells, fine // cells).sum((1, 3))
    index = ((z + limit) / (2 * limit) * cells).long()
    inside = ((index >= 0) & (index < cells)).all(1)
    assert inside.float().mean() > 0.9999
    counts = torch.zeros(cells, cells).index_put_(
        tuple(index[inside].T), torch.ones(()), accumulate=True
    )
    # sum |p - q| of n draws from p itself: each term at most sqrt(p (1 - p) / n) on average;
    # the step adds a bias of order s^2 = 0.01.
    noise = (exact * (1 - exact) / n).sqrt().sum().item()
    assert (counts / n - exact).abs().sum().item() < noise + 0.03


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_spectral_norm_bounds_the_slope_of_f(scale):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior = EBMPrior((3, 3), (50, 50), spectral_norm=scale)
        for p in prior.parameters():
            torch.nn.init.normal_(p)
    for _ in range(200):
        prior.f(torch.zeros(1, 6))  # each call in training mode is a power iteration
    prior.eval()
    a, b = (3 * torch.randn(5_000, 6, generator=seeded(i)) for i in (1, 2))
    slopes = (prior.f(a) - prior.f(b)).abs() / (a - b).norm(dim=1)
    assert slopes.max() <= scale * 1.001
    assert slopes.max() > 0.01 * scale  # not the trivial f = const


def test_a_lipschitz_tilt_stays_within_half_a_nat():
    """KL(p || N(0, I)) = E_p[f] - log Z <= 1/2 for any 1-Lipschitz f (log-Sobolev inequality)."""
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    f = x.abs()
    p_0 = (-0.5 * x.square()).exp() / math.sqrt(2 * math.pi)
    z = torch.trapezoid(f.exp() * p_0, x)
    kl = torch.trapezoid(f.exp() * p_0 / z * f, x) - z.log()
    assert abs(z.log().item() - 1.020) < 5e-4 and abs(kl.item() - 0.267) < 5e-4
    assert kl < 0.5


def test_sampling_leaves_parameters_and_their_gradients_alone():
    prior = EBMPrior((2,), (8,), spectral_norm=1.0)
    before = [p.clone() for p in prior.parameters()]
    prior.sample(3, rng=seeded())
    assert all(
        p.grad is None and p.equal(b) for p, b in zip(prior.parameters(), before, strict=True)
    )


def ratios(count, hidden=(8, 6), **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return RatioPrior((2, 1), count, hidden, **options)


def test_ratios_join_f_one_after_the_other():
    prior, z = ratios(3), torch.randn(5, 3, generator=seeded())
    each = prior.net.each(z)
    assert prior.f(z).equal(torch.zeros(5)) and prior.logit(z).equal(each[:, 0])
    assert prior.sample(4, rng=seeded()).equal(prior.start(4, rng=seeded()))  # exact so far
    prior.switch_on()
    prior.switch_on()
    assert not prior.sample(4, rng=seeded()).equal(prior.start(4, rng=seeded()))
    torch.testing.assert_close(prior.f(z), each[:, :2].sum(1))
    assert prior.logit(z).equal(each[:, 2])
    prior.switch_on()
    torch.testing.assert_close(prior.f(z), each.sum(1))
    assert prior.net.on.equal(torch.ones(3)) and "net.on" in prior.state_dict()


@pytest.mark.parametrize("spectral_norm", [None, 2.0])
def test_the_sum_of_energies_is_the_mlp_that_its_layers_describe(spectral_norm):
    prior = ratios(3, spectral_norm=spectral_norm).eval()
    prior.switch_on()
    prior.switch_on()
    z = torch.randn(9, 3, generator=seeded())
    *hidden, (w, b) = prior.net.layers()
    h = z
    for weight, bias in hidden:
        h = torch.nn.functional.leaky_relu(h @ weight.T + bias, 0.2)
    torch.testing.assert_close((h @ w.T + b).squeeze(1), prior.f(z))
    fast = prior.sample(9, steps=4, rng=seeded())
    slow = prior.sample(9, steps=4, rng=seeded(), callback=lambda k, z, value: None)
    torch.testing.assert_close(fast, slow)


def test_importance_resampling_has_the_moments_and_the_sample_size_of_a_known_ratio():
    """r(z) = exp(a^T z): p = N(a, I). The effective size of M draws tends to M exp(-|a|^2)."""
    a = torch.tensor([0.5, -0.3, 0.2])
    prior = ratios(1)
    prior.f = lambda z: z @ a
    n, m = 4000, 2000
    z, sizes = prior.resample(n, proposals=m, rng=seeded())
    assert z.shape == (n, 3) and sizes.shape == (n,)
    # one draw out of M proposals has a bias of order 1 / M, far below the error of n draws
    assert ((z.mean(0) - a).abs() < 5 / n**0.5).all()
    assert ((z.var(0) - 1).abs() < 5 * (2 / n) ** 0.5).all()
    assert sizes.mean().item() == pytest.approx(m * math.exp(-a.square().sum()), rel=0.02)
    uniform = ratios(1)  # no ratio is on: r = 1
    assert uniform.resample(3, proposals=50, rng=seeded())[1].allclose(torch.tensor(50.0))


def quadratic(dims, a, coupling):
    """A prior with f(z) = a.z - z^T C z / 2: normal, of precision I + C and linear term a."""
    prior = EBMPrior(dims, ())
    prior.f = lambda z: z @ a - 0.5 * ((z @ coupling) * z).sum(1)
    return prior


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_layer_given_the_others_follows_its_conditional(layer):
    """z_i | z_rest is normal of precision P_ii and mean (a - P_ir z_r) / P_ii; the chain of step s
    keeps the mean and widens the variance to 1 / (P (1 - s^2 P / 4))."""
    coupling = torch.tensor([[0.3, 0.4, -0.2], [0.4, 0.8, 0.5], [-0.2, 0.5, 0.6]])
    a = torch.tensor([0.5, -0.3, 0.8])
    prior = quadratic((1, 1, 1), a, coupling)
    n, i, s = 20_000, layer - 1, prior.step_size
    z = torch.tensor([1.2, -0.7, 0.9]).repeat(n, 1)
    end = sample_layer(prior, z, layer, steps=120, rng=seeded())
    others = [j for j in range(3) if j != i]
    assert torch.equal(end[:, others], z[:, others])
    precision = torch.eye(3) + coupling
    p = precision[i, i].item()
    mean = ((a[i] - precision[i, others] @ z[0, others]) / p).item()
    variance = 1 / (p * (1 - s**2 * p / 4))
    assert abs(end[:, i].mean().item() - mean) < 5 * (variance / n) ** 0.5
    assert abs(end[:, i].var().item() - variance) < 5 * variance * (2 / n) ** 0.5


def test_the_only_layer_given_no_others_is_the_prior_itself():
    prior = EBMPrior((3,), (16,))
    z = torch.full((6, 3), 9.0)  # what is replaced plays no part
    alone = sample_layer(prior, z, 1, rng=seeded(2))
    torch.testing.assert_close(alone, prior.sample(6, rng=seeded(2)), atol=1e-5, rtol=1e-5)


def test_a_layer_that_no_chain_can_draw_is_refused():
    z = torch.zeros(2, 3)
    with pytest.raises(UsageError, match="chains of a learned prior"):
        sample_layer(StandardNormal((1, 2)), z, 1)
    for layer in (0, 3):
        with pytest.raises(UsageError, match="the prior has 1 to 2"):
            sample_layer(EBMPrior((1, 2), (4,)), z, layer)
