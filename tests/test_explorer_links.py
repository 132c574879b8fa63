"""The explorer on a page of its own that gets no model of a link, in headless Chromium.

So it is on Colab, whose manager fetches the models that another one names, and no others.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import SETTLE
from ipywidgets.embed import embed_data

from jlebm_core import systems
from jlebm_core.explorer import LatentExplorer

pytestmark = pytest.mark.pages

BOOK = Path(__file__).resolve().parents[1] / "book"
SCRIPTS = ("widgets/require.js", "boot-widgets.js", "widgets/embed-amd.js")
MIME = "application/vnd.jupyter.widget"
Z = "() => [...document.querySelector('.jx-root').explorer.z]"
KEPT = "() => document.querySelector('.jx-root').explorer.keep"
PICTURE = "() => document.querySelector('.jx-picture').toDataURL()"


def page_of(widget, folder: Path) -> Path:
    """A page that holds ``widget`` alone, without the models of links."""
    parts = embed_data([widget], drop_defaults=False)
    states = parts["manager_state"]["state"]
    for key in [key for key, state in states.items() if "Link" in state["model_name"]]:
        del states[key]
    shutil.copytree(BOOK / "vendor" / "widgets", folder / "widgets")
    shutil.copy(BOOK / "static" / "boot-widgets.js", folder)
    state, view = (json.dumps(part).replace("</", r"<\/") for part in parts.values())
    file = folder / "x.html"
    file.write_text(
        "<!doctype html><meta charset=utf-8>"
        + "".join(f'<script src="{name}"></script>' for name in SCRIPTS)
        + f'<body><script type="{MIME}-state+json">{state}</script>'
        + f'<script type="{MIME}-view+json">{view.strip("[]")}</script>'
    )
    return file


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A page with one explorer of two models, of three layers and of one."""
    parts = {name: systems.shipped(f"{name}-mnist-s0") for name in ("joint-ebm", "lebm")}
    return page_of(LatentExplorer(parts), tmp_path_factory.mktemp("page"))


@pytest.fixture
def page(browser, alone):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(alone.as_uri())
    ready(page)
    yield page
    page.close()


def ready(page):
    page.wait_for_selector(".jx-layer .noUi-handle")
    page.wait_for_selector(".jx-picture")
    page.evaluate(SETTLE)


def press(page, name, times=6):
    page.get_by_role("slider", name=name, exact=True).focus()
    for _ in range(times):
        page.keyboard.press("ArrowRight")
    page.evaluate(SETTLE)


def readouts(page):
    """What the visible sliders say, top layer first."""
    texts = page.locator(".jx-sliders .widget-readout:visible").all_text_contents()
    return [float(text.replace("−", "-")) for text in texts]


def test_each_slider_moves_its_number_and_the_picture(page):
    for name, i in (("z₃, 1", 4), ("z₃, 6", 9), ("z₂, 2", 3), ("z₁, 1", 0)):
        before, picture = page.evaluate(Z), page.evaluate(PICTURE)
        press(page, name)
        moved = np.subtract(page.evaluate(Z), before)
        assert np.flatnonzero(np.abs(moved) > 1e-6).tolist() == [i]
        assert abs(moved[i] - 6 * 0.05) < 0.026  # it starts from the rounded value
        assert page.evaluate(PICTURE) != picture


def test_the_sliders_follow_the_explorer(page):
    page.get_by_role("button", name="Set to 0", exact=True).click()
    page.evaluate(SETTLE)
    assert readouts(page) == [0] * 10
    page.get_by_role("button", name="New sample", exact=True).click()
    page.evaluate(SETTLE)
    z = page.evaluate(Z)
    np.testing.assert_allclose(readouts(page), [*z[4:], *z[2:4], *z[:2]], atol=0.026)


def test_every_layer_has_its_title_and_its_check_box(page):
    titles = page.locator(".jx-title b:visible").all_text_contents()
    assert len(titles) == 3 and all(titles)
    page.locator(".jx-title input[type=checkbox]:visible").first.check()  # of the top layer
    assert page.evaluate(KEPT) == [False, False, True]


def test_another_model_brings_its_own_sliders_and_the_first_ones_come_back(page):
    def choose(k):
        page.get_by_label("Model").select_option(index=k)
        page.evaluate(SETTLE)

    choose(1)
    assert len(readouts(page)) == 10 and page.locator(".jx-layer:visible").count() == 1
    before = page.evaluate(Z)
    press(page, "z₁, 10")
    moved = np.subtract(page.evaluate(Z), before)
    assert np.flatnonzero(np.abs(moved) > 1e-6).tolist() == [9]
    choose(0)
    assert page.locator(".jx-layer:visible").count() == 3
    press(page, "z₁, 2")


def test_in_the_frame_of_another_page_there_is_no_link_to_the_state(page, browser, alone):
    link = page.get_by_text("Link to this state")
    assert link.is_visible()
    outer = browser.new_page()
    around = alone.with_name("around.html")
    around.write_text(f'<iframe src="{alone.name}" width="1200" height="800"></iframe>')
    outer.goto(around.as_uri())
    frame = outer.frame_locator("iframe")
    frame.locator(".jx-picture").wait_for()
    assert frame.get_by_text("Link to this state").count() == 1
    assert not frame.get_by_text("Link to this state").is_visible()
    outer.close()
