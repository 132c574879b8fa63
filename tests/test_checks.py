"""Whatever can be known at the start is one sentence at the start: no command begins its work."""

from dataclasses import replace

import numpy as np
import pytest
from test_locks import another
from test_runs import CPU, SMALL, go, image_set, settings

from jlebm_core import checkpoints, cli, data, paths, results, runs, systems, table
from jlebm_core.configs import Config
from jlebm_core.errors import UsageError
from jlebm_core.evaluate import classifier, features
from jlebm_core.experiments import run as machine
from jlebm_core.experiments.trial import Experiment, Trial
from jlebm_core.training.trainer import Trainer


def worked(*_, **__):
    pytest.fail("the work had begun")


@pytest.fixture
def idle(monkeypatch):
    """Training, drawing, encoding, fitting and the reading of whole sets fail the test."""
    load = data.load

    def one(name, split="train", **options):
        return load(name, split, **options) if options.get("limit") == 1 else worked()

    monkeypatch.setattr(Trainer, "advance", worked)
    monkeypatch.setattr(systems.System, "sample", worked)
    monkeypatch.setattr(systems.System, "encode", worked)
    monkeypatch.setattr(classifier, "fit_classifier", worked)
    monkeypatch.setattr(data, "load", one)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A file, a folder and a run in the way; runs and shipped files of the test's own."""
    (tmp_path / "file").write_text("mine")
    for name in ("folder", "run/results.json", "run2/model.safetensors"):
        (tmp_path / name).mkdir(parents=True)
    np.savez(tmp_path / "own.npz", images=np.zeros((30, 28, 28), np.uint8))
    monkeypatch.setattr(paths, "runs_dir", lambda: tmp_path / "runs")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("train vae --data glyphs --out PLACE/file", "PLACE/file cannot be used"),
        ("train vae --data glyphs --out PLACE/file/run", "PLACE/file cannot be used"),
        ("train vae --data glyphs --out /proc/run", "/proc cannot be used"),
        ("train vae --data glyphs --out PLACE/run", "PLACE/run/results.json cannot be used"),
        ("train vae --data glyphs --out PLACE/run2", "run2/model.safetensors cannot be used"),
        ("train vae --data glyphs --out PLACE/no --resume", "no checkpoint in PLACE/no"),
        ("train vae --data glyphs --device abacus", "no device 'abacus'"),
        ("sample vlae-mnist-s0 --out PLACE/folder", "PLACE/folder cannot be used"),
        ("sample vlae-mnist-s0 --out PLACE/file/x.png", "PLACE/file cannot be used"),
        ("export vlae-mnist-s0 --out PLACE/file/x.safetensors", "PLACE/file cannot be used"),
        ("export vlae-mnist-s0 --out PLACE/x.png", "an export is a .safetensors file"),
        ("evaluate joint-ebm-glyphs-s0 --features nothing", "unknown features 'nothing'"),
        ("evaluate joint-ebm-glyphs-s0 --features own-classifier", "no classifier for 'own'"),
        ("evaluate joint-ebm-glyphs-s0 --weights PLACE/no", "PLACE/no cannot be used"),
        ("evaluate joint-ebm-glyphs-s0 --weights PLACE/folder", "PLACE/folder cannot be used"),
        ("evaluate joint-ebm-glyphs-s0 --data PLACE/own.npz", "trained on glyphs, not on"),
        ("table --data PLACE/own.npz --budget smoke", "no classifier for 'own'"),
        ("table --data glyphs --budget smoke --features nothing", "unknown features 'nothing'"),
        ("table --data glyphs --budget smoke --weights PLACE/no", "PLACE/no cannot be used"),
        ("table --data glyphs --budget smoke --device abacus", "no device 'abacus'"),
        ("experiment anomaly --trials none", "anomaly has no trial none"),
        ("experiment anomaly --trials none --show", "anomaly has no trial none"),
        ("classifier --data glyphs", "there is a classifier of glyphs"),
        ("features --data svhn", "no classifier for 'svhn'"),
        ("features --data PLACE/own.npz", "no classifier for 'own'"),
    ],
)
def test_a_command_says_so_before_its_work(words, says, idle, places, capsys):
    before = sorted(places.rglob("*"))
    assert cli.main(words.replace("PLACE", str(places)).split()) == 2
    error = capsys.readouterr().err
    assert says.replace("PLACE", str(places)) in error and error.count("\n") == 1
    assert sorted(places.rglob("*")) == before


