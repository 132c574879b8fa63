"""Outliers: a held-out digit (the paper's table 3), another data set (supplement, table 1).

Scores and what they rank are in ``evaluate/outliers``; here is on which images.
"""

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import glyphs, systems
from ..data import SHAPES, ImageSet
from ..evaluate import outliers
from ..evaluate.report import device_of, encode_all
from ..systems import System
from .trial import Experiment, Trial, split, whole

DIGITS = (1, 4, 5, 7, 9)
EPOCHS = 10  # over the ends of the last of them the paper averages
SAMPLES, STEPS = 2, 20  # of ``layer_bounds`` and ``refine``
CALIBRATION, CODES = 5000, 10_000  # training images by which scores are scaled, codes to be near
THIN = 4  # every fourth test image is scored in all ways, all of them in the ways of one pass

# data set that is normal -> those that are not, where both have images of one shape
OUT = {
    "fashion-mnist": ("mnist",),
    "mnist": ("fashion-mnist",),
    "glyphs": ("glyphs upside down", "glyphs without ink", "mnist in 32x32", "fashion in 32x32"),
}

# Held-out digits: name of the settings -> (system, what differs from its own settings). The last
# two ask what the number of dimensions does, 4 and 40 in place of 10, in short runs.
HELD: dict[str, tuple[str, dict]] = {
    "joint-ebm": ("joint-ebm", {}),
    "lebm": ("lebm", {}),
    "narrow": ("joint-ebm", {"dims": (1, 1, 2), "warmup": 300, "steps": 1200}),
    "wide": ("joint-ebm", {"dims": (10, 10, 20), "warmup": 300, "steps": 1500}),
}

# trials whose scores and extreme images chapter 9 shows
SHOWN = ("joint-ebm-1", "joint-ebm-mnist", "joint-ebm-fashion-mnist")


class Held(NamedTuple):
    """A data set without one class: what is trained on, what is tested, which are outliers."""

    train: ImageSet  # 80 % of the normal images
    test: Tensor  # the other 20 %, and all of the class; uint8 (N, C, H, W)
    outlier: Tensor  # (N,) of bool


def hold_out(parts: list[ImageSet], label: int, *, seed: int = 0) -> Held:
    """All images of ``parts`` pooled, class ``label`` held out, the others shuffled and split."""
    images = torch.cat([p.images for p in parts])
    labels = torch.cat([p.labels for p in parts])
    normal, held = (labels != label).nonzero()[:, 0], (labels == label).nonzero()[:, 0]
    normal = normal[torch.randperm(len(normal), generator=torch.Generator().manual_seed(seed))]
    count = len(normal) * 4 // 5
    kept, rest = normal[:count], normal[count:]
    outlier = torch.cat([torch.zeros(len(rest)), torch.ones(len(held))]).bool()
    train = ImageSet(parts[0].name, "train", images[kept], labels[kept])
    return Held(train, images[torch.cat([rest, held])], outlier)


@functools.cache
def held_digit(digit: int) -> Held:
    """MNIST's 70,000 images with one digit held out (papers on anomaly detection since 2018)."""
    return hold_out([split("mnist", part) for part in ("train", "test")], digit)


@functools.cache
def outside(name: str) -> Tensor:
    """Test images that do not belong: a data set, or glyphs changed in one way. uint8, (N, ..)."""
    if name == "glyphs upside down":  # the same colours and strokes, other shapes
        return split("glyphs", "test").images.flip(2)
    if name == "glyphs without ink":  # a background under light, and nothing on it
        factors = dict(split("glyphs", "test").factors)
        for colour in ("hue", "saturation", "luma"):
            factors[f"ink_{colour}"] = factors[f"background_{colour}"]
        return glyphs.draw(factors)
    if name.endswith(" in 32x32"):  # in grey, in a frame of its own black
        source = {"mnist": "mnist", "fashion": "fashion-mnist"}[name.removesuffix(" in 32x32")]
        images = split(source, "test").images[: len(split("glyphs", "test"))]
        return F.pad(images, (2, 2, 2, 2)).expand(-1, 3, -1, -1)
    return split(name, "test").images


def ranking(scores: dict[str, Tensor], outlier: Tensor, **protocol) -> list[dict]:
    """AUROC and AUPRC of every score, as flat records. A score of one value only ranks nothing."""
    measures = {"auroc": outliers.auroc, "auprc": outliers.auprc}
    return [
        {"name": name, "value": of(score, outlier), "score": kind, **protocol}
        for kind, score in scores.items()
        if score.min() < score.max()
        for name, of in measures.items()
    ]


def ranked(system: System, images: Tensor, outlier: Tensor) -> list[dict]:
    """``ranking`` of the paper's score and its parts, which take one pass."""
    found = outliers.scores(system, images, rng=drawn(system))
    return ranking(found, outlier, **counts(outlier))


