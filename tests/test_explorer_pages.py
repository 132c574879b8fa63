"""The explorer as a reader meets it on the built pages, in headless Chromium: every control."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SETTLE, SITE, patience
from test_explorer_engine import Random
from test_explorer_links import page_of

from jlebm_core import systems
from jlebm_core.explorer import LatentExplorer

pytestmark = pytest.mark.pages

JOINT, VLAE = "joint-ebm-mnist-s0", "vlae-mnist-s0"
PAGES = [
    *("intro.html", "02_latent_ebm.html", "04_joint_prior.html", "05_hierarchical_features.html"),
]
STATE = """() => {
  const {z, keep, model, focus, index} = document.querySelector(".jx-root").explorer;
  return {z: [...z], keep, focus, index, f: model.f.value(z), dims: model.dims};
}"""
PIXELS = """(canvas) => {
  const {width, height} = canvas, context = canvas.getContext("2d");
  return [...context.getImageData(0, 0, width, height).data].filter((_, i) => i % 4 == 0);
}"""
CHANNELS = """(canvas) => {
  const {width, height} = canvas, context = canvas.getContext("2d");
  const {data} = context.getImageData(0, 0, width, height);
  return [0, 1, 2].map((c) => [...data].filter((_, i) => i % 4 == c));
}"""
CUT_OFF = """() => [...document.querySelectorAll(".jx-sliders .widget-label")]
  .filter((e) => e.checkVisibility() && e.scrollWidth > e.clientWidth).map((e) => e.textContent)"""
CLOCK = """const clock = setInterval(() => { // when the first picture has been drawn
  if (!document.querySelector(".jx-root")?.explorer?.link.hash) return;
  window.firstPicture = performance.now();
  clearInterval(clock);
}, 20);"""
CLOUD = """() => {
  const {planes: [{reach}], cloud} = document.querySelector(".jx-root").explorer;
  return {reach, codes: cloud.codes.map((z) => [...z]), trail: cloud.trail.length};
}"""
NAMELESS = """() => [...document.querySelectorAll(
    ".jx-explorer :is(button, select, input, a, [role=slider], [role=img])")]
  .filter((e) => e.checkVisibility())
  .filter((e) => !(e.ariaLabel || e.labels?.length || e.textContent.trim()))
  .map((e) => e.outerHTML.slice(0, 120))"""
SMALLEST = """() => Math.min(...[...document.querySelectorAll(
    ".jx-explorer button:not(.jx-tile, .jx-cell)")]
  .filter((e) => e.checkVisibility()).map((e) => e.getBoundingClientRect().height))"""
CONTRAST = """() => { // of the faintest text with its background, as WCAG defines it
  const box = document.querySelector(".jx-explorer");
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((v) => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = light(getComputedStyle(box).backgroundColor);
  const texts = "p, b, label, output, .jx-note, .widget-label, .widget-readout";
  return Math.min(...[...box.querySelectorAll(texts)]
    .filter((e) => e.checkVisibility() && e.textContent.trim())
    .map((e) => light(getComputedStyle(e).color))
    .map((ink) => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05)));
}"""


class Reader:
    """A page with an explorer, watched for complaints and requests to strangers."""

    def __init__(self, browser, address, name="intro.html", **context):
        self.context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, **context}
        )
        self.page = self.context.new_page()
        self.complaints, self.base = [], address
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._follow)
        self.page.goto(f"{address}/{name}")
        self.page.wait_for_selector(".jx-layer .noUi-handle")
        self.root = self.page.locator(".jx-explorer").first
        self.root.scroll_into_view_if_needed()
        self.page.wait_for_selector(".jx-picture")
        self.settle()

    def _listen(self, message):
        if message.type == "error":
            self.complaints.append(message.text)

    def _follow(self, request):
        if not request.url.startswith((self.base, "data:", "blob:")):
            self.complaints.append(f"request to {request.url}")

    def settle(self):
        self.page.evaluate(SETTLE)

    def state(self):
        return self.page.evaluate(STATE)

    def pixels(self, selector=".jx-picture", k=0):
        return np.array(self.page.locator(selector).nth(k).evaluate(PIXELS))

    def button(self, name):
        return self.root.get_by_role("button", name=name, exact=True)

    def tab(self, name):
        self.root.get_by_role("tab", name=name).click()
        self.settle()

    def choose(self, title, index):
        """Choose a model by its title, and wait until its weights have come."""
        self.page.get_by_label("Model").select_option(title)
        chosen = f"() => document.querySelector('.jx-root').explorer.index === {index}"
        self.page.wait_for_function(chosen)
        self.settle()

    def run(self, until):
        """Run the chain until ``until``, a condition in JavaScript on the explorer e."""
        self.button("Run").click()
        found = "document.querySelector('.jx-root').explorer"
        self.page.wait_for_function(f"() => {{ const e = {found}; return {until}; }}")

    def slider(self, name):
        return self.page.get_by_role("slider", name=name, exact=True)

    def press(self, name, key, times=1):
        """Move a slider by the keyboard."""
        self.slider(name).focus()
        for _ in range(times):
            self.page.keyboard.press(key)
        self.settle()


@pytest.fixture
def reader(browser, addresses):
    """Opens pages, and says at the end what they complained about."""
    opened = []

    def opener(name="intro.html", way="file", **context):
        opened.append(Reader(browser, addresses[way], name, **context))
        return opened[-1]

    yield opener
    for r in opened:
        r.context.close()
        assert r.complaints == []


@pytest.fixture(scope="module")
def joint():
    return systems.shipped(JOINT)


def grey(system, z):
    """The picture of a code in PyTorch, as 8-bit numbers."""
    x = system.decode(torch.tensor([z], dtype=torch.float32))[0]
    return ((x + 1) * 127.5).round().clamp(0, 255)[0].flatten().numpy()


def same_picture(found, truth):
    return np.abs(found - truth).max() <= 2


@pytest.mark.parametrize("way", ["file", "http"])
def test_sliders_move_the_picture_to_what_pytorch_draws(reader, joint, way):
    r = reader(way=way)
    before, first = r.state()["z"], r.pixels()
    assert same_picture(first, grey(joint, before))
    for name, i, key, step in (
        ("z₃, 1", 4, "ArrowRight", 0.05),
        ("z₂, 2", 3, "ArrowLeft", -0.05),
        ("z₁, 1", 0, "PageUp", 0.25),
    ):
        r.press(name, key, 8)
        after = r.state()["z"]
        moved = np.flatnonzero(np.abs(np.subtract(after, before)) > 1e-6)
        assert moved.tolist() == [i]
        assert abs(after[i] - before[i] - 8 * step) < 0.026  # it starts from the rounded value
        assert same_picture(r.pixels(), grey(joint, after))
        before = after
    assert np.abs(r.pixels() - first).max() > 50  # and it is another picture


def test_a_slider_follows_the_mouse(reader, joint):
    r = reader()
    box = r.slider("z₃, 2").bounding_box()
    r.page.mouse.move(box["x"] + 8, box["y"] + 8)
    r.page.mouse.down()
    r.page.mouse.move(box["x"] + 48, box["y"] + 8, steps=4)
    r.page.mouse.up()
    r.settle()
    assert r.state()["focus"] == 5
    assert same_picture(r.pixels(), grey(joint, r.state()["z"]))


def test_kept_layers_stay_while_the_others_are_drawn_anew(reader, joint):
    r = reader()
    for check in (0, 1):  # top and middle
        r.page.locator(".jx-title input[type=checkbox]").nth(check).check()
    before = r.state()
    assert before["keep"] == [False, True, True]
    r.button("New sample").click()
    r.settle()
    after = r.state()
    assert after["z"][2:] == before["z"][2:]
    assert all(a != b for a, b in zip(after["z"][:2], before["z"][:2], strict=True))
    assert same_picture(r.pixels(), grey(joint, after["z"]))


def test_new_samples_come_from_the_prior(reader, joint):
    r = reader()
    f = []
    for _ in range(30):
        r.button("New sample").click()
        r.settle()
        f.append(r.state()["f"])
    with torch.no_grad():
        known = joint.prior.f(joint.prior.sample(2000, rng=torch.Generator().manual_seed(0)))
    assert abs(np.mean(f) - known.mean()) < 5 * known.std() / 30**0.5
    r.button("Set to 0").click()
    r.settle()
    assert r.state()["z"] == [0] * 10


def test_walk_shows_nine_values_of_one_coordinate(reader, joint):
    r = reader()
    r.page.get_by_label("Walk along").select_option("z₂, 1")
    r.settle()
    z = r.state()["z"]
    values = np.linspace(-5.5, 5.5, 9)
    shown = [float(t) for t in r.page.locator(".jx-cell .jx-value").all_text_contents()]
    np.testing.assert_allclose(shown, values, atol=0.051)
    for k in (0, 4, 8):
        truth = grey(joint, [*z[:2], values[k], *z[3:]])
        assert same_picture(r.pixels(".jx-cell canvas", k), truth)
    heights = r.page.locator(".jx-fill").evaluate_all("all => all.map((e) => e.offsetHeight)")
    assert heights == heights[::-1] and heights[4] == 0 and sorted(heights[4:]) == heights[4:]
    r.page.locator(".jx-cell").nth(7).click()
    r.settle()
    assert abs(r.state()["z"][2] - values[7]) < 1e-6 and r.page.locator(".jx-here").count() == 1


def test_langevin_step_by_step_and_running(reader, joint):
    r = reader()
    r.tab("Langevin")
    r.button("Restart at N(0, I)").click()
    r.settle()
    start = r.state()["z"]
    for _ in range(3):
        r.button("Step").click()
    r.settle()
    assert r.page.locator(".jx-panel [role=status]").first.text_content() == "step 3"
    assert r.page.locator(".jx-curve polyline").get_attribute("points").count(",") == 3
    r.run("e.active.steps >= 40")
    r.button("Pause").click()
    r.settle()
    state = r.state()
    assert np.linalg.norm(np.subtract(state["z"], start)) > 0.5
    with torch.no_grad():
        truth = joint.prior.f(torch.tensor([state["z"]])).item()
    assert abs(state["f"] - truth) < 1e-4
    assert r.page.locator(".jx-readout").text_content() == f"f(z) = {state['f']:.2f}"
    assert same_picture(r.pixels(), grey(joint, state["z"]))
    assert r.state()["z"] == state["z"]  # it has stopped
    readouts = r.page.locator(".jx-sliders .widget-readout").all_text_contents()
    top = [float(t.replace("−", "-")) for t in readouts[:6]]
    end = float(r.slider("z₃, 1").get_attribute("aria-valuemax"))  # of the page's widest model
    np.testing.assert_allclose(top, np.clip(state["z"][4:], -end, end), atol=0.051)


def test_a_running_chain_is_not_disturbed_by_the_sliders_that_follow_it(reader, joint):
    r = reader()
    r.tab("Langevin")
    z = torch.tensor([r.state()["z"]])
    seed = """() => { const e = document.querySelector(".jx-root").explorer;
      e.random = new e.random.constructor(5); }"""
    r.page.evaluate(seed)
    r.run("e.active.steps >= 5")
    r.button("Pause").click()
    r.settle()
    steps = int(r.page.locator(".jx-panel [role=status]").first.text_content().split()[1])
    assert steps >= 5
    random = Random(5)
    for _ in range(steps):
        z.requires_grad_()
        (grad,) = torch.autograd.grad(joint.prior.log_prob(z).sum(), z)
        eps = torch.tensor([[random.normal() for _ in range(10)]])
        z = (z + 0.08 * grad + 0.4 * eps).detach()
    np.testing.assert_allclose(r.state()["z"], z[0], atol=1e-3)


def test_temperature_and_step_size_are_those_of_the_chain(reader, joint):
    r = reader()
    r.tab("Langevin")
    r.page.get_by_label("temperature").fill("0")
    r.page.get_by_label("step size s").fill("0.2")
    z = torch.tensor([r.state()["z"]])
    r.button("Step").click()
    r.settle()
    z.requires_grad_()
    (grad,) = torch.autograd.grad(joint.prior.log_prob(z).sum(), z)
    np.testing.assert_allclose(r.state()["z"], (z + 0.02 * grad)[0].detach(), atol=1e-4)


def test_compare_shows_the_same_starts_without_and_with_the_prior(reader, joint):
    r = reader()
    r.tab("Compare")
    codes = r.page.evaluate("""() => document.querySelector(".jx-root").explorer.active.grids
      .map((g) => g.codes.map((z) => [...z]))""")
    for side in (0, 1):
        for k in (0, 17):
            found = r.pixels(".jx-tile canvas", 18 * side + k)
            assert same_picture(found, grey(joint, codes[side][k]))
    f = [joint.prior.f(torch.tensor(c)).mean().item() for c in codes]
    assert f[1] > f[0]  # the chains climb
    r.page.get_by_label("after K steps, image 3").click()
    r.settle()
    np.testing.assert_allclose(r.state()["z"], codes[1][2], atol=1e-6)
    r.page.get_by_label("steps K").fill("0")
    r.settle()
    assert np.array_equal(r.pixels(".jx-tile canvas", 4), r.pixels(".jx-tile canvas", 22))


def test_a_drawing_and_an_example_are_encoded(reader, joint, not_at_hand):
    r = reader()
    r.tab("Encode")
    box = r.page.locator(".jx-pad").bounding_box()
    at = [
        (box["x"] + a * box["width"], box["y"] + b * box["width"])
        for a, b in ((0.3, 0.2), (0.7, 0.2), (0.4, 0.8))
    ]
    r.page.mouse.move(*at[0])
    r.page.mouse.down()
    for point in at[1:]:
        r.page.mouse.move(*point, steps=6)
    r.page.mouse.up()
    r.settle()
    seen = torch.tensor(r.pixels(".jx-seen"), dtype=torch.float32) / 127.5 - 1
    code = joint.encode(seen.view(1, 1, 28, 28))[0].numpy()
    np.testing.assert_allclose(r.state()["z"], code, atol=0.1)
    ink = seen.view(28, 28) > 0
    assert 30 < ink.sum() < 200 and not ink[0].any() and not ink[-1].any()
    drawn = r.state()["z"]
    if "MNIST" in not_at_hand:
        assert r.page.locator(".jx-examples .jx-tile").count() == 0
    else:
        r.page.get_by_label("Encode example 2").click()
        r.settle()
        assert np.linalg.norm(np.subtract(r.state()["z"], drawn)) > 1
        seen = torch.tensor(r.pixels(".jx-seen"), dtype=torch.float32) / 127.5 - 1
        code = joint.encode(seen.view(1, 1, 28, 28))[0].numpy()
        np.testing.assert_allclose(r.state()["z"], code, atol=0.1)
    assert same_picture(r.pixels(), grey(joint, r.state()["z"]))


def test_an_image_file_is_encoded_and_another_file_is_refused(reader, tmp_path):
    r = reader()
    r.tab("Encode")
    before = r.state()["z"]
    (tmp_path / "x.png").write_bytes(Path(__file__).read_bytes()[:99])
    r.page.locator(".jx-file input").set_input_files(tmp_path / "x.png")
    r.page.get_by_text("This file is not an image.").wait_for()
    assert r.state()["z"] == before
    from PIL import Image

    Image.new("L", (40, 60), 200).save(tmp_path / "y.png")
    r.page.locator(".jx-file input").set_input_files(tmp_path / "y.png")
    r.page.get_by_text("what the encoder sees").wait_for()
    assert r.state()["z"] != before and set(r.pixels(".jx-seen")) == {200}


@pytest.mark.parametrize("way", ["file", "http"])
def test_another_model_is_fetched_and_chosen(reader, way):
    r = reader(way=way)
    r.choose("MNIST: VLAE (prior N(0, I))", 1)
    assert r.state()["f"] == 0 and "N(0, I)" in r.page.locator(".jx-readout").text_content()
    r.press("z₃, 4", "ArrowRight", 5)
    assert same_picture(r.pixels(), grey(systems.shipped(VLAE), r.state()["z"]))
    r.choose("MNIST: joint EBM prior", 0)
    assert r.state()["f"] != 0


def test_colour_digits_in_four_layers(reader):
    """The intro's third data set: its sliders, its picture in three channels, its encoder."""
    r, system = reader(), systems.shipped("joint-ebm-glyphs-s0")
    r.choose("Colour digits: joint EBM prior", 4)
    assert r.page.evaluate(CUT_OFF) == []  # the label "10" is the widest
    r.press("z₁, 2", "ArrowRight", 20)
    x = system.decode(torch.tensor([r.state()["z"]]))[0]
    truth = ((x + 1) * 127.5).round().clamp(0, 255).flatten(1).numpy()
    for channel, found in enumerate(r.page.locator(".jx-picture").evaluate(CHANNELS)):
        assert same_picture(np.array(found), truth[channel])
    r.tab("Encode")
    r.page.get_by_label("Encode example 2").click()
    r.settle()
    image = torch.tensor(r.page.locator(".jx-seen").evaluate(CHANNELS)) / 127.5 - 1
    code = system.encode(image.view(1, 3, 32, 32).float())[0].numpy()
    np.testing.assert_allclose(r.state()["z"], code, atol=0.1)


