"""Published settings: what the papers fix is what is built."""

import pytest
import torch

from jlebm_core import presets, systems
from jlebm_core.configs import Config
from jlebm_core.errors import UsageError

SIDES = {"svhn": 32, "cifar10": 32, "celeba64": 64}


def configured(name, data):
    return systems.configure(name, data, (3, SIDES[data], SIDES[data]), budget="paper")


def counts(config):
    with torch.device("meta"):
        return systems.assemble(config).parameter_counts()


@pytest.mark.parametrize("data", SIDES)
@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_every_row_has_settings_for_every_set(name, data):
    config = configured(name, data)
    assert Config.from_json(config.to_json()) == config
    assert sum(counts(config).values()) > 1e6
    assert config.steps >= 50_000 and config.batch <= 256
    assert bool(config.fit_steps) == systems.OBJECTIVES[systems.SYSTEMS[name].objective].afterwards


@pytest.mark.parametrize("data", SIDES)
def test_rows_differ_from_their_subject_in_their_own_axis_alone(data):
    joint, vlae, mle = (configured(n, data) for n in ("joint-ebm", "vlae", "joint-ebm-mle"))
    for field in ("dims", "levels", "sigma", "lr", "betas", "weight_decay", "batch"):
        assert getattr(joint, field) == getattr(vlae, field) == getattr(mle, field)
    assert counts(joint)["generator"] == counts(vlae)["generator"]
    one_layer = [configured(n, data).levels for n in ("vae", "abp", "ncp-vae", "lebm", "sri")]
    assert all(levels == one_layer[0] for levels in one_layer)


def test_the_sizes_that_released_code_gives():
    assert counts(configured("joint-ebm", "svhn")) == {
        "prior": 15_301, "generator": 55_348_608, "inference": 18_999_396,
    }  # fmt: skip
    lebm = configured("lebm", "svhn")
    assert tuple(counts(lebm).values()) == (60_601, 3_447_683, 0)
    layerwise = configured("layerwise-ebm", "cifar10")
    assert layerwise.dims == (128, 100) and layerwise.levels[0].startswith("seed 1024 8")
    assert layerwise.steps == 101 * 500 and layerwise.batch == 100
    prior = systems.build(layerwise).prior
    assert [len(net.layers()) for net in prior.nets] == [4, 3]
    (conditional,) = prior.conditionals
    assert len([m for m in conditional if isinstance(m, torch.nn.Linear)]) == 5


def test_other_data_are_refused():
    with pytest.raises(UsageError, match="the paper budget is for svhn"):
        presets.paper("vae", "mnist")
