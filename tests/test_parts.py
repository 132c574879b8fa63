"""Parts of one's own, put together as the README says: plain modules, images of any size."""

import pytest
import torch
from torch import Tensor, nn

import jlebm_core as jl
from jlebm_core.errors import UsageError
from jlebm_core.langevin import langevin
from jlebm_core.training.stages import Stage, Training
from jlebm_core.training.trainer import Trainer

IMAGE = (3, 48, 48)
DIM = 10


class Energy(nn.Module):
    """f(z) = a z: with it p(z) = N(a, I) exactly."""

    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, z):
        return z @ self.a


class TwoHeads(nn.Module):
    """x -> (mean, log variance)."""

    def __init__(self, image=IMAGE):
        super().__init__()
        pixels = image[0] * image[1] * image[2]
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 16), nn.SiLU())
        self.mean, self.log_var = nn.Linear(16, DIM), nn.Linear(16, DIM)

    def forward(self, x):
        h = self.body(x)
        return self.mean(h), self.log_var(h)


def mlp(*widths):
    layers = [
        m for a, b in zip(widths, widths[1:], strict=False) for m in (nn.Linear(a, b), nn.SiLU())
    ]
    return nn.Sequential(*layers[:-1])


def decoder(image=IMAGE):
    pixels = image[0] * image[1] * image[2]
    return nn.Sequential(mlp(DIM, 16, pixels), nn.Tanh(), nn.Unflatten(1, image))


