"""The Triton kernels against the reference's chains and exact laws.

Without a GPU it runs through Triton's interpreter, the same code operation by operation.
"""

from functools import partial

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # conftest.py chose the interpreter
pytest.importorskip("triton")
from triton.runtime.errors import OutOfResources  # noqa: E402

from jlebm_core.kernels import cuda, programs  # noqa: E402
from jlebm_core.langevin import (  # noqa: E402
    CLOSED_FORM,
    SLOPES,
    closed_form_steps,
    langevin,
)
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
@pytest.mark.parametrize(
    "hidden",
    [
        *((7,), (20, 10), (17, 8, 5), (8, 20, 8, 8), (70, 9, 80)),  # on chip, 64 chains a block
        (70, 80),  # 16 chains a block
        *((130,), (130, 9), (20, 140, 10)),  # in strips
    ],
)
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


@pytest.mark.parametrize(("dim", "hidden"), [(3, (50,) * 4), (3, (100, 100)), (100, (130, 20))])
def test_a_steep_f_keeps_float32_rounding(dim, hidden):
    """Against float64. Products of single halves would be off by 1e-3 here."""
    layers = [(3 * w, b) for w, b in detached(prior_of((dim,), hidden))]
    start, eps = torch.randn(20, dim, generator=rng(1)), torch.randn(4, 20, dim, generator=rng(2))
    exact, noise = start.double(), S * eps.double()
    double = [(w.double(), b.double()) for w, b in layers]
    closed_form_steps(double, "lrelu", exact, noise.clone(), drift=S**2 / 2)
    layers = [(w.to(DEVICE), b.to(DEVICE)) for w, b in layers]
    z, noise = start.to(DEVICE, copy=True), noise.float().to(DEVICE)
    cuda.run(layers, "lrelu", 0.2, z, steps=4, drift=S**2 / 2, eps=noise)
    torch.testing.assert_close(z.cpu().double(), exact, rtol=0, atol=2e-6)


@pytest.mark.parametrize("hidden", [(5, 6), (130,)])
def test_a_chain_beyond_the_largest_half_becomes_nan_alone(hidden):
    layers = detached(prior_of((3,), hidden).to(DEVICE))
    z, still = torch.ones(20, 3, device=DEVICE), torch.zeros(1, 20, 3, device=DEVICE)
    z[7] = 1e5
    cuda.run(layers, "lrelu", 0.2, z, steps=1, drift=0.1, eps=still)
    assert z[7].isnan().all() and z[:7].isfinite().all() and z[8:].isfinite().all()


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


@pytest.fixture
def gpu(monkeypatch):
    """Sets what the GPU is taken for: compute capability and bytes of shared memory of a block."""

    def take_for(capability, room):
        monkeypatch.setattr(cuda, "_gpu", lambda device: (capability, room))

    take_for((9, 0), 232_448)  # Hopper
    return take_for


def test_what_it_takes(gpu):
    layers = detached(prior_of((2,), (5,)))
    assert cuda.fits(layers, "relu", 9)
    assert not cuda.fits(layers, "tanh", 9)
    assert not cuda.fits(detached(prior_of((2,), (300,))), "relu", 9)
    assert not cuda.fits(detached(prior_of((200,), (5,))), "relu", 9)
    assert not cuda.fits(detached(prior_of((2,), (5,) * 5)), "relu", 9)
    gpu((7, 5), 65_536)  # Turing, which would take minutes to compile
    assert not cuda.fits(layers, "relu", 9)


def test_many_chains_of_a_wide_f_are_left_to_the_libraries(gpu):
    wide, narrow = detached(prior_of((2,), (129,))), detached(prior_of((2,), (128,)))
    assert cuda.fits(wide, "relu", cuda.FEW) and not cuda.fits(wide, "relu", cuda.FEW + 1)
    assert cuda.fits(narrow, "relu", cuda.FEW + 1)


def test_weights_stay_on_chip_where_there_is_room(gpu):
    few, many = 100, 10_000

    def block(dim, hidden, chains):
        return cuda._block(detached(prior_of((dim,), hidden))[:-1], chains)

    narrow, middle, wide = (16, (50,) * 4), (50, (100, 100)), (10, (200, 200))
    assert [block(*f, few) for f in (narrow, middle, wide)] == [64, 16, None]
    assert [block(*f, many) for f in (narrow, middle, wide)] == [64, 64, None]
    gpu((8, 9), 101_376)  # a small Ada: two arrangements of all weights have no room
    assert [block(*f, few) for f in (narrow, middle, wide)] == [None, None, None]
    assert block(16, (50, 50), many) == 64


def test_a_gpu_without_room_is_asked_once(monkeypatch):
    class Launch:
        def __getitem__(self, grid):
            return self

        def __call__(self, *args, **options):
            raise OutOfResources(2, 1, "shared memory")

    monkeypatch.setattr(programs, "whole", Launch())
    monkeypatch.setattr(cuda, "TOO_LARGE", set())
    layers, z = detached(prior_of((2,), (5, 6))), torch.ones(3, 2)
    assert cuda.fits(layers, "relu", 3)
    assert not cuda.run(layers, "relu", 0.0, z, steps=1, drift=0.1, spread=0.1, rng=rng(0))
    assert z.equal(torch.ones(3, 2)) and not cuda.fits(layers, "relu", 3)
    assert cuda.fits(detached(prior_of((2,), (5,))), "relu", 3)  # another f may fit
