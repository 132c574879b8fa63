"""Results are data: one JSON file for each trained row, one schema, tables computed from them."""

import json
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import __version__, checkpoints, locks, paths
from .errors import UsageError
from .training.trainer import Trainer

VERSIONED = ("torch", "torchvision", "torch-fidelity")
LOG_POINTS = 100


def run_name(system: str, data: str, seed: int, budget: str = "cpu") -> str:
    """The name of a run and of its results file, e.g. ``joint-ebm-mnist-s0``; a budget other than
    "cpu" stands at the end."""
    return f"{system}-{data}-s{seed}" + (f"-{budget}" if budget != "cpu" else "")


def name_of(result: dict) -> str:
    """``run_name`` of the run that left ``result``."""
    return run_name(*(result[k] for k in ("system", "data", "seed", "budget")))


def record(trainer: Trainer, *, budget: str, device: str) -> dict:
    """The results of a finished training run, without metrics yet."""
    config = trainer.system.config
    return {
        "system": config.system,
        "data": config.data,
        "seed": trainer.seed,
        "budget": budget,
        "config": config.to_json(),
        "versions": versions(),
        "images": trainer.images,
        "device": followed([how[::2] for how in trainer.used]) or device,
        "precision": followed([how[:2] for how in trainer.used]) or trainer.precision,
        "steps": trainer.step,
        "seconds": round(trainer.seconds, 1),  # by the clock, whatever else the machine did
        "cpu_seconds": round(trainer.cpu_seconds, 1),  # of this process, all threads together
        "parameters": trainer.system.parameter_counts(),
        "log": thin(trainer.log),
        **({"fit_log": thin(trainer.logs[1])} if len(trainer.logs) > 1 else {}),
        "metrics": [],
    }


def followed(used: list[list]) -> str:
    """[step, name] in the order of steps, as words: "bf16, float32 from step 100"."""
    changes = [pair for i, pair in enumerate(used) if not i or pair[1] != used[i - 1][1]]
    return ", ".join(
        f"{name} from step {at}" if i else name for i, (at, name) in enumerate(changes)
    )


def versions() -> dict[str, str]:
    """Versions of Python, of this module and of the packages that shape a figure."""
    found = {"python": platform.python_version(), "jlebm-core": __version__}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def thin(log: dict[str, list[float]], points: int = LOG_POINTS) -> dict[str, list[float]]:
    """Every k-th entry of a log, the last one included, at most ``points`` + 1, 5 digits each."""
    length = len(log.get("step", []))
    stride = max(1, -(-length // points))
    keep = sorted({*range(length - 1, -1, -stride)})
    return {k: [float(f"{v[i]:.5g}") for i in keep] for k, v in log.items()}


def write(path: str | Path, result: dict) -> None:
    """Write a results file, replacing an older one in one step."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write_atomic(path, (json.dumps(result, indent=1) + "\n").encode())


def read(path: str | Path) -> dict:
    """Read a results file; UsageError if it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text())
    except OSError:
        raise UsageError(f"no results file at {path}.") from None
    except ValueError:  # of the text or of its encoding
        raise UsageError(f"{path} is not valid JSON.") from None


def shipped(data: str | None = None) -> list[dict]:
    """All committed results, or those on one data set, in the order of their names."""
    found = [read(p) for p in sorted(paths.shipped("results").glob("*.json"))]
    return [r for r in found if data in (None, r["data"])]


def shipped_path(name: str) -> Path:
    """The committed results file of a run called ``name``."""
    return paths.shipped("results", f"{name}.json")


def benchmarks() -> list[dict]:
    """The records that `make bench` left in benchmarks/results.json; the package carries them."""
    file = paths.benchmarks()
    return json.loads(file.read_text()) if file.is_file() else []


def metric(result: dict, name: str, **protocol) -> float | None:
    """The value of the one metric with that name and protocol; None if it was not measured.

    Of several seeds of drawing, where none is named, it is that of seed 0. Raises UsageError if
    the protocol fits more than one record.
    """
    fits = [
        m
        for m in result["metrics"]
        if m["name"] == name and all(m.get(k) == v for k, v in protocol.items())
    ]
    if "seed" not in protocol:
        fits = [m for m in fits if not m.get("seed")] or fits
    if len(fits) > 1:
        raise UsageError(f"{name} with {protocol} names {len(fits)} records: say which one.")
    return fits[0]["value"] if fits else None


def merge(path: str | Path, metrics: Iterable[dict], **more) -> dict:
    """Add ``metrics`` and further fields to the results file at ``path``, whoever else does so now;
    returns what it then holds."""
    path = Path(path)
    with locks.lock(path.with_name(f".{path.name}.lock"), wait=True):
        result = {**with_metrics(read(path), metrics), **more}
        write(path, result)
    return result


def with_metrics(result: dict, metrics: Iterable[dict]) -> dict:
    """The result with ``metrics`` added; a record of the same name and protocol is replaced."""

    def key(m: dict) -> str:
        return json.dumps({k: v for k, v in m.items() if k not in ("value", "std")}, sort_keys=True)

    merged = {key(m): m for m in [*result["metrics"], *metrics]}
    return {**result, "metrics": list(merged.values())}
