"""The frame of the experiments: trials run once, are resumed, measured, published and shown."""

import functools
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from jlebm_core import checkpoints, paths, results, runs, systems
from jlebm_core.cli import main
from jlebm_core.configs import Config
from jlebm_core.data import ImageSet
from jlebm_core.errors import UsageError
from jlebm_core.experiments import EXPERIMENTS, experiment, run, trial
from jlebm_core.experiments.trial import Experiment, Trial

CPU = torch.device("cpu")
SMALL = {"levels": ("map C 32 32 tanh",), "ladders": ("fc 8",)}  # nets: hundreds of steps a second
GLYPHS = systems.configure("vae", "glyphs", (3, 32, 32), budget="smoke", steps=2, batch=4, **SMALL)
PIXELS = torch.randint(256, (8, 3, 32, 32), generator=torch.Generator().manual_seed(0))
IMAGES = ImageSet("glyphs", "train", PIXELS.to(torch.uint8))
MANY = replace(IMAGES, images=IMAGES.images.repeat(25, 1, 1, 1))  # epochs of 50 steps


def trials(*names, **changes):
    """Trials of one configuration; the seed is that at the end of the name, or 0."""
    config = replace(GLYPHS, **changes)
    seeds = [int(n[-1]) if n[-1].isdigit() else 0 for n in names]
    return [Trial(n, config, s, {"kind": n[0]}) for n, s in zip(names, seeds, strict=True)]


def figure(system, trial):
    """One figure: the number of the trial's name."""
    return [{"name": "size", "value": float(len(trial.name)), "of": "name"}]


@pytest.fixture
def define(monkeypatch, tmp_path):
    """A function that makes ``toy`` an experiment with runs and shipped files of the test's own."""
    monkeypatch.setattr(paths, "runs_dir", lambda: tmp_path / "runs")
    monkeypatch.setattr(paths, "shipped", lambda *parts: (tmp_path / "data").joinpath(*parts))

    def defined(found, *, images=IMAGES, measure=figure, last=1, **more):
        toy = Experiment("a toy", lambda: found, lambda _: images, measure, last, **more)
        monkeypatch.setitem(EXPERIMENTS, "toy", "toy:TOY")
        monkeypatch.setitem(sys.modules, "jlebm_core.experiments.toy", SimpleNamespace(TOY=toy))

    return defined


def go(**options):
    return run.run("toy", device=CPU, progress=False, **options)


def forget(name):
    """Remove the run of a trial."""
    for file in left(name).parent.iterdir():
        file.unlink()


def interrupt(*_, **__):
    raise KeyboardInterrupt


def left(name):
    """The results file of a trial."""
    found = (t for t in experiment("toy").trials() if t.name == name)
    return run.folder_of("toy", next(found)) / "results.json"


def test_an_unknown_experiment_is_named_with_those_there_are():
    with pytest.raises(UsageError, match="unknown experiment 'nothing': .*langevin-steps"):
        experiment("nothing")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_trials_of_their_own_names(name):
    chosen = experiment(name)
    found = chosen.trials()
    assert len({t.name for t in found}) == len(found) and chosen.title
    assert len({(t.config, t.seed, str(t.about)) for t in found}) == len(found)
    for t in found:
        taken = {"name", "value", "std", "step", "system", "seed", "config", "metrics"}
        assert not taken & set(t.about) and t.about.get("data", t.config.data) == t.config.data
        assert all(part not in t.name for part in "/. ") and systems.row(t.config.system)


def test_a_run_trains_measures_and_is_not_repeated(define, capsys):
    define(trials("a0", "bb1"))
    assert go() == []
    for name, seed in (("a0", 0), ("bb1", 1)):
        result = results.read(left(name))
        assert (result["experiment"], result["trial"], result["kind"]) == ("toy", name, name[0])
        assert (result["seed"], result["steps"], result["system"]) == (seed, 2, "vae")
        assert result["metrics"] == [
            {"name": "size", "value": len(name), "of": "name", "kind": name[0]}
        ]
    before = left("a0").stat().st_mtime_ns
    assert go() == [] and left("a0").stat().st_mtime_ns == before


def test_a_training_begins_with_the_system_that_is_given(define):
    still = replace(GLYPHS, lr=0.0)
    given = systems.build(still, seed=7)
    define([Trial("a0", still, 0, {"kind": "a"})], start=lambda t: {"a0": given}[t.name])
    weights = {k: v.clone() for k, v in given.named_parameters()}
    go()
    found = dict(systems.load(left("a0").with_name("model")).named_parameters())
    half = {"rtol": 2**-10, "atol": 1e-7}  # in which weights are kept
    assert all(torch.allclose(found[k], v, **half) for k, v in weights.items())


