"""Measures of as little as there can be: the right figure, or one sentence."""

import pytest
import torch

from jlebm_core import runs, systems, viz
from jlebm_core.data import ImageSet
from jlebm_core.errors import UsageError
from jlebm_core.evaluate import (
    attack,
    classifier,
    factors,
    features,
    fid,
    likelihood,
    outliers,
    probes,
    report,
)
from jlebm_core.priors import EBMPrior, StandardNormal

OWN = {
    **{"dims": (2, 8), "levels": ("map C 2 2 tanh", "fc 4"), "trunk": ("fc 4",)},
    **{"ladders": ("fc 4", "fc 4"), "prior_hidden": (4,), "prior_steps": 2},
}
CODES, ONES = torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)


def says(match, call, *args, **kwargs):
    with pytest.raises(UsageError, match=match) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")


@pytest.fixture(scope="module")
def system():
    return systems.build(systems.configure("joint-ebm", "mine", (1, 2, 2), **OWN)).eval()


def test_likelihoods_of_too_few_draws(system):
    prior, x = system.prior, torch.zeros(2, 1, 2, 2)
    for n in (0, 1):
        says("at least two draws", likelihood.importance, prior, n)
        says("at least two ends", likelihood.annealed, prior, torch.zeros(n, 10))
        says("at least two values", likelihood.mean, torch.zeros(n))
        says("at least two weights", likelihood.log_mean_exp, torch.zeros(n))
    says("at least one rung,", likelihood.anneal, prior.f, torch.zeros(2, 10), rungs=0)
    says("at least one sample,", likelihood.importance_weighted, system, x, 0.0, samples=0)
    says("at least one sample,", outliers.layer_bounds, system, x, samples=0)
    assert likelihood.importance_weighted(system, x[:0], 0.0).shape == (0,)
    assert outliers.layer_bounds(system, x[:0]).shape == (2, 0)
    assert likelihood.slope(StandardNormal((2,)), CODES).tolist() == [0, 0, 0]
    assert likelihood.slope(EBMPrior((2,), ()), CODES).tolist() == [0, 0, 0]
    log_z = likelihood.importance(StandardNormal((2,)), 3, rng=0)
    assert log_z == pytest.approx((0, 0, 3), abs=1e-6)


def test_probes_of_one_class_one_code_and_none():
    accuracy = probes.latent_classifier_accuracy
    some = {"dims": (1, 1), "epochs": 1}
    assert accuracy(CODES, ONES, CODES, ONES, **some) == [1, 1]
    assert accuracy(CODES[:1], ONES[:1], CODES[:1], ONES[:1], **some) == [1, 1]
    says("no codes", accuracy, CODES[:0], ONES[:0], CODES, ONES, **some)
    says("no codes", accuracy, CODES, ONES, CODES[:0], ONES[:0], **some)
    says("a label is -1", accuracy, CODES, ONES - 1, CODES, ONES, **some)
    says("a label is -1", probes.label_entropy, ONES - 1)
    says("no labels", probes.label_entropy, ONES[:0])
    assert probes.label_entropy(ONES[:1]) == 0
    says("two codes or more of each", probes.told_apart, CODES[:1], CODES, (2,))
    for fixed, new in ((0, 3), (3, 0)):
        says("no codes", probes.layer_label_change, None, torch.zeros(fixed, 2),
             torch.zeros(fixed, new, 2), (1, 1), None)  # fmt: skip


def test_factors_that_do_not_vary_and_one_image():
    constant = {"a": ONES}
    for few in (constant, {"a": torch.zeros(3)}):
        found = factors.measure(CODES, few, CODES[:1], {k: v[:1] for k, v in few.items()},
                                CODES[:1], (1, 1))  # fmt: skip
        figures = {r["name"]: r["value"] for r in found}
        assert figures["mig"] == figures["mig_sup"] == figures["mutual_information"] == 0
    says("no codes", factors.measure, CODES, constant, CODES[:0], {"a": ONES[:0]}, CODES[:0], (2,))
    says("no codes", factors.unit_information, CODES[:0], {"a": ONES[:0]})
    information, entropies = torch.tensor([[0.0, 1.0], [0.0, 0.5]]), torch.tensor([0.0, 1.0])
    assert factors.mig(information, entropies) == 0.5  # of the one that varies
    assert factors.mig_sup(information, entropies, torch.ones(2).bool()) == 0.75


