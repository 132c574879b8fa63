"""The built site in a real browser: `make test` builds it first; `make pages` runs this alone.

Each page is loaded from disk and over HTTP, at the width of a desk and of a telephone.
"""

import pytest
from conftest import SITE

GENERATED = {"index.html", "genindex.html", "py-modindex.html"}  # index.html leads to intro.html
PAGES = sorted(p.name for p in SITE.glob("*.html") if p.name not in GENERATED)
WIDTHS = {"desk": 1280, "telephone": 390}
SETTLED = """async () => {
  await document.fonts.ready;
  if (window.MathJax && MathJax.startup) {
    await MathJax.startup.promise;
    await MathJax.startup.document.lazyTypesetAll(); // not only what is near the window
  }
  for (const image of document.images) await image.decode().catch(() => null);
}"""
EMPTY_IMAGES = """() => [...document.images].filter(i => !(i.complete && i.naturalWidth))
  .map(i => i.src.slice(0, 80))"""
TOO_WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
UNSET_MATH = """() => document.querySelectorAll(
  '.math:not(:has(mjx-container)), mjx-lazy').length"""
WRONG_MATH = "() => document.querySelectorAll('mjx-merror').length"
CUT_MATH = """() => [...document.querySelectorAll('mjx-container, mjx-mtable')]
  .filter(m => m.getBoundingClientRect().left < 0).length"""
WIDGETS = """() => [...document.querySelectorAll(
    'script[type="application/vnd.jupyter.widget-view+json"]')]
  .map(s => s.parentElement.querySelector('.jupyter-widgets'))
  .map(w => w ? w.getBoundingClientRect().width : 0)"""
SLIDERS = """() => [...document.querySelectorAll('.jupyter-widgets .noUi-target')]
  .filter(s => s.checkVisibility()) // an explorer hides those of models that are not chosen
  .map(s => s.getBoundingClientRect().width)"""

pytestmark = pytest.mark.pages


def test_there_is_a_site_and_its_front_page_is_the_introduction():
    front = SITE / "index.html"
    assert front.is_file(), "no site in _build/html: say 'make book' first"
    assert "url=intro.html" in front.read_text() and "intro.html" in PAGES


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("way", ["file", "http"])
@pytest.mark.parametrize("name", PAGES)
def test_page(browser, addresses, name, way, width):
    base = addresses[way]
    page = browser.new_page(viewport={"width": WIDTHS[width], "height": 900})
    complaints, strangers = [], []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda r: complaints.append(f"failed: {r.url}"))

    def stay_here(route):
        url = route.request.url
        if url.startswith((base, "data:", "blob:")):
            route.continue_()
        else:
            strangers.append(url)
            route.abort()

    page.route("**/*", stay_here)
    page.goto(f"{base}/{name}", wait_until="load")
    page.evaluate(SETTLED)

    source = (SITE / name).read_text("utf-8")
    if "vnd.jupyter.widget-view+json" in source:
        page.wait_for_selector(".jupyter-widgets")
        assert all(page.evaluate(WIDGETS)), "a widget was not drawn"
        sliders = source.count('SliderModel"')
        drawn = page.evaluate(SLIDERS)
        assert sliders == 0 or (drawn and all(drawn)), f"{sliders} sliders, drawn: {drawn}"
    page.wait_for_timeout(200)  # what scripts complain about after loading

    assert strangers == [], "requests to other hosts"
    assert complaints == [], "errors in the console"
    assert page.evaluate(EMPTY_IMAGES) == [], "images that show nothing"
    assert page.evaluate(UNSET_MATH) == 0, "formulas that were not typeset"
    assert page.evaluate(WRONG_MATH) == 0, "formulas that MathJax cannot read"
    assert page.evaluate(CUT_MATH) == 0, "formulas whose beginning cannot be reached"
    assert page.evaluate(TOO_WIDE) <= 0, "the page scrolls sideways"
    page.close()


def test_formulas_are_set_as_the_reader_comes_to_them(browser, addresses):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{addresses['file']}/04_joint_prior.html", wait_until="load")
    page.evaluate("() => MathJax.startup.promise")
    count = "() => document.querySelectorAll('mjx-lazy').length"
    left = page.evaluate(count)
    assert left > page.locator(".math").count() / 2
    page.evaluate("""() => [...document.querySelectorAll('.math')]
      .filter((m) => m.checkVisibility()).at(-1).scrollIntoView({block: 'center'})""")
    page.wait_for_function(f"() => document.querySelectorAll('mjx-lazy').length < {left}")
    before = page.evaluate(count)
    page.locator("details:has(mjx-lazy) > summary").last.click()  # a solution that was folded
    page.wait_for_function(f"() => document.querySelectorAll('mjx-lazy').length < {before}")
    page.close()
