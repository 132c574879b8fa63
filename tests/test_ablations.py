"""The ablations: which trials there are, and what is measured on each."""

from dataclasses import asdict

import pytest
import torch

from jlebm_core import papers, systems
from jlebm_core.data import ImageSet
from jlebm_core.evaluate import fid, report
from jlebm_core.experiments import ablations, frozen
from jlebm_core.training.trainer import Trainer

DEFAULT = systems.configure("joint-ebm", "mnist", (1, 28, 28))


def changed(trial):
    """The settings in which a trial differs from the default."""
    default = asdict(DEFAULT)
    return {k: v for k, v in asdict(trial.config).items() if v != default[k]}


def test_every_k_of_the_papers_table_is_trained_with_nothing_else_changed():
    trials = ablations.langevin_step_trials()
    seeds = {k: [t.seed for t in trials if t.about == {"trained_steps": k}] for k in (15, 60, 300)}
    assert seeds == {15: [0, 1, 2], 60: [0, 1, 2], 300: [0]}
    assert {t.config.prior_steps for t in trials} == set(papers.LANGEVIN_STEPS)
    for t in trials:
        k = t.about["trained_steps"]
        assert changed(t) == ({} if k == 60 else {"prior_steps": k})


def test_every_width_of_the_papers_table_is_trained_with_nothing_else_changed():
    trials = ablations.prior_width_trials()
    count = {w: sum(t.about == {"width": w} for t in trials) for w in (*papers.PRIOR_WIDTH, 200)}
    assert count == {0: 1, 10: 1, 20: 1, 50: 1, 100: 3, 200: 1} and sum(count.values()) == len(
        trials
    )
    for t in trials:
        width = t.about["width"]
        expected = {0: {"system": "vlae"}, 200: {}}.get(width, {"prior_hidden": (width, width)})
        assert changed(t) == expected


def test_f_is_normalised_or_penalised_or_neither():
    variants = {t.name.split("-")[0]: changed(t) for t in ablations.spectral_norm_trials()}
    assert variants == {
        "c1": {"spectral_norm": 1.0, "penalty": 0.0},
        "c10": {"spectral_norm": 10.0, "penalty": 0.0},
        "c30": {"spectral_norm": 30.0, "penalty": 0.0},
        "penalty": {},
        "free": {"penalty": 0.0},
    }


def test_the_other_settings_are_changed_one_kind_at_a_time():
    trials = ablations.prior_setting_trials()
    assert {t.about["change"]: changed(t) for t in trials} == ablations.STRONGER
    assert {t.seed for t in trials} == {0}


def test_on_frozen_codes_each_trial_changes_what_its_joint_counterpart_does():
    joint = {}
    for t in (*ablations.langevin_step_trials(), *ablations.prior_width_trials()):
        joint[tuple(sorted(changed(t).items()))] = t
    for t in ablations.spectral_norm_trials():
        joint[tuple(sorted(changed(t).items()))] = t
    trials = frozen.trials()
    own = {"steps": 0, "fit_steps": frozen.STEPS, "lr_prior": frozen.RATE}
    for t in trials:
        assert own.items() <= changed(t).items()
        rest = {k: v for k, v in changed(t).items() if k not in own}
        assert tuple(sorted(rest.items())) in joint
    count = [t.about["variant"] for t in trials]
    assert len(set(count)) == 13 and count.count("default") == count.count("w100") == 3


