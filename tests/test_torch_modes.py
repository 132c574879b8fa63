"""Modes that users and other libraries switch on around the public functions: results are equal to
the plain ones, or one sentence says what to do."""

import contextlib
import copy
import io
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch.func import grad, jacrev, vmap

from jlebm_core import glyphs, systems
from jlebm_core.errors import UsageError
from jlebm_core.nets import channels_last
from jlebm_core.priors.base import sample_layer
from jlebm_core.training.trainer import Trainer

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
    encoder = parts.inference

    def mean(z):
        return parts.generator.mean(z)[:, :, 12, ::7]  # a few pixels: each is a pass backwards

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


@contextlib.contextmanager
def float64():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


MODES = {
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "deterministic": deterministic,
    "float64": float64,
    "another default device": lambda: torch.device("meta"),
}
NAMES = ["joint-ebm", "joint-ebm-mle", "layerwise-ebm", "multi-ncp", "rae", "2s-vae", "biva"]


@pytest.fixture(scope="module")
def results():
    """What the calls of ``uses`` give without any mode."""
    return {name: {k: use() for k, use in uses(tiny(name)).items()} for name in NAMES}


def uses(system):
    """Public functions by name, each on tensors and generators made before any mode."""
    prior, g = system.prior, torch.Generator(device="cpu").manual_seed(0)
    x = torch.rand(3, 1, 28, 28, generator=g, device="cpu", dtype=torch.float32) * 2 - 1
    z = torch.randn(3, prior.dim, generator=g, device="cpu", dtype=torch.float32)
    found = {
        "sample": lambda: system.sample(2, rng=0),
        "codes": lambda: prior.sample(2, rng=0),
        "encode": lambda: system.encode(x, noise=True, rng=0),
        "decode": lambda: system.decode(z),
        "loss": lambda: system.loss(x, rng=0)[0].detach(),
        "f": lambda: prior.f(z).detach(),
        "log_prob": lambda: prior.log_prob(z).detach() if prior.density else z,
        "error": lambda: system.generator.squared_error(x, z).detach(),
    }
    if prior.tilted:
        found["layer"] = lambda: sample_layer(prior, z, 1, rng=0)
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", MODES)
def test_a_mode_changes_no_result(results, mode, name):
    before = tiny(name)
    with MODES[mode]():
        system = before if mode == "another default device" else tiny(name)
        found = {k: use() for k, use in uses(system).items()}
    assert found.keys() == results[name].keys()
    for key, value in found.items():
        assert value.dtype == results[name][key].dtype, key
        near(value, results[name][key])


@pytest.mark.parametrize(
    "mode",
    [
        "inference mode",
        "float64",
        *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("no gradients", "deterministic")),
    ],
)
def test_training_and_glyphs_are_the_same_in_every_mode(mode):
    def trained():
        images = glyphs.render(4, seed=0)[0]
        config = systems.configure("lebm", "glyphs", (3, 32, 32), budget="smoke", **TINY)
        run = Trainer(systems.build(config), images)
        run.run(2)
        return images, run.model().sample(2, rng=0)

    plain = trained()
    glyphs._distance_fields.cache_clear()  # so that they are measured in the mode
    with MODES[mode]():
        found = trained()
    assert torch.equal(found[0], plain[0])
    near(found[1], plain[1])


@pytest.mark.parametrize("before", [False, True])
def test_shipped_systems_are_in_float32(before):
    with float64() if before else contextlib.nullcontext():
        system = systems.shipped("vae-mnist-s0")
    with float64():
        assert {p.dtype for p in system.parameters()} == {torch.float32}
        assert system.encode(torch.zeros(2, 1, 28, 28)).dtype == torch.float32


def test_arrays_lists_and_other_types_stand_for_codes_and_images(system, z, x):
    whole = torch.ones(2, system.prior.dim)
    one = system.decode(whole)
    for same in (whole.numpy(), whole.tolist(), whole.long(), whole.half(), whole.double()):
        near(system.decode(same), one)
    wide = torch.ones(2, 2 * system.prior.dim)[:, ::2]
    near(system.decode(wide), one)
    code = system.encode(x)
    last = x.contiguous(memory_format=torch.channels_last)
    for same in (x.numpy(), x.tolist(), x.double(), last, x.transpose(2, 3).contiguous().mT):
        near(system.encode(same), code)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda s: s.encode(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)), "data.to_float"),
        (lambda s: s.loss(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)), "data.to_float"),
        (lambda s: s.encode(torch.zeros(2, 1, 32, 32)), "(1, 28, 28)"),
        (lambda s: s.encode(torch.zeros(2, 1, 28, 28, device="meta")), "on meta"),
        (lambda s: s.decode(torch.zeros(2, s.prior.dim, device="meta")), "on meta"),
        (lambda s: s.decode(torch.zeros(2, 3)), "(B, 10)"),
        (lambda s: s.decode(torch.zeros(2, s.prior.dim, dtype=torch.complex64)), "real numbers"),
        (lambda s: s.decode([[1.0], [1.0, 2.0]]), "equal rows"),
        (lambda s: s.decode("codes"), "equal rows"),
    ],
)
def test_what_no_model_takes_is_said_in_one_sentence(system, use, words):
    with pytest.raises(UsageError) as caught:
        use(system)
    assert words in str(caught.value)


def test_double_and_bfloat16_systems_work_as_the_plain_one(system, z, x):
    for dtype, near_by in ((torch.float64, 1e-4), (torch.bfloat16, 0.1)):
        other = copy.deepcopy(system).to(dtype)
        torch.testing.assert_close(
            other.decode(z), system.decode(z), rtol=near_by, atol=near_by, check_dtype=False
        )
        torch.testing.assert_close(
            other.encode(x), system.encode(x), rtol=near_by, atol=near_by, check_dtype=False
        )


@pytest.mark.parametrize("taken", [False, True])
def test_a_callback_of_a_chain_has_the_callers_gradients(taken):
    prior, seen = tiny("joint-ebm").prior, []
    with torch.set_grad_enabled(taken):
        prior.sample(2, steps=1, rng=0, callback=lambda k, z, v: seen.append(prior.f(z)))
    assert [f.requires_grad for f in seen] == [taken, False]  # the last one is for looking alone
