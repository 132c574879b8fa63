"""FID, KID, inception score, precision and recall, all of torch-fidelity, on features taken once.

With mu, Sigma the mean and covariance of features phi(x) of samples (1) and reference (2)::

    FID = |mu_1 - mu_2|^2 + tr(Sigma_1 + Sigma_2 - 2 (Sigma_1 Sigma_2)^(1/2))
    KID = unbiased MMD^2 under k(a, b) = (a^T b / d + 1)^3, mean over random subsets
    IS  = exp E KL(p(y | x) || p(y)), p the softmax of the extractor's logits, mean over 10 parts

Precision is the fraction of samples within the ball of a real image that reaches to its third
nearest real neighbour, recall the same with the sides exchanged (Kynkaanniemi et al. 2019).

FID is biased upwards by few samples, and by how much depends on the model, so every figure here
carries both sample counts; KID is not biased. FID on classifier features is never plain FID.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from .features import Extractor, Features, Moments, Stream, check_images, torch_fidelity

KID_SUBSETS, KID_SUBSET = 100, 1000  # how many, of how many images each
IS_SPLITS = 10
PRC_NEIGHBOUR, PRC_IMAGES = 3, 10_000  # the ball reaches to which; at most so many a side


def compare(
    samples: Tensor | Stream,
    reference: Tensor | Features,
    *,
    features: str = "mnist-classifier",
    seed: int = 0,
    kid_subset_size: int | None = None,
    weights: str | Path | None = None,
    alone: bool = False,
) -> dict:
    """The figures of uint8 ``samples`` (N, C, H, W) against ``reference`` (M, C, H, W).

    ``features``: ``"<data>-classifier"``, ``"inception-v3-compat"``, or any extractor registered
    with torch-fidelity, with the file of its ``weights`` (see features.Extractor). A reference
    whose features have been taken before brings its own extractor. KID draws 100 subsets of
    ``kid_subset_size`` images from each side (None: 1000, or half of the smaller side if that is
    less). Precision and recall take equal numbers of both sides, at most 10,000 drawn at random.
    ``alone`` leaves all but FID out, which take seconds.

    Returns ``fid``, ``kid``, ``kid_std``, ``precision``, ``recall``, where the extractor has logits
    ``inception_score`` and ``inception_score_std``, and what defines them: ``features``,
    ``samples`` = N, ``reference_samples`` = M, ``kid_subset_size``, ``prc_samples``, ``seed``.
    Raises UsageError if torch-fidelity or a file is missing, if the images do not fit, or if there
    are too few of them; a Stream is not touched before all that is clear.
    """
    given = isinstance(reference, Tensor)
    if given:
        check_images(reference)
    if isinstance(samples, Tensor):
        check_images(samples, tuple(reference.shape[1:]) if given else reference.extractor.shape)
    extractor = (
        Extractor(features, reference.shape[1:], weights=weights, device=reference.device)
        if given
        else reference.extractor
    )
    n, m = samples.n if isinstance(samples, Stream) else len(samples), len(reference)
    size = kid_subset(n, m) if kid_subset_size is None else kid_subset_size
    check_counts(n, m, extractor, size)
    b = extractor(reference) if given else reference
    a = extractor(samples)
    counts = {"features": extractor.name, "samples": n, "reference_samples": m}
    scores = {"fid": frechet_distance(a, b), **counts, "seed": seed}
    if alone:
        return scores
    kid, kid_std = kernel_distance(a, b, subset_size=size, seed=seed)
    scores |= {
        "kid": kid,
        "kid_std": kid_std,
        "kid_subset_size": size,
        **precision_recall(a.values, b.values, seed=seed),
    }
    if a.logits is not None:
        score, std = inception_score(a.logits, seed=seed)
        scores |= {"inception_score": score, "inception_score_std": std}
    return scores


def frechet_distance(a: Features | Moments, b: Features | Moments) -> float:
    """FID of two sets of features. Raises UsageError for fewer than two of either, which have no
    covariance; ``compare`` asks for more of them than there are features."""
    for side in (a, b):
        if isinstance(side, Features):
            _check_enough("FID", len(side), 2)
    fidelity = torch_fidelity()
    found = fidelity.metric_fid.fid_statistics_to_metric(a.statistics, b.statistics, False)
    return found[fidelity.KEY_METRIC_FID]


def kernel_distance(
    a: Features, b: Features, *, subset_size: int, seed: int
) -> tuple[float, float]:
    """KID of two sets of features: mean and standard deviation over 100 pairs of subsets.

    Raises UsageError for subsets of fewer than two, or of more than there are.
    """
    _check_enough("a subset of KID", subset_size, 2)
    _check_enough("KID", min(len(a), len(b)), subset_size)
    fidelity = torch_fidelity()
    found = fidelity.metric_kid.kid_features_to_metric(
        a.values,
        b.values,
        kid_subsets=KID_SUBSETS,
        kid_subset_size=subset_size,
        rng_seed=seed,
        verbose=False,
    )
    return found[fidelity.KEY_METRIC_KID_MEAN], found[fidelity.KEY_METRIC_KID_STD]


def inception_score(logits: Tensor, *, seed: int) -> tuple[float, float]:
    """Inception score of logits (N, k): mean and standard deviation over 10 parts.

    Raises UsageError for fewer than one a part.
    """
    _check_enough("the inception score", len(logits), IS_SPLITS)
    fidelity = torch_fidelity()
    found = fidelity.metric_isc.isc_features_to_metric(logits, IS_SPLITS, rng_seed=seed)
    return found[fidelity.KEY_METRIC_ISC_MEAN], found[fidelity.KEY_METRIC_ISC_STD]


def kid_subset(n: int, m: int) -> int:
    """Size of KID's subsets for ``n`` and ``m`` images: 1000, or half of the smaller side."""
    return min(KID_SUBSET, min(n, m) // 2)


def check_counts(n: int, m: int, extractor: Extractor, kid_subset_size: int) -> None:
    """Raise UsageError if ``n`` samples and ``m`` reference images are too few."""
    smaller, dim = min(n, m), extractor.dim
    if not 2 <= kid_subset_size <= smaller:
        raise UsageError(
            f"KID with subsets of {kid_subset_size} needs 2 <= subset size <= number of images, "
            f"and the smaller side has {smaller}: give more images or another kid_subset_size."
        )
    if smaller <= dim:
        raise UsageError(
            f"FID on {extractor.name} features needs more than {dim} images on each side, else the "
            f"{dim} x {dim} covariance is rank deficient, and the smaller side has {smaller}: "
            "give more images."
        )


def _check_enough(what: str, count: int, least: int) -> None:
    if count < least:
        raise UsageError(
            f"{least} images or more on each side are needed for {what}, and the smaller side "
            f"has {count}: give more images."
        )


def precision_recall(a: Tensor, b: Tensor, *, seed: int) -> dict:
    """Precision and recall of features ``a`` (N, d) of samples against ``b`` (M, d) of real images.

    Both depend on the numbers of points, so equal numbers are drawn: min(N, M, 10,000). Raises
    UsageError for fewer than the ball needs.
    """
    fidelity = torch_fidelity()
    count = min(len(a), len(b), PRC_IMAGES)
    _check_enough("precision and recall", count, PRC_NEIGHBOUR + 1)
    rng = torch.Generator().manual_seed(seed)
    a, b = (x[torch.randperm(len(x), generator=rng)[:count].sort().values] for x in (a, b))
    found = fidelity.metric_prc.prc_features_to_metric(
        a,
        b,
        prc_neighborhood=PRC_NEIGHBOUR,
        prc_batch_size=500,
        save_cpu_ram=True,
        verbose=False,
    )
    return {
        "precision": found[fidelity.KEY_METRIC_PRECISION],
        "recall": found[fidelity.KEY_METRIC_RECALL],
        "prc_samples": count,
    }


def floor(images: Tensor, *, samples: int | None = None, seed: int = 0, **options) -> dict:
    """The figures of one random part of real ``images`` (N, C, H, W) against the rest.

    What a perfect model would reach: ``samples`` images against all others (None: two halves).
    Options and result as for compare.
    """
    count = len(images) // 2 if samples is None else samples
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    order = order.to(images.device)
    return compare(images[order[:count]], images[order[count:]], seed=seed, **options)


def fid_curve(
    samples: Features,
    reference: Features | Moments,
    *,
    sizes: Sequence[int] | None = None,
    repeats: int = 5,
    seed: int = 0,
) -> dict:
    """FID against the number of samples N, and its limit for N to infinity.

    FID of N samples exceeds that of infinitely many by about c / N, with c of the model's own, so
    that a line through FID against 1 / N meets the axis at FID_infinity (Chong and Forsyth 2020,
    arXiv 1911.07023). ``repeats`` random subsets of the pool ``samples`` are measured at each of
    ``sizes`` (None: 15 equal steps from a tenth of the pool to all of it), and the line is fitted
    to all of them by least squares. The reference's own finite number is not extrapolated.

    Returns ``sizes``, ``fid`` (a list of ``repeats`` figures for each size), ``fid_infinity`` and
    ``slope`` = c. Raises UsageError unless two sizes or more lie between d + 1 and the pool's.
    """
    pool, dim = len(samples), samples.values.shape[1]
    if sizes is None:
        sizes = np.linspace(max(pool / 10, dim + 1), pool, 15).astype(int).tolist()
    if repeats < 1:
        raise UsageError(f"a curve of {repeats} repeats has no points: take one or more.")
    if len(set(sizes)) < 2 or not dim < min(sizes) <= max(sizes) <= pool:
        raise UsageError(
            f"a curve over N needs at least two sizes between {dim + 1} (one more than there are "
            f"features) and {pool} (the pool of samples), and got {list(sizes)}."
        )
    rng = torch.Generator().manual_seed(seed)
    fids = []
    for n in sizes:
        subsets = (torch.randperm(pool, generator=rng)[:n] for _ in range(repeats))
        parts = (Features(samples.extractor, samples.values[rows], None) for rows in subsets)
        fids.append([frechet_distance(part, reference) for part in parts])
    slope, limit = np.polyfit(np.repeat(1 / np.array(sizes), repeats), np.ravel(fids), 1)
    return {
        "sizes": list(sizes),
        "fid": fids,
        "fid_infinity": float(limit),
        "slope": float(slope),
    }


def metric_records(
    scores: dict,
    *,
    reference: str = "train",
    langevin_steps: int | None = None,
    suffix: str = "",
) -> list[dict]:
    """Scores of compare as flat records of a results file.

    ``reference`` names the split, ``langevin_steps`` the length of the prior chains (None leaves
    it out), ``suffix`` is appended to the names (``"_floor"`` for real against real).
    """
    steps = {} if langevin_steps is None else {"langevin_steps": langevin_steps}
    own = {"features": scores["features"], "samples": scores["samples"]}
    drawn = {**steps, "eight_bit": True}
    real = {"reference": reference, "reference_samples": scores["reference_samples"]}
    protocol = {**own, **real, **drawn}
    seed = {"seed": scores["seed"]}
    count = dict.fromkeys(("samples", "reference_samples"), scores.get("prc_samples"))
    figures = {
        "fid": protocol,
        "kid": {
            "std": scores.get("kid_std"),
            "subset_size": scores.get("kid_subset_size"),
            "subsets": KID_SUBSETS,
            **seed,
            **protocol,
        },
        "inception_score": {
            "std": scores.get("inception_score_std"),
            "splits": IS_SPLITS,
            **seed,
            **own,
            **drawn,
        },
        "precision": {"neighborhood": PRC_NEIGHBOUR, **seed, **protocol, **count},
        "recall": {"neighborhood": PRC_NEIGHBOUR, **seed, **protocol, **count},
    }
    return [
        {"name": f"{name}{suffix}", "value": scores[name], **rest}
        for name, rest in figures.items()
        if name in scores
    ]
