"""Odd machines: no home, odd compilers, other encodings, places that cannot be used, words for
devices that cannot compute. Each works, or ends in one sentence."""

import io
import os
import shutil
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jlebm_core import arguments, cli, data, paths, runs, settings, systems, viz
from jlebm_core.data import files
from jlebm_core.errors import UsageError
from jlebm_core.kernels import native

needs_compiler = pytest.mark.skipif(not native.available(), reason="no C compiler here")


@pytest.fixture
def no_home(tmp_path, monkeypatch):  # the folder of the test is made before its user has none
    """A user without HOME, XDG_CACHE_HOME and passwd entry, outside a clone."""
    for name in ("HOME", "XDG_CACHE_HOME", "JLEBM_CACHE", "JLEBM_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    monkeypatch.setattr(paths, "CLONE", None)


@pytest.fixture
def kernel():
    native.library.cache_clear()
    yield
    native.library.cache_clear()


def refused(capsys, *words) -> str:
    assert cli.main([str(w) for w in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("jlebm: ") and said.count("\n") == 1 and said.endswith(".\n")
    return said


def test_without_a_home_samples_are_drawn_and_named_data_read(
    no_home, kernel, tmp_path, monkeypatch
):
    prior = systems.PRIORS["ebm"](systems.configure("joint-ebm", "glyphs", (3, 32, 32)))
    assert prior.sample(3).shape[0] == 3
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    head = bytes((0, 0, 8, 3)) + b"".join(n.to_bytes(4, "big") for n in (2, 28, 28))
    (raw / "train-images-idx3-ubyte").write_bytes(head + bytes(2 * 28 * 28))
    (raw / "train-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 2, 5, 7)))
    monkeypatch.setenv("JLEBM_DATA", str(tmp_path))
    assert data.load("mnist").labels.tolist() == [5, 7]
    with pytest.raises(UsageError, match="no folder for a download: JLEBM_CACHE"):
        data.load("fashion-mnist")


@pytest.mark.parametrize("words", ["train vae --data mnist", "train vae --data ~/photos"])
def test_without_a_home_what_needs_one_is_one_sentence(words, no_home, capsys):
    assert "no home folder; set HOME" in refused(capsys, *words.split(), "--budget", "smoke")


@pytest.mark.parametrize("words", ["sample ~/run", "export vae-mnist-s0 --out ~/x.safetensors"])
def test_without_a_home_a_tilde_is_one_sentence(words, no_home, capsys):
    assert "no home folder; set HOME" in refused(capsys, *words.split())


def test_decoded_images_are_given_where_none_can_be_kept(no_home, tmp_path, monkeypatch):
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    (tmp_path / "file").write_text("")
    for cache in (None, tmp_path / "file"):
        if cache:
            monkeypatch.setenv("JLEBM_CACHE", str(cache))
        found = files.decoded("x", 2, iter(images), limit=None, title="x")
        assert np.array_equal(found.numpy(), images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("kind", ["missing", "a file", "empty"])
def test_a_data_folder_that_is_none_is_named(kind, tmp_path, monkeypatch, capsys):
    (tmp_path / "a file").write_text("")
    own = "" if kind == "empty" else str(tmp_path / kind)
    monkeypatch.setenv("JLEBM_DATA", own)
    monkeypatch.setenv("JLEBM_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UsageError) as caught:
        data.load("mnist", download=False)
    assert (f"JLEBM_DATA is {own}, which is no folder" in str(caught.value)) == bool(own)


def script(file: Path, *lines: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


OUT = 'while [ $# -gt 1 ]; do [ "$1" = -o ] && out=$2; shift; done; [ -z "$out" ] ||'
ODD = {
    "fails": ["exit 3"],
    "hangs": ["exec sleep 60"],
    "writes nothing": ["exit 0"],
    "writes garbage": [f"{OUT} echo garbage > $out"],
    "writes another library": [
        f"{OUT} echo 'int lanes(void){{return 8;}}' | cc -shared -xc -o $out -"
    ],
    "computes wrong": [
        f"{OUT} echo 'int lanes(void){{return 8;}} int run(void){{return 0;}}'"
        " | cc -shared -fPIC -xc -o $out -"
    ],
}


@needs_compiler
@pytest.mark.parametrize("odd", ODD)
def test_a_compiler_that_makes_no_kernel_is_done_without(odd, kernel, tmp_path, monkeypatch):
    monkeypatch.setattr(native, "ASKING", 0.5 if odd == "hangs" else 60)
    monkeypatch.setattr(native, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setenv("CC", str(script(tmp_path / "cc", *ODD[odd])))
    assert not native.available() and not list(tmp_path.rglob("*.so"))


@pytest.mark.parametrize("named", ["no-such-compiler", "'", "/", "cc 'never closed", "/dev/null"])
def test_a_compiler_that_is_none_is_done_without(named, kernel, monkeypatch):
    monkeypatch.setenv("CC", named)
    assert native.compiler() == [] and not native.available()


@needs_compiler
@pytest.mark.parametrize("named", ["PLACE/my tools/cc", "PLACE/cc -DNOTHING"])
def test_a_compiler_with_arguments_or_spaces_is_used(named, kernel, tmp_path, monkeypatch):
    for folder in ("my tools", "."):
        script(tmp_path / folder / "cc", f'exec {shutil.which("cc")} "$@" -O0')  # quickly
    monkeypatch.setattr(native, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setenv("CC", named.replace("PLACE", str(tmp_path)))
    assert native.available() and len(list(tmp_path.rglob("*.so"))) == 1


@needs_compiler
@pytest.mark.parametrize(("named", "command"), [("", "cc"), ("  cc ", "cc"), ("cc -w", "cc -w")])
def test_the_compiler_is_cc_unless_another_is_named(named, command, monkeypatch):
    monkeypatch.setenv("CC", named)
    assert native.compiler() == command.split()


@needs_compiler
def test_a_cache_that_cannot_be_written_or_is_damaged_keeps_no_kernel_away(
    kernel, tmp_path, monkeypatch
):
    monkeypatch.setenv("CC", str(script(tmp_path / "cc", 'exec cc "$@" -O0')))  # quickly
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(native, "cache_dir", lambda: tmp_path / "file")
    assert native.available() and (tmp_path / "file").read_text() == "mine"
    monkeypatch.setattr(native, "cache_dir", lambda: tmp_path / "cache")
    native.library.cache_clear()
    assert native.available()
    (built,) = tmp_path.rglob("*.so")
    built.unlink()
    built.write_bytes(b"cut off")
    native.library.cache_clear()
    assert native.available() and built.stat().st_size > 1000


@pytest.mark.parametrize(
    ("value", "on"), [("0", 0), ("off", 0), ("No", 0), ("FALSE", 0), ("", 1), ("1", 1), (" on ", 1)]
)
def test_the_kernel_is_switched_by_words(value, on, kernel, monkeypatch):
    monkeypatch.setenv("JLEBM_NATIVE", value)
    asked = []
    monkeypatch.setattr(native, "compiler", lambda: asked.append(1) or [])
    assert native.library() is None and len(asked) == on


def test_a_word_that_is_no_switch_is_one_sentence(kernel, monkeypatch):
    monkeypatch.setenv("JLEBM_NATIVE", "perhaps")
    with pytest.raises(UsageError, match="JLEBM_NATIVE is 'perhaps': set it to 1"):
        native.available()


@pytest.mark.parametrize(
    "name", ["meta", "xla", "mps", "hpu", "cpu:3", "cuda:99", "bogus", "", "cpu:"]
)
def test_devices_that_cannot_compute_are_refused(name, tmp_path, capsys):
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("it can, here")
    out = tmp_path / "x.png"
    said = refused(capsys, "sample", "vae-mnist-s0", "--out", out, "--device", name)
    assert f"no device {name!r}" in said and not out.exists()


def test_the_first_cpu_is_the_cpu():
    for name in ("cpu", "cpu:0"):
        assert arguments.device_of(cli.parser().parse_args(["sample", "x", "--device", name])) == (
            torch.device("cpu")
        )


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("", "--out is '', which names no file"),
        ("  ", "names no file"),
        ("PLACE/new/", "a folder: name the file"),
        ("PLACE/x.pdf", "a picture is a .png, "),
        ("PLACE/x.json", "but --out is PLACE/x.json"),
        ("PLACE/x.safetensors", "a picture is a .png, "),
    ],
)
def test_a_picture_goes_into_a_picture_file(out, says, tmp_path, capsys):
    out = out.replace("PLACE", str(tmp_path))
    said = refused(capsys, "sample", "vae-mnist-s0", "--out", out)
    assert says.replace("PLACE", str(tmp_path)) in said and not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["", "PLACE/x.json", "PLACE/x.png", "PLACE/x", "PLACE/new/"])
def test_an_export_goes_into_a_safetensors_file(out, tmp_path, capsys):
    refused(capsys, "export", "vae-mnist-s0", "--out", out.replace("PLACE", str(tmp_path)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", ["sample", "evaluate", "publish", "train vae --data glyphs --out"]
)
def test_no_name_is_no_place(words, capsys):
    assert "which names no file and no folder" in refused(capsys, *words.split(), "")


def test_no_name_is_no_data_set(capsys):
    assert "no data set is called ''" in refused(capsys, "train", "vae", "--data", "")


@pytest.mark.parametrize("suffix", ["", *settings.PICTURES, ".PNG", ".JPG"])
def test_a_picture_is_of_the_kind_that_its_name_says(suffix):
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    image = Image.open(io.BytesIO(viz.picture(x, 2, suffix=suffix)))
    kinds = {"": "png", "jpg": "jpeg", "tif": "tiff"}
    kind = suffix.lower().removeprefix(".")
    assert image.format == kinds.get(kind, kind).upper()
    png = np.asarray(Image.open(io.BytesIO(viz.png(x, 2))), int)
    error = abs(np.asarray(image, int) - png)
    assert error.max() == 0 if image.format != "JPEG" else error.mean() < 6
    assert set(viz.FORMATS) == {"", *settings.PICTURES}


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.json", "model", "", ".", "~", "../r 1.0 é\n"]
)
def test_every_name_of_a_checkpoint_is_understood(name, tmp_path, monkeypatch):
    run = tmp_path / "r 1.0 é\n"
    run.mkdir()
    for kind in (".json", ".safetensors"):
        shutil.copy(paths.shipped("checkpoints", f"vae-mnist-s0{kind}"), run / f"model{kind}")
    monkeypatch.setenv("HOME", str(run))
    text = "~" if name == "~" else f"{run}/{name}"
    args = cli.parser().parse_args(["sample", text])
    arguments.places(args)
    assert runs.model_stem(args.model).resolve() == run / "model"


def test_shipped_names_have_files_too():
    stem = paths.shipped("checkpoints", "vae-mnist-s0")
    for name in ("vae-mnist-s0", "vae-mnist-s0.json", "vae-mnist-s0.safetensors"):
        assert runs.model_stem(Path(name)) == stem


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_standard_output_may_have_any_encoding(encoding, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    assert cli.main(["table", "--data", "mnist", "--show"]) == 0
    shown = out.buffer.getvalue().decode(encoding)
    assert ("+-" if encoding == "ascii" else "±") in shown
    print("ε \ud800")  # what is in no encoding at all
    out.flush()
    assert r"\ud800" in out.buffer.getvalue().decode(encoding)


def test_names_of_files_stay_in_one_line_in_ascii(tmp_path, monkeypatch):
    err = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", err)
    assert cli.main(["train", "vae", "--data", f"{tmp_path}/é\n\ud800.npz"]) == 2
    err.flush()
    assert rb"\xe9\n\ud800.npz does not exist." in err.buffer.getvalue()
    assert err.buffer.getvalue().count(b"\n") == 1


def test_without_standard_output_the_work_is_done(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)  # as Python does where it was closed
    assert cli.main(["table", "--data", "mnist", "--show"]) == 0
