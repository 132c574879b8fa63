"""The Triton kernel against the reference's chains and exact laws.

Without a GPU it runs through Triton's interpreter, the same code operation by operation.
"""

from functools import partial

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # conftest.py chose the interpreter
pytest.importorskip("triton")
from triton.runtime.errors import OutOfResources  # noqa: E402

from jlebm_core.kernels import cuda  # noqa: E402
from jlebm_core.langevin import CLOSED_FORM, SLOPES, langevin  # noqa: E402
from jlebm_core.priors import EBMPrior  # noqa: E402

S = 0.4


def rng(seed, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def prior_of(dims, hidden, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return EBMPrior(dims, hidden, **options).eval()


def detached(prior):
    return [(w.detach(), b.detach()) for w, b in prior.net.layers()]


@pytest.mark.parametrize("act", CLOSED_FORM)
@pytest.mark.parametrize("hidden", [(7,), (20, 10), (17, 8, 5), (8, 20, 8, 8), (70, 9, 80)])
def test_with_given_noise_it_follows_the_reference(act, hidden):
    prior = prior_of((1, 2), hidden, act=act)
    start = torch.randn(19, 3, generator=rng(1))
    steps = 4
    eps = torch.stack([torch.randn(19, 3, generator=g) for g in [rng(2)] for _ in range(steps)])
    reference = langevin(prior.log_prob, start, steps=steps, step_size=S, rng=rng(2))
    z, slope = start.to(DEVICE, copy=True), SLOPES.get(act, 0.0)
    layers, noise = detached(prior.to(DEVICE)), (S * eps).to(DEVICE)
    cuda.run(layers, act, slope, z, steps=steps, drift=S**2 / 2, eps=noise)
    torch.testing.assert_close(z.cpu(), reference, rtol=0, atol=2e-6)


def test_its_own_noise_keeps_a_linear_tilt_exactly():
    """a . z = a . (relu(z) - relu(-z)): mean a, variance 1 / (1 - s^2 / 4)."""
    n, a, eye = 1600, torch.tensor([0.7, -1.2], device=DEVICE), torch.eye(2, device=DEVICE)
    layers = [
        (torch.cat([eye, -eye]), torch.zeros(4, device=DEVICE)),
        (torch.cat([a, -a])[None], torch.zeros(1, device=DEVICE)),
    ]
    z = torch.randn(n, 2, generator=rng(0)).to(DEVICE)
    s = 1.2  # 12 steps forget the start: (1 - s^2 / 2)^12 = 2e-7
    cuda.run(layers, "relu", 0.0, z, steps=12, drift=s**2 / 2, spread=s, rng=rng(1, DEVICE))
    variance = 1 / (1 - s**2 / 4)
    for i in range(2):
        assert abs(z[:, i].mean() - a[i]) < 5 * (variance / n) ** 0.5
        assert abs(z[:, i].var() - variance) < 5 * variance * (2 / n) ** 0.5
    assert abs(torch.corrcoef(z.T)[0, 1]) < 5 / n**0.5


def test_its_own_noise_is_new_for_each_step_chain_and_dimension():
    """With f = 0 and drift 1 the state is the last noise alone."""
    zeros = partial(torch.zeros, device=DEVICE)
    layers = [(zeros(1, 3), zeros(1)), (zeros(1, 1), zeros(1))]
    states = []
    for steps, seed in ((1, 5), (2, 5), (1, 6), (1, 5)):
        z = zeros(40, 3)
        cuda.run(layers, "relu", 0.0, z, steps=steps, drift=1.0, spread=1.0, rng=rng(seed, DEVICE))
        states.append(z)
    first, second, other, again = states
    assert first.equal(again)
    for z in (second, other):
        assert not torch.isclose(z, first).any()
    assert first.unique().numel() == first.numel()


def test_what_it_takes():
    layers = detached(prior_of((2,), (5,)))
    assert cuda.fits(layers, "relu", 9)
    assert not cuda.fits(layers, "tanh", 9)
    assert not cuda.fits(detached(prior_of((2,), (300,))), "relu", 9)
    assert not cuda.fits(detached(prior_of((200,), (5,))), "relu", 9)
    assert not cuda.fits(detached(prior_of((2,), (5,) * 5)), "relu", 9)


def test_many_chains_of_a_wide_f_are_left_to_the_libraries():
    wide, narrow = detached(prior_of((2,), (65,))), detached(prior_of((2,), (64,)))
    assert cuda.fits(wide, "relu", cuda.FEW) and not cuda.fits(wide, "relu", cuda.FEW + 1)
    assert cuda.fits(narrow, "relu", cuda.FEW + 1)


def test_a_gpu_without_room_is_asked_once(monkeypatch):
    class Launch:
        def __getitem__(self, grid):
            return self

        def __call__(self, *args, **options):
            raise OutOfResources(2, 1, "shared memory")

    monkeypatch.setattr(cuda, "_chains", Launch())
    monkeypatch.setattr(cuda, "TOO_LARGE", set())
    layers, z = detached(prior_of((2,), (5, 6))), torch.ones(3, 2)
    assert cuda.fits(layers, "relu", 3)
    assert not cuda.run(layers, "relu", 0.0, z, steps=1, drift=0.1, spread=0.1, rng=rng(0))
    assert z.equal(torch.ones(3, 2)) and not cuda.fits(layers, "relu", 3)
    assert cuda.fits(detached(prior_of((2,), (5,))), "relu", 3)  # another f may fit
