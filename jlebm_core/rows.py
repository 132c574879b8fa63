"""The table of systems as words, and the settings that a line of it is built with.

Nothing here needs PyTorch, so that the command line can refuse a wrong word at once;
``systems.py`` makes parts of the words.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from . import presets
from .configs import NETS, OWN, PRESETS, TRAINING, Config, within
from .errors import UsageError
from .settings import Shape


class Row(NamedTuple):
    """One line of the table: the name of a part on each of the four axes."""

    prior: str  # a name of systems.PRIORS
    generator: str  # of GENERATORS
    inference: str  # of INFERENCES
    objective: str  # of OBJECTIVES


SYSTEMS: dict[str, Row] = {
    "vae": Row("normal", "one-layer", "amortised", "variational"),
    "abp": Row("normal", "one-layer", "warm langevin", "maximum-likelihood"),
    "sri": Row("normal", "noise chain", "langevin", "maximum-likelihood"),
    "lvae": Row("chain", "bottom", "merged", "variational"),
    "biva": Row("skip chain", "ladder", "bidirectional", "variational"),
    "vlae": Row("normal", "ladder", "amortised", "variational"),
    "2s-vae": Row("second vae", "one-layer", "amortised", "variational, then variational"),
    "rae": Row("mixture", "one-layer", "deterministic", "regularised, then mixture"),
    "ncp-vae": Row("ratios", "one-layer", "amortised", "variational, then nce"),
    "multi-ncp": Row("ratios", "one-layer", "langevin", "maximum-likelihood + nce"),
    "lebm": Row("ebm", "one-layer", "langevin", "maximum-likelihood + contrast"),
    "joint-ebm": Row("ebm", "ladder", "amortised", "variational + contrast"),
    "joint-ebm-mle": Row("ebm", "ladder", "langevin", "maximum-likelihood + contrast"),
    "layerwise-ebm": Row("ebm chain", "bottom", "langevin", "maximum-likelihood + whole contrast"),
    "layerwise-ebm-vi": Row("ebm chain", "bottom", "amortised", "variational + whole contrast"),
}


def row(system: str) -> Row:
    """The line of ``system``; UsageError for an unknown name."""
    if system not in SYSTEMS:
        raise UsageError(f"unknown system {system!r}: choose one of {', '.join(SYSTEMS)}.")
    return SYSTEMS[system]


def configure(system: str, data: str, image: Shape, *, budget: str = "cpu", **overrides) -> Config:
    """The configuration of ``system`` on images of shape (C, H, W), with the nets of ``NETS`` or
    those of ``overrides``, which images of other sizes need.

    A one-layer row gets the same layers as the ladder, joined end to end, and all its dimensions
    at the top; so does a chain, with further layers above, unless nets of one level and several
    dims are given, which are laid out for a chain already. Budget "paper" takes nets and settings
    from ``presets.paper``. Raises UsageError for an unknown system, an image without nets, a bad
    override.
    """
    kind, own = row(system), {"system": system, "data": data, "image": image}
    if budget == "paper":
        return Config.from_json({**own, **presets.paper(system, data), **overrides})
    nets = NETS.get(image[-1], {}) if image[-1] == image[-2] else {}
    needed = ("dims", "levels") if "langevin" in kind.inference else ("dims", "levels", "ladders")
    if not nets and any(name not in overrides for name in needed):
        raise UsageError(_no_nets(data, *image[-2:]))
    settings = within(budget, {**TRAINING, **nets, **OWN.get(system, {})})
    config = Config.from_json({**own, **settings, **overrides})
    return LAYOUTS.get(kind.generator, lambda c: c)(config)


def _no_nets(data: str, height: int, width: int) -> str:
    """What to do about images that ``NETS`` has no nets for, with words that every row takes."""
    levels, ladders = (f"map C {height} {width} tanh", "fc 256"), ("fc 256", "fc 256")
    own = {"dims": (2, 8), "levels": levels, "trunk": ("fc 256",), "ladders": ladders}
    words = " ".join(f'"{name}={value}"' for name, value in own.items())
    return (
        f"there are nets for images of {' or '.join(f'{s}x{s}' for s in NETS)}, but {data!r} has "
        f"{height}x{width}: resize the images, or give nets of your own, for instance --set {words}"
        " to jlebm train, or the same as arguments to systems.configure."
    )


def preset(name: str, *, budget: str = "cpu", **overrides) -> Config:
    """The published settings called ``name`` in ``PRESETS``, with ``overrides``."""
    if name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}.")
    system, data, settings = PRESETS[name]
    settings = within(budget, {"system": system, "data": data, **settings})
    return Config.from_json({**settings, **overrides})


def single_layer(config: Config) -> Config:
    """The same layers with every latent dimension at the top: dims (d_1 + .. + d_L,)."""
    return replace(
        config,
        dims=(sum(config.dims),),
        levels=(", ".join(reversed(config.levels)),),
        trunk=(),
        ladders=(", ".join([*config.trunk, *config.ladders[-1:]]),),
    )


def chain_layers(config: Config) -> Config:
    """The same layers for a chain: the one-layer nets on z_1, and smaller layers above it.

    dims (D, D / 2, D / 4, ..) for as many layers as the ladder has. The image is made of z_1, so
    the whole encoder is the stem below z_1, and one more layer of it each lies below z_2, .., z_L.
    Nets of one level and several dims are laid out so already.
    """
    if len(config.levels) == 1 < len(config.dims):
        return config
    one, layers = single_layer(config), len(config.dims)
    return replace(
        one,
        dims=tuple(max(1, one.dims[0] >> i) for i in range(layers)),
        stem=", ".join(filter(None, (config.stem, one.ladders[0]))),
        trunk=(f"fc {config.chain_hidden[-1]}",) * (layers - 1),
        ladders=("",) * layers,
    )


# How the layers of a ladder are laid out for other generators.
LAYOUTS: dict[str, Callable[[Config], Config]] = {
    "one-layer": single_layer,
    "bottom": chain_layers,
    "noise chain": chain_layers,
}
