"""The ladder generator: its equations, its likelihood, its refusals."""

import math

import pytest
import torch

from jlebm_core.errors import UsageError
from jlebm_core.generators import GatedGenerator, LadderGenerator

LEVELS = ("up 3, up 1 tanh", "map 4 7", "fc 6")
DIMS = (1, 2, 3)


def build(join="concat", **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        levels = LEVELS if join == "concat" else ("up 3, up 1 tanh", "map 4 7 none", "fc 6 none")
        kind = GatedGenerator if "enter" in options else LadderGenerator
        return kind(DIMS, (1, 28, 28), levels, join=join, **options).double()


def codes(n=5):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("join", ["concat", "add"])
def test_the_recursion_is_the_papers(join):
    g, z = build(join), codes()
    z1, z2, z3 = z.split(DIMS, 1)

    def meet(i, code, above):
        code = g.projections[i](code)
        return torch.cat([code, above], 1) if join == "concat" else code + above

    h3 = g.blocks[2](z3)
    h2 = g.blocks[1](meet(1, z2, h3))
    h1 = g.blocks[0](meet(0, z1, h2))
    assert g.mean(z).equal(h1)
    assert h1.shape == (5, 1, 28, 28) and h1.abs().max() <= 1


def test_concatenation_has_an_activation_and_addition_has_none():
    z = -torch.ones(1, 1, dtype=torch.float64)
    for join, slope in (("concat", 0.2), ("add", 1.0)):
        linear, shape, after = build(join).projections[0]
        flat = shape(linear(z))
        expected = torch.where(flat < 0, slope * flat, flat)
        torch.testing.assert_close(after(flat), expected)


def test_log_likelihood_is_the_normal_density():
    g, z = build(sigma=0.4), codes()
    x = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(2)).double() * 2 - 1
    mean = g.mean(z)
    expected = torch.distributions.Normal(mean, 0.4).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(g.log_lik(x, z), expected)
    torch.testing.assert_close(
        g.log_lik(mean, z)[0].item(), -0.5 * 784 * math.log(2 * math.pi * 0.16)
    )


def test_one_layer_and_a_batch_of_one():
    g = LadderGenerator((4,), (3, 8, 8), ("map 2 4, up 3 tanh",))
    assert g.mean(torch.zeros(1, 4)).shape == (1, 3, 8, 8)


def test_layers_enter_one_after_another():
    """Top from the start, the middle in the fifth to sixth tenth, the bottom in the last."""
    g, free, z = build(enter=(0.9, 0.4, 0.0)), build(), codes()
    assert g.state_dict().keys() == free.state_dict().keys()
    assert g.mean(z).equal(free.mean(z))  # outside of training all gates are open
    for step, gates in [
        (1, (0, 0, 1)),
        (400, (0, 0, 1)),
        (425, (0, 0.25, 1)),
        (500, (0, 1, 1)),
        (950, (0.5, 1, 1)),
        (1000, (1, 1, 1)),
        (1001, (1, 1, 1)),
    ]:
        g.progress(step / 1000)
        scale = torch.tensor(gates).repeat_interleave(torch.tensor(DIMS))
        torch.testing.assert_close(g.gates, scale.double(), atol=1e-6, rtol=0)
        assert g.mean(z).equal(free.mean(z * g.gates))
    free.progress(1 / 1000)  # nothing enters late
    assert free.mean(z).equal(build().mean(z))


@pytest.mark.parametrize("enter", [(0.5, 0.0), (0.5, 0.2, 0.1), (0.95, 0.5, 0.0), (-0.1, 0.0, 0.0)])
def test_layers_cannot_enter_too_late_or_never(enter):
    with pytest.raises(UsageError, match="does not fit a generator of 3 levels"):
        build(enter=enter)


@pytest.mark.parametrize(
    ("dims", "levels", "join", "says"),
    [
        ((2, 2), LEVELS, "concat", "do not fit a generator of 3 levels"),
        ((2, 0, 2), LEVELS, "concat", "do not fit"),
        ((), (), "concat", "do not fit"),
        (DIMS, ("up 3, up 2 tanh", *LEVELS[1:]), "concat", "ends in"),
        (DIMS, LEVELS, "multiply", "unknown join"),
    ],
)
def test_refusals(dims, levels, join, says):
    with pytest.raises(UsageError, match=says):
        LadderGenerator(dims, (1, 28, 28), levels, join=join)
