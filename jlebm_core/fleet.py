"""Several training runs at once on one GPU: they take turns at the launches, the GPU overlaps them.

A step of one of these nets leaves most of a large GPU idle. Recorded (graphs.py), it is a single
launch, so that one Python thread keeps several streams busy.

Several lanes are proved on CPUs only. On CUDA a first trial of fourteen came to a standstill; a
likely cause is that graphs recorded one after another share the workspace of the matrix library.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch

from .monitor import Diverged

AHEAD = 2  # steps of a lane that may be queued on the GPU


class Lane:
    """A named job whose steps are queued on a CUDA stream of their own; plain steps elsewhere."""

    def __init__(self, name: str, steps: Iterator[object], device: torch.device):
        self.name, self.steps = name, steps
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.queued: deque[torch.cuda.Event] = deque()

    def ready(self) -> bool:
        """Whether it may take another turn: a slow job must not hold up the host for the others."""
        while self.queued and self.queued[0].query():
            self.queued.popleft()
        return len(self.queued) < AHEAD

    def advance(self) -> None:
        """Make or queue one step; StopIteration at the end of the job."""
        if self.stream is None:
            next(self.steps)
            return
        with torch.cuda.stream(self.stream):
            next(self.steps)
            self.queued.append(self.stream.record_event())


def together(
    work: Iterable[tuple[str, Iterator[object]]],
    device: torch.device,
    *,
    lanes: int = 1,
    on_end: Callable[[str], None] | None = None,
) -> dict[str, Diverged]:
    """Advance up to ``lanes`` named iterators in turn, one step each, until all have ended.

    An iterator that diverges ends alone. Returns the names of those, with their errors;
    ``on_end(name)`` is told of the others.
    """
    waiting, running, failed = iter(work), [], {}
    while True:
        while len(running) < lanes and (job := next(waiting, None)):
            running.append(Lane(*job, device))
        if not running:
            return failed
        for lane in [lane for lane in running if lane.ready()]:
            try:
                lane.advance()
            except StopIteration:
                running.remove(lane)
                if on_end:
                    on_end(lane.name)
            except Diverged as error:
                running.remove(lane)
                failed[lane.name] = error
