"""Results files: thinning, metrics by protocol, and the committed ones."""

import math

import pytest

from jlebm_core import paths, results
from jlebm_core.configs import Config
from jlebm_core.errors import UsageError

FIELDS = {
    *("system", "data", "seed", "budget", "config", "versions", "device", "precision"),
    *("steps", "seconds", "parameters", "log", "metrics"),
}
LATER = {
    "fit_log",
    "cpu_seconds",
    "samples",
    "images",
}  # of a second stage; not in the oldest files


def fid(k, value, **more):
    return {"name": "fid", "value": value, "langevin_steps": k, **more}


def test_thin_keeps_the_last_entry_and_few_points():
    log = {"step": list(range(1, 1001)), "nll": [1 / 3] * 1000}
    thinned = results.thin(log, points=100)
    assert thinned["step"][-1] == 1000 and 100 <= len(thinned["step"]) <= 101
    assert thinned["step"] == sorted(thinned["step"]) and set(thinned["nll"]) == {0.33333}
    assert results.thin({"step": [50], "nll": [2.0]}) == {"step": [50], "nll": [2.0]}
    assert results.thin({}) == {}


def test_a_metric_is_found_by_its_protocol():
    result = {"metrics": [fid(60, 1.0), fid(0, 2.0), {"name": "mse", "value": 0.1}]}
    assert results.metric(result, "fid", langevin_steps=0) == 2.0
    assert results.metric(result, "mse") == 0.1
    assert results.metric(result, "kid") is None
    with pytest.raises(UsageError, match="names 2 records"):
        results.metric(result, "fid")


def test_new_metrics_replace_those_of_the_same_protocol_only():
    result = results.with_metrics({"metrics": [fid(60, 1.0), fid(0, 2.0)]}, [fid(60, 3.0, std=1)])
    assert result["metrics"] == [fid(60, 3.0, std=1), fid(0, 2.0)]


def test_files_round_trip_and_refuse(tmp_path):
    results.write(tmp_path / "a" / "r.json", {"metrics": []})
    assert results.read(tmp_path / "a" / "r.json") == {"metrics": []}
    with pytest.raises(UsageError, match="no results file"):
        results.read(tmp_path / "none.json")
    (tmp_path / "r.json").write_text("[")
    with pytest.raises(UsageError, match="not valid JSON"):
        results.read(tmp_path / "r.json")


COMMITTED = sorted(paths.shipped("results").glob("*.json"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: p.stem)
def test_committed_results_follow_the_schema(path):
    result = results.read(path)
    assert FIELDS <= set(result) <= FIELDS | LATER
    assert path.stem == results.name_of(result)
    config = Config.from_json(result["config"])
    assert result["seconds"] > 0 and result["log"]["step"][-1] == config.steps
    assert result.get("fit_log", result["log"])["step"][-1] == result["steps"]
    for log in (result["log"], result.get("fit_log", {"step": [0]})):
        assert len({len(v) for v in log.values()}) == 1
    for m in result["metrics"]:
        assert isinstance(m["name"], str) and math.isfinite(m["value"])
        assert 1 <= m.get("layer", 1) <= len(config.dims)
        if m["name"] in ("fid", "kid"):
            assert {"features", "samples", "reference", "reference_samples"} <= set(m)
    names = {m["name"] for m in result["metrics"]}
    assert {"mse", "fid", "kid"} <= names