def test_a_run_on_own_images_wants_them_for_its_measurement(tmp_path, capsys):
    systems.build(settings()).save(tmp_path / "model")
    assert cli.main(["evaluate", str(tmp_path)]) == 2
    assert "was trained on images of your own, own: give their --data" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["classifier", "features"])
def test_a_shipped_place_that_is_taken_is_found_first(command, idle, tmp_path, monkeypatch, capsys):
    stem = tmp_path / "x"
    stem.with_name("x.json").mkdir()
    kind = {"classifier": classifier, "features": features}[command]
    monkeypatch.setattr(
        kind, {"classifier": "stem", "features": "reference_stem"}[command], lambda _: stem
    )
    assert cli.main([command, "--data", "glyphs"]) == 2
    assert f"{tmp_path / 'x.json'} cannot be used" in capsys.readouterr().err


def test_a_mixture_of_more_parts_than_images_is_not_trained_first(idle, tmp_path):
    with pytest.raises(UsageError, match="mixture of 10 components cannot be fitted to 9 images"):
        go(tmp_path / "run", settings("rae"), image_set(9))
    assert not (tmp_path / "run").exists()


# --- tables

SETS = [image_set(80, seed=i, split=s) for i, s in enumerate(data.SPLITS)]
MEASURE = {"features": "mnist-classifier", "samples": 70}


def jobs(rows=("vae", "vlae"), seeds=(0,)):
    return table.jobs("own", (1, 28, 28), "smoke", rows=rows, seeds=seeds)


def fill(todo, **options):
    how = {"budget": "smoke", "device": CPU, "progress": False, **options}
    return table.run(todo, *SETS, **how)


@pytest.fixture
def last(places):
    """The folder of the last row's run."""
    return places / "runs" / "vlae-own-s0-smoke"


def test_a_row_with_other_settings_stops_a_table_at_its_start(idle, last):
    old = replace(jobs()[1].config, lr=0.5)
    checkpoints.save(last / "resume", {}, {"config": old.to_json(), "seed": 0})
    todo = jobs()
    assert [job.state for job in todo] == ["missing", "other settings"]
    with pytest.raises(UsageError, match="vlae-own-s0-smoke holds a run with other settings"):
        fill(todo, **MEASURE)


@pytest.mark.parametrize("state", ["cut off", "to be evaluated"])
def test_a_row_of_other_images_stops_a_table_at_its_start(state, idle, last):
    about = {"config": jobs()[1].config.to_json(), "seed": 0}
    about["images"] = checkpoints.fingerprint(SETS[1].images)
    checkpoints.save(last / {"cut off": "resume"}.get(state, "model"), {}, about)
    if state != "cut off":
        results.write(last / "results.json", {**about, "metrics": []})
    todo = jobs()
    assert todo[1].state == state
    with pytest.raises(UsageError, match="other images called own"):
        fill(todo, **MEASURE)


def test_a_row_that_lost_its_model_stops_a_table_at_its_start(idle, last):
    about = {"config": jobs()[1].config.to_json(), "seed": 0, "metrics": []}
    results.write(last / "results.json", about)
    with pytest.raises(UsageError, match=r"no checkpoint at .*vlae-own-s0-smoke"):
        fill(jobs(), **MEASURE)


@pytest.mark.parametrize(
    ("measure", "says"),
    [
        ({"samples": 60}, "FID on mnist-classifier features needs more than 64 images"),
        ({"features": "glyphs-classifier"}, r"\(3, 32, 32\)"),
        ({"features": "own-classifier"}, "no classifier for 'own'"),
        ({"features": "inception-v3-compat", "weights": __file__}, "cannot be read from"),
    ],
)
def test_figures_that_cannot_be_taken_stop_a_table_at_its_start(measure, says, idle, places):
    with pytest.raises(UsageError, match=says):
        fill(jobs(), **{**MEASURE, **measure})


@pytest.mark.parametrize("part", [0, 1])
def test_labels_below_zero_stop_a_table_and_a_measurement_at_their_start(part, idle, places):
    sets = [replace(s, labels=s.labels - int(i == part)) for i, s in enumerate(SETS)]
    with pytest.raises(UsageError, match="labels count from 0, and own .* has -1"):
        table.run(jobs(), *sets, budget="smoke", device=CPU, progress=False, **MEASURE)
    systems.build(settings()).save(places / "model")
    with pytest.raises(UsageError, match="labels count from 0"):
        runs.evaluate_run(places / "model", *sets, device=CPU, **MEASURE)


