"""As little as there can be of everything: the right result, or one sentence before the work."""

import re

import numpy as np
import pytest
import torch

from jlebm_core import cli, data, systems
from jlebm_core.errors import UsageError
from jlebm_core.evaluate import likelihood, outliers
from jlebm_core.explorer import describe, export
from jlebm_core.gaussians import standard_normal_log_prob
from jlebm_core.langevin import langevin, langevin_mlp
from jlebm_core.priors import (
    EBMPrior,
    MixturePrior,
    RatioPrior,
    SecondVAE,
    StandardNormal,
    TiltedChain,
)
from jlebm_core.training.monitor import moments
from jlebm_core.training.trainer import Trainer

OWN = {
    **{"dims": (2, 8), "levels": ("map C 2 2 tanh", "fc 4"), "trunk": ("fc 4",)},
    **{"ladders": ("fc 4", "fc 4"), "chain_hidden": (4,), "prior_hidden": (4,)},
    **{"prior_steps": 2, "posterior_steps": 2, "steps": 2, "fit_steps": 2},
    **{"batch": 4, "components": 2},
}
PIXEL = {"dims": (1,), "levels": ("map C 1 1 tanh",), "trunk": (), "ladders": ("",)}
ONE_BATCH = "batch normalisation needs two images or more in a batch"
CODES = torch.zeros(3, 2)


def trained(name, n=4, image=(1, 2, 2), *, precision="float32", **settings):
    config = systems.configure(name, "mine", image, **{**OWN, **settings})
    images = torch.arange(n * 4).mul(37).remainder(256).byte().view(n, 1, 2, 2)
    images = images[:, :, : image[1], : image[2]].contiguous()
    t = Trainer(systems.build(config), images, precision=precision)
    t.run(t.total, log_every=1)
    return t


def works(system):
    """None, one and two: samples with chains and without, codes, images of codes."""
    for n in (0, 1, 2):
        x = torch.zeros(n, *system.config.image)
        for steps in (None, 0):
            assert system.sample(n, steps=steps, rng=0).shape == x.shape
        z = system.encode(x, noise=True, rng=0)
        assert z.shape == (n, system.prior.dim) and z.isfinite().all()
        assert system.decode(z).shape == x.shape
    return True


def says(match, call, *args, **kwargs):
    with pytest.raises(UsageError, match=match) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return True


every_system = pytest.mark.parametrize("name", systems.SYSTEMS)


@every_system
def test_one_image_and_a_batch_of_one(name):
    """With batch normalisation one sentence, whose advice holds word for word."""
    norm = systems.configure(name, "mine", (1, 2, 2), **OWN).norm
    for few in ({"n": 1}, {"batch": 1}):
        if norm:
            says(ONE_BATCH, trained, name, **few)
        if name == "rae" and "n" in few:
            says(
                "2 components cannot be fitted to 1 images",
                trained,
                name,
                1,
                norm=False,
            )
            continue
        t = trained(name, **few, norm=False)
        assert all(np.isfinite(values).all() for values in t.log.values())
        assert works(t.system)
    assert works(trained(name, batch=2, n=2).system)


@every_system
def test_a_batch_of_one_passes_a_system_in_training_mode_only_without_batch_norm(name):
    system = systems.build(systems.configure(name, "mine", (1, 2, 2), **OWN))
    x = torch.zeros(1, 1, 2, 2)
    calls = (
        lambda: system.sample(1, rng=0),
        lambda: system.encode(x, rng=0),
        lambda: system.loss(x, weight=1.0, rng=0),
    )
    for call in calls:
        assert says(ONE_BATCH, call) if system.config.norm else call() is not None
    assert works(system.eval())


NOTHING = {
    "K = 0": {"prior_steps": 0},
    "posterior of 0 steps": {"posterior_steps": 0},
    "no training": {"steps": 0},
    "no second stage": {"fit_steps": 0},
    "neither": {"steps": 0, "fit_steps": 0, "ema": 0.9},
    "f = 0": {"prior_hidden": ()},
    "dims of 1": {"dims": (1, 1)},
    "a pixel, one layer": {"image": (1, 1, 1), **PIXEL},
    "a set below the batch": {"batch": 1000},
}


@every_system
@pytest.mark.parametrize("least", NOTHING)
def test_as_little_as_can_be_is_trained_and_sampled(name, least):
    refused = {
        ("2s-vae", "f = 0"): "a second VAE needs hidden layers",
        ("biva", "dims of 1"): "at least two layers are needed, and two dimensions",
        ("biva", "a pixel, one layer"): "at least two layers are needed",
    }
    if (name, least) in refused:
        assert says(refused[name, least], trained, name, **NOTHING[least])
    else:
        assert works(trained(name, **NOTHING[least]).system)


def test_what_is_too_little_to_train_on_is_refused_before_the_work():
    says("there are no images to train on", trained, "vae", 0)
    says("a mixture of 5 components cannot be fitted to 4 images", trained, "rae", 4,
         components=5)  # fmt: skip
    says("2 ratios .* need a step each, and there are 1", trained, "multi-ncp", steps=1, ratios=2)
    says("3 ratios .* need a step each", trained, "ncp-vae", fit_steps=2, ratios=3)
    trained("multi-ncp", steps=2, ratios=2)
    says("does not fit dims", TiltedChain, (2, 1), (4,), ((4,), (4,), (4,)))


def test_chains_of_no_steps_are_the_base():
    """K = 0 as trained is what ``steps=0`` gives: ancestral draws of the chain, not N(0, I)."""
    chain = TiltedChain((2, 3), (4,), (4,), steps=0)
    assert chain.sample(5, rng=0).equal(chain.base_sample(5, rng=0))
    assert chain.sample(5, rng=0).equal(chain.sample(5, steps=0, rng=0))
    assert not chain.sample(5, rng=0).equal(chain.start(5, rng=0))
    ebm = EBMPrior((2,), (4,), steps=0)
    assert ebm.sample(5, rng=0).equal(ebm.base_sample(5, rng=0))


