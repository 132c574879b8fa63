"""The training loop: it learns, it is deterministic, it resumes exactly, it stops in time."""

import pytest
import torch

from jlebm_core import systems
from jlebm_core.errors import UsageError
from jlebm_core.training import monitor
from jlebm_core.training.trainer import Trainer

IMAGE = (1, 28, 28)
QUICK = {"prior_steps": 3, "posterior_steps": 3, "batch": 8, "steps": 12, "fit_steps": 3}
SMALL = {"chain_hidden": (20, 20), "prior_hidden": (20, 20)}  # nets of the prior


def digits(n=40):
    """Two kinds of images that any of the systems can learn to tell apart."""
    images = torch.zeros(n, *IMAGE, dtype=torch.uint8)
    images[::2, :, 4:24, 12:16] = 255
    images[1::2, :, 12:16, 4:24] = 255
    return images


def trainer(name="joint-ebm", *, seed=0, precision="float32", **overrides):
    config = systems.configure(name, "digits", IMAGE, **{**QUICK, **overrides})
    return Trainer(systems.build(config, seed=seed), digits(), seed=seed, precision=precision)


def same(a, b):
    return all(a.system.state_dict()[k].equal(v) for k, v in b.system.state_dict().items())


@pytest.mark.parametrize("name", systems.SYSTEMS)
@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_every_system_trains_and_moves_every_part(name, precision):
    t = trainer(name, precision=precision, steps=3, free_bits=0.0, **SMALL)
    before = {k: v.clone() for k, v in t.system.named_parameters()}
    t.run(t.total, log_every=1)
    assert t.log["step"] == [1, 2, 3]
    assert all(len(v) == 3 for v in t.log.values())
    later = [step for log in t.logs[1:] for step in log["step"]]
    assert later == list(range(4, t.total + 1))
    assert not [k for k, p in t.system.named_parameters() if p.equal(before[k])]
    assert not t.system.training


def test_the_loss_falls():
    t = trainer("vlae", steps=60, batch=20, lr=3e-3)
    t.run(60, log_every=10)
    assert t.log["nll"][-1] < t.log["nll"][0] - 100


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_resuming_is_exact(name, tmp_path):
    """Cut off in either stage, a run goes on as if nothing had happened."""
    whole = trainer(name, steps=6, ema=0.9, **SMALL)
    whole.run(whole.total, log_every=2)
    for stop in {4, whole.total - 1}:
        first, second = (trainer(name, steps=6, ema=0.9, **SMALL) for _ in range(2))
        first.run(stop, log_every=2)
        first.save(tmp_path / "r")
        second.restore(tmp_path / "r")
        second.run(second.total, log_every=2)
        assert same(whole, second) and second.step == whole.total
        assert all(v.equal(second.averaged[k]) for k, v in whole.averaged.items())
        tables = [t.system.inference.table for t in (whole, second)]
        assert tables == [None, None] or tables[0].equal(tables[1])
        if stop == 4:
            assert whole.logs == second.logs


@pytest.mark.parametrize("name", ["vlae", "joint-ebm", "joint-ebm-mle"])
def test_a_layer_that_has_not_entered_gets_no_gradient(name):
    """Its map in the generator stays as it is; at the end it has learned, and all is open."""
    t = trainer(name, steps=10, enter=(0.8, 0.5, 0.0), **SMALL)
    bottom, middle = (p[0].weight for p in t.system.generator.projections)
    first = [p.clone() for p in (bottom, middle)]
    t.run(5)
    assert bottom.equal(first[0]) and middle.equal(first[1])
    t.run(8)
    assert bottom.equal(first[0]) and not middle.equal(first[1])
    t.run(10)
    assert not bottom.equal(first[0]) and t.system.generator.gates.eq(1).all()


def test_the_seed_decides():
    a, b, c = trainer(), trainer(), trainer(seed=1)
    for t in (a, b, c):
        t.run(2)
    assert same(a, b) and not same(a, c)


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
    t = trainer("vlae", lr_decay=decay, steps=1000)
    assert t.rate(step) == pytest.approx(factor, abs=1e-12)


