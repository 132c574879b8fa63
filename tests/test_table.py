"""The table: what is missing, what runs, what the lines say."""

import numpy as np
import pytest
import torch

from jlebm_core import checkpoints, glyphs, paths, results, runs, systems, table
from jlebm_core import data as data_module
from jlebm_core.cli import main

SHAPE = (1, 28, 28)
CPU = torch.device("cpu")


def result(system, seed=0, *, fid=5.0, at_zero=None, budget="cpu", data="mnist"):
    """A results record with the figures that the table reads."""
    steps = 60 if at_zero is not None else 0
    metrics = [
        {"name": "fid", "value": fid, "langevin_steps": steps},
        {"name": "kid", "value": fid / 100, "langevin_steps": steps},
        {"name": "mse", "value": 0.05, "split": "test"},
        {"name": "fid_floor", "value": 0.05},
    ]
    if at_zero is not None:
        metrics += [
            {"name": "fid", "value": at_zero, "langevin_steps": 0},
            {"name": "kid", "value": 1.0, "langevin_steps": 0},
            {"name": "fid", "value": 1.0, "langevin_steps": 60, "sampler": "importance resampling"},
        ]
    about = {"system": system, "data": data, "seed": seed, "budget": budget, "seconds": 60.0}
    shape = data_module.SHAPES.get(data, SHAPE)
    config = systems.configure(system, data, shape, budget=budget).to_json()
    return {**about, "config": config, "metrics": metrics}


@pytest.fixture
def own_folders(monkeypatch, tmp_path):
    """Empty folders for runs and for shipped results."""
    monkeypatch.setattr(paths, "runs_dir", lambda: tmp_path / "runs")
    monkeypatch.setattr(results, "shipped_path", lambda name: tmp_path / f"{name}.json")
    return tmp_path


def test_jobs_know_their_state(own_folders):
    rows = {"rows": ["vae", "vlae"], "seeds": (0, 1)}

    def states():
        return [job.state for job in table.jobs("mnist", SHAPE, "cpu", **rows)]

    assert states() == ["missing"] * 4
    results.write(own_folders / "vae-mnist-s0.json", result("vae"))  # committed
    folder = own_folders / "runs" / "vlae-mnist-s1"
    for lr, state in ((1.0, "other settings"), (result("vlae")["config"]["lr"], "cut off")):
        config = {**result("vlae")["config"], "lr": lr}
        checkpoints.save(folder / "resume", {}, {"config": config, "seed": 1})
        assert states() == ["done", "missing", "missing", state]
    results.write(folder / "results.json", {**result("vlae", 1), "metrics": []})
    assert states() == ["done", "missing", "missing", "to be evaluated"]
    results.write(folder / "results.json", result("vlae", 1))
    assert states() == ["done", "missing", "missing", "done"]


def test_a_result_of_other_settings_is_not_done(own_folders):
    old = result("vae")
    old["config"]["steps"] += 1
    results.write(own_folders / "vae-mnist-s0.json", old)
    (job,) = table.jobs("mnist", SHAPE, "cpu", rows=["vae"], seeds=(0,))
    assert job.state == "missing"


def test_minutes_are_those_of_the_processor_where_there_is_one():
    assert table.minutes({"seconds": 60.0}) == 1
    assert table.minutes({"seconds": 60.0, "cpu_seconds": 30.0, "device": "cpu"}) == 0.5
    assert table.minutes({"seconds": 60.0, "cpu_seconds": 30.0, "device": "some GPU"}) == 1


def test_seeds_of_the_rows(own_folders):
    jobs = table.jobs("mnist", SHAPE, "cpu")
    count = {}
    for job in jobs:
        count[job.config.system] = count.get(job.config.system, 0) + 1
    assert {k for k, n in count.items() if n == 3} == {"vlae", "lebm", "multi-ncp", "joint-ebm"}
    assert sum(count.values()) == 15 + 2 * 4