def test_a_model_that_does_not_come_leaves_the_present_one(browser, addresses):
    r = Reader(browser, addresses["http"])
    r.page.route("**/models/*.js", lambda route: route.abort())
    before = r.state()
    r.page.get_by_label("Model").select_option(index=1)
    r.page.get_by_text("could not be loaded").wait_for()
    assert (
        r.state() == before and r.page.get_by_label("Model").evaluate("(e) => e.selectedIndex") == 0
    )
    r.context.close()


def test_a_first_model_that_does_not_come_is_said(browser, addresses):
    page = browser.new_page()
    page.route("**/models/*.js", lambda route: route.abort())
    page.goto(f"{addresses['http']}/intro.html")
    page.locator(".jx-explorer").get_by_text(
        "MNIST: joint EBM prior could not be loaded."
    ).wait_for()
    page.close()


def test_examples_are_those_of_the_data_set(reader, not_at_hand):
    """Ten of each set that was at hand when the page was built, and none of another's."""
    r, first = reader(), {}
    r.tab("Encode")
    for title, index in (("MNIST", 0), ("Fashion-MNIST", 2), ("Colour digits", 4)):
        r.choose(f"{title}: joint EBM prior", index)
        tiles = r.page.locator(".jx-examples canvas")
        assert tiles.count() == (0 if title in not_at_hand else 10), title
        if title not in not_at_hand:
            first[title] = tiles.first.evaluate("(canvas) => canvas.toDataURL()")
    assert "Colour digits" in first and len(set(first.values())) == len(first)
    said = r.page.get_by_text("is not at hand and could not be downloaded").all_text_contents()
    for title in ("MNIST", "Fashion-MNIST"):
        lines = [line for text in said for line in text.splitlines()]
        assert any(line.startswith(f"{title} is") for line in lines) == (title in not_at_hand)


