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

from ..errors import UsageError
from ..paths import cache_dir

SOURCE = Path(__file__).with_name("chain.c")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC")
YES, NO = ("", "1", "yes", "on", "true"), ("0", "no", "off", "false")
ASKING, COMPILING = 20, 60  # seconds that a compiler may take
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
    source and of all that the compiler says about itself and its target; where nothing can be kept
    there, it is compiled for this process alone. A kernel that does not make a known step right is
    not used. Raises UsageError for a ``JLEBM_NATIVE`` that is neither yes nor no.
    """
    wanted = os.environ.get("JLEBM_NATIVE", "").strip().lower()
    if wanted not in (*YES, *NO):
        raise UsageError(f"JLEBM_NATIVE is {wanted!r}: set it to 1 (the C kernel) or 0 (PyTorch).")
    if wanted in NO or not (command := compiler()):
        return None
    try:
        about = _output([*command, *FLAGS, "-dM", "-E", "-x", "c", os.devnull], ASKING)
    except (OSError, subprocess.SubprocessError):
        return None
    key = hashlib.sha256(SOURCE.read_bytes() + about + platform.platform().encode())
    for keep in (True, False):
        try:
            if keep:
                return kept(command, cache_dir() / "kernels" / f"chain-{key.hexdigest()[:16]}.so")
            with tempfile.TemporaryDirectory() as folder:
                return compiled(command, Path(folder))[1]
        except subprocess.SubprocessError:
            return None
        except (OSError, UsageError):  # no cache, or none that can be written: without it
            pass
    return None


def compiler() -> list[str]:
    """The command that ``CC`` names, with its arguments, or cc; nothing if there is none."""
    named = os.environ.get("CC", "").strip() or "cc"
    try:
        command = [named] if shutil.which(named) else shlex.split(named)
    except ValueError:  # a quote that is never closed
        return []
    return command if command and shutil.which(command[0]) else []


def kept(command: Sequence[str], file: Path) -> ctypes.CDLL:
    """The kernel in ``file``, compiled anew unless it is there and sound."""
    if file.is_file():
        try:
            return checked(file)
        except OSError:
            pass
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        built, kernel = compiled(command, Path(folder))
        os.replace(built, file)  # whole or not at all, whoever else compiles it now
        return kernel


def compiled(command: Sequence[str], folder: Path) -> tuple[Path, ctypes.CDLL]:
    """A new kernel in ``folder``, checked. Raises OSError or SubprocessError if there is none."""
    built = folder / "chain.so"
    _output([*command, *FLAGS, "-o", str(built), str(SOURCE)], COMPILING)
    return built, checked(built)


def checked(file: Path) -> ctypes.CDLL:
    """The kernel in ``file``. Raises OSError if it is none, or does not make a known step right.

    The step is that of f(z) = act(z) with slope 1/2 from -2 and 3 without noise, where the drift is
    the whole of the distance: z + (f'(z) - z), which is f'(z) = 1/2 and 1.
    """
    kernel, plain = ctypes.CDLL(str(file)), {"dtype": torch.float32, "device": "cpu"}
    z, eps = torch.tensor([[-2.0], [3.0]], **plain), torch.zeros(1, 2, 1, **plain)
    layer = torch.ones(1, 1, **plain), torch.zeros(1, **plain)
    try:
        _run(kernel, [layer, layer], 0.5, z, eps, drift=1.0)
    except (AttributeError, ArithmeticError, MemoryError) as error:  # a library of something else
        raise OSError(f"{file} is no kernel ({error})") from None
    if z.flatten().tolist() != [0.5, 1.0]:
        raise OSError(f"{file} does not compute what it should")
    return kernel


def _output(command: Sequence[str], seconds: float) -> bytes:
    how = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "timeout": seconds}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, **how).stdout


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
    _run(library(), layers, slope, z, noise, drift=drift)


def _run(
    kernel: ctypes.CDLL,
    layers: Sequence[tuple[Tensor, Tensor]],
    slope: float,
    z: Tensor,
    noise: Tensor,
    *,
    drift: float,
) -> None:
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
