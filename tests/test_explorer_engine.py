"""The explorer's JavaScript in headless Chromium against PyTorch, NumPy and exact answers."""

import base64
import math

import numpy as np
import pytest
import torch
from conftest import EXPLORABLE, patience, slider_values

from jlebm_core import systems
from jlebm_core.configs import Config
from jlebm_core.explorer import describe
from jlebm_core.explorer.widget import script
from jlebm_core.nets import ACTIVATIONS
from jlebm_core.priors import EBMPrior

pytestmark = pytest.mark.pages

LOAD = """async (source) => {
  window.jx = await import(URL.createObjectURL(new Blob([source], {type: "text/javascript"})));
}"""
OPEN = """async (file) => {
  const bytes = new Uint8Array(await (await fetch("data:;base64," + file)).arrayBuffer());
  window.model = new jx.Model({bytes}).open();
}"""
DECODE = "(codes) => codes.map((z) => [...model.decode(Float32Array.from(z))])"
ENCODE = "(images) => images.map((x) => [...model.encode(Float32Array.from(x))])"
GRADIENT = """(codes) => codes.map((z) => {
  const grad = new Float32Array(z.length), f = model.f.gradient(Float32Array.from(z), grad);
  return [f, ...grad];
})"""
CHAIN = """([z, seed, steps, stepSize, temperature]) => {
  const random = new jx.Random(seed), at = Float32Array.from(z);
  for (let k = 0; k < steps; k++) jx.langevinStep(model.f, at, random, {stepSize, temperature});
  return [...at];
}"""
HELD = """() => {
  const z = Float32Array.from([1, 2, 3]), random = new jx.Random(5), free = [1, 0, 1];
  for (let k = 0; k < 9; k++) jx.langevinStep(model.f, z, random, {stepSize: 0.3, free});
  return [...z];
}"""
SHADES = """([z, at, side]) => {
  const shades = ["#000000", "#404040", "#808080", "#c0c0c0", "#ffffff"]; // in proportion
  const plane = new jx.Plane(model, at, {side, shades}), job = plane.shade(Float32Array.from(z));
  while (!job.next().done);
  const {data} = plane.background.getContext("2d").getImageData(0, 0, side, side);
  return [...data].filter((_, i) => i % 4 == 0);
}"""
CLOUD = """([z, steps, stepSize, free]) => {
  const cloud = new jx.Cloud(model, new jx.Random(3), 2000);
  cloud.restart(z, free);
  for (let k = 0; k < steps; k++) cloud.step({stepSize, free});
  return cloud.codes.map((code) => [...code]);
}"""
FRAME = """(codes) => {
  const canvas = document.createElement("canvas"), times = [];
  for (const z of codes) {
    const start = performance.now();
    jx.paint(canvas, model.decode(Float32Array.from(z)), model.image);
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b)[times.length >> 1];
}"""


class Random:
    """The explorer's generator: xoshiro128** seeded by splitmix32; normals by Box and Muller."""

    def __init__(self, seed):
        self.state, self.spare, x = [], None, seed
        for _ in range(4):
            x = (x + 0x9E3779B9) & 0xFFFFFFFF
            y = ((x ^ x >> 16) * 0x21F0AAAD) & 0xFFFFFFFF
            y = ((y ^ y >> 15) * 0x735A2D97) & 0xFFFFFFFF
            self.state.append(y ^ y >> 15)

    def bits(self):
        def turn(v, k):
            return (v << k | v >> 32 - k) & 0xFFFFFFFF

        s = self.state
        result, t = turn(s[1] * 5 & 0xFFFFFFFF, 7) * 9 & 0xFFFFFFFF, s[1] << 9 & 0xFFFFFFFF
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = turn(s[3], 11)
        return result

    def uniform(self):
        return (self.bits() + 0.5) / 2**32

    def normal(self):
        if self.spare is not None:
            z, self.spare = self.spare, None
            return z
        r, t = math.sqrt(-2 * math.log(self.uniform())), 2 * math.pi * self.uniform()
        self.spare = r * math.sin(t)
        return r * math.cos(t)


@pytest.fixture(scope="module")
def engine(browser):
    """A blank page with the explorer's module as ``jx``."""
    page = browser.new_page()
    page.goto("about:blank")
    page.evaluate(LOAD, script())
    yield page
    page.close()


