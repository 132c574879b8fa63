"""The three modes of the book, and the committed systems that ``load`` relies on."""

from dataclasses import replace

import pytest
import torch

from jlebm_core import checkpoints, modes, paths, results, systems
from jlebm_core.configs import BUDGETS
from jlebm_core.errors import UsageError
from jlebm_core.evaluate import fid, report
from jlebm_core.evaluate.classifier import load_classifier, stem

ROWS = ("joint-ebm", "vlae", "lebm")


def test_the_mode_is_checked(monkeypatch):
    monkeypatch.delenv("JLEBM_MODE", raising=False)
    assert modes.mode() == "load"
    monkeypatch.setenv("JLEBM_MODE", "fast")
    with pytest.raises(UsageError, match="smoke, load, train"):
        modes.mode()


def test_smoke_trains_on_glyphs_without_any_data(monkeypatch):
    monkeypatch.setenv("JLEBM_MODE", "smoke")
    monkeypatch.setattr(modes, "SMOKE_IMAGES", 30)
    trained = modes.obtain("joint-ebm")
    assert trained.system.config.data == "glyphs" and "far too few" in trained.story
    assert trained.results["log"]["step"][-1] == trained.system.config.steps
    z, labels = modes.test_codes(trained)
    assert z.shape == (30, sum(trained.system.config.dims)) and len(labels) == 30
    assert len(modes.real_images("mnist", limit=5)) == 5


def test_smoke_trains_the_nets_of_a_trial_on_glyphs_of_its_shape(monkeypatch):
    monkeypatch.setenv("JLEBM_MODE", "smoke")
    monkeypatch.setattr(modes, "SMOKE_IMAGES", 30)
    trained = modes.obtain_trial("clouds", "joint-ebm")
    (trial,) = modes.experiments.experiment("clouds").trials()
    assert trained.system.config.levels == trial.config.levels
    assert trained.results["steps"] == BUDGETS["smoke"]["steps"] < trial.config.steps
    assert "glyphs" in trained.story and "far too few" in trained.story


def test_train_learns_from_real_images_as_the_rows_of_the_table_do(monkeypatch):
    """Small stand-ins for the sets and the budget: what is trained, on what, for how long."""
    monkeypatch.setenv("JLEBM_MODE", "train")
    monkeypatch.setattr(modes, "SMOKE_IMAGES", 30)
    monkeypatch.setitem(BUDGETS, "cpu", BUDGETS["smoke"])
    grey = modes.glyphs_like((1, 28, 28))
    monkeypatch.setattr(
        modes.data, "load", lambda name, split="train", **_: replace(grey, name=name, split=split)
    )
    trained = modes.obtain("joint-ebm", "fashion-mnist", seed=3)
    steps = BUDGETS["smoke"]["steps"]
    assert trained.story == f"joint-ebm on Fashion-MNIST, trained here for {steps} steps"
    assert trained.results["budget"] == "cpu" and trained.results["seed"] == 3
    config = systems.configure("joint-ebm", "fashion-mnist", (1, 28, 28), budget="cpu")
    assert trained.system.config == config
    assert len(modes.test_codes(trained)[0]) == len(modes.real_images("mnist")) == 30
    assert modes.explorable(trained)


def test_glyphs_in_another_shape_are_the_same_digits():
    grey, colour = modes.glyphs_like((1, 28, 28)), modes.glyphs_like((3, 28, 28))
    assert grey.shape == (1, 28, 28) and colour.shape == (3, 28, 28)
    assert torch.equal(grey.labels, colour.labels)
    mean = colour.images.double().mean(1, keepdim=True)
    assert (grey.images.double() - mean).abs().max() <= 0.5


def test_load_says_when_real_images_are_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("JLEBM_MODE", "load")

    def no_data(*_, **__):
        raise UsageError(f"not in {tmp_path}")

    monkeypatch.setattr(modes.data, "load", no_data)
    assert modes.real_images("mnist") is None
    said = capsys.readouterr().out
    assert "MNIST is not at hand" in said and str(tmp_path) not in said


@pytest.mark.parametrize("name", ROWS)
def test_committed_systems_are_those_of_their_results(name, monkeypatch):
    monkeypatch.setenv("JLEBM_MODE", "load")
    trained = modes.obtain(name)
    assert (
        trained.system.config.to_json()
        == systems.Config.from_json(trained.results["config"]).to_json()
    )
    assert trained.system.parameter_counts() == trained.results["parameters"]
    for path in checkpoints.files(paths.shipped("checkpoints", f"{name}-mnist-s0")):
        assert path.stat().st_size < 5_000_000


@pytest.mark.parametrize("name", ["joint-ebm", "vlae"])
def test_committed_codes_belong_to_the_committed_encoder(name, monkeypatch):
    monkeypatch.setenv("JLEBM_MODE", "load")
    trained = modes.obtain(name)
    z, labels = modes.test_codes(trained)
    assert z.shape == (10_000, sum(trained.system.config.dims))
    assert torch.bincount(labels).tolist() == [
        *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    ]  # MNIST's test labels
    # decoded codes are recognised as their own digits far more often than chance
    images = report.to_uint8(trained.system.decode(z[:500]))
    agree = (load_classifier("mnist").predict(images) == labels[:500]).float().mean()
    assert agree > 0.6


