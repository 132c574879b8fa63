"""The command line as a user meets it: what it makes, what it refuses, what it leaves behind."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jlebm_core import checkpoints, cli, paths, results, systems
from jlebm_core.training.trainer import Trainer

QUICK = ["--budget", "smoke", "--quiet", "--set", "steps=3", "batch=8", "prior_steps=2"]


@pytest.fixture
def digits(tmp_path):
    """A data set of the user's own: two kinds of grey 28x28 images."""
    images = np.zeros((40, 28, 28), np.uint8)
    images[::2, 4:24, 12:16] = 255
    images[1::2, 12:16, 4:24] = 255
    np.savez(tmp_path / "bars.npz", images=images)
    return str(tmp_path / "bars.npz")


def train(digits, out, *more):
    return cli.main(["train", "joint-ebm", "--data", digits, "--out", str(out), *QUICK, *more])


def test_train_leaves_a_complete_run(digits, tmp_path, capsys):
    assert train(digits, tmp_path / "run") == 0
    run = tmp_path / "run"
    names = {p.name for p in run.iterdir()}
    assert names == {
        *("model.json", "model.safetensors", "resume.json", "resume.safetensors"),
        *("results.json", "samples-000003.png"),
    }
    result = results.read(run / "results.json")
    assert (result["system"], result["data"], result["steps"]) == ("joint-ebm", "bars", 3)
    assert result["config"]["prior_steps"] == 2 and result["log"]["step"] == [3]
    assert result["parameters"] == systems.load(run / "model").parameter_counts()
    assert set(result["versions"]) >= {"python", "jlebm-core", "torch"}
    assert "36 images" in capsys.readouterr().out  # one of every ten is for testing
    assert Image.open(run / "samples-000003.png").size == (8 * 29 + 1, 8 * 29 + 1)


def test_resume_goes_on_where_it_was(digits, tmp_path):
    run = tmp_path / "run"
    assert train(digits, run) == 0
    weights = (run / "model.safetensors").read_bytes()
    assert train(digits, run) == 2  # without --resume nothing is overwritten
    assert (run / "model.safetensors").read_bytes() == weights
    assert train(digits, run, "--resume") == 0  # already complete
    assert (run / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("name", ["multi-ncp", "rae", "biva"])
def test_rows_with_stages_or_averages_run_resume_and_sample(name, digits, tmp_path):
    """Cut off before its end, a run resumed gives the model of one that was not."""
    models = {}
    for folder in ("whole", "cut"):
        run = tmp_path / folder
        command = ["train", name, "--data", digits, "--out", str(run), *QUICK, "posterior_steps=2"]
        if folder == "cut":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Trainer, "total", 2)
                assert cli.main([*command, "--save-every", "1"]) == 0
            command.append("--resume")
        assert cli.main(command) == 0
        models[folder] = (run / "model.safetensors").read_bytes()
        assert ("fit_log" in results.read(run / "results.json")) == (name == "rae")
    assert models["whole"] == models["cut"]
    assert cli.main(["sample", str(run), "--n", "4", "--out", str(tmp_path / "grid.png")]) == 0


