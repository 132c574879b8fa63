"""The standard figures of a system: which are taken, and that each is what it says."""

import pytest
import torch

from jlebm_core import glyphs, systems
from jlebm_core.data import ImageSet, to_float
from jlebm_core.errors import UsageError
from jlebm_core.evaluate import fid, report

IMAGE = (1, 28, 28)
FIGURES = ("fid", "kid", "inception_score", "precision", "recall")


@pytest.fixture(autouse=True)
def few_panels(monkeypatch):
    """Label change of few codes: thousands of decoded and classified images prove no more here."""
    monkeypatch.setattr(report, "PANELS", 10)
    monkeypatch.setattr(report, "DRAWS", 4)


def images(split, n):
    rng = torch.Generator().manual_seed(len(split))
    pixels = torch.randint(0, 256, (n, *IMAGE), generator=rng, dtype=torch.uint8)
    return ImageSet("mnist", split, pixels, torch.arange(n) % 10)


def built(name):
    config = systems.configure(name, "mnist", IMAGE, prior_steps=2, posterior_steps=2)
    return systems.build(config).eval()


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_every_system_gets_its_figures_and_no_others(name):
    system = built(name)
    records = report.evaluate(system, images("train", 120), images("test", 90), samples=80)
    keys = [(r["name"], r.get("langevin_steps", r.get("layer"))) for r in records]
    readings = ("marginal", "conditional") if system.prior.tilted else ("marginal",)
    layers = len(system.config.dims)
    expected = [("mse", None)]
    for k in (2, 0) if system.prior.tilted else (0,):
        expected += [(figure, k) for figure in FIGURES]
    if hasattr(system.prior, "resample"):
        expected += [*((figure, None) for figure in FIGURES), ("effective_sample_size", None)]
    expected += [(f"{figure}_floor", None) for figure in FIGURES]
    if layers > 1:
        expected += [("label_change_rate", i) for _ in readings for i in range(1, layers + 1)]
    if system.inference.amortised:
        expected += [("latent_classifier_accuracy", i) for i in range(1, layers + 1)]
    assert keys == expected
    fids = [r for r in records if r["name"] == "fid"]
    assert all(r["samples"] == 80 and r["reference_samples"] == 120 for r in fids)


def test_resampling_without_a_ratio_is_the_base_prior(monkeypatch):
    """With all ratios off every proposal weighs the same: the effective sample size is their
    number."""
    monkeypatch.setattr(report, "PROPOSALS", 20)
    records = report.evaluate(
        built("ncp-vae"), images("train", 120), images("test", 90), samples=80
    )
    (size,) = [r for r in records if r["name"] == "effective_sample_size"]
    assert size["value"] == pytest.approx(20) and size["sampler"] == "importance resampling"


def test_each_figure_can_be_repeated_alone():
    system = built("joint-ebm")
    sets = images("train", 120), images("test", 90)
    a, b = (report.evaluate(system, *sets, samples=80, seed=s) for s in (3, 3))
    assert a == b
    classifier = report.load_classifier("mnist")
    rates = report.label_change(system, classifier, rng=torch.Generator().manual_seed(3))
    assert rates == [r["value"] for r in a if r.get("reading") == "marginal"]


def test_mse_is_the_mean_over_pixels_in_the_models_range():
    system, test = built("vae"), images("test", 7)
    z = report.encode_all(system, test.images)
    expected = (system.decode(z) - to_float(test.images)).square().mean().item()
    assert report.reconstruction_mse(system, test.images, z) == pytest.approx(expected, rel=1e-6)


def test_samples_come_in_blocks_and_all_of_them(monkeypatch):
    monkeypatch.setattr(report, "BLOCK", 4)
    x = report.sample_uint8(built("joint-ebm"), 10, rng=torch.Generator().manual_seed(0))
    assert x.shape == (10, *IMAGE) and x.dtype == torch.uint8


