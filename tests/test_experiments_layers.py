"""Experiments on layers: what is trained, and what is measured, on images made up here."""

import dataclasses

import pytest
import torch

from jlebm_core import systems
from jlebm_core.configs import NETS
from jlebm_core.data import ImageSet, to_float
from jlebm_core.evaluate import probes
from jlebm_core.experiments import experiment, layers


@pytest.fixture
def made_up(monkeypatch):
    """60 random images a split in place of each data set, labels 0 to 9."""

    def split(name, part):
        rng = torch.Generator().manual_seed(len(part))
        pixels = torch.randint(0, 256, (60, 1, 28, 28), generator=rng, dtype=torch.uint8)
        return ImageSet(name, part, pixels, torch.arange(60) % 10)

    monkeypatch.setattr(layers, "split", split)
    layers.digits.cache_clear()
    yield split
    layers.digits.cache_clear()


def built(trial):
    return systems.build(dataclasses.replace(trial.config, prior_steps=2, posterior_steps=2)).eval()


def test_both_ladders_have_the_same_nets_dims_training_and_seeds():
    trials = {t.name: t for t in layers.classifier_trials()}
    ours = [t for t in trials.values() if t.config.system == "joint-ebm"]
    assert len(trials) == 2 * len(ours) == len(layers.classifier_trials())
    for trial in ours:
        other = trials[trial.name.replace("joint-ebm", "vlae")]
        assert dataclasses.replace(other.config, system="joint-ebm") == trial.config
        assert (other.seed, other.about) == (trial.seed, trial.about)
    shown = {(t.about["data"], t.about["variant"], t.seed) for t in ours}
    for data in layers.DIMS:
        assert {(data, "plain", seed) for seed in (0, 1, 2)} <= shown
    assert all(t.config.dims == (2, 2, 2) for t in ours if t.config.data == "mnist")


def test_two_layers_are_the_three_without_the_codes_of_the_middle():
    """All levels and ladders but one meet in the nets, and the maps between them fit."""
    two = layers.two_layers(NETS[28])
    assert ", ".join(reversed(two["levels"])) == ", ".join(reversed(NETS[28]["levels"]))
    assert two["trunk"] == (", ".join(NETS[28]["trunk"]),)
    (joint,) = layers.cloud_trials()
    system = systems.build(joint.config).eval()
    z = system.encode(torch.zeros(2, 1, 28, 28))
    assert z.shape == (2, 4) and system.decode(z).shape == (2, 1, 28, 28)


def test_the_traversal_has_two_units_in_two_layers_or_in_one(made_up):
    joint, lebm = layers.traversal_trials()
    assert (joint.config.dims, lebm.config.dims) == ((1, 1), (2,))
    for trial in (joint, lebm):
        records = layers.measure_units(built(trial), trial)
        keys = [(r["name"], r.get("unit")) for r in records]
        assert keys == [
            ("mse", None),
            *(("label_change_rate", i) for i in (1, 2)),
            *(("latent_classifier_accuracy", i) for i in (1, 2)),
        ]
        assert all(0 <= r["value"] <= 1 for r in records[1:])
    assert set(experiment("traversal").images(joint).labels.tolist()) == {0, 1, 2}


def test_codes_are_classified_by_layer_on_the_test_split(made_up):
    trial = next(t for t in layers.classifier_trials() if t.about["variant"] == "table")
    system = built(trial)
    records = layers.classify_codes(system, trial)
    assert [r["layer"] for r in records] == [1, 2, 3]
    train, test = (made_up("mnist", part) for part in ("train", "test"))
    codes = [layers.encode_all(system, images.images) for images in (train, test)]
    alone = probes.latent_classifier_accuracy(
        codes[0], train.labels, codes[1], test.labels, trial.config.dims
    )
    assert alone == [r["value"] for r in records]


def test_clouds_of_the_prior_itself_are_not_told_apart(made_up, monkeypatch):
    """With N(0, I) as its posterior and f = 0, prior samples after 0 steps have the same law."""
    monkeypatch.setattr(layers, "CHECKED", (0,))
    (trial,) = layers.cloud_trials()
    system = systems.build(dataclasses.replace(trial.config, prior_hidden=()))
    n, rng = 5000, torch.Generator().manual_seed(1)
    monkeypatch.setattr(layers, "encode_all", lambda *_, **__: torch.randn(n, 4, generator=rng))
    records = layers.compare_clouds(system, trial)
    assert [(r["layer"], r["langevin_steps"]) for r in records] == [(0, 0), (1, 0), (2, 0)]
    assert all(abs(r["value"] - 0.5) < 5 * (0.25 / n) ** 0.5 for r in records)


def test_codes_to_show_are_draws_of_the_test_images(made_up):
    (trial,) = layers.cloud_trials()
    system = built(trial)
    codes = layers.codes_to_show(system, trial)["codes"].float()
    images = layers.digits("test").images
    q = system.inference.posterior(to_float(images))
    scores = (codes - q.mean) / q.std
    assert codes.shape == (len(images), 4) and scores.abs().max() < 5
    assert scores.std() > 0.5  # draws, not means
