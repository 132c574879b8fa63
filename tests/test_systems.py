"""Properties of every registered system, and the published settings."""

import copy

import pytest
import torch

from jlebm_core import checkpoints, systems
from jlebm_core.configs import NETS, PRESETS, Config
from jlebm_core.errors import UsageError
from jlebm_core.systems import OBJECTIVES

SHAPES = [(1, 28, 28), (3, 32, 32)]
QUICK = {"prior_steps": 3, "posterior_steps": 3}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def built(name, shape=SHAPES[0], **overrides):
    return systems.build(systems.configure(name, "data", shape, **QUICK, **overrides)).eval()


every_system = pytest.mark.parametrize("name", systems.SYSTEMS)
every_shape = pytest.mark.parametrize("shape", SHAPES)


@every_system
@every_shape
def test_shapes_ranges_and_a_batch_of_one(name, shape):
    system = built(name, shape)
    for n in (1, 3):
        x = torch.rand(n, *shape, generator=seeded()) * 2 - 1
        z = system.encode(x, rng=seeded())
        assert z.shape == (n, sum(system.config.dims))
        samples = system.sample(n, rng=seeded())
        assert samples.shape == x.shape and samples.abs().max() <= 1
        assert system.decode(z).shape == x.shape
        outcome = system.loss(x, weight=1.0, rng=seeded())
        assert outcome.loss.isfinite() and outcome.loss.shape == ()
        assert all(t.isfinite() and not t.shape for t in outcome.terms.values())


@every_system
def test_the_seed_decides_everything(name):
    system, x = built(name), torch.zeros(2, *SHAPES[0])
    deterministic = systems.SYSTEMS[name].inference == "deterministic"
    for draw, fixed in (
        (lambda rng: system.sample(2, rng=rng), False),
        (lambda rng: system.loss(x, weight=1.0, rng=rng).loss, deterministic),
    ):
        assert draw(seeded(3)).equal(draw(seeded(3)))
        assert draw(seeded(3)).equal(draw(seeded(4))) == fixed
    config = system.config
    a, b, c = (systems.build(config, seed=s).state_dict() for s in (0, 0, 1))
    assert all(a[k].equal(b[k]) for k in a) and not all(a[k].equal(c[k]) for k in a)


@every_system
def test_building_leaves_the_global_state_alone(name):
    before = torch.get_rng_state()
    built(name)
    assert torch.get_rng_state().equal(before)


@every_system
def test_chains_of_a_batch_do_not_mix(name):
    """Row b of a posterior or prior sample depends on row b alone."""
    system = built(name)
    x = torch.rand(2, *SHAPES[0], generator=seeded()) * 2 - 1
    changed = x.clone()
    changed[1] = -x[1]
    a, b = (system.encode(images, rng=seeded()) for images in (x, changed))
    torch.testing.assert_close(a[0], b[0])
    assert not torch.allclose(a[1], b[1])


@every_system
def test_save_and_load(name, tmp_path):
    system = built(name)
    system.save(tmp_path / "m", half=True, note=1)
    back = systems.load(tmp_path / "m")
    assert back.config == system.config and not back.training
    for k, v in checkpoints.halved(system.state_dict()).items():
        assert back.state_dict()[k].equal(v.to(back.state_dict()[k].dtype))
    assert back.sample(2, rng=seeded()).equal(systems.load(tmp_path / "m").sample(2, rng=seeded()))


def test_the_table_names_parts_that_exist():
    for row in systems.SYSTEMS.values():
        assert row.prior in systems.PRIORS
        assert row.generator in systems.GENERATORS
        assert row.inference in systems.INFERENCES
        assert row.objective in OBJECTIVES


@pytest.mark.parametrize("side", NETS)
def test_all_systems_share_their_layers(side):
    joint, vlae, vae, lebm = (
        systems.configure(n, "d", (1, side, side)) for n in ("joint-ebm", "vlae", "vae", "lebm")
    )
    assert (vlae.dims, vlae.levels, vlae.trunk) == (joint.dims, joint.levels, joint.trunk)
    assert vae.levels == lebm.levels == (", ".join(reversed(joint.levels)),)
    assert vae.dims == lebm.dims == (sum(joint.dims),)


