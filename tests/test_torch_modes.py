"""Modes that users and other libraries switch on around the public functions: results are equal to
the plain ones, or one sentence says what to do."""

import copy
import io
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch.func import grad, jacrev, vmap

from jlebm_core import systems
from jlebm_core.nets import channels_last

TINY = {
    "prior_steps": 2,
    "posterior_steps": 2,
    "batch": 4,
    "warmup": 2,
    "steps": 2,
}


def tiny(name: str = "joint-ebm", **settings) -> systems.System:
    config = systems.configure(name, "mnist", (1, 28, 28), budget="smoke", **TINY, **settings)
    return systems.build(config).eval()


@pytest.fixture(scope="module")
def system():
    return tiny()


@pytest.fixture
def z(system):
    return torch.randn(3, system.prior.dim, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def x():
    return torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1


def near(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("last", [False, True])
def test_transforms_of_functions_take_every_part(system, z, x, last):
    parts = channels_last(copy.deepcopy(system)) if last else system
    mean, encoder = parts.generator.mean, parts.inference
    plain = torch.stack(
        [torch.autograd.functional.jacobian(mean, row[None])[0, ..., 0, :] for row in z]
    )
    near(vmap(jacrev(lambda row: mean(row[None])[0]))(z), plain)
    near(vmap(lambda row: encoder.posterior(row[None]).mean[0])(x), encoder.posterior(x).mean)
    near(
        vmap(jacrev(lambda row: encoder.posterior(row[None]).mean[0].sum()))(x)[:, None],
        torch.autograd.functional.jacobian(lambda x: encoder.posterior(x).mean.sum(), x)[:, None],
    )


@pytest.mark.parametrize("name", ["joint-ebm", "layerwise-ebm", "ncp-vae", "rae"])
def test_transforms_of_functions_take_densities(name):
    prior = tiny(name).prior
    z = torch.randn(3, prior.dim, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for f in (prior.f, prior.log_prob):
        value = f(z)
        plain = torch.zeros_like(z)
        if value.requires_grad:
            (plain,) = torch.autograd.grad(value.sum(), z)
        near(vmap(grad(lambda row, f=f: f(row[None])[0]))(z.detach()), plain)


@pytest.mark.parametrize("name", ["joint-ebm", "layerwise-ebm", "multi-ncp"])
def test_spectral_norm_is_saved_whole_copied_and_sent_to_processes(name):
    system = tiny(name, spectral_norm=1.0)
    z = torch.ones(2, system.prior.dim)
    before = torch.get_rng_state()
    file = io.BytesIO()
    torch.save(system, file)
    file.seek(0)
    for same in (
        torch.load(file, weights_only=False),
        copy.deepcopy(system),
        copy.deepcopy(torch.load(io.BytesIO(file.getvalue()), weights_only=False)),
        ForkingPickler.loads(bytes(ForkingPickler.dumps(system))),  # last: memory is shared with it
    ):
        assert torch.equal(same.prior.f(z), system.prior.f(z))
        assert torch.equal(same.sample(2, rng=0), system.sample(2, rng=0))
        assert list(same.state_dict()) == list(system.state_dict())
        same.train().prior.log_prob(z).sum().backward()  # it still learns
    assert torch.equal(torch.get_rng_state(), before)
