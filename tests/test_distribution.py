"""What is handed out: requirements, one version, the source distribution and the wheel."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

import jlebm_core
from jlebm_core import paths

ROOT = Path(__file__).resolve().parents[1]
MODULE, BOOK = (
    [
        Requirement(line.partition("#")[0].strip())
        for line in half.splitlines()
        if line.partition("#")[0].strip()
    ]
    for half in (ROOT / "requirements.txt").read_text().split("# --- book and tests ---")
)
# what a runtime of Google Colab holds, of 2025 and of 2026: nothing of it may be replaced
COLAB = {
    "2025": {"numpy": "2.0.2", "torch": "2.8.0", "torchvision": "0.23.0", "ipywidgets": "7.7.1"},
    "2026": {"numpy": "2.1", "torch": "2.11.0", "torchvision": "0.26.0", "ipywidgets": "7.7.1"},
}


@pytest.mark.parametrize("year", COLAB)
def test_what_colab_holds_is_enough(year):
    asked = {r.name: r.specifier for r in MODULE}
    for name, version in COLAB[year].items():
        assert asked[name].contains(version), name


def test_every_requirement_has_a_floor():
    for r in (*MODULE, *BOOK):
        assert any(s.operator == ">=" for s in r.specifier), r.name


def test_the_version_stands_once():
    """All other places are made from it, but for the citation, which people copy."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"] and "version" in project["project"]["dynamic"]
    attribute = project["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert attribute == "jlebm_core.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+", jlebm_core.__version__)
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited[1] == jlebm_core.__version__


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source distribution, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(built[0]) as tar:
        tar.extractall(folder, filter="data")
    (project,) = folder.iterdir()
    return project


@pytest.mark.slow
def test_the_source_distribution_is_the_whole_project(unpacked):
    if not (ROOT / ".git").exists():
        pytest.skip("what the project tracks is known to a clone only")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True)
    tracked = {name for name in listed.stdout.decode().splitlines() if (ROOT / name).is_file()}
    files = {str(p.relative_to(unpacked)) for p in unpacked.rglob("*") if p.is_file()}
    made = {f for f in files if f.startswith("jlebm_core.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert {f for f in tracked - files if not f.startswith(".ci/")} == set()
    untracked = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    assert files - made - tracked <= set(untracked.stdout.decode().splitlines())


@pytest.mark.slow
def test_the_unpacked_source_distribution_passes_its_tests(unpacked):
    """All are collected; those that read the project's own files run."""
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    readers = ("paths", "words", "book_tools", "reproducibility", "results", "distribution")
    for command in (
        [*pytest_, "--collect-only", "-m", ""],
        [*pytest_, *(f"tests/test_{name}.py" for name in readers)],
    ):
        done = subprocess.run(
            command, cwd=unpacked, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:]


USE = """
from importlib.metadata import version
from pathlib import Path
import jlebm_core, torch
from jlebm_core import paths, results, systems
home = Path(jlebm_core.__file__).parent
assert paths.CLONE is None and (home / "py.typed").is_file(), home
assert version("jlebm-core") == jlebm_core.__version__
system = systems.shipped("joint-ebm-mnist-s0")
x = system.sample(4, rng=torch.Generator().manual_seed(0))
assert x.shape == (4, 1, 28, 28) and x.isfinite().all()
torch.save(x, "samples.pt")
assert paths.benchmarks().is_relative_to(home) and len(results.benchmarks()) == BENCHMARKS
print(home, paths.cache_dir())
"""


@pytest.mark.slow
def test_the_wheel_works_where_there_is_no_clone(built, tmp_path):
    """Installed alone; only what it needs comes from the environment of the tests."""
    import torch

    from jlebm_core import results, systems

    place, work = tmp_path / "venv", tmp_path / "work"
    work.mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    python, jlebm = place / "bin" / "python", place / "bin" / "jlebm"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", built[1]], check=True
    )
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib"))  # its own .pth are not read

    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "JLEBM_CACHE")}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "xdg")

    def say(*command):
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with ZipFile(built[1]) as wheel:
        names = wheel.namelist()
    lent = [n for n in names if n.startswith("jlebm_core/shipped/benchmarks/")]
    assert lent == ["jlebm_core/shipped/benchmarks/results.json"] and results.benchmarks()

    assert say(jlebm, "--version") == f"jlebm {jlebm_core.__version__}\n"
    measured = f"BENCHMARKS = {len(results.benchmarks())}\n"  # what chapter 12 tells of
    where = say(python, "-c", measured + USE).split()
    assert where == [str(packages / "jlebm_core"), str(tmp_path / "xdg" / "jlebm")]
    ours = systems.load(paths.shipped("checkpoints", "joint-ebm-mnist-s0"))
    drawn = ours.sample(4, rng=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.load(work / "samples.pt"), drawn)
    say(jlebm, "sample", "joint-ebm-mnist-s0", "--n", "4", "--device", "cpu", "--out", "grid.png")
    assert (work / "grid.png").read_bytes().startswith(b"\x89PNG")
