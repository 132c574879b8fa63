"""Scores of outliers against a linear-Gaussian system; areas by hand; who is held out."""

from math import log, pi

import pytest
import torch

from jlebm_core import data, systems
from jlebm_core.data import ImageSet, to_float
from jlebm_core.errors import UsageError
from jlebm_core.evaluate import outliers
from jlebm_core.experiments import experiment
from jlebm_core.experiments import outliers as experiments
from jlebm_core.gaussians import DiagonalGaussian
from jlebm_core.generators import Generator
from jlebm_core.inference import Encoder
from jlebm_core.objectives import Variational
from jlebm_core.priors import StandardNormal

SIGMA, DIMS = 0.5, (1, 2)
W = torch.tensor([[1.0, 0.5, 0.0], [-0.5, 2.0, 0.3], [0.3, 0.3, -1.0], [0.0, -1.0, 0.7]])
TILT = torch.tensor([0.5, -1.0, 0.2])


def seeded(seed):
    return torch.Generator().manual_seed(seed)


class Linear(Generator):
    """h_1(z) = W z as an image of 1 x 2 x 2."""

    def mean(self, z):
        return (z @ W.T).view(-1, 1, 2, 2)


class Tilted(StandardNormal):
    """f(z) = a z, so that p(z) = N(a, I) and log Z = |a|^2 / 2."""

    def f(self, z):
        return z @ TILT


PRECISION = torch.eye(3) + W.T @ W / SIGMA**2


def posterior_mean(x):
    return torch.linalg.solve(PRECISION, (x.flatten(1) @ W / SIGMA**2 + TILT).T).T


class Diagonal(Encoder):
    """q(z | x) has the posterior's mean and the variances 1 / precision_ii."""

    def posterior(self, x):
        mean = posterior_mean(x)
        return DiagonalGaussian(mean, -PRECISION.diagonal().log().expand_as(mean))


def System():
    """The linear system."""
    return systems.System(Tilted(DIMS), Linear(SIGMA), Diagonal(), Variational())


def log_evidence(x):
    """log p(x) + log Z, p(x) = N(W a, W W^T + sigma^2 I)."""
    d = x.flatten(1) - W @ TILT
    cov = W @ W.T + SIGMA**2 * torch.eye(4)
    quadratic = (d @ torch.linalg.inv(cov) * d).sum(1)
    log_p = -0.5 * (quadratic + torch.logdet(cov) + 4 * log(2 * pi))
    return log_p + TILT.square().sum() / 2


def images(n, seed=0):
    return torch.randint(0, 256, (n, 1, 2, 2), generator=seeded(seed)).to(torch.uint8)


def test_parts_add_up_to_the_log_posterior_and_the_evidence():
    """log p(x | z) + f + log p_0 = log p(z | x) + log p(x) + log Z at every z."""
    system, x = System(), to_float(images(9))
    z = torch.randn(9, 3, generator=seeded(1))
    found = outliers.parts(system, x, z)
    d = z - posterior_mean(x)
    log_q = 0.5 * (torch.logdet(PRECISION) - (d @ PRECISION * d).sum(1) - 3 * log(2 * pi))
    assert torch.allclose(found.log_posterior, log_q + log_evidence(x), atol=1e-4)
    assert torch.equal(found.log_prior, found.f + found.log_base)
    assert torch.equal(found.f, z @ TILT)


def test_refining_finds_the_mode_and_leaves_no_image_worse():
    system, x = System(), to_float(images(6))
    start = posterior_mean(x) + 0.3 * torch.randn(6, 3, generator=seeded(2))
    best = outliers.refine(system, x, start, steps=300)
    assert torch.allclose(best, posterior_mean(x), atol=5e-3)
    before = outliers.parts(system, x, start).log_posterior
    for steps in (0, 1, 2, 7):
        after = outliers.refine(system, x, start, steps=steps)
        assert (outliers.parts(system, x, after).log_posterior >= before).all()
    assert torch.equal(outliers.refine(system, x, start, steps=0), start)
    mode = posterior_mean(x)  # a step from the mode is a step down: the start is kept
    assert torch.allclose(outliers.refine(system, x, mode, steps=3), mode, atol=1e-5)


