"""FID and its kin against closed forms, own formulas, symmetries and torch-fidelity as a whole."""

import sys
import weakref
from urllib.error import URLError

import numpy as np
import pytest
import torch

from jlebm_core.errors import UsageError
from jlebm_core.evaluate import features, fid
from jlebm_core.evaluate.classifier import load_classifier
from jlebm_core.evaluate.features import (
    INCEPTION,
    Extractor,
    Features,
    Moments,
    Stream,
    load_reference,
    save_reference,
)

torch_fidelity = pytest.importorskip("torch_fidelity")
TABLE = torch.zeros(0)  # features of image i; filled by the tests, read by LookUp


class LookUp(torch_fidelity.feature_extractor_base.FeatureExtractorBase):
    """Features by table: the two pixels of an image are the digits, base 256, of a row number."""

    def __init__(self, name, features_list, **_):
        super().__init__(name, features_list)

    @staticmethod
    def get_provided_features_list():
        return ("row",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "row"

    def forward(self, images):
        high, low = images.flatten(1).long().unbind(1)
        return (TABLE[256 * high + low],)


if "test-look-up" not in torch_fidelity.registry.FEATURE_EXTRACTORS_REGISTRY:
    torch_fidelity.register_feature_extractor("test-look-up", LookUp)


def rows(start, stop):
    """Images (N, 1, 1, 2) whose features are TABLE[start:stop]."""
    number = torch.arange(start, stop)
    return torch.stack([number // 256, number % 256], 1).to(torch.uint8).view(-1, 1, 1, 2)


def cloud(seed, n, mean, std):
    """n Gaussian points with exactly this sample mean and diagonal sample covariance."""
    x = torch.randn(n, len(mean), generator=torch.Generator().manual_seed(seed)).double()
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    return x * torch.tensor(std).double() + torch.tensor(mean).double()


def pictures(seed, n):
    """Random images (n, 1, 28, 28): smooth blobs, brighter for an odd seed."""
    noise = torch.rand(n, 1, 7, 7, generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.interpolate(noise, size=28, mode="bilinear")
    return (image * (200 + 50 * (seed % 2))).to(torch.uint8)


def own_fid(a, b):
    """Frechet distance by the symmetric square root, in numpy."""
    a, b = a.double().numpy(), b.double().numpy()
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(s)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ t @ root).clip(0)).sum()
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * cross


def own_kid(a, b):
    """Unbiased squared MMD under the cubic kernel, all points at once."""
    k = [(x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
    inner = [(m.sum() - m.diagonal().sum()) / (len(m) * (len(m) - 1)) for m in k[:2]]
    return (inner[0] + inner[1] - 2 * k[2].mean()).item()


@pytest.fixture
def clouds(monkeypatch):
    """Two Gaussian feature clouds as images: 300 and 400 rows, 3 features."""
    a = cloud(0, 300, [0.0, 1.0, -2.0], [1.0, 2.0, 0.5])
    b = cloud(1, 400, [0.5, 1.0, -1.0], [2.0, 1.0, 0.5])
    monkeypatch.setattr(sys.modules[__name__], "TABLE", torch.cat([a, b]))
    return rows(0, 300), rows(300, 700)


def test_fid_of_gaussian_clouds_is_the_closed_form(clouds):
    # |m1 - m2|^2 = 0.25 + 1; sum of (std1 - std2)^2 = 1 + 1
    scores = fid.compare(*clouds, features="test-look-up")
    assert scores["fid"] == pytest.approx(3.25, rel=1e-9)


def test_fid_alone_is_that_of_all_figures_and_no_other_is_taken(clouds, monkeypatch):
    whole = fid.compare(*clouds, features="test-look-up")
    for dear in ("kernel_distance", "precision_recall", "inception_score"):
        monkeypatch.setattr(fid, dear, lambda *_, **__: pytest.fail("taken"))
    scores = fid.compare(*clouds, features="test-look-up", alone=True)
    assert scores == {k: whole[k] for k in scores} and "kid" not in scores
    (record,) = fid.metric_records(scores, langevin_steps=9)
    assert record == fid.metric_records(whole, langevin_steps=9)[0]


def test_kid_on_whole_sets_is_the_unbiased_mmd(clouds):
    x = clouds[1][:300]
    scores = fid.compare(clouds[0], x, features="test-look-up", kid_subset_size=300)
    assert scores["kid"] == pytest.approx(own_kid(TABLE[:300], TABLE[300:600]), rel=1e-9)
    assert scores["kid_std"] < 1e-9 * scores["kid"]


def test_both_are_invariant_to_the_order_of_images(clouds):
    a, b = clouds[0], clouds[1][:300]
    options = {"features": "test-look-up", "kid_subset_size": 300}
    order = torch.randperm(300, generator=torch.Generator().manual_seed(5))
    one, two = fid.compare(a, b, **options), fid.compare(a[order], b[order.flip(0)], **options)
    assert two["fid"] == pytest.approx(one["fid"], rel=1e-9)
    assert two["kid"] == pytest.approx(one["kid"], rel=1e-9)


def test_classifier_features_give_zero_on_equal_sets_and_own_formula_on_others():
    a, b = pictures(0, 200), pictures(1, 150)
    features = load_classifier("mnist").features
    trace = torch.cov(features(a).double().T).trace().item()
    assert abs(fid.compare(a, a)["fid"]) < 1e-5 * trace
    scores, own = fid.compare(a, b), own_fid(features(a), features(b))
    assert own > 0.01 * trace
    assert scores["fid"] == pytest.approx(own, rel=1e-6)


def test_seed_fixes_kid_and_the_global_random_state_stays():
    a, b = pictures(0, 100), pictures(1, 100)
    state = torch.get_rng_state()
    one, same, other = (fid.compare(a, b, seed=s) for s in (0, 0, 1))
    assert one == same and one["kid"] != other["kid"] and one["fid"] == other["fid"]
    assert torch.equal(torch.get_rng_state(), state)


def test_default_subsets_are_half_of_a_small_side(clouds):
    assert fid.compare(*clouds, features="test-look-up")["kid_subset_size"] == 150


def test_floor_compares_disjoint_parts_that_cover_the_images(monkeypatch):
    parts = []
    monkeypatch.setattr(fid, "compare", lambda a, b, **options: parts.append((a, b, options)))
    images = rows(0, 500)
    fid.floor(images, features="test-look-up", seed=3)
    fid.floor(images, samples=100, seed=3)
    for (a, b, _), sizes in zip(parts, ([250, 250], [100, 400]), strict=True):
        assert [len(a), len(b)] == sizes
        number = torch.cat([a, b]).flatten(1).long() @ torch.tensor([256, 1])
        assert torch.equal(number.sort().values, torch.arange(500))
        assert not torch.equal(number, torch.arange(500))
    assert parts[0][2] == {"features": "test-look-up", "seed": 3}


def test_records_are_flat_and_complete(clouds):
    scores = fid.compare(*clouds, features="test-look-up", kid_subset_size=100, seed=4)
    one, two, three, four = fid.metric_records(scores, reference="train", langevin_steps=60)
    shared = {
        "features": "test-look-up",
        "samples": 300,
        "reference": "train",
        "reference_samples": 400,
        "langevin_steps": 60,
        "eight_bit": True,
    }
    assert one == {"name": "fid", "value": scores["fid"]} | shared
    kid = {"name": "kid", "value": scores["kid"], "std": scores["kid_std"]}
    assert two == kid | {"subset_size": 100, "subsets": 100, "seed": 4} | shared
    ball = shared | {"neighborhood": 3, "seed": 4, "reference_samples": 300}
    assert three == {"name": "precision", "value": scores["precision"]} | ball
    assert four == {"name": "recall", "value": scores["recall"]} | ball
    real = fid.metric_records(scores, suffix="_floor")
    names = ["fid_floor", "kid_floor", "precision_floor", "recall_floor"]
    assert [r["name"] for r in real] == names
    assert "langevin_steps" not in real[0]


def test_inception_score_has_a_record_where_there_are_logits():
    scores = fid.compare(pictures(0, 120), pictures(1, 100), seed=4)
    (record,) = [r for r in fid.metric_records(scores) if r["name"] == "inception_score"]
    assert record == {
        "name": "inception_score",
        "value": scores["inception_score"],
        "std": scores["inception_score_std"],
        "splits": 10,
        "seed": 4,
        "features": "mnist-classifier",
        "samples": 120,
        "eight_bit": True,
    }
    assert 1 < record["value"] < 10


def test_inception_score_of_equal_images_is_one():
    scores = fid.compare(pictures(0, 1).repeat(100, 1, 1, 1), pictures(1, 100))
    assert scores["inception_score"] == pytest.approx(1, abs=1e-12)


class OneByOne(torch.utils.data.Dataset):
    """Images as torch-fidelity takes them: bare tensors, one at a time."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i]


def test_figures_are_those_of_torch_fidelity_as_a_whole():
    a, b = pictures(0, 130), pictures(1, 130)
    scores = fid.compare(a, b, seed=3)
    whole = torch_fidelity.calculate_metrics(
        input1=OneByOne(a),
        input2=OneByOne(b),
        **dict.fromkeys(("isc", "fid", "kid", "prc"), True),
        feature_extractor="mnist-classifier",
        kid_subset_size=65,
        rng_seed=3,
        batch_size=500,
        **{"cuda": False, "cache": False, "save_cpu_ram": True, "verbose": False},
    )
    for ours, key in (
        ("fid", "frechet_inception_distance"),
        ("kid", "kernel_inception_distance_mean"),
        ("kid_std", "kernel_inception_distance_std"),
        ("inception_score", "inception_score_mean"),
        ("inception_score_std", "inception_score_std"),
        ("precision", "precision"),
        ("recall", "recall"),
    ):
        assert scores[ours] == pytest.approx(whole[key], rel=1e-9), ours


def test_streamed_samples_give_the_same_figures_bit_for_bit():
    a, b = pictures(0, 1100), pictures(1, 1000)
    taken = Extractor("mnist-classifier", (1, 28, 28))(b)
    whole = fid.compare(a, b)
    for blocks in (a.split(500), a.split(1000)):
        assert fid.compare(Stream(1100, iter(blocks)), taken) == whole


def test_a_stream_is_drawn_block_by_block_with_gradients_allowed(clouds):
    alive, most = weakref.WeakSet(), 0

    def blocks():
        nonlocal most
        for start in range(0, 300, 7):
            assert torch.is_grad_enabled(), "Langevin chains take gradients"
            block = clouds[0][start : start + 7].clone()
            alive.add(block)
            most = max(most, len(alive))
            yield block

    scores = fid.compare(Stream(300, blocks()), clouds[1], features="test-look-up")
    assert scores == fid.compare(*clouds, features="test-look-up")
    assert most <= 2


def test_a_stream_is_not_touched_if_it_would_be_in_vain():
    def blocks():
        raise AssertionError("drawn")
        yield

    with pytest.raises(UsageError, match="more than 64 images"):
        fid.compare(Stream(64, blocks()), pictures(0, 100))


def test_precision_and_recall_of_known_clouds(monkeypatch):
    near = cloud(0, 200, [0.0, 0.0], [1.0, 1.0])
    far = near + 100
    table = torch.cat([near, far])
    monkeypatch.setattr(sys.modules[__name__], "TABLE", table)

    def both(samples, reference):
        scores = fid.compare(samples, reference, features="test-look-up")
        return scores["precision"], scores["recall"], scores["prc_samples"]

    half = torch.cat([rows(0, 100), rows(200, 300)])
    assert both(rows(0, 200), rows(0, 200)) == (1, 1, 200)
    assert both(rows(200, 400), rows(0, 200)) == (0, 0, 200)
    precision, recall, _ = both(half, rows(0, 200))
    assert precision == 0.5 and recall > 0.8
    precision, recall, count = both(rows(0, 200), torch.cat([rows(0, 200), rows(200, 400)]))
    assert count == 200 and precision > 0.8 and abs(recall - 0.5) < 4.5 * 0.5 / 200**0.5


def test_equal_numbers_are_drawn_for_precision_and_recall(monkeypatch):
    monkeypatch.setattr(fid, "PRC_IMAGES", 50)
    scores = fid.compare(pictures(0, 90), pictures(1, 100))
    assert scores["prc_samples"] == 50


def gaussian(seed, n, dim):
    x = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Features(None, x, None)


def test_the_curve_extrapolates_a_straight_line_exactly(monkeypatch):
    monkeypatch.setattr(fid, "frechet_distance", lambda a, b: 3 + 70 / len(a))
    found = fid.fid_curve(gaussian(0, 1000, 2), gaussian(1, 10, 2), repeats=2)
    assert found["sizes"][0] == 100 and found["sizes"][-1] == 1000 and len(found["sizes"]) == 15
    assert found["fid"] == [[3 + 70 / n] * 2 for n in found["sizes"]]
    assert found["fid_infinity"] == pytest.approx(3, rel=1e-9)
    assert found["slope"] == pytest.approx(70, rel=1e-9)


def test_the_curve_of_gaussian_features_has_the_slope_of_theory():
    # N(0, I) in d dimensions against a reference of exactly this mean and covariance: with sample
    # mean m and covariance S, E FID = E |m|^2 + E tr(S + I - 2 S^(1/2)) = c / N + O(1 / N^2) with
    # c = d + E tr((S - I)^2) N / 4 = d + d (d + 1) / 4
    d, pool, repeats, sizes = 2, 40_000, 1000, [50, 100, 400]
    c = d + d * (d + 1) / 4
    reference = Features(None, cloud(0, 50, [0.0] * d, [1.0] * d), None)
    x = Features(None, cloud(7, pool, [0.0] * d, [1.0] * d), None)  # at FID 0 exactly
    assert abs(fid.frechet_distance(x, reference)) < 1e-9
    found = fid.fid_curve(x, reference, sizes=sizes, repeats=repeats, seed=1)
    bounds = [4.5 * np.std(figures) / repeats**0.5 for figures in found["fid"]]
    for n, figures, bound in zip(sizes, found["fid"], bounds, strict=True):
        theory = c * (1 / n - 1 / pool)  # subsets are drawn without replacement
        # beside the noise of the mean: the next order, and the pool's own kurtosis
        assert abs(np.mean(figures) - theory) < bound + 3 / n**2 + 0.1 / n
        assert theory > 3 * bound and len(set(figures)) == repeats
    assert abs(found["fid_infinity"]) < bounds[0] < np.mean(found["fid"][-1])
    assert found["slope"] == pytest.approx(c, rel=0.1)


def test_a_curve_over_all_of_the_pool_ends_at_its_fid():
    pool, reference = gaussian(2, 500, 3), gaussian(3, 800, 3)
    found = fid.fid_curve(pool, reference, sizes=[50, 500], repeats=2)
    assert found["fid"][1] == pytest.approx([own_fid(pool.values, reference.values)] * 2, rel=1e-9)


@pytest.mark.parametrize("sizes", [[100], [100, 100], [3, 100], [100, 501]])
def test_a_curve_needs_two_sizes_within_the_pool(sizes):
    with pytest.raises(UsageError, match="two sizes between 4 .* and 500"):
        fid.fid_curve(gaussian(0, 500, 3), gaussian(1, 500, 3), sizes=sizes)


A = pictures(0, 100)


@pytest.mark.parametrize(
    ("samples", "reference", "options", "message"),
    [
        (A[:64], A, {}, "more than 64 images"),
        (A, A[:64], {}, "more than 64 images"),
        (A, A, {"kid_subset_size": 101}, "subset size"),
        (A, A, {"kid_subset_size": 1}, "subset size"),
        (A[:1], A, {}, "subset size"),
        (A.float(), A, {}, "uint8"),
        (A[:, 0], A, {}, "uint8"),
        (A, A[..., :27], {}, "differ"),
        (A[..., :27], A[..., :27], {}, "choose the classifier of the same data set"),
        (A, A, {"features": "nothing"}, "unknown features"),
        (A, A, {"features": "nothing-classifier"}, "only for .*mnist"),
        (A, A, {"features": INCEPTION, "weights": "no/such/file"}, "cannot be read from no/"),
    ],
)
def test_wrong_use_is_one_sentence(samples, reference, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        fid.compare(samples, reference, **options)
    assert "\n" not in str(caught.value)


def test_without_torch_fidelity_the_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UsageError, match="pip install"):
        fid.compare(A, A)


def test_inception_offline_is_one_sentence(monkeypatch):
    def offline(*_, **__):
        raise URLError("Name or service not known")

    module = torch_fidelity.feature_extractor_inceptionv3
    monkeypatch.setattr(module, "load_state_dict_from_url", offline)
    with pytest.raises(UsageError, match="cannot be downloaded .*Name or service not known"):
        fid.compare(A, A, features=INCEPTION)


@pytest.fixture
def random_inception(monkeypatch, tmp_path):
    """A file of weights as the published one, but random."""
    module = torch_fidelity.feature_extractor_inceptionv3
    cls = module.FeatureExtractorInceptionV3
    with monkeypatch.context() as patched, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patched.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patched.setattr(cls, "load_state_dict", lambda *_: None)
        weights = cls(INCEPTION, ["2048"]).state_dict()
    # batch norms that do not shrink the signal of random kernels to nothing
    weights = {k: t.fill_(2.4) if k.endswith("bn.weight") else t for k, t in weights.items()}
    torch.save(weights, tmp_path / "random.pth")
    return tmp_path / "random.pth"


@pytest.mark.slow
def test_inception_from_a_file_on_grey_and_colour_images(random_inception, monkeypatch):
    options = {"features": INCEPTION, "weights": random_inception}
    a, b = pictures(0, 12), pictures(1, 12)
    state = torch.get_rng_state()
    with pytest.raises(UsageError, match="more than 2048 images"):
        fid.compare(a, b, **options)
    assert torch.equal(torch.get_rng_state(), state)
    monkeypatch.setattr(fid, "check_counts", lambda *_: None)  # 2,048 images take too long
    monkeypatch.setattr(fid, "IS_SPLITS", 2)
    grey = fid.compare(a, b, **options)
    colour = fid.compare(a.repeat(1, 3, 1, 1), b.repeat(1, 3, 1, 1), **options)
    assert grey == colour and grey["fid"] > 1e-3 and grey["kid"] != 0
    assert grey["inception_score"] >= 1 and grey["features"] == INCEPTION
    whole = torch_fidelity.calculate_metrics(
        input1=OneByOne(a.repeat(1, 3, 1, 1)),
        input2=OneByOne(b.repeat(1, 3, 1, 1)),
        **dict.fromkeys(("isc", "fid", "kid", "prc"), True),
        feature_extractor=INCEPTION,
        feature_extractor_weights_path=str(random_inception),
        kid_subset_size=6,
        isc_splits=2,
        rng_seed=0,
        batch_size=50,
        **{"cuda": False, "cache": False, "save_cpu_ram": True, "verbose": False},
    )
    assert grey["kid"] == pytest.approx(whole["kernel_inception_distance_mean"], rel=1e-6)
    assert grey["inception_score"] == pytest.approx(whole["inception_score_mean"], rel=1e-6)
    assert grey["precision"] == whole["precision"] and grey["recall"] == whole["recall"]
    # of rank 11 in 2,048 dimensions, the product's eigenvalues are zero up to float32 rounding
    assert grey["fid"] == pytest.approx(whole["frechet_inception_distance"], rel=1e-3)


def test_fid_needs_only_moments():
    x, y = (Features(None, cloud(seed, 300, [0.0, 1.0], [1.0, 2.0])) for seed in (0, 1))
    law = Moments(torch.tensor([3.0, 1.0]).double(), torch.diag(torch.tensor([1.0, 9.0])).double())
    assert fid.frechet_distance(x, law) == pytest.approx(9 + 1, rel=1e-9)  # 3^2 + (2 - 3)^2
    moments = Moments(*(torch.from_numpy(v) for v in y.statistics.values()))
    assert fid.frechet_distance(x, moments) == fid.frechet_distance(x, y)


def test_kid_and_inception_score_alone_are_those_of_compare():
    a, b = pictures(0, 200), pictures(1, 150)
    scores, extract = fid.compare(a, b, seed=3), Extractor("mnist-classifier", (1, 28, 28))
    x, y = extract(a), extract(b)
    kid = fid.kernel_distance(x, y, subset_size=scores["kid_subset_size"], seed=3)
    assert kid == (scores["kid"], scores["kid_std"])
    score = fid.inception_score(x.logits, seed=3)
    assert score == (scores["inception_score"], scores["inception_score_std"])


def test_shipped_references_come_back(monkeypatch, tmp_path):
    train, test = pictures(0, 200), pictures(1, 90)
    home = features.paths.shipped
    monkeypatch.setattr(
        features.paths,
        "shipped",
        lambda *p: tmp_path / p[-1] if p[-1].startswith("features-") else home(*p),
    )
    assert save_reference("mnist", train, test).parent == tmp_path
    moments, values = load_reference("mnist")
    extract = Extractor("mnist-classifier", (1, 28, 28))
    exact = extract(test)
    assert fid.frechet_distance(moments, extract(train)) == pytest.approx(0, abs=1e-9)
    assert torch.allclose(values.values, exact.values, rtol=2**-10, atol=1e-4)  # float16
    assert torch.allclose(values.logits, exact.logits, rtol=0, atol=0.05)