def test_models_with_other_layers_bring_their_own_sliders(browser, tmp_path, joint):
    glyphs = systems.shipped("joint-ebm-glyphs-s0")
    lebm = systems.shipped("lebm-mnist-s0")
    file = page_of(LatentExplorer({"a": joint, "b": glyphs, "c": lebm}), tmp_path)
    r = Reader(browser, "file://", str(file))
    shown = """() => [...document.querySelectorAll(".jx-layer")].filter((e) => e.checkVisibility())
      .map((e) => e.querySelectorAll(".noUi-handle").length)"""
    assert r.page.evaluate(shown) == [6, 2, 2]  # top layer first
    r.page.get_by_label("Model").select_option("b")
    r.settle()
    assert r.page.evaluate(shown) == [10, 2, 2, 2] and len(r.state()["z"]) == 16
    r.press("z₄, 10", "ArrowRight", 9)
    assert r.state()["focus"] == 15
    truth = (glyphs.decode(torch.tensor([r.state()["z"]]))[0, 0] + 1) * 127.5
    assert same_picture(r.pixels(), truth.round().flatten().numpy())
    r.page.get_by_label("Model").select_option("c")
    r.settle()
    assert r.page.evaluate(shown) == [10]
    r.tab("Encode")  # LEBM has no encoder
    assert r.page.get_by_text("without an inference network").is_visible()
    assert r.complaints == []
    r.context.close()


