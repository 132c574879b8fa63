"""Checkpoints: round trip, hash, atomic replacement."""

import json

import pytest
import torch

from jlebm_core import checkpoints
from jlebm_core.errors import UsageError

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, 2]), "c": torch.tensor(0.5)}


def test_round_trip(tmp_path):
    checkpoints.save(tmp_path / "deep" / "x.1", TENSORS, {"note": "é", "n": [1, 2]})
    tensors, meta = checkpoints.load(tmp_path / "deep" / "x.1")
    assert tensors.keys() == TENSORS.keys()
    assert all(tensors[k].equal(v) and tensors[k].dtype == v.dtype for k, v in TENSORS.items())
    assert meta["note"] == "é" and meta["n"] == [1, 2]
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["x.1.json", "x.1.safetensors"]


def test_a_changed_byte_is_refused(tmp_path):
    checkpoints.save(tmp_path / "x", TENSORS, {})
    weights, _ = checkpoints.files(tmp_path / "x")
    blob = bytearray(weights.read_bytes())
    blob[-1] ^= 1
    weights.write_bytes(blob)
    with pytest.raises(UsageError, match="SHA-256"):
        checkpoints.load(tmp_path / "x")


def test_missing_and_broken_files_are_one_sentence(tmp_path):
    with pytest.raises(UsageError, match="no checkpoint"):
        checkpoints.load(tmp_path / "x")
    checkpoints.save(tmp_path / "x", TENSORS, {})
    weights, description = checkpoints.files(tmp_path / "x")
    assert checkpoints.exists(tmp_path / "x")
    description.write_text("{")
    with pytest.raises(UsageError, match="JSON"):
        checkpoints.load(tmp_path / "x")
    weights.unlink()
    assert not checkpoints.exists(tmp_path / "x")


def test_right_hash_of_something_else_is_refused(tmp_path):
    import hashlib

    weights, description = checkpoints.files(tmp_path / "x")
    weights.write_bytes(b"not tensors")
    digest = hashlib.sha256(b"not tensors").hexdigest()
    description.write_text(json.dumps({"sha256": digest}))
    with pytest.raises(UsageError, match="safetensors"):
        checkpoints.load(tmp_path / "x")


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    checkpoints.save(tmp_path / "x", TENSORS, {"v": 1})

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(tmp_path / "x", {}, {"v": 2})
    assert checkpoints.load(tmp_path / "x")[1]["v"] == 1


def test_halved_keeps_vectors_and_counters():
    assert {k: v.dtype for k, v in checkpoints.halved(TENSORS).items()} == {
        "a": torch.float16,
        "b": torch.int64,
        "c": torch.float32,
    }
