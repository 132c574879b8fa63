"""The CUDA programs of prior chains, in Triton: all steps of a block of chains in one launch.

Where all weights of f fit on chip, a block of chains keeps them there for all its steps
(``whole``); those of a wider f come through the caches in strips (``strips``). The noise is made
where it is used (Philox) or read. With ``TRITON_INTERPRET=1`` the same code runs on a CPU, which is
how the tests check it.

Tensor cores multiply numbers of 16 bits, so every float32 factor is two of them, x = hi + lo / 2^11
with hi the nearest half-precision number, and a product is the sum of three: hi hi' + (hi lo' +
lo hi') / 2^11, added up in float32. What is left out is below 2^-22 of the product: the rounding of
float32. A state, weight or activation beyond 65,504, the largest half, makes its chain NaN.
"""

import triton
import triton.language as tl


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
def _halves(x):
    hi = x.to(tl.float16)
    return hi, ((x - hi.to(tl.float32)) * 2048.0).to(tl.float16)


@triton.jit
def _times(x, hi, lo):
    """x times the matrix whose halves are hi and lo."""
    x_hi, x_lo = _halves(x)
    small = tl.dot(x_hi, lo, tl.dot(x_lo, hi))
    return tl.dot(x_hi, hi, small * (1 / 2048.0))


@triton.jit
def _matrix(w, OUT: tl.constexpr, IN: tl.constexpr, H: tl.constexpr, D: tl.constexpr):
    """The halves of a weight (OUT, IN), with zeros around it: they change nothing."""
    i, j = tl.arange(0, H)[:, None], tl.arange(0, D)[None, :]
    return _halves(tl.load(w + i * IN + j, (i < OUT) & (j < IN), 0.0))


@triton.jit
def _vector(b, OUT: tl.constexpr, H: tl.constexpr):
    i = tl.arange(0, H)
    return tl.load(b + i, i < OUT, 0.0)[None, :]


@triton.jit
def _noise(eps, key, k, batch, place, inside, dim, spread, GIVEN: tl.constexpr):
    if GIVEN:
        return tl.load(eps + k * batch * dim + place, inside, 0.0)
    else:
        return tl.randn(key, k * batch * dim + place) * spread


@triton.jit
def whole(
    z, eps, seed, w1, b1, w2, b2, w3, b3, w4, b4, top, batch, steps, drift, spread, slope,
    DIM: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, N4: tl.constexpr,
    LAST: tl.constexpr, D: tl.constexpr, H: tl.constexpr, ROWS: tl.constexpr, ACT: tl.constexpr,
    GIVEN: tl.constexpr,
):  # fmt: skip
    """All weights on chip. N1 to N4 are the widths, 0 for a layer that f does not have."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, D)[None, :]
    inside, place = (rows < batch) & (columns < DIM), rows * DIM + columns
    state = tl.load(z + place, inside, 0.0)
    w1_hi, w1_lo = _matrix(w1, N1, DIM, H, D)
    c1 = _vector(b1, N1, H)
    if N2:
        w2_hi, w2_lo = _matrix(w2, N2, N1, H, H)
        c2 = _vector(b2, N2, H)
    if N3:
        w3_hi, w3_lo = _matrix(w3, N3, N2, H, H)
        c3 = _vector(b3, N3, H)
    if N4:
        w4_hi, w4_lo = _matrix(w4, N4, N3, H, H)
        c4 = _vector(b4, N4, H)
    out, key = _vector(top, LAST, H), tl.load(seed)
    for k in range(steps):
        a1 = _times(state, tl.trans(w1_hi), tl.trans(w1_lo)) + c1
        last = a1
        if N2:
            a2 = _times(_act(a1, slope, ACT), tl.trans(w2_hi), tl.trans(w2_lo)) + c2
            last = a2
        if N3:
            a3 = _times(_act(a2, slope, ACT), tl.trans(w3_hi), tl.trans(w3_lo)) + c3
            last = a3
        if N4:
            last = _times(_act(a3, slope, ACT), tl.trans(w4_hi), tl.trans(w4_lo)) + c4
        g = _bend(out, last, slope, ACT) + 0.0 * last  # NaN stays: comparing would hide it
        if N4:
            g = _bend(_times(g, w4_hi, w4_lo), a3, slope, ACT)
        if N3:
            g = _bend(_times(g, w3_hi, w3_lo), a2, slope, ACT)
        if N2:
            g = _bend(_times(g, w2_hi, w2_lo), a1, slope, ACT)
        noise = _noise(eps, key, k, batch, place, inside, DIM, spread, GIVEN)
        state = (1 - drift) * state + (noise + drift * _times(g, w1_hi, w1_lo))
    tl.store(z + place, state, inside)


@triton.jit
def _up(x, w, b, into, OUT: tl.constexpr, IN: tl.constexpr, STRIP: tl.constexpr):
    """x w^T + b for a weight (2, OUT, IN) of two halves, by way of ``into``: registers cannot be
    sliced, so the strips of a result meet in a place of the block's own."""
    tl.debug_barrier()
    for start in tl.range(0, OUT, STRIP, num_stages=2):
        some = start + tl.arange(0, STRIP)
        strip = w + some[:, None] * IN + tl.arange(0, IN)[None, :]
        part = _times(x, tl.trans(tl.load(strip)), tl.trans(tl.load(strip + OUT * IN)))
        tl.store(into + some[None, :], part + tl.load(b + some)[None, :])
    tl.debug_barrier()
    return tl.load(into + tl.arange(0, OUT)[None, :])


