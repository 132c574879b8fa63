"""Batches: every image once an epoch, each epoch in its own order, always in the same tensors."""

from types import SimpleNamespace

import torch

from jlebm_core import feed as feed_module
from jlebm_core.feed import Feed, keep_freed_memory

IMAGES = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1)


def feed(seed=0, batch=8):
    return Feed(IMAGES, batch, seed=seed, device=torch.device("cpu"))


def test_every_image_is_seen_once_an_epoch():
    f = feed()
    orders = []
    for epoch in (0, 1):
        seen = []
        for i in range(5):
            f.load(5 * epoch + i, 0.5)
            assert f.images.flatten().equal(f.rows.to(torch.uint8))
            seen.append(f.rows.clone())
        orders.append(torch.cat(seen))
        assert orders[-1].sort().values.equal(torch.arange(40))
    assert not orders[0].equal(orders[1])


def test_a_step_sees_the_same_whenever_it_is_asked_for():
    f = feed()
    again = f.rows_at(3).clone()
    f.rows_at(9)
    assert f.rows_at(3).equal(again)
    assert not feed(seed=1).rows_at(3).equal(again)


def test_the_tensors_stay_where_they_are():
    f = feed()
    places = [t.data_ptr() for t in (f.rows, f.images, f.share)]
    f.load(0, 0.25)
    f.load(7, 0.75)
    assert places == [t.data_ptr() for t in (f.rows, f.images, f.share)]
    assert f.share.item() == 0.75


def test_bytes_become_floats_in_channels_last():
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    f = Feed(images, 2, seed=0, device=torch.device("cpu"))
    f.load(0, 1.0)
    x = f.floats()
    assert x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))


def test_a_batch_is_no_larger_than_the_set():
    assert feed(batch=1000).batch == 40


def test_memory_is_kept_where_the_c_library_can(monkeypatch):
    asked = []
    library = SimpleNamespace(mallopt=lambda what, value: asked.append((what, value)))
    monkeypatch.setattr(feed_module.ctypes, "CDLL", lambda _: library)
    keep_freed_memory()
    assert [what for what, _ in asked] == [-3, -1]  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    monkeypatch.setattr(feed_module.ctypes, "CDLL", lambda _: SimpleNamespace())
    keep_freed_memory()  # no mallopt: nothing happens
    assert len(asked) == 2
