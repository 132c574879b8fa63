"""Nets of one's own, for images of any size: every row takes them, and the words that advise it."""

import shlex

import numpy as np
import pytest
import torch

from jlebm_core import cli, systems
from jlebm_core.arguments import overrides
from jlebm_core.configs import TRAINING
from jlebm_core.errors import UsageError
from jlebm_core.explorer import describe
from jlebm_core.nets import stack
from jlebm_core.training.trainer import Trainer

QUICK = {
    **{"steps": 2, "fit_steps": 2, "batch": 4, "components": 2, "prior_steps": 2},
    **{"posterior_steps": 2, "prior_hidden": (4,), "chain_hidden": (4,)},
}
SIDES = [(16, 16), (24, 16), (48, 48), (1, 1)]
CASE = {  # one layer, convolutions
    "levels": ("map 4 4, up 4, up C tanh",),
    "trunk": (),
    "ladders": ("down 4, fc 8",),
    "dims": (4,),
}


def refusal(shape, system="vae", **settings):
    with pytest.raises(UsageError) as caught:
        systems.configure(system, "mine", shape, **settings)
    return str(caught.value)


def advised(message):
    """The settings that a message advises, as a shell and the command line read them."""
    words = shlex.split(message)
    start = words.index("--set") + 1
    return words[start : start + 4]


def learns(config, n=4):
    images = torch.arange(n * 8).sin().mul(127).byte().view(n, 8)[:, :1, None, None]
    images = images.expand(-1, *config.image).contiguous()
    t = Trainer(systems.build(config), images, precision="float32")
    t.run(t.total)
    assert t.system.sample(2, rng=0).shape == (2, *config.image)
    assert t.system.encode(torch.zeros(1, *config.image)).shape == (1, sum(config.dims))
    return t.system


@pytest.mark.parametrize("name", systems.SYSTEMS)
@pytest.mark.parametrize("side", SIDES, ids=str)
def test_every_row_trains_with_the_nets_that_the_message_advises(name, side):
    own = overrides(advised(refusal((1, *side), name)))
    assert set(own) == {"dims", "levels", "trunk", "ladders"}
    learns(systems.configure(name, "mine", (1, *side), **own, **QUICK))


@pytest.mark.parametrize("side", [(16, 16), (24, 16)], ids=str)
def test_the_command_line_takes_the_words_of_its_own_message(side, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.npz"
    np.savez(file, images=np.random.default_rng(0).integers(0, 256, (12, *side, 3), np.uint8))
    line = ["train", "lvae", "--data", str(file), "--budget", "smoke", "--quiet", "--out", "run"]
    assert cli.main(line) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.endswith(".\n")
    assert not (tmp_path / "run").exists()
    quick = [f"{k}={v}" for k, v in QUICK.items()]
    assert cli.main([*line, "--set", *advised(said), *quick]) == 0
    assert cli.main(["sample", "run", "--n", "1", "--out", "one.png"]) == 0
    assert (tmp_path / "one.png").is_file()


@pytest.mark.parametrize("name", ["vae", "lebm", "rae", "vlae", "lvae", "sri", "joint-ebm"])
@pytest.mark.parametrize("side", [16, 64])
def test_one_layer_of_convolutions_is_taken_from_settings(name, side):
    """At 64x64 in place of the nets that there are, which have five layers."""
    own = {**CASE, "levels": (f"map 4 {side // 4}, up 4, up C tanh",)}
    config = systems.configure(name, "mine", (3, side, side), **own, **QUICK)
    assert config.dims == (4,) and config.levels == own["levels"]
    assert learns(config).config == config


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_own_nets_are_trained_like_the_built_in_ones(name):
    own = overrides(advised(refusal((3, 16, 16))))
    ours = systems.configure(name, "mine", (3, 16, 16), **own).to_json()
    theirs = systems.configure(name, "mine", (3, 32, 32)).to_json()
    nets = {*own, "image", "stem"}
    assert {k: v for k, v in ours.items() if k not in nets} == {
        k: v for k, v in theirs.items() if k not in nets
    }
    plain = systems.configure("vlae", "mine", (3, 16, 16), **own)
    assert all(getattr(plain, k) == v for k, v in TRAINING.items())


def test_nets_that_are_laid_out_for_a_chain_stay_as_they_are():
    laid = {
        **{"dims": (8, 4), "levels": ("map C 4 6 tanh",), "stem": "conv 2, fc 8"},
        **{"trunk": ("fc 6",), "ladders": ("", "")},
    }
    for name in ("lvae", "layerwise-ebm", "sri"):
        config = systems.configure(name, "mine", (1, 4, 6), **laid, **QUICK)
        assert all(getattr(config, k) == v for k, v in laid.items())
        learns(config)
    ladder = {**laid, "levels": ("map C 4 6 tanh", "fc 8"), "ladders": ("fc 5", "fc 7")}
    config = systems.configure("lvae", "mine", (1, 4, 6), **ladder, **QUICK)
    assert config.stem == "conv 2, fc 8, fc 6, fc 7" and config.levels == ("fc 8, map C 4 6 tanh",)
    learns(config)


def test_what_is_missing_or_does_not_fit_is_one_sentence():
    for missing in CASE:
        own = {k: v for k, v in CASE.items() if k != missing}
        if missing == "trunk":  # one layer has none
            systems.configure("vae", "mine", (3, 16, 16), **own)
        else:
            assert "there are nets for images of 28x28" in refusal((3, 16, 16), **own)
    no_encoder = {k: CASE[k] for k in ("levels", "dims")}
    learns(systems.configure("lebm", "mine", (3, 16, 16), **no_encoder, **QUICK))
    wrong = systems.configure("vae", "mine", (3, 16, 24), **CASE)
    with pytest.raises(
        UsageError, match=r"ends in \(3, 16, 16\), but the images are \(3, 16, 24\)"
    ):
        systems.build(wrong)


def test_maps_of_two_sides_and_sides_that_cannot_be_halved():
    net, shape = stack("map 2 3 5, up 1", (4,))
    assert shape == (1, 6, 10) and net(torch.zeros(2, 4)).shape == (2, 1, 6, 10)
    assert stack("map 2 3 3", (4,))[1] == stack("map 2 3", (4,))[1]
    with pytest.raises(UsageError, match="needs maps .* of 2x2 at least, but gets"):
        stack("down 4", (1, 1, 8))
    with pytest.raises(UsageError, match="known are .*map C S, map C H W"):
        stack("map 2 3 4 5", (4,))


def test_own_nets_can_be_explored():
    own = overrides(advised(refusal((1, 6, 4))))
    found = describe(learns(systems.configure("joint-ebm", "mine", (1, 6, 4), **own, **QUICK)))
    assert found.description["image"] == [1, 6, 4] and found.description["encoder"]


@pytest.mark.parametrize("side", [28, 32])
def test_built_systems_lie_channels_last_with_the_weights_of_their_seed(side):
    system = systems.build(systems.configure("joint-ebm", "mine", (3, side, side)), seed=3)
    kernels = [p for p in system.parameters() if p.dim() == 4]
    assert kernels and all(k.is_contiguous(memory_format=torch.channels_last) for k in kernels)
    images = system.sample(2, steps=1, rng=0)
    assert images.is_contiguous(memory_format=torch.channels_last)
