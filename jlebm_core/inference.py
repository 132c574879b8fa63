r"""Inference q(z | x): one pass of a network (amortised), or Langevin dynamics on p(z | x).

Every kind can ``draw(x, prior, generator)``: codes z, and the distribution q that they were drawn
from, each layer's given the layers drawn before it (None where there is no such distribution).
"""

from abc import ABC, abstractmethod
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import UsageError
from .gaussians import DiagonalGaussian, joined, merge
from .generators import Generator
from .langevin import langevin
from .nets import Shape, stack
from .priors import Prior
from .priors.base import Callback
from .randomness import source

MEET = 64  # features in which a bidirectional encoder joins what comes from below and from above


class Inference(nn.Module, ABC):
    """q(z | x). A subclass gives ``draw`` and says what kind of q it has."""

    amortised: bool = True  # one pass of a network, no chain on the images
    exact_kl: bool = True  # is KL(q || p_0) known, layer by layer, given the layers drawn before?
    groups: tuple[int, ...] | None = None  # coordinates inferred together; None: those of a layer
    table: Tensor | None  # chains that are kept from epoch to epoch, one row a training image

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", None, persistent=False)  # part of a run, not of the model

    def prepare(self, n: int, prior: Prior, *, rng: torch.Generator | int | None = None) -> None:
        """Get ready for a training on ``n`` images; only an inference that keeps chains must."""

    @abstractmethod
    def draw(
        self,
        x: Tensor,
        prior: Prior,
        generator: Generator,
        *,
        noise: bool = True,
        rng: torch.Generator | int | None = None,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, DiagonalGaussian | None]:
        """Codes (B, D) of images x, and the distribution q that they were drawn from, each layer's
        given the layers drawn before it; None where there is no such distribution. Without
        ``noise`` the mean of every q_i in its turn. ``rows`` (B,): which training images they are.
        """


class Encoder(Inference):
    """q(z | x) = N(mean(x), diag V(x)): a subclass gives ``posterior``."""

    @abstractmethod
    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """q(z | x) for images x. Shapes: (B, C, H, W) -> mean and log_var (B, D)."""

    def draw(self, x, prior, generator, *, noise=True, rng=None, rows=None):
        """Codes (B, D) of images and q; without ``noise`` the mean of q. Raises UsageError where
        the encoder gives codes of another size than the prior's."""
        q = self.posterior(x)
        if not q.mean.shape == q.log_var.shape == (len(x), prior.dim):
            raise UsageError(
                f"the encoder gives means {tuple(q.mean.shape)} and log variances "
                f"{tuple(q.log_var.shape)} of {len(x)} images, but the prior has {prior.dim} "
                f"dimensions: both must be ({len(x)}, {prior.dim})."
            )
        return pick(q, noise, rng), q


