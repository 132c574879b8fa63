"""Data of one's own: a folder of images, or an .npz file."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
TEST_STRIDE = 10  # own data without a test set: images 9, 19, 29, .. are the test set


def split_by_stride(n: int, split: str, path: Path) -> list[int]:
    """The indices of a split where own data have no test set: every TEST_STRIDE-th is for test."""
    if split == "test" and n < TEST_STRIDE:
        raise UsageError(f"{path} has {n} images: a test set needs at least {TEST_STRIDE}.")
    return [i for i in range(n) if (i % TEST_STRIDE == TEST_STRIDE - 1) == (split == "test")]


def load_folder(path: Path, split: str, limit: int | None) -> Tensor:
    """The images of a folder, (N, C, H, W): C = 1 if every image there is grey, else 3."""
    roots = [path / s for s in ("train", "test")]
    own_test = all(root.is_dir() for root in roots)
    files = sorted(
        (f for root in (roots if own_test else [path]) for f in root.rglob("*") if is_image(f)),
        key=lambda file: file.relative_to(path).parts,
    )
    if own_test:
        chosen = [file for file in files if file.relative_to(path).parts[0] == split]
    else:
        chosen = [files[i] for i in split_by_stride(len(files), split, path)] if files else []
    if not chosen:
        where = path / split if own_test else path
        raise UsageError(f"{where} holds no images: {', '.join(SUFFIXES)} are looked for.")
    grey, first = True, None
    for file in files:  # of both splits, so that they agree in C
        size, mode = read_image(file)
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
    pixels = np.stack([read_image(file, "L" if grey else "RGB") for file in chosen[:limit]])
    return torch.from_numpy(pixels[:, None] if grey else pixels.transpose(0, 3, 1, 2).copy())


def is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()


def read_image(file: Path, mode: str | None = None) -> np.ndarray | tuple[tuple[int, int], str]:
    """The pixels of an image file in ``mode``; without one, (size, mode) from its header alone."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            return np.asarray(image.convert(mode)) if mode else (image.size, image.mode)
    except Exception as error:  # Pillow's readers raise errors of many types on corrupt files
        raise UsageError(f"{file} cannot be read as an image ({error}).") from None


def load_npz(path: Path, split: str, limit: int | None) -> tuple[Tensor, Tensor | None]:
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
    splits = {}
    for key in ("images", "images_test") if own_test else ("images",):  # both, so that they agree
        splits[key] = channels_first(arrays[key], f"{path}, {key}")
        if splits[key].shape[1:] != splits["images"].shape[1:]:
            a, b = (tuple(splits[k].shape[1:]) for k in ("images", key))
            raise UsageError(f"{path}: images are {a}, but images_test are {b}: bring them to one.")
    images, labels = splits[f"images{end}"], arrays.get(f"labels{end}")
    if labels is not None:
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise UsageError(
                f"{path}, labels{end}: {labels.dtype} of shape {labels.shape}, but {len(images)} "
                "integers are needed, one for each image."
            )
        labels = torch.from_numpy(labels.astype(np.int64))
    if not own_test:
        index = split_by_stride(len(images), split, path)
        images, labels = images[index], None if labels is None else labels[index]
    return images[:limit], None if labels is None else labels[:limit]


def channels_first(array: np.ndarray, where: str) -> Tensor:
    """uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with C in {1, 3} to a tensor (N, C, H, W)."""
    if array.dtype != np.uint8:
        raise UsageError(f"{where}: the type is {array.dtype}, but uint8 (0 to 255) is needed.")
    if array.ndim == 3 and array.size:
        return torch.from_numpy(array[:, None])
    first, last = (array.ndim == 4 and array.shape[axis] in (1, 3) for axis in (1, -1))
    if first == last or not array.size:
        raise UsageError(
            f"{where}: the shape is {array.shape}, but (N, H, W), (N, H, W, C) or (N, C, H, W) "
            "with C = 1 or 3 on one side only is needed."
        )
    return torch.from_numpy(array if first else array.transpose(0, 3, 1, 2).copy())
