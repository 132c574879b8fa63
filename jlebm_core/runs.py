"""A run: one system trained on one data set with one seed, in a folder of its own.

The folder holds ``resume`` (the state of the training), ``model`` (weights for use),
``results.json`` (see results.py), sample grids, and after an evaluation ``codes``. One process at a
time trains in it, and while it does none measures; what several measure at once is all kept.
"""

from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch

from . import checkpoints, data, locks, paths, results, systems, viz
from .configs import Config
from .data import ImageSet
from .errors import Diverged, Interrupted, UsageError
from .training.trainer import Trainer, check_sizes, device_name

SAMPLES = 10  # in a results file, as a PNG in base64
PARTS = ("resume", "model", "codes")  # checkpoints in a run's folder


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
    on_log: Callable[[Trainer], None] | None = None,
) -> dict:
    """Train to the end; returns the results record.

    Every ``save_every`` steps it leaves a checkpoint and a sample grid, at the end the weights and
    the results record, to which ``about`` is added; ``on_log`` is called at every logged step.
    ``start`` is a system of this ``config`` to begin with; else it is a fresh one. A finished run
    that is resumed stays as it is.
    Raises UsageError if the folder already holds a run and ``resume`` is not set, or one that these
    settings and images cannot go on with; Busy while another process trains there; Diverged as
    ``Trainer.run`` does, with the record of what there is in its ``result``; Interrupted.
    """
    check_place(folder, resume=resume)
    system = (start or systems.build(config, seed=seed)).to(device)
    trainer = Trainer(system, images.images, seed=seed, precision=precision)
    with in_use(folder):
        check_place(folder, resume=resume)  # another process may have been faster
        if resume:
            trainer.restore(folder / "resume")
            if (found := finished(folder, trainer)) is not None:
                print(f"{folder} holds all {trainer.step:,} steps: nothing is left to train.")
                return found
            if "sha256" not in checkpoints.about(folder / "resume").get("images", {}):
                print(f"{folder} does not say which images it was trained on: taken to be these.")
        counts = ", ".join(f"{k} {v:,}" for k, v in system.parameter_counts().items())
        title = data.title(config.data)
        print(f"{config.system} on {title}, {len(images):,} images {config.image}: {counts}")

        def save(trainer: Trainer) -> None:
            trainer.save(folder / "resume")
            picture = folder / f"samples-{trainer.step:06d}.png"
            save_samples(trainer.model(), picture, 64, seed=seed)

        how = {"budget": budget, "device": device_name(device)}
        how_far = {"log_every": log_every, "save_every": save_every, "progress": progress}
        try:
            trainer.run(trainer.total, on_log=on_log, on_save=save, **how_far)
            result = {**results.record(trainer, **how), **(about or {})}
            meta = {"data": config.data, "seed": seed, "steps": trainer.step}
            trainer.model().save(folder / "model", half=True, **meta, images=trainer.images)
            results.write(folder / "results.json", result)
        except Diverged as error:
            error.result = {**results.record(trainer, **how), **(about or {})}
            raise
        except KeyboardInterrupt:
            raise interrupted(folder, trainer.total) from None
    return result


def check_place(folder: Path, *, resume: bool) -> None:
    """Raise UsageError unless a run can begin in ``folder``, or with ``resume`` go on there, and
    OSError unless it can be written."""
    if resume:
        if not checkpoints.exists(folder / "resume"):
            raise UsageError(
                f"no checkpoint in {folder} to go on from: leave --resume out, or name the folder "
                "of a run."
            )
    elif checkpoints.exists(folder / "resume"):
        raise UsageError(f"{folder} already holds a run: give --resume, or another --out.")
    else:
        own = [folder / "results.json", *(f for p in PARTS for f in checkpoints.files(folder / p))]
        if found := [f.name for f in own if f.is_file()]:
            raise UsageError(
                f"{folder} holds {', '.join(found)} of a run, but no checkpoint to go on from: "
                "give another --out, or move them away."
            )
    names = [f.name for part in PARTS for f in checkpoints.files(part)]
    checkpoints.writable(folder, "results.json", *names)


def check_settings(folder: Path, config: Config, seed: int) -> None:
    """Raise UsageError if ``folder`` holds a run with other settings or another seed."""
    file, stem = folder / "results.json", folder / "resume"
    records = [results.read(file)] if file.is_file() else []
    records += [checkpoints.about(stem)] if checkpoints.exists(stem) else []
    for found in records:
        if (Config.from_json(found["config"]), found["seed"]) != (config, seed):
            raise UsageError(
                f"{folder} holds a run with other settings or another seed: move it away first."
            )


def check_images(config: Config, images: ImageSet) -> None:
    """Raise UsageError where a run would come to its end and find too few images there."""
    with torch.device("meta"):  # weights are not needed
        system = systems.assemble(config)
    check_sizes(system, system.plan(), len(images))


def in_use(folder: Path, *, shared: bool = False) -> AbstractContextManager[bool]:
    """The folder of a run for one process alone, or for all that only measure; else Busy."""
    folder.mkdir(parents=True, exist_ok=True)
    return locks.lock(folder / ".lock", shared=shared)