def opened(page, part):
    """Give ``part`` to the page as ``model``."""
    page.evaluate(OPEN, base64.b64encode(describe(part).to_bytes()).decode())
    return part


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", EXPLORABLE)
def test_pixels(engine, name):
    system = opened(engine, systems.shipped(name))
    codes = system.prior.sample(60, rng=seeded(1))
    z = slider_values(system, codes)
    found = np.array(engine.evaluate(DECODE, z[:6].tolist()))
    truth = system.decode(codes[:6]).flatten(1).numpy()
    assert np.abs(np.round((found + 1) * 127.5) - np.round((truth + 1) * 127.5)).max() <= 2
    assert np.abs(found[0] - found[1]).max() > 0.1  # not one picture for all


@pytest.mark.slow  # it looks at a clock
@pytest.mark.parametrize("name", EXPLORABLE)
def test_frame_time(engine, name):
    system = opened(engine, systems.shipped(name))
    z = slider_values(system, system.prior.sample(60, rng=seeded(1)))
    limit = 16 if system.config.image[0] == 1 else 33
    engine.evaluate(FRAME, z[:10].tolist())  # compiled by now
    median = min(engine.evaluate(FRAME, z.tolist()) for _ in range(3))
    print(f"{name}: {median:.1f} ms a frame, {patience():.1f} programs for each core")
    assert median <= limit * patience()


@pytest.mark.parametrize("name", ["joint-ebm-mnist-s0", "vae-mnist-s0", "joint-ebm-glyphs-s0"])
def test_encoder(engine, name):
    system = opened(engine, systems.shipped(name))
    x = system.sample(6, rng=seeded(2))
    found = np.array(engine.evaluate(ENCODE, x.flatten(1).tolist()))
    assert np.abs(found - system.encode(x).numpy()).max() < 0.1  # its weights have 8 bits


@pytest.mark.parametrize("act", [a for a in ACTIVATIONS if a != "none"])
def test_gradient_of_f(engine, act):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior = EBMPrior((3, 2), (9, 8, 7), act=act)
    for w in prior.parameters():
        w.data = w.half().float()  # what an export keeps
    opened(engine, prior)
    z = (2 * torch.randn(20, 5, generator=seeded(3))).requires_grad_()
    f = prior.f(z)
    (grad,) = torch.autograd.grad(f.sum(), z)
    truth = torch.cat([f[:, None], grad], 1).detach().numpy()
    np.testing.assert_allclose(engine.evaluate(GRADIENT, z.tolist()), truth, atol=2e-6)


def test_noise_is_reproducible_and_normal(engine):
    found = engine.evaluate(
        "() => { const r = new jx.Random(7); return Array.from(Array(1001), () => r.normal()); }"
    )
    random = Random(7)
    np.testing.assert_allclose(found, [random.normal() for _ in range(1001)], rtol=1e-12)
    n = 200_000
    count = """(n) => { const r = new jx.Random(1), s = [0, 0, 0, 0]; for (let i = 0; i < n; i++) {
      const z = r.normal(); for (let k = 0; k < 4; k++) s[k] += z ** (k + 1) / n; } return s; }"""
    for value, exact, spread in zip(
        engine.evaluate(count, n), (0, 1, 0, 3), (1, 2, 15, 96), strict=True
    ):
        assert abs(value - exact) < 5 * math.sqrt(spread / n)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_two_hundred_steps_are_those_of_the_python_sampler(engine, temperature):
    system, steps, s = opened(engine, systems.shipped("joint-ebm-mnist-s0")), 200, 0.4
    start = torch.randn(1, system.prior.dim, generator=seeded(4))
    random = Random(11)
    z = start.clone()
    for _ in range(steps):
        eps = torch.tensor([[random.normal() for _ in range(system.prior.dim)]])
        z = z.requires_grad_()
        (grad,) = torch.autograd.grad(system.prior.log_prob(z).sum(), z)
        z = (z + s**2 / 2 * grad + s * temperature * eps).detach()
    found = engine.evaluate(CHAIN, [start[0].tolist(), 11, steps, s, temperature])
    assert (z[0] - start[0]).norm() > 1  # it went somewhere
    np.testing.assert_allclose(found, z[0].numpy(), atol=1e-3)


