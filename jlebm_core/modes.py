"""What a chapter runs: the three values of ``JLEBM_MODE``, decided in one place.

- ``smoke``: a few steps on the built-in glyphs, to test that every cell runs; no network.
- ``load`` (default): the weights that come with the project; figures as printed, on a CPU.
- ``train``: everything from scratch on the real data, downloaded if need be.
"""

import os
from typing import NamedTuple

import torch
from torch import Tensor

from . import checkpoints, data, experiments, glyphs, paths, results, systems
from .configs import Config, within
from .data import ImageSet
from .errors import UsageError
from .evaluate.features import SUFFIX, Extractor, Features, Moments, load_reference
from .evaluate.report import encode_all
from .experiments import run
from .explorer import Export, describe
from .randomness import source
from .systems import System
from .training.trainer import Trainer

MODES = ("smoke", "load", "train")
SMOKE_IMAGES = 400
DIGITS = ("mnist", "glyphs", "svhn", "svhn-extra")  # sets whose classes are digits


class Trained(NamedTuple):
    """A trained system, its results record, and what was trained where, in one sentence."""

    system: System
    results: dict
    story: str


def mode() -> str:
    """The mode that ``JLEBM_MODE`` asks for; UsageError for an unknown one."""
    chosen = os.environ.get("JLEBM_MODE", "load")
    if chosen not in MODES:
        raise UsageError(f"JLEBM_MODE is {chosen!r}: choose one of {', '.join(MODES)}.")
    return chosen


def obtain(system: str, dataset: str = "mnist", *, seed: int = 0) -> Trained:
    """A trained ``system`` in the way of the current mode, ready for use.

    Training takes the GPU if there is one. The system comes back on the CPU, where every figure
    of a chapter takes seconds, so that its cells are the same in all modes.
    """
    if mode() == "load":
        name = results.run_name(system, dataset, seed)
        return _shipped(systems.shipped(name), results.read(results.shipped_path(name)), name)
    smoke = mode() == "smoke"
    images = data.load("glyphs", limit=SMOKE_IMAGES) if smoke else data.load(dataset)
    budget = "smoke" if smoke else "cpu"
    config = systems.configure(system, images.name, images.shape, budget=budget)
    return _trained(config, images, seed, data.title(images.name))


def obtain_trial(name: str, trial: str) -> Trained:
    """A trained trial of the experiment ``name``, as ``obtain`` a system.

    In ``smoke`` mode its nets learn glyphs, drawn in the shape of its own images.
    """
    experiment = experiments.experiment(name)
    trials = {t.name: t for t in experiment.trials()}
    if trial not in trials:
        raise UsageError(f"{name} has no trial {trial!r}: choose one of {', '.join(trials)}.")
    chosen = trials[trial]
    if mode() == "load":
        known = {r["trial"]: r for r in run.published(name)}
        if trial not in known:
            raise UsageError(
                f"{trial} of {name} does not come along: train it (JLEBM_MODE=train), or choose "
                f"one of {', '.join(known) or 'another experiment'}."
            )
        found = known[trial]
        return _shipped(run.weights(name, trial), found, f"{trial} of {name}")
    if mode() == "train":
        return _trained(chosen.config, experiment.images(chosen), chosen.seed, experiment.title)
    config = Config.from_json(within("smoke", chosen.config.to_json()))
    return _trained(config, glyphs_like(config.image), chosen.seed, "glyphs in its images' shape")


def glyphs_like(shape: tuple[int, int, int]) -> ImageSet:
    """``SMOKE_IMAGES`` glyphs at another size, and grey where ``shape`` (C, H, W) has one channel:
    the mean of the three."""
    images, labels, _ = glyphs.render(SMOKE_IMAGES, seed=0, size=shape[-1])
    if shape[0] == 1:
        images = images.float().mean(1, keepdim=True).round().to(torch.uint8)
    return ImageSet("glyphs", "train", images, labels)


def _shipped(system: System, found: dict, name: str) -> Trained:
    steps, batch = found["steps"], found["config"]["batch"]
    return Trained(
        system, found, f"{name}: shipped weights, trained for {steps:,} steps of {batch} images"
    )


