"""CIFAR-10 in torchvision's layout, and CIFAR-10 (JPEG), the same images after JPEG compression.

A figure made with CIFAR-10 (JPEG), about 30.5 dB from the original, is not a CIFAR-10 figure.
"""

import io
import tarfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from .download import fetch
from .files import decoded, locate

JPEG_FILE = "cifar10_jpeg.npz"
JPEG_TRAIN = 50_000  # images; those after them are the test set


def load(name: str, split: str, *, download: bool, limit: int | None) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) and labels (N,) of a split of CIFAR-10.

    The batches are pickles. They are opened by torchvision alone, which first compares each with
    its known checksum, so that no foreign pickle is ever read.
    """
    from torchvision.datasets import CIFAR10

    def get(folder: Path) -> None:
        archive = fetch([CIFAR10.url], folder.parent / CIFAR10.filename, CIFAR10.tgz_md5)
        with TemporaryDirectory(dir=folder.parent) as temporary:
            with tarfile.open(archive) as tar:
                tar.extractall(temporary, filter="data")
            (Path(temporary) / CIFAR10.base_folder).rename(folder)
        archive.unlink()

    def find(folder: Path) -> Path | None:
        return folder if (folder / CIFAR10.test_list[0][0]).is_file() else None

    wanted = CIFAR10.test_list[0][0]
    folder = locate("cifar10", CIFAR10.base_folder, wanted, find, get=get, download=download)
    with warnings.catch_warnings():  # newer numpy finds fault with dtypes in old pickles
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        try:
            batch = CIFAR10(folder.parent, train=split == "train")
        except RuntimeError:
            raise UsageError(
                f"{folder} is not a complete CIFAR-10: a file is missing, or its checksum differs "
                "from the known one; remove the folder, and it is downloaded anew."
            ) from None
    pixels = np.ascontiguousarray(batch.data[:limit].transpose(0, 3, 1, 2))
    return torch.from_numpy(pixels), torch.tensor(batch.targets[:limit])


def load_jpeg(name: str, split: str, *, download: bool, limit: int | None) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) and labels (N,) of a split of CIFAR-10 (JPEG), decoded once."""

    def find(folder: Path) -> Path | None:
        return folder / JPEG_FILE if (folder / JPEG_FILE).is_file() else None

    title, rows = "CIFAR-10 (JPEG)", slice(None, JPEG_TRAIN)
    file = locate(title, "", JPEG_FILE, find, get="it has no download", download=download)
    try:
        with zipfile.ZipFile(file) as archive:
            content = archive.getinfo("jpeg.npy").CRC
        with np.load(file, allow_pickle=False) as arrays:
            rows = slice(None, JPEG_TRAIN) if split == "train" else slice(JPEG_TRAIN, None)
            labels = arrays["labels"][rows]
            first = rows.start or 0
            offsets = arrays["offsets"][first : first + len(labels) + 1]
            images = jpegs(arrays["jpeg"], offsets)
    except Exception as error:  # of zipfile, zlib, pickle and numpy
        raise UsageError(
            f"{file} cannot be read as {title} ({' '.join(str(error).split())}): it needs the "
            "arrays jpeg, offsets and labels."
        ) from None
    if len(offsets) != len(labels) + 1 or not len(labels):
        raise UsageError(f"{file} has {len(labels)} labels for {len(offsets) - 1} images.")
    key = f"cifar10-jpeg-{split}-{content:08x}"
    pixels = decoded(key, len(labels), images, limit=limit, title=title)
    return pixels, torch.from_numpy(labels[:limit].astype(np.int64))


def jpegs(blob: np.ndarray, offsets: np.ndarray) -> Iterator[np.ndarray]:
    """The images (H, W, 3) whose files are ``blob[offsets[i] : offsets[i + 1]]``."""
    from PIL import Image

    for i, (start, stop) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        try:
            with Image.open(io.BytesIO(blob[start:stop].tobytes())) as image:
                yield np.asarray(image.convert("RGB"))
        except Exception as error:  # Pillow's readers raise errors of many types
            raise UsageError(f"image {i} of {JPEG_FILE} cannot be decoded ({error}).") from None