def test_rankings_and_calibrations_of_too_few():
    for kind in (torch.zeros(2), torch.ones(2), torch.zeros(0)):
        for measure in (outliers.auroc, outliers.auprc):
            says("only one kind", measure, torch.zeros(len(kind)), kind.bool())
    says("is NaN", outliers.auroc, torch.tensor([0.0, torch.nan]), torch.tensor([True, False]))
    assert outliers.auroc(torch.tensor([1.0, 0.0]), torch.tensor([True, False])) == 1
    says("no 5-th nearest of 3 codes", outliers.nearest, CODES, CODES)
    assert outliers.nearest(CODES[:0], CODES, k=1).shape == (0,)
    few = {"reconstruction": torch.zeros(1), "prior": torch.zeros(1)}
    says("at least two normal images", outliers.calibrated, few, few)
    same = {k: torch.zeros(4) for k in few}
    says("have one reconstruction score", outliers.calibrated, same, same)


def points(n, d=3):
    return features.Features(None, torch.randn(n, d, generator=torch.Generator().manual_seed(n)))


def test_distances_of_fewer_images_than_they_need():
    says("2 images or more .* for FID", fid.frechet_distance, points(1), points(9))
    says("3 images or more .* for KID", fid.kernel_distance, points(2), points(9), subset_size=3,
         seed=0)  # fmt: skip
    says("for a subset of KID", fid.kernel_distance, points(9), points(9), subset_size=1, seed=0)
    says("10 images .* inception score", fid.inception_score, torch.zeros(9, 3), seed=0)
    says("4 images or more .* precision", fid.precision_recall, *[points(3).values] * 2, seed=0)
    says("has no points", fid.fid_curve, points(9), points(9), sizes=[5, 9], repeats=0)
    says("at least two sizes", fid.fid_curve, points(3), points(9))
    blank = torch.zeros(0, 1, 28, 28, dtype=torch.uint8)
    extract = features.Extractor("mnist-classifier", (1, 28, 28))
    says("no images to take features of", extract, blank)
    says("no images to take features of", extract, features.Stream(0, []))
    says("FID on .* needs more than 64", fid.compare, *[blank.new_zeros(64, 1, 28, 28)] * 2)


def test_images_of_no_samples_and_figures_of_no_images(system, tmp_path):
    none = report.sample_uint8(system, 0, rng=0)
    assert none.shape == (0, 1, 2, 2) and none.dtype == torch.uint8
    assert report.encode_all(system, none).shape == (0, 10)
    says("no images to measure", report.reconstruction_mse, system, none, torch.zeros(0, 10))
    says("no images to measure", attack.label_rates, system, len, torch.zeros(0, 1, 2, 2))
    attacked = attack.attack(system, *[torch.zeros(1, 1, 2, 2)] * 2, 1, radius=0.1, steps=0)
    assert attacked.after.equal(attacked.before)
    says("no images to draw", runs.save_samples, system, tmp_path / "none.png", 0)
    says("no images to draw", viz.image_grids, {})
    says("no values to draw", viz.traversal_figure, system, torch.zeros(10), torch.zeros(0))
    says("no values to draw", viz.traversal_bars, system, torch.zeros(10), torch.zeros(0))
    says("no curves to draw", viz.curves, {"step": []}, {})
    says("no codes to draw", viz.clouds_over_steps, {0: CODES[:0]}, CODES, (2,))
    assert not list(tmp_path.iterdir())
    for n in (0, 1):
        assert [len(x) for x in viz.hierarchical_samples(system, n, rng=0)] == [n, n]


def test_a_classifier_of_too_few_or_too_small_images():
    def of(n, side=8):
        images = torch.zeros(n, 1, side, side, dtype=torch.uint8)
        return ImageSet("mine", "train", images, torch.zeros(n, dtype=torch.long))

    quiet = {"epochs": 1, "progress": False}
    says("two images or more", classifier.fit_classifier, of(1), of(2), **quiet)
    says("tested on one or more", classifier.fit_classifier, of(2), of(0), **quiet)
    says("none below 4x4, but these are 3x3", classifier.fit_classifier, of(2, 3), of(2, 3))
    model, _ = classifier.fit_classifier(of(2, 4), of(1, 4), **quiet)
    assert model.predict(of(0, 4).images).shape == (0,)