def test_sample_writes_one_grid_and_k_matters(digits, tmp_path):
    train(digits, tmp_path / "run")
    grids = []
    for steps in ("0", "2", "2"):
        out = tmp_path / "grid.png"
        code = cli.main(
            ["sample", str(tmp_path / "run"), "--n", "4", "--steps", steps, "--out", str(out)]
        )
        assert code == 0
        grids.append(Image.open(out).tobytes())
    assert grids[1] == grids[2] != grids[0]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["train", "gan", "--data", "DATA"], "unknown system 'gan'"),
        (["train", "vae", "--data", "imagenet"], "unknown data set 'imagenet'"),
        (["train", "vae"], "give a system and --data"),
        (["train", "vae", "--data", "DATA", "--preset", "x"], "already names a system"),
        (["train", "--preset", "x"], "unknown preset"),
        (["train", "--preset", "iccv2023-svhn-hs", "--data", "DATA"], "takes images (3, 32, 32)"),
        (["train", "joint-ebm", "--data", "DATA", "--set", "dims=(2,2)"], "do not fit"),
        (["train", "joint-ebm", "--data", "DATA", "--set", "dims"], "NAME=VALUE"),
        (["train", "joint-ebm", "--data", "DATA", "--set", "colour=1"], "unknown settings: colour"),
        (["train", "vae", "--data", "DATA", "--set", "norm=false"], "must be True or False"),
        (["train", "joint-ebm", "--data", "DATA", "--device", "abacus"], "no device 'abacus'"),
        (["train", "vae", "--data", "EMPTY"], "no images"),
        (["train", "vae", "--data", "MIXED"], "one size"),
        (["train", "vae", "--data", "BROKEN"], "cannot be read"),
        (["train", "vae", "--data", "LARGE"], "there are nets for images of 28x28 or 32x32"),
        (["sample", "nowhere"], "no trained system at nowhere"),
        (["evaluate", "nowhere"], "no trained system at nowhere"),
        (["publish", "nowhere"], "no results file"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(args, says, digits, tmp_path, capsys):
    out, folders = tmp_path / "run", {}
    for name, sides in {"EMPTY": (), "MIXED": (28, 32), "BROKEN": (28,), "LARGE": (48, 48)}.items():
        (tmp_path / name).mkdir()
        folders[name] = str(tmp_path / name)
        for i, side in enumerate(sides):
            Image.new("L", (side, side)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "BROKEN" / "1.png").write_bytes(b"no picture")
    args = [{"DATA": digits, **folders}.get(a, a) for a in args]
    if args[0] == "train":
        args += ["--out", str(out), "--budget", "smoke"]
    assert cli.main(args) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and "Traceback" not in error
    assert not out.exists() and not (tmp_path / "samples.png").exists()


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--n", "0", "not a positive whole number"),
        ("--steps", "-1", "not a whole number from 0 on"),
        ("--seed", "-1", "not a whole number from 0 to 4294967295"),
        ("--seed", str(2**32), "not a whole number from 0 to 4294967295"),
    ],
)
def test_a_number_that_is_none_is_refused_by_the_grammar(option, value, says, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["sample", "x", option, value])
    assert caught.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "path"),
    [
        (["sample", "vlae-mnist-s0", "--out", "FOLDER"], "folder"),
        (["export", "vlae-mnist-s0", "--out", "FOLDER"], "folder"),
        (["train", "vae", "--data", "DATA", "--budget", "smoke", "--out", "FILE"], "file"),
    ],
)
def test_a_path_that_cannot_be_written_is_one_sentence(args, path, digits, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.iterdir())
    places = {"FOLDER": tmp_path / "folder", "FILE": tmp_path / "file", "DATA": digits}
    assert cli.main([str(places.get(a, a)) for a in args]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"jlebm: {tmp_path / path} cannot be used: ")
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before  # and no part of a file
    assert (tmp_path / "file").read_text() == "mine" and not any((tmp_path / "folder").iterdir())


def test_a_diverging_run_ends_with_exit_code_1(digits, tmp_path, capsys):
    more = ["steps=40", "lr_prior=1e9", "lr_decay=none"]
    assert train(digits, tmp_path / "run", "--set", *QUICK[4:], *more) == 1
    assert "training diverged at step" in capsys.readouterr().err


def test_evaluating_on_other_data_is_refused(digits, tmp_path, capsys):
    train(digits, tmp_path / "run")
    assert cli.main(["evaluate", str(tmp_path / "run"), "--data", "glyphs"]) == 2
    assert "was trained on bars, not on glyphs" in capsys.readouterr().err
    before = (tmp_path / "run" / "results.json").read_bytes()
    assert cli.main(["evaluate", str(tmp_path / "run"), "--data", digits]) == 2
    assert "no classifier for 'bars'" in capsys.readouterr().err
    assert (tmp_path / "run" / "results.json").read_bytes() == before


def test_publish_wants_metrics_and_then_copies(digits, tmp_path, capsys, monkeypatch):
    run, home = tmp_path / "run", tmp_path / "clone"
    monkeypatch.setattr(paths, "CLONE", home)
    train(digits, run)
    assert cli.main(["publish", str(run)]) == 2
    assert "has not been evaluated" in capsys.readouterr().err
    metric = {"name": "mse", "value": 0.5, "split": "test"}
    results.write(
        run / "results.json", results.with_metrics(results.read(run / "results.json"), [metric])
    )
    assert cli.main(["publish", str(run)]) == 0
    name = "joint-ebm-bars-s0-smoke"
    assert checkpoints.exists(home / "data" / "checkpoints" / name)
    assert json.loads((home / "data" / "results" / f"{name}.json").read_text())["metrics"] == [
        metric
    ]


def test_help_of_every_command(capsys):
    for command in ("train", "sample", "evaluate", "publish", "classifier", "features"):
        with pytest.raises(SystemExit) as caught:
            cli.main([command, "--help"])
        assert caught.value.code == 0
        assert "usage: jlebm" in capsys.readouterr().out


def test_a_reader_who_has_enough_is_no_error():
    command = [sys.executable, "-m", "jlebm_core.cli", "experiment", "anomaly", "--show"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (141, b"")
