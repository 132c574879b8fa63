"""Checkpoints: tensors as safetensors, everything else as JSON, joined by a SHA-256.

No pickle is ever read, so a checkpoint cannot run code. Both files are written under temporary
names and then renamed, the JSON last: an interrupted save leaves the older checkpoint whole.
"""

import hashlib
import json
import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from .errors import UsageError


def files(stem: str | Path) -> tuple[Path, Path]:
    """The two files of checkpoint ``stem``: ``stem.safetensors`` and ``stem.json``."""
    stem = Path(stem)
    return stem.with_name(stem.name + ".safetensors"), stem.with_name(stem.name + ".json")


def exists(stem: str | Path) -> bool:
    """Whether both files of checkpoint ``stem`` are there."""
    return all(f.is_file() for f in files(stem))


def save(stem: str | Path, tensors: dict[str, Tensor], meta: dict) -> None:
    """Write ``tensors`` and ``meta`` as checkpoint ``stem``, replacing an older one atomically."""
    weights, description = files(stem)
    weights.parent.mkdir(parents=True, exist_ok=True)
    blob = dump_tensors({k: t.detach().cpu().contiguous() for k, t in tensors.items()})
    text = json.dumps({**meta, "sha256": hashlib.sha256(blob).hexdigest()}, indent=1) + "\n"
    for path, content in ((weights, blob), (description, text.encode())):
        write_atomic(path, content)


def load(stem: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Read checkpoint ``stem`` as ``(tensors, meta)``.

    Raises UsageError if a file is missing or unreadable, or if the hash does not fit.
    """
    weights, description = files(stem)
    try:
        meta, blob = json.loads(description.read_text()), weights.read_bytes()
    except OSError as error:
        raise UsageError(f"no checkpoint at {stem}: {error.filename} cannot be read.") from None
    except json.JSONDecodeError:
        raise UsageError(f"checkpoint {description} is not valid JSON.") from None
    if hashlib.sha256(blob).hexdigest() != meta.get("sha256"):
        raise UsageError(f"checkpoint {weights} does not match the SHA-256 in {description.name}.")
    try:
        return parse_tensors(blob), meta
    except SafetensorError as error:
        raise UsageError(f"checkpoint {weights} is not a safetensors file ({error}).") from None


def halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """For shipping: matrices and kernels in float16, vectors and counters as they are."""
    return {k: t.half() if t.dim() > 1 else t for k, t in tensors.items()}


def write_atomic(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that a reader sees the old file or the new, never a part."""
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
