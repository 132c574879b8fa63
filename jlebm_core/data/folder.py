"""A folder of images: found, read as every viewer shows them, counted, refused if unfit."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from .own import STRIDE, counted, held_out, say, split_of
from .tree import SUFFIXES, images_of

ORIENTATION = 0x0112  # EXIF's tag; 1 is upright


class Picture(NamedTuple):
    """An image file: what its header says; its pixels (H, W) or (H, W, 3) if it was decoded."""

    size: tuple[int, int]  # width x height, upright
    grey: bool
    done: list[str]  # to its pixels
    pixels: np.ndarray | None


def load_folder(path: Path, split: str, limit: int | None) -> Tensor:
    """The images of a folder, (N, C, H, W): C = 1 if every image there is grey, else 3.

    Transparent pixels are laid on white, images are turned as their EXIF tag says, the first of
    several frames is taken; what was done or left out is counted and said. Unless ``limit`` asks
    for a few images, those of both splits are decoded, so that none is found damaged later.
    """
    roots = own_split(path)
    found = {part: images_of(root) for part, root in (roots or {"": path}).items()}
    left_out = sum((count for _, count in found.values()), Counter())
    files = [file for part, _ in found.values() for file in part]
    if roots:
        beside = set(images_of(path)[0]) - set(files)
        left_out["beside"] = sum(not any(r in f.parents for r in roots.values()) for f in beside)
        chosen, kept = found[split][0], []
    else:
        groups = [file.relative_to(path).parent.as_posix() for file in files]
        chosen = [files[i] for i in split_of(groups, split, path)] if files else []
        kept = held_out(groups) if len(groups) >= STRIDE else []
    if not chosen:
        where = roots[split] if roots else path
        raise UsageError(f"{where} holds no images: {', '.join(SUFFIXES)} are looked for.")
    wanted = set(chosen[:limit])
    pictures = {file: read(file, limit is None or file in wanted) for file in files}
    one_size({file: picture.size for file, picture in pictures.items()})
    grey = all(picture.grey for picture in pictures.values())
    done = Counter(what for picture in pictures.values() for what in picture.done)
    done["grey beside colour"] = 0 if grey else sum(p.grey for p in pictures.values())
    held = len(kept) if len(kept) * 5 > len(files) else 0  # more than one would think
    tell(path, len(files), done, left_out, held)
    pixels = np.stack([pictures[file].pixels for file in chosen[:limit]]) if grey else None
    if grey:
        return torch.from_numpy(pixels[:, None])
    coloured = [in_colour(pictures[file].pixels) for file in chosen[:limit]]
    return torch.from_numpy(np.stack(coloured).transpose(0, 3, 1, 2).copy())


def own_split(path: Path) -> dict[str, Path] | None:
    """The folders train and test of ``path``, in any case of their letters, if both are there."""
    names = sorted(entry for entry in path.iterdir() if entry.is_dir())  # capitals first
    roots = {entry.name.lower(): entry for entry in names}
    return {s: roots[s] for s in ("train", "test")} if {"train", "test"} <= roots.keys() else None


def in_colour(pixels: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3) to (H, W, 3)."""
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, -1)


def one_size(sizes: dict[Path, tuple[int, int]]) -> None:
    """Raise UsageError unless all images have one size."""
    (first, size), *others = sizes.items()
    for file, other in others:
        if other != size:
            a, b = ("x".join(map(str, s)) for s in (size, other))
            raise UsageError(
                f"images of mixed sizes: {first} is {a} but {file} is {b} (width x height); "
                "bring them all to one size."
            )


def read(file: Path, decode: bool) -> Picture:
    """An image file as every viewer shows it; the pixels only if ``decode`` asks for them."""
    from PIL import Image, ImageOps

    done = []
    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")) or any(";16" in str(t[3]) for t in image.tile):
                deep = f"{file} is not an 8-bit image (mode {image.mode}); convert it to 8 bits."
                raise UsageError(deep)
            if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # of a telephone
                done.append("of several frames, the first taken")
            grey = image.mode in ("1", "L", "LA", "La")
            clear = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
            if not grey and image.mode not in ("RGB", "RGBA", "RGBa", "P", "PA"):
                done.append(f"turned from {image.mode} to RGB")
            turn = orientation(image)
            done += ["turned by their EXIF tag"] * (turn != 1)
            if not decode and image.format != "TIFF":  # which Pillow turns itself, or does not
                return Picture(image.size[:: -1 if turn >= 5 else 1], grey, [], None)
            image.load()
            if orientation(image) != 1:
                image = ImageOps.exif_transpose(image)
            if clear:
                image, on_white = laid_on_white(image, file)
                done += ["laid on white"] * on_white
            pixels = np.asarray(image.convert("L" if grey else "RGB"))
            return Picture(image.size, grey, done, pixels)
    except UsageError:
        raise
    except Exception as error:  # Pillow's readers raise errors of many types on corrupt files
        reason = " ".join(str(error).split())
        raise UsageError(f"{file} cannot be read as an image ({reason}).") from None


def orientation(image) -> int:
    """EXIF's orientation, 1 to 8; 1 where the tag is missing, damaged or none of these."""
    try:
        turn = image.getexif().get(ORIENTATION, 1)
    except Exception:  # what is no EXIF turns nothing, in viewers too
        return 1
    return turn if turn in range(1, 9) else 1


def laid_on_white(image, file: Path):
    """The image on a white ground, and whether any of it was transparent.

    Raises UsageError if nothing can be seen on white that could be seen before.
    """
    from PIL import Image

    image = image.convert("RGBA")
    low, high = image.getchannel("A").getextrema()
    laid = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if low < high and all(a == b == 255 for a, b in laid.getextrema()):
        raise UsageError(
            f"{file} is white on a transparent ground, and on white nothing of it is left: give "
            "the images a ground of another colour."
        )
    return laid, low < 255


def tell(path: Path, n: int, done: Counter, left_out: Counter, held: int) -> None:
    """Say in one line what was done to the ``n`` images of ``path``, and what was left out."""
    parts = [f"{count:,} {what}" for what, count in sorted(done.items()) if count]
    parts += [f"{held:,} kept for testing, one of each subfolder at least"] if held else []
    names = {
        "hidden folder": ("hidden folder", None),
        "hidden file": ("hidden file", None),
        "no image": ("file without an image", "files without an image"),
        "beside": ("image beside train and test", "images beside train and test"),
        "dead link": ("link that leads nowhere", "links that lead nowhere"),
        "again": ("link to what was read already", "links to what was read already"),
        "empty": ("empty folder", None),
    }
    out = [text for key, name in names.items() for text in counted(left_out[key], *name)]
    if out:
        parts.append(f"{', '.join(out[:-1])}{' and ' * (len(out) > 1)}{out[-1]} left out")
    if parts:
        line = ", ".join([*counted(n, "image"), *parts])
        say(path.absolute(), f"{path.resolve().name}: {line}")
