"""Where files lie, in a clone and in an installation."""

from pathlib import Path

import pytest

from jlebm_core import paths


@pytest.mark.parametrize(
    ("clone", "variables", "place"),
    [
        ("/clone", {}, "/clone/data/cache"),
        ("/clone", {"XDG_CACHE_HOME": "/xdg"}, "/clone/data/cache"),
        ("/clone", {"XDG_CACHE_HOME": "/xdg", "JLEBM_CACHE": "/own"}, "/own"),
        (None, {}, "/home/me/.cache/jlebm"),
        (None, {"XDG_CACHE_HOME": "/xdg"}, "/xdg/jlebm"),
        (None, {"XDG_CACHE_HOME": ""}, "/home/me/.cache/jlebm"),
        (None, {"XDG_CACHE_HOME": "relative/xdg"}, "/home/me/.cache/jlebm"),  # as its rules say
        (None, {"XDG_CACHE_HOME": "/xdg", "JLEBM_CACHE": "/own"}, "/own"),
        (None, {"XDG_CACHE_HOME": "/xdg", "JLEBM_CACHE": ""}, "/xdg/jlebm"),
        (None, {"JLEBM_CACHE": "~/own"}, "/home/me/own"),
    ],
)
def test_the_cache(clone, variables, place, monkeypatch):
    for name in ("JLEBM_CACHE", "JLEBM_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(paths, "CLONE", clone and Path(clone))
    assert paths.cache_dir() == Path(place)
    assert paths.data_roots() == [Path(place)]
