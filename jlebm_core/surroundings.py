"""What PyTorch has switched on around a call: a default type or device, inference mode.

None of it changes a result: what is built, loaded, drawn or trained is so in float32, by random
numbers of the CPU where it says so, and what needs gradients switches them on for itself.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UsageError


@contextmanager
def plain() -> Iterator[torch.device]:
    """Within, or in a function decorated with ``plain()``, PyTorch is as it starts: float32 and the
    CPU are the defaults, and gradients are taken. Gives the default device that stood around."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    with ExitStack() as stack:
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        if device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield device


def codes(z: Any, part: nn.Module, dim: int, device: torch.device) -> Tensor:
    """Codes (B, D) as ``part`` takes them: arrays, lists and whole numbers become its floats.

    Raises UsageError for another shape, another device, or what holds no real numbers.
    """
    z = _tensor(z, "codes", device)
    if z.dim() != 2 or z.shape[1] != dim:
        raise UsageError(
            f"codes have the shape (B, {dim}), and these have {tuple(z.shape)}: give one row for "
            "each code, all layers joined, bottom first."
        )
    return _like(z, part)


def floats(x: Any, part: nn.Module, image: Sequence[int], device: torch.device) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] as ``part`` takes them; arrays and lists become tensors.

    Raises UsageError for whole numbers, another shape or another device.
    """
    x = _tensor(x, "images", device)
    if not x.is_floating_point():
        raise UsageError(
            "a model sees images as floats in [-1, 1], and these are "
            f"{str(x.dtype).removeprefix('torch.')}: convert bytes with data.to_float."
        )
    if tuple(x.shape[1:]) != tuple(image):
        raise UsageError(
            f"the model takes images (B, C, H, W) with (C, H, W) = {tuple(image)}, and these have "
            f"the shape {tuple(x.shape)}: give a batch of images of that size."
        )
    return _like(x, part)


def _tensor(values: Any, what: str, device: torch.device) -> Tensor:
    if not torch.is_tensor(values):
        try:
            values = torch.as_tensor(values, device=device)
        except (TypeError, ValueError, RuntimeError):
            raise UsageError(
                f"{what} must be a tensor, an array or equal rows of real numbers, not "
                f"{type(values).__name__}."
            ) from None
    if values.is_complex():
        raise UsageError(f"{what} are real numbers, and these are complex: give real ones.")
    if values.device != device:
        raise UsageError(
            f"the {what} are on {values.device} and the model on {device}: move one of them with "
            ".to(device)."
        )
    return values


def _like(values: Tensor, part: nn.Module) -> Tensor:
    weight = next(part.parameters(), None)
    return values if weight is None else values.to(weight.dtype)
