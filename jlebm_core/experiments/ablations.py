"""What K, the width of f and its normalisation change (ICCV 2023, tables 4 and 5; released code).

All trials are the joint EBM prior on MNIST with its default settings, but for the one that their
experiment is about, and all are measured alike.
"""

import functools
from collections.abc import Callable

import torch

from .. import systems
from ..configs import Config
from ..data import SHAPES, to_uint8
from ..evaluate import fid, likelihood, probes, report
from ..evaluate.classifier import load_classifier
from ..evaluate.features import SUFFIX, Extractor, Features
from ..systems import System
from .trial import Experiment, Trial, split, whole

DATA = "mnist"
SAMPLES, SEED = 10_000, 0  # of FID; where a measurement starts, whatever the seed of the training
CHAIN_LENGTHS = (15, 30, 60, 150, 300)  # table 4
WIDTHS = (10, 20, 50, 100, 200)  # table 5, and our default
LIPSCHITZ = (1.0, 10.0, 30.0)  # 1: the released code
LONG_RUN, LONG_CHAINS = (60, 500, 2500), 2000  # Figure 8 has the last; its first is 40
DRAWS, RUNGS = 1_000_000, 200  # of importance sampling; temperatures of AIS
ENDS, FINISH = 1000, 100  # draws of p: long chains, and the exact steps that end them


def settings(system: str = "joint-ebm", **changes) -> Config:
    """The default settings with ``changes``."""
    return systems.configure(system, DATA, SHAPES[DATA], **changes)


def seeds(name: str, config: Config, count: int, about: dict) -> list[Trial]:
    """The same trial with seeds 0 .. ``count`` - 1."""
    return [Trial(f"{name}-s{i}", config, i, about) for i in range(count)]


# What could hold back the prior: its rate, its size, its penalty, the size of its steps, its time,
# the form of f (a large constant, the best of LIPSCHITZ on frozen codes).
STRONGER: dict[str, dict] = {
    "rate": {"lr_prior": 3e-4},
    "free": {"penalty": 0.001},
    "wide": {"prior_hidden": (400, 400, 400)},
    "fine": {"prior_steps": 120, "prior_step_size": 0.2},
    "smooth": {"prior_act": "silu"},
    "long": {"steps": 24_000},
    "normalised": {"spectral_norm": 30.0},
}


def prior_setting_trials() -> list[Trial]:
    """One change of the prior's settings at a time."""
    return [
        t for name, s in STRONGER.items() for t in seeds(name, settings(**s), 1, {"change": name})
    ]


def langevin_step_trials() -> list[Trial]:
    """Each K trained and measured; three seeds at the default and below it, where training may
    diverge."""
    found = []
    for k in CHAIN_LENGTHS:
        count = 3 if k <= settings().prior_steps else 1
        found += seeds(f"k{k}", settings(prior_steps=k), count, {"trained_steps": k})
    return found


def prior_width_trials() -> list[Trial]:
    """Two layers of each width, f = 0 as VLAE; three seeds at the paper's own width."""
    found = seeds("w0", settings("vlae"), 1, {"width": 0})
    for width in WIDTHS:
        config = settings(prior_hidden=(width, width))
        found += seeds(f"w{width}", config, 3 if width == 100 else 1, {"width": width})
    return found


def spectral_norm_trials() -> list[Trial]:
    """f normalised with several Lipschitz constants, free with the penalty on f^2, free of both."""
    found = []
    for c in LIPSCHITZ:
        config = settings(spectral_norm=c, penalty=0.0)
        found += seeds(f"c{c:g}", config, 2, {"lipschitz": c, "penalty": 0.0})
    for name, penalty in {"penalty": settings().penalty, "free": 0.0}.items():
        about = {"lipschitz": None, "penalty": penalty}
        found += seeds(name, settings(penalty=penalty), 2, about)
    return found


def ready(trial: Trial) -> Extractor:
    """The features that every measurement takes; UsageError where there are none."""
    return Extractor(DATA + SUFFIX, SHAPES[DATA])