def test_the_link_restores_the_state(reader, joint):
    r = reader()
    r.button("New sample").click()
    r.page.locator(".jx-title input[type=checkbox]").nth(1).check()
    r.tab("Compare")
    r.press("z₃, 1", "ArrowRight", 3)
    link = r.page.get_by_role("link", name="Link to this state").get_attribute("href")
    there = reader("intro.html" + link)
    a, b = r.state(), there.state()
    np.testing.assert_allclose(a["z"], b["z"], atol=5.1e-4)
    assert a["keep"] == b["keep"] == [False, True, False]
    assert there.page.get_by_role("tab", name="Compare").get_attribute("aria-selected") == "true"
    assert same_picture(there.pixels(), grey(joint, b["z"]))
    code = "_".join(["0.5"] * 10)
    there = reader(f"intro.html#explorer=vlae-mnist&z={code}&keep=3&panel=langevin")
    there.page.wait_for_function("() => document.querySelector('.jx-root').explorer.index === 1")
    assert there.state()["z"] == [0.5] * 10 and there.state()["keep"] == [False, False, True]
    first = reader("intro.html").state()["z"]
    for wrong in ("#explorer=nothing&z=1", "#explorer=joint-ebm-mnist&z=1_2", "#conventions"):
        state = reader("intro.html" + wrong).state()  # not ours: nothing happens
        assert state["index"] == 0 and state["z"] == first


