"""The explorer in JupyterLab with a live kernel: Python and the page see one code.

The test passes with ipywidgets 8 and 7, the latter being what Google Colab has.
"""

import os
import re
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import torch
from conftest import HANGS, SETTLE

from jlebm_core import systems

pytestmark = pytest.mark.pages

SHOW = """from jlebm_core import systems
from jlebm_core.explorer import LatentExplorer
explorer = LatentExplorer(systems.shipped("joint-ebm-mnist-s0"))
explorer"""
STATE = "() => [...document.querySelector('.jx-root').explorer.z]"
PIXELS = """() => { const c = document.querySelector(".jx-picture");
  return [...c.getContext("2d").getImageData(0, 0, 28, 28).data].filter((_, i) => i % 4 == 0); }"""


@pytest.fixture
def lab(tmp_path):
    """A JupyterLab of this environment on a port of its own; its address."""
    cells = [nbformat.v4.new_code_cell(source) for source in (SHOW, "", "", "")]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    book = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    nbformat.write(book, tmp_path / "x.ipynb")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--port=0", "--allow-root"]
    own = {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    server = subprocess.Popen(
        [*command, "--ServerApp.token=", "--ServerApp.disable_check_xsrf=True"],
        cwd=tmp_path,
        env={**os.environ, **own},
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in server.stderr:
        if found := re.search(r"http://127\.0\.0\.1:\d+/|http://localhost:\d+/", line):
            break
    yield found[0]
    server.terminate()
    server.communicate(timeout=HANGS / 1000)


def test_python_and_the_page_see_one_code(browser, lab):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.goto(f"{lab}lab/tree/x.ipynb")

    def run(k, source=None):
        """Execute cell k, after putting ``source`` into it; its text output."""
        cell = page.locator(".jp-CodeCell").nth(k)
        if source:
            cell.locator(".cm-content").fill(source)
        cell.locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")
        return cell.locator(".jp-OutputArea-output").last

    page.locator(".jp-CodeCell").first.wait_for()
    page.get_by_text("(ipykernel) | Idle").wait_for()
    run(0)
    page.locator(".jx-picture").wait_for()
    page.locator(".jx-sliders :is(.noUi-handle, .ui-slider-handle)").first.wait_for()

    page.evaluate(SETTLE)
    page.get_by_label("z₃, 2", exact=True).focus()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    page.evaluate(SETTLE)
    z = page.evaluate(STATE)
    output = run(1, "print('z', *explorer.z.tolist())")
    output.get_by_text(re.compile("^z ")).wait_for()
    known = [float(v) for v in output.inner_text().split()[1:]]
    np.testing.assert_allclose(known, z, atol=1e-6)  # Python sees what the keyboard did

    run(2, "explorer.z = explorer.z * 0 + 0.5; print('set')").get_by_text("set").wait_for()
    page.wait_for_function(f"() => ({STATE})().every((v) => v === 0.5)")  # and the page Python's
    page.evaluate(SETTLE)
    assert page.evaluate(STATE) == [0.5] * 10
    system = systems.shipped("joint-ebm-mnist-s0")
    truth = ((system.decode(torch.full((1, 10), 0.5)) + 1) * 127.5).round().flatten().numpy()
    assert np.abs(np.array(page.evaluate(PIXELS)) - truth).max() <= 2

    page.get_by_role("tab", name="Langevin").click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_function("() => document.querySelector('.jx-root').explorer.active.steps >= 40")
    page.get_by_role("button", name="Pause", exact=True).click()
    page.evaluate(SETTLE)
    output = run(3, "print('z', *explorer.z.tolist())")
    output.get_by_text(re.compile("^z ")).wait_for()
    known = [float(v) for v in output.inner_text().split()[1:]]
    np.testing.assert_allclose(known, page.evaluate(STATE), atol=1e-6)
    assert np.abs(np.subtract(known, 0.5)).max() > 0.3
    page.close()
