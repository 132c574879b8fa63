"""Every fast path of the prior chain follows the reference, and the exact laws hold for each."""

import pytest
import torch

from jlebm_core.kernels import native
from jlebm_core.langevin import (
    CLOSED_FORM,
    SLOPES,
    closed_form_steps,
    langevin,
    langevin_mlp,
    native_steps,
    recorded_steps,
)
from jlebm_core.priors import EBMPrior

S = 0.4
CHAINS, LONG = 20_000, 120  # (1 - s^2/2)^120 = 4.5e-5: the start is forgotten
PATHS = {"closed form": closed_form_steps, "native": native_steps, "recorded": recorded_steps}

needs_compiler = pytest.mark.skipif(not native.available(), reason="no C compiler here")
paths = pytest.mark.parametrize(
    "path", [pytest.param(p, marks=needs_compiler if p == "native" else ()) for p in PATHS]
)


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def prior_of(dims, hidden, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return EBMPrior(dims, hidden, **options).eval()


def rng(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("act", CLOSED_FORM)
@pytest.mark.parametrize("hidden", [(7,), (20, 10), (8, 8, 8, 8)])
@pytest.mark.parametrize("spectral_norm", [None, 3.0])
def test_the_closed_form_follows_the_reference(act, hidden, spectral_norm, monkeypatch):
    monkeypatch.setattr("jlebm_core.langevin.BLOCK", 7)
    monkeypatch.setattr("jlebm_core.langevin.NOISE", 16 * 3 * 4)  # noise for four steps at a time
    prior = prior_of((1, 2), hidden, act=act, spectral_norm=spectral_norm).double()
    start = torch.randn(16, 3, generator=rng(1), dtype=torch.float64)
    settings = {"steps": 30, "step_size": S}
    reference = langevin(prior.log_prob, start, rng=rng(2), **settings)
    fast = langevin_mlp(prior.net.layers(), act, start, rng=rng(2), **settings)
    torch.testing.assert_close(fast, reference, rtol=0, atol=1e-9)
    assert not torch.allclose(fast, start)


@needs_compiler
@pytest.mark.parametrize("act", SLOPES)
@pytest.mark.parametrize("hidden", [(1,), (7,), (200, 200), (50, 51, 53, 47)])
@pytest.mark.parametrize("batch", [1, 47, 48, 100, 193])
def test_the_native_kernel_follows_the_reference(act, hidden, batch, threads):
    """To a few roundings of |z| ~ 4 over three steps (over many, a unit of f that changes sides by
    rounding moves a chain by up to (s^2 / 2) |w|, and chains part)."""
    prior = prior_of((1, 2, 10), hidden, act=act)
    start = torch.randn(batch, 13, generator=rng(1))
    kept = start.clone()
    settings = {"steps": 3, "step_size": S}
    reference = langevin(prior.log_prob, start, rng=rng(2), **settings)
    fast = langevin_mlp(prior.net.layers(), act, start, rng=rng(2), run=native_steps, **settings)
    torch.testing.assert_close(fast, reference, rtol=0, atol=2e-6)
    assert start.equal(kept)


@pytest.mark.parametrize("act", CLOSED_FORM)
def test_a_prior_draws_the_reference_noise_whichever_path_it_takes(act):
    prior = prior_of((4,), (30, 30), act=act, steps=10)
    fast = prior.sample(50, rng=rng(3))
    slow = prior.sample(50, rng=rng(3), callback=lambda *_: None)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-4)


@paths
def test_a_linear_tilt(path):
    """a . z = a . (relu(z) - relu(-z)) is an MLP: the chain's mean is exactly a."""
    a = torch.tensor([0.7, -1.2])
    eye = torch.eye(2)
    layers = [
        (torch.cat([eye, -eye]), torch.zeros(4)),
        (torch.cat([a, -a])[None], torch.zeros(1)),
    ]
    start = torch.randn(CHAINS, 2, generator=rng(0))
    settings = {"steps": LONG, "step_size": S, "rng": rng(1), "run": PATHS[path]}
    z = langevin_mlp(layers, "relu", start, **settings)
    variance = 1 / (1 - S**2 / 4)
    for i in range(2):  # within 5 standard errors of the exact mean and variance
        assert abs(z[:, i].mean() - a[i]) < 5 * (variance / CHAINS) ** 0.5
        assert abs(z[:, i].var() - variance) < 5 * variance * (2 / CHAINS) ** 0.5


@paths
def test_an_absolute_value_as_tilt(path):
    """f = -|z|, by two units: the mean of |z| is that of the tilted density on a fine grid."""
    layers = [
        (torch.tensor([[1.0], [-1.0]]), torch.zeros(2)),
        (torch.tensor([[-1.0, -1.0]]), torch.zeros(1)),
    ]
    grid = torch.linspace(-8, 8, 16_001, dtype=torch.float64)
    density = torch.exp(-grid.abs() - grid.square() / 2)
    exact = ((grid.abs() * density).sum() / density.sum()).item()
    s = 0.05  # the bias of the discretisation is of order s^2
    settings = {"steps": 3000, "step_size": s, "rng": rng(1), "run": PATHS[path]}
    z = langevin_mlp(layers, "relu", torch.randn(4000, 1, generator=rng(0)), **settings)
    assert abs(z.abs().mean().item() - exact) < 5 * z.std().item() / 4000**0.5 + s**2


def test_no_steps_and_one_chain_or_none():
    prior = EBMPrior((2,), (5,))
    start = prior.base_sample(3, rng=rng(0))
    assert prior.sample(3, steps=0, rng=rng(0)).equal(start)
    assert prior.sample(1, steps=2, rng=rng(0)).shape == (1, 2)
    assert prior.sample(0, rng=rng(0)).shape == (0, 2)


def test_f_of_no_layers_leaves_the_normal_chain():
    prior = EBMPrior((2,), (), steps=LONG)
    z = prior.sample(CHAINS, rng=rng(0))
    variance = 1 / (1 - S**2 / 4)
    assert abs(z.var() - variance) < 5 * variance * (2 / z.numel()) ** 0.5


class TestWithoutTheKernel:
    """Whatever keeps it away, sampling goes on in PyTorch."""

    @pytest.fixture(autouse=True)
    def fresh(self, monkeypatch, tmp_path):
        monkeypatch.setattr(native, "cache_dir", lambda: tmp_path)
        native.library.cache_clear()
        yield
        native.library.cache_clear()

    @pytest.mark.parametrize(
        ("name", "value"), [("JLEBM_NATIVE", "0"), ("CC", "no-such-compiler"), ("CC", "false")]
    )
    def test_sampling_goes_on(self, monkeypatch, tmp_path, name, value):
        monkeypatch.setenv(name, value)
        assert not native.available()
        assert prior_of((2,), (5,)).sample(3, rng=rng(0)).shape == (3, 2)
        assert not list(tmp_path.rglob("*.so"))

    @needs_compiler
    def test_it_is_compiled_once(self, tmp_path):
        assert native.available()
        (file,) = tmp_path.rglob("*.so")
        before = file.stat().st_mtime_ns
        native.library.cache_clear()
        assert native.available()
        assert [f.stat().st_mtime_ns for f in tmp_path.rglob("*.so")] == [before]
