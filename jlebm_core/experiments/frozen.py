"""The prior alone: f learned anew on the codes of a finished model, whose nets stay as they are.

In the trials of ``ablations`` codes and generator adapt to what the prior can do. Here they cannot,
so that a difference in FID is one of f or of its chains. A trial takes minutes: no image is decoded
in its training.
"""

from .. import systems
from ..configs import Config
from ..evaluate import report
from ..systems import System
from . import ablations
from .trial import Experiment, Trial, whole

BASE = "joint-ebm-mnist-s0"  # its codes are far from N(0, I)
STEPS, RATE = 2000, 5e-4  # a quarter of the steps of joint training, at five times its rate

CHAINS, OTHERS = 1000, (60, 300)  # of the long run; K's at which chains of another K are sampled

# name -> what differs from the default: K = 60, f of two layers of 200, penalty on f^2
VARIANTS: dict[str, dict] = {
    "default": {},
    **{f"c{c:g}": {"spectral_norm": c, "penalty": 0.0} for c in ablations.LIPSCHITZ},
    "free": {"penalty": 0.0},
    **{f"k{k}": {"prior_steps": k} for k in ablations.CHAIN_LENGTHS if k != 60},
    **{f"w{w}": {"prior_hidden": (w, w)} for w in ablations.WIDTHS if w != 200},
}
SEEDS = {"default": 3, "w100": 3}  # else 1


def settings(**changes) -> Config:
    """The joint EBM prior on the nets of ``BASE``, with no step for these."""
    how = {"steps": 0, "fit_steps": STEPS, "lr_prior": RATE}
    return ablations.settings(**how, **changes)


def trials() -> list[Trial]:
    """Every variant, most of them once."""
    return [
        t
        for name, changes in VARIANTS.items()
        for t in ablations.seeds(name, settings(**changes), SEEDS.get(name, 1), {"variant": name})
    ]


def start(trial: Trial) -> System:
    """A fresh prior on generator and encoder of ``BASE``, which have no steps of their own."""
    system, base = systems.build(trial.config, seed=trial.seed), systems.shipped(BASE)
    system.generator, system.inference = base.generator, base.inference
    return system


def measure(system: System, trial: Trial) -> list[dict]:
    """FID at the K of training (at K = 0 it is that of ``BASE``) and what f is worth in nats; where
    K varies, FID at other K's; where the form of f does, what a long run makes of its chains."""
    real, config = ablations.reference(report.device_of(system)), system.config
    default = config == settings()
    lengths = {config.prior_steps}
    if default or "prior_steps" in VARIANTS[trial.about["variant"]]:
        lengths |= set(ablations.CHAIN_LENGTHS if default else OTHERS)
    records = ablations.nats(system)
    if default or config.penalty == 0:
        records += ablations.long_run(system, real, CHAINS)
    for k in sorted(lengths):
        how = {"steps": k, "seed": ablations.SEED, "alone": True}
        records += report.by_langevin(system, ablations.SAMPLES, real, **how)
    return records


FROZEN_CODES = Experiment(
    "The prior alone, on the codes of a finished model",
    trials,
    whole,
    measure,
    start=start,
    ready=ablations.ready,
)
