"""Where files lie: the same answers in a clone and in a plain pip installation."""

import os
from pathlib import Path

from .errors import UsageError

PACKAGE = Path(__file__).resolve().parent
CLONE = PACKAGE.parent if (PACKAGE.parent / "data" / "checkpoints").is_dir() else None


def shipped(*parts: str) -> Path:
    """Path of a shipped file, e.g. ``shipped("checkpoints", "joint-ebm-mnist")``.

    In a clone that is the folder ``data/``; an installed package carries the same files inside
    itself (see ``package_dir`` in setup.py).
    """
    return (CLONE / "data" if CLONE else PACKAGE / "shipped").joinpath(*parts)


def benchmarks() -> Path:
    """What ``make bench`` measured: ``benchmarks/results.json`` of the clone, else shipped."""
    return (CLONE or PACKAGE / "shipped") / "benchmarks" / "results.json"


def cache_dir() -> Path:
    """Folder for downloads and compiled kernels: ``JLEBM_CACHE``; ``data/cache`` of the clone;
    ``jlebm`` in ``XDG_CACHE_HOME`` or, unless that is an absolute path, in ``~/.cache``.

    Raises UsageError where none is known, as for a user without a home folder.
    """
    if own := os.environ.get("JLEBM_CACHE"):
        return expanded(own)
    if CLONE:
        return CLONE / "data" / "cache"
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))  # to be ignored if it is relative
    return (caches if caches.is_absolute() else expanded("~/.cache")) / "jlebm"


def expanded(path: str | Path) -> Path:
    """``path`` with ~ replaced by the home folder; UsageError for a user who has none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UsageError(
            f"{path} cannot be found: this user has no home folder; set HOME, or for downloads and "
            "compiled kernels JLEBM_CACHE, to a folder."
        ) from None


def data_roots() -> list[Path]:
    """Folders in which raw data sets are looked for, in this order: ``JLEBM_DATA``, the cache.

    Raises UsageError where there is neither.
    """
    own = os.environ.get("JLEBM_DATA")
    try:
        return [*([expanded(own)] if own else []), cache_dir()]
    except UsageError:
        if own and not own.startswith("~"):
            return [Path(own)]
        raise


def runs_dir() -> Path:
    """Where ``jlebm train`` leaves its runs unless told otherwise: ``data/runs`` or ``./runs``."""
    return CLONE / "data" / "runs" if CLONE else Path("runs")
