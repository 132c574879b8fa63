"""The CPU kernel of prior chains (chain.c): compiled at its first use, called through ctypes.

Where there is no C compiler the closed form in PyTorch does the same work, slower.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from ..paths import cache_dir

SOURCE = Path(__file__).with_name("chain.c")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC")
_pointer = ctypes.c_void_p


class _Layer(ctypes.Structure):
    _fields_ = [
        ("weight", _pointer),
        ("bias", _pointer),
        ("rows", ctypes.c_int),
        ("columns", ctypes.c_int),
    ]


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it cannot be had (``JLEBM_NATIVE=0`` asks for None).

    It is compiled for this very processor and kept in the cache folder, under a name made of the
    source and of all that the compiler says about itself and its target.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if os.environ.get("JLEBM_NATIVE") == "0" or not shutil.which(compiler[0]):
        return None
    try:
        about = _output([*compiler, *FLAGS, "-dM", "-E", "-x", "c", os.devnull])
        key = hashlib.sha256(SOURCE.read_bytes() + about + platform.platform().encode())
        file = cache_dir() / "kernels" / f"chain-{key.hexdigest()[:16]}.so"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=file.parent) as folder:
                built = Path(folder, "chain.so")
                _output([*compiler, *FLAGS, "-o", str(built), str(SOURCE)])
                os.replace(built, file)  # whole or not at all, whoever else compiles it now
        return ctypes.CDLL(str(file))
    except (OSError, subprocess.SubprocessError):
        return None


def _output(command: Sequence[str]) -> bytes:
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


def available() -> bool:
    """Whether the kernel can run here."""
    return library() is not None


def run(
    layers: Sequence[tuple[Tensor, Tensor]],
    slope: float,
    z: Tensor,
    noise: Tensor,
    *,
    drift: float,
) -> None:
    """Advance the chains ``z`` in place: one step for each entry of ``noise``, already scaled.

    Shapes: z (B, D), noise (K, B, D), float32 and contiguous on the CPU; ``layers`` as in
    ``langevin_mlp``, bent by LeakyReLU of ``slope``. Chains are shared out over PyTorch's threads.
    """
    kernel = library()
    tensors = [(w.contiguous(), b.contiguous()) for w, b in layers]  # kept while it runs
    *hidden, (out, *_) = [(w.data_ptr(), b.data_ptr(), *w.shape) for w, b in tensors]
    n, (batch, dim), steps = len(hidden), z.shape, len(noise)
    described = (_Layer * n)(*hidden)

    def part(start: int, stop: int) -> int:
        return kernel.run(
            *(_pointer(z.data_ptr()), _pointer(noise.data_ptr()), described, _pointer(out)),
            *(n, batch, dim, steps, ctypes.c_float(drift), ctypes.c_float(slope), start, stop),
        )

    lanes = kernel.lanes()
    threads = min(torch.get_num_threads(), -(-batch // lanes))
    share = -(-batch // (threads * lanes)) * lanes  # whole blocks
    starts = range(0, batch, share)
    if len(starts) == 1:
        failed = part(0, batch)
    else:
        with ThreadPoolExecutor(len(starts)) as pool:
            failed = any(pool.map(lambda a: part(a, min(a + share, batch)), starts))
    if failed:
        raise MemoryError("no memory for the activations of a block of chains")