@triton.jit
def _down(g, w, into, OUT: tl.constexpr, IN: tl.constexpr, STRIP: tl.constexpr):
    """g w in the same way."""
    WIDTH: tl.constexpr = STRIP if STRIP < IN else IN
    tl.debug_barrier()
    for start in tl.range(0, IN, WIDTH, num_stages=2):
        some = start + tl.arange(0, WIDTH)
        strip = w + tl.arange(0, OUT)[:, None] * IN + some[None, :]
        tl.store(into + some[None, :], _times(g, tl.load(strip), tl.load(strip + OUT * IN)))
    tl.debug_barrier()
    return tl.load(into + tl.arange(0, IN)[None, :])


@triton.jit
def strips(
    z, eps, seed, first, middle, biases, top, scratch, batch, dim, steps, drift, spread, slope,
    D: tl.constexpr, H: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr, ACT: tl.constexpr,
    GIVEN: tl.constexpr, STRIP: tl.constexpr, PITCH: tl.constexpr,
):  # fmt: skip
    """Weights in strips, their halves stacked: first (2, H, D), middle (N - 1, 2, H, H).

    ``scratch`` (blocks, N + 1, ROWS, PITCH) keeps each layer's a for the way down; g comes last.
    """
    block = tl.program_id(0)
    rows = block * ROWS + tl.arange(0, ROWS)[:, None]
    columns, units = tl.arange(0, D)[None, :], tl.arange(0, H)[None, :]
    inside, place = (rows < batch) & (columns < dim), rows * dim + columns
    state = tl.load(z + place, inside, 0.0)
    here = scratch + block * (N + 1) * ROWS * PITCH + tl.arange(0, ROWS)[:, None] * PITCH
    out, key = tl.load(top + units), tl.load(seed)
    for k in range(steps):
        a = _up(state, first, biases, here, H, D, STRIP)
        for i in range(1, N):
            w, into = middle + (i - 1) * 2 * H * H, here + i * ROWS * PITCH
            a = _up(_act(a, slope, ACT), w, biases + i * H, into, H, H, STRIP)
        g = _bend(out, a, slope, ACT) + 0.0 * a  # as above
        into = here + N * ROWS * PITCH
        for back in range(1, N):
            i = N - back
            below = tl.load(here + (i - 1) * ROWS * PITCH + units)
            g = _bend(_down(g, middle + (i - 1) * 2 * H * H, into, H, H, STRIP), below, slope, ACT)
        noise = _noise(eps, key, k, batch, place, inside, dim, spread, GIVEN)
        state = (1 - drift) * state + (noise + drift * _down(g, first, into, H, D, STRIP))
    tl.store(z + place, state, inside)