def test_committed_joint_prior_beats_its_ablation_and_vlae(monkeypatch):
    """The issue of the book, on the committed figures: the EBM prior earns its keep."""
    rows = {r["system"]: r for r in results.shipped("mnist") if r["seed"] == 0}
    joint, vlae = rows["joint-ebm"], rows["vlae"]
    k = joint["config"]["prior_steps"]
    with_ebm = results.metric(joint, "fid", langevin_steps=k)
    assert with_ebm < 0.75 * results.metric(joint, "fid", langevin_steps=0)
    assert with_ebm < results.metric(vlae, "fid", langevin_steps=0)
    rates = [
        results.metric(joint, "label_change_rate", layer=i, reading="marginal")
        for i in range(1, len(joint["config"]["dims"]) + 1)
    ]
    assert rates == sorted(rates) and rates[0] < 0.5 < rates[-1]


def test_committed_label_change_is_what_the_committed_weights_do(monkeypatch):
    monkeypatch.setenv("JLEBM_MODE", "load")
    trained = modes.obtain("joint-ebm")
    rng = torch.Generator().manual_seed(0)  # the committed figures' own draws
    rates = report.label_change(trained.system, load_classifier("mnist"), rng=rng)
    for layer, rate in enumerate(rates, 1):
        committed = results.metric(trained.results, "label_change_rate", layer=layer)
        assert abs(rate - committed) < 0.02  # other processors round differently


def test_real_features_come_with_the_weights(monkeypatch):
    """They give the floor of the results files, and the labels that the classifier gives."""
    monkeypatch.setenv("JLEBM_MODE", "load")
    train, test = modes.real_features("mnist")
    floor = results.metric(results.read(results.shipped_path("vlae-mnist-s0")), "fid_floor")
    assert fid.frechet_distance(test, train) == pytest.approx(floor, abs=1e-4)
    labels = modes.test_codes(modes.obtain("vlae"))[1]
    agree = (test.logits.argmax(1) == labels).double().mean()
    meta = checkpoints.load(stem("mnist"))[1]
    assert agree == pytest.approx(meta["accuracy"], abs=1e-3)


def test_real_features_are_those_of_glyphs_in_smoke(monkeypatch):
    monkeypatch.setenv("JLEBM_MODE", "smoke")
    monkeypatch.setattr(modes, "SMOKE_IMAGES", 30)
    train, test = modes.real_features("mnist")
    assert len(train) == len(test) == 30 and test.extractor.name == "glyphs-classifier"
    assert test.logits.shape == (30, 10)


TINY = {
    **{"dims": (2, 3), "levels": ("map C 28 28 tanh", "fc 4"), "trunk": ("fc 4",)},
    **{"ladders": ("fc 4", "fc 4"), "prior_steps": 1, "posterior_steps": 1},
}


def tiny(name="vlae", dataset="fashion-mnist"):
    system = systems.build(systems.configure(name, dataset, (1, 28, 28), **TINY)).eval()
    return modes.Trained(system, {"seed": 0}, "")


def test_the_aggregated_posterior_is_of_the_data_that_were_learned(monkeypatch, capsys):
    monkeypatch.setenv("JLEBM_MODE", "load")
    asked, images = [], modes.glyphs_like((1, 28, 28))

    def load(name, split="train", *, limit=None):
        asked.append((name, split))
        return replace(images, name=name, images=images.images[:limit])

    monkeypatch.setattr(modes.data, "load", load)
    trained = tiny()
    z = modes.aggregated_posterior(trained, 30, rng=0)
    x = modes.data.to_float(images.images[:30])
    with torch.no_grad():
        assert z.equal(trained.system.inference.posterior(x).rsample(rng=0))
    assert asked == [("fashion-mnist", "test")]
    assert modes.aggregated_posterior(tiny("lebm"), 3, rng=0).shape == (3, 5)  # by chains


def test_neither_images_nor_codes_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setenv("JLEBM_MODE", "load")

    def no_data(*_, **__):
        raise UsageError("none")

    monkeypatch.setattr(modes.data, "load", no_data)
    with pytest.raises(UsageError, match="neither images of Fashion-MNIST nor codes .* biva: set"):
        modes.aggregated_posterior(tiny("biva", "fashion-mnist"), 3)
    assert "Fashion-MNIST is not at hand" in capsys.readouterr().out


def test_smoke_asks_for_no_data_of_a_trial(monkeypatch, capsys):
    monkeypatch.setenv("JLEBM_MODE", "smoke")
    monkeypatch.setattr(modes, "SMOKE_IMAGES", 5)
    trained = tiny()
    assert modes.aggregated_posterior(trained, 30, rng=0).shape == (5, 5)
    assert "glyphs stand in for Fashion-MNIST" in capsys.readouterr().out
    assert modes.test_codes(trained)[0].shape == (5, 5)
    assert len(modes.real_images("glyphs")) == 5 and not capsys.readouterr().out


def test_trials_that_do_not_exist_or_do_not_come_along_are_one_sentence(monkeypatch):
    monkeypatch.setenv("JLEBM_MODE", "load")
    with pytest.raises(UsageError, match="clouds has no trial 'sky': choose one of joint-ebm"):
        modes.obtain_trial("clouds", "sky")
    monkeypatch.setattr(modes.run, "published", lambda name: [])
    with pytest.raises(UsageError, match="joint-ebm of clouds does not come along: train it"):
        modes.obtain_trial("clouds", "joint-ebm")
