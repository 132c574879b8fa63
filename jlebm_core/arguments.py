"""What stands on the command line: values as they are written, options that commands share.

What the words alone can tell is told before PyTorch is imported, which takes seconds.
"""

import argparse
import ast
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import presets, rows
from .configs import Config, known_settings
from .datasets import SHAPES, own_path
from .errors import UsageError
from .settings import Shape

if TYPE_CHECKING:
    import torch

SEEDS = 2**32  # NumPy's generators take no more


def device_option(p: argparse.ArgumentParser) -> None:
    """``--device``, by default the GPU if there is one."""
    p.add_argument("--device", help="default: the GPU if there is one, else the CPU")


def train_only_option(p: argparse.ArgumentParser) -> None:
    """``--train-only``."""
    p.add_argument("--train-only", action="store_true", help="measure nothing: a later call does")


def positive(text: str) -> int:
    """A number from 1 on."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def natural(text: str) -> int:
    """A number from 0 on."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def seed(text: str) -> int:
    """A number that every generator of random numbers takes."""
    if not text.isdigit() or int(text) >= SEEDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {SEEDS - 1}")
    return int(text)


def overrides(pairs: list[str]) -> dict:
    """``["steps=100", "dims=(2,2)"]`` as settings; UsageError for what is no NAME=VALUE."""
    settings = {}
    for pair in pairs:
        name, found, text = pair.partition("=")
        if not found:
            raise UsageError(f"--set takes NAME=VALUE, not {pair!r}.")
        try:
            settings[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            settings[name] = text
    return settings


def configurer(args: argparse.Namespace) -> tuple[Callable[[str, Shape], Config], str]:
    """What ``jlebm train`` is asked for: a function that gives the configuration for data of a name
    and a shape, and which data. Raises UsageError for words that no data could make right."""
    changes = overrides(args.set)
    known_settings(changes)
    if args.preset:
        if args.system:
            raise UsageError("--preset already names a system: give no other.")
        data = args.data or rows.preset(args.preset).data

        def configure(name: str, shape: Shape) -> Config:
            return rows.preset(args.preset, budget=args.budget, **{"data": name, **changes})

    else:
        if not args.system or not args.data:
            raise UsageError("give a system and --data, or a --preset.")
        rows.row(args.system)
        data = args.data

        def configure(name: str, shape: Shape) -> Config:
            return rows.configure(args.system, name, shape, budget=args.budget, **changes)

    if own_path(data) is None:
        configure(data, SHAPES[data]).check_images(SHAPES[data])
    elif args.budget == "paper" and args.system:
        presets.paper(args.system, data)
    return configure, data


def device_of(args: argparse.Namespace) -> "torch.device":
    """The device that ``--device`` names; UsageError if it is not there."""
    import torch

    name = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):
        raise UsageError(f"there is no device {name!r} on this machine.") from None