def test_a_diverging_run_is_stopped_and_named():
    t = trainer(lr_prior=1e9)
    with pytest.raises(monitor.Diverged, match=r"at step \d+: f_"):
        t.run(12, log_every=1)
    with pytest.raises(monitor.Diverged, match="nll = nan"):
        monitor.check({"nll": float("nan")}, 5)
    with pytest.raises(monitor.Diverged, match=r"at step 7: f_gap = 57 \(limit 50\)"):
        monitor.check({"nll": 1.0, "f_gap": 57.0}, 7)
    monitor.check({"nll": 1e9, "f_gap": 49.0}, 7)


def test_codes_may_be_far_out_while_the_kl_warms_up_and_not_after(monkeypatch):
    monkeypatch.setitem(monitor.LIMITS, "z_pos_max", 1e-3)
    t = trainer(warmup=3)
    with pytest.raises(monitor.Diverged, match="at step 4: z_pos_max"):
        t.run(12, log_every=1)
    assert t.log["step"] == [1, 2, 3] and min(t.log["z_pos_max"]) > 1e-3


def test_wrong_images_and_foreign_checkpoints_are_refused(tmp_path):
    config = systems.configure("vlae", "digits", IMAGE)
    with pytest.raises(UsageError, match="takes images"):
        Trainer(systems.build(config), torch.zeros(4, 3, 32, 32, dtype=torch.uint8))
    trainer().save(tmp_path / "r")
    for other in (trainer(seed=1), trainer(lr=1e-4), trainer("vlae")):
        with pytest.raises(UsageError, match="other settings or another seed"):
            other.restore(tmp_path / "r")
    small = trainer(batch=1000)
    assert small.batches.batch == 40


def test_finished_ratios_stay_as_they_are():
    t = trainer("multi-ncp", steps=6, ratios=3, **SMALL)
    nets = t.system.prior.net.nets

    def weights(k):
        return torch.cat([p.detach().flatten() for p in nets[k].parameters()])

    fresh = [weights(k) for k in range(3)]
    t.run(2)
    assert not weights(0).equal(fresh[0]) and weights(1).equal(fresh[1])
    first = weights(0)
    t.run(4)
    assert weights(0).equal(first) and not weights(1).equal(fresh[1])
    assert weights(2).equal(fresh[2]) and t.system.prior.net.on.tolist() == [1, 1, 0]
    t.run(6)
    assert weights(0).equal(first) and t.system.prior.net.on.tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", ["2s-vae", "rae", "ncp-vae"])
def test_the_second_stage_moves_the_prior_alone(name):
    t = trainer(name, steps=3, **SMALL, **({"fit_steps": 0} if name == "rae" else {}))
    t.run(3, log_every=1)
    before = {k: v.clone() for k, v in t.system.state_dict().items()}
    t.run(t.total, log_every=1)
    changed = {k for k, v in t.system.state_dict().items() if not v.equal(before[k])}
    assert changed and all(k.startswith("prior.") for k in changed)
    assert t.logs[1]["step"][-1] == t.total and t.log["step"] == [1, 2, 3]
    assert not set(t.logs[1]) & {"nll", "kl", "sse"}


def test_averaged_weights_follow_their_recursion_and_are_what_is_kept():
    t = trainer("vlae", ema=0.2)
    name = "generator.blocks.0.0.weight"
    weight = t.system.state_dict()[name]
    expected = weight.clone()
    for step in range(1, 4):
        t.run(step)
        decay = min(0.2, step / (step + 10))  # 1/11, 2/12, then 0.2
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(t.averaged[name], expected)
    kept = t.model()
    torch.testing.assert_close(kept.state_dict()[name], expected)
    assert kept is not t.system and not kept.training
    plain = trainer("vlae")
    assert plain.model() is plain.system and not plain.averaged


def test_every_training_image_keeps_its_own_chain():
    t = trainer("abp", posterior_step_size=0.0)  # chains stand still: the table shows who was read
    table = t.system.inference.table.clone()
    assert table.shape == (40, 10)
    t.run(5)  # one epoch
    assert t.system.inference.table.equal(table)
    moving = trainer("abp")
    rows = moving.batches.rows_at(0)
    moving.run(1)
    changed = (moving.system.inference.table != table).any(1)
    assert changed[rows].all() and changed.sum() == len(rows) == 8
