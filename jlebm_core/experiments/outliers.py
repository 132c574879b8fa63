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
from ..evaluate.report import device_of
from ..systems import System
from .trial import Experiment, Trial, split, whole

DIGITS = (1, 4, 5, 7, 9)
EPOCHS = 10  # over the ends of the last of them the paper averages
SAMPLES, STEPS = 4, 30  # of ``layer_bounds`` and ``refine``, at the end of the training alone
BLOCK = 5000  # images at a time

# data set that is normal -> those that are not, where both have images of one shape
OUT = {
    "fashion-mnist": ("mnist",),
    "mnist": ("fashion-mnist",),
    "glyphs": ("glyphs upside down", "glyphs without ink", "mnist in 32x32", "fashion in 32x32"),
}

# name of the settings -> (system, what differs from its own settings); held-out digits
HELD: dict[str, tuple[str, dict]] = {
    "joint-ebm": ("joint-ebm", {}),
    "lebm": ("lebm", {}),
}

SHIPPED = (("joint-ebm", 1), ("joint-ebm", "fashion-mnist"))  # weights that chapter 9 takes


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


def ranked(system: System, images: Tensor, outlier: Tensor, **more) -> list[dict]:
    """``ranking`` of all the scores of a system; ``more`` as for ``scores``. Draws by seed 0."""
    rng = torch.Generator(device_of(system)).manual_seed(0)
    found = outliers.scores(system, images, rng=rng, block=BLOCK, **more)
    return ranking(found, outlier, normal=int((~outlier).sum()), outliers=int(outlier.sum()))


def dear(system: System) -> dict:
    """The scores that cost more than one pass, as far as the system has them."""
    return {"steps": STEPS, "samples": SAMPLES if system.inference.amortised else 0}


def held_trials() -> list[Trial]:
    """Every digit held out, under the joint EBM prior, its variants, and LEBM."""
    return [
        Trial(
            f"{name}-{digit}",
            systems.configure(system, "mnist", SHAPES["mnist"], **settings),
            0,
            {"held_out": digit, "settings": name},
            ship=(name, digit) in SHIPPED,
        )
        for digit in DIGITS
        for name, (system, settings) in HELD.items()
    ]


def measure_held(system: System, trial: Trial, **more) -> list[dict]:
    """All scores of the test images of a trial's digit."""
    held = held_digit(trial.about["held_out"])
    return ranked(system, held.test, held.outlier, **more)


ANOMALY = Experiment(
    "Anomaly detection on MNIST: one digit held out",
    held_trials,
    lambda trial: held_digit(trial.about["held_out"]).train,
    measure_held,
    last=EPOCHS,
    at_end=lambda system, trial: measure_held(system, trial, **dear(system)),
)


def outside_trials() -> list[Trial]:
    """Three rows of the table, trained on each data set of ``OUT``."""
    return [
        Trial(
            f"{system}-{name}",
            systems.configure(system, name, SHAPES[name]),
            0,
            {"in": name},
            ship=(system, name) in SHIPPED,
        )
        for name in OUT
        for system in ("joint-ebm", "vlae", "lebm")
    ]


def measure_outside(system: System, trial: Trial) -> list[dict]:
    """All scores of the test images of the trial's data set against each set outside it."""
    inside, found = split(trial.config.data, "test").images, []
    for name in OUT[trial.config.data]:
        out = outside(name)
        outlier = torch.arange(len(inside) + len(out)) >= len(inside)
        records = ranked(system, torch.cat([inside, out]), outlier, **dear(system))
        found += [{**r, "out": name} for r in records]
    return found


OOD = Experiment(
    "Out of distribution: trained on one data set, shown another",
    outside_trials,
    whole,
    measure_outside,
)
