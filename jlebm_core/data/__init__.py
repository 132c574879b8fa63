"""Image data: the built-in glyphs, five published sets, a folder of images, an .npz file.

Images are held as uint8 (N, C, H, W), as they are: nothing but CelebA is resized. Models see float
in [-1, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import glyphs
from ..datasets import NAMES as NAMES
from ..datasets import SHAPES as SHAPES
from ..datasets import SPLITS as SPLITS
from ..datasets import own_path
from ..datasets import title as title
from ..errors import UsageError
from . import celeba, cifar, folder, idx, own, svhn

GLYPHS = {"train": (20_000, 0), "test": (4_000, 1)}  # split -> (number of images, seed)

Loader = Callable[..., tuple[Tensor, Tensor | None]]  # (name, split, download=, limit=)
LOADERS: dict[str, Loader] = {
    "mnist": idx.load,
    "fashion-mnist": idx.load,
    "cifar10": cifar.load,
    "cifar10-jpeg": cifar.load_jpeg,
    "svhn": svhn.load,
    "svhn-extra": svhn.load,
    "celeba64": celeba.load,
}


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
    data: the subfolder test/ beside train/, the arrays images_test and labels_test, or else one of
    every ten images of a class (a subfolder, a label; see ``own.split_of``). What is done to own
    images is said in one line on standard error, once. Raises UsageError for whatever cannot be
    found, read or understood.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}.")
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}: at least one image must be loaded.")
    if name == "glyphs":
        n, seed = GLYPHS[split]
        n = n if limit is None else min(n, limit)
        return ImageSet(name, split, *glyphs.render(n, seed=seed))
    if name in LOADERS:
        read = LOADERS[name]
        return ImageSet(name, split, *read(name, split, download=download, limit=limit))
    path = own_path(name)
    if path.is_dir():
        return ImageSet(path.resolve().name, split, folder.load_folder(path, split, limit))
    return ImageSet(path.stem, split, *own.load_npz(path, split, limit))