def test_the_reference_passes_through_the_extractor_once(monkeypatch):
    seen = []
    whole = report.Extractor.__call__

    def call(self, images):
        seen.append(images.n if isinstance(images, report.Stream) else len(images))
        return whole(self, images)

    monkeypatch.setattr(report.Extractor, "__call__", call)
    report.evaluate(built("joint-ebm"), images("train", 120), images("test", 90), samples=80)
    assert seen == [120, 80, 80, 80]  # the training set, K = 2, K = 0, the floor


def test_a_figure_is_that_of_all_samples_at_once():
    system, train = built("joint-ebm"), images("train", 120)
    records = report.evaluate(system, train, images("test", 90), samples=80, seed=2)
    x = report.sample_uint8(system, 80, steps=0, rng=torch.Generator().manual_seed(2))
    alone = fid.metric_records(fid.compare(x, train.images, seed=2), langevin_steps=0)
    assert alone == [r for r in records if r.get("langevin_steps") == 0]


def test_too_few_samples_are_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(report.Extractor, "__call__", lambda *_: pytest.fail("extracted"))
    for n in (60, 80):  # samples, and with 80 of them the test images of the floor
        with pytest.raises(UsageError, match="more than 64 images"):
            report.evaluate(built("vae"), images("train", 120), images("test", 60), samples=n)


def test_data_without_a_classifier_are_refused():
    own = ImageSet("holiday", "train", images("train", 100).images)
    with pytest.raises(UsageError, match="no classifier for 'holiday'.*inception-v3-compat"):
        report.evaluate(built("vae"), own, own)


def test_data_without_a_classifier_take_other_features_and_leave_label_change_out():
    own = ImageSet("holiday", "train", images("train", 100).images)
    records = report.evaluate(built("joint-ebm"), own, own, samples=80, features="mnist-classifier")
    names = {r["name"] for r in records}
    assert "fid" in names and "label_change_rate" not in names


def test_the_conditional_reading_holds_the_other_layers_where_they_are(monkeypatch):
    """Each layer's new codes are the chains of ``sample_layer`` from the joint samples."""
    seen = {}
    keep = report.probes.layer_label_change

    def call(decode, fixed, new, dims, classify):
        seen.update(fixed=fixed, new=new)
        return keep(decode, fixed, new, dims, classify)

    monkeypatch.setattr(report.probes, "layer_label_change", call)
    system = built("joint-ebm")
    rng, again = (torch.Generator().manual_seed(0) for _ in range(2))
    how = {"reading": "conditional", "fixed": 3, "draws": 2, "rng": rng}
    report.label_change(system, report.load_classifier("mnist"), **how)
    fixed = system.prior.sample(3 * (2 + 1), rng=again)[:3]
    assert torch.equal(seen["fixed"], fixed)
    z, dims = fixed.repeat_interleave(2, 0), system.config.dims
    for i in range(1, len(dims) + 1):
        layer = report.sample_layer(system.prior, z, i, rng=again).split(dims, 1)[i - 1]
        assert torch.equal(seen["new"].flatten(0, 1).split(dims, 1)[i - 1], layer)


def test_known_factors_get_their_figures(monkeypatch):
    monkeypatch.setattr(report, "READ", 60)
    system = systems.build(systems.configure("joint-ebm", "glyphs", (3, 32, 32), prior_steps=2))
    train, test = (report.ImageSet(s, s, *glyphs.render(80, seed=i)) for i, s in enumerate("ab"))
    z = report.encode_all(system.eval(), test.images)
    rng = torch.Generator().manual_seed(0)
    records = report.factor_records(system, train, test, z, rng=rng, seed=0)
    names = [r["name"] for r in records]
    assert names.count("mutual_information") == len(system.config.dims) * len(glyphs.FACTORS)
    assert names.count("mig") == names.count("mig_sup") == 1
    assert {r["fitted_on"] for r in records if "fitted_on" in r} == {60}
