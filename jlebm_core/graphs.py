"""CUDA graphs: the launches of a computation recorded once, then repeated without Python.

On a GPU a step of these small networks is little but launches. Off a GPU everything here runs the
plain function.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3  # plain calls before the recording: libraries choose their algorithms in them


class Recorded:
    """``fn()``, which reads and writes fixed tensors only, as one CUDA graph.

    The first ``WARM_UP`` calls are plain ones, on a stream of their own; the next one records, and
    it and all later calls replay. The result is the same tensors each time, overwritten by the
    next call. ``rng`` is the generator that ``fn`` draws from, if it does. Off CUDA, and inside
    another recording, every call is a plain one.
    """

    def __init__(
        self,
        fn: Callable[[], Any],
        device: torch.device,
        *,
        rng: torch.Generator | None = None,
    ):
        self.fn, self.device, self.rng = fn, device, rng
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.result: Any = None

    def __call__(self) -> Any:
        if self.device.type != "cuda" or torch.cuda.is_current_stream_capturing():
            return self.fn()
        if self.graph is None and self.calls < WARM_UP:
            self.calls += 1
            return self._aside()
        if self.graph is None:
            graph = torch.cuda.CUDAGraph()
            if self.rng is not None:
                graph.register_generator_state(self.rng)
            with torch.cuda.graph(graph):
                self.result = self.fn()
            self.graph = graph
        self.graph.replay()
        return self.result

    def _aside(self) -> Any:
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            result = self.fn()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        return result


class RecordedFunction:
    """``fn(*tensors)``, which changes the first tensor in place, as CUDA graphs by shape.

    Each call copies its tensors into the fixed ones of the graph for their shapes, replays it, and
    copies the first one back.
    """

    KEPT = 8  # graphs; the oldest one makes room, with its memory

    def __init__(self, fn: Callable[..., None]):
        self.fn = fn
        self.graphs: dict[tuple, tuple[Recorded, list[Tensor]]] = {}

    def __call__(self, tensors: Sequence[Tensor], *options: Any) -> None:
        device = tensors[0].device
        if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
            return self.fn(tensors, *options)
        key = (device, *((t.shape, t.dtype) for t in tensors), *options)
        if key not in self.graphs:
            while len(self.graphs) >= self.KEPT:
                self.graphs.pop(next(iter(self.graphs)))
            fixed = [t.clone(memory_format=torch.contiguous_format) for t in tensors]
            self.graphs[key] = Recorded(lambda: self.fn(fixed, *options), device), fixed
        recorded, fixed = self.graphs[key]
        torch._foreach_copy_(fixed, list(tensors))
        recorded()
        tensors[0].copy_(fixed[0])
        return None
