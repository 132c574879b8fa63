r"""Generators p(x | z) = N(x; h_1, sigma^2 I).

Ladder (ICCV 2023, eq. 5):  h_L = g_L(z_L),  h_i = g_i([z_i, h_{i+1}]),  x ~ N(h_1, sigma^2 I).
With L = 1 it is the plain generator of VAE and LEBM. Above a Gaussian chain, the image is made of
z_1 alone; the chain is the prior's, or belongs to the generator where the latents are its noises.
"""

from abc import ABC, abstractmethod
from math import e, log, pi, prod

import torch
from torch import Tensor, nn

from .errors import UsageError
from .nets import Shape, activation, alike, stack
from .priors import GaussianChain
from .settings import check

JOINS = ("concat", "add")
ENTRY = 0.1  # share of the training during which a layer that comes later enters


class Generator(nn.Module, ABC):
    """A mean image and a pixel's standard deviation sigma, fixed or (``learned``) a parameter."""

    def __init__(self, sigma: float, *, learned: bool = False):
        super().__init__()
        check({"sigma": sigma})
        self.log_sigma = nn.Parameter(torch.tensor(log(sigma))) if learned else log(sigma)

    @property
    def sigma(self) -> float | Tensor:
        """The standard deviation of a pixel about the mean image."""
        return e**self.log_sigma

    @abstractmethod
    def mean(self, z: Tensor) -> Tensor:
        """h_1(z), the mean of p(x | z). Shapes: (B, D) -> (B, C, H, W) in [-1, 1]."""

    def progress(self, share: float) -> None:
        """Set what depends on the share of the training that is done, in (0, 1]. A trainer calls it
        before every step; most generators have nothing that depends on it."""

    def squared_error(self, x: Tensor, z: Tensor) -> Tensor:
        """SSE: (x - h_1)^2 summed over pixels, channels. Shapes: (B, C, H, W), (B, D) -> (B,)."""
        return (x - self.mean(z).to(x.dtype)).square().flatten(1).sum(1)

    def log_lik(self, x: Tensor, z: Tensor) -> Tensor:
        r"""log p(x | z) = -SSE / (2 sigma^2) - n / 2 log(2 pi sigma^2), n = C H W; shape (B,)."""
        constant = prod(x.shape[1:]) * (0.5 * log(2 * pi) + self.log_sigma)
        return -self.squared_error(x, z) * e ** (-2 * self.log_sigma) / 2 - constant


class GaussianGenerator(Generator):
    """p(x | z) = N(x; net(z), sigma^2 I) with a decoder of your own: ``net`` maps codes (B, D) to
    images (B, C, H, W) in [-1, 1]; with ``learned`` its sigma starts at ``sigma`` and is learned.
    """

    def __init__(self, net: nn.Module, sigma: float = 0.3, *, learned: bool = False):
        super().__init__(sigma, learned=learned)
        self.net = net

    def mean(self, z: Tensor) -> Tensor:
        """net(z). Shapes: (B, D) -> (B, C, H, W)."""
        return self.net(z)


