"""FID and KID against closed forms, own formulas and symmetries."""

import sys
from urllib.error import URLError

import numpy as np
import pytest
import torch

from jlebm_core.errors import UsageError
from jlebm_core.evaluate import fid
from jlebm_core.evaluate.classifier import load_classifier

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
    one, two = fid.metric_records(scores, reference="train", langevin_steps=60)
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
    real = fid.metric_records(scores, suffix="_floor")
    assert [r["name"] for r in real] == ["fid_floor", "kid_floor"]
    assert "langevin_steps" not in real[0]


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
        (A, A, {"features": fid.INCEPTION, "weights": "no/such/file"}, "cannot be read from no/"),
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
        fid.compare(A, A, features=fid.INCEPTION)


@pytest.mark.slow
def test_inception_takes_grey_images_and_a_weights_file(monkeypatch, tmp_path):
    module = torch_fidelity.feature_extractor_inceptionv3
    cls = module.FeatureExtractorInceptionV3
    with monkeypatch.context() as patched, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patched.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patched.setattr(cls, "load_state_dict", lambda *_: None)
        weights = cls(fid.INCEPTION, ["2048"]).state_dict()
    # batch norms that do not shrink the signal of random kernels to nothing
    weights = {k: t.fill_(2.4) if k.endswith("bn.weight") else t for k, t in weights.items()}
    torch.save(weights, tmp_path / "random.pth")
    options = {"features": fid.INCEPTION, "weights": tmp_path / "random.pth"}
    a, b = pictures(0, 8), pictures(1, 8)
    with pytest.raises(UsageError, match="more than 2048 images"):
        fid.compare(a, b, **options)
    monkeypatch.setattr(fid, "dimension", lambda *_: 2)  # 2,048 images take too long
    grey = fid.compare(a, b, **options)
    colour = fid.compare(a.repeat(1, 3, 1, 1), b.repeat(1, 3, 1, 1), **options)
    assert grey == colour and grey["fid"] > 1e-3 and grey["kid"] != 0
