"""Two at once: real processes that write one file, train in one folder, download one file."""

import contextlib
import os
import subprocess
import sys
import threading

import pytest
from test_download import BODY, MD5

from jlebm_core import checkpoints, locks, results, runs
from jlebm_core.data import download
from jlebm_core.errors import UsageError

HOLD = """
import sys
from pathlib import Path
from jlebm_core import locks
with locks.lock(Path(sys.argv[1]), shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def another(file, kind="alone"):
    """Another process that holds ``file`` until the end of the block, or until it is killed."""
    command = [sys.executable, "-c", HOLD, str(file), kind]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def taken(file, **options):
    try:
        with locks.lock(file, **options) as held:
            return not held
    except locks.Busy as error:
        assert str(error).count("\n") == 0 and str(file.parent) in str(error)
        return True


def test_a_lock_is_alone_while_its_process_lives_and_leaves_nothing(tmp_path):
    file = tmp_path / ".lock"
    with another(file):
        assert taken(file) and taken(file, shared=True)
    assert not taken(file) and not list(tmp_path.iterdir())


def test_a_lock_dies_with_its_process(tmp_path):
    file = tmp_path / ".lock"
    with another(file) as process:
        process.kill()
        process.wait()
        assert file.exists() and not taken(file)
    assert not file.exists()


def test_shared_locks_go_together_and_keep_others_out(tmp_path):
    file = tmp_path / ".lock"
    with another(file, "shared"), locks.lock(file, shared=True):
        pass
    with another(file, "shared"):
        assert not taken(file, shared=True) and taken(file)


def test_who_holds_a_place_may_take_it_again_and_another_thread_may_not(tmp_path):
    file, found = tmp_path / ".lock", []
    with locks.lock(file) as first, locks.lock(file) as second:
        assert first and second
        thread = threading.Thread(target=lambda: found.append(taken(file)))
        thread.start()
        thread.join()
    assert found == [True]


def test_who_waits_goes_on_when_the_other_ends(tmp_path):
    file = tmp_path / ".lock"
    with another(file) as process:
        with locks.lock(file, wait=True, on_wait=process.stdin.close) as held:
            assert held and file.exists()
    assert not file.exists()


@pytest.mark.parametrize("missing", ["folder", "locks", "module"])
def test_without_locks_the_work_goes_on(missing, tmp_path, monkeypatch):
    def none(*_):
        raise OSError(95, "Operation not supported")

    if missing == "locks":
        monkeypatch.setattr(locks.fcntl, "flock", none)
    if missing == "module":
        monkeypatch.setattr(locks, "fcntl", None)
    place = tmp_path / "nowhere" if missing == "folder" else tmp_path
    with locks.lock(place / ".lock") as held, locks.lock(place / ".lock", wait=True):
        assert held is False


# --- a run's folder


def test_a_second_training_of_one_name_is_refused_while_the_first_lives(tmp_path):
    from test_runs import go

    with another(tmp_path / ".lock"):
        with pytest.raises(locks.Busy, match="another process is at work in") as caught:
            go(tmp_path)
        assert isinstance(caught.value, UsageError)
        assert [p.name for p in tmp_path.iterdir()] == [".lock"]
    assert go(tmp_path)["steps"] == 4
    with another(tmp_path / ".lock"), pytest.raises(locks.Busy):
        go(tmp_path, resume=True)


def test_nothing_is_measured_while_its_model_is_trained_and_several_measure_at_once(tmp_path):
    results.write(tmp_path / "results.json", {"metrics": []})
    with another(tmp_path / ".lock"), pytest.raises(locks.Busy):
        with runs.measuring(tmp_path / "model"):
            pass
    with another(tmp_path / ".lock", "shared"), runs.measuring(tmp_path / "model") as file:
        assert file == tmp_path / "results.json"


# --- one file

MERGE = """
import sys
from pathlib import Path
from jlebm_core import checkpoints, results
import torch
folder, who = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for i in range(20):
    results.merge(folder / "results.json", [{"name": f"{who}-{i}", "value": i}])
    checkpoints.save(folder / "x", {"a": torch.full((20_000,), float(who))}, {"who": who})
    checkpoints.write_atomic(folder / "blob", bytes([who]) * 300_000)
    assert (folder / "blob").read_bytes() in (b"\\1" * 300_000, b"\\2" * 300_000)
    tensors, meta = checkpoints.load(folder / "x")
    assert (tensors["a"] == meta["who"]).all()
"""


@pytest.mark.slow  # both import PyTorch
def test_of_two_writers_each_ends_whole_and_no_figure_is_lost(tmp_path):
    """Records, checkpoints of two files, and plain files, written and read by two processes."""
    results.write(tmp_path / "results.json", {"metrics": []})
    command = [sys.executable, "-c", MERGE, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    writers = [subprocess.Popen([*command, who], **pipes, env=environment) for who in "12"]
    assert [w.stdout.readline() for w in writers] == ["ready\n"] * 2
    for w in writers:
        w.stdin.write("go\n")
        w.stdin.flush()
    for w in writers:
        w.communicate()
    assert [w.returncode for w in writers] == [0, 0]
    names = {m["name"] for m in results.read(tmp_path / "results.json")["metrics"]}
    assert names == {f"{who}-{i}" for who in (1, 2) for i in range(20)}
    left = {"blob", "results.json", "x.json", "x.safetensors"}
    assert {p.name for p in tmp_path.iterdir()} == left


def test_writers_at_the_same_moment_have_names_of_their_own(tmp_path, monkeypatch):
    """Both have written their temporary files before either takes the final name."""
    replace, both = os.replace, threading.Barrier(2)

    def together(*names):
        both.wait(60)
        replace(*names)

    monkeypatch.setattr(checkpoints.os, "replace", together)
    errors = []

    def write(content):
        try:
            checkpoints.write_atomic(tmp_path / "x", content)
        except OSError as error:
            errors.append(error)

    blobs = [b"1" * 100_000, b"2" * 200_000]
    threads = [threading.Thread(target=write, args=[blob]) for blob in blobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and (tmp_path / "x").read_bytes() in blobs
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


# --- one download


@pytest.mark.parametrize("locked", [True, False])
def test_two_downloads_of_one_file_do_not_spoil_each_other(locked, server, tmp_path, monkeypatch):
    """The second begins when the first has half of the bytes: it waits and finds the file, or,
    where there are no locks, downloads a part of its own."""
    server.files["set"] = BODY
    half, second = threading.Event(), threading.Event()
    append, first = download.append, []

    def slowly(url, part):
        if not first:
            first.append(part)
            part.write_bytes(BODY[:100_000])
            half.set()
            assert second.wait(60)
        else:
            second.set()
        append(url, part)

    monkeypatch.setattr(download, "append", slowly)
    if not locked:
        monkeypatch.setattr(locks, "fcntl", None)
    file, got = tmp_path / "set", []

    def fetch():
        got.append(download.fetch([server.url("set")], file, MD5))

    threads = [threading.Thread(target=fetch) for _ in range(2)]
    threads[0].start()
    assert half.wait(60)
    if locked:  # says so before it waits
        monkeypatch.setattr("builtins.print", lambda *_, **__: second.set())
    threads[1].start()
    for thread in threads:
        thread.join()
    assert got == [file, file] and file.read_bytes() == BODY
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    assert len(server.asked) == (1 if locked else 2)
