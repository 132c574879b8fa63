"""A run's folder: what is saved when, what going on keeps, what it refuses, what is promised."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import write_images

from jlebm_core import checkpoints, cli, paths, results, runs, systems
from jlebm_core.data import ImageSet
from jlebm_core.errors import Diverged, Interrupted, UsageError
from jlebm_core.training.trainer import Trainer

CPU = torch.device("cpu")
SHAPE = (1, 28, 28)
SMALL = {"chain_hidden": (20, 20), "prior_hidden": (20, 20)}
METRIC = {"name": "mse", "value": 0.5, "split": "test"}


def image_set(n=12, *, seed=0, shape=SHAPE, split="train"):
    pixels = torch.randint(256, (n, *shape), generator=torch.Generator().manual_seed(seed))
    return ImageSet("own", split, pixels.to(torch.uint8), torch.arange(n) % 3)


def settings(system="vae", *, shape=SHAPE, **changes):
    own = {"steps": 4, "batch": 4, "prior_steps": 2, "posterior_steps": 2, **SMALL, **changes}
    return systems.configure(system, "own", shape, budget="smoke", **own)


def go(folder, config=None, images=None, *, seed=0, **options):
    how = {"budget": "smoke", "device": CPU, "progress": False, "precision": "float32"}
    config, images = config or settings(), images or image_set()
    return runs.train_run(config, images, folder, seed=seed, **{**how, **options})


def stop_at(patch, step):
    """Ctrl-C arrives while a training is about to make its next step after ``step``."""
    advance = Trainer.advance

    def pressed(self):
        if self.step == step:
            raise KeyboardInterrupt
        return advance(self)

    patch.setattr(Trainer, "advance", pressed)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of four steps that was measured."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    go(folder)
    results.merge(folder / "results.json", [METRIC], samples="a picture")
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "run")


# --- saving


@pytest.mark.parametrize(("every", "steps"), [(3, [3, 6, 9, 11]), (5, [5, 10, 11]), (20, [11])])
def test_a_checkpoint_is_left_at_every_nth_step_and_at_the_end(every, steps, tmp_path):
    seen = []
    config = settings(steps=11)
    go(tmp_path, config, save_every=every, log_every=4, on_log=lambda t: seen.append(t.step))
    assert sorted(p.name for p in tmp_path.glob("samples-*")) == [
        f"samples-{s:06}.png" for s in steps
    ]
    assert seen == [4, 8, 11]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("biva", "joint-ebm", "rae")]


@pytest.mark.parametrize("name", ["multi-ncp", "2s-vae", *SLOW])
def test_saving_changes_no_number_and_going_on_none_either(name, tmp_path, monkeypatch):
    """Weights, log and second log are those of a run without checkpoints, bit for bit; so are those
    of one that was cut off between two logs."""
    fit_steps = 0 if name == "rae" else 4
    config = settings(name, steps=7, fit_steps=fit_steps, components=3, ema=0.9, warmup=2)
    whole, saved, cut = (tmp_path / n for n in ("whole", "saved", "cut"))
    go(whole, config, save_every=1000, log_every=5)
    go(saved, config, save_every=2, log_every=5)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, 4)
        go(cut, config, save_every=3, log_every=5)
    go(cut, config, save_every=3, log_every=5, resume=True)
    expected, logs = checkpoints.load(whole / "resume")
    for folder in (saved, cut):
        tensors, meta = checkpoints.load(folder / "resume")
        assert tensors.keys() == expected.keys()
        assert all(tensors[k].equal(v) for k, v in expected.items())
        assert meta["logs"] == logs["logs"]


def test_what_is_no_longer_finite_replaces_no_checkpoint(tmp_path):
    with pytest.raises(Diverged, match="at step 6"):
        go(tmp_path, settings(steps=6, lr=1e30), save_every=1, log_every=6)
    kept, meta = checkpoints.load(tmp_path / "resume")
    assert meta["step"] < 6
    assert all(v.isfinite().all() for v in kept.values() if v.is_floating_point())


# --- going on


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_finished_run_that_is_resumed_stays_as_it_is(precision, run, capsys):
    before = contents(run)
    assert go(run, resume=True, precision=precision)["metrics"] == [METRIC]
    assert contents(run) == before
    assert "nothing is left to train" in capsys.readouterr().out


def test_a_run_cut_off_before_its_record_gets_one(run):
    for name in ("results.json", "model.json", "model.safetensors"):
        (run / name).unlink()
    result = go(run, resume=True, precision="bf16")
    assert result["steps"] == 4 and checkpoints.exists(run / "model")
    assert result["precision"] == "float32"  # no step was made in another


def test_the_record_says_which_steps_were_made_in_which_precision(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, 3)
        go(tmp_path, save_every=2)
    result = go(tmp_path, resume=True, precision="bf16")
    assert result["precision"] == "float32, bf16 from step 2" and result["device"] == "cpu"
    assert (
        results.followed([[0, "a"], [2, "b"], [3, "b"], [4, "a"]])
        == "a, b from step 2, a from step 4"
    )


@pytest.mark.parametrize(
    "other",
    [image_set(12, seed=1), image_set(13), image_set(11), image_set(24)],
    ids=["same number", "one more", "one less", "twice as many"],
)
@pytest.mark.parametrize("system", ["vae", "abp"])
def test_other_images_of_the_same_name_are_refused(system, other, tmp_path):
    go(tmp_path, settings(system))
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=rf"other images called own \(12 then, {len(other)} now\)"):
        go(tmp_path, settings(system), other, resume=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("first", ["cats", "dogs"])
def test_two_folders_of_one_last_name_are_not_taken_for_each_other(first, tmp_path, capsys):
    for i, name in enumerate(("cats", "dogs")):
        pixels = np.full((12, 28, 28), 40 * i, np.uint8)
        write_images(tmp_path / name / "images", pixels)
    command = ["train", "vae", "--budget", "smoke", "--set", "steps=2", "batch=4", "--quiet"]
    command += ["--out", str(tmp_path / "run"), "--data"]
    assert cli.main([*command, str(tmp_path / first / "images")]) == 0
    second = {"cats": "dogs", "dogs": "cats"}[first]
    assert cli.main([*command, str(tmp_path / second / "images"), "--resume"]) == 2
    assert "was trained on other images called images" in capsys.readouterr().err
    assert cli.main([*command, str(tmp_path / first / "images"), "--resume"]) == 0


def test_records_and_checkpoints_say_on_which_images(finished):
    images = checkpoints.fingerprint(image_set().images)
    assert images["count"] == 12 and len(images["sha256"]) == 64
    assert results.read(finished / "results.json")["images"] == images
    assert checkpoints.about(finished / "model")["images"] == images
    assert checkpoints.about(finished / "resume")["images"] == images


def test_a_fingerprint_tells_shapes_and_orders_apart_and_not_layouts():
    images = image_set(6).images
    of = checkpoints.fingerprint
    assert of(images) == of(images.clone()) == of(images.to(memory_format=torch.channels_last))
    assert len({of(x)["sha256"] for x in (images, images.flip(0), images.view(6, 1, 14, 56))}) == 3


def test_a_checkpoint_of_before_without_a_word_on_its_images_goes_on(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, 3)
        go(tmp_path, save_every=2)
    tensors, meta = checkpoints.load(tmp_path / "resume")
    old = {k: v for k, v in meta.items() if k not in ("images", "used", "count")}
    checkpoints.save(tmp_path / "resume", tensors, old)
    capsys.readouterr()
    assert go(tmp_path, resume=True)["steps"] == 4
    assert "does not say which images it was trained on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"steps": 8}, "steps 4 then, 8 now"),  # a longer schedule is another training
        ({"lr": 0.5, "batch": 2}, "batch 4 then, 2 now; lr"),
        ({"system": "rae", "components": 3}, "system 'vae' then, 'rae' now"),
    ],
)
def test_other_settings_are_refused_by_name(changes, says, run):
    before = contents(run)
    with pytest.raises(UsageError, match="other settings or another seed") as caught:
        go(run, settings(**changes), resume=True)
    assert says in str(caught.value) and contents(run) == before
    with pytest.raises(UsageError, match="seed 0 then, 1 now"):
        go(run, seed=1, resume=True)


@pytest.mark.parametrize(
    "left", [["results.json"], ["model.json", "model.safetensors"], ["codes.json"]]
)
def test_results_without_a_checkpoint_are_not_trained_over(left, run):
    (run / "codes.json").write_text("{}")
    for file in run.iterdir():
        if file.name not in left:
            file.unlink()
    before = contents(run)
    with pytest.raises(UsageError, match=f"holds .*{left[0]}.* but no checkpoint to go on from"):
        go(run)
    with pytest.raises(UsageError, match="no checkpoint in .* to go on from"):
        go(run, resume=True)
    assert contents(run) == before


def test_a_place_without_a_run_has_nothing_to_resume_and_gets_no_folder(tmp_path):
    with pytest.raises(UsageError, match="no checkpoint in"):
        go(tmp_path / "new", resume=True)
    assert not (tmp_path / "new").exists()


# --- Ctrl-C


@pytest.mark.parametrize(
    ("at", "every", "says"),
    [
        (1, 5, "has no checkpoint yet, so nothing of this run is kept."),
        (3, 2, "holds the checkpoint of step 2 of 8, and --resume goes on from there."),
        (7, 3, "holds the checkpoint of step 6 of 8, and --resume goes on from there."),
    ],
)
def test_ctrl_c_promises_the_step_that_is_there(at, every, says, tmp_path, monkeypatch, capsys):
    write_images(tmp_path / "own", np.zeros((12, 28, 28), np.uint8))
    command = ["train", "vae", "--data", str(tmp_path / "own"), "--out", str(tmp_path / "run")]
    command += ["--budget", "smoke", "--quiet", "--save-every", str(every)]
    command += ["--set", "steps=8", "batch=4"]
    with monkeypatch.context() as patch:
        stop_at(patch, at)
        assert cli.main(command) == 130
    assert capsys.readouterr().err == f"jlebm: interrupted; {tmp_path / 'run'} {says}\n"
    assert cli.main([*command, "--resume"]) == (2 if "nothing" in says else 0)


def test_ctrl_c_before_the_training_promises_nothing(monkeypatch, capsys):
    def pressed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(systems, "load", pressed)
    assert cli.main(["sample", "vlae-mnist-s0"]) == 130
    assert capsys.readouterr().err == "jlebm: interrupted.\n"


@pytest.mark.parametrize("replaced", [0, 1])
def test_ctrl_c_while_a_checkpoint_is_written_leaves_the_older_one(replaced, tmp_path, monkeypatch):
    old, new = ({"a": torch.full((3,), v)} for v in (1.0, 2.0))
    checkpoints.save(tmp_path / "x", old, {"step": 1})
    whole, files = checkpoints.os.replace, []

    def pressed(*names):
        if len(files) == replaced:
            raise KeyboardInterrupt
        files.append(names)
        whole(*names)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints.os, "replace", pressed)
        checkpoints.save(tmp_path / "x", new, {"step": 2})
    tensors, meta = checkpoints.load(tmp_path / "x")
    assert meta["step"] == 1 and tensors["a"].equal(old["a"])
    assert not list(tmp_path.glob("*.part"))
    checkpoints.save(tmp_path / "x", new, {"step": 2})
    assert checkpoints.load(tmp_path / "x")[0]["a"].equal(new["a"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.json", "x.safetensors"]


# --- measuring and publishing


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run on images of the size of glyphs, measured with two seeds, and its images."""
    shape = (3, 32, 32)
    folder = tmp_path_factory.mktemp("measured") / "run"
    sets = [image_set(80, seed=i, shape=shape, split=s) for i, s in enumerate(("train", "test"))]
    go(folder, settings(shape=shape, steps=1), sets[0])
    for seed in (0, 1):
        how = {"features": "glyphs-classifier", "samples": 70, "seed": seed}
        runs.evaluate_run(folder / "model", *sets, device=CPU, **how)
    return folder, sets


