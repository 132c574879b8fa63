"""What several test files share: data of the tests' own, a file server, a browser and the site."""

import functools
import http.server
import json
import os
import shutil
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest

# Read when PyTorch is loaded. Tests run beside each other: see `OMP_NUM_THREADS` in the Makefile.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, which is soon

from PIL import Image  # noqa: E402

from jlebm_core import data, paths, results, systems  # noqa: E402
from jlebm_core.data import download  # noqa: E402
from jlebm_core.errors import UsageError  # noqa: E402

SITE = Path(__file__).resolve().parents[1] / "_build" / "html"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
# What a page is waited for: a state. This ends only what hangs, on a machine however busy.
HANGS = 20 * 60 * 1000  # ms
SETTLE = """async () => { // two frames without work, and the quarter of a second that sliders take
  const {slices} = document.querySelector(".jx-root").explorer;
  const busy = () => Object.values(slices.jobs).some(Boolean);
  do {
    do await new Promise(requestAnimationFrame); while (busy());
    await new Promise((done) => setTimeout(done, 300));
  } while (busy());
}"""


# Rows that the explorer refuses, by their priors: codes that are no draws of exp(f) N(0, I), nor
# noises of a chain.
REFUSED = {
    "2s-vae": "SecondVAE",
    "rae": "MixturePrior",
    "layerwise-ebm": "TiltedChain",
    "layerwise-ebm-vi": "TiltedChain",
}
SHIPPED = {name: results.read(results.shipped_path(name)) for name in systems.shipped_names()}
EXPLORABLE = [name for name, result in SHIPPED.items() if result["system"] not in REFUSED]


def slider_values(system, z):
    """What the explorer's sliders hold for codes z: the codes, or the noises of a chain."""
    with torch.no_grad():
        return system.prior.to_noise(z) if hasattr(system.prior, "to_noise") else z


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_images(folder: Path, arrays, suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{i:03d}{suffix}")


def sentence(*args, **kwargs) -> str:
    """The message of the UsageError that ``load`` raises: one line, ending in a full stop."""
    with pytest.raises(UsageError) as caught:
        data.load(*args, **kwargs)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


@pytest.fixture
def roots(tmp_path, monkeypatch):
    """JLEBM_DATA and an empty cache of the test's own; any download fails."""
    monkeypatch.setenv("JLEBM_DATA", str(tmp_path / "own"))
    monkeypatch.setattr(paths, "cache_dir", lambda: tmp_path / "cache")

    def refuse(*args, **kwargs):
        raise URLError("no network\n here")

    monkeypatch.setattr(download, "urlopen", refuse)
    monkeypatch.setattr(download, "PAUSE", 0)
    return tmp_path / "own", tmp_path / "cache"


class Server(ThreadingHTTPServer):
    """Serves ``files``, name -> bytes, on 127.0.0.1; understands Range unless told otherwise.

    ``plan`` holds what the next requests get instead: a status, or ("cut", n), the connection
    closed after n bytes of the body. ``asked`` lists (name, Range header) of all requests.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.plan, self.asked, self.ranges = {}, [], [], True

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name, wanted = self.path[1:], self.headers["Range"]
        self.server.asked.append((name, wanted))
        order = self.server.plan.pop(0) if self.server.plan else None
        body = self.server.files.get(name)
        if body is None or isinstance(order, int):
            self.send_error(order or 404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if not self.server.ranges:
            start = 0
        elif start >= len(body) and wanted:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        self.wfile.write(body[start:][: order[1] if order else None])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """A Server; downloads are allowed, and wait for nothing between attempts."""
    monkeypatch.setattr(download, "urlopen", urllib.request.urlopen)
    monkeypatch.setattr(download, "PAUSE", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def patience():
    """How many times as long as on an idle machine something may take now: programs per core."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


class Browser:
    """A Chromium whose pages are waited for until they hang."""

    def __init__(self, chromium):
        self.chromium = chromium

    def new_context(self, **options):
        context = self.chromium.new_context(**options)
        context.set_default_timeout(HANGS)
        return context

    def new_page(self, **options):
        page = self.chromium.new_page(**options)
        page.set_default_timeout(HANGS)
        return page


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium of this machine; without one, CI fails and everybody else skips."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        say(f"the pages were not looked at: no Chromium here (tried {', '.join(names)})")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=FLAGS, timeout=HANGS)
        yield Browser(chromium)
        chromium.close()


@pytest.fixture(scope="session")
def not_at_hand():
    """Titles of the data sets without which the pages were built; what they show follows from it.

    With JLEBM_DATA, MNIST must be among what they had, lest a pass with data test none.
    """
    found = json.loads((SITE / "_static" / "built_from.json").read_text())["not_at_hand"]
    if os.environ.get("JLEBM_DATA"):
        assert "MNIST" not in found, "JLEBM_DATA is set, and the pages were built without MNIST"
    return found


@pytest.fixture(scope="session")
def addresses():
    """Where the site lies, by way of access: on disk and on a loopback server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=SITE)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {"file": SITE.as_uri(), "http": f"http://127.0.0.1:{server.server_port}"}
    server.shutdown()
    server.server_close()
