"""Batches: every image once an epoch, each epoch in its own order, always in the same tensors."""

import torch

from jlebm_core.training.batches import Batches

IMAGES = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1)


def batches(seed=0, batch=8):
    return Batches(IMAGES, batch, seed=seed, device=torch.device("cpu"))


def test_every_image_is_seen_once_an_epoch():
    f = batches()
    orders = []
    for epoch in (0, 1):
        seen = []
        for i in range(5):
            f.load(5 * epoch + i)
            assert f.images.flatten().equal(f.rows.to(torch.uint8))
            seen.append(f.rows.clone())
        orders.append(torch.cat(seen))
        assert orders[-1].sort().values.equal(torch.arange(40))
    assert not orders[0].equal(orders[1])


def test_a_step_sees_the_same_whenever_it_is_asked_for():
    f = batches()
    again = f.rows_at(3).clone()
    f.rows_at(9)
    assert f.rows_at(3).equal(again)
    assert not batches(seed=1).rows_at(3).equal(again)


def test_the_tensors_stay_where_they_are():
    f = batches()
    places = [t.data_ptr() for t in (f.rows, f.images)]
    f.load(0)
    f.load(7)
    assert places == [t.data_ptr() for t in (f.rows, f.images)]


def test_bytes_become_floats_in_channels_last():
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    f = Batches(images, 2, seed=0, device=torch.device("cpu"))
    f.load(0)
    x = f.floats()
    assert x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))


def test_a_batch_is_no_larger_than_the_set():
    assert batches(batch=1000).batch == 40
