"""Runs that take turns: in which order, how many at a time, and what becomes of one that fails."""

from types import SimpleNamespace

import pytest
import torch

from jlebm_core import fleet
from jlebm_core.monitor import Diverged

CPU = torch.device("cpu")


def counting(seen, name, length, error=None):
    """A run of ``length`` steps that notes each one, and fails at its end with ``error``."""
    for i in range(length):
        seen.append((name, i))
        yield i
    if error:
        raise error


def test_one_lane_is_one_run_after_the_other():
    seen, ended = [], []
    work = [(name, counting(seen, name, 2)) for name in "abc"]
    assert fleet.together(work, CPU, on_end=ended.append) == {}
    assert seen == [(name, i) for name in "abc" for i in range(2)] and ended == ["a", "b", "c"]


def test_runs_take_turns_step_by_step_and_a_free_lane_goes_to_the_next():
    seen, ended = [], []
    lengths = {"a": 1, "b": 3, "c": 2, "d": 1}
    work = ((name, counting(seen, name, n)) for name, n in lengths.items())
    assert fleet.together(work, CPU, lanes=2, on_end=ended.append) == {}
    assert "".join(name for name, _ in seen) == "abbbccd"
    assert ended == ["a", "b", "c", "d"]


@pytest.mark.parametrize("lanes", [1, 2, 3, 9])
def test_no_more_runs_are_begun_than_there_are_lanes(lanes):
    """``work`` is asked for another run only when a lane is free."""
    open_now, most = set(), []

    def job(name):
        yield from range(name % 3 + 1)
        open_now.discard(name)

    def work():
        for name in range(7):
            open_now.add(name)
            most.append(len(open_now))
            yield name, job(name)

    fleet.together(work(), CPU, lanes=lanes)
    assert max(most) == min(lanes, 7) and not open_now


def test_a_lane_waits_while_as_many_steps_as_it_may_queue_are_unfinished():
    done = [SimpleNamespace(query=lambda: False) for _ in range(fleet.AHEAD)]
    lane = fleet.Lane("a", iter([]), CPU)
    assert lane.ready()
    lane.queued.extend(done)
    assert not lane.ready() and len(lane.queued) == fleet.AHEAD
    done[1].query = lambda: True  # steps of one stream end in order: the second is not looked at
    assert not lane.ready()
    done[0].query = lambda: True
    assert lane.ready() and not lane.queued


def test_a_run_that_diverges_ends_alone():
    seen, ended, error = [], [], Diverged("f_gap = 60")
    work = [("a", counting(seen, "a", 1, error)), ("b", counting(seen, "b", 3))]
    work.append(("c", counting(seen, "c", 1)))
    assert fleet.together(work, CPU, lanes=2, on_end=ended.append) == {"a": error}
    assert ended == ["b", "c"]
    assert seen.count(("b", 2)) == seen.count(("c", 0)) == 1


def test_any_other_error_ends_all():
    seen = []
    work = [("a", counting(seen, "a", 1, ValueError("a defect"))), ("b", counting(seen, "b", 9))]
    with pytest.raises(ValueError, match="a defect"):
        fleet.together(work, CPU, lanes=2)
    assert ("b", 8) not in seen


def test_no_work_is_no_work():
    assert fleet.together([], CPU, lanes=4) == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="streams are of a GPU")
def test_each_run_has_a_stream_of_its_own():
    streams = {}

    def job(name):
        for _ in range(2):
            streams.setdefault(name, set()).add(torch.cuda.current_stream().cuda_stream)
            yield

    fleet.together([(n, job(n)) for n in "ab"], torch.device("cuda"), lanes=2)
    assert len(streams["a"]) == len(streams["b"]) == 1 and streams["a"] != streams["b"]
    assert torch.cuda.default_stream().cuda_stream not in streams["a"] | streams["b"]