def test_a_training_alone_is_measured_by_a_later_call(define):
    define(trials("a0"))
    assert go(train_only=True) == [] and results.read(left("a0"))["metrics"] == []
    trained = left("a0").with_name("model.safetensors").stat().st_mtime_ns
    assert go() == [] and len(results.read(left("a0"))["metrics"]) == 1
    assert left("a0").with_name("model.safetensors").stat().st_mtime_ns == trained


def test_one_that_diverges_leaves_the_others(define):
    bad = Trial("bad", replace(GLYPHS, lr=1e30), 0, {"kind": "b"})
    define([bad, *trials("a0")])
    (sentence,) = go()
    assert sentence.startswith("bad: training diverged at step 2")
    assert results.read(left("a0"))["metrics"]
    (how,) = results.read(left("bad"))["metrics"]
    assert (how["name"], how["value"], how["kind"]) == ("diverged_at_step", 2, "b")
    assert f"step 2: {how['quantity']} = " in sentence
    assert go() == []  # it is not trained again
    assert run.publish("toy") == ["bad", "a0"]
    assert run.values(run.published("toy"), "diverged_at_step") == [2]


def test_what_was_cut_off_goes_on(define, monkeypatch):
    define(trials("a0"))
    go()
    whole = checkpoints.load(left("a0").with_name("model"))[0]
    forget("a0")
    with monkeypatch.context() as cut:
        cut.setattr(runs.results, "record", interrupt)  # after the last checkpoint
        with pytest.raises(KeyboardInterrupt):
            go()
    assert not left("a0").exists()
    assert go() == [] and results.read(left("a0"))["steps"] == 2
    again = checkpoints.load(left("a0").with_name("model"))[0]
    assert all(torch.equal(again[k], v) for k, v in whole.items())


def test_what_was_trained_but_not_measured_is_measured(define):
    define(trials("a0"), measure=interrupt)
    with pytest.raises(KeyboardInterrupt):
        go()
    assert results.read(left("a0"))["metrics"] == []
    trained = left("a0").with_name("model.safetensors").stat().st_mtime_ns
    define(trials("a0"))
    assert go() == [] and len(results.read(left("a0"))["metrics"]) == 1
    assert left("a0").with_name("model.safetensors").stat().st_mtime_ns == trained


def test_a_result_with_other_settings_counts_as_missing(define):
    define(trials("a0"))
    go()
    (same,), (longer,), (other,) = trials("a0"), trials("a0", steps=3), trials("a1")
    assert run.result_of("toy", same)["steps"] == 2
    assert run.result_of("toy", longer) is None and run.result_of("toy", other) is None
    define([longer])
    assert run.text("toy").count("\n") == 1  # nothing but the header
    with pytest.raises(UsageError, match="other settings"):  # nor is its checkpoint gone on with
        go()


def weight(system, trial):
    """A figure that every step changes."""
    assert not system.training
    return [{"name": "weight", "value": next(system.parameters()).double().sum().item()}]


def test_the_last_epochs_are_measured_at_the_first_logged_step_after_each(define):
    """Of 130 steps every 50th and the last are logged; epochs end at 30, 80 and 130."""
    define(trials("a0", steps=130), images=MANY, measure=weight, last=3)
    assert go() == []
    found = results.read(left("a0"))["metrics"]
    assert [m["step"] for m in found] == [50, 100, 130]
    assert len({m["value"] for m in found}) == 3
    assert found[0] == {"name": "weight", "value": found[0]["value"], "kind": "a", "step": 50}
    final = checkpoints.load(left("a0").with_name("resume"))[0]
    system = systems.build(trials("a0", steps=130)[0].config)
    system.load_state_dict({k[7:]: v for k, v in final.items() if k.startswith("system.")})
    assert weight(system.eval(), None)[0]["value"] == found[-1]["value"]


def test_what_is_dear_is_measured_at_the_last_epoch_alone(define):
    define(trials("a0", steps=100), images=MANY, measure=weight, last=2, at_end=figure)
    assert go() == []
    found = [(m["name"], m["step"]) for m in results.read(left("a0"))["metrics"]]
    assert found == [("weight", 50), ("weight", 100), ("size", 100)]


def test_what_was_measured_on_the_way_survives_a_cut(define, monkeypatch):
    """A run that is cut off at its third measurement goes on from the checkpoint at 100 steps and
    measures that one alone; cut off before any checkpoint, it starts anew."""
    until_cut = []

    def measure(system, trial):
        if until_cut and until_cut.pop() == "cut":
            raise KeyboardInterrupt
        return weight(system, trial)

    monkeypatch.setattr(runs, "train_run", functools.partial(runs.train_run, save_every=100))
    define(trials("a0", steps=150), images=MANY, measure=measure, last=3)
    go()
    whole = results.read(left("a0"))["metrics"]
    assert [m["step"] for m in whole] == [50, 100, 150]
    forget("a0")
    for until_cut[:] in (["cut", "ok"], ["cut", "ok", "ok"]):
        with pytest.raises(KeyboardInterrupt):
            go()
    until_cut[:] = ["not reached", "ok"]
    assert go() == [] and until_cut == ["not reached"]
    assert results.read(left("a0"))["metrics"] == whole