def test_figures_of_another_seed_stand_beside_those_there_are(measured):
    result = results.read(measured[0] / "results.json")
    for name in ("mse", "fid", "kid", "latent_classifier_accuracy", "fid_floor"):
        assert [m.get("seed", 0) for m in result["metrics"] if m["name"] == name] == [0, 1]
    fids = [results.metric(result, "fid", seed=s) for s in (1,)]
    assert results.metric(result, "fid") not in (None, *fids)


@pytest.mark.parametrize("number", [80, 81])
def test_a_run_is_not_measured_against_images_it_was_not_trained_on(number, measured):
    folder, sets = measured
    before = contents(folder)
    other = image_set(number, seed=5, shape=(3, 32, 32))
    with pytest.raises(UsageError, match=rf"other images called own \(80 then, {number} now\)"):
        runs.evaluate_run(folder / "model", other, sets[1], device=CPU)
    assert contents(folder) == before


@pytest.mark.parametrize("text", ["[", '{"metrics": 3}', "{}"])
def test_a_results_file_that_takes_no_figures_is_found_before_they_are_made(
    text, measured, tmp_path
):
    folder = shutil.copytree(measured[0], tmp_path / "run")
    (folder / "results.json").write_text(text)
    with pytest.raises(UsageError, match="results.json is no"):
        runs.evaluate_run(folder / "model", *measured[1], device=CPU, samples=10**9)
    assert (folder / "results.json").read_text() == text


