"""Running an experiment: train what is missing, measure it, publish it."""

import statistics
from collections.abc import Iterable
from pathlib import Path

import torch

from .. import checkpoints, locks, paths, results, runs, systems
from ..configs import Config
from ..errors import Diverged, UsageError
from ..training.trainer import Trainer
from . import experiment
from .trial import Trial

SLIM = ("log", "fit_log", "samples")  # left out of what is published


def folder_of(name: str, trial: Trial) -> Path:
    """Where a trial's run lies."""
    return paths.runs_dir() / "experiments" / name / trial.name


def published_path(name: str) -> Path:
    """The committed file of an experiment: a list of results, one for each trial."""
    return paths.shipped("results", f"experiments/{name}.json")


def published(name: str) -> list[dict]:
    """The committed results of an experiment; none yet is an empty list."""
    path = published_path(name)
    return results.read(path) if path.is_file() else []


def result_of(name: str, trial: Trial) -> dict | None:
    """What a trial left, of an own run or committed, the one that was measured first; None if it is
    missing or was run with other settings. Its metrics may be missing."""
    file = folder_of(name, trial) / "results.json"
    own = [results.read(file)] if file.is_file() else []
    fits = [
        r
        for r in [*own, *published(name)]
        if (r["trial"], r["seed"]) == (trial.name, trial.seed)
        and Config.from_json(r["config"]) == trial.config
    ]
    return next((r for r in fits if r["metrics"]), fits[0] if fits else None)


def chosen(name: str, only: Iterable[str] | None = None) -> list[Trial]:
    """All trials of an experiment, or ``only`` those of these names; UsageError for an unknown."""
    trials = {t.name: t for t in experiment(name).trials()}
    if unknown := set(only or ()) - set(trials):
        raise UsageError(
            f"{name} has no trial {', '.join(sorted(unknown))}: it has {', '.join(trials)}."
        )
    return [trials[t] for t in dict.fromkeys(only or trials)]


def run(
    name: str,
    *,
    device: torch.device,
    progress: bool,
    train_only: bool = False,
    only: Iterable[str] | None = None,
) -> list[str]:
    """Train the trials that are missing and measure them; sentences on what diverged, which is
    a result, too: its one figure is the step, and on what another process is at work on.

    With ``train_only`` what is measured at the end waits for a later call. ``only`` names the
    trials, unless all are meant. Raises UsageError for an unknown one, and UsageError or OSError,
    before the work, for one that could not come to its end.
    """
    todo = [t for t in chosen(name, only) if not (r := result_of(name, t)) or not r["metrics"]]
    for t in todo:
        check(name, t, train_only=train_only)
    failed = []
    for t in todo:
        try:
            with runs.in_use(folder_of(name, t)):
                if not (r := result_of(name, t)) or not r["metrics"]:  # by now, whoever was here
                    run_trial(name, t, device, progress=progress, train_only=train_only)
        except (Diverged, locks.Busy) as error:
            failed.append(f"{t.name}: {error}")
    return failed


def check(name: str, trial: Trial, *, train_only: bool) -> None:
    """Raise UsageError or OSError if a trial cannot be run to its end, before any of it is."""
    kind, folder = experiment(name), folder_of(name, trial)
    runs.check_settings(folder, trial.config, trial.seed)
    resume = checkpoints.exists(folder / "resume")
    if not (folder / "results.json").is_file():  # else it is trained
        runs.check_place(folder, resume=resume)
    images = kind.images(trial)
    runs.check_images(trial.config, images)
    for stem in (folder / "resume", folder / "model"):
        if checkpoints.exists(stem):
            runs.check_trained(stem, images)
    if kind.ready and not train_only:
        kind.ready(trial)


def run_trial(
    name: str, trial: Trial, device: torch.device, *, progress: bool, train_only: bool
) -> None:
    """Train a trial, unless that is done, and measure it. Raises Diverged, and records that."""
    at_end = experiment(name).last == 1
    try:
        if not (at_end and (result_of(name, trial) or adopt(name, trial))):
            train_trial(name, trial, device, progress=progress)
    except Diverged as error:
        how = results.with_metrics(error.result, [{**error.metric, **trial.about}])
        results.write(folder_of(name, trial) / "results.json", how)
        raise
    if at_end and not train_only:
        measure(name, trial, device)


def adopt(name: str, trial: Trial) -> bool:
    """Take a row of the table in place of training, if one has a trial's settings and seed: an own
    run or a committed one. False if there is none."""
    c, folder = trial.config, folder_of(name, trial)
    row = results.run_name(c.system, c.data, trial.seed)
    own = runs.folder_of(c, trial.seed, "cpu")
    for stem, file in (
        (own / "model", own / "results.json"),
        (paths.shipped("checkpoints", row), results.shipped_path(row)),
    ):
        found = results.read(file) if file.is_file() and checkpoints.exists(stem) else None
        if found and Config.from_json(found["config"]) == c:
            checkpoints.save(folder / "model", *checkpoints.load(stem))
            about = {"experiment": name, "trial": trial.name, **trial.about, "metrics": []}
            about["config"] = c.to_json()  # older files lack newer settings
            results.write(folder / "results.json", {**found, **about})
            return True
    return False


