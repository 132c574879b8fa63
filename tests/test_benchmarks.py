"""`make bench`: that it runs, what it writes, what its floor counts. No test looks at a time."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from jlebm_core import systems

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def records(tmp_path, *options: str) -> list[dict]:
    """What a quick run writes, after its record of the machine; each is flat and in order."""
    out = tmp_path / "results.json"
    command = [sys.executable, FOLDER / "run.py", "--devices", "cpu", "--quick", "--out", out]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    machine, *found = json.loads(out.read_text())
    assert machine["what"] == "machine"
    assert torch.__version__.startswith(machine["versions"]["torch"])
    for r in found:
        assert 0 < r["ms_min"] <= r["ms_median"] <= r["ms_max"] and r["threads"] == 1
        assert not any(isinstance(value, dict | list) for k, value in r.items() if k != "hidden")
    return found


def test_a_quick_run_of_one_kind_writes_flat_records(tmp_path):
    found = records(tmp_path, "--only", "matrix-product")
    assert {r["what"] for r in found} == {"matrix-product"}
    assert [r["precision"] for r in found if r["who"] == found[0]["who"]] == ["bf16", "float32"]


@pytest.mark.slow
def test_a_quick_run_measures_every_kind(tmp_path):
    found = records(tmp_path)
    kinds = {"chain-forms", "system-step", "mnist-training", "fid-images", "lebm-step"}
    assert {r["what"] for r in found} == kinds | {
        "matrix-product", "prior-chain", "training-step",
    }  # fmt: skip
    chains = {r["who"] for r in found if r["what"] == "prior-chain"}
    assert chains >= {"ours", "published", "floor"}  # and the peers that are installed
    steps = [(r["who"], r["precision"]) for r in found if r["what"] == "training-step"]
    assert steps == [
        ("ours", "bf16"), ("ours", "float32"), ("published", "float32"), ("floor", "bf16"),
    ]  # fmt: skip


def test_what_is_measured_again_takes_the_place_of_its_records(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    merged = importlib.import_module("run").merged
    here = {"what": "machine", "device": "cpu", "name": "a"}
    card = {"what": "machine", "device": "cuda", "name": "b"}
    chain, step = ({"what": w, "device": "cpu", "threads": 1, "ms": 1} for w in ("chain", "step"))
    on_card = {"what": "chain", "device": "cuda", "threads": 1, "ms": 1}
    two = {**chain, "threads": 2}
    assert merged([], here, [chain]) == [here, chain]
    old = [card, on_card, here, chain, two, step]
    again = [{**chain, "ms": 2}, {**chain, "ms": 3}]
    assert merged(old, here, again) == [card, on_card, here, two, step, *again]
    other = {**here, "name": "c"}
    assert merged(old, other, again) == [card, on_card, other, *again]


def test_an_unknown_kind_is_refused(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", ["run.py", "--devices", "cpu", "--only", "nonsense"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("run").main()
    assert ended.value.code == 2 and "nothing is called nonsense" in capsys.readouterr().err


def test_the_floor_has_the_operations_of_a_step(monkeypatch):
    """Forward, and twice as much backward, but for the gradient of the images."""
    monkeypatch.syspath_prepend(str(FOLDER))
    competitors = importlib.import_module("competitors")
    case = {"what": "training-step", "batch": 40, "steps": 1, "device": "cpu"}
    products, sides = [], competitors.SIDE
    run = competitors.step_floor(case)
    monkeypatch.setattr(torch, "mm", lambda a, b: products.append(a.shape))
    run()
    assert set(products) == {(sides, sides)}
    assert len(products) == round(run.gflop * 1e9 / (2 * sides**3))
    system = systems.build(systems.preset(competitors.PRESETS["training-step"]))
    macs, on_images = 0, 0

    def count(module: nn.Module, inputs: tuple, y: torch.Tensor) -> None:
        nonlocal macs, on_images
        places = inputs[0] if isinstance(module, nn.ConvTranspose2d) else y
        of_one = module.weight.numel() * places[0, 0].numel() if y.dim() == 4 else 0
        own = of_one or module.weight.numel()
        macs += own
        on_images += own * (inputs[0].shape[1:] == (3, 32, 32))

    for module in [*system.generator.modules(), *system.inference.modules()]:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            module.register_forward_hook(count)
    x = torch.zeros(1, 3, 32, 32)
    system.generator.mean(system.inference.posterior(x).mean)
    expected = case["batch"] * 2 * (3 * macs - on_images)
    assert len(products) == pytest.approx(expected / (2 * sides**3), rel=0.05, abs=0.5)