class GaussianEncoder(Encoder):
    """q(z | x) = N(mean, diag exp(log_var)) with an encoder of your own: ``net`` maps images
    (B, C, H, W) to (mean, log variance), each (B, D), or to both joined, (B, 2 D)."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """q(z | x). Shapes: (B, C, H, W) -> mean and log_var (B, D)."""
        out = self.net(x)
        pair = out.chunk(2, 1) if isinstance(out, Tensor) else tuple(out)
        if len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
            raise UsageError("an encoder must give a mean and a log variance, or both joined.")
        mean, log_var = pair
        return DiagonalGaussian(mean.float(), log_var.float())


class LadderEncoder(Encoder):
    """q(z | x) = prod_i N(z_i; mu_i, diag V_i): a trunk that is read at every level.

    t_0 = stem(x), t_i = trunk_i(t_{i-1}); layer i is read off t_{i-1} by its own stack
    ``ladders[i]`` and linear maps, ``heads`` (mean and log-variance). ICCV 2023, section 3.3; L = 1
    is a plain encoder. Raises UsageError where dims, trunk and ladders do not fit together.
    """

    outputs = 2  # mean and log-variance

    def __init__(
        self,
        dims: tuple[int, ...],
        image: Shape,
        trunk: tuple[str, ...],
        ladders: tuple[str, ...],
        *,
        stem: str = "",
        act: str = "lrelu",
        norm: bool = False,
        bias: bool = True,
    ):
        super().__init__()
        self.dims = self.groups = tuple(dims)
        if not len(dims) == len(ladders) == len(trunk) + 1:
            raise UsageError(
                f"dims {tuple(dims)} do not fit an encoder with {len(ladders)} ladders on "
                f"{len(trunk)} trunk blocks: L layers need L ladders and L - 1 trunk blocks."
            )
        options = {"act": act, "norm": norm, "bias": bias}
        self.stem, shape = stack(stem, tuple(image), **options)
        trunks, reads, heads, self.shapes = [], [], [], []  # shapes of t_0, t_1, ..
        for d, block, ladder in zip(dims, (*trunk, ""), ladders, strict=True):
            self.shapes.append(shape)
            read, out = stack(ladder, shape, **options)
            reads.append(nn.Sequential(read, nn.Flatten()))
            heads.append(nn.ModuleList(nn.Linear(prod(out), d) for _ in range(self.outputs)))
            below, shape = stack(block, shape, **options)
            trunks.append(below)
        self.trunk = nn.ModuleList(trunks[:-1])
        self.ladders, self.heads = nn.ModuleList(reads), nn.ModuleList(heads)

    def emit(self, i: int, r: Tensor) -> tuple[Tensor, ...]:
        """What the heads of layer i (from 0) make of what its ladder has read."""
        return tuple(head(r).float() for head in self.heads[i])

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """q(z | x) for images x. Shapes: (B, C, H, W) -> mean and log_var (B, D)."""
        t, parts = self.stem(x), []
        for i in range(len(self.dims)):
            t = self.trunk[i - 1](t) if i else t
            parts.append(DiagonalGaussian(*self.emit(i, self.ladders[i](t))))
        return joined(parts)


def pick(q: DiagonalGaussian, noise: bool, rng: torch.Generator | int | None) -> Tensor:
    """A draw from q, or its mean. Shape: (B, D)."""
    return q.rsample(rng=rng) if noise else q.mean


class DeterministicEncoder(LadderEncoder):
    """z = mu(x), a code without a distribution (RAE, ICLR 2020)."""

    outputs = 1

    def draw(self, x, prior, generator, *, noise=True, rng=None, rows=None):
        """The codes (B, D) of images, and None."""
        t, codes = self.stem(x), []
        for i in range(len(self.dims)):
            t = self.trunk[i - 1](t) if i else t
            codes += self.emit(i, self.ladders[i](t))
        return torch.cat(codes, 1), None


class MergedEncoder(LadderEncoder):
    r"""Ladder VAE (NeurIPS 2016): a bottom-up pass gives N(m_i, s_i^2) for every layer, the prior's
    own top-down pass p(z_i | z_{i+1}), and q(z_i | z_{i+1}, x) is their product by precision
    (``merge``); at the top it is the bottom-up pass alone."""

    def draw(self, x, prior, generator, *, noise=True, rng=None, rows=None):
        """Codes (B, D) from the top down, and q(z_i | z_{i+1}, x) at them."""
        from_below, qs = self.posterior(x).split(self.dims), {}
        rng = source(rng, x.device)

        def choose(i: int, p: DiagonalGaussian, h: Tensor | None) -> Tensor:
            qs[i] = from_below[i] if h is None else merge(from_below[i], p)
            return pick(qs[i], noise, rng)

        z, _ = prior.top_down(len(x), choose)
        return z, joined([qs[i] for i in range(len(self.dims))])


class BidirectionalEncoder(Inference):
    r"""BIVA (NeurIPS 2019): below the top, z_i = [z_i^BU, z_i^TD], inferred in opposite directions.

    A stochastic path runs up: z_i^BU ~ q(. | x, z_{<i}^BU), at last z_L ~ q(. | x, z_{<L}^BU). A
    second path up, which also sees z_{<i}^BU, meets the prior's context h_{i+1} on the way down:
    z_i^TD ~ q(. | x, z_{<i}^BU, z_{>i}). Both paths have the layers of ``LadderEncoder``.
    Raises UsageError where a layer below the top has fewer than two dimensions.
    """

    exact_kl = False  # z_i^BU was drawn before the layers above it, on which p(z_i | .) depends

    def __init__(
        self,
        dims: tuple[int, ...],
        image: Shape,
        trunk: tuple[str, ...],
        ladders: tuple[str, ...],
        *,
        context: int,
        **options,
    ):
        super().__init__()
        if min(dims[:-1], default=0) < 2:
            raise UsageError(
                f"dims {tuple(dims)} cannot be inferred in both directions: at least two layers "
                "are needed, and two dimensions in each one below the top."
            )
        down = [d // 2 for d in dims[:-1]]
        up = [d - half for d, half in zip(dims, down, strict=False)]
        self.dims = tuple(dims)
        self.groups = (*(d for pair in zip(up, down, strict=True) for d in pair), dims[-1])
        self.up = LadderEncoder((*up, dims[-1]), image, trunk, ladders, **options)
        to_meet = tuple(f"{ladder}, fc {MEET}" for ladder in ladders[:-1])
        self.side = LadderEncoder(tuple(down), image, trunk[:-1], to_meet, **options)
        self.join_up = joins(up, self.up.shapes[1:])  # where z_i^BU enters the paths: at t_{i+1}
        self.join_side = joins(up[:-1], self.side.shapes[1:])
        self.meet = nn.ModuleList(nn.Linear(context, MEET) for _ in down)

    def draw(self, x, prior, generator, *, noise=True, rng=None, rows=None):
        """Codes (B, D), z^BU from below and z^TD from above, and q of each at them."""
        top, rng = len(self.dims) - 1, source(rng, x.device)
        t, s = self.up.stem(x), self.side.stem(x)
        up, reads, qs = [], [], {}
        for i in range(top):
            qs[i, 0] = DiagonalGaussian(*self.up.emit(i, self.up.ladders[i](t)))
            up.append(pick(qs[i, 0], noise, rng))
            reads.append(self.side.ladders[i](s).float())
            t = self.up.trunk[i](t) + self.join_up[i](up[i])
            if i < top - 1:
                s = self.side.trunk[i](s) + self.join_side[i](up[i])
        qs[top, 0] = DiagonalGaussian(*self.up.emit(top, self.up.ladders[top](t)))

        def choose(i: int, p: DiagonalGaussian, h: Tensor | None) -> Tensor:
            if h is None:
                return pick(qs[i, 0], noise, rng)
            qs[i, 1] = DiagonalGaussian(*self.side.emit(i, F.silu(reads[i] + self.meet[i](h))))
            return torch.cat([up[i], pick(qs[i, 1], noise, rng)], 1)

        z, _ = prior.top_down(len(x), choose)
        return z, joined([qs[key] for key in sorted(qs)])


def joins(dims: list[int], shapes: list[Shape]) -> nn.ModuleList:
    """Linear maps of codes of each size to features of each shape, to be added to them."""
    return nn.ModuleList(
        nn.Sequential(nn.Linear(d, prod(shape)), nn.Unflatten(1, shape))
        for d, shape in zip(dims, shapes, strict=True)
    )


class LangevinPosterior(Inference):
    r"""q(z | x): ``steps`` of Langevin dynamics of size ``step_size`` on log p(x | z) + log p(z),
    started from N(0, I) (NeurIPS 2020, eq. 10). It has no parameters.

    A ``warm`` one keeps the end of every training image's chain in ``table``, one row an image,
    and goes on from there when the image comes again (ABP, AAAI 2017); other images start cold.
    """

    amortised = False

    def __init__(self, steps: int = 20, step_size: float = 0.1, *, warm: bool = False):
        super().__init__()
        self.steps, self.step_size, self.warm = steps, step_size, warm

    def prepare(self, n: int, prior: Prior, *, rng: torch.Generator | int | None = None) -> None:
        """Start a table of ``n`` training images from N(0, I), if this kind keeps one."""
        if self.warm:
            self.table = prior.start(n, rng=rng)

    def sample(
        self,
        x: Tensor,
        prior: Prior,
        generator: Generator,
        *,
        rng: torch.Generator | int | None = None,
        rows: Tensor | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """One posterior sample for each image; ``rows`` (B,) says which training images they are.

        Shapes: (B, C, H, W) -> (B, D).
        """
        kept, rng = self.warm and rows is not None, source(rng, x.device)
        z = langevin(
            lambda z: generator.log_lik(x, z) + prior.log_prob(z),
            self.table[rows] if kept else prior.start(len(x), rng=rng),
            steps=self.steps,
            step_size=self.step_size,
            rng=rng,
            callback=callback,
        )
        if kept:
            self.table.index_copy_(0, rows, z)
        return z

    def draw(self, x, prior, generator, *, noise=True, rng=None, rows=None):
        """Posterior samples (B, D) by Langevin, and None: their distribution has no closed form."""
        return self.sample(x, prior, generator, rng=rng, rows=rows), None
