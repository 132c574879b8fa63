"""What a training step reads: a batch of images as bytes, always in the same tensors.

Fixed tensors are what CUDA graphs need (kernels/graphs.py), and bytes are a quarter of the traffic.
"""

import ctypes

import torch
from torch import Tensor

from ..data import to_float

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # of glibc's mallopt


class Batches:
    """Batches of uint8 images (N, C, H, W); every epoch has its own order, a function of the seed.

    The images lie on the ``device`` if they take less than half of its free memory, else on the
    host, in memory from which copies need not be waited for. ``rows`` (B,) and ``images``
    (B, C, H, W) hold the current batch.
    """

    def __init__(self, images: Tensor, batch: int, *, seed: int, device: torch.device):
        self.batch, self.seed = min(batch, len(images)), seed
        cuda = device.type == "cuda"
        fits = not cuda or images.nbytes < torch.cuda.mem_get_info(device)[0] / 2
        self.all = images.to(device) if fits else images.cpu()
        self.rows = torch.zeros(self.batch, dtype=torch.long, device=device)
        self.images = images.new_empty(self.batch, *images.shape[1:], device=device)
        self.order: tuple[int, Tensor] = (-1, torch.empty(0))  # of one epoch, made when needed

    def rows_at(self, step: int) -> Tensor:
        """Which images a step sees, (B,), where all the images lie."""
        epoch, i = divmod(step, len(self.all) // self.batch)
        if self.order[0] != epoch:
            rng = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            picked = torch.randperm(len(self.all), generator=rng)
            self.order = epoch, picked.to(self.all.device)
        return self.order[1][i * self.batch :][: self.batch]

    def load(self, step: int) -> None:
        """Fill the fixed tensors with what step ``step`` sees, without waiting for a device."""
        rows = self.rows_at(step)
        if self.all.device == self.rows.device:
            self.rows.copy_(rows)
            torch.index_select(self.all, 0, rows, out=self.images)
        else:
            self.rows.copy_(rows.pin_memory(), non_blocking=True)
            self.images.copy_(self.all[rows].pin_memory(), non_blocking=True)

    def floats(self) -> Tensor:
        """The current batch in [-1, 1], channels last."""
        return to_float(self.images).contiguous(memory_format=torch.channels_last)


def keep_freed_memory() -> None:
    """Let this process use freed memory again instead of giving it back (glibc; else nothing).

    A step on a CPU allocates and frees the same few large activations; by default each of them is
    unmapped and mapped anew, page by page, which costs a fifth of the time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    mallopt(MMAP_THRESHOLD, 2**30)
    mallopt(TRIM_THRESHOLD, 2**31 - 1)