def test_the_plane_shows_density_and_chains(reader):
    r = reader("02_latent_ebm.html")
    assert r.state()["dims"] == [2] and r.page.get_by_role("tab").count() == 0
    before, first = r.page.evaluate(CLOUD), r.pixels()
    assert len(before["codes"]) == 200 and before["trail"] == 0
    r.page.locator(".jx-picture").click(position={"x": 170, "y": 85})
    r.settle()
    width = r.page.locator(".jx-picture").bounding_box()["width"]
    at = [before["reach"] * (2 * v / width - 1) for v in (170, width - 85)]
    np.testing.assert_allclose(r.state()["z"], at, atol=0.02)
    for _ in range(5):
        r.button("Step").click()
    r.settle()
    after = r.page.evaluate(CLOUD)
    assert after["trail"] == 5 and np.all(np.array(after["codes"]) != np.array(before["codes"]))
    assert (r.pixels() != first).any()


def test_clouds_of_two_layers(reader):
    r = reader("05_hierarchical_features.html")
    assert r.state()["dims"] == [2, 2]
    assert r.page.locator(".jx-picture").count() == 1  # the page's other explorer is far away
    pictures = r.root.locator(".jx-plane")  # top layer first

    def colours(k):
        "How many pixels of a plane are blue, orange, grey, white."
        red, green, blue = np.array(pictures.nth(k).evaluate(CHANNELS))
        grey = (red == green) & (green == blue)
        return (blue > red).sum(), (red > blue).sum(), (grey & (red < 250)).sum()

    r.button("Restart at N(0, I)").click()
    r.settle()
    start = np.array(r.page.evaluate(CLOUD)["codes"])
    assert start.shape == (200, 4) and abs(start.mean()) < 5 / 800**0.5
    for k in (0, 1):
        assert min(colours(k)) > 2000
    z, before = r.state()["z"], r.pixels(".jx-plane", 1)
    box = pictures.nth(0).bounding_box()
    pictures.nth(0).click(position={"x": 0.2 * box["width"], "y": 0.7 * box["height"]})
    r.settle()
    moved, reach = r.state()["z"], r.page.evaluate(CLOUD)["reach"]
    assert moved[:2] == z[:2] and r.state()["focus"] == 2
    np.testing.assert_allclose(moved[2:], [-0.6 * reach, -0.4 * reach], atol=0.05)
    assert (r.pixels(".jx-plane", 1) != before).any()  # the density given another z_2

    r.root.locator(".jx-title input[type=checkbox]").first.check()  # z_2
    r.button("Restart at N(0, I)").click()
    size = "Math.hypot(...e.cloud.codes.map((z, i) => z[0] - window.start[i]))"
    r.page.evaluate("""() => { const {cloud} = document.querySelector(".jx-root").explorer;
      window.start = cloud.codes.map((z) => z[0]); }""")
    r.run(f"{size} > 4")  # 200 chains are under way
    assert colours(0)[2] < 2000  # while it runs there are dots alone
    r.button("Pause").click()
    r.settle()
    codes = np.array(r.page.evaluate(CLOUD)["codes"])
    assert (codes[:, 2:] == codes[0, 2:]).all() and codes[:, :2].std() > 0.3
    np.testing.assert_allclose(codes[0, 2:], moved[2:], atol=1e-6)
    assert colours(0)[2] > 2000


