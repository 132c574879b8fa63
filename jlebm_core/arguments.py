"""What stands on the command line: values as they are written, options that commands share."""

import argparse
import ast

import torch

from .errors import UsageError

SEEDS = 2**32  # NumPy's generators take no more


def device_option(p: argparse.ArgumentParser) -> None:
    """``--device``, by default the GPU if there is one."""
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


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


def device_of(args: argparse.Namespace) -> torch.device:
    """The device that ``--device`` names; UsageError if it is not there."""
    try:
        return torch.empty(0, device=args.device).device
    except (RuntimeError, AssertionError):
        raise UsageError(f"there is no device {args.device!r} on this machine.") from None
