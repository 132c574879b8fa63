"""Stacks of layers written as text."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from jlebm_core.errors import UsageError
from jlebm_core.nets import NegativeEnergy, channels_last, stack


@pytest.mark.parametrize(
    ("spec", "shape", "out", "parameters"),
    [
        ("fc 5", (3,), (5,), 3 * 5 + 5),
        ("fc 5", (2, 4, 4), (5,), 32 * 5 + 5),
        ("map 2 7", (3,), (2, 7, 7), 4 * 98),
        ("seed 2 4", (3,), (2, 4, 4), 3 * 2 * 16 + 2),
        ("up 3", (2, 4, 4), (3, 8, 8), 2 * 3 * 16 + 3),
        ("down 3", (2, 8, 8), (3, 4, 4), 2 * 3 * 16 + 3),
        ("conv 3 none", (2, 8, 8), (3, 8, 8), 2 * 3 * 9 + 3),
        ("", (2, 8, 8), (2, 8, 8), 0),
        ("map 2 4, up 3, conv 1 tanh", (3,), (1, 8, 8), 4 * 32 + 99 + 28),
    ],
)
def test_shapes_and_parameters(spec, shape, out, parameters):
    net, said = stack(spec, shape)
    assert said == out
    assert net(torch.zeros(1, *shape)).shape == (1, *out)
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_bias_and_norm():
    net, _ = stack("conv 3, conv 4 none", (2, 4, 4), norm=True, bias=False)
    assert sum(p.numel() for p in net.parameters()) == 2 * 3 * 9 + 2 * 3 + 3 * 4 * 9
    assert [type(m).__name__ for m in net] == [
        "Conv2d", "BatchNorm2d", "LeakyReLU", "Conv2d", "Identity",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "spec", ["fc", "fc x", "fc 0", "map 3", "fc 3 4", "pool 2", "conv 3 softmax", "fc 3 tanh 4"]
)
def test_a_spec_that_cannot_be_read(spec):
    with pytest.raises(UsageError):
        stack(spec, (2, 4, 4))


def test_a_convolution_needs_maps():
    with pytest.raises(UsageError, match="needs maps"):
        stack("fc 4, conv 3", (2, 4, 4))


def test_negative_energy_is_one_number_a_row():
    f = NegativeEnergy(3, (10, 10))
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert f(z).shape == (5,) and f(z[:1]).shape == (1,)
    torch.testing.assert_close(f(z)[:1], f(z[:1]))
    assert sum(p.numel() for p in f.parameters()) == 40 + 110 + 11


class LayoutsOfActivations(TorchDispatchMode):
    """Notes the memory layouts of gradient and output of maps at every LeakyReLU's backward."""

    def __init__(self):
        super().__init__()
        self.pairs = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.leaky_relu_backward.default and args[0].dim() == 4:
            self.pairs.append([a.stride() for a in args[:2]])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("prepare", [channels_last, lambda net: net])
@pytest.mark.parametrize("spec", ["down 8, fc 4", "map 8 4, up 4, conv 2", "conv 4, map 4 8, up 2"])
def test_gradients_come_in_the_layout_of_the_maps(spec, prepare):
    shape = (6,) if spec.startswith("map") else (2, 8, 8)
    net = prepare(stack(spec, shape)[0])
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    with LayoutsOfActivations() as seen:
        net(x).sum().backward()
    assert len(seen.pairs) == 3 - spec.count("fc") * 2
    assert all(gradient == output for gradient, output in seen.pairs)