@pytest.mark.parametrize("name", PAGES)
def test_everything_has_a_name_and_answers_the_keyboard(reader, name):
    r = reader(name)
    for explorer in r.page.locator(".jx-explorer").all():
        explorer.scroll_into_view_if_needed()  # then its weights come
        explorer.locator(".jx-picture").wait_for()
    for tab in r.page.get_by_role("tab").all():
        tab.focus()  # as the arrow keys do
        r.settle()
        assert r.page.evaluate(NAMELESS) == []
    assert r.page.evaluate(NAMELESS) == []
    if name == "intro.html":
        r.page.get_by_role("tab", name="Walk").focus()
        r.page.keyboard.press("ArrowRight")
        assert r.page.evaluate("() => document.activeElement.textContent") == "Langevin"
        assert r.page.get_by_role("tab", selected=True).text_content() == "Langevin"


@pytest.mark.parametrize("name", PAGES)
def test_touch_on_a_telephone(reader, name):
    r = reader(name, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    wide = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert r.page.evaluate(wide) <= 0
    before = r.state()["z"]
    box = r.page.locator(".jx-sliders .noUi-target").first.bounding_box()
    r.page.touchscreen.tap(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2)
    r.settle()
    assert r.state()["z"] != before
    assert r.page.evaluate(SMALLEST) >= 32
    if len(r.state()["dims"]) > 1:  # the picture stays in sight while the panels are used
        r.page.locator(".jx-panel").evaluate(
            "(e) => e.scrollIntoView({block: 'end', behavior: 'instant'})"
        )
        top = r.page.locator(".jx-picture").bounding_box()["y"]
        header = r.page.locator(".bd-header-article").bounding_box()
        assert header["y"] + header["height"] <= top < 200


def test_nothing_jumps(reader):
    r = reader()
    box = r.page.locator(".jx-explorer").bounding_box()
    for tab in ("Langevin", "Compare", "Encode", "Walk"):
        r.tab(tab)
        assert r.page.locator(".jx-explorer").bounding_box() == box, tab
    r.button("New sample").click()
    r.settle()
    assert r.page.locator(".jx-explorer").bounding_box() == box


def test_less_motion(reader):
    r = reader(reduced_motion="reduce")
    r.tab("Langevin")
    r.button("Run").click()
    r.settle()
    assert r.page.locator(".jx-panel [role=status]").first.text_content() == "step 60"
    state = r.state()
    r.page.wait_for_timeout(300)
    assert r.state() == state


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(reader, theme):
    r = reader(color_scheme=theme)
    r.page.evaluate(f"""async () => {{
      document.documentElement.dataset.theme = '{theme}';
      await new Promise(requestAnimationFrame); // then transitions of colours are under way
      await Promise.allSettled(document.getAnimations().map((a) => a.finished));
    }}""")
    assert r.page.evaluate(CONTRAST) >= 4.5  # WCAG 2.2, AA


def test_without_javascript_there_is_a_sentence(browser, addresses):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{addresses['file']}/intro.html")
    last = page.locator("noscript").last
    assert "needs JavaScript" in last.inner_text() and last.bounding_box()["height"] > 0
    context.close()


def first_picture(browser, addresses, name):
    """Seconds until a page's first picture, and the addresses that it asked for."""
    context = browser.new_context()
    page, urls = context.new_page(), set()
    page.on("response", lambda response: urls.add(response.url))
    page.add_init_script(CLOCK)
    page.goto(f"{addresses['http']}/{name}")
    page.wait_for_function("() => window.firstPicture")
    seconds = page.evaluate("() => window.firstPicture / 1000")
    page.wait_for_load_state("networkidle")
    context.close()
    return seconds, urls


@pytest.mark.parametrize("name", [*PAGES, "08_long_run_langevin.html"])
def test_weight_of_a_start(browser, addresses, name):
    """What a server sends until the first picture and after it, compressed as servers do."""
    seconds, urls = first_picture(browser, addresses, name)
    paths = {SITE / u.removeprefix(addresses["http"] + "/").split("?")[0] for u in urls}
    files = [path.read_bytes() for path in paths if path.is_file()]
    sent = sum(len(gzip.compress(f, 6)) for f in files)
    print(f"{name}: {len(files)} files, {sum(map(len, files)) / 1e6:.2f} MB, {sent / 1e6:.2f} MB")
    print(f"compressed; first picture after {seconds} s")
    assert len(files) > 10 and sent <= 6e6


@pytest.mark.slow  # it looks at a clock
@pytest.mark.parametrize("name", [*PAGES, "08_long_run_langevin.html"])
def test_the_first_picture_comes_soon(browser, addresses, name):
    seconds = [first_picture(browser, addresses, name)[0] for _ in range(3)]
    assert min(seconds) <= 2 * patience()
