"""In which precision a device trains: what "auto" means on it."""

import torch

from .errors import UsageError
from .settings import PRECISIONS


def resolve_precision(precision: str, device: torch.device) -> str:
    """What ``precision`` means on ``device``: "bf16" or "float32".

    "auto" is bf16 where a GPU computes in it, and float32 on others. On a CPU it is bf16 always,
    though few have units for it: all committed results were trained so, and one command has to give
    the same figures on every CPU. Raises UsageError for a word that is not in ``PRECISIONS``.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}.")
    if precision != "auto":
        return precision
    native = device.type == "cuda" and has_bf16(torch.cuda.get_device_capability(device))
    return "bf16" if native or device.type == "cpu" else "float32"


def has_bf16(capability: tuple[int, int]) -> bool:
    """Whether CUDA devices of this compute capability have bf16 units: from Ampere (8.0) on.

    ``torch.cuda.is_bf16_supported`` by default counts emulation, too: slower than float32 on a T4.
    """
    return capability >= (8, 0)
