"""What an experiment is: trials, their training images, what is measured on a trained one."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import data
from ..configs import Config
from ..data import ImageSet
from ..systems import System


class Trial(NamedTuple):
    """One training run of an experiment."""

    name: str  # of its own within the experiment; names its folder
    config: Config
    seed: int
    about: dict  # what sets it apart from the others, e.g. {"held_out": 1}; stands in its records
    ship: bool = False  # do its weights come with the project?
    derive: bool = False  # does what is derived from them?


class Experiment(NamedTuple):
    """``trials()`` are trained on ``images(trial)``; ``measure(system, trial)`` gives flat records.

    They are measured at their end, or at the end of each of their ``last`` epochs; then every
    record says at which step, and ``at_end`` adds at the last step what would cost too much ten
    times over. ``derived(system, trial)`` are small tensors that come with the project where a
    trial asks for it, so that a page can show what needs a data set without having it.
    ``start(trial)`` is the system that a training begins with, unless that has fresh weights.
    ``ready(trial)`` reads what measuring reads: what is missing shows before the training.
    """

    title: str
    trials: Callable[[], list[Trial]]
    images: Callable[[Trial], ImageSet]
    measure: Callable[[System, Trial], list[dict]]
    last: int = 1
    at_end: Callable[[System, Trial], list[dict]] | None = None
    derived: Callable[[System, Trial], dict[str, Tensor]] | None = None
    start: Callable[[Trial], System] | None = None
    ready: Callable[[Trial], object] | None = None


@functools.cache
def split(name: str, part: str) -> ImageSet:
    """A split of a data set, loaded once."""
    return data.load(name, part)


def whole(trial: Trial) -> ImageSet:
    """All training images of the trial's data set."""
    return split(trial.config.data, "train")


def labelled(images: ImageSet, labels: tuple[int, ...]) -> ImageSet:
    """The images that have one of ``labels``."""
    rows = torch.isin(images.labels, torch.tensor(labels)).nonzero()[:, 0]
    return ImageSet(images.name, images.split, images.images[rows], images.labels[rows])
