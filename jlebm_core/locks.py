"""Two at once: locks that die with their process, so that no stale one ever stands in the way."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from .errors import UsageError

try:
    import fcntl
except ImportError:  # no such locks on this system: nothing is locked
    fcntl = None

# What this thread holds: whoever holds a place may do there what takes the lock again.
_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())


class Busy(UsageError):
    """Another process is at work there."""


@contextmanager
def lock(
    file: Path, *, shared: bool = False, wait: bool = False, on_wait: Callable[[], None] = int
) -> Iterator[bool]:
    """Hold ``file``, an empty one of this lock's own, for the time of a block; gives whether it is
    held: a file system without locks, or one that cannot be written, has none.

    ``shared`` locks go together, any other is alone. One that is taken is waited for, after a call
    of ``on_wait``, or raises Busy. What the same thread already holds it may take again.
    """
    place = file.absolute()
    if place in _held.get():
        yield True
        return
    handle = _open(place, shared=shared, wait=wait, on_wait=on_wait)
    before = _held.set(_held.get() | {place})
    try:
        yield handle is not None
    finally:
        _held.reset(before)
        if handle is not None:
            _close(handle, place)


def _open(file: Path, *, shared: bool, wait: bool, on_wait: Callable[[], None]) -> int | None:
    kind = fcntl and (fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    while fcntl:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                os.close(handle)
                raise Busy(
                    f"another process is at work in {file.parent}: wait for its end, or name "
                    "another place."
                ) from None
            on_wait()
            fcntl.flock(handle, kind)
        except OSError:  # this file system has no locks
            os.close(handle)
            return None
        if _still_there(handle, file):
            return handle
        os.close(handle)  # who held it before has removed it: take the new one
    return None


def _still_there(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _close(handle: int, file: Path) -> None:
    """Let go; the last one removes the file."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _still_there(handle, file):
            file.unlink()
    except OSError:  # others share it, or the folder is gone
        pass
    os.close(handle)