# Counted from the released code of the papers.
COUNTS = {
    "iccv2023-svhn-fid": (15_301, 55_348_608, 18_999_396),
    "iccv2023-svhn-hs": (8_551, 392_288, 752_160),
    "neurips2020-lebm-svhn": (60_601, 3_447_683, 0),
}


@pytest.mark.parametrize("name", COUNTS)
def test_presets_have_the_published_sizes(name):
    with torch.device("meta"):
        counts = systems.assemble(systems.preset(name)).parameter_counts()
    assert tuple(counts.values()) == COUNTS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_survives_json(name):
    config = systems.preset(name)
    assert Config.from_json(config.to_json()) == config
    with torch.device("meta"):
        systems.assemble(config)


@pytest.mark.parametrize("join", ["concat", "add"])
@pytest.mark.parametrize("dims", [(1,), (1, 1), (3, 1, 2, 4, 5)])
def test_any_number_of_layers_of_any_size(dims, join):
    layers = len(dims)
    config = Config.from_json(
        {
            "system": "joint-ebm",
            "data": "d",
            "image": (1, 8, 8),
            "dims": dims,
            "levels": ("map 2 4, up C tanh", *["fc 6"] * (layers - 1)),
            "trunk": ("fc 7",) * (layers - 1),
            "ladders": ("fc 5",) * layers,
            "join": join,
            "prior_steps": 2,
        }
    )  # fmt: skip
    system = systems.build(config)
    assert system.sample(1, rng=seeded()).shape == (1, 1, 8, 8)
    assert system.encode(torch.zeros(1, 1, 8, 8)).shape == (1, sum(dims))
    assert system.loss(torch.zeros(2, 1, 8, 8), weight=1.0, rng=seeded()).loss.isfinite()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: systems.configure("gan", "d", SHAPES[0]),
            "unknown system 'gan': choose one of vae",
        ),
        (lambda: systems.configure("vae", "d", (1, 30, 30)), "nets for images of 28x28 or 32x32"),
        (lambda: systems.configure("vae", "d", SHAPES[0], depth=3), "unknown settings: depth"),
        (lambda: systems.preset("none"), "unknown preset"),
        (lambda: built("joint-ebm", dims=(2, 2)), "do not fit a generator of 3 levels"),
        (lambda: built("joint-ebm", act="softplus"), "unknown activation"),
        (lambda: built("vlae", enter=(0.5, 0.0)), "does not fit a generator of 3 levels"),
        (lambda: built("lebm", enter=(0.5, 0.2, 0.0)), "lebm has no ladder whose layers could"),
        (lambda: built("sri", enter=(0.5, 0.2, 0.0)), "sri has no ladder"),
        (lambda: Config.from_json({"system": "vae"}), "no configuration"),
    ],
)
def test_wrong_use_is_one_sentence(call, says):
    with pytest.raises(UsageError, match=says) as caught:
        call()
    assert str(caught.value).count("\n") == 0


def test_a_checkpoint_of_other_nets_is_refused(tmp_path):
    system = built("vae")
    meta = {"config": built("lebm").config.to_json()}
    checkpoints.save(tmp_path / "m", system.state_dict(), meta)
    with pytest.raises(UsageError, match="do not fit its own configuration"):
        systems.load(tmp_path / "m")


def test_a_system_that_does_not_come_along_is_refused_with_those_that_do():
    with pytest.raises(UsageError, match=r"no system 'vae-mnist'.*joint-ebm-mnist-s0"):
        systems.shipped("vae-mnist")


@pytest.mark.parametrize("name", ["multi-ncp", "ncp-vae"])
def test_loaded_ratios_stay_on_in_training_mode(name, tmp_path):
    """How many are on is told by the weights alone, also those that others put there."""
    system = built(name)
    ratios = system.config.ratios
    for _ in range(ratios):
        system.prior.switch_on()
    expected = system.prior.sample(3, rng=2)
    system.save(tmp_path / "m")
    for again in (systems.load(tmp_path / "m"), built(name)):
        again.load_state_dict(system.state_dict())
        for copied in (again, copy.deepcopy(again)):
            prior = copied.train().prior
            assert prior.tilted and prior.net.on.sum() == ratios
            assert prior.sample(3, rng=2).equal(expected)
    fresh = built(name).train().prior
    assert not fresh.tilted and fresh.sample(3, rng=2).equal(fresh.base_sample(3, rng=2))