def test_layer_bounds_are_elbo_and_bound_with_blind_layers():
    """Both have closed forms: E_q[log p(x, z)] of a quadratic, and of q with N(0, 1) below."""
    system, x, n = System(), to_float(images(3)), 4000
    found = outliers.layer_bounds(system, x.repeat(n, 1, 1, 1), rng=seeded(3)).view(2, n, 3)

    def exact(mean, var, entropy):
        """E log p(x, z) Z for independent z_i, plus the entropy of what was inferred."""
        at = outliers.parts(system, x, mean).log_posterior
        return at - 0.5 * (PRECISION.diagonal() * var).sum() + entropy

    mean, var = posterior_mean(x), 1 / PRECISION.diagonal()
    entropies = 0.5 * (1 + log(2 * pi) + var.log())
    blind_mean, blind_var = mean.clone(), var.clone()
    blind_mean[:, 0], blind_var[0] = 0, 1
    # of the blind layer, E[log p_0] is left out: + 1/2 (1 + log 2 pi)
    blind = exact(blind_mean, blind_var, entropies[1:].sum() + 0.5 * (1 + log(2 * pi)))
    expected = torch.stack([exact(mean, var, entropies.sum()), blind])
    error = found.std(1) / n**0.5
    assert ((found.mean(1) - expected).abs() < 5 * error).all() and error.max() < 0.5
    assert (expected[0] < log_evidence(x)).all() and (expected[1] < expected[0]).all()


def test_a_layer_that_nothing_depends_on_has_the_ratio_zero(monkeypatch):
    """Its posterior is N(0, 1), which is what the blind draw takes as well."""
    monkeypatch.setitem(globals(), "W", W * torch.tensor([0.0, 1.0, 1.0]))
    monkeypatch.setitem(globals(), "TILT", TILT * torch.tensor([0.0, 1.0, 1.0]))
    monkeypatch.setitem(globals(), "PRECISION", torch.eye(3) + W.T @ W / SIGMA**2)
    found = outliers.scores(System(), images(5), samples=2, rng=seeded(4))
    assert found["LLR>1"].abs().max() < 1e-5


def test_likelihood_ratio_takes_the_draws_of_the_bound():
    x = images(5)
    found = outliers.scores(System(), x, samples=3, rng=seeded(4))
    bounds = outliers.layer_bounds(System(), to_float(x), samples=3, rng=seeded(4))
    assert torch.equal(found["LLR>1"], bounds[0] - bounds[1]) and found["LLR>1"].abs().max() > 1
    assert torch.equal(found["elbo"], -bounds[0])
    assert "LLR>2" not in found  # the top layer is always inferred


def test_scores_turn_every_sign_and_take_blocks():
    system, x = System(), images(7)
    at = outliers.parts(system, to_float(x), system.encode(to_float(x)))
    found = outliers.scores(system, x, block=3)
    assert torch.allclose(found["log-posterior"], -at.log_posterior, atol=1e-5)
    total = found["reconstruction"] + found["f"] + found["log p_0"]
    assert torch.allclose(found["log-posterior"], total, atol=1e-5)
    assert torch.allclose(found["prior"], found["f"] + found["log p_0"])
    assert set(found) == {"log-posterior", "reconstruction", "f", "log p_0", "prior"}


def test_areas_have_the_values_of_a_hand_computation():
    """Ranked from the top: outlier, normal, outlier, normal."""
    score, outlier = torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True])
    assert outliers.auroc(score, outlier) == pytest.approx(3 / 4)
    # (recall, precision): (0, 1), (1/2, 1), (1/2, 1/2), (1, 2/3), then recall stays at 1
    assert outliers.auprc(score, outlier) == pytest.approx(0.5 * 1 + 0.5 * (1 / 2 + 2 / 3) / 2)


