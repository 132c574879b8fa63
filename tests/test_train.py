"""The training loop: it learns, it is deterministic, it resumes exactly, it stops in time."""

import pytest
import torch

from jlebm_core import systems, train
from jlebm_core.errors import UsageError

IMAGE = (1, 28, 28)
QUICK = {"prior_steps": 3, "posterior_steps": 3, "batch": 8, "steps": 12}


def digits(n=40):
    """Two kinds of images that any of the systems can learn to tell apart."""
    images = torch.zeros(n, *IMAGE, dtype=torch.uint8)
    images[::2, :, 4:24, 12:16] = 255
    images[1::2, :, 12:16, 4:24] = 255
    return images


def trainer(name="joint-ebm", *, seed=0, precision="float32", **overrides):
    config = systems.configure(name, "digits", IMAGE, **{**QUICK, **overrides})
    return train.Trainer(systems.build(config, seed=seed), digits(), seed=seed, precision=precision)


def same(a, b):
    return all(a.system.state_dict()[k].equal(v) for k, v in b.system.state_dict().items())


@pytest.mark.parametrize("name", systems.SYSTEMS)
@pytest.mark.parametrize("precision", train.PRECISIONS)
def test_every_system_trains_and_moves_every_part(name, precision):
    t = trainer(name, precision=precision)
    before = {k: v.clone() for k, v in t.system.named_parameters()}
    t.run(3, log_every=1)
    assert t.log["step"] == [1, 2, 3]
    assert all(len(v) == 3 for v in t.log.values())
    assert not [k for k, p in t.system.named_parameters() if p.equal(before[k])]
    assert not t.system.training


def test_the_loss_falls():
    t = trainer("vlae", steps=60, batch=20, lr=3e-3)
    t.run(60, log_every=10)
    assert t.log["nll"][-1] < t.log["nll"][0] - 100


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_resuming_is_exact(name, tmp_path):
    whole, first, second = trainer(name), trainer(name), trainer(name)
    whole.run(6, log_every=2)
    first.run(4, log_every=2)
    first.save(tmp_path / "r")
    second.restore(tmp_path / "r")
    second.run(6, log_every=2)
    assert same(whole, second) and whole.log == second.log and second.step == 6


def test_the_seed_decides():
    a, b, c = trainer(), trainer(), trainer(seed=1)
    for t in (a, b, c):
        t.run(2)
    assert same(a, b) and not same(a, c)


def test_every_image_is_seen_once_an_epoch():
    t = trainer()
    t.images = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1)
    for epoch in (0, 1):
        seen = torch.cat([t.images_at(5 * epoch + i).flatten() for i in range(5)])
        assert ((seen + 1) * 127.5).round().long().sort().values.equal(torch.arange(40))
    assert not t.images_at(0).equal(t.images_at(5))
    again = t.images_at(3)
    t.images_at(9)
    assert t.images_at(3).equal(again)


@pytest.mark.parametrize(
    ("decay", "step", "factor"),
    [
        ("cosine", 0, 1 / 200),
        ("cosine", 500, 0.5),
        ("cosine", 1000, 0.0),
        ("none", 1000, 1.0),
        ("epoch", 1000, 0.998**200),
    ],
)
def test_learning_rate(decay, step, factor):
    assert trainer(lr_decay=decay, steps=1000).rate(step) == pytest.approx(factor, abs=1e-12)


def test_a_diverging_run_is_stopped_and_named():
    t = trainer(lr_prior=1e9)
    with pytest.raises(train.Diverged, match=r"at step \d+: f_"):
        t.run(12, log_every=1)
    with pytest.raises(train.Diverged, match="nll = nan"):
        train.check({"nll": float("nan")}, 5)
    with pytest.raises(train.Diverged, match=r"at step 7: f_gap = 57 \(limit 50\)"):
        train.check({"nll": 1.0, "f_gap": 57.0}, 7)
    train.check({"nll": 1e9, "f_gap": 49.0}, 7)


def test_wrong_images_and_foreign_checkpoints_are_refused(tmp_path):
    config = systems.configure("vlae", "digits", IMAGE)
    with pytest.raises(UsageError, match="takes images"):
        train.Trainer(systems.build(config), torch.zeros(4, 3, 32, 32, dtype=torch.uint8))
    trainer().save(tmp_path / "r")
    for other in (trainer(seed=1), trainer(lr=1e-4), trainer("vlae")):
        with pytest.raises(UsageError, match="other settings or another seed"):
            other.restore(tmp_path / "r")
    small = trainer(batch=1000)
    assert small.batch == 40
