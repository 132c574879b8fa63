"""Experiments beyond the table of systems: trials to train, and what is measured on each.

A module here defines one or a few ``Experiment``s; ``EXPERIMENTS`` lists them by name. All are run,
resumed, shown and published alike (``run.py``).
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:  # else the names alone would bring PyTorch with them
    from .trial import Experiment

# name -> the module and the attribute that define it; imported when it is asked for
EXPERIMENTS: dict[str, str] = {
    "latent-classifier": "layers:LATENT_CLASSIFIER",
    "traversal": "layers:TRAVERSAL",
    "clouds": "layers:CLOUDS",
    "anomaly": "outliers:ANOMALY",
    "ood": "outliers:OOD",
    "langevin-steps": "ablations:LANGEVIN_STEPS",
    "prior-width": "ablations:PRIOR_WIDTH",
    "prior-settings": "ablations:PRIOR_SETTINGS",
    "spectral-norm": "ablations:SPECTRAL_NORM",
    "frozen-codes": "frozen:FROZEN_CODES",
}


def experiment(name: str) -> "Experiment":
    """The experiment called ``name``; UsageError for an unknown name."""
    if name not in EXPERIMENTS:
        raise UsageError(f"unknown experiment {name!r}: choose one of {', '.join(EXPERIMENTS)}.")
    module, _, attribute = EXPERIMENTS[name].partition(":")
    return getattr(import_module(f".{module}", __package__), attribute)
