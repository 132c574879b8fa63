"""Run every chapter once, hand that very run to Jupyter Book, build the site.

    python book/tools/make_site.py run --mode load      # executed copies in _run/load
    python book/tools/make_site.py build [--strict]     # pages in _build/html, from _run/load

``run`` executes copies of the notebooks under nbmake, so what a reader sees is what the test saw.
A chapter runs again only if its notebook, the module, the shipped data, the requirements or the
data folder changed. ``build`` puts the executed copies into Jupyter Book's cache, so the builder
executes nothing itself; ``--strict`` turns its warnings into errors.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn

ROOT = Path(__file__).resolve().parents[2]
BOOK, RUN, BUILD = ROOT / "book", ROOT / "_run", ROOT / "_build"
DATA = ("data/checkpoints", "data/results", "benchmarks/results.json")
INPUTS = ("requirements.txt", "jlebm_core", *DATA)
MODES = ("smoke", "load", "train")
SPLITS = {"smoke": (), "load": ("test",), "train": ("train", "test")}  # of real data, fetched first
FETCH = Path(__file__).with_name("fetch_data.py")
CELL_SECONDS = 24 * 3600  # ends what hangs; how long a cell takes is no test's business
MANIFEST = "_static/built_from.json"


def chapters() -> list[Path]:
    """The notebooks of the book, in order."""
    return sorted(BOOK.glob("*.ipynb"))


def fingerprint(notebook: Path, mode: str) -> str:
    """Hash of everything that the outputs of ``notebook`` depend on."""
    digest = hashlib.sha256(f"{mode} {os.environ.get('JLEBM_DATA')} {sys.version}".encode())
    paths = [notebook]
    for name in INPUTS:
        path = ROOT / name
        paths += [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for path in paths:
        if path.suffix != ".pyc":
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


def stamp(notebook: Path, mode: str) -> Path:
    """File that holds the fingerprint of the last successful run of ``notebook``."""
    return RUN / mode / (notebook.stem + ".inputs")


def is_current(notebook: Path, mode: str) -> bool:
    """Whether the executed copy of ``notebook`` still answers to its inputs."""
    path = stamp(notebook, mode)
    return path.is_file() and path.read_text() == fingerprint(notebook, mode)


def ran_through(copy: Path) -> bool:
    """Whether every code cell of an executed copy was run and none stopped with an error."""
    cells = [c for c in nbformat.read(copy, 4).cells if c.cell_type == "code" and c.source.strip()]
    return all(
        c.execution_count and not any(o.output_type == "error" for o in c.outputs) for c in cells
    )


def environment(mode: str) -> dict[str, str]:
    """Environment of the kernels; in smoke mode downloads lead to a closed port of this machine."""
    env = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "JLEBM_MODE": mode}
    if mode == "smoke":
        env.pop("JLEBM_DATA", None)
        closed = "http://127.0.0.1:9"
        env |= {name: closed for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    return env


def fetch_data(mode: str, notebooks: Iterable[Path]) -> None:
    """Fetch the real data of chapters before their kernels start, lest a page show a download.

    What cannot be had is said; the chapters show shipped data then.
    """
    if SPLITS[mode] and any("jlebm_core" in notebook.read_text("utf-8") for notebook in notebooks):
        subprocess.run([sys.executable, FETCH, *SPLITS[mode]], cwd=ROOT, env=environment(mode))


def run(mode: str, jobs: int) -> int:
    """Execute the chapters whose inputs changed; returns pytest's exit code, or 0."""
    stale = {n: fingerprint(n, mode) for n in chapters() if not is_current(n, mode)}
    print(f"{mode} mode: {len(stale)} of {len(chapters())} chapters to run.", flush=True)
    if not stale:
        return 0
    fetch_data(mode, stale)
    copies = {}
    for notebook in stale:
        stamp(notebook, mode).parent.mkdir(parents=True, exist_ok=True)
        stamp(notebook, mode).unlink(missing_ok=True)
        copies[notebook] = shutil.copy(notebook, RUN / mode / notebook.name)
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--durations=0"]
    command += ["--nbmake", "--overwrite", f"--nbmake-timeout={CELL_SECONDS}"]
    if (workers := min(jobs, len(stale))) > 1:
        command += ["-n", str(workers)]
    code = subprocess.run([*command, *copies.values()], cwd=ROOT, env=environment(mode)).returncode
    for notebook, key in stale.items():
        if ran_through(copies[notebook]):
            stamp(notebook, mode).write_text(key)
    return code


def not_at_hand() -> list[str]:
    """The data sets, by title, that the executed copies of load mode had to do without."""
    said = re.compile(r"^(.+) is not at hand and could not be downloaded", re.MULTILINE)
    found = set()
    for notebook in chapters():
        for cell in nbformat.read(RUN / "load" / notebook.name, 4).cells:
            for output in cell.get("outputs", []):
                found.update(said.findall(output.get("text", "")))
    return sorted(found)


def seed_cache() -> None:
    """Replace Jupyter Book's cache by the executed copies of load mode."""
    shutil.rmtree(BUILD / ".jupyter_cache", ignore_errors=True)
    cache = get_cache(BUILD / ".jupyter_cache")
    for notebook in chapters():
        if not is_current(notebook, "load"):
            sys.exit(f"{notebook.name} changed since its last run: say 'make book'.")
        copy = nbformat.read(RUN / "load" / notebook.name, 4)
        for cell in copy.cells:
            cell.metadata.pop("execution", None)  # nbmake's timings would change the cache's hash
        cache.cache_notebook_bundle(CacheBundleIn(copy, str(notebook)))
        cache.match_cache_notebook(nbformat.read(notebook, 4))  # KeyError: it would run again


def build(strict: bool) -> int:
    """Build the site from scratch (seconds); returns Jupyter Book's exit code."""
    seed_cache()
    for old in ("html", ".doctrees"):  # an incremental build does not copy changed static files
        shutil.rmtree(BUILD / old, ignore_errors=True)
    command = [Path(sys.executable).with_name("jupyter-book"), "build", BOOK]
    code = subprocess.run([*command, *(["-W", "--keep-going"] if strict else [])]).returncode
    if code == 0:  # what the tests of the pages go by
        (BUILD / "html" / MANIFEST).write_text(json.dumps({"not_at_hand": not_at_hand()}) + "\n")
    return code


def main() -> int:
    """Command line; the exit code is that of the program that did the work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--mode", choices=MODES, default="load")
    runner.add_argument("--jobs", type=int, default=2)
    commands.add_parser("build").add_argument("--strict", action="store_true")
    args = parser.parse_args()
    return run(args.mode, args.jobs) if args.command == "run" else build(args.strict)


if __name__ == "__main__":
    sys.exit(main())