def all_scores(system: System, images: Tensor, normal: Tensor) -> dict[str, Tensor]:
    """Every score, those too that take longer or need ``normal`` training images."""
    found = outliers.scores(
        *(system, images),
        samples=SAMPLES if system.inference.amortised else 0,
        steps=STEPS,
        rng=drawn(system),
    )
    known = outliers.scores(system, normal[:CALIBRATION], rng=drawn(system))
    found["calibrated"] = outliers.calibrated(found, known)
    codes = [encode_all(system, x, rng=drawn(system)) for x in (images, normal[:CODES])]
    found["nearest code"] = outliers.nearest(*codes)
    return found


def ranked_dearly(system: System, images: Tensor, outlier: Tensor, normal: Tensor) -> list[dict]:
    """``ranking`` of those of ``all_scores`` that ``ranked`` lacks, on every ``THIN``-th image."""
    images, outlier = images[::THIN], outlier[::THIN]
    found = all_scores(system, images, normal)
    dear = {name: score for name, score in found.items() if name not in outliers.PARTS}
    return ranking(dear, outlier, **counts(outlier))


def all_ranked(system: System, images: Tensor, outlier: Tensor, normal: Tensor) -> list[dict]:
    """``ranked`` and ``ranked_dearly``."""
    dear = ranked_dearly(system, images, outlier, normal)
    return [*ranked(system, images, outlier), *dear]


def kept(
    system: System, images: Tensor, outlier: Tensor, normal: Tensor, *, shown: int = 10
) -> dict[str, Tensor]:
    """What a page shows without the data: ``all_scores`` of every ``THIN``-th image in half
    precision, "outlier" (N,), and "extremes", uint8 (4, ``shown``, C, H, W): the normal images
    that the log-posterior finds the most and the least normal, then the outliers that it finds so.
    """
    images, outlier = images[::THIN], outlier[::THIN]
    found = all_scores(system, images, normal)
    order = found["log-posterior"].argsort().cpu()
    rows = [order[outlier[order] == kind] for kind in (False, True)]
    shown = min(shown, *map(len, rows))
    ends = [end for row in rows for end in (row[:shown], row[-shown:].flip(0))]
    extremes = torch.stack([images[end] for end in ends])
    small = {name: score.half() for name, score in found.items()}
    return {**small, "outlier": outlier.byte(), "extremes": extremes}


def drawn(system: System) -> torch.Generator:
    """The noise of every measurement, from seed 0."""
    return torch.Generator(device_of(system)).manual_seed(0)


def counts(outlier: Tensor) -> dict:
    """How many images of either kind were ranked: AUPRC depends on it."""
    return {"normal": int((~outlier).sum()), "outliers": int(outlier.sum())}


def held_trials() -> list[Trial]:
    """Every digit held out, under the joint EBM prior, its variants, and LEBM."""
    return [
        Trial(
            f"{name}-{digit}",
            systems.configure(system, "mnist", SHAPES["mnist"], **settings),
            0,
            {"held_out": digit, "settings": name},
            derive=f"{name}-{digit}" in SHOWN,
        )
        for digit in DIGITS
        for name, (system, settings) in HELD.items()
    ]


def measure_held(system: System, trial: Trial) -> list[dict]:
    """The scores of one pass over the test images of a trial's digit."""
    images, outlier, _ = question_held(trial)
    return ranked(system, images, outlier)


def question_held(trial: Trial) -> tuple[Tensor, Tensor, Tensor]:
    """Test images of a trial's digit, which are outliers, and training images."""
    held = held_digit(trial.about["held_out"])
    return held.test, held.outlier, held.train.images


ANOMALY = Experiment(
    "Anomaly detection on MNIST: one digit held out",
    held_trials,
    lambda trial: held_digit(trial.about["held_out"]).train,
    measure_held,
    last=EPOCHS,
    at_end=lambda system, trial: ranked_dearly(system, *question_held(trial)),
    derived=lambda system, trial: kept(system, *question_held(trial)),
)


def outside_trials() -> list[Trial]:
    """Three rows of the table, trained on each data set of ``OUT``."""
    return [
        Trial(
            f"{system}-{name}",
            systems.configure(system, name, SHAPES[name]),
            0,
            {"in": name},
            derive=f"{system}-{name}" in SHOWN,
        )
        for name in OUT
        for system in ("joint-ebm", "vlae", "lebm")
    ]


def question_outside(trial: Trial, out: str) -> tuple[Tensor, Tensor, Tensor]:
    """Test images of the trial's data set and of ``out``, which are outliers, training images."""
    normal, inside = (split(trial.config.data, part).images for part in ("train", "test"))
    images = torch.cat([inside, outside(out)])
    return images, torch.arange(len(images)) >= len(inside), normal


def measure_outside(system: System, trial: Trial) -> list[dict]:
    """All scores of the test images of the trial's data set against each set outside it."""
    return [
        {**record, "out": out}
        for out in OUT[trial.config.data]
        for record in all_ranked(system, *question_outside(trial, out))
    ]


OOD = Experiment(
    "Out of distribution: trained on one data set, shown another",
    outside_trials,
    whole,
    measure_outside,
    derived=lambda system, trial: kept(system, *question_outside(trial, OUT[trial.config.data][0])),
    ready=lambda t: (split(t.config.data, "test"), *map(outside, OUT[t.config.data])),
)