@pytest.mark.parametrize("s, temperature", [(0.4, 1.0), (1.0, 1.0), (1.0, 0.5)])
def test_without_f_the_chain_has_the_exact_variance(engine, s, temperature):
    opened(engine, EBMPrior((4000,), f=()))
    # z' = (1 - s^2/2) z + s T eps has variance T^2 / (1 - s^2/4); 100 steps forget the start
    exact = temperature**2 / (1 - s**2 / 4)
    z = np.concatenate(
        [engine.evaluate(CHAIN, [[0.0] * 4000, seed, 100, s, temperature]) for seed in range(5)]
    )
    assert abs(z.var() / exact - 1) < 5 * math.sqrt(2 / len(z))
    assert abs(z.mean()) < 5 * math.sqrt(exact / len(z))


def test_kept_coordinates_stay_and_the_rest_does_not_change_its_noise(engine):
    opened(engine, EBMPrior((3,), f=()))
    held = engine.evaluate(HELD)
    free = engine.evaluate(CHAIN, [[1, 2, 3], 5, 9, 0.3, 1])
    assert held[1] == 2 and (held[0], held[2]) == (free[0], free[2]) and free[1] != 2


@pytest.mark.parametrize("at", [0, 2])
def test_shades_are_the_density_of_a_layer_given_the_other(engine, at):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        prior = EBMPrior((2, 2), (30, 30))
    for w in prior.parameters():
        w.data = (1.5 * w).half().float()
    opened(engine, prior)
    reach, side, z = describe(prior).description["reach"], 25, [1.0, -0.5, 0.7, 1.2]
    places = reach * ((2 * torch.arange(side) + 1) / side - 1)
    codes = torch.tensor(z).repeat(side * side, 1)
    codes[:, at], codes[:, at + 1] = places.repeat(side), -places.repeat_interleave(side)
    log = prior.log_prob(codes).detach()
    found = np.array(engine.evaluate(SHADES, [z, at, side]))
    np.testing.assert_allclose(found, 255 * (log - log.max()).exp(), atol=2)
    assert 10 < (found > 128).sum() < 300  # neither a spike nor flat


def test_a_cloud_has_the_exact_variance_and_holds_what_is_kept(engine):
    opened(engine, EBMPrior((2, 2), f=()))
    s, free = 0.6, [1, 1, 0, 0]
    codes = np.array(engine.evaluate(CLOUD, [[9, 9, 1, 2], 60, s, free]))
    assert (codes[:, 2:] == [1, 2]).all()
    exact = 1 / (1 - s**2 / 4)
    assert abs(codes[:, :2].var() / exact - 1) < 5 * math.sqrt(2 / 4000)
    assert abs(codes[:, :2].mean()) < 5 * math.sqrt(exact / 4000)


@pytest.mark.parametrize("row", ["sri", "biva"])
def test_gaussian_chains_in_their_noises(engine, row):
    system = systems.build(systems.configure(row, "mnist", (1, 28, 28)), seed=0).eval()
    opened(engine, system)
    eps = torch.randn(3, system.prior.dim, generator=seeded(8))
    z = system.prior.from_noise(eps) if row == "biva" else eps
    found = engine.evaluate(DECODE, eps.tolist())
    np.testing.assert_allclose(found, system.decode(z).flatten(1), atol=2 / 255)
    assert engine.evaluate("() => model.coordinate(0)") == "ε₁, 1"


def test_every_kind_of_layer(engine):
    layers = {
        "dims": (2, 3),
        "levels": ("up 6, conv 5 gelu, conv C tanh", "fc 13, map 4 4"),
        "trunk": ("down 4 silu",),
        "ladders": ("down 3", "down 5, fc 9 relu"),
    }
    for join in ("concat", "add"):
        config = Config(system="joint-ebm", data="toy", image=(3, 8, 8), join=join, **layers)
        system = opened(engine, systems.build(config, seed=0).eval())
        z = torch.randn(3, 5, generator=seeded(6))
        x = system.decode(z)
        found = engine.evaluate(DECODE, z.tolist())
        np.testing.assert_allclose(found, x.flatten(1), atol=2 / 255)
        codes = engine.evaluate(ENCODE, x.flatten(1).tolist())
        np.testing.assert_allclose(codes, system.encode(x), atol=0.05)
    single = Config(
        system="vae",
        data="toy",
        image=(3, 8, 8),
        dims=(4,),
        ladders=("down 2",),
        levels=("seed 6 2, up 5, up C tanh",),
    )
    system = opened(engine, systems.build(single, seed=0).eval())
    z = torch.randn(3, 4, generator=seeded(7))
    found = engine.evaluate(DECODE, z.tolist())
    np.testing.assert_allclose(found, system.decode(z).flatten(1), atol=2 / 255)