def test_lines_average_seeds_and_stand_in_the_order_of_fid():
    found = [
        result("vlae", fid=4.0),
        result("joint-ebm", 0, fid=2.0, at_zero=20.0),
        result("joint-ebm", 1, fid=4.0, at_zero=24.0),
        result("vae", fid=3.5),
        result("lebm", fid=1.0, budget="smoke"),
        result("lebm", fid=1.0, data="glyphs"),
    ]
    lines = table.lines("mnist", found=found)
    assert [line.system for line in lines] == ["joint-ebm", "vae", "vlae"]
    joint = lines[0]
    assert joint.fids() == [2.0, 4.0] and joint.fids(tilted=False) == [20.0, 24.0]
    assert joint.trained("kid") == [0.02, 0.04] and joint.values("mse") == [0.05, 0.05]
    assert lines[1].fids(tilted=False) == []  # it has no EBM to leave out
    cells = dict(zip(table.HEADER, table.cells(joint), strict=True))
    assert cells["FID"] == "3.00 ± 1.41" and cells["FID, K = 0"] == "22.00 ± 2.83"
    assert cells["seeds"] == "2" and cells["KID x 1000"] == "30.00 ± 14.14"
    assert cells["prior"] == "ebm" and cells["precision"] == ""


def test_the_papers_figures_stand_beside_ours():
    lines = table.lines("svhn", found=[result("joint-ebm", data="svhn", at_zero=9.0)])
    text = table.text("svhn", lines).splitlines()
    assert text[0].endswith("| paper FID | paper MSE |") and text[2].endswith("| 24.16 | 0.008 |")
    assert "paper" not in table.text("mnist", table.lines("mnist", found=[result("vae")]))


def test_the_plan_names_every_job_and_what_is_left(own_folders):
    results.write(own_folders / "vae-mnist-s0.json", result("vae"))
    jobs = table.jobs("mnist", SHAPE, "smoke", rows=["vae", "joint-ebm"], seeds=(0,))
    lines = list(table.plan(jobs, "smoke", CPU))
    assert lines[0].startswith("vae-mnist-s0-smoke ") and "missing" in lines[0]
    assert "dims 2-2-6, 20 steps of 25" in lines[1] and "1,090,941 parameters" in lines[1]
    assert lines[2].endswith("hours of training are left on cpu")


def test_a_table_from_nothing_then_after_a_cut(own_folders, monkeypatch, capsys):
    """Every job runs once; a run that was cut off goes on; the table shows all."""
    images = glyphs.render(700, seed=3)[0].permute(0, 2, 3, 1).numpy()
    np.savez(own_folders / "own.npz", images=images)
    command = ["table", "--data", str(own_folders / "own.npz"), "--budget", "smoke", "--quiet"]
    command += ["--systems", "vae", "joint-ebm", "--seeds", "0", "--device", "cpu"]
    measure = ["--features", "glyphs-classifier", "--samples", "100"]
    with monkeypatch.context() as cut:
        cut.setattr(runs.results, "record", interrupt)  # after the last checkpoint
        assert main([*command, *measure]) == 130
    assert [p.name for p in (own_folders / "runs").iterdir()] == ["vae-own-s0-smoke"]
    assert main([*command, "--train-only"]) == 0  # needs no features
    files = sorted((own_folders / "runs").glob("*/results.json"))
    assert [results.read(f)["metrics"] for f in files] == [[], []]
    assert main([*command, *measure]) == 0
    shown = capsys.readouterr().out
    assert "| vae |" in shown and "| joint-ebm |" in shown
    assert [results.read(f)["steps"] for f in files] == [20, 20]
    assert all(results.read(f)["samples"] for f in files)
    before = [f.stat().st_mtime_ns for f in files]
    assert main([*command, *measure]) == 0  # nothing is left to do
    assert [f.stat().st_mtime_ns for f in files] == before


def interrupt(*_, **__):
    raise KeyboardInterrupt
