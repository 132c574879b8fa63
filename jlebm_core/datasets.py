"""Names of data sets, and whose data a name means; without PyTorch, so that a wrong name shows
at once."""

from pathlib import Path

from .errors import UsageError
from .paths import expanded
from .settings import Shape

SPLITS = ("train", "test")

# name -> (how it is printed, (C, H, W) of its images)
PUBLISHED: dict[str, tuple[str, Shape]] = {
    "mnist": ("MNIST", (1, 28, 28)),
    "fashion-mnist": ("Fashion-MNIST", (1, 28, 28)),
    "cifar10": ("CIFAR-10", (3, 32, 32)),
    "cifar10-jpeg": ("CIFAR-10 (JPEG)", (3, 32, 32)),
    "svhn": ("SVHN", (3, 32, 32)),
    "svhn-extra": ("SVHN (extra)", (3, 32, 32)),
    "celeba64": ("CelebA-64", (3, 64, 64)),
}
NAMES = ("glyphs", *PUBLISHED)
SHAPES = {"glyphs": (3, 32, 32)} | {name: shape for name, (_, shape) in PUBLISHED.items()}


def title(name: str) -> str:
    """How a data set is called in print: ``cifar10-jpeg`` is always "CIFAR-10 (JPEG)"."""
    return PUBLISHED[name][0] if name in PUBLISHED else name


def own_path(name: str) -> Path | None:
    """The folder or .npz file that ``name`` means, None for one of ``NAMES``.

    Raises UsageError for what is neither.
    """
    if name in NAMES:
        return None
    if not name.strip():
        raise UsageError(
            f"no data set is called {name!r}: use one of {', '.join(NAMES)}, or a path."
        )
    path = expanded(name)
    if path.stem in NAMES and path.exists():
        raise UsageError(f"{path} has the name of a built-in data set: give it another one.")
    if path.is_dir() or (path.suffix.lower() == ".npz" and path.is_file()):
        return path
    if path.exists():
        raise UsageError(f"{path} is neither a folder of images nor an .npz file.")
    if path.suffix.lower() == ".npz" or path.name != name:
        raise UsageError(f"{path} does not exist.")
    raise UsageError(
        f"unknown data set {name!r}: use one of {', '.join(NAMES)}, or the path of a folder of "
        "images or of an .npz file."
    )
