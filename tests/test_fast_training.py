"""Training on the fast paths reaches the losses of the reference, within the noise of seeds."""

import statistics

import pytest

from jlebm_core import data, priors, systems
from jlebm_core.training.trainer import Trainer

SEEDS, STEPS, LAST = (0, 1, 2), 200, 50
T = 4.604  # two-sided 1 % point of Student's t with 4 degrees of freedom


def last_losses(seed, *, precision):
    """Means over the last steps: what both parts of the training strive for."""
    images = data.load("glyphs", limit=2000)
    settings = {"steps": STEPS, "batch": 50, "warmup": 50, "lr_decay": "none"}
    config = systems.configure("joint-ebm", "glyphs", images.shape, **settings)
    system = systems.build(config, seed=seed)
    trainer = Trainer(system, images.images, seed=seed, precision=precision)
    trainer.run(STEPS, log_every=LAST)
    return {name: trainer.log[name][-1] for name in ("nll", "kl", "f_gap", "z_neg_std")}


@pytest.mark.slow
def test_the_same_losses_within_noise(monkeypatch):
    """bf16, the kernel and memory kept, against float32 and one autograd call a step."""
    fast = [last_losses(seed, precision="bf16") for seed in SEEDS]
    monkeypatch.setattr(priors, "CLOSED_FORM", {})  # now every chain takes the reference
    reference = [last_losses(seed, precision="float32") for seed in SEEDS]
    for name in fast[0]:
        a, b = ([run[name] for run in runs] for runs in (fast, reference))
        print(name, [round(v, 4) for v in a], [round(v, 4) for v in b])
        spread = (statistics.variance(a) + statistics.variance(b)) / len(SEEDS)
        assert abs(statistics.mean(a) - statistics.mean(b)) <= T * spread**0.5
