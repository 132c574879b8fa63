"""Where the files of a data set are found, and what is kept of them: one place for all formats."""

import os
import secrets
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from .. import checkpoints, paths
from ..errors import UsageError
from .download import DownloadError
from .own import say
from .progress import bar

Found = TypeVar("Found")


def locate(
    title: str,
    folder: str,
    wanted: str,
    find: Callable[[Path], Found | None],
    *,
    get: Callable[[Path], None] | str,
    download: bool,
) -> Found:
    """What ``find`` makes of the first ``folder`` under a data root that holds the set.

    If none does, ``get`` downloads the set into its folder under the cache; a string in its place
    says why there is no download. Raises UsageError that says what was tried and what to do.
    """
    tried = [root / folder for root in paths.data_roots()]
    for place in tried:
        if (found := find(place)) is not None:
            return found
    own = os.environ.get("JLEBM_DATA")
    wrong = f"JLEBM_DATA is {own}, which is no folder" if own and not Path(own).is_dir() else ""
    if isinstance(get, str):
        failure = get
    elif not download:
        failure = "downloading was not allowed"
    elif not (cache := cache_dir()):
        failure = "there is no folder for a download: JLEBM_CACHE can name one"
    else:
        if wrong:
            say(Path(own), f"{wrong}: {title} is downloaded to {cache}.")
        try:
            get(tried[-1])
            if (found := find(tried[-1])) is not None:
                return found
            failure = "the download does not hold it"
        except (DownloadError, OSError) as error:
            failure = f"the download failed ({' '.join(str(error).split())})"
    raise UsageError(
        f"{title} is not at hand: no {wanted} in {' or '.join(map(str, tried))}, and {failure}; "
        f"{wrong and wrong + ': '}set JLEBM_DATA to a folder that holds {folder or wanted}, or use "
        "--data glyphs."
    )


def decoded(
    name: str, n: int, images: Iterable[np.ndarray], *, limit: int | None, title: str
) -> Tensor:
    """``n`` decoded images (H, W, 3), all of one size, as a tensor (n, 3, H, W); kept in the cache.

    The whole set is written once, image by image, to ``name``.npy in the cache and read from there
    ever after, so ``name`` must change with the files. With a ``limit`` the first images alone are
    taken from that file or, where there is none yet, decoded and not kept; so are all of them where
    the cache cannot be written.
    """
    cache = cache_dir()
    file = cache and cache / f"{name}.npy"
    if file is None or not file.is_file():
        if limit is not None and limit < n or not can_write(cache):
            some = list(islice(images, limit))
            return torch.from_numpy(np.stack(some).transpose(0, 3, 1, 2).copy())
        write_decoded(file, n, images, title)
    pixels = np.load(file, mmap_mode="r")
    return torch.from_numpy(np.array(pixels[:limit]))


def cache_dir() -> Path | None:
    """The cache, None for a user who has none."""
    try:
        return paths.cache_dir()
    except UsageError:
        return None


def can_write(folder: Path | None) -> bool:
    """Whether files can be kept in ``folder``, which need not be there yet."""
    try:
        return folder is not None and checkpoints.writable(folder) is None
    except OSError:
        return False


def write_decoded(file: Path, n: int, images: Iterable[np.ndarray], title: str) -> None:
    """Write images (H, W, 3) as one array (n, 3, H, W), under a temporary name until complete."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{secrets.token_hex(8)}.part")
    array = None
    try:
        for i, image in enumerate(bar(f"decoding {title}", iterable=images, total=n, unit="image")):
            if array is None:
                shape = (n, image.shape[2], *image.shape[:2])
                array = np.lib.format.open_memmap(part, "w+", np.uint8, shape)
            array[i] = image.transpose(2, 0, 1)
        array.flush()
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
