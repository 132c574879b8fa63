"""For maintainers: take the README's pictures of the explorer again, from the built site.

python book/tools/take_pictures.py [NAME ...]    # after `make book`; book/static/explorer-*.png
"""

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
# a draw of the shipped prior whose walk along z_3, 4 passes through several digits
CODE = (-1.68, -1.11, 0.57, -0.4, 1.07, 1.79, 2.34, 1.61, -0.03, -0.8)
INTRO = f"intro.html#explorer=joint-ebm-mnist&z={'_'.join(map(str, CODE))}&panel="
CLOUDS = "05_hierarchical_features.html#explorer=clouds&z=2.5_-1_2_1&keep=2&panel=langevin"
WALK, COLOUR = "z₃, 4", "Colour digits: joint EBM prior"


def walk(page) -> None:
    """One number of the top layer."""
    page.get_by_label("Walk along").select_option(WALK)


def compare(page) -> None:
    """The priors, on colour digits."""
    page.get_by_label("Model").select_option(COLOUR)


def run(page) -> None:
    """Chains from N(0, I), the top layer kept."""
    for name in ("Restart at N(0, I)", "Run", "Pause"):
        page.get_by_role("button", name=name, exact=True).first.click()
        page.wait_for_timeout(4000)


# name -> page and state, width of the window, what the reader does
PICTURES = {
    "desk": (f"{INTRO}walk", 1280, walk),
    "compare": (f"{INTRO}compare", 1280, compare),
    "telephone": (f"{INTRO}walk", 390, walk),
    "clouds": (CLOUDS, 1280, run),
}


def take(page, address: str, width: int, act, target: Path) -> None:
    """One picture of the first explorer of a page, in 128 colours."""
    page.set_viewport_size({"width": width, "height": 1300})
    page.goto(f"{(ROOT / '_build/html').as_uri()}/{address}")
    page.reload()
    page.wait_for_selector(".jx-picture")
    page.wait_for_selector(".jx-layer .noUi-handle")
    act(page)
    explorer = page.locator(".jx-explorer").first
    explorer.evaluate("(e) => e.scrollIntoView({block: 'center', behavior: 'instant'})")
    page.wait_for_timeout(3000)
    explorer.screenshot(path=target)
    Image.open(target).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(target)
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Take all of ``PICTURES``, or those that are named."""
    with sync_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        for name in sys.argv[1:] or PICTURES:
            take(page, *PICTURES[name], ROOT / "book" / "static" / f"explorer-{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