def test_on_frozen_codes_only_the_prior_learns():
    trial = frozen.trials()[0]
    system, base = frozen.start(trial), systems.shipped(frozen.BASE)
    assert not torch.equal(system.prior.net.net[0].weight, base.prior.net.net[0].weight)
    before = {k: v.clone() for k, v in system.state_dict().items()}
    pixels = torch.randint(256, (200, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    trainer = Trainer(system, pixels.to(torch.uint8), precision="float32")
    assert trainer.total == frozen.STEPS
    trainer.run(2)
    after, nets = system.state_dict(), base.state_dict()
    for k, v in after.items():
        if k.startswith("prior."):
            assert not torch.equal(v, before[k])
        else:
            assert torch.equal(v, before[k]) and torch.equal(v, nets[k])


@pytest.fixture
def quick(monkeypatch):
    """Every measurement on few images and chains."""
    small = {"SAMPLES": 80, "LONG_RUN": (2, 3), "LONG_CHAINS": 90, "CHAIN_LENGTHS": (2, 4)}
    small |= {"DRAWS": 500, "RUNGS": 3, "ENDS": 50, "FINISH": 2}
    for name, value in small.items():
        monkeypatch.setattr(ablations, name, value)
    pixels = torch.randint(256, (120, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    images = ImageSet("mnist", "train", pixels.to(torch.uint8))
    monkeypatch.setattr(ablations, "split", lambda *_: images)
    ablations.reference.cache_clear()
    yield images
    ablations.reference.cache_clear()


def measured(name, **settings):
    config = systems.configure(name, "mnist", (1, 28, 28), **settings)
    system = systems.build(config).eval()
    return system, ablations.measure(system, None)


def one(records, name, **protocol):
    (found,) = [r for r in records if r["name"] == name and protocol.items() <= r.items()]
    return found["value"]


def test_what_is_measured_on_an_ebm(quick):
    system, records = measured("joint-ebm", prior_steps=2, prior_hidden=(20, 20))
    fids = [(r["langevin_steps"], r["samples"]) for r in records if r["name"] == "fid"]
    assert fids == [(2, 80), (0, 80), (4, 80), (2, 90), (3, 90)]
    x = report.sample_uint8(system, 80, steps=4, rng=torch.Generator().manual_seed(0))
    alone = fid.compare(x, quick.images)["fid"]
    assert one(records, "fid", langevin_steps=4) == pytest.approx(alone)
    assert [r["langevin_steps"] for r in records if r["name"] == "kid"] == [2]
    assert [r["langevin_steps"] for r in records if r["name"] == "label_entropy"] == [2, 3]
    z = system.prior.sample(90, steps=3, rng=torch.Generator().manual_seed(0))
    found = one(records, "f_mean", langevin_steps=3)
    assert found == pytest.approx(system.prior.f(z).mean().item(), rel=1e-5)
    # f is nearly flat before training: log Z is the mean of f under N(0, I), and the KL is small
    direct = one(records, "log_z", estimator="importance sampling")
    assert one(records, "effective_sample_size") > 0.9 * 500
    for side in ("lower", "upper"):
        assert abs(one(records, "log_z", side=side) - direct) < 0.1
        assert abs(one(records, "kl", log_z=side)) < 0.1
    assert 0 < one(records, "slope_mean") <= one(records, "slope_max")
    keys = [str({k: v for k, v in r.items() if k not in ("value", "std")}) for r in records]
    assert len(set(keys)) == len(keys)  # a results file keeps them all


def test_a_normalised_f_is_as_steep_as_its_constant_at_most(quick):
    _, records = measured("joint-ebm", prior_steps=2, spectral_norm=1.0)
    # one power iteration at the start: the singular values are known to a few per cent
    assert one(records, "slope_max") < 1.05


def test_what_is_measured_on_frozen_codes(quick, monkeypatch):
    monkeypatch.setattr(frozen, "CHAINS", 90)
    by_variant = {t.about["variant"]: t for t in frozen.trials()}
    monkeypatch.setattr(frozen, "OTHERS", (3,))
    long = [(2, 90), (3, 90)]
    for variant, expected in {
        "default": [*long, (2, 80), (4, 80), (60, 80)],
        "k15": [(3, 80), (15, 80)],
        "w10": [(60, 80)],
        "c1": [*long, (60, 80)],
        "free": [*long, (60, 80)],
    }.items():
        system = frozen.start(by_variant[variant]).eval()
        records = frozen.measure(system, by_variant[variant])
        fids = [(r["langevin_steps"], r["samples"]) for r in records if r["name"] == "fid"]
        assert fids == expected
        assert one(records, "kl", log_z="upper") < 1


def test_without_an_ebm_there_is_fid_and_its_kin_alone(quick):
    _, records = measured("vlae")
    assert [r["name"] for r in records] == ["fid", "kid", "inception_score", "precision", "recall"]
    assert {r["langevin_steps"] for r in records} == {0}
