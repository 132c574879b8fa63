"""Building blocks: stacks of layers written as text, and the MLP of an energy-based prior.

A stack is data, so that a configuration can be printed, compared, saved as JSON and drawn:
``"fc 512, map 64 7, up 32, up 1 tanh"`` is a fully connected layer of 512, one that is reshaped to
64 maps of 7x7, and two transposed convolutions, each of which doubles the side.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from .errors import UsageError
from .settings import Shape as Shape

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    # in place: no layer before an activation needs its own output for its gradient
    "lrelu": lambda: nn.LeakyReLU(0.2, inplace=True),
    "lrelu0.01": lambda: nn.LeakyReLU(0.01, inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "none": nn.Identity,
}


def activation(name: str) -> nn.Module:
    """The activation called ``name``; UsageError for a name that is not in ``ACTIVATIONS``."""
    if name not in ACTIVATIONS:
        raise UsageError(f"unknown activation {name!r}: choose one of {', '.join(ACTIVATIONS)}.")
    module = ACTIVATIONS[name]()
    module.register_forward_hook(_keep_layout)
    return module


def _keep_layout(module: nn.Module, inputs: tuple, y: Tensor) -> None:
    """Have the gradient of maps come in their own memory layout: an activation whose output and
    gradient are laid out differently takes many times as long."""
    if y.dim() == 4 and y.requires_grad:
        y.register_hook(_to_last if _is_last(y) else Tensor.contiguous)


# Through a permuted view: inside of vmap a tensor can be asked for no other layout by its name.
def _is_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.permute(0, 2, 3, 1).is_contiguous()


def _to_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def _fc(shape: Shape, bias: bool, n: int) -> tuple[list[nn.Module], Shape]:
    flat = [nn.Flatten()] if len(shape) > 1 else []
    return [*flat, nn.Linear(prod(shape), n)], (n,)


def _map(
    shape: Shape, bias: bool, channels: int, height: int, width: int | None = None
) -> tuple[list[nn.Module], Shape]:
    maps = (channels, height, width or height)
    layers, _ = _fc(shape, bias, prod(maps))
    return [*layers, nn.Unflatten(1, maps)], maps


def _seed(shape: Shape, bias: bool, channels: int, side: int) -> tuple[list[nn.Module], Shape]:
    start = nn.Unflatten(1, (prod(shape), 1, 1))
    conv = nn.ConvTranspose2d(prod(shape), channels, side, bias=bias)
    return [start, conv], (channels, side, side)


def _up(shape: Shape, bias: bool, channels: int) -> tuple[list[nn.Module], Shape]:
    c, h, w = shape
    return [nn.ConvTranspose2d(c, channels, 4, 2, 1, bias=bias)], (channels, 2 * h, 2 * w)


def _down(shape: Shape, bias: bool, channels: int) -> tuple[list[nn.Module], Shape]:
    c, h, w = shape
    return [nn.Conv2d(c, channels, 4, 2, 1, bias=bias)], (channels, h // 2, w // 2)


def _conv(shape: Shape, bias: bool, channels: int) -> tuple[list[nn.Module], Shape]:
    c, h, w = shape
    return [nn.Conv2d(c, channels, 3, 1, 1, bias=bias)], (channels, h, w)


# name: (numbers it takes, least side of the maps (C, H, W) that it needs below it, builder)
LAYERS: dict[str, tuple[tuple[str, ...], int, Callable]] = {
    "fc": (("C",), 0, _fc),  # fully connected, C outputs
    "map": (("C S", "C H W"), 0, _map),  # fully connected, reshaped to C maps of S x S or H x W
    "seed": (("C S",), 0, _seed),  # transposed convolution from 1x1 to C maps of S x S
    "up": (("C",), 1, _up),  # 4x4 transposed convolution, stride 2
    "down": (("C",), 2, _down),  # 4x4 convolution, stride 2
    "conv": (("C",), 1, _conv),  # 3x3 convolution
}


def stack(
    spec: str, shape: Shape, *, act: str = "lrelu", norm: bool = False, bias: bool = True
) -> tuple[nn.Sequential, Shape]:
    """The network that ``spec`` describes on inputs of ``shape``, and the shape of its output.

    Layers are separated by commas: a name of ``LAYERS``, its numbers, and an activation if it is
    not ``act``. A layer that names its own activation has no normalisation after it.
    Shapes: ``(B, *shape)`` -> ``(B, *shape_out)``, without the batch. ``norm`` puts batch
    normalisation before each default activation; ``bias`` says whether convolutions have one.
    Raises UsageError for a spec that cannot be read or does not fit ``shape``.
    """
    layers: list[nn.Module] = []
    for part in filter(None, (p.strip() for p in spec.split(","))):
        name, *words = part.split()
        own_act = words.pop() if words and not words[-1].isdigit() else None
        forms, side, build = LAYERS.get(name, ((), 0, None))
        counts = [len(form.split()) for form in forms]
        if len(words) not in counts or not all(w.isdigit() and int(w) > 0 for w in words):
            raise UsageError(f"cannot read layer {part!r} in {spec!r}: known are {_grammar()}.")
        if side and (len(shape) != 3 or min(shape[1:]) < side):
            size = f" of {side}x{side} at least" if side > 1 else ""
            raise UsageError(
                f"layer {part!r} in {spec!r} needs maps (C, H, W){size}, but gets {shape}."
            )
        new, shape = build(shape, bias, *map(int, words))
        layers += new
        if norm and own_act is None:
            layers.append(nn.BatchNorm2d(shape[0]) if len(shape) == 3 else nn.BatchNorm1d(shape[0]))
        layers.append(activation(own_act or act))
    return nn.Sequential(*layers), shape


def alike(a: Tensor, b: Tensor) -> Tensor:
    """``a`` in the memory layout of ``b``: mixed, they would leave channels last behind."""
    return _to_last(a) if _is_last(b) else a


def channels_last(module: nn.Module) -> nn.Module:
    """The module with convolution weights in the layout that is quickest on CPU and GPU."""
    return module.to(memory_format=torch.channels_last)


def check_batch(module: nn.Module, n: int, *, training: bool) -> None:
    """Raise UsageError where batch normalisation is to learn from a batch of ``n`` < 2."""
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    if n == 1 and training and any(isinstance(m, norms) for m in module.modules()):
        raise UsageError(
            "batch normalisation needs two images or more in a batch, and there is one: set "
            "norm=False, or a batch of two or more for as many images; a trained system takes one "
            "after system.eval()."
        )


def _grammar() -> str:
    return ", ".join(f"{name} {form}" for name, (forms, *_) in LAYERS.items() for form in forms)


def mlp(
    inputs: int, hidden: tuple[int, ...], outputs: int, act: str = "lrelu", *, end: str = "none"
) -> nn.Sequential:
    """Fully connected layers with ``act`` between them and ``end`` last. (B, in) -> (B, out)."""
    spec = ", ".join([*(f"fc {width}" for width in hidden), f"fc {outputs} {end}"])
    return stack(spec, (inputs,), act=act)[0]


class SpectralLinear(nn.Linear):
    """A linear map for ``spectral_norm``, which divides its weight by its largest singular value.

    PyTorch's own parametrised modules refuse to be pickled; this one can be, and so saved whole or
    sent to another process. Shapes: (B, in) -> (B, out).
    """

    def __reduce_ex__(self, protocol: int) -> tuple:
        return _blank, (self.in_features, self.out_features), self.__dict__


def _blank(inputs: int, outputs: int) -> nn.Module:
    with torch.device("meta"):  # no initial weights: the random stream is left where it is
        return parametrizations.spectral_norm(SpectralLinear(inputs, outputs))


class NegativeEnergy(nn.Module):
    r"""f(z): an MLP from the joined latents [z_1, .., z_L] to one number (ICCV 2023, eq. 6).

    Shapes: (B, D) -> (B,). Without hidden layers f = 0, which leaves p(z) = p_0(z).
    ``spectral_norm`` = c divides every weight by its largest singular value and multiplies the
    result by c: then ``|f(z) - f(z')| <= c |z - z'|``. None leaves the weights free.
    """

    def __init__(
        self,
        dim: int,
        hidden: tuple[int, ...] = (100, 100),
        *,
        act: str = "lrelu",
        spectral_norm: float | None = None,
    ):
        super().__init__()
        self.scale = 1.0 if spectral_norm is None else spectral_norm
        self.act = act if hidden else None
        widths = (dim, *hidden, 1) if hidden else ()
        kind = nn.Linear if spectral_norm is None else SpectralLinear
        linears = [kind(a, b) for a, b in pairwise(widths)]
        if spectral_norm is not None:
            linears = [parametrizations.spectral_norm(m) for m in linears]
        self.net = nn.Sequential()
        for linear in linears:
            self.net.append(linear)
            self.net.append(activation(act))
        self.net = self.net[:-1]  # the output is linear

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """(weight, bias) of every linear map, spectral norm and scale folded in."""
        pairs = [(m.weight, m.bias) for m in self.net if isinstance(m, nn.Linear)]
        (w, b) = pairs[-1]
        return [*pairs[:-1], (self.scale * w, self.scale * b)]

    def forward(self, z: Tensor) -> Tensor:
        if not len(self.net):
            return z.new_zeros(len(z))
        with torch.autocast(z.device.type, enabled=False):  # its gradient steers the chains
            return self.scale * self.net(z).squeeze(1)


class SumOfEnergies(nn.Module):
    """sum_k on_k f_k(z): several f's of one form, each switched on or off by ``on`` (a buffer).

    Shapes: (B, D) -> (B,). It is itself an MLP, of block-diagonal weights (``layers``).
    """

    def __init__(self, count: int, dim: int, hidden: tuple[int, ...], **options):
        super().__init__()
        self.nets = nn.ModuleList(NegativeEnergy(dim, hidden, **options) for _ in range(count))
        self.act = self.nets[0].act
        self.register_buffer("on", torch.zeros(count))

    def each(self, z: Tensor) -> Tensor:
        """f_k(z) of every net, on or off. Shapes: (B, D) -> (B, K)."""
        return torch.stack([net(z) for net in self.nets], 1)

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """(weight, bias) of every linear map of the sum."""
        first, *middle, last = zip(*(net.layers() for net in self.nets), strict=True)
        return [
            (torch.cat([w for w, _ in first]), torch.cat([b for _, b in first])),
            *(
                (torch.block_diag(*(w for w, _ in pairs)), torch.cat([b for _, b in pairs]))
                for pairs in middle
            ),
            (
                torch.cat([on * w for on, (w, _) in zip(self.on, last, strict=True)], 1),
                sum(on * b for on, (_, b) in zip(self.on, last, strict=True)),
            ),
        ]

    def forward(self, z: Tensor) -> Tensor:
        return (self.each(z) * self.on).sum(1)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within, ``module`` passes gradients to its inputs, but its parameters receive none."""
    were = [(p, p.requires_grad) for p in module.parameters()]
    for p, _ in were:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p, was in were:
            p.requires_grad_(was)
