"""SVHN, cropped digits (format 2): MATLAB files, read by scipy."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from .download import fetch
from .files import locate

FOLDER = "SVHN"
PARTS = {  # (name, split) -> torchvision's name of the part
    ("svhn", "train"): "train",
    ("svhn", "test"): "test",
    ("svhn-extra", "train"): "extra",
    ("svhn-extra", "test"): "test",
}


def load(name: str, split: str, *, download: bool, limit: int | None) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) and labels (N,), the digits 0..9, of a split.

    ``svhn-extra`` trains on the 531,131 easier digits of the extra part alone, as the authors of
    the joint EBM prior do; both names share the test set.
    """
    from torchvision.datasets import SVHN

    url, filename, md5 = SVHN.split_list[PARTS[name, split]]

    def find(folder: Path) -> Path | None:
        places = (folder / filename, folder.parent / filename)  # the latter is torchvision's
        return next((file for file in places if file.is_file()), None)

    def get(folder: Path) -> None:
        fetch([url], folder / filename, md5)

    file = locate(name, FOLDER, filename, find, get=get, download=download)
    pixels, labels = read(file)
    images = np.ascontiguousarray(pixels[..., :limit].transpose(3, 2, 0, 1))
    return torch.from_numpy(images), torch.from_numpy(labels[:limit])


def read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (32, 32, 3, N) and digits (N,) of a file, whose label 10 stands for the digit 0."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise UsageError("reading SVHN needs scipy: pip install scipy.") from None
    try:
        content = loadmat(file)
        pixels, labels = content["X"], content["y"].astype(np.int64).ravel() % 10
    except Exception as error:  # scipy's reader raises errors of many types on damaged files
        raise UsageError(
            f"{file} cannot be read as SVHN ({' '.join(str(error).split())}); remove it, and it is "
            "downloaded anew."
        ) from None
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[2:] != (3, len(labels)):
        raise UsageError(
            f"{file} holds X {pixels.dtype} {pixels.shape} and {len(labels)} labels, but uint8 "
            "(H, W, 3, N) and N labels are needed."
        )
    return pixels, labels
