"""What a setting may be: the rule for every field of ``Config``, by its name."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from .errors import UsageError

Shape = tuple[int, ...]

KL_ESTIMATES = ("exact", "monte-carlo")
LR_DECAYS = ("cosine", "epoch", "none")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")  # files of samples
PRECISIONS = ("auto", "bf16", "float32")  # of a training; see ``train.resolve_precision``


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


def _one_of(words: tuple[str, ...]) -> Rule:
    return Rule(f"one of {', '.join(words)}", lambda v: v in words)


_COUNT, _STEPS = _whole(1), _whole(0)
_POSITIVE = _number("a number above 0", lambda v: v > 0)
_NON_NEGATIVE = _number("a number, at least 0", lambda v: v >= 0)
_SHARE = _number("a number from 0 to below 1", lambda v: 0 <= v < 1)
_FLAG = Rule("True or False", lambda v: isinstance(v, bool))
_TEXT = Rule("text", lambda v: isinstance(v, str))
_STACKS = _several("stacks of layers in a tuple, such as ('fc 64', 'fc 256')", _TEXT)
_WIDTHS = _several("whole numbers above 0 in a tuple, such as (200, 200)", _COUNT)

_GROUPS: tuple[tuple[str, Rule], ...] = (
    ("system data stem", _TEXT),
    ("levels trunk ladders", _STACKS),
    ("image", _several("channels, height and width, such as (1, 28, 28)", _COUNT, least=3, most=3)),
    (
        "dims",
        _several(
            "one whole number above 0 a layer in a tuple, such as (2, 2, 6) or (10,)",
            _COUNT,
            least=1,
        ),
    ),
    ("norm bias learn_sigma", _FLAG),
    ("sigma", _POSITIVE),
    (
        "prior_hidden",
        Rule(
            f"{_WIDTHS.says}, or a tuple of such for each layer",
            lambda v: _WIDTHS.holds(v) or _several("", _WIDTHS).holds(v),
        ),
    ),
    (
        "chain_hidden",
        _several(
            "one or more whole numbers above 0 in a tuple, such as (200, 200)", _COUNT, least=1
        ),
    ),
    (
        "spectral_norm",
        Rule("None or a number above 0", lambda v: v is None or _POSITIVE.holds(v)),
    ),
    ("batch ratios components", _COUNT),
    ("steps fit_steps warmup prior_steps posterior_steps", _STEPS),
    ("prior_step_size posterior_step_size chain_floor", _NON_NEGATIVE),
    ("lr lr_prior lr_chain weight_decay", _NON_NEGATIVE),
    ("penalty free_bits code_penalty decoder_penalty", _NON_NEGATIVE),
    ("ema", _SHARE),
    (
        "betas",
        _several("two numbers from 0 to below 1, such as (0.9, 0.999)", _SHARE, least=2, most=2),
    ),
    ("enter", _several("a number from 0 to below 1 for each layer in a tuple", _SHARE)),
    ("kl", _one_of(KL_ESTIMATES)),
    ("lr_decay", _one_of(LR_DECAYS)),
)
# join and the activations are looked up, and refused, by whoever builds with them
RULES = {name: rule for names, rule in _GROUPS for name in names.split()}


def check(settings: dict[str, object]) -> None:
    """Raise UsageError for the first setting that its rule does not allow."""
    for name, value in settings.items():
        if name in RULES and not RULES[name].holds(value):
            raise UsageError(f"{name} must be {RULES[name].says}, not {value!r}.")


def check_shape(image: Shape, shape: Shape) -> None:
    """Raise UsageError unless ``shape`` (C, H, W) is ``image``, that of what a system takes."""
    if tuple(shape) != tuple(image):
        raise UsageError(f"the system takes images {image}, but the data are {tuple(shape)}.")
