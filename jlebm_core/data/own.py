"""Data of one's own: an .npz file; the split of images without a test set; what was done, said."""

import sys
import zlib
from collections.abc import Hashable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError

STRIDE = 10  # own data without a test set: one of every ten images is the test set
CLASSES = 2**16  # labels lie below: a net with an output for each must fit into memory


def split_of(groups: Sequence[Hashable], split: str, path: Path) -> list[int]:
    """The indices of a split where own data have no test set; ``groups`` names each image's class.

    Of every ten images of a class one is for testing, of a class of 2 to 9 images one; images that
    are alone in their class are taken together. Which one of the ten depends on the class and the
    number of the ten alone: on no period of the order, and not on images added later.
    """
    if split == "test" and len(groups) < STRIDE:
        raise UsageError(f"{path} has {len(groups)} images: a test set needs at least {STRIDE}.")
    test = held_out(groups) if len(groups) >= STRIDE else set()
    return [i for i in range(len(groups)) if (i in test) == (split == "test")]


def held_out(groups: Sequence[Hashable]) -> set[int]:
    """The indices that ``split_of`` keeps for testing."""
    members: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    alone = sorted(i for rows in members.values() if len(rows) == 1 for i in rows)
    together = {group: rows for group, rows in members.items() if len(rows) > 1}
    test = set()
    for group, rows in [*together.items(), *([("", alone)] if len(alone) >= STRIDE else [])]:
        for block in range(max(1, len(rows) // STRIDE)):
            ten = rows[block * STRIDE : (block + 1) * STRIDE]
            test.add(ten[zlib.crc32(f"{group}-{block}".encode(errors="replace")) % len(ten)])
    return test


def counted(n: int, one: str, many: str | None = None) -> list[str]:
    """``["1 image"]``, ``["2 images"]``, nothing for 0; ``many`` is ``one`` with an s."""
    return [f"{n:,} {one if n == 1 else many or one + 's'}"] if n else []


@cache
def say(path: Path, line: str) -> None:
    """Say once what was done to the images of ``path``, on standard error."""
    print(line, file=sys.stderr)


def load_npz(path: Path, split: str, limit: int | None) -> tuple[Tensor, Tensor | None]:
    """Images (N, C, H, W) and labels (N,) or None from an .npz file."""
    wanted = ("images", "labels", "images_test", "labels_test")
    try:
        with np.load(path, allow_pickle=False) as file:
            found = list(file)
            arrays = {key: np.asarray(file[key]) for key in wanted if key in found}
    except Exception as error:  # of zipfile, zlib, pickle and numpy
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} cannot be read as an .npz file ({reason}).") from None
    if "images" not in arrays:
        raise UsageError(f"{path} has no array named images, only: {', '.join(found) or 'none'}.")
    own_test = "images_test" in arrays
    splits, labels = {}, {}
    for end in ("", "_test") if own_test else ("",):  # both, so that they agree
        key = f"images{end}"
        splits[end] = channels_first(arrays[key], f"{path}, {key}")
        if splits[end].shape[1:] != splits[""].shape[1:]:
            a, b = (tuple(splits[k].shape[1:]) for k in ("", end))
            raise UsageError(f"{path}: images are {a}, but images_test are {b}: bring them to one.")
        labels[end] = classes(arrays.get(f"labels{end}"), len(splits[end]), f"{path}, labels{end}")
    used = wanted if own_test else wanted[:2]
    done = [f"array {key} left out" for key in found if key not in used]
    if own_test and None not in (labels[""], labels["_test"]):
        new = ~torch.isin(labels["_test"], labels[""])
        lacking = counted(int(new.sum()), "test image")
        done += [f"{n} of classes that the training images lack" for n in lacking]
    end = "_test" if own_test and split == "test" else ""
    images, y = splits[end], labels[end]
    if not own_test:
        groups = [""] * len(images) if y is None else y.tolist()
        index = split_of(groups, split, path)
        images, y = images[index], None if y is None else y[index]
    if done:
        say(
            path.absolute(),
            f"{path.stem}: {', '.join([*counted(len(splits['']), 'image'), *done])}",
        )
    return images[:limit], None if y is None else y[:limit]


def classes(labels: np.ndarray | None, n: int, where: str) -> Tensor | None:
    """Labels as int64 (N,), 0 to K - 1 for K classes. Raises UsageError for what is none."""
    if labels is None:
        return None
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise UsageError(
            f"{where}: {labels.dtype} of shape {labels.shape}, but {n} integers are needed, one "
            "for each image."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= CLASSES:
        raise UsageError(
            f"{where}: they go from {low} to {high}, but classes are numbered from 0 on (to "
            f"{CLASSES - 1} at most): number them so, and leave images without a class out."
        )
    return torch.from_numpy(labels.astype(np.int64))


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
