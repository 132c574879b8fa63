"""The CUDA kernels of prior chains: which f they take, and how they are started.

The kernels themselves are in ``programs``.
"""

from collections.abc import Sequence

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources

from . import programs

FEW = 2048  # chains up to which blocks of few are quicker, and our strips than the libraries
MAX_DIM, MAX_WIDTH, MAX_HIDDEN = 128, 256, 4
NARROW = 64  # hidden units up to which blocks of many chains are the quickest for any number
SPARE = 8 * 1024  # bytes of shared memory for what is not a weight
FIRST = (8, 0)  # the first GPUs (Ampere) with tensor cores as the kernels use them
STRIP = 64  # hidden units of a strip
TOO_LARGE: set[tuple] = set()  # what this GPU has turned out to have no room for
CODES = {"lrelu": 0, "lrelu0.01": 0, "relu": 0, "silu": 1, "gelu": 2}

Layers = Sequence[tuple[Tensor, Tensor]]


def fits(layers: Layers, act: str, chains: int) -> bool:
    """Whether a kernel takes this f: its activation, its widths, its number of layers. Many
    chains of a wide f are left to the libraries, which are quicker at large matrix products."""
    hidden = layers[:-1]
    return (
        act in CODES
        and len(hidden) <= MAX_HIDDEN
        and max(len(w) for w, _ in hidden) <= MAX_WIDTH
        and hidden[0][0].shape[1] <= MAX_DIM
        and _gpu(hidden[0][0].device)[0] >= FIRST
        and (chains <= FEW or _block(hidden, chains) is not None)
        and _size(hidden, chains) not in TOO_LARGE
    )


def _size(hidden: Layers, chains: int) -> tuple:
    return (*(w.shape for w, _ in hidden), chains > FEW)


def _padded_sizes(hidden: Layers) -> tuple[int, int]:
    """Powers of two, 16 at least, for the dimensions and the widest layer: tl.dot wants them."""
    sizes = hidden[0][0].shape[1], max(len(w) for w, _ in hidden)
    return tuple(max(16, triton.next_power_of_2(n)) for n in sizes)


def _block(hidden: Layers, chains: int) -> int | None:
    """Chains a block if all weights fit on chip, else None.

    Blocks of 64 chains multiply by Hopper's own instructions, which read a weight's two halves as
    they lie; all others want them in two arrangements.
    """
    d, h = _padded_sizes(hidden)
    halves = 4 * (h * d + (len(hidden) - 1) * h * h)  # bytes
    (major, _), room = _gpu(hidden[0][0].device)
    few = h > NARROW and chains <= FEW and 2 * halves + SPARE <= room
    many = h <= 2 * NARROW and (1 if major == 9 else 2) * halves + SPARE <= room
    return 16 if few else 64 if many else None


def _gpu(device: torch.device) -> tuple[tuple[int, int], int]:
    """Compute capability and bytes of shared memory that a block can have; a Hopper's for the
    interpreter."""
    if device.type != "cuda":
        return (9, 0), 227 * 1024
    found = torch.cuda.get_device_properties(device)
    return (found.major, found.minor), found.shared_memory_per_block_optin


def run(
    layers: Layers,
    act: str,
    slope: float,
    z: Tensor,
    *,
    steps: int,
    drift: float,
    spread: float = 0.0,
    eps: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> bool:
    """Advance the chains ``z`` (B, D), float32, in place by ``steps`` steps.

    False if the GPU has too little shared memory for this f; ``z`` is then as it was.

    The noise is ``eps`` (K, B, D), already scaled, or drawn in the kernel from Philox, times
    ``spread``, under a key from ``rng``: another stream than PyTorch's. ``layers`` as in
    ``langevin_mlp``.
    """
    *hidden, (out, _) = layers
    seed = torch.randint(2**31 - 1, (1,), generator=rng, device=z.device, dtype=torch.int32)
    start = (z, z if eps is None else eps, seed)
    numbers = (steps, drift, spread, slope)
    d, h = _padded_sizes(hidden)
    constants = {"D": d, "H": h, "ACT": CODES[act], "GIVEN": eps is not None}
    try:
        if rows := _block(hidden, len(z)):
            _run_whole(hidden, out, start, numbers, ROWS=rows, **constants)
        else:
            _run_strips(hidden, out, start, numbers, ROWS=16, **constants)
    except OutOfResources:
        TOO_LARGE.add(_size(hidden, len(z)))
        return False
    return True


def _run_whole(hidden: Layers, out: Tensor, start: tuple, numbers: tuple, **constants) -> None:
    batch, dim = start[0].shape
    missing = MAX_HIDDEN - len(hidden)
    weights = [t.contiguous() for layer in hidden for t in layer] + 2 * missing * [out]
    widths = [len(w) for w, _ in hidden] + missing * [0]
    programs.whole[(triton.cdiv(batch, constants["ROWS"]),)](
        *(*start, *weights, out, batch, *numbers),
        **dict(zip(("N1", "N2", "N3", "N4"), widths, strict=True)),
        **{"DIM": dim, "LAST": len(hidden[-1][0]), **constants},
        num_warps=4,
    )


def _run_strips(hidden: Layers, out: Tensor, start: tuple, numbers: tuple, **constants) -> None:
    z, d, h, rows = start[0], constants["D"], constants["H"], constants["ROWS"]
    (batch, dim), n = z.shape, len(hidden)
    first = _stacked_halves(_padded(hidden[0][0], h, d))
    middle = [_stacked_halves(_padded(w, h, h)) for w, _ in hidden[1:]]
    biases = torch.stack([_padded(b, h) for _, b in hidden])
    blocks = triton.cdiv(batch, rows)
    pitch = max(d, h)
    scratch = z.new_empty(blocks * (n + 1) * rows * pitch)
    programs.strips[(blocks,)](
        *(*start, first, torch.stack(middle) if middle else first, biases, _padded(out[0], h)),
        *(scratch, batch, dim, *numbers),
        **{"N": n, "STRIP": min(STRIP, h), "PITCH": pitch, **constants},
        num_warps=8,
    )


def _padded(t: Tensor, *shape: int) -> Tensor:
    whole = t.new_zeros(shape)
    whole[tuple(slice(n) for n in t.shape)] = t
    return whole


def _stacked_halves(w: Tensor) -> Tensor:
    hi = w.half()
    return torch.stack([hi, ((w - hi.float()) * 2048).half()])
