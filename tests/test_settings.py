"""What a setting may be: every field of a configuration refuses what it cannot have."""

from dataclasses import fields
from math import inf, nan

import pytest

from jlebm_core import systems
from jlebm_core.configs import Config
from jlebm_core.errors import UsageError
from jlebm_core.settings import RULES

NAMED_ELSEWHERE = {"join", "act", "encoder_act", "prior_act"}  # by whoever builds with them

REFUSED = {
    "a whole number, at least 1": (
        ("batch", "ratios", "components"),
        (0, -1, 2.5, "abc", True, None),
    ),
    "a whole number, at least 0": (
        ("steps", "prior_steps", "posterior_steps", "warmup", "fit_steps"),
        (-1, 2.0, "abc", False, None),
    ),
    "a number above 0": (
        ("sigma",),
        (0, -0.1, nan, inf, "0.3", True, None),
    ),
    "None or a number above 0": (("spectral_norm",), (0.0, -1, nan, "abc")),
    "a number, at least 0": (
        ("lr", "lr_prior", "lr_chain", "weight_decay", "penalty", "free_bits", "chain_floor")
        + ("code_penalty", "decoder_penalty", "prior_step_size", "posterior_step_size"),
        (-1e-9, nan, inf, "abc", None),
    ),
    "a number from 0 to below 1": (("ema",), (1, -0.1, nan, "abc")),
    "True or False": (("norm", "bias", "learn_sigma"), ("false", 1, None)),
    "text": (("system", "data", "stem"), (3, None)),
    "one of exact, monte-carlo": (("kl",), ("foo", 3)),
    "one of cosine, epoch, none": (("lr_decay",), ("foo", None)),
    "whole numbers above 0 in a tuple": (
        ("prior_hidden",),
        (3, "abc", (0,), (2.5,), ("a",), ((5, 0),)),
    ),
    "one or more whole numbers above 0 in a tuple": (
        ("chain_hidden",),
        (3, "abc", (), (0,), (2.5,), ("a",), ((5, 5), (3,))),
    ),
    "one whole number above 0 a layer": (("dims",), (3, (), (0, 2), (2.5,), "ab")),
    "stacks of layers in a tuple": (("levels", "trunk", "ladders"), ("fc 64", (3,), None)),
    "channels, height and width": (("image",), ((28, 28), (1, 28, 0), 28)),
    "a number from 0 to below 1 for each layer": (("enter",), (0.5, (1.0,), (-0.1,), ("a",))),
    "two numbers from 0 to below 1": (("betas",), (0.9, (0.9,), (0.9, 1.0), (0.9, "a"))),
}


def config(**settings):
    layers = {"dims": (2,), "levels": ("fc 8, map 1 8 tanh",)}
    return Config(**{"system": "toy", "data": "toy", "image": (1, 8, 8), **layers, **settings})


def cases():
    for says, (names, values) in REFUSED.items():
        for name in names:
            yield from (pytest.param(says, name, v, id=f"{name}={v!r}") for v in values)


@pytest.mark.parametrize("says, name, value", list(cases()))
def test_what_a_setting_cannot_be_is_refused_in_one_sentence(says, name, value):
    with pytest.raises(UsageError) as error:
        config(**{name: value})
    text = str(error.value)
    assert text.startswith(f"{name} must be {says}") and text.endswith(f", not {value!r}.")


def test_every_setting_is_looked_at():
    names = {name for names, _ in REFUSED.values() for name in names}
    assert names == set(RULES) and names | NAMED_ELSEWHERE == {f.name for f in fields(Config)}
    for name in NAMED_ELSEWHERE:
        with pytest.raises(UsageError, match="unknown"):
            systems.build(systems.configure("joint-ebm", "mnist", (1, 28, 28), **{name: "foo"}))


def test_the_ends_of_what_is_allowed():
    ends = {"batch": 1, "prior_steps": 0, "sigma": 1, "lr": 0, "ema": 0, "betas": (0, 0.9)}
    nothing = {"prior_hidden": (), "enter": (), "spectral_norm": None, "fit_steps": 0}
    made = config(**ends, **nothing)
    assert Config.from_json(made.to_json()) == made
    assert config(prior_hidden=((5, 5), (3,))).prior_hidden == ((5, 5), (3,))  # for two layers
