"""The CUDA kernel of prior chains, in Triton: all steps of a block of chains in one launch.

The state and the activations of a block stay in registers, the weights in shared memory or the
nearest cache, the noise is made where it is used (Philox) or read. With ``TRITON_INTERPRET=1`` the
same code runs on a CPU, which is how the tests check it.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.errors import OutOfResources

FEW = 2048  # chains up to which float32 products are quickest; beyond, tf32 in three parts
MAX_DIM, MAX_WIDTH, MAX_HIDDEN = 128, 256, 4
WHOLE, CHUNK = 64, 32  # hidden units up to which all weights stay on chip; rows at a time beyond
TOO_LARGE: set[tuple] = set()  # what this GPU has turned out to have no room for
CODES = {"lrelu": 0, "lrelu0.01": 0, "relu": 0, "silu": 1, "gelu": 2}


def fits(layers: Sequence[tuple[Tensor, Tensor]], act: str, chains: int) -> bool:
    """Whether the kernel takes this f: its activation, its widths, its number of layers. Many
    chains of a wide f are left to the libraries, which are quicker at large matrix products."""
    hidden = layers[:-1]
    widths = [len(w) for w, _ in hidden]
    return (
        act in CODES
        and len(hidden) <= MAX_HIDDEN
        and max(widths) <= (MAX_WIDTH if chains <= FEW else WHOLE)
        and hidden[0][0].shape[1] <= MAX_DIM
        and _size(hidden, chains) not in TOO_LARGE
    )


def _size(hidden: Sequence[tuple[Tensor, Tensor]], chains: int) -> tuple:
    return (*(w.shape for w, _ in hidden), chains > FEW)


@triton.jit
def _act(a, slope, ACT: tl.constexpr):
    if ACT == 0:
        h = tl.where(a > 0, a, a * slope)
    elif ACT == 1:
        h = a * tl.sigmoid(a)
    else:
        h = a * 0.5 * (1 + tl.erf(a * 0.7071067811865476))
    return h


@triton.jit
def _bend(g, a, slope, ACT: tl.constexpr):
    """g act'(a)."""
    if ACT == 0:
        d = tl.where(a > 0, 1.0, slope)
    elif ACT == 1:
        s = tl.sigmoid(a)
        d = s * (1 + a * (1 - s))
    else:
        d = (
            0.5 * (1 + tl.erf(a * 0.7071067811865476))
            + a * tl.exp(-0.5 * a * a) * 0.3989422804014327
        )
    return g * d


@triton.jit
def _times(h, w, layer, scratch, ROWS: tl.constexpr, H: tl.constexpr, CHUNK: tl.constexpr,
           PRECISION: tl.constexpr):  # fmt: skip
    """h (ROWS, H) times the matrix of a layer in w (layers, H, H).

    Matrices wider than ``CHUNK`` come in chunks of their rows, since not all of them fit on chip;
    h then goes through ``scratch``, a place of the block's own: registers cannot be sliced.
    """
    columns = tl.arange(0, H)
    w += layer * H * H
    if CHUNK == H:
        square = tl.load(w + columns[:, None] * H + columns[None, :])
        product = tl.dot(h, square, input_precision=PRECISION)
    else:
        rows = tl.arange(0, ROWS)[:, None] * H
        tl.store(scratch + rows + columns[None, :], h)
        tl.debug_barrier()
        product = tl.zeros((ROWS, H), tl.float32)
        for start in range(0, H, CHUNK):
            inner = start + tl.arange(0, CHUNK)
            part = tl.load(scratch + rows + inner[None, :])
            strip = tl.load(w + inner[:, None] * H + columns[None, :])
            product = tl.dot(part, strip, product, input_precision=PRECISION)
        tl.debug_barrier()
    return product


