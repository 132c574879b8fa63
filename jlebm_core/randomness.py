"""Where random numbers come from: every ``rng`` of the module is a generator, a seed, or None."""

from numbers import Integral

import torch

from .errors import UsageError

SEEDS = 2**64  # torch's generators take seeds below it


def source(rng: torch.Generator | int | None, device: torch.device | str) -> torch.Generator | None:
    """What to draw from on ``device``: a fresh generator for a seed; ``rng`` itself, if it lies
    there; None for None, which is PyTorch's global stream. Raises UsageError for all else."""
    if rng is None:
        return None
    device = torch.device(device)
    if isinstance(rng, torch.Generator):
        if (
            rng.device.type != device.type
            or None not in (a := rng.device.index, device.index)
            and (a != device.index)
        ):
            raise UsageError(
                f"rng is a generator on {rng.device}, but the numbers are drawn on {device}: give "
                f"torch.Generator({str(device)!r}), or a seed."
            )
        return rng
    if not isinstance(rng, Integral) or isinstance(rng, bool) or not 0 <= rng < SEEDS:
        raise UsageError(
            f"rng is {rng!r} of type {type(rng).__name__}: give a torch.Generator, a seed from 0 "
            "to 2**64 - 1, or None."
        )
    return torch.Generator(device).manual_seed(int(rng))