def test_areas_of_a_perfect_a_reversed_and_a_blind_score():
    outlier = torch.arange(1000) >= 600
    score = torch.arange(1000.0)
    assert outliers.auroc(score, outlier) == outliers.auprc(score, outlier) == 1.0
    assert outliers.auroc(-score, outlier) == 0.0
    # no ranking is worse: precision at recall r is r p / (r p + 1 - p), p the share of outliers
    p = 0.4
    assert outliers.auprc(-score, outlier) == pytest.approx(1 + (1 - p) / p * log(1 - p), abs=2e-3)
    noise = torch.rand(20_000, generator=seeded(5))
    mark = torch.arange(20_000) % 5 < 2
    assert outliers.auprc(noise, mark) == pytest.approx(0.4, abs=0.02)
    assert outliers.auroc(noise, mark) == pytest.approx(0.5, abs=5 * (1 / 12 / 4800) ** 0.5)


def test_bad_marks_get_one_sentence():
    score = torch.zeros(3)
    for marks in (torch.zeros(3), torch.zeros(2).bool()):
        with pytest.raises(UsageError, match="one score and one bool for each image"):
            outliers.auroc(score, marks)
    with pytest.raises(UsageError, match="only one kind"):
        outliers.auprc(score, torch.ones(3).bool())


def test_calibrated_adds_standard_deviations_of_normal_images():
    normal = {
        "reconstruction": torch.tensor([0.0, 2.0, 4.0]),
        "prior": torch.tensor([1.0, 2.0, 3.0]),
    }
    found = {"reconstruction": torch.tensor([2.0, 6.0]), "prior": torch.tensor([5.0, 2.0])}
    assert torch.equal(outliers.calibrated(found, normal), torch.tensor([3.0, 2.0]))


def test_nearest_is_the_distance_to_the_kth_code():
    codes = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    z = torch.tensor([[0.0, 0.0], [6.0, 8.0]])
    for k, expected in ((1, [0.0, 0.0]), (2, [5.0, 5.0]), (3, [10.0, 10.0])):
        assert torch.allclose(outliers.nearest(z, codes, k=k, block=1), torch.tensor(expected))


def image_set(labels, split):
    """Images whose pixel names them."""
    n = len(labels)
    start = 100 if split == "test" else 0
    pixels = (start + torch.arange(n)).to(torch.uint8).view(-1, 1, 1, 1)
    return ImageSet("demo", split, pixels, torch.tensor(labels))


def test_hold_out_pools_splits_and_loses_nobody():
    parts = [image_set([0, 1, 2, 1, 0, 2, 2, 0], "train"), image_set([1, 0, 2, 2], "test")]
    held = experiments.hold_out(parts, 1)
    # nine normal images: four fifths of them, rounded down, are trained on
    assert len(held.train) == 7 and len(held.test) == 2 + 3
    assert not (held.train.labels == 1).any()
    assert held.outlier.tolist() == [False, False, True, True, True]
    assert held.test[held.outlier].flatten().tolist() == [1, 3, 100]
    seen = [*held.train.images.flatten().tolist(), *held.test.flatten().tolist()]
    assert sorted(seen) == [*range(8), *range(100, 104)]  # each once
    again, other = experiments.hold_out(parts, 1), experiments.hold_out(parts, 1, seed=1)
    assert torch.equal(again.train.images, held.train.images)
    assert not torch.equal(other.train.images, held.train.images)


def test_the_protocol_at_the_size_of_mnist():
    """MNIST has 7,877 ones among its 70,000 images."""
    labels = torch.zeros(70_000, dtype=torch.long)
    labels[:7877] = 1
    parts = [
        ImageSet("mnist", name, torch.zeros(len(y), 1, 1, 1, dtype=torch.uint8), y)
        for name, y in zip(("train", "test"), labels.split(60_000), strict=True)
    ]
    held = experiments.hold_out(parts, 1)
    assert len(held.train) == 49_698  # four fifths of 62,123
    assert (int(held.outlier.sum()), len(held.test)) == (7877, 20_302)


def test_what_lies_outside_the_glyphs_differs_in_one_way(monkeypatch):
    few = data.load("glyphs", "test", limit=6)
    monkeypatch.setattr(experiments, "split", lambda name, part: few)
    flipped = experiments.outside.__wrapped__("glyphs upside down")
    assert torch.equal(flipped.flip(2), few.images) and not torch.equal(flipped, few.images)
    blank = experiments.outside.__wrapped__("glyphs without ink")
    assert blank.shape == few.images.shape
    corner = (slice(None), slice(None), 0, 0)  # hardly ever inked: the background stays
    inked = (blank[corner].int() - few.images[corner].int()).abs().amax(1) > 1
    assert inked.float().mean() < 0.5
    # a ramp of light on one colour: each channel is a plane, so its second difference vanishes
    second = blank[..., 2:].int() - 2 * blank[..., 1:-1].int() + blank[..., :-2].int()
    assert second.abs().max() <= 2  # of three rounded numbers