class LadderGenerator(Generator):
    """Top-down network that meets one layer of latents at each level.

    ``levels[i]`` is the stack g_{i+1} (bottom-up, like ``dims``); the lowest must end in ``image``
    = (C, H, W). A code meets the level above by one linear map to the shape of h_{i+1}, then
    ``join``: "concat" (an activation follows the map, channels double: the authors' FID nets) or
    "add" (no activation before the sum: their hierarchical-sampling nets).
    Raises UsageError where dims, levels and image do not fit together.
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        image: Shape,
        levels: tuple[str, ...],
        *,
        join: str = "concat",
        sigma: float = 0.3,
        learn_sigma: bool = False,
        act: str = "lrelu",
        norm: bool = False,
        bias: bool = True,
    ):
        super().__init__(sigma, learned=learn_sigma)
        self.image = tuple(image)
        if len(dims) != len(levels) or min(dims, default=0) < 1:
            raise UsageError(
                f"dims {tuple(dims)} do not fit a generator of {len(levels)} levels: give one "
                "positive number of dimensions for each level, bottom first."
            )
        if join not in JOINS:
            raise UsageError(f"unknown join {join!r}: choose one of {', '.join(JOINS)}.")
        self.dims, self.join = tuple(dims), join
        blocks, projections, shape = [], [], (dims[-1],)
        for i in reversed(range(len(dims))):
            if i < len(dims) - 1:
                flat = nn.Linear(dims[i], prod(shape))
                after = activation(act if join == "concat" else "none")
                projections.append(nn.Sequential(flat, nn.Unflatten(1, shape), after))
                shape = (2 * shape[0], *shape[1:]) if join == "concat" else shape
            block, shape = stack(levels[i], shape, act=act, norm=norm, bias=bias)
            blocks.append(block)
        if shape != self.image:
            raise UsageError(f"the generator ends in {shape}, but the images are {self.image}.")
        self.blocks = nn.ModuleList(reversed(blocks))
        self.projections = nn.ModuleList(reversed(projections))

    def mean(self, z: Tensor) -> Tensor:
        """h_1(z), the mean of p(x | z). Shapes: (B, D) -> (B, C, H, W) in [-1, 1]."""
        *lower, top = z.split(self.dims, dim=1)
        h = self.blocks[-1](top)
        for z_i, project, g in reversed(
            list(zip(lower, self.projections, self.blocks, strict=False))
        ):
            code = alike(project(z_i), h)
            h = g(torch.cat([code, h], 1) if self.join == "concat" else code + h)
        return h


class GatedGenerator(LadderGenerator):
    r"""A ladder whose layers enter the training one after another (pro-VLAE, ICLR 2020).

    ``enter`` has one share of the training for each layer, bottom-up; 0 is at once. On its way to
    the image a code is multiplied by a gate, which is 0 until then and opens to 1 during a tenth
    of the training. Outside of training all gates are open, and it is the plain ladder.
    Raises UsageError where ``enter`` does not fit the layers.
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        image: Shape,
        levels: tuple[str, ...],
        *,
        enter: tuple[float, ...],
        **options,
    ):
        super().__init__(dims, image, levels, **options)
        if len(enter) != len(dims) or min(enter) != 0 or max(enter) > 1 - ENTRY:
            raise UsageError(
                f"enter {tuple(enter)} does not fit a generator of {len(dims)} levels: give one "
                "share of the training for each, bottom first, from 0 (at least once) to "
                f"{1 - ENTRY}."
            )
        self.enter = tuple(enter)
        self.register_buffer("gates", torch.ones(sum(dims)), persistent=False)

    def progress(self, share: float) -> None:
        """Open the gates as far as is due when ``share`` of the training is done."""
        for gate, start in zip(self.gates.split(self.dims), self.enter, strict=True):
            gate.fill_(min(1.0, max(0.0, (share - start) / ENTRY)) if start else 1.0)

    def mean(self, z: Tensor) -> Tensor:
        """h_1 of the gated codes. Shapes: (B, D) -> (B, C, H, W) in [-1, 1]."""
        return super().mean(z * self.gates)


class BottomGenerator(LadderGenerator):
    """p(x | z_1): the one-layer generator on the bottom layer of ``dims``, blind to all above."""

    def __init__(self, dims: tuple[int, ...], image: Shape, levels: tuple[str, ...], **options):
        super().__init__(dims[:1], image, levels, **options)

    def mean(self, z: Tensor) -> Tensor:
        """h_1(z_1). Shapes: (B, D) -> (B, C, H, W) in [-1, 1]."""
        return super().mean(z[:, : self.dims[0]])


class NoiseGenerator(BottomGenerator):
    """p(x | eps): noises eps ~ N(0, I) of all layers make z by a Gaussian chain, z_1 the image.

    A top-down generator in its noise variables (SRI, ECCV 2020): with N(0, I) as the prior of eps
    it is the chain of ``GaussianChain`` below ``BottomGenerator``, and sampling is unchanged.
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        image: Shape,
        levels: tuple[str, ...],
        *,
        chain: GaussianChain,
        **options,
    ):
        super().__init__(dims, image, levels, **options)
        self.chain = chain

    def mean(self, z: Tensor) -> Tensor:
        """h_1(z_1(eps)) of noises eps. Shapes: (B, D) -> (B, C, H, W) in [-1, 1]."""
        return super().mean(self.chain.from_noise(z))