def test_a_cut_between_the_training_and_its_record_loses_nothing(define, monkeypatch):
    define(trials("a0", steps=100), images=MANY, last=2)
    with monkeypatch.context() as cut:
        cut.setattr(run.results, "with_metrics", interrupt)
        with pytest.raises(KeyboardInterrupt):
            go()
    assert results.read(left("a0"))["metrics"] == []
    assert go() == []
    assert [m["step"] for m in results.read(left("a0"))["metrics"]] == [50, 100]


def test_publish_ships_slim_results_and_chosen_weights(define, tmp_path):
    chosen, kept = trials("a0", "bb1")
    define([chosen._replace(ship=True), kept])
    go()
    assert run.publish("toy") == ["a0", "bb1"]
    found = run.published("toy")
    assert [r["trial"] for r in found] == ["a0", "bb1"]
    own = results.read(left("a0"))
    assert {"log"} <= set(own) and set(own) - set(found[0]) <= {"log", "fit_log", "samples"}
    assert found[0]["config"] == own["config"] and found[0]["metrics"] == own["metrics"]
    weights = sorted(p.name for p in (tmp_path / "data/checkpoints/experiments").iterdir())
    assert weights == ["toy-a0.json", "toy-a0.safetensors"]
    assert run.weights("toy", "a0").config == GLYPHS
    with pytest.raises(UsageError):
        run.weights("toy", "bb1")


def test_a_row_of_the_table_with_the_same_settings_and_seed_is_not_trained_again(
    define, monkeypatch
):
    row = runs.folder_of(GLYPHS, 0, "cpu")
    runs.train_run(GLYPHS, IMAGES, row, seed=0, budget="cpu", device=CPU, progress=False)
    monkeypatch.setattr(runs, "train_run", interrupt)
    define(trials("a0", "b1"))
    with pytest.raises(KeyboardInterrupt):  # seed 1 is no row
        go()
    define(trials("a0"))
    assert go() == []
    found = results.read(left("a0"))
    assert (found["trial"], found["kind"], found["steps"]) == ("a0", "a", 2)
    assert [m["name"] for m in found["metrics"]] == ["size"]
    tensors, _ = checkpoints.load(left("a0").with_name("model"))
    expected, _ = checkpoints.load(row / "model")
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[k], expected[k]) for k in tensors)
    define(trials("a0", steps=3))  # nor are other settings
    assert not run.adopt("toy", trials("a0", steps=3)[0])


def test_publish_keeps_what_is_derived_from_the_weights(define):
    def sizes(system, trial):
        counts = system.parameter_counts()
        return {trial.name: torch.tensor([counts[k] for k in sorted(counts)])}

    chosen, kept = trials("a0", "b1")
    define([chosen._replace(derive=True), kept], derived=sizes)
    go()
    run.publish("toy")
    counts = systems.build(GLYPHS).parameter_counts()
    assert run.derived("toy", "a0")["a0"].tolist() == [counts[k] for k in sorted(counts)]
    with pytest.raises(UsageError, match="no checkpoint"):
        run.derived("toy", "b1")
    forget("a0")  # then what is there stays
    run.publish("toy")
    assert run.derived("toy", "a0")["a0"].tolist() == [counts[k] for k in sorted(counts)]
    with pytest.raises(UsageError, match="no checkpoint"):  # no weights were asked for
        run.weights("toy", "a0")


def test_what_is_published_need_not_be_run_again(define):
    define(trials("a0"))
    go()
    run.publish("toy")
    forget("a0")
    assert go() == [] and not left("a0").exists()
    assert run.publish("toy") == ["a0"] and len(run.published("toy")) == 1


def test_publish_takes_what_is_measured_and_refuses_nothing_or_no_clone(define, monkeypatch):
    define(trials("a0", "a1"))
    with pytest.raises(UsageError, match="nothing of toy has been measured: run it first"):
        run.publish("toy")
    assert not run.published_path("toy").exists() and run.published("toy") == []
    run.run("toy", device=CPU, progress=False, only=["a1"])
    assert left("a1").exists() and not left("a0").exists()
    assert run.publish("toy") == ["a1"] and [r["trial"] for r in run.published("toy")] == ["a1"]
    with pytest.raises(UsageError, match="toy has no trial a2: it has a0, a1"):
        run.run("toy", device=CPU, progress=False, only=["a1", "a2"])
    monkeypatch.setattr(paths, "CLONE", None)
    with pytest.raises(UsageError, match="clone"):
        run.publish("toy")