def test_one_chain_in_one_dimension_with_one_hidden_unit_is_the_reference():
    prior = EBMPrior((1,), (1,), steps=5)
    start = torch.full((1, 1), 0.5)
    how = {"steps": 5, "step_size": 0.4}
    fast = langevin_mlp(prior.net.layers(), "lrelu", start, rng=1, **how)
    torch.testing.assert_close(fast, langevin(prior.log_prob, start, rng=1, **how))
    assert langevin_mlp(prior.net.layers(), "lrelu", start[:0], rng=1, **how).shape == (0, 1)


def test_no_draws_and_too_few():
    assert MixturePrior((2,), 3).sample(0, rng=0).shape == (0, 2)
    assert MixturePrior((2,), 3).log_prob(CODES[:0]).shape == (0,)
    ratios = RatioPrior((2,), 1, (4,))
    z, sizes = ratios.resample(0, proposals=5, rng=0)
    assert z.shape == (0, 2) and sizes.shape == (0,)
    assert ratios.resample(2, proposals=1, rng=0)[1].tolist() == [1, 1]
    says("for 1 proposal or more", ratios.resample, 2, proposals=0)
    says("ask for 0 or more", StandardNormal((2,)).sample, -1)
    says("two at least", MixturePrior((2,), 1).fit, CODES[:1])
    assert moments(z=torch.ones(1, 1))["z_std"] == 0


def test_a_mixture_of_equal_codes_is_a_density():
    prior = MixturePrior((2,), 1)
    prior.fit(CODES)
    assert prior.log_prob(CODES).isfinite().all() and prior.sample(4, rng=0).abs().max() < 0.1


def test_pixels_and_single_codes_can_be_explored(tmp_path):
    system = trained("joint-ebm", image=(1, 1, 1), **PIXEL).system
    found = export(system, tmp_path / "pixel.safetensors")
    assert found.description["image"] == [1, 1, 1] and found.description["dims"] == [1]
    assert describe(system, codes=torch.zeros(1, 1)).tensors["codes"].shape == (1, 1)
    assert describe(StandardNormal((1,))).description["dims"] == [1]


def test_a_prior_without_a_density_is_refused_by_all_that_need_one():
    """Its samples do not follow N(0, I), its base, once the second stage has begun."""
    system = trained("2s-vae").system
    prior, x = system.prior, torch.zeros(2, 1, 2, 2)
    z = prior.sample(4, rng=0)
    assert prior.base_log_prob(z).equal(standard_normal_log_prob(z))
    log_z = likelihood.Estimate(0.0, 0.0, 1.0)
    for call in (
        lambda: prior.log_prob(z),
        lambda: likelihood.importance(prior, 10),
        lambda: likelihood.annealed(prior, z),
        lambda: likelihood.kl_from_base(prior, z, log_z),
        lambda: likelihood.slope(prior, z),
        lambda: likelihood.importance_weighted(system, x, 0.0),
        lambda: outliers.parts(system, x, system.encode(x)),
        lambda: outliers.refine(system, x, system.encode(x), steps=1),
        lambda: outliers.layer_bounds(system, x),
        lambda: outliers.scores(system, x.byte()),
        lambda: langevin(prior.log_prob, z, steps=1, step_size=0.1),
    ):
        says("SecondVAE has no density in closed form", call)
    assert type(prior) is SecondVAE and prior.elbo(z, rng=0).isfinite().all()


@every_system
def test_every_other_prior_has_one(name):
    prior = systems.build(systems.configure(name, "mine", (1, 2, 2), **OWN)).prior
    assert prior.density == (name != "2s-vae")


def written(folder, n, side=32):
    images = np.random.default_rng(0).integers(0, 256, (n, side, side), np.uint8)
    np.savez(folder / "mine.npz", images=images)
    return str(folder / "mine.npz")


@pytest.mark.parametrize(
    ("n", "line", "match"),
    [
        (1, ["vae"], ONE_BATCH),
        (24, ["joint-ebm", "--set", "batch=1"], ONE_BATCH),
        (
            5,
            ["rae", "--set", "components=8"],
            "8 components cannot be fitted to 5 images",
        ),
        (12, ["multi-ncp", "--set", "ratios=3", "steps=2"], "3 ratios .* need a step each"),
    ],
)
def test_the_command_line_refuses_too_little_before_the_work(n, line, match, tmp_path, capsys):
    """Exit code 2, one sentence, and nothing left behind."""
    how = ["--data", written(tmp_path, n), "--budget", "smoke", "--quiet", "--out"]
    system, *settings = line
    run = tmp_path / "run"
    assert cli.main(["train", system, *how, str(run), *settings]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("jlebm: ") and re.search(match, said) and not run.exists()


def test_the_command_line_trains_on_one_image_and_no_steps(tmp_path, capsys):
    how = ["--data", written(tmp_path, 1), "--budget", "smoke", "--quiet", "--out"]
    run = str(tmp_path / "run")
    few = ["norm=False", "steps=0", "prior_steps=0"]
    assert cli.main(["train", "joint-ebm", *how, run, "--set", *few]) == 0
    assert cli.main(["sample", run, "--n", "1", "--out", str(tmp_path / "one.png")]) == 0
    assert cli.main(["evaluate", run, "--data", how[1]]) == 2
    assert "a test set needs at least" in capsys.readouterr().err
    says("at least one image", data.load, "glyphs", limit=0)
