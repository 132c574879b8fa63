"""Checkpoints: tensors as safetensors, everything else as JSON, joined by a SHA-256.

No pickle is ever read, so a checkpoint cannot run code. Both files are written under temporary
names and then renamed, the JSON last, and until then the older tensors lie beside the new ones: an
interrupted save leaves the older checkpoint whole, and who reads meanwhile finds one of the two.
"""

import errno
import hashlib
import json
import os
import secrets
import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from . import locks
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
    older = _older(weights)
    with locks.lock(weights.with_name(f".{weights.name}.lock"), wait=True):  # both of one writer
        try:
            older.unlink(missing_ok=True)
            os.link(weights, older)
        except OSError:  # there is none, or it can have but one name here
            pass
        write_atomic(weights, blob)
        write_atomic(description, text.encode())
        older.unlink(missing_ok=True)


def _older(weights: Path) -> Path:
    """Where the tensors lie that are about to be replaced."""
    return weights.with_name(f".{weights.name}.older")


def load(stem: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Read checkpoint ``stem`` as ``(tensors, meta)``.

    Raises UsageError if a file is missing or unreadable, or if the hash does not fit.
    """
    weights, description = files(stem)
    for _ in range(3):  # once more where another process replaced it meanwhile
        meta = about(stem)
        for file in (weights, _older(weights)):
            try:
                blob = file.read_bytes()
            except OSError as error:
                if file == weights:
                    raise UsageError(
                        f"no checkpoint at {stem}: {weights} cannot be read ({error.strerror})."
                    ) from None
                continue
            if hashlib.sha256(blob).hexdigest() == meta.get("sha256"):
                try:
                    return parse_tensors(blob), meta
                except SafetensorError as error:
                    raise UsageError(
                        f"checkpoint {weights} is not a safetensors file ({error})."
                    ) from None
    raise UsageError(f"checkpoint {weights} does not match the SHA-256 in {description.name}.")


def about(stem: str | Path) -> dict:
    """What checkpoint ``stem`` says of itself, without its tensors; UsageError as for ``load``."""
    description = files(stem)[1]
    try:
        return json.loads(description.read_text())
    except OSError as error:
        raise UsageError(f"no checkpoint at {stem}: {error.filename} cannot be read.") from None
    except json.JSONDecodeError:
        raise UsageError(f"checkpoint {description} is not valid JSON.") from None


def fingerprint(images: Tensor) -> dict:
    """What tells one set of uint8 images (N, C, H, W) from another: their number, and the SHA-256
    of their shape and bytes. 60,000 digits take a tenth of a second."""
    digest = hashlib.sha256(str(tuple(images.shape)).encode())
    digest.update(images.cpu().contiguous().numpy())
    return {"count": len(images), "sha256": digest.hexdigest()}


def same_images(stem: str | Path, trained: dict, here: dict, name: str) -> bool:
    """Whether ``stem`` says (``trained``, a fingerprint) that it was trained on the images ``here``
    called ``name``. Raises UsageError if it was trained on others; False if it does not say."""
    if any(trained[k] != here[k] for k in trained):
        raise UsageError(
            f"{stem} was trained on other images called {name} ({trained['count']:,} then, "
            f"{here['count']:,} now): give the same ones, or train on these in another folder."
        )
    return "sha256" in trained


def halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """For shipping: matrices and kernels in float16, vectors and counters as they are."""
    return {k: t.half() if t.dim() > 1 else t for k, t in tensors.items()}


def write_atomic(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that a reader sees the old file or the new, never a part.

    The temporary name is this call's own: of two writers at once, each ends whole, the last wins.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def writable(folder: Path, *names: str) -> None:
    """Raise OSError unless files of these names can be written into ``folder``, which need not be
    there yet; leaves nothing. For a sentence before the work, not after it."""
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(place)) from None
    for path in (folder / name for name in names):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
