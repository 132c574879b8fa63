"""The page that sets theirs beside ours: it names every experiment, and works without results."""

from pathlib import Path

import nbformat
import pytest

from jlebm_core import results, viz
from jlebm_core.experiments import EXPERIMENTS, run

PAGE = Path(__file__).resolve().parents[1] / "book" / "reproducibility.ipynb"
CELLS = {c.id: c.source for c in nbformat.read(PAGE, 4).cells if c.cell_type == "code"}


@pytest.fixture
def page(monkeypatch):
    """A function that runs the page's cells and returns the rows of each table, by its cell."""

    def ran():
        names, tables = {}, {}
        for name, source in CELLS.items():
            if name != "reproducibility-install":
                monkeypatch.setattr(
                    viz, "table", lambda _, rows, name=name: tables.update({name: rows})
                )
                exec(source, names)
        return {name.removeprefix("reproducibility-"): rows for name, rows in tables.items()}

    return ran


def test_every_table_figure_and_experiment_is_on_the_page(page):
    rows = page()["overview"]
    commands = {command for _, _, command, *_ in rows}
    assert {f"jlebm experiment {name}" for name in EXPERIMENTS} <= commands
    places = " ".join(row[0] for row in rows)
    assert all(f"Table {i}" in places for i in range(1, 7)) and places.count("supplement") == 2
    assert all(figure in places for figure in ("2, 6", "4, 5", "Figure 7", "Figure 8", "Figure 9"))


def test_without_results_the_page_says_what_is_missing(page, monkeypatch, capsys):
    monkeypatch.setattr(run, "published", lambda name: [])
    joint = results.read(results.shipped_path("joint-ebm-mnist-s0"))
    monkeypatch.setattr(results, "shipped", lambda data=None: [joint][: data in (None, "mnist")])
    tables, told = page(), capsys.readouterr().out
    for name in ("latent-classifier", "anomaly", "langevin-steps", "prior-width", "ood"):
        assert f"Not measured yet: `jlebm experiment {name}`" in told
    assert "Not measured yet: `jlebm table --data glyphs`" in told
    figures = {row[0]: row[3] for row in tables["figures"]}
    assert figures["8"] == "FID not measured; label entropy not measured"
    widths = [row for row in tables["table45"] if row[0] == "width = 10"]
    assert widths == [["width = 10", "41.72 (SVHN)", *[""] * 6]]


def test_a_figure_on_the_page_is_the_mean_over_seeds(page, monkeypatch):
    def found(seed, value):
        records = [(60, 10_000, value), (60, 2000, 99.0), (0, 10_000, 50.0)]
        metrics = [
            {"name": "fid", "value": v, "langevin_steps": k, "samples": n} for k, n, v in records
        ]
        about = {"width": 10, "seed": seed, "config": {"prior_steps": 60}, "device": "a GPU"}
        made = {
            "versions": {"torch": "1", "python": "2"},
            "steps": 7,
            "seconds": 8.0,
        }
        return {**about, **made, "metrics": metrics}

    own = [found(0, 2.0), found(1, 4.0)]
    monkeypatch.setattr(run, "published", lambda name: own if name == "prior-width" else [])
    tables = page()
    (row,) = [row for row in tables["table45"] if row[0] == "width = 10"]
    assert row == ["width = 10", "41.72 (SVHN)", "3.00 ± 1.41", 2, "16", "", "", ""]
    (row,) = [row for row in tables["overview"] if row[2] == "jlebm experiment prior-width"]
    assert row[3:5] == [2, "16"]
    (row,) = [row for row in tables["again"] if row[0] == "prior-width"]
    assert row[3:] == [2, "14", "1", "2", "a GPU"]