def test_what_the_chapter_shows_is_kept():
    trials = [t for name in ("anomaly", "ood") for t in experiment(name).trials()]
    assert sorted(t.name for t in trials if t.derive) == sorted(experiments.SHOWN)


def test_records_carry_score_and_protocol_and_leave_out_what_ranks_nothing():
    outlier = torch.tensor([False, False, True, True])
    scores = {"a": torch.tensor([0.1, 0.4, 0.35, 0.8]), "constant": torch.ones(4)}
    records = experiments.ranking(scores, outlier, held_out=7)
    assert [(r["name"], r["score"], r["held_out"]) for r in records] == [
        ("auroc", "a", 7),
        ("auprc", "a", 7),
    ]
    assert records[0]["value"] == pytest.approx(0.75)


@pytest.mark.parametrize("system", ["joint-ebm", "vlae", "lebm"])
def test_a_trained_system_is_ranked_by_all_that_it_has(system, monkeypatch):
    small = systems.build(systems.configure(system, "demo", (1, 28, 28), posterior_steps=2)).eval()
    images = torch.randint(0, 256, (12, 1, 28, 28), generator=seeded(6)).to(torch.uint8)
    mark = torch.arange(8) >= 4
    monkeypatch.setattr(experiments, "THIN", 2)
    records = experiments.all_ranked(small, images[:8], mark, images)
    found = {r["score"] for r in records if r["name"] == "auprc"}
    expected = {"log-posterior", "reconstruction", "log p_0", "prior", "calibrated", "nearest code"}
    expected |= {"log-posterior, refined", "reconstruction, refined"}
    expected |= set() if system == "vlae" else {"f"}
    expected |= set() if system == "lebm" else {"elbo", "LLR>1", "LLR>2"}
    assert found == expected
    cheap = expected & set(outliers.PARTS)
    assert {r["score"] for r in experiments.ranked(small, images[:8], mark)} == cheap
    for r in records:  # what is dear takes every second image here
        count = 4 if r["score"] in cheap else 2
        assert (r["normal"], r["outliers"]) == (count, count)


def test_no_bound_without_a_density_or_on_another_base():
    lebm = systems.build(systems.configure("lebm", "demo", (1, 28, 28), posterior_steps=2))
    with pytest.raises(UsageError, match="LangevinPosterior has no density"):
        outliers.layer_bounds(lebm, torch.zeros(2, 1, 28, 28))
    lvae = systems.build(systems.configure("lvae", "demo", (1, 28, 28)))
    with pytest.raises(UsageError, match="the base of GaussianChain is another"):
        outliers.layer_bounds(lvae, torch.zeros(2, 1, 28, 28))


def test_what_is_kept_for_a_page_are_scores_and_extreme_images(monkeypatch):
    small = systems.build(systems.configure("joint-ebm", "demo", (1, 28, 28))).eval()
    images = torch.randint(0, 256, (12, 1, 28, 28), generator=seeded(7)).to(torch.uint8)
    outlier = torch.arange(12) >= 7
    monkeypatch.setattr(experiments, "THIN", 1)
    found = experiments.kept(small, images, outlier, images, shown=2)
    scores = experiments.all_scores(small, images, images)
    assert set(found) == {*scores, "outlier", "extremes"}
    assert torch.equal(found["outlier"].bool(), outlier)
    for name, score in scores.items():
        assert torch.equal(found[name], score.half())
    rank = scores["log-posterior"].clone()
    best, worst = rank[:7].argmin(), rank[:7].argmax()
    best_out, worst_out = 7 + rank[7:].argmin(), 7 + rank[7:].argmax()
    assert found["extremes"].shape == (4, 2, 1, 28, 28)
    for row, i in zip(found["extremes"], (best, worst, best_out, worst_out), strict=True):
        assert torch.equal(row[0], images[i])