@triton.jit
def _chains(
    z, eps, seed, first, up, down, biases, top, scratch, batch, dim, steps, drift, spread, slope,
    D: tl.constexpr, H: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr, ACT: tl.constexpr,
    GIVEN: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, D)
    units = tl.arange(0, H)
    inside = (rows[:, None] < batch) & (columns[None, :] < dim)
    place = rows[:, None] * dim + columns[None, :]
    state = tl.load(z + place, inside, 0.0)
    w = tl.load(first + units[:, None] * D + columns[None, :])
    b1 = tl.load(biases + units)[None, :]
    if N > 1:
        b2 = tl.load(biases + H + units)[None, :]
    if N > 2:
        b3 = tl.load(biases + 2 * H + units)[None, :]
    if N > 3:
        b4 = tl.load(biases + 3 * H + units)[None, :]
    out = tl.load(top + units)
    key = tl.load(seed)
    scratch += tl.program_id(0) * ROWS * H
    for k in range(steps):
        a1 = tl.dot(state, tl.trans(w), input_precision=PRECISION) + b1
        last = a1
        if N > 1:
            h = _act(a1, slope, ACT)
            a2 = _times(h, up, 0, scratch, ROWS, H, CHUNK, PRECISION) + b2
            last = a2
        if N > 2:
            h = _act(a2, slope, ACT)
            a3 = _times(h, up, 1, scratch, ROWS, H, CHUNK, PRECISION) + b3
            last = a3
        if N > 3:
            h = _act(a3, slope, ACT)
            a4 = _times(h, up, 2, scratch, ROWS, H, CHUNK, PRECISION) + b4
            last = a4
        g = _bend(out[None, :], last, slope, ACT)
        if N > 3:
            g = _times(g, down, 2, scratch, ROWS, H, CHUNK, PRECISION)
            g = _bend(g, a3, slope, ACT)
        if N > 2:
            g = _times(g, down, 1, scratch, ROWS, H, CHUNK, PRECISION)
            g = _bend(g, a2, slope, ACT)
        if N > 1:
            g = _times(g, down, 0, scratch, ROWS, H, CHUNK, PRECISION)
            g = _bend(g, a1, slope, ACT)
        grad = tl.dot(g, w, input_precision=PRECISION)
        if GIVEN:
            noise = tl.load(eps + k * batch * dim + place, inside, 0.0)
        else:
            noise = tl.randn(key, k * batch * dim + place) * spread
        state = (1 - drift) * state + (noise + drift * grad)
    tl.store(z + place, state, inside)


def _padded(t: Tensor, *shape: int) -> Tensor:
    whole = t.new_zeros(shape)
    whole[tuple(slice(n) for n in t.shape)] = t
    return whole


def _power(n: int) -> int:
    return max(16, triton.next_power_of_2(n))  # tl.dot wants powers of two, 16 at least


def run(
    layers: Sequence[tuple[Tensor, Tensor]],
    act: str,
    slope: float,
    z: Tensor,
    *,
    steps: int,
    drift: float,
    spread: float = 0.0,
    eps: Tensor | None = None,
    rng: torch.Generator | None = None,
    precision: str | None = None,
) -> bool:
    """Advance the chains ``z`` (B, D), float32, in place by ``steps`` steps.

    False if the GPU has too little shared memory for this f; ``z`` is then as it was.

    The noise is ``eps`` (K, B, D), already scaled, or drawn in the kernel from Philox, times
    ``spread``, under a key from ``rng``: another stream than PyTorch's. ``layers`` as in
    ``langevin_mlp``. Padding adds units whose weights are 0: they change nothing. ``precision`` is
    Triton's for matrix products; "ieee" is float32.
    """
    *hidden, (out, _) = layers
    (batch, dim), n = z.shape, len(hidden)
    d, h = _power(dim), _power(max(len(w) for w, _ in hidden))
    first = _padded(hidden[0][0], h, d)
    down = torch.stack([_padded(w, h, h) for w, _ in hidden[1:]] or [z.new_zeros(1, 1)])
    biases = torch.stack([_padded(b, h) for _, b in hidden])
    seed = torch.randint(2**31 - 1, (1,), generator=rng, device=z.device, dtype=torch.int32)
    rows = 16 if batch <= 16 * 512 else 32  # small blocks fill a card with few chains
    precision = precision or ("ieee" if batch <= FEW else "tf32x3")
    blocks, chunk = triton.cdiv(batch, rows), h if h <= WHOLE else CHUNK
    scratch = z.new_empty(blocks * rows * h if chunk < h else 1)
    try:
        _chains[(blocks,)](
            *(z, z if eps is None else eps, seed, first, down.mT.contiguous(), down, biases),
            *(_padded(out[0], h), scratch, batch, dim, steps, drift, spread, slope),
            D=d, H=h, N=n, ROWS=rows, ACT=CODES[act], GIVEN=eps is not None, CHUNK=chunk,
            PRECISION=precision, num_warps=4 if chunk == h else 8,
        )  # fmt: skip
    except OutOfResources:
        TOO_LARGE.add(_size(hidden, batch))
        return False
    return True