def test_labels_beyond_a_byte_are_kept_as_they_are(measured, tmp_path):
    folder = shutil.copytree(measured[0], tmp_path / "run")
    train_set, test_set = (
        ImageSet(s.name, s.split, s.images, torch.arange(80) % 2 * 300) for s in measured[1]
    )
    how = {"features": "glyphs-classifier", "samples": 70}
    runs.evaluate_run(folder / "model", train_set, test_set, device=CPU, **how)
    assert checkpoints.load(folder / "codes")[0]["labels"].max() == 300


@pytest.fixture
def clone(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CLONE", tmp_path / "clone")
    return tmp_path / "clone" / "data"


def test_a_run_published_again_adds_its_figures(run, clone):
    name = runs.publish(run)
    file = results.shipped_path(name)
    later = {**METRIC, "name": "fid", "value": 9.0}
    result = {**results.read(run / "results.json"), "metrics": [later]}
    results.write(run / "results.json", result)  # as after an evaluation elsewhere
    assert runs.publish(run) == name
    assert results.read(file)["metrics"] == [METRIC, later]


@pytest.mark.parametrize("more", [0.1, 1e6])  # seconds: a run here may take none
def test_another_training_is_not_published_over_a_result(more, run, clone):
    file = results.shipped_path(runs.publish(run))
    before = {p: p.read_bytes() for p in clone.rglob("*") if p.is_file()}
    first = results.read(run / "results.json")
    other = {**first, "seconds": first["seconds"] + more}
    results.write(run / "results.json", other)
    with pytest.raises(UsageError, match=f"{file.name} holds the figures of another training"):
        runs.publish(run)
    assert {p: p.read_bytes() for p in clone.rglob("*") if p.is_file()} == before


def test_a_damaged_model_publishes_nothing(run, clone):
    meta = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps({**meta, "sha256": "0"}))
    with pytest.raises(UsageError, match="does not match"):
        runs.publish(run)
    assert not clone.exists()
