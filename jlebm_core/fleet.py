"""Several training runs at once on one GPU: they take turns at the launches, the GPU overlaps them.

A step of one of these nets leaves most of a large GPU idle. Recorded (graphs.py), it is a single
launch, so that one Python thread keeps several streams busy.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch

from .monitor import Diverged


class Lane(NamedTuple):
    """One running job and the stream on which all its work is queued."""

    name: str
    steps: Iterator[object]
    stream: Callable[[], AbstractContextManager]


def together(
    work: Iterable[tuple[str, Iterator[object]]],
    device: torch.device,
    *,
    lanes: int = 1,
    on_end: Callable[[str], None] | None = None,
) -> dict[str, Diverged]:
    """Advance up to ``lanes`` named iterators in turn, one step each, until all have ended.

    On CUDA each one's steps run on a stream of its own. An iterator that diverges ends alone.
    Returns the names of those, with their errors; ``on_end(name)`` is told of the others.
    """
    waiting, running, failed = iter(work), [], {}
    while True:
        while len(running) < lanes and (job := next(waiting, None)):
            running.append(Lane(*job, _stream(device)))
        if not running:
            return failed
        for lane in list(running):
            try:
                with lane.stream():
                    next(lane.steps)
            except StopIteration:
                running.remove(lane)
                if on_end:
                    on_end(lane.name)
            except Diverged as error:
                running.remove(lane)
                failed[lane.name] = error


def _stream(device: torch.device) -> Callable[[], AbstractContextManager]:
    if device.type != "cuda":
        return nullcontext
    stream = torch.cuda.Stream(device)
    return lambda: torch.cuda.stream(stream)
