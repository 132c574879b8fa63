"""Image data: the built-in glyphs, MNIST and Fashion-MNIST, a folder of images, an .npz file.

Images are held as uint8 (N, C, H, W), as they are: nothing is resized. Models see float in [-1, 1].
"""

import gzip
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from . import glyphs
from .errors import UsageError
from .paths import cache_dir, data_roots

NAMES = ("glyphs", "mnist", "fashion-mnist")
SPLITS = ("train", "test")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
GLYPHS = {"train": (20_000, 0), "test": (4_000, 1)}  # split -> (number of images, seed)
TEST_STRIDE = 10  # own data without a test set: images 9, 19, 29, .. are the test set
_TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}  # the folder is named so too
_IDX = {
    split: (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    for split, prefix in (("train", "train"), ("test", "t10k"))
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
    data: the subfolder test/ beside train/, the arrays images_test and labels_test, or else every
    TEST_STRIDE-th image. Raises UsageError for whatever cannot be found, read or understood.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}.")
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}: at least one image must be loaded.")
    if name == "glyphs":
        n, seed = GLYPHS[split]
        n = n if limit is None else min(n, limit)
        return ImageSet(name, split, *glyphs.render(n, seed=seed))
    path = Path(name).expanduser()
    if name not in NAMES and path.stem in NAMES and path.exists():
        raise UsageError(f"{path} has the name of a built-in data set: give it another one.")
    if name in _TORCHVISION:
        images, labels = _load_idx_set(name, split, download)
    elif path.is_dir():
        return ImageSet(path.resolve().name, split, _load_folder(path, split, limit))
    elif path.suffix == ".npz" and path.is_file():
        images, labels = _load_npz(path, split)
        name = path.stem
    elif path.exists():
        raise UsageError(f"{path} is neither a folder of images nor an .npz file.")
    elif path.suffix == ".npz" or path.name != name:
        raise UsageError(f"{path} does not exist.")
    else:
        raise UsageError(
            f"unknown data set {name!r}: use one of {', '.join(NAMES)}, or the path of a folder of "
            "images or of an .npz file."
        )
    return ImageSet(name, split, images[:limit], None if labels is None else labels[:limit])


def _load_idx_set(name: str, split: str, download: bool) -> tuple[Tensor, Tensor]:
    """Images (N, 1, H, W) and labels (N,) of MNIST or Fashion-MNIST, downloaded if need be."""
    tried = [root / _TORCHVISION[name] / "raw" for root in data_roots()]
    files = next(filter(None, (_find_idx(folder, split) for folder in tried)), None)
    failure = "downloading was not allowed"
    if files is None and download:
        try:
            _download(name)
            files = _find_idx(tried[-1], split)
        except Exception as error:  # torchvision lets errors of urllib, http, ssl and gzip through
            failure = f"the download failed ({' '.join(str(error).split())})"
    if files is None:
        raise UsageError(
            f"{name} is not at hand: no {_IDX[split][0]} with its labels in "
            f"{' or '.join(map(str, tried))}, and {failure}; set JLEBM_DATA to a folder with "
            f"{_TORCHVISION[name]}/raw in it, or use --data glyphs."
        )
    images, labels = (_read_idx(file, dims) for file, dims in zip(files, (3, 1), strict=True))
    if len(images) != len(labels):
        raise UsageError(f"{files[0]} has {len(images)} images but {len(labels)} labels.")
    return images.unsqueeze(1), labels.long()


def _find_idx(folder: Path, split: str) -> tuple[Path, Path] | None:
    """The image file and the label file of a split, plain or compressed, or None."""
    files = []
    for stem in _IDX[split]:
        files += [p for p in (folder / stem, folder / f"{stem}.gz") if p.is_file()][:1]
    return tuple(files) if len(files) == 2 else None


def _download(name: str) -> None:
    """Let torchvision download, check and unpack a set, then move it into the cache.

    It works in a temporary folder: an interrupted download leaves nothing that looks complete.
    """
    from torchvision import datasets

    folder = _TORCHVISION[name]
    cache_dir().mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=cache_dir()) as temporary:
        getattr(datasets, folder)(temporary, download=True)
        target = cache_dir() / folder / "raw"
        target.mkdir(parents=True, exist_ok=True)
        for stem in (stem for pair in _IDX.values() for stem in pair):
            os.replace(Path(temporary, folder, "raw", stem), target / stem)


def _read_idx(path: Path, dims: int) -> Tensor:
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


