"""``rng`` is a generator, a seed, or None, wherever it is an argument."""

import inspect
import pkgutil
from importlib import import_module

import numpy as np
import pytest
import torch

import jlebm_core
from jlebm_core import generators, langevin, priors, systems, viz
from jlebm_core.errors import UsageError
from jlebm_core.evaluate import likelihood, outliers, report
from jlebm_core.gaussians import standard_normal
from jlebm_core.priors import GaussianChain, MixturePrior, SecondVAE, TiltedChain
from jlebm_core.randomness import source

OWN = {
    **{"dims": (2, 3), "levels": ("map C 2 2 tanh", "fc 4"), "trunk": ("fc 4",)},
    **{"ladders": ("fc 4", "fc 4"), "chain_hidden": (4,), "prior_hidden": (4,)},
    **{"prior_steps": 2, "posterior_steps": 2},
}


def built(name):
    return systems.build(systems.configure(name, "d", (1, 2, 2), **OWN)).eval()


def test_a_seed_is_a_fresh_generator_and_everything_else_is_what_it_was():
    first, again = (torch.randn(3, generator=source(7, "cpu")) for _ in range(2))
    assert first.equal(again) and first.equal(
        torch.randn(3, generator=torch.Generator().manual_seed(7))
    )
    own = torch.Generator()
    assert source(own, torch.device("cpu")) is own and source(None, "cpu") is None
    assert source(np.int64(7), "cpu").initial_seed() == 7 == source(7, "cpu").initial_seed()


@pytest.mark.parametrize(
    "rng", [True, "0", 1.0, -1, 2**64, np.random.default_rng(0), np.bool_(1), torch.tensor(3)]
)
def test_what_is_neither_is_one_sentence(rng):
    with pytest.raises(UsageError, match="give a torch.Generator, a seed from 0") as caught:
        built("joint-ebm").sample(2, rng=rng)
    assert "\n" not in str(caught.value)


def test_a_generator_of_another_device_is_one_sentence():
    """The device of the numbers is told by name, which needs no such device."""
    with pytest.raises(UsageError, match=r"on cpu, but .* on cuda:0: give torch.Generator"):
        source(torch.Generator(), "cuda:0")
    with pytest.raises(UsageError, match="drawn on meta"):
        built("joint-ebm").to("meta").sample(2, rng=torch.Generator())


X = torch.linspace(-1, 1, 12).view(3, 1, 2, 2)
Z = torch.linspace(-1, 1, 15).view(3, 5)


def f(z):
    return -z.square().sum(1)


DRAWS = {
    "normal": lambda rng: standard_normal(3, 2, Z).rsample(rng=rng),
    "langevin": lambda rng: langevin.langevin(f, Z, steps=2, step_size=0.1, rng=rng),
    "ratios": lambda rng: priors.RatioPrior((2,), 2, (4,)).resample(3, proposals=5, rng=rng)[0],
    "chain": lambda rng: GaussianChain((2, 3), (4,)).base_sample(3, rng=rng),
    "mixture": lambda rng: MixturePrior((2,), 3).sample(3, rng=rng),
    "crank-nicolson": lambda rng: likelihood.crank_nicolson(f, Z, steps=2, rng=rng)[0],
    "anneal": lambda rng: likelihood.anneal(f, Z, rungs=2, rng=rng)[0],
}
OF_A_SYSTEM = {
    "sample": lambda s, rng: s.sample(3, rng=rng),
    "encode": lambda s, rng: s.encode(X, noise=True, rng=rng),
    "loss": lambda s, rng: s.loss(X, weight=1.0, rng=rng).loss,
    "codes": lambda s, rng: report.encode_all(s, X.byte(), noise=True, rng=rng),
    "uint8": lambda s, rng: report.sample_uint8(s, 600, rng=rng),
}
OF_THE_JOINT_PRIOR = {
    "layer": lambda s, rng: priors.sample_layer(s.prior, Z, 1, rng=rng),
    "others": lambda s, rng: report.given_others(s.prior, Z, rng=rng),
    "layers": lambda s, rng: torch.cat(viz.hierarchical_samples(s, 3, rng=rng)),
    "log Z": lambda s, rng: torch.tensor(likelihood.importance(s.prior, 4, rng=rng)),
    "two sides": lambda s, rng: torch.tensor(likelihood.annealed(s.prior, Z, rungs=2, rng=rng)[0]),
    "bound": lambda s, rng: likelihood.importance_weighted(s, X, 0.0, samples=2, rng=rng),
    "bounds": lambda s, rng: outliers.layer_bounds(s, X, samples=2, rng=rng),
    "scores": lambda s, rng: outliers.scores(s, X.byte(), samples=1, rng=rng)["elbo"],
}


def same_as_a_generator(draw):
    a, b, given = draw(3), draw(3), draw(torch.Generator().manual_seed(3))
    return a.equal(b) and a.equal(given)


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_draws_what_its_generator_draws(name):
    with torch.random.fork_rng(devices=[]):

        def draw(rng):
            torch.manual_seed(0)  # of initial weights
            return DRAWS[name](rng)

        assert same_as_a_generator(draw) and not draw(3).equal(draw(4))


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_a_seed_serves_all_that_a_system_draws(name):
    """Once for all draws of a call: the start of a chain and its noise are not the same numbers."""
    system = built(name)
    for draw in OF_A_SYSTEM.values():
        assert same_as_a_generator(lambda rng, draw=draw: draw(system, rng))
    assert not system.sample(3, rng=3).equal(system.sample(3, rng=4))


@pytest.mark.parametrize("name", OF_THE_JOINT_PRIOR)
def test_a_seed_serves_what_is_measured_on_the_joint_prior(name):
    system = built("joint-ebm")
    assert same_as_a_generator(lambda rng: OF_THE_JOINT_PRIOR[name](system, rng))


def test_a_second_vae_takes_a_seed():
    prior = built("2s-vae").prior
    assert type(prior) is SecondVAE
    assert same_as_a_generator(lambda rng: prior.elbo(Z, rng=rng).detach())


def test_every_rng_of_the_module_says_that_it_takes_a_seed():
    """By the signatures: generators alone where a graph was recorded with one."""
    skipped = ("jlebm_core.kernels", "jlebm_core.graphs", "jlebm_core.randomness")
    found = 0
    for info in pkgutil.walk_packages(jlebm_core.__path__, "jlebm_core."):
        if info.name.startswith(skipped):
            continue
        module = import_module(info.name)
        own = [o for o in vars(module).values() if getattr(o, "__module__", "") == info.name]
        functions = [o for o in own if inspect.isfunction(o)]
        functions += [
            m for o in own if inspect.isclass(o) for m in vars(o).values() if inspect.isfunction(m)
        ]
        for function in functions:
            rng = inspect.signature(function).parameters.get("rng")
            if rng is not None and rng.annotation is not rng.empty:
                assert rng.annotation == torch.Generator | int | None, function.__qualname__
                found += 1
    assert found > 40


def test_chains_of_layers_and_the_gated_ladder_take_a_seed():
    prior = TiltedChain((2, 1), (4,), (4,), steps=2)
    assert same_as_a_generator(lambda rng: prior.sample(3, rng=rng))
    config = systems.configure("vlae", "d", (1, 2, 2), **OWN, enter=(0.5, 0.0))
    system = systems.build(config)
    assert type(system.generator) is generators.GatedGenerator
    assert same_as_a_generator(lambda rng: system.sample(3, rng=rng))