def test_a_place_that_is_taken_stops_a_table_at_its_start(idle, last):
    last.parent.mkdir()
    last.write_text("mine")
    with pytest.raises(OSError, match="directory") as caught:
        fill(jobs(), **MEASURE)
    assert caught.value.filename == str(last)


def test_a_row_or_seed_that_is_named_twice_is_one(places):
    assert [(j.config.system, j.seed) for j in jobs(("vae", "vae"), (1, 0, 1))] == [
        ("vae", 1),
        ("vae", 0),
    ]


def test_two_tables_share_the_work(last):
    """What another process is at work on is left to it, and said; what it has done meanwhile is not
    done again."""
    last.mkdir(parents=True)
    todo = jobs()
    with another(last / ".lock"):
        (sentence,) = fill(todo, train_only=True)
    assert sentence.startswith("vlae-own-s0-smoke: another process is at work in")
    assert [job.state for job in jobs()] == ["to be evaluated", "missing"]
    file = last.with_name("vae-own-s0-smoke") / "results.json"
    results.merge(file, [{"name": "mse", "value": 1.0}])  # as the other table does
    before = file.read_bytes()
    assert fill(todo, train_only=True) == [] and file.read_bytes() == before
    assert [job.state for job in jobs()] == ["done", "to be evaluated"]


# --- experiments


@pytest.fixture
def toy(places, monkeypatch):
    """An experiment of two trials, and a function that replaces a part of it."""
    config = systems.configure("vae", "own", (1, 28, 28), budget="smoke", steps=2, batch=4, **SMALL)
    found = [Trial(name, config, 0, {}) for name in ("a", "b")]
    parts = {"images": lambda _: SETS[0], "measure": lambda *_: [{"name": "one", "value": 1.0}]}
    kinds = {}

    def define(trials=found, **changes):
        kinds["toy"] = Experiment("a toy", lambda: trials, **{**parts, **changes})

    define()
    monkeypatch.setattr(machine, "experiment", lambda name: kinds[name])
    monkeypatch.setattr(machine, "published", lambda name: [])
    return define


def experiment(**options):
    return machine.run("toy", device=CPU, progress=False, **options)


def missing(trial):
    raise UsageError("mnist is not at hand.")


@pytest.mark.parametrize("part", ["images", "ready"])
def test_what_a_later_trial_reads_is_asked_for_at_the_start(part, toy, idle, places):
    whole = {"images": SETS[0], "ready": None}[part]
    toy(**{part: lambda t: whole if t.name == "a" else missing(t)})
    with pytest.raises(UsageError, match="not at hand"):
        experiment()
    assert not (places / "runs").exists()


def test_a_trial_with_other_settings_stops_an_experiment_at_its_start(toy, idle, places):
    folder = places / "runs" / "experiments" / "toy" / "b"
    old = settings(lr=0.5).to_json()
    results.write(folder / "results.json", {"config": old, "seed": 0, "trial": "b", "metrics": [1]})
    with pytest.raises(UsageError, match="b holds a run with other settings"):
        experiment()


def test_an_experiment_leaves_to_another_process_what_that_is_at_work_on(toy, places):
    folder = places / "runs" / "experiments" / "toy" / "b"
    folder.mkdir(parents=True)
    with another(folder / ".lock"):
        (sentence,) = experiment()
    assert sentence.startswith("b: another process is at work in")
    assert experiment() == [] and results.read(folder / "results.json")["metrics"]


def test_a_measured_result_comes_before_one_that_is_not(toy, places, monkeypatch):
    """A trial trained here and measured elsewhere keeps the published figures."""
    experiment(train_only=True)
    own = results.read(places / "runs" / "experiments" / "toy" / "a" / "results.json")
    trial = Trial("a", Config.from_json(own["config"]), 0, {})
    assert machine.result_of("toy", trial)["metrics"] == []
    other = {**own, "metrics": [{"name": "one", "value": 1.0}]}
    monkeypatch.setattr(machine, "published", lambda name: [other])
    assert machine.result_of("toy", trial)["metrics"] == other["metrics"]
