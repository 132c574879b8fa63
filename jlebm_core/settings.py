"""What a setting may be: types for the fields of a dataclass, each with the rule for its values."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Annotated, get_type_hints

from .errors import UsageError


@dataclass(frozen=True)
class Rule:
    """A setting "must be ``says``": ``holds(value)`` tells whether it is."""

    says: str
    holds: Callable[[object], bool]


def _whole(least: int) -> Rule:
    def is_one(v: object) -> bool:
        return type(v) is int and v >= least  # isinstance would take True for 1

    return Rule(f"a whole number, at least {least}", is_one)


def _number(says: str, holds: Callable[[float], bool]) -> Rule:
    def is_one(v: object) -> bool:
        return isinstance(v, int | float) and not isinstance(v, bool) and v < inf and holds(v)

    return Rule(says, is_one)


def _several(says: str, one: Rule, *, least: int = 0, most: float = inf) -> Rule:
    def are(v: object) -> bool:
        return isinstance(v, tuple) and least <= len(v) <= most and all(map(one.holds, v))

    return Rule(says, are)


def one_of(*words: str) -> Rule:
    """The rule of a setting that is one of a few words."""
    return Rule(f"one of {', '.join(words)}", lambda v: v in words)


_TEXT = Rule("text", lambda v: isinstance(v, str))
_SHARE = _number("a number from 0 to below 1", lambda v: 0 <= v < 1)
_POSITIVE = _number("a number above 0", lambda v: v > 0)
_WIDTHS = _several("whole numbers above 0 in a tuple, such as (200, 200)", _whole(1))

Count = Annotated[int, _whole(1)]
Steps = Annotated[int, _whole(0)]
Positive = Annotated[float, _POSITIVE]
NonNegative = Annotated[float, _number("a number, at least 0", lambda v: v >= 0)]
Share = Annotated[float, _SHARE]
Bound = Annotated[
    float | None, Rule("None or a number above 0", lambda v: v is None or _POSITIVE.holds(v))
]
Flag = Annotated[bool, Rule("True or False", lambda v: isinstance(v, bool))]
Text = Annotated[str, _TEXT]
Stacks = Annotated[
    tuple[str, ...], _several("stacks of layers in a tuple, such as ('fc 64', 'fc 256')", _TEXT)
]
Image = Annotated[
    tuple[int, int, int],
    _several("channels, height and width, such as (1, 28, 28)", _whole(1), least=3, most=3),
]
Dims = Annotated[
    tuple[int, ...],
    _several(
        "one whole number above 0 a layer in a tuple, such as (2, 2, 6) or (10,)",
        _whole(1),
        least=1,
    ),
]
Widths = Annotated[tuple[int, ...], Rule(_WIDTHS.says, lambda v: _WIDTHS.holds(v) and v != ())]
WidthsOfEach = Annotated[
    tuple,
    Rule(
        f"{_WIDTHS.says}, or a tuple of such for each layer",
        lambda v: _WIDTHS.holds(v) or _several("", _WIDTHS).holds(v),
    ),
]
Shares = Annotated[
    tuple[float, ...], _several("a number from 0 to below 1 for each layer in a tuple", _SHARE)
]
Betas = Annotated[
    tuple[float, float],
    _several("two numbers from 0 to below 1, such as (0.9, 0.999)", _SHARE, least=2, most=2),
]


def check(settings: object) -> None:
    """Raise UsageError for the first field of a dataclass that its rule does not allow."""
    for name, kind in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        for rule in getattr(kind, "__metadata__", ()):
            if not rule.holds(value):
                raise UsageError(f"{name} must be {rule.says}, not {value!r}.")
