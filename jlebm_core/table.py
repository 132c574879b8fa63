"""The table of all systems on one data set: what is there, what is missing, what it says.

Figures come from results files alone, the committed ones and those of own runs.
"""

import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch

from . import checkpoints, locks, papers, results, runs, systems
from .configs import Config
from .data import ImageSet
from .errors import Diverged, UsageError
from .evaluate import report
from .nets import Shape
from .training.trainer import Trainer

# Rows with three seeds by default; the others have one.
SEEDS = {name: (0, 1, 2) for name in ("vlae", "lebm", "multi-ncp", "joint-ebm")}
FEW, LONG = 10, 2.0  # images in a first timed step; seconds of it after which no other is tried


class Job(NamedTuple):
    """One cell of work: a configuration and a seed, and what there is of it."""

    config: Config
    seed: int
    state: str  # "done", "to be evaluated", "cut off", "missing", or "other settings"
    result: dict | None  # of a finished job


def jobs(
    data: str,
    image: Shape,
    budget: str,
    *,
    rows: Iterable[str] = tuple(systems.SYSTEMS),
    seeds: Iterable[int] | None = None,
) -> list[Job]:
    """All jobs of a table, in its order. ``seeds`` None means ``SEEDS``."""
    found = []
    for name in dict.fromkeys(rows):
        config = systems.configure(name, data, image, budget=budget)
        for seed in dict.fromkeys(SEEDS.get(name, (0,)) if seeds is None else seeds):
            found.append(Job(config, seed, *_state(config, seed, budget)))
    return found


def _state(config: Config, seed: int, budget: str) -> tuple[str, dict | None]:
    name = results.run_name(config.system, config.data, seed, budget)
    folder = runs.folder_of(config, seed, budget)
    for file in (results.shipped_path(name), folder / "results.json"):
        if file.is_file() and Config.from_json((result := results.read(file))["config"]) == config:
            return ("done", result) if result["metrics"] else ("to be evaluated", None)
    try:
        runs.check_settings(folder, config, seed)
    except UsageError:
        return "other settings", None
    return ("cut off" if checkpoints.exists(folder / "resume") else "missing"), None


def estimate(config: Config, device: torch.device) -> float:
    """Seconds that training would take on ``device``, from the time of one step.

    Where a step of ``FEW`` images takes ``LONG`` seconds, a whole batch is not tried but scaled.
    """
    few = min(FEW, config.batch)
    seconds = _step_seconds(replace(config, batch=few), device)
    if seconds < LONG:
        seconds = _step_seconds(config, device)
    else:
        seconds *= config.batch / few
    second_stage = config.fit_steps / 10  # no image is decoded there: about a tenth of a step
    return (config.steps + second_stage) * seconds


def _step_seconds(config: Config, device: torch.device) -> float:
    system = systems.build(config).to(device)
    count = max(config.batch, config.components)  # a mixture needs so many to be fitted
    images = torch.randint(256, (count, *config.image), dtype=torch.uint8)
    trainer = Trainer(system.train(), images)
    for _ in range(2):  # the first one warms up, which a long one does not need
        start = time.monotonic()
        trainer.advance()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if (seconds := time.monotonic() - start) > LONG and device.type == "cpu":
            break
    return seconds


def chains(result: dict, name: str) -> list[dict]:
    """The records called ``name`` of samples that the prior drew in its own way."""
    named = (m for m in result["metrics"] if m["name"] == name)
    return [m for m in named if "langevin_steps" in m and "sampler" not in m]


def plan(todo: list[Job], budget: str, device: torch.device) -> Iterator[str]:
    """What would run: a line for each job, as soon as it is timed, and the hours that are left."""
    left, timed = 0.0, {}
    for job in todo:
        c = job.config
        if c.system not in timed:
            timed[c.system] = estimate(c, device) / 3600
        counts = sum(systems.build(c).parameter_counts().values())
        settings = f"dims {'-'.join(map(str, c.dims))}, {c.steps:,} steps of {c.batch}"
        settings += f" + {c.fit_steps:,}" if c.fit_steps else ""
        name = results.run_name(c.system, c.data, job.seed, budget)
        hours = timed[c.system]
        left += hours * (job.state not in ("done", "to be evaluated"))
        yield f"{name:34} {job.state:16} {counts:>12,} parameters {hours:9.2f} h  {settings}"
    yield f"about {left:.1f} hours of training are left on {device.type}"


