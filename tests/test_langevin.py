"""The sampler against chains whose laws are known exactly."""

import pytest
import torch

from jlebm_core.gaussians import standard_normal_log_prob
from jlebm_core.langevin import langevin, langevin_block

S = 0.4
CHAINS, DIM = 20_000, 2
LONG = 120  # (1 - s^2/2)^120 = 4.5e-5: the start is forgotten


def chains(log_prob, *, steps=LONG, step_size=S, seed=0, start=None):
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(CHAINS, DIM, generator=rng) if start is None else start
    return langevin(log_prob, z, steps=steps, step_size=step_size, rng=rng)


def close_variance(sample, exact):
    """Within 5 standard errors: the variance of a normal's sample variance is 2 v^2 / n."""
    n = sample.numel()
    assert abs(sample.var().item() - exact) < 5 * exact * (2 / n) ** 0.5


def close_mean(sample, exact, variance):
    assert abs(sample.mean().item() - exact) < 5 * (variance / sample.numel()) ** 0.5


@pytest.mark.parametrize("s", [0.3, 0.4, 1.0])
def test_stationary_variance_without_tilt(s):
    z = chains(standard_normal_log_prob, step_size=s, steps=200)
    close_variance(z, 1 / (1 - s**2 / 4))
    close_mean(z, 0.0, 1 / (1 - s**2 / 4))


def test_linear_tilt_moves_the_mean_exactly():
    a = torch.tensor([0.7, -1.2])
    z = chains(lambda z: z @ a + standard_normal_log_prob(z))
    for i in range(DIM):
        close_mean(z[:, i], a[i].item(), 1 / (1 - S**2 / 4))
        close_variance(z[:, i], 1 / (1 - S**2 / 4))


@pytest.mark.parametrize("curvature", [0.5, 3.0])
def test_quadratic_tilt_narrows_exactly(curvature):
    z = chains(lambda z: -0.5 * curvature * z.square().sum(1) + standard_normal_log_prob(z))
    precision = 1 + curvature
    close_variance(z, 1 / (precision * (1 - S**2 * precision / 4)))


def test_a_step_beyond_the_stability_limit_diverges():
    curvature = 4 / S**2  # s^2 (1 + lambda) > 4
    z = chains(lambda z: -0.5 * curvature * z.square().sum(1) + standard_normal_log_prob(z))
    assert z.var() > 1e3


def test_without_noise_the_chain_is_the_exact_linear_map():
    start = torch.randn(5, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    end = langevin(standard_normal_log_prob, start, steps=60, step_size=S, noise=0.0)
    torch.testing.assert_close(end, start * (1 - S**2 / 2) ** 60)


def test_one_step_is_the_formula():
    start = torch.tensor([[1.0, -2.0]])
    eps = torch.randn(1, DIM, generator=torch.Generator().manual_seed(3))
    rng = torch.Generator().manual_seed(3)
    end = langevin(standard_normal_log_prob, start, steps=1, step_size=S, rng=rng)
    torch.testing.assert_close(end, start + S**2 / 2 * -start + S * eps, rtol=0, atol=0)


def test_callback_sees_every_state():
    seen = []
    start = torch.zeros(3, DIM)
    end = langevin(
        standard_normal_log_prob,
        start,
        steps=4,
        step_size=S,
        rng=torch.Generator().manual_seed(0),
        callback=lambda k, z, value: seen.append((k, z, value)),
    )
    assert [k for k, _, _ in seen] == [0, 1, 2, 3, 4]
    assert seen[0][1].equal(start) and seen[-1][1].equal(end)
    for _, z, value in seen:
        torch.testing.assert_close(value, standard_normal_log_prob(z))


def test_zero_steps_and_a_batch_of_one():
    start = torch.ones(1, DIM)
    assert langevin(standard_normal_log_prob, start, steps=0, step_size=S).equal(start)
    assert langevin(standard_normal_log_prob, start, steps=2, step_size=S).shape == (1, DIM)


def test_seed_decides_and_the_global_state_is_untouched():
    before = torch.get_rng_state()
    a, b, c = (
        chains(standard_normal_log_prob, steps=3, seed=seed, start=torch.zeros(4, DIM))
        for seed in (5, 5, 6)
    )
    assert a.equal(b) and not a.equal(c)
    assert torch.get_rng_state().equal(before)


def test_a_block_follows_its_conditional_and_the_rest_stays_where_it_is():
    """A normal with precision P: z_1 given z_0, z_2 has precision P_11 and the mean
    -(P_10 z_0 + P_12 z_2) / P_11, which the chain keeps; its variance is as of any such chain."""
    precision = torch.tensor([[2.0, 0.8, 0.0], [0.8, 1.5, -0.6], [0.0, -0.6, 1.2]])
    z = torch.tensor([0.9, 7.0, -1.1]).repeat(CHAINS, 1)
    end = langevin_block(
        lambda z: -0.5 * ((z @ precision) * z).sum(1),
        *(z, slice(1, 2), torch.zeros(CHAINS, 1)),
        steps=LONG,
        step_size=S,
        rng=torch.Generator().manual_seed(0),
    )
    assert torch.equal(end[:, [0, 2]], z[:, [0, 2]])
    variance = 1 / (1.5 * (1 - S**2 * 1.5 / 4))
    close_mean(end[:, 1], -(0.8 * 0.9 + -0.6 * -1.1) / 1.5, variance)
    close_variance(end[:, 1], variance)
