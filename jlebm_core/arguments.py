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
from .paths import expanded
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


PLACES = {"model": "MODEL", "folder": "FOLDER", "weights": "--weights", "out": "--out"}


def places(args: argparse.Namespace) -> None:
    """Make paths of the arguments that name a place; UsageError for what names none.

    ``args.makes``, if there, is what the command writes to ``--out``: (its name, its suffixes).
    """
    for name, option in PLACES.items():
        text = getattr(args, name, None)
        if text is None:
            continue
        if not text.strip() or "\0" in text:
            raise UsageError(f"{option} is {text!r}, which names no file and no folder.")
        place = expanded(text)
        if name == "out" and hasattr(args, "makes") and not place.is_dir():
            what, suffixes = args.makes
            if text.endswith(("/", "/.", "/..")):
                raise UsageError(f"--out is {text}, a folder: name the file to be written in it.")
            if place.suffix.lower() not in suffixes:
                *most, last = filter(None, suffixes)
                kinds = f"{', '.join(most)} or {last}" if most else last
                raise UsageError(f"{what} is a {kinds} file, but --out is {place}.")
        setattr(args, name, place)


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
    """The device that ``--device`` names; UsageError if it is not there, or cannot compute."""
    import torch

    default = "cuda" if torch.cuda.is_available() else "cpu"
    name = default if args.device is None else args.device
    try:
        device = torch.device(name)
        if device.type == "cpu" and device.index:
            raise RuntimeError("PyTorch takes any number for the one CPU")
        torch.randn(2, device=device, generator=torch.Generator(device)).sum().item()
        return torch.device("cpu") if device.type == "cpu" else device
    except (RuntimeError, AssertionError, ImportError, NotImplementedError):
        raise UsageError(f"there is no device {name!r} on this machine that computes.") from None
