"""log Z, KL and the bound on log p(x) against closed forms, a grid, and each other."""

from math import log, pi

import pytest
import torch

from jlebm_core import systems
from jlebm_core.errors import UsageError
from jlebm_core.evaluate import likelihood
from jlebm_core.gaussians import DiagonalGaussian
from jlebm_core.generators import Generator
from jlebm_core.inference import Encoder
from jlebm_core.langevin import langevin
from jlebm_core.objectives import Variational
from jlebm_core.priors import EBMPrior, GaussianChain, StandardNormal

SIGMAS = 5  # standard errors that a random figure may be off


class Tilt(StandardNormal):
    """N(0, I) tilted by an f that is given."""

    def __init__(self, dim, f):
        super().__init__((dim,))
        self.tilt = f

    def f(self, z):
        return self.tilt(z)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def linear(*a):
    """f(z) = a z: p = N(a, I), log Z = KL = |a|^2 / 2."""
    return Tilt(len(a), lambda z: z @ torch.tensor(a))


def close(estimate, exact, sigmas=SIGMAS):
    return abs(estimate.value - exact) < sigmas * estimate.error


def steep_net(seed, scale=40.0):
    """A random two-layer f in the plane, and its log Z, KL and density on a grid."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = EBMPrior((1, 1), (40, 40), act="silu").double()
    with torch.no_grad():
        prior.net.net[-1].weight *= scale
        axis = torch.linspace(-9, 9, 601, dtype=torch.float64)
        points = torch.cartesian_prod(axis, axis)
        log_p = prior.log_prob(points) + 2 * (axis[1] - axis[0]).log()
        log_z = log_p.logsumexp(0)
        p = (log_p - log_z).exp()
        kl = (p * prior.f(points)).sum() - log_z
    return prior, points, p, log_z.item(), kl.item()


def test_log_mean_exp_has_the_value_the_error_and_the_size_of_a_hand_computation():
    w = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
    value, error, ess = likelihood.log_mean_exp(w.log() + 1000)
    assert value == pytest.approx(log(3) + 1000, abs=1e-9)
    assert error == pytest.approx((w.var() / 4).sqrt().item() / 3, rel=1e-9)
    assert ess == pytest.approx(144 / 50, rel=1e-9)
    equal = likelihood.log_mean_exp(torch.zeros(7))
    assert equal == pytest.approx((0.0, 0.0, 7.0), abs=1e-6)


def test_importance_sampling_of_a_linear_tilt_has_its_log_z_and_its_effective_size():
    n, prior = 100_000, linear(0.6, -0.8)
    found = likelihood.importance(prior, n, rng=seeded(0))
    assert close(found, 0.5)
    # E[w]^2 / E[w^2] = exp(-|a|^2)
    assert found.ess / n == pytest.approx(torch.tensor(-1.0).exp().item(), rel=0.05)


def test_one_rung_forward_is_importance_sampling_exactly():
    prior, z = linear(1.0, 2.0), torch.randn(50, 2, generator=seeded(1))
    log_w, _ = likelihood.anneal(prior.f, z, rungs=1, rng=seeded(2))
    assert torch.equal(log_w, prior.f(z).double())


@pytest.mark.parametrize("dim", [1, 6])
def test_crank_nicolson_without_a_tilt_accepts_everything_and_keeps_the_normal(dim):
    z = torch.randn(20_000, dim, generator=seeded(3))
    end, _, accepted = likelihood.crank_nicolson(
        linear(*[1.0] * dim).f, z, t=0.0, steps=4, rng=seeded(4)
    )
    assert accepted == 1.0
    assert (end.mean(0).abs() < SIGMAS / 20_000**0.5).all()
    assert ((end.var(0) - 1).abs() < SIGMAS * (2 / 20_000) ** 0.5).all()


def test_crank_nicolson_has_the_exact_variance_where_langevin_has_not():
    lam, t, n = 8.0, 0.5, 20_000  # at t the precision is 1 + t lam = 5
    prior = Tilt(1, lambda z: -0.5 * lam * z.square().sum(1))
    start = torch.randn(n, 1, generator=seeded(5))
    z, value, accepted = likelihood.crank_nicolson(prior.f, start, t=t, steps=40, rng=seeded(6))
    error = 0.2 * (2 / n) ** 0.5
    assert abs(z.var() - 0.2) < SIGMAS * error and 0.1 < accepted < 0.99
    assert torch.equal(value, prior.f(z))
    chain = langevin(
        lambda z: t * prior.f(z) + prior.base_log_prob(z),
        start,
        steps=200,
        step_size=0.6,
        rng=seeded(7),
    )
    biased = 0.2 / (1 - 0.36 * 5 / 4)
    assert abs(chain.var() - biased) < SIGMAS * biased * (2 / n) ** 0.5
    assert biased - 0.2 > 2 * SIGMAS * error


def test_annealing_brackets_a_linear_tilt_that_importance_sampling_cannot_reach():
    prior, n = linear(3.0, 0.0, -3.0), 1000
    ends = torch.randn(n, 3, generator=seeded(8)) + torch.tensor([3.0, 0.0, -3.0])
    lower, upper = likelihood.annealed(prior, ends, rungs=400, rng=seeded(9))
    assert close(lower, 9.0) and close(upper, 9.0)
    assert max(lower.error, upper.error) < 0.1
    direct = likelihood.importance(prior, n, rng=seeded(10))
    assert direct.value < 9 - 1 and direct.ess < 20  # exp(-18) n weights: far too few


def test_few_rungs_give_bounds_on_either_side():
    """Means of many single weights: E[log w] below log Z, E[-log 1/w] above it, both strictly."""
    prior, n = linear(2.0, 0.0), 4000
    start = torch.randn(n, 2, generator=seeded(11))
    below, _ = likelihood.anneal(prior.f, start, rungs=3, rng=seeded(12))
    above, _ = likelihood.anneal(
        prior.f, start + torch.tensor([2.0, 0.0]), rungs=3, reverse=True, rng=seeded(13)
    )
    for log_w, side in ((below, -1), (above, 1)):
        found = likelihood.mean(log_w)
        assert side * (found.value - 2.0) > SIGMAS * found.error
    assert close(likelihood.log_mean_exp(below), 2.0)  # the weights themselves have no bias


def test_slope_is_the_norm_of_the_gradient_of_f_alone():
    z = torch.randn(5, 3, generator=seeded(0))
    assert likelihood.slope(linear(3.0, 0.0, 4.0), z) == pytest.approx(torch.full((5,), 5.0))
    halved = Tilt(3, lambda z: -0.25 * z.square().sum(1))
    with torch.no_grad():
        assert torch.allclose(likelihood.slope(halved, z), z.norm(dim=1) / 2)


def test_annealing_has_the_log_z_of_a_quadratic_tilt():
    lam = torch.tensor([0.5, 3.0, 15.0])
    prior = Tilt(3, lambda z: -0.5 * z.square() @ lam)
    exact = -0.5 * (1 + lam).log().sum().item()
    ends = torch.randn(2000, 3, generator=seeded(14)) / (1 + lam).sqrt()
    lower, upper = likelihood.annealed(prior, ends, rungs=50, rng=seeded(15))
    assert close(lower, exact) and close(upper, exact)


def test_a_network_in_the_plane_against_the_grid():
    prior, points, p, log_z, kl = steep_net(0)
    assert kl > 0.3  # or there would be nothing to estimate
    ends = points[p.multinomial(4000, replacement=True, generator=seeded(16))]
    lower, upper = likelihood.annealed(prior.float(), ends.float(), rungs=50, rng=seeded(17))
    direct = likelihood.importance(prior, 50_000, rng=seeded(18))
    assert close(lower, log_z) and close(upper, log_z) and close(direct, log_z)
    assert close(likelihood.kl_from_base(prior, ends.float(), lower), kl)


@pytest.mark.parametrize("c", [1.0, 3.0])
def test_a_lipschitz_network_stays_within_its_bound(c):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        prior = EBMPrior((2, 2), (30, 30), spectral_norm=c).eval()
    z = prior.start(2000, rng=seeded(19))
    z, _, _ = likelihood.crank_nicolson(prior.f, z, steps=20, rng=seeded(20))
    kl = likelihood.kl_from_base(prior, z, likelihood.importance(prior, 50_000, rng=seeded(21)))
    assert -SIGMAS * kl.error < kl.value <= c**2 / 2 + SIGMAS * kl.error


class LinearGenerator(Generator):
    """h_1(z) = W z as an image of 1 x 2 x 2."""

    W = torch.tensor([[1.0, 0.5], [-0.5, 2.0], [0.3, 0.3], [0.0, -1.0]])

    def mean(self, z):
        return (z @ self.W.T).view(-1, 1, 2, 2)


def linear_gaussian(widen):
    """p(z) = N(a, I) by a tilt, x = W z + sigma eps; q = the exact posterior, widened; log p(x).

    In the coordinates z the posterior must be diagonal, so W is turned by its singular vectors.
    """
    a, generator = torch.tensor([0.5, -1.0]), LinearGenerator(0.5)
    turned = torch.linalg.svd(generator.W)
    generator.W = generator.W @ turned.Vh.T  # columns now orthogonal
    variance = 1 / (1 + generator.W.square().sum(0) / 0.25)

    class Widened(Encoder):
        def posterior(self, x):
            mean = variance * (x.flatten(1) @ generator.W / 0.25 + a)
            return DiagonalGaussian(mean, (widen * variance).log().expand_as(mean))

    system = systems.System(linear(*a.tolist()), generator, Widened(), Variational())
    cov = generator.W @ generator.W.T + 0.25 * torch.eye(4)

    def exact(x):
        d = x.flatten(1) - generator.W @ a
        quadratic = (d @ torch.linalg.inv(cov) * d).sum(1)
        return -0.5 * (quadratic + torch.logdet(cov) + 4 * log(2 * pi))

    return system, exact, a.square().sum().item() / 2


def test_the_importance_weighted_bound_is_exact_with_the_exact_posterior():
    system, exact, log_z = linear_gaussian(widen=1.0)
    x = torch.randn(6, 1, 2, 2, generator=seeded(22))
    for k in (1, 3):
        found = likelihood.importance_weighted(system, x, log_z, samples=k, rng=seeded(23))
        assert torch.allclose(found, exact(x).double(), atol=1e-4)


def test_the_importance_weighted_bound_rises_to_log_p():
    system, exact, log_z = linear_gaussian(widen=2.5)
    x = torch.randn(400, 1, 2, 2, generator=seeded(24))
    gaps = {
        k: likelihood.mean(
            likelihood.importance_weighted(system, x, log_z, samples=k, rng=seeded(25)) - exact(x)
        )
        for k in (1, 4, 1000)
    }
    # k = 1 is the ELBO: minus KL(q || posterior) = (widen - 1 - log widen) for two dimensions
    assert close(gaps[1], -(1.5 - log(2.5)))
    assert gaps[1].value < gaps[4].value - SIGMAS * gaps[4].error
    assert gaps[4].value < gaps[1000].value
    assert -0.01 < gaps[1000].value < SIGMAS * gaps[1000].error


def test_bad_input_gets_one_sentence():
    chain = GaussianChain((2, 2), (8,))
    with pytest.raises(UsageError, match="the base of GaussianChain is another"):
        likelihood.importance(chain, 10)
    with pytest.raises(UsageError, match="the base of GaussianChain is another"):
        likelihood.annealed(chain, chain.start(10))
    with pytest.raises(UsageError, match="at least two weights"):
        likelihood.log_mean_exp(torch.zeros(1))
    system = systems.build(systems.configure("lebm", "demo", (1, 28, 28)))
    with pytest.raises(UsageError, match="LangevinPosterior has no density"):
        likelihood.importance_weighted(system, torch.zeros(1, 1, 28, 28), 0.0, samples=2)
