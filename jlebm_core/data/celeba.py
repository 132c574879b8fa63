"""CelebA at 64x64: faces cut out of the aligned images and made smaller, once.

The crop is that of the published experiments, the square (15, 40, 163, 188) of the 178 x 218
pixels; it is resized to 64 x 64 by Pillow's bilinear filter, which averages over the 2.3 pixels
of the original that each new one covers (torchvision's Resize does the same).
"""

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..errors import UsageError
from .files import decoded, locate

FOLDER, IMAGES, PARTITION = "celeba", "img_align_celeba", "list_eval_partition.txt"
CODES = {"train": "0", "test": "2"}  # of the official partition; 1 is for validation
SIZE, BOX, SIDE = (178, 218), (15, 40, 163, 188), 64


class Source(NamedTuple):
    """The official partition, and the aligned images: a folder or the zip."""

    partition: Path
    images: Path


def load(name: str, split: str, *, download: bool, limit: int | None) -> tuple[Tensor, None]:
    """Images (N, 3, 64, 64) of a split, in the order of the partition file; there are no labels."""
    wanted = f"{PARTITION} with {IMAGES}.zip (or the folder {IMAGES})"
    reason = "its host serves it to browsers only (mmlab.ie.cuhk.edu.hk/projects/CelebA.html)"
    source = locate(name, FOLDER, wanted, find, get=reason, download=download)
    text = source.partition.read_bytes()
    rows = [line.split() for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    if any(len(row) != 2 or row[1] not in ("0", "1", "2") for row in rows):
        raise UsageError(f"{source.partition} must hold lines such as '000001.jpg 0'.")
    files = [file for file, code in rows if code == CODES[split]]
    if not files:
        raise UsageError(f"{source.partition} names no {split} images.")
    key = f"{name}-{split}-{zlib.crc32(text):08x}"
    return decoded(key, len(files), faces(source, files), limit=limit, title="CelebA"), None


def find(folder: Path) -> Source | None:
    """The files in ``folder``, or None if one is missing."""
    images = [p for p in (folder / IMAGES, folder / f"{IMAGES}.zip") if p.exists()]
    partition = folder / PARTITION
    return Source(partition, images[0]) if images and partition.is_file() else None


def faces(source: Source, files: list[str]) -> Iterator[np.ndarray]:
    """The faces (64, 64, 3) of the aligned images called ``files``."""
    if source.images.is_dir():
        yield from (face((source.images / f).read_bytes, source, f) for f in files)
        return
    try:
        archive = zipfile.ZipFile(source.images)
    except (OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"{source.images} cannot be read as a zip ({error}).") from None
    with archive:
        for f in files:
            yield face(lambda f=f: archive.read(f"{IMAGES}/{f}"), source, f)


def face(read: Callable[[], bytes], source: Source, name: str) -> np.ndarray:
    """One image, read, checked, cut out and resized."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(read())) as image:
            size = image.size
            cut = image.convert("RGB").crop(BOX).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    except Exception as error:  # a missing file, a damaged zip, Pillow's errors of many types
        reason = " ".join(str(error).split())
        raise UsageError(f"{name} of {source.images} cannot be read ({reason}).") from None
    if size != SIZE:
        raise UsageError(
            f"{name} of {source.images} has {size[0]}x{size[1]} pixels: the aligned images, of "
            f"{SIZE[0]}x{SIZE[1]}, are needed."
        )
    return np.asarray(cut)
