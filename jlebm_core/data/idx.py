"""MNIST and Fashion-MNIST: IDX files in torchvision's layout."""

import gzip
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UsageError
from .download import fetch
from .files import locate

FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}  # torchvision's classes, too
STEMS = {
    split: (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    for split, prefix in (("train", "train"), ("test", "t10k"))
}


def load(name: str, split: str, *, download: bool, limit: int | None) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) and labels (N,) of a split."""

    def get(folder: Path) -> None:
        from torchvision import datasets

        source = getattr(datasets, FOLDERS[name])
        checksums = dict(source.resources)
        for stem in STEMS[split]:
            file = folder / f"{stem}.gz"
            fetch([mirror + file.name for mirror in source.mirrors], file, checksums[file.name])

    folder, wanted = f"{FOLDERS[name]}/raw", f"{STEMS[split][0]} with its labels"
    files = locate(name, folder, wanted, lambda p: find(p, split), get=get, download=download)
    images, labels = (read(file, dims) for file, dims in zip(files, (3, 1), strict=True))
    if len(images) != len(labels):
        raise UsageError(f"{files[0]} has {len(images)} images but {len(labels)} labels.")
    return images[:limit].unsqueeze(1), labels[:limit].long()


def find(folder: Path, split: str) -> tuple[Path, Path] | None:
    """The image file and the label file of a split, plain or compressed, or None."""
    files = []
    for stem in STEMS[split]:
        files += [p for p in (folder / stem, folder / f"{stem}.gz") if p.is_file()][:1]
    return tuple(files) if len(files) == 2 else None


def read(path: Path, dims: int) -> Tensor:
    """A uint8 tensor with ``dims`` dimensions from an IDX file, which may be gzip-compressed."""
    try:
        blob = path.read_bytes()
        blob = gzip.decompress(blob) if path.suffix == ".gz" else blob
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read ({error}).") from None
    shape = [int.from_bytes(blob[i : i + 4], "big") for i in range(4, 4 + 4 * dims, 4)]
    start = 4 + 4 * dims
    if blob[:4] != bytes((0, 0, 8, dims)) or len(blob) != start + math.prod(shape):
        raise UsageError(f"{path} is not a complete IDX file of {dims}-dimensional uint8 data.")
    return torch.frombuffer(bytearray(blob), dtype=torch.uint8)[start:].view(shape)