@functools.cache
def reference(device: torch.device) -> Features:
    """Classifier features of the training images."""
    images = split(DATA, "train")
    return Extractor(DATA + SUFFIX, images.shape, device=device)(images.images)


def measure(system: System, trial: Trial) -> list[dict]:
    """FID and its kin at the K of training, FID at 0 and at the K's of table 4; for a learned f
    what it is worth in nats, and what a long run makes of its chains."""
    real = reference(report.device_of(system))
    if not system.prior.tilted:
        return report.by_langevin(system, SAMPLES, real, steps=0, seed=SEED)
    trained = system.prior.steps
    records = report.by_langevin(system, SAMPLES, real, steps=trained, seed=SEED)
    for k in (0, *CHAIN_LENGTHS):
        if k != trained:
            records += report.by_langevin(system, SAMPLES, real, steps=k, seed=SEED, alone=True)
    return [*records, *long_run(system, real, LONG_CHAINS), *nats(system)]


def long_run(system: System, real: Features, chains: int) -> list[dict]:
    """Mean f, spread of z, label entropy and FID of ``chains`` at each of ``LONG_RUN`` steps."""
    classifier = load_classifier(DATA).to(report.device_of(system))
    records = []
    for k in LONG_RUN:
        z = system.prior.sample(chains, steps=k, rng=drawing(system))
        images = torch.cat([to_uint8(system.decode(part)) for part in z.split(report.BLOCK)])
        scores = fid.compare(images, real, seed=SEED, alone=True)
        figures = {
            "f_mean": system.prior.f(z).mean().item(),
            "z_std": z.std(0).mean().item(),
            "label_entropy": probes.label_entropy(classifier.predict(images)),
        }
        about = {"langevin_steps": k, "samples": chains}
        records += fid.metric_records(scores, langevin_steps=k)
        records += [{"name": name, "value": v, **about} for name, v in figures.items()]
    return records


def nats(system: System) -> list[dict]:
    """log Z by importance sampling and between two sides of AIS, KL(p || N(0, I)), slope of f.

    The draws of p are the ends of long chains, finished by steps that leave p invariant.
    """
    prior, rng = system.prior, drawing(system)
    ends = prior.sample(ENDS, steps=LONG_RUN[-1], rng=rng)
    z, f, _ = likelihood.crank_nicolson(prior.f, ends, steps=FINISH, rng=rng)
    direct = likelihood.importance(prior, DRAWS, rng=rng)
    sides = likelihood.annealed(prior, z, rungs=RUNGS, rng=rng)._asdict()
    how = {"estimator": "importance sampling", "draws": DRAWS}
    records = [
        {"name": "log_z", "value": direct.value, "std": direct.error, **how},
        {"name": "effective_sample_size", "value": direct.ess, **how},
    ]
    how = {"estimator": "annealed importance sampling", "chains": ENDS, "rungs": RUNGS}
    for side, log_z in sides.items():
        kl = likelihood.kl_from_base(prior, z, log_z)
        records += [
            {"name": "log_z", "value": log_z.value, "std": log_z.error, **how, "side": side},
            {"name": "kl", "value": kl.value, "std": kl.error, **how, "log_z": side},
        ]
    slope = likelihood.slope(prior, z)
    steep = {"mean": slope.mean(), "max": slope.amax()}
    records += [{"name": f"slope_{k}", "value": v.item(), "draws": ENDS} for k, v in steep.items()]
    return [*records, {"name": "f_mean", "value": f.mean().item(), "draws": ENDS}]


def drawing(system: System) -> torch.Generator:
    """The source of a measurement's own draws."""
    return torch.Generator(report.device_of(system)).manual_seed(SEED)


def _experiment(title: str, trials: Callable[[], list[Trial]]) -> Experiment:
    return Experiment(title, trials, whole, measure, ready=ready)


PRIOR_SETTINGS = _experiment("What else is set for f", prior_setting_trials)
LANGEVIN_STEPS = _experiment("The number of Langevin steps", langevin_step_trials)
PRIOR_WIDTH = _experiment("The width of f", prior_width_trials)
SPECTRAL_NORM = _experiment("What spectral norm leaves of f", spectral_norm_trials)