def _split_by_stride(n: int, split: str, path: Path) -> list[int]:
    """The indices of a split where own data have no test set: every TEST_STRIDE-th is for test."""
    if split == "test" and n < TEST_STRIDE:
        raise UsageError(f"{path} has {n} images: a test set needs at least {TEST_STRIDE}.")
    return [i for i in range(n) if (i % TEST_STRIDE == TEST_STRIDE - 1) == (split == "test")]


def _load_folder(path: Path, split: str, limit: int | None) -> Tensor:
    """The images of a folder, (N, C, H, W): C = 1 if every image there is grey, else 3."""
    roots = [path / s for s in SPLITS]
    own_test = all(root.is_dir() for root in roots)
    files = sorted(
        (f for root in (roots if own_test else [path]) for f in root.rglob("*") if _is_image(f)),
        key=lambda file: file.relative_to(path).parts,
    )
    if own_test:
        chosen = [file for file in files if file.relative_to(path).parts[0] == split]
    else:
        chosen = [files[i] for i in _split_by_stride(len(files), split, path)] if files else []
    if not chosen:
        where = path / split if own_test else path
        raise UsageError(f"{where} holds no images: {', '.join(SUFFIXES)} are looked for.")
    grey, first = True, None
    for file in files:  # of both splits, so that they agree in C
        size, mode = _read_image(file)
        first = first or size
        if size != first:
            a, b = ("x".join(map(str, s)) for s in (first, size))
            raise UsageError(
                f"images of mixed sizes: {files[0]} is {a} but {file} is {b} (width x height); "
                "bring them all to one size."
            )
        if mode.startswith(("I", "F")):
            raise UsageError(f"{file} is not an 8-bit image (mode {mode}); convert it to 8 bits.")
        grey = grey and mode in ("1", "L", "LA")
    pixels = np.stack([_read_image(file, "L" if grey else "RGB") for file in chosen[:limit]])
    return torch.from_numpy(pixels[:, None] if grey else pixels.transpose(0, 3, 1, 2).copy())


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()


def _read_image(file: Path, mode: str | None = None) -> np.ndarray | tuple[tuple[int, int], str]:
    """The pixels of an image file in ``mode``; without one, (size, mode) from its header alone."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            return np.asarray(image.convert(mode)) if mode else (image.size, image.mode)
    except Exception as error:  # Pillow's readers raise errors of many types on corrupt files
        raise UsageError(f"{file} cannot be read as an image ({error}).") from None


def _load_npz(path: Path, split: str) -> tuple[Tensor, Tensor | None]:
    """Images (N, C, H, W) and labels (N,) or None from an .npz file."""
    wanted = ("images", "labels", "images_test", "labels_test")
    try:
        with np.load(path, allow_pickle=False) as file:
            found = list(file)
            arrays = {key: np.asarray(file[key]) for key in wanted if key in found}
    except Exception as error:  # of zipfile, zlib, pickle and numpy
        raise UsageError(f"{path} cannot be read as an .npz file ({error}).") from None
    if "images" not in arrays:
        raise UsageError(f"{path} has no array named images, only: {', '.join(found) or 'none'}.")
    own_test = "images_test" in arrays
    end = "_test" if own_test and split == "test" else ""
    array, labels = arrays[f"images{end}"], arrays.get(f"labels{end}")
    where = f"{path}, images{end}"
    if array.dtype != np.uint8:
        raise UsageError(f"{where}: the type is {array.dtype}, but uint8 (0 to 255) is needed.")
    images = _channels_first(array, where)
    if labels is not None:
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise UsageError(
                f"{path}, labels{end}: {labels.dtype} of shape {labels.shape}, but {len(images)} "
                "integers are needed, one for each image."
            )
        labels = torch.from_numpy(labels.astype(np.int64))
    if not own_test:
        index = _split_by_stride(len(images), split, path)
        images, labels = images[index], None if labels is None else labels[index]
    return images, labels


def _channels_first(array: np.ndarray, where: str) -> Tensor:
    """(N, H, W), (N, H, W, C) or (N, C, H, W) with C in {1, 3} to a tensor (N, C, H, W)."""
    if array.ndim == 3 and array.size:
        return torch.from_numpy(array[:, None])
    first, last = (array.ndim == 4 and array.shape[axis] in (1, 3) for axis in (1, -1))
    if first == last or not array.size:
        raise UsageError(
            f"{where}: the shape is {array.shape}, but (N, H, W), (N, H, W, C) or (N, C, H, W) "
            "with C = 1 or 3 on one side only is needed."
        )
    return torch.from_numpy(array if first else array.transpose(0, 3, 1, 2).copy())
