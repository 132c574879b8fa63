"""A run: one system trained on one data set with one seed, in a folder of its own.

The folder holds ``resume`` (the state of the training), ``model`` (weights for use),
``results.json`` (see results.py), sample grids, and after an evaluation ``codes``.
"""

from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import torch

from . import checkpoints, data, paths, results, systems, train, viz
from .configs import Config
from .data import ImageSet
from .errors import Diverged, UsageError
from .nets import channels_last

SAMPLES = 10  # in a results file, as a PNG in base64


def folder_of(config: Config, seed: int, budget: str) -> Path:
    """Where a run lies unless told otherwise."""
    return paths.runs_dir() / results.run_name(config.system, config.data, seed, budget)


def train_run(
    config: Config,
    images: ImageSet,
    folder: Path,
    *,
    seed: int,
    budget: str,
    device: torch.device,
    resume: bool = False,
    precision: str = "auto",
    save_every: int = 1000,
    log_every: int = 50,
    progress: bool = True,
    start: systems.System | None = None,
    about: dict | None = None,
    on_log: Callable[[train.Trainer], None] | None = None,
) -> dict:
    """Train to the end; returns the results record.

    Every ``save_every`` steps it leaves a checkpoint and a sample grid, at the end the weights and
    the results record, to which ``about`` is added; ``on_log`` is called at every logged step.
    ``start`` is a system of this ``config`` to begin with; else it is a fresh one.
    Raises UsageError if the folder already holds a run and ``resume`` is not set, Diverged as
    ``Trainer.run`` does, with the record of what there is in its ``result``.
    """
    if not resume and checkpoints.exists(folder / "resume"):
        raise UsageError(f"{folder} already holds a run: give --resume, or another --out.")
    system = channels_last(start or systems.build(config, seed=seed)).to(device)
    trainer = train.Trainer(system, images.images, seed=seed, precision=precision)
    if resume:
        trainer.restore(folder / "resume")
    folder.mkdir(parents=True, exist_ok=True)  # a place that cannot be had shows before the work

    def log(trainer: train.Trainer) -> None:
        if on_log:
            on_log(trainer)
        if trainer.step % save_every and trainer.step < trainer.total:
            return
        trainer.save(folder / "resume")
        picture = folder / f"samples-{trainer.step:06d}.png"
        save_samples(trainer.model(), picture, 64, seed=seed)

    counts = ", ".join(f"{k} {v:,}" for k, v in system.parameter_counts().items())
    title = data.title(config.data)
    print(f"{config.system} on {title}, {len(images):,} images {config.image}: {counts}")
    how = {"budget": budget, "device": device_name(device)}
    try:
        trainer.run(trainer.total, log_every=log_every, on_log=log, progress=progress)
    except Diverged as error:
        error.result = {**results.record(trainer, **how), **(about or {})}
        raise
    result = {**results.record(trainer, **how), **(about or {})}
    meta = {"data": config.data, "seed": seed, "steps": trainer.step}
    systems.save(trainer.model(), folder / "model", **meta)
    results.write(folder / "results.json", result)
    return result


def device_name(device: torch.device) -> str:
    """What a results file calls a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def save_samples(
    system: systems.System, path: Path, n: int, *, steps: int | None = None, seed: int = 0
) -> None:
    """A grid of ``n`` samples as a PNG, written in one step."""
    rng = torch.Generator(next(system.parameters()).device).manual_seed(seed)
    system.eval()
    picture = viz.png(system.sample(n, steps=steps, rng=rng), max(1, round(n**0.5)))
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write_atomic(path, picture)


def model_stem(model: Path) -> Path:
    """The checkpoint that ``model`` means: a run's folder, a stem, or a shipped name."""
    candidates = (model / "model", model, paths.shipped("checkpoints", str(model)))
    for stem in candidates:
        if checkpoints.exists(stem):
            return stem
    raise UsageError(
        f"no trained system at {model}: give the folder of a run, a checkpoint, or a shipped one "
        f"({', '.join(systems.shipped_names())})."
    )


def evaluate_run(
    stem: Path, train_set: ImageSet, test_set: ImageSet, *, device: torch.device, **options
) -> list[dict]:
    """The standard figures of the model at ``stem`` (``options`` as for ``report.evaluate``).

    They are recorded in the results file beside it, if there is one, together with a row of
    samples; then the codes of the test images are kept too. Returns the records.
    """
    from .evaluate.report import encode_all, evaluate

    system = systems.load(stem).to(device)
    records = evaluate(system, train_set, test_set, **options)
    file = stem.with_name("results.json")
    if file.is_file():  # else a shipped model: nothing to record in
        result = results.with_metrics(results.read(file), records)
        rng = torch.Generator(device).manual_seed(options.get("seed", 0))
        picture = viz.png(system.sample(SAMPLES, rng=rng), SAMPLES)
        results.write(file, {**result, "samples": b64encode(picture).decode()})
        if test_set.labels is not None and system.inference.amortised:
            codes = encode_all(system, test_set.images).half()
            kept = {"z": codes, "labels": test_set.labels.byte()}
            about = {"split": "test", "data": test_set.name}
            checkpoints.save(stem.with_name("codes"), kept, about)
    return records


def publish(folder: Path, *, weights: bool = True) -> str:
    """Copy a run's results to data/results and, with ``weights``, its model and codes to
    data/checkpoints. Returns its name. Raises UsageError outside a clone or without an evaluation.
    """
    if paths.CLONE is None:
        raise UsageError("publish writes into data/ of a clone of the project: run it there.")
    result = results.read(folder / "results.json")
    if not result["metrics"]:
        raise UsageError(f"{folder} has not been evaluated: run `jlebm evaluate` on it first.")
    name = results.name_of(result)
    parts = {"model": name, "codes": f"codes-{name}"} if weights else {}
    for part, shipped in parts.items():
        if part == "model" or checkpoints.exists(folder / part):
            tensors, meta = checkpoints.load(folder / part)
            checkpoints.save(paths.shipped("checkpoints", shipped), tensors, meta)
    results.write(results.shipped_path(name), result)
    return name