def run(
    todo: list[Job],
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    budget: str,
    device: torch.device,
    progress: bool,
    train_only: bool = False,
    **measure,
) -> list[str]:
    """Train what is missing, go on with what was cut off, evaluate; sentences on what diverged, and
    on what another process is at work on: two tables at once share the work.

    ``measure`` are the options of ``report.evaluate``; with ``train_only`` that waits for a later
    call. Raises UsageError or OSError, before the work, for what could not come to its end.
    """
    now = (Job(c, s, *_state(c, s, budget)) for c, s, *_ in todo)  # images take a while to load
    left, failed = [job for job in now if job.state != "done"], []
    check(left, train_set, budget=budget)
    if not train_only:
        report.extractor(train_set, test_set, device=device, **measure)
    for job in left:
        folder, how = runs.folder_of(job.config, job.seed, budget), {"device": device}
        how["seed"] = job.seed
        try:
            with runs.in_use(folder):
                state, _ = _state(job.config, job.seed, budget)  # by now, whoever else was here
                if state in ("missing", "cut off"):
                    how_far = {"resume": state == "cut off", "budget": budget}
                    how_far["progress"] = progress
                    runs.train_run(job.config, train_set, folder, **how_far, **how)
                if state != "done" and not train_only:
                    runs.evaluate_run(folder / "model", train_set, test_set, **how, **measure)
        except (Diverged, locks.Busy) as error:
            failed.append(f"{folder.name}: {error}")
    return failed


def check(left: list[Job], train_set: ImageSet, *, budget: str) -> None:
    """Raise UsageError or OSError if a job of these cannot be begun, or gone on with."""
    for job in left:
        folder = runs.folder_of(job.config, job.seed, budget)
        runs.check_settings(folder, job.config, job.seed)
        runs.check_images(job.config, train_set)
        if job.state == "to be evaluated":
            stem = folder / "model"
        else:
            runs.check_place(folder, resume=job.state == "cut off")
            stem = folder / "resume"
        if job.state != "missing":
            runs.check_trained(stem, train_set)


class Line(NamedTuple):
    """One system in the table: the mean over its seeds, and the figures of each."""

    system: str
    results: list[dict]

    def values(self, name: str, **protocol) -> list[float]:
        """The figures called ``name`` of all seeds that have it."""
        found = (results.metric(r, name, **protocol) for r in self.results)
        return [v for v in found if v is not None]

    def fids(self, *, tilted: bool = True) -> list[float]:
        """FID at the K of training, or of the same weights at K = 0 where there is an EBM."""
        found = []
        for r in self.results:
            by_steps = {m["langevin_steps"]: m["value"] for m in chains(r, "fid")}
            if tilted or max(by_steps):
                found.append(by_steps[max(by_steps) if tilted else 0])
        return found

    def trained(self, name: str) -> list[float]:
        """The figures called ``name`` at the K of training."""
        found = (chains(r, name) for r in self.results)
        return [max(ms, key=lambda m: m["langevin_steps"])["value"] for ms in found if ms]


def lines(data: str, budget: str = "cpu", *, found: Iterable[dict] | None = None) -> list[Line]:
    """The table's lines that have results, best FID first; ``found`` None: the committed ones."""
    chosen = [
        r
        for r in (results.shipped(data) if found is None else found)
        if r["data"] == data and r["budget"] == budget and r["metrics"]
    ]
    by_system = {s: [r for r in chosen if r["system"] == s] for s in systems.SYSTEMS}
    made = [Line(s, group) for s, group in by_system.items() if group]
    return sorted(made, key=lambda line: statistics.mean(line.fids()))


def shown(values: list[float], digits: int = 2) -> str:
    """Mean and, of several seeds, standard deviation; an empty cell for no value."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


HEADER = ("system", "prior", "generator", "inference", "objective", "seeds", "FID", "FID, K = 0",
          "KID x 1000", "test MSE", "precision", "recall", "minutes")  # fmt: skip


def cells(line: Line) -> list[str]:
    """The cells of one line, as in ``HEADER``."""
    return [
        line.system,
        *systems.SYSTEMS[line.system],
        str(len(line.results)),
        shown(line.fids()),
        shown(line.fids(tilted=False)),
        shown([1000 * v for v in line.trained("kid")]),
        shown(line.values("mse"), 4),
        shown(line.trained("precision")),
        shown(line.trained("recall")),
        f"{statistics.mean(minutes(r) for r in line.results):.0f}",
    ]


def minutes(result: dict) -> float:
    """What a training took: of the processor where it ran on one, else by the clock."""
    on_cpu = result.get("device") == "cpu" and "cpu_seconds" in result
    return result["cpu_seconds" if on_cpu else "seconds"] / 60


def text(data: str, made: list[Line]) -> str:
    """The table as Markdown, with the papers' figures beside ours where there are any."""
    theirs = papers.IMAGE_MODELLING.get(data, {})
    header = [*HEADER, *(("paper FID", "paper MSE") if theirs else ())]
    rows = [header, ["---"] * len(header)]
    for line in made:
        reported = theirs.get(line.system)
        extra = [f"{reported.fid:.2f}", f"{reported.mse or ''}"] if reported else ["", ""]
        rows.append(cells(line) + (extra if theirs else []))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
