"""What the words on a command line can tell is told without PyTorch, torchvision or NumPy."""

import json
import subprocess
import sys

import numpy as np
import pytest

from jlebm_core import __version__
from jlebm_core.rows import SYSTEMS

HEAVY = ("torch", "torchvision", "numpy", "safetensors", "matplotlib", "scipy", "tqdm", "PIL")
COMMANDS = (
    *("train", "sample", "evaluate", "table", "experiment", "export", "publish"),
    *("classifier", "features"),
)
HELP = {f"{c} --help".strip(): "usage: jlebm" for c in ("", *COMMANDS)}
FINE = {**HELP, "--version": f"jlebm {__version__}\n"}
WRONG = {
    "": "the following arguments are required",
    "fly": "invalid choice: 'fly'",
    "train vae --data glyphs --wings 2": "unrecognized arguments: --wings 2",
    "train vae --data glyphs --seed -1": "not a whole number from 0 to",
    "train vae --data glyphs --seed one": "not a whole number from 0 to",
    "train vae --data glyphs --save-every 0": "not a positive whole number",
    "train vae --data glyphs --budget large": "invalid choice: 'large'",
    "train vae --data glyphs --precision fp16": "invalid choice: 'fp16'",
    "train gan --data glyphs": "unknown system 'gan'",
    "train gan --data OWN": "unknown system 'gan'",
    "train vae": "give a system and --data",
    "train --data glyphs": "give a system and --data",
    "train vae --data imagenet": "unknown data set 'imagenet'",
    "train vae --data no/such/folder": "no/such/folder does not exist",
    "train vae --data images.npz": "images.npz does not exist",
    "train vae --data FILE": "is neither a folder of images nor an .npz file",
    "train --preset x": "unknown preset 'x'",
    "train vae --preset iccv2023-svhn-hs": "already names a system",
    "train --preset iccv2023-svhn-hs --data mnist": "takes images (3, 32, 32)",
    "train --preset iccv2023-svhn-hs --set colour=1": "unknown settings: colour",
    "train vae --data glyphs --set colour=1 size=2": "unknown settings: colour, size",
    "train vae --data OWN --set colour=1": "unknown settings: colour",
    "train vae --data glyphs --set steps": "--set takes NAME=VALUE, not 'steps'",
    "train vae --data OWN --set steps=-1": "steps must be a whole number, at least 0",
    "train vae --data glyphs --set lr=fast": "lr must be a number, at least 0",
    "train vae --data glyphs --set kl=inexact": "kl must be one of exact, monte-carlo",
    "train vae --data mnist --budget paper": "the paper budget is for svhn",
    "train vae --data OWN --budget paper": "the paper budget is for svhn",
    "sample x --n 0": "not a positive whole number",
    "sample x --steps -1": "not a whole number from 0 on",
    "evaluate x --data imagenet": "unknown data set 'imagenet'",
    "table": "the following arguments are required: --data",
    "table --data imagenet": "unknown data set 'imagenet'",
    "table --data glyphs --systems vae gan": "unknown system 'gan'",
    "table --data glyphs --seeds 0 x": "not a whole number from 0 to",
    "table --data mnist --budget paper": "the paper budget is for svhn",
    "experiment alchemy": "invalid choice: 'alchemy'",
    "classifier --data imagenet": "unknown data set 'imagenet'",
    "features --data imagenet": "unknown data set 'imagenet'",
}
ASK = """
import contextlib, io, json, sys
from jlebm_core import cli
answers = []
for line in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = cli.main(line.split())
        except SystemExit as end:
            code = end.code
    answers.append((code, said.getvalue(), [m for m in sys.argv[1:] if m in sys.modules]))
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """line -> (exit code, what was said, heavy modules that were imported by then)."""
    folder = tmp_path_factory.mktemp("words")
    np.savez(folder / "own.npz", images=np.zeros((10, 28, 28), np.uint8))
    (folder / "notes.txt").write_text("no images")
    lines = [*FINE, *WRONG]
    places = {"OWN": str(folder / "own.npz"), "FILE": str(folder / "notes.txt")}
    typed = [" ".join(places.get(word, word) for word in line.split()) for line in lines]
    command = [sys.executable, "-c", ASK, *HEAVY]
    done = subprocess.run(command, input=json.dumps(typed), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(lines, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("line", FINE)
def test_help_and_version_import_nothing_heavy(line, answers):
    code, said, imported = answers[line]
    assert (code, imported) == (0, [])
    assert FINE[line] in said


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_word_is_refused_before_anything_heavy_is_imported(line, answers):
    code, said, imported = answers[line]
    assert (code, imported) == (2, [])
    assert WRONG[line] in said and "Traceback" not in said


def test_help_names_what_there_is(answers):
    said = " ".join(answers["train --help"][1].split())
    for word in (*SYSTEMS, "svhn-extra", "icml2017-vlae-mnist", "auto", "float32"):
        assert word in said
    assert "frozen-codes" in answers["experiment --help"][1]


@pytest.mark.parametrize("module", ["jlebm_core", "jlebm_core.cli", "jlebm_core.rows"])
def test_an_import_brings_nothing_heavy(module):
    code = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_reading_data_and_drawing_images_leave_torchvision_out():
    """It takes seconds, and neither a checksum nor a mosaic needs any of it."""
    code = (
        "import sys, torch, jlebm_core.runs, jlebm_core.modes; from jlebm_core import viz; "
        "viz.mosaic(torch.zeros(3, 1, 4, 4), 2); print('torchvision' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