def _trained(config: Config, images: ImageSet, seed: int, of: str) -> Trained:
    smoke = mode() == "smoke"
    device = "cuda" if torch.cuda.is_available() and not smoke else "cpu"
    model = systems.build(config, seed=seed).to(device)
    trainer = Trainer(model, images.images, seed=seed)
    trainer.run(trainer.total, log_every=10 if smoke else 50, progress=not smoke)
    found = results.record(trainer, budget="smoke" if smoke else "cpu", device=device)
    where = f"{config.system} on {of}, trained here for {trainer.step:,} steps"
    return Trained(
        trainer.model().cpu(), found, where + (" (smoke mode: far too few)" if smoke else "")
    )


def real_images(dataset: str, split: str = "test", *, limit: int | None = None) -> ImageSet | None:
    """Images of a real data set, or None where it cannot be had; then a sentence says so.

    In ``smoke`` mode the built-in glyphs stand in, so that no cell asks the network.
    """
    if mode() == "smoke":
        if dataset != "glyphs":
            print(f"Smoke mode: glyphs stand in for {data.title(dataset)}.")
        return data.load("glyphs", split, limit=min(limit or SMOKE_IMAGES, SMOKE_IMAGES))
    try:
        return data.load(dataset, split, limit=limit)
    except UsageError:  # its sentence names folders of this machine: not for a page
        name = data.title(dataset)
        print(f"{name} is not at hand and could not be downloaded: shown from shipped data.")
        return None


def real_features(dataset: str) -> tuple[Features | Moments, Features]:
    """Classifier features of real training images, or only their moments, and of test images.

    In ``load`` mode they come with the weights, so that no data set is needed; else they are taken
    here, in ``smoke`` mode of the built-in glyphs.
    """
    if mode() == "load":
        return load_reference(dataset)
    smoke = mode() == "smoke"
    name, limit = ("glyphs", SMOKE_IMAGES) if smoke else (dataset, None)
    train_set, test_set = (data.load(name, split, limit=limit) for split in data.SPLITS)
    extract = Extractor(name + SUFFIX, train_set.shape)
    return extract(train_set.images), extract(test_set.images)


def test_codes(trained: Trained) -> tuple[Tensor, Tensor] | None:
    """Codes (N, D) of test images by the inference model of ``trained``, and labels (N,).

    In ``load`` mode they come with the weights, so that no data set is needed; else the test
    images are encoded here. None if there are none.
    """
    config = trained.system.config
    if mode() == "load":
        name = results.run_name(config.system, config.data, trained.results["seed"])
        stem = paths.shipped("checkpoints", f"codes-{name}")
        if not checkpoints.exists(stem):
            return None
        tensors, _ = checkpoints.load(stem)
        return tensors["z"].float(), tensors["labels"].long()
    if mode() == "smoke" and config.data != "glyphs":  # a trial, whose own data are not asked for
        test = glyphs_like(config.image)
    else:
        test = data.load(config.data, "test", limit=SMOKE_IMAGES if mode() == "smoke" else None)
    return encode_all(trained.system, test.images), test.labels


def explorable(trained: Trained, **options) -> Export:
    """``trained`` for the latent explorer, with what its results say of each layer.

    ``options`` are those of ``explorer.describe``.
    """
    config, notes = trained.system.config, []
    label = "digit" if config.data in DIGITS else "class"
    for layer in range(1, len(config.dims) + 1):
        rate = results.metric(trained.results, "label_change_rate", layer=layer, reading="marginal")
        known = rate is not None and len(config.dims) > 1
        notes.append(f"new draws change the {label} in {rate:.0%}" if known else "")
    return describe(trained.system, notes=notes, **options)


def aggregated_posterior(
    trained: Trained, n: int, *, rng: torch.Generator | int | None = None
) -> Tensor:
    """``n`` draws of q(z) = E[q(z | x)] over the test images of the data set that ``trained`` saw,
    or as many as there are. Shape: (n, D).

    Where no images are at hand: the centres of q(z | x), which come with the weights. Raises
    UsageError where these do not come along either.
    """
    system = trained.system
    name, shape = system.config.data, system.config.image
    images, rng = real_images(name, "test", limit=n), source(rng, "cpu")
    if images is None:
        if (kept := test_codes(trained)) is None:
            raise UsageError(
                f"there are neither images of {data.title(name)} nor codes of them for "
                f"{system.config.system}: set JLEBM_DATA to a folder that holds them."
            )
        return kept[0][:n]
    if images.shape != shape:  # in smoke mode, of a trial's own shape
        images = glyphs_like(shape)
    return encode_all(system, images.images[:n], noise=True, rng=rng)
