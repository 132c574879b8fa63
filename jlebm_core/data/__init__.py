"""Image data: the built-in glyphs, five published sets, a folder of images, an .npz file.

Images are held as uint8 (N, C, H, W), as they are: nothing but CelebA is resized. Models see float
in [-1, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import glyphs
from ..errors import UsageError
from . import celeba, cifar, idx, own, svhn

SPLITS = ("train", "test")
GLYPHS = {"train": (20_000, 0), "test": (4_000, 1)}  # split -> (number of images, seed)

Loader = Callable[..., tuple[Tensor, Tensor | None]]  # (name, split, download=, limit=)

# name -> (how it is printed, its loader, (C, H, W) of its images)
PUBLISHED: dict[str, tuple[str, Loader, tuple[int, int, int]]] = {
    "mnist": ("MNIST", idx.load, (1, 28, 28)),
    "fashion-mnist": ("Fashion-MNIST", idx.load, (1, 28, 28)),
    "cifar10": ("CIFAR-10", cifar.load, (3, 32, 32)),
    "cifar10-jpeg": ("CIFAR-10 (JPEG)", cifar.load_jpeg, (3, 32, 32)),
    "svhn": ("SVHN", svhn.load, (3, 32, 32)),
    "svhn-extra": ("SVHN (extra)", svhn.load, (3, 32, 32)),
    "celeba64": ("CelebA-64", celeba.load, (3, 64, 64)),
}
NAMES = ("glyphs", *PUBLISHED)
SHAPES = {"glyphs": (3, 32, 32)} | {name: shape for name, (_, _, shape) in PUBLISHED.items()}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """One split: images uint8 (N, C, H, W); labels int64 (N,) and factors, name -> (N,), if known.

    The name of own data is the name of its folder or file, without the suffix.
    """

    name: str
    split: str
    images: Tensor
    labels: Tensor | None = None
    factors: dict[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return tuple(self.images.shape[1:])


def title(name: str) -> str:
    """How a data set is called in print: ``cifar10-jpeg`` is always "CIFAR-10 (JPEG)"."""
    return PUBLISHED[name][0] if name in PUBLISHED else name


def to_float(images: Tensor) -> Tensor:
    """uint8 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """Float in [-1, 1] (clamped) to the nearest uint8, the inverse of to_float."""
    return ((x.float() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)


def load(
    name: str, split: str = "train", *, download: bool = True, limit: int | None = None
) -> ImageSet:
    """Load a split of a data set, or its first ``limit`` images.

    ``name`` is one of NAMES, or the path of a folder of images (searched recursively, in sorted
    order) or of an .npz file with the array ``images`` and maybe ``labels``. The test set of own
    data: the subfolder test/ beside train/, the arrays images_test and labels_test, or else every
    tenth image. Raises UsageError for whatever cannot be found, read or understood.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}.")
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}: at least one image must be loaded.")
    if name == "glyphs":
        n, seed = GLYPHS[split]
        n = n if limit is None else min(n, limit)
        return ImageSet(name, split, *glyphs.render(n, seed=seed))
    if name in PUBLISHED:
        read = PUBLISHED[name][1]
        return ImageSet(name, split, *read(name, split, download=download, limit=limit))
    path = Path(name).expanduser()
    if path.stem in NAMES and path.exists():
        raise UsageError(f"{path} has the name of a built-in data set: give it another one.")
    if path.is_dir():
        return ImageSet(path.resolve().name, split, own.load_folder(path, split, limit))
    if path.suffix == ".npz" and path.is_file():
        return ImageSet(path.stem, split, *own.load_npz(path, split, limit))
    if path.exists():
        raise UsageError(f"{path} is neither a folder of images nor an .npz file.")
    if path.suffix == ".npz" or path.name != name:
        raise UsageError(f"{path} does not exist.")
    raise UsageError(
        f"unknown data set {name!r}: use one of {', '.join(NAMES)}, or the path of a folder of "
        "images or of an .npz file."
    )
