"""A training as data: stages one after the other, and the numbers that all of them share."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from ..errors import UsageError
from ..objectives import Objective, PriorObjective
from ..priors import Prior
from ..settings import check

LR_WARMUP = 200  # steps; a Tanh output under a summed squared error can die at -1 without it
EPOCH_DECAY = 0.998  # an epoch, where the decay goes by epochs


@dataclass(frozen=True)
class Stage:
    """``steps`` steps in which generator and inference minimise ``nets``, and the prior ``prior``.

    None leaves them as they are. Without ``nets`` the prior learns from the codes that the
    finished inference draws.
    """

    steps: int
    nets: Objective | None = None
    prior: PriorObjective | None = None


class Place(NamedTuple):
    """Where a step stands: its stage, that stage's first step and the first one after it."""

    stage: Stage
    start: int
    end: int


@dataclass(frozen=True)
class Training:
    """How a system is trained. Adam has the rates ``lr`` for generator and inference, ``lr_prior``
    for a prior that has an objective of its own, ``lr_chain`` for the parameters of its base p_0.

    ``lr_decay`` is "cosine" to 0, "epoch" (times .998 each) or "none", after a rise over
    ``LR_WARMUP`` steps; stages in which the same parts learn share one rise and fall. ``ema`` is
    the decay of the averaged weights that are kept at the end; 0 keeps the last ones.
    Raises UsageError for a number that a setting cannot be (``settings.RULES``).
    """

    stages: tuple[Stage, ...]
    batch: int = 100
    lr: float = 1e-3
    lr_prior: float = 1e-4
    lr_chain: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    lr_decay: str = "cosine"
    ema: float = 0.0

    def __post_init__(self) -> None:
        numbers = {k: v for k, v in vars(self).items() if k != "stages"}
        check(numbers)
        for stage in self.stages:
            check({"steps": stage.steps})

    @property
    def total(self) -> int:
        """The steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def places(self) -> list[Place]:
        """All stages that have steps, with their first step and the first one after them."""
        found, start = [], 0
        for stage in self.stages:
            if stage.steps:
                found.append(Place(stage, start, start + stage.steps))
            start += stage.steps
        return found

    def at(self, step: int) -> Place:
        """The place of a step (from 0); of a step after the end, the last one."""
        places = self.places()
        return next((p for p in places if step < p.end), places[-1])

    def phases(self) -> list[tuple[int, int]]:
        """(start, end) of the stages that follow each other and in which the same parts learn."""
        found: list[tuple[int, int]] = []
        kinds: list[bool] = []
        for stage, start, end in self.places():
            if kinds and kinds[-1] == (stage.nets is None):
                found[-1] = (found[-1][0], end)
            else:
                found.append((start, end))
                kinds.append(stage.nets is None)
        return found

    def phase(self, step: int) -> int:
        """Which phase a step (from 0) is in; of a step after the end, the last one."""
        ends = [end for _, end in self.phases()]
        return next((i for i, end in enumerate(ends) if step < end), len(ends) - 1)


def stages(
    nets: Objective,
    of_prior: PriorObjective | None,
    prior: Prior,
    *,
    steps: int,
    prior_steps: int = 0,
    afterwards: bool = False,
) -> tuple[Stage, ...]:
    """The usual plan: ``steps`` for generator and inference, with the prior unless it learns
    ``afterwards`` (or can learn in no other way), then ``prior_steps`` for the prior alone."""
    later = afterwards or bool(of_prior and of_prior.alone)
    plan = in_parts(Stage(steps, nets, None if later else of_prior), prior)
    if of_prior:
        alone = 1 if of_prior.at_once else prior_steps
        plan += in_parts(Stage(alone, None, of_prior), prior)
    return tuple(plan)


def in_parts(stage: Stage, prior: Prior) -> list[Stage]:
    """One stage for each part of the prior that learns after the others, of equal steps."""
    parts = stage.prior.parts(prior) if stage.prior else 1
    if 0 < stage.steps < parts:
        raise UsageError(
            f"{parts} ratios that learn one after the other need a step each, and there are "
            f"{stage.steps} in all: give more steps, or set fewer ratios."
        )
    ends = [-(-stage.steps * k // parts) for k in range(parts + 1)]
    return [replace(stage, steps=b - a) for a, b in zip(ends, ends[1:], strict=False)]