def pictures(n=30, image=IMAGE):
    rng = torch.Generator().manual_seed(5)
    return torch.randint(256, (n, *image), generator=rng, dtype=torch.uint8)


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def weights(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def moved(module, before):
    return {k for k, v in module.state_dict().items() if not v.equal(before[k])}


def test_the_snippet_of_the_readme(tmp_path, monkeypatch):
    my_energy, my_decoder, my_encoder = mlp(DIM, 12, 1), decoder(), TwoHeads()
    images = pictures()
    monkeypatch.chdir(tmp_path)
    prior = jl.EBMPrior(dims=(2, 2, 6), f=my_energy, steps=5, step_size=0.4)
    system = jl.System(
        prior,
        jl.GaussianGenerator(my_decoder, sigma=0.3),
        jl.GaussianEncoder(my_encoder),
        jl.Variational(kl="exact", warmup=4),
    )
    before = weights(system)
    run = jl.fit(system, images, steps=6, batch=10, seed=0, log_every=3, progress=False)
    assert run.log["step"] == [3, 6] and {"nll", "kl", "f_pos", "f_neg"} <= set(run.log)
    assert moved(system, before) == set(before) - {"prior.net.2.bias"}  # f is free of a constant
    x = system.sample(16, rng=0)
    assert x.shape == (16, *IMAGE) and x.equal(system.sample(16, rng=0))
    system.save("mine")
    trained = weights(system)
    with torch.no_grad():
        for p in system.parameters():
            p.zero_()
    jl.load_weights(system, "mine")
    assert not moved(system, trained)
    with pytest.raises(UsageError, match="parts of your own"):
        jl.load("mine")
    assert jl.shipped("joint-ebm-mnist-s0").config.system == "joint-ebm"


def test_an_energy_of_ones_own_gives_its_exact_law():
    a = [0.5, -1.0, 0.25]
    prior = jl.EBMPrior((1, 2), f=Energy(a), steps=400, step_size=0.2)
    z = prior.sample(4000, rng=1)
    # N(a, v I) with the step's own variance v = 1 / (1 - s^2 / 4); five standard errors
    bound = 5 * (1 / (1 - 0.01)) ** 0.5 / 4000**0.5
    assert (z.mean(0) - torch.tensor(a)).abs().max() < bound


@pytest.mark.parametrize("image", [(1, 5, 9), (3, 48, 48), (2, 1, 1)])
def test_a_decoder_of_ones_own_decides_the_size_of_the_images(image):
    system = jl.System(
        jl.StandardNormal((DIM,)),
        jl.GaussianGenerator(decoder(image), sigma=0.5, learned=True),
        jl.GaussianEncoder(TwoHeads(image)),
        jl.Variational(),
    )
    assert system.image == image
    run = jl.fit(system, pictures(8, image), steps=2, batch=4, log_every=1, progress=False)
    assert run.step == 2 and system.sample(3, rng=0).shape == (3, *image)


def test_an_encoder_may_join_mean_and_log_variance():
    two, x = TwoHeads(), torch.rand(4, *IMAGE)

    class Joined(nn.Module):
        def forward(self, x):
            return torch.cat(two(x), 1)

    a, b = (jl.GaussianEncoder(net).posterior(x) for net in (two, Joined()))
    assert a.mean.equal(b.mean) and a.log_var.equal(b.log_var)


def test_lebm_on_a_generator_of_ones_own():
    system = jl.System(
        jl.EBMPrior((DIM,), f=mlp(DIM, 12, 1), steps=4),
        jl.GaussianGenerator(decoder(), sigma=0.3),
        jl.LangevinPosterior(steps=3, step_size=0.1),
        jl.MaximumLikelihood(),
    )
    before = weights(system)
    run = jl.fit(system, pictures(), steps=3, batch=10, log_every=1, progress=False)
    assert {k.split(".")[0] for k in moved(system, before)} == {"prior", "generator"}
    assert "kl" not in run.log


def test_langevin_alone_in_image_space():
    """log p(x) = -|x - m|^2 / (2 v): chains end with mean m, variance v / (1 - s^2 / 4v)."""
    m, v, s = torch.linspace(-1, 1, 2 * 3 * 4).view(1, 2, 3, 4), 0.25, 0.2
    x = langevin(
        lambda x: -(x - m).square().flatten(1).sum(1) / (2 * v),
        torch.zeros(2000, 2, 3, 4),
        steps=400,
        step_size=s,
        rng=2,
    )
    variance = v / (1 - s**2 / (4 * v))
    error = (variance / 2000) ** 0.5
    assert (x.mean(0) - m[0]).abs().max() < 5 * error
    assert abs(x.var(0).mean() / variance - 1) < 5 * (2 / (2000 * m.numel())) ** 0.5


def test_a_prior_for_the_codes_of_a_finished_autoencoder():
    system = jl.System(
        jl.EBMPrior((DIM,), f=mlp(DIM, 12, 1), steps=4),
        jl.GaussianGenerator(decoder()),
        jl.GaussianEncoder(TwoHeads()),
        jl.Variational(),
    )
    before = weights(system)
    run = jl.fit(system, pictures(), steps=0, prior_steps=3, batch=10, log_every=1, progress=False)
    assert {k.split(".")[0] for k in moved(system, before)} == {"prior"}
    assert run.log["step"] == [1, 2, 3] and "nll" not in run.log


def test_stages_of_ones_own_and_an_exact_resume(tmp_path):
    """Nets alone, then nets and prior, then the prior alone; cut off in each of them."""

    def fresh():
        torch.manual_seed(1)
        prior = jl.EBMPrior((DIM,), f=mlp(DIM, 12, 1), steps=3)
        nets = jl.Variational(warmup=3)
        system = jl.System(
            prior, jl.GaussianGenerator(decoder()), jl.GaussianEncoder(TwoHeads()), nets
        )
        learns = prior.learns_by
        plan = (Stage(2, nets), Stage(2, nets, learns), Stage(2, None, learns))
        return Trainer(system, pictures(), Training(plan, batch=10), seed=3)

    whole = fresh()
    whole.run(6, log_every=1)
    assert [log["step"] for log in whole.logs] == [[1, 2, 3, 4], [5, 6]]
    for stop in (1, 3, 5):
        first, second = fresh(), fresh()
        first.run(stop, log_every=1)
        first.save(tmp_path / "r")
        second.restore(tmp_path / "r")
        second.run(6, log_every=1)
        assert not moved(second.system, weights(whole.system)) and second.logs == whole.logs


class NoImages(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z


class OneColumn(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :1], x.flatten(1)[:, :DIM]


@pytest.mark.parametrize(
    "make",
    [
        lambda: jl.EBMPrior((2,), steps=-1),
        lambda: jl.EBMPrior((2,), step_size=float("nan")),
        lambda: jl.EBMPrior((0,)),
        lambda: jl.EBMPrior((2,)).sample(3, steps=-1),
        lambda: jl.GaussianGenerator(nn.Identity(), sigma=0.0),
        lambda: jl.GaussianEncoder(nn.Identity()).posterior((torch.ones(1, 2), None)),
    ],
)
def test_numbers_and_nets_that_cannot_be_are_refused_at_once(make):
    with pytest.raises(UsageError, match="must"):
        make()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"generator": jl.GaussianGenerator(NoImages())}, "of one code, no image"),
        ({"generator": jl.GaussianGenerator(nn.Linear(3, 3))}, "does not take codes of 10"),
        ({"images": torch.zeros(4, *IMAGE)}, "must be bytes"),
        ({"images": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)}, "takes images"),
        ({"steps": None}, "say how to train them"),
        ({"rate": 1.0}, "does not know how to train so"),
        ({"lr_decay": "sideways"}, "lr_decay must be one of"),
        ({"steps": -1}, "steps must be a whole number"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"batch": 0}, "batch must be a whole number"),
        ({"lr": float("nan")}, "lr must be a number"),
        ({"seed": None}, "needs a seed"),
        ({"seed": -1}, "a seed from 0"),
        ({"prior": jl.EBMPrior((DIM,), f=nn.Linear(DIM, 2), steps=2)}, "one number for each code"),
        ({"inference": jl.GaussianEncoder(OneColumn())}, "both must be"),
        ({"inference": jl.GaussianEncoder(nn.Flatten())}, "both must be"),
        ({"inference": jl.LangevinPosterior(2)}, "gives a distribution"),
    ],
)
def test_what_does_not_fit_is_one_sentence(change, says):
    parts = {
        "prior": jl.EBMPrior((DIM,), f=(4,), steps=2),
        "generator": jl.GaussianGenerator(decoder()),
        "inference": jl.GaussianEncoder(TwoHeads()),
        "objective": jl.Variational(),
    }
    parts |= {k: v for k, v in change.items() if k in parts}
    options = {"images": pictures(6), "steps": 1, "batch": 3, "progress": False}
    options |= {k: v for k, v in change.items() if k not in parts}
    with pytest.raises(UsageError, match=says):
        jl.fit(jl.System(**parts), options.pop("images"), **options)


def test_exchanged_parts_are_saved_as_what_they_are(tmp_path):
    """A part put into a system of the table: its configuration does not describe it any more."""
    from jlebm_core import systems

    system = systems.build(systems.configure("vae", "data", (1, 28, 28)))
    system.save(tmp_path / "whole")
    assert jl.load(tmp_path / "whole").config == system.config
    dim = sum(system.dims)
    net = nn.Sequential(nn.Linear(dim, 784), nn.Unflatten(1, (1, 28, 28)))
    system.generator = jl.GaussianGenerator(net)
    system.save(tmp_path / "own")
    with pytest.raises(UsageError, match="parts of your own"):
        jl.load(tmp_path / "own")
    assert jl.load_weights(system, tmp_path / "own") is system
    with pytest.raises(UsageError, match="do not fit this system"):
        jl.load_weights(systems.build(system.config), tmp_path / "own")