def test_text_is_a_table_of_means_over_seeds_and_epochs(define):
    def measure(system, trial):
        spread = {"std": 0.1 * trial.seed}  # of this figure alone: no part of its protocol
        value = 0.5 + trial.seed
        return [{"name": "auprc", "value": value, **spread, "held_out": 1, "score": "f"}]

    define([*trials("a0", "a1", "a2"), *trials("b3")], measure=measure)
    go()
    assert run.text("toy").splitlines() == [
        "| system | figure | of | mean | deviation | number |",
        "| --- | --- | --- | --- | --- | --- |",
        "| vae | auprc | held_out 1, score f, kind a | 1.5000 | 1.0000 | 3 |",
        "| vae | auprc | held_out 1, score f, kind b | 3.5000 |  | 1 |",
    ]


def test_values_are_those_of_a_name_and_protocol():
    found = [
        {"metrics": [{"name": "fid", "value": 1.0, "k": 0}, {"name": "fid", "value": 2.0, "k": 9}]},
        {"metrics": [{"name": "fid", "value": 3.0, "k": 9}, {"name": "kid", "value": 4.0, "k": 9}]},
    ]
    assert run.values(found, "fid", k=9) == [2.0, 3.0] and run.values(found, "fid") == [1, 2, 3]
    assert run.values(found, "fid", k=1) == [] and run.values(found, "kid", k=9) == [4.0]
    assert run.mean_and_deviation([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert run.mean_and_deviation([4.0]) == (4.0, None)


def test_labelled_keeps_the_images_of_those_labels_in_order():
    images = ImageSet("glyphs", "train", IMAGES.images, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]))
    kept = trial.labelled(images, (2, 0))
    assert kept.labels.tolist() == [0, 2, 0, 2, 0]
    assert torch.equal(kept.images, IMAGES.images[[0, 2, 3, 5, 6]])


def test_the_command_runs_shows_and_publishes(define, capsys):
    define(trials("a0", "bb1"))
    command = ["experiment", "toy", "--device", "cpu", "--quiet"]
    assert main([*command, "--show"]) == 0  # nothing yet
    assert capsys.readouterr().out.count("\n") == 2
    assert main([*command, "--publish"]) == 2 and "has been measured" in capsys.readouterr().err
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert shown.endswith(f"{run.text('toy')}\n") and "| vae | size | of name, kind b |" in shown
    assert main([*command, "--publish"]) == 0
    assert capsys.readouterr().out.startswith("published a0, bb1\n| system |")
    assert len(run.published("toy")) == 2


def test_the_command_says_what_diverged(define, capsys):
    define([Trial("bad", replace(GLYPHS, lr=1e30), 0, {"kind": "b"}), *trials("a0")])
    assert main(["experiment", "toy", "--device", "cpu", "--quiet"]) == 1
    shown = capsys.readouterr()
    assert "bad: training diverged at step 2" in shown.err and "kind a" in shown.out


@pytest.mark.parametrize("arguments", [["nothing"], ["toy", "--trials"], []])
def test_wrong_use_is_refused(define, arguments, capsys):
    define(trials("a0"))
    with pytest.raises(SystemExit) as stopped:
        main(["experiment", *arguments])
    assert stopped.value.code == 2 and "usage" in capsys.readouterr().err


FILES = sorted(paths.shipped("results", "experiments").glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_shipped_figures_are_those_of_the_present_trials(file):
    """A figure whose trial has other settings by now is stale: run and publish it again."""
    assert file.stem in EXPERIMENTS
    present = {t.name: t for t in experiment(file.stem).trials()}
    found = results.read(file)
    names = [r["trial"] for r in found]
    assert names and names == [name for name in present if name in names]
    for r in found:
        t = present[r["trial"]]
        assert Config.from_json(r["config"]) == t.config
        assert r["seed"] == t.seed and r["metrics"] and not set(r) & set(run.SLIM)
        assert all(m[k] == v for m in r["metrics"] for k, v in t.about.items())


def test_shipped_weights_are_those_that_trials_ship():
    measured = {(file.stem, r["trial"]) for file in FILES for r in results.read(file)}
    trials = {(name, t.name): t for name in EXPERIMENTS for t in experiment(name).trials()}
    shipped = {run.weights_stem(*key): trials[key] for key in measured if trials[key].ship}
    derived = {run.derived_stem(*key) for key in measured if trials[key].derive}
    found = {p.with_suffix("") for p in paths.shipped("checkpoints", "experiments").glob("*.json")}
    assert found == set(shipped) | derived
    for stem, t in shipped.items():
        assert systems.load(stem).config == t.config
