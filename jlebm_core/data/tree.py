"""Which files of a folder are images of a person's set: links followed, hidden folders left out."""

import os
from collections import Counter
from pathlib import Path

from ..errors import UsageError

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm"),
)
SYSTEM = ("__macosx", "@eadir", "$recycle.bin", "system volume information")  # of other programs


def images_of(root: Path) -> tuple[list[Path], Counter]:
    """The images below ``root``, sorted by their parts, and a count of what is no image of the set.

    Links to files and folders are followed. What is reached twice is read once, by its own name if
    it has one below ``root`` and else by that of its first link, so that rings end. Raises
    UsageError for a folder that cannot be read.
    """
    left_out: Counter = Counter()
    files: dict[str, Path] = {}  # by where they really lie
    seen = {os.path.realpath(root)}
    links: list[Path] = []

    def take(file: Path) -> None:
        if file.suffix.lower() not in SUFFIXES or not file.is_file():
            left_out["no image"] += 1
        elif files.setdefault(os.path.realpath(file), file) != file:
            left_out["again"] += 1

    def enter(folder: Path, real: str) -> None:
        if real in seen:
            left_out["again"] += 1
        else:
            seen.add(real)
            walk(folder)

    def walk(folder: Path) -> None:
        try:
            entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
        except OSError as error:
            raise UsageError(f"{folder} cannot be read ({error.strerror}).") from None
        left_out["empty"] += not entries and folder != root
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in SYSTEM:
                left_out["hidden folder" if entry.is_dir() else "hidden file"] += 1
            elif entry.is_symlink():
                links.append(entry)
            elif entry.is_dir():
                enter(entry, os.path.realpath(entry))
            else:
                take(entry)

    walk(root)
    while links:
        link, real = links[0], os.path.realpath(links.pop(0))
        if not os.path.exists(real) or os.path.islink(real):  # nothing, or links in a ring
            left_out["dead link"] += 1
        elif not os.path.isdir(real):
            take(link)
        elif os.path.realpath(root).startswith(os.path.join(real, "")):  # a folder around root
            left_out["again"] += 1
        else:
            enter(link, real)
    return sorted(files.values(), key=lambda file: file.relative_to(root).parts), left_out
