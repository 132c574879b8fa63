"""CUDA graphs: plain calls off CUDA; on CUDA the same numbers as plain calls."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from jlebm_core import graphs
from jlebm_core.graphs import Recorded, RecordedFunction
from jlebm_core.langevin import closed_form_steps, recorded_steps
from jlebm_core.priors import EBMPrior

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def test_off_cuda_every_call_is_a_plain_one():
    calls = []
    recorded = Recorded(lambda: calls.append(1) or len(calls), torch.device("cpu"))
    assert [recorded() for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    z = torch.zeros(2)
    RecordedFunction(lambda tensors, by: tensors[0].add_(by))((z,), 3)
    assert z.tolist() == [3, 3]


def test_warm_up_then_one_recording_then_replays(monkeypatch):
    """The order of things, on a stand-in for the CUDA runtime that notes it."""
    events = []

    class Graph:
        def register_generator_state(self, rng):
            events.append(("generator", rng))

        def replay(self):
            events.append("replay")

    @contextmanager
    def graph(_):
        events.append("record")
        yield

    stream = SimpleNamespace(wait_stream=lambda _: None)
    fake = SimpleNamespace(
        is_current_stream_capturing=lambda: False,
        CUDAGraph=Graph,
        graph=graph,
        Stream=lambda _: stream,
        current_stream=lambda _: stream,
        stream=lambda _: nullcontext(),
    )
    monkeypatch.setattr(graphs.torch, "cuda", fake)
    recorded = Recorded(lambda: events.append("run") or "result", torch.device("cuda"), rng="rng")
    assert [recorded() for _ in range(graphs.WARM_UP + 2)] == ["result"] * (graphs.WARM_UP + 2)
    recording = [("generator", "rng"), "record", "run", "replay"]
    assert events == ["run"] * graphs.WARM_UP + recording + ["replay"]
    fake.is_current_stream_capturing = lambda: True  # inside another recording
    assert recorded() == "result" and events[-1] == "run"


@needs_cuda
def test_recorded_chains_equal_plain_ones():
    torch.manual_seed(0)
    prior = EBMPrior((2, 3), (30, 30)).cuda()
    layers = [(w.detach(), b.detach()) for w, b in prior.net.layers()]
    for batch in (10, 20, 10):
        for _ in range(graphs.WARM_UP + 3):
            z = torch.randn(batch, 5, device="cuda")
            eps = torch.randn(7, batch, 5, device="cuda")
            plain, plain_eps = z.clone(), eps.clone()
            recorded_steps(layers, "lrelu", z, eps, drift=0.08)
            closed_form_steps(layers, "lrelu", plain, plain_eps, drift=0.08)
            torch.testing.assert_close(z, plain)
