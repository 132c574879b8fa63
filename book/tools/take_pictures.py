"""For maintainers: take the README's pictures of the explorer again, from the built site.

python book/tools/take_pictures.py        # after `make book`; writes book/static/explorer-*.png
"""

import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
# a draw of the shipped prior whose walk along z_3, 4 passes through several digits
CODE = (-1.68, -1.11, 0.57, -0.4, 1.07, 1.79, 2.34, 1.61, -0.03, -0.8)
STATE = f"explorer=joint-ebm-mnist&z={'_'.join(map(str, CODE))}&panel="
WALK, COLOUR = "z₃, 4", "Colour digits: joint EBM prior"


def take(page, panel: str, width: int, target: Path) -> None:
    """One picture of the explorer with ``panel`` open, in 128 colours."""
    page.set_viewport_size({"width": width, "height": 1000})
    page.goto(f"{(ROOT / '_build/html/intro.html').as_uri()}#{STATE}{panel}")
    page.reload()
    page.wait_for_selector(".jx-layer .noUi-handle")
    if panel == "compare":
        page.get_by_label("Model").select_option(COLOUR)
    if panel == "walk":
        page.get_by_label("Walk along").select_option(WALK)
    page.wait_for_timeout(3000)
    page.locator(".jx-explorer").screenshot(path=target)
    Image.open(target).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(target)
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Desk and telephone, with the walk open; at the desk the priors compared, on colour digits."""
    with sync_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        static = ROOT / "book" / "static"
        take(page, "walk", 1280, static / "explorer-desk.png")
        take(page, "compare", 1280, static / "explorer-compare.png")
        take(page, "walk", 390, static / "explorer-telephone.png")
        browser.close()


if __name__ == "__main__":
    main()