def finished(folder: Path, trainer: Trainer) -> dict | None:
    """The record of a run in ``folder`` that ``trainer`` has nothing to add to, if there is one."""
    file = folder / "results.json"
    whole = trainer.step >= trainer.total and file.is_file()
    result = results.read(file) if whole and checkpoints.exists(folder / "model") else {}
    return result if result.get("steps") == trainer.step else None


def interrupted(folder: Path, total: int) -> Interrupted:
    """Ctrl-C in the training of ``total`` steps: it promises what there is, and no more."""
    if not checkpoints.exists(folder / "resume"):
        return Interrupted(f"{folder} has no checkpoint yet, so nothing of this run is kept")
    step = checkpoints.about(folder / "resume")["step"]
    error = Interrupted(f"{folder} holds the checkpoint of step {step:,} of {total:,}")
    error.resumable = True
    return error


def save_samples(
    system: systems.System, path: Path, n: int, *, steps: int | None = None, seed: int = 0
) -> None:
    """A grid of ``n`` samples, written in one step as the kind of picture that the suffix names."""
    rng = torch.Generator(system.device).manual_seed(seed)
    system.eval()
    images = system.sample(n, steps=steps, rng=rng)
    picture = viz.picture(images, max(1, round(n**0.5)), suffix=path.suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write_atomic(path, picture)


def model_stem(model: Path) -> Path:
    """The checkpoint that ``model`` means: a run's folder, a stem or one of its two files, or a
    shipped name."""
    bare = model.with_suffix("") if model.suffix in (".safetensors", ".json") else model
    for stem in (model / "model", model, bare, paths.shipped("checkpoints", bare)):
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

    They are recorded in the results file beside it, if there is one, beside those that are there,
    together with a row of samples; then the codes of the test images are kept too. Returns the
    records. Raises UsageError if the model was trained on other images, Busy while it is trained.
    """
    from .evaluate.report import encode_all, evaluate

    with measuring(stem) as file:
        check_trained(stem, train_set)
        system = systems.load(stem).to(device)
        seed = options.get("seed", 0)
        records = evaluate(system, train_set, test_set, **options)
        if file is None:  # a shipped model: nothing to record in
            return records
        if seed:  # else the same figure of another seed would take its place
            records = [{**r, "seed": seed} for r in records]
        rng = torch.Generator(device).manual_seed(seed)
        picture = viz.png(system.sample(SAMPLES, rng=rng), SAMPLES)
        results.merge(file, records, samples=b64encode(picture).decode())
        if test_set.labels is not None and system.inference.amortised:
            codes = encode_all(system, test_set.images).half()
            labels = test_set.labels
            small = labels.byte() if labels.max() < 256 else labels
            about = {"split": "test", "data": test_set.name}
            checkpoints.save(stem.with_name("codes"), {"z": codes, "labels": small}, about)
    return records


def check_trained(stem: Path, images: ImageSet) -> None:
    """Raise UsageError if checkpoint ``stem`` was trained on other images, as far as it says."""
    if trained := checkpoints.about(stem).get("images"):
        here = checkpoints.fingerprint(images.images)
        checkpoints.same_images(stem, trained, here, images.name)


@contextmanager
def measuring(stem: Path) -> Iterator[Path | None]:
    """The results file beside the model at ``stem``, to which figures can be added within this
    block; None if there is none. Raises UsageError or OSError, before the work, if that fails."""
    file = stem.with_name("results.json")
    if not file.is_file():
        yield None
        return
    if not isinstance(results.read(file).get("metrics"), list):
        raise UsageError(f"{file} is no results file of a run: it has no list of metrics.")
    names = [f.name for f in checkpoints.files("codes")]
    checkpoints.writable(file.parent, file.name, *names)
    with in_use(file.parent, shared=True):
        yield file


def publish(folder: Path, *, weights: bool = True) -> str:
    """Copy a run's results to data/results and, with ``weights``, its model and codes to
    data/checkpoints. Returns its name.

    Published anew, a run adds its figures to those that are there. Raises UsageError outside a
    clone, without an evaluation, or if another run is published under that name.
    """
    if paths.CLONE is None:
        raise UsageError("publish writes into data/ of a clone of the project: run it there.")
    result = results.read(folder / "results.json")
    if not result["metrics"]:
        raise UsageError(f"{folder} has not been evaluated: run `jlebm evaluate` on it first.")
    name = results.name_of(result)
    file = results.shipped_path(name)
    there = results.read(file) if file.is_file() else None
    if there and any(there.get(k) != result.get(k) for k in ("config", "log", "seconds")):
        raise UsageError(
            f"{file} holds the figures of another training of {name}: move it away to publish "
            f"{folder} in its place."
        )
    parts = {"model": name, "codes": f"codes-{name}"} if weights else {}
    found = {
        shipped: checkpoints.load(folder / part)  # all is read before anything is written
        for part, shipped in parts.items()
        if part == "model" or checkpoints.exists(folder / part)
    }
    for stem, (tensors, meta) in found.items():
        checkpoints.save(paths.shipped("checkpoints", stem), tensors, meta)
    earlier = {**result, "metrics": there["metrics"]} if there else {**result, "metrics": []}
    results.write(file, results.with_metrics(earlier, result["metrics"]))
    return name