def train_trial(
    name: str, trial: Trial, device: torch.device, *, progress: bool, **options
) -> None:
    """Train a trial to the end; measured on the way if the experiment wants that:
    at the first logged step of each of its last epochs' ends. What is measured is kept at once, so
    that a run that was cut off goes on from there."""
    chosen, folder = experiment(name), folder_of(name, trial)
    resume, kept = checkpoints.exists(folder / "resume"), folder / "measured.json"
    records = results.read(kept) if resume and kept.is_file() else []
    images = chosen.images(trial)
    epoch = max(1, len(images) // trial.config.batch)
    ends = [trial.config.steps - i * epoch for i in range(chosen.last)] if chosen.last > 1 else []
    measured = max((r["step"] for r in records), default=0)
    ends = [end for end in ends if end > measured]

    def on_log(trainer: Trainer) -> None:
        if ends and trainer.step >= ends[-1]:
            while ends and trainer.step >= ends[-1]:  # epochs shorter than the log's
                ends.pop()
            system = trainer.model().eval()
            found = chosen.measure(system, trial)
            if chosen.at_end and not ends:
                found = [*found, *chosen.at_end(system, trial)]
            records.extend({**r, **trial.about, "step": trainer.step} for r in found)
            results.write(kept, records)

    runs.train_run(
        *(trial.config, images, folder),
        seed=trial.seed,
        budget="cpu",
        device=device,
        resume=resume,
        progress=progress,
        start=chosen.start(trial) if chosen.start else None,
        about={"experiment": name, "trial": trial.name, **trial.about},
        on_log=on_log,
        **options,
    )
    results.merge(folder / "results.json", records)


def measure(name: str, trial: Trial, device: torch.device) -> list[dict]:
    """Measure a trained trial and record the figures in its results file."""
    folder = folder_of(name, trial)
    system = systems.load(folder / "model").to(device)
    records = [{**r, **trial.about} for r in experiment(name).measure(system, trial)]
    results.merge(folder / "results.json", records)
    return records


def publish(name: str) -> list[str]:
    """Write what the trials gave to data/results/experiments, and the weights that are to be
    shipped, or what is to be derived from them, to data/checkpoints/experiments. Returns the names
    of the trials; those that have not been measured are left out.

    Raises UsageError outside a clone, or if no trial has been measured.
    """
    if paths.CLONE is None:
        raise UsageError("publish writes into data/ of a clone of the project: run it there.")
    found, chosen = [], experiment(name)
    for trial in chosen.trials():
        result = result_of(name, trial)
        if not result or not result["metrics"]:
            continue
        found.append({k: v for k, v in result.items() if k not in SLIM})
        stem = folder_of(name, trial) / "model"
        if trial.ship and checkpoints.exists(stem):
            tensors, meta = checkpoints.load(stem)
            checkpoints.save(weights_stem(name, trial.name), tensors, meta)
        if trial.derive and checkpoints.exists(stem):
            tensors = chosen.derived(systems.load(stem), trial)
            checkpoints.save(derived_stem(name, trial.name), tensors, {"of": trial.name})
    if not found:
        raise UsageError(f"nothing of {name} has been measured: run it first.")
    results.write(published_path(name), found)
    return [r["trial"] for r in found]


def weights_stem(name: str, trial: str) -> Path:
    """Where the shipped weights of a trial lie."""
    return paths.shipped("checkpoints", f"experiments/{name}-{trial}")


def derived_stem(name: str, trial: str) -> Path:
    """Where the tensors lie that were derived from the weights of a trial."""
    return paths.shipped("checkpoints", f"experiments/{name}-{trial}-derived")


def weights(name: str, trial: str) -> systems.System:
    """The shipped system of a trial."""
    return systems.load(weights_stem(name, trial))


def derived(name: str, trial: str) -> dict[str, torch.Tensor]:
    """What was derived from the system of a trial (see ``Experiment``); UsageError for nothing."""
    return checkpoints.load(derived_stem(name, trial))[0]


def text(name: str) -> str:
    """The figures of all trials that have some, as a Markdown table: mean over seeds and epochs."""
    cells: dict[tuple, list[float]] = {}
    for trial in experiment(name).trials():
        for m in (result_of(name, trial) or {"metrics": []})["metrics"]:
            protocol = {k: v for k, v in m.items() if k not in ("name", "value", "std", "step")}
            about = ", ".join(f"{k} {v}" for k, v in protocol.items())
            cells.setdefault((trial.config.system, m["name"], about), []).append(m["value"])
    rows = [("system", "figure", "of", "mean", "deviation", "number"), ("---",) * 6]
    for key, found in cells.items():
        mean, spread = mean_and_deviation(found)
        rows.append((*key, f"{mean:.4f}", "" if spread is None else f"{spread:.4f}", len(found)))
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def values(found: list[dict], metric: str, **protocol) -> list[float]:
    """All figures of that name and protocol (fields of the records) in a list of results."""
    return [
        m["value"]
        for r in found
        for m in r["metrics"]
        if m["name"] == metric and all(m.get(k) == v for k, v in protocol.items())
    ]


def mean_and_deviation(numbers: list[float]) -> tuple[float, float | None]:
    """Mean, and the standard deviation of several."""
    spread = statistics.stdev(numbers) if len(numbers) > 1 else None
    return statistics.mean(numbers), spread
