"""Downloads that can be cut off: progress, checksum, resume, retry; nothing half-written counts.

torchvision knows where the sets lie and their checksums, and is asked only where one is fetched;
what it lacks is going on with a part.
"""

import hashlib
import http.client
import os
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from .. import locks
from .progress import bar

ATTEMPTS = 4  # per address
PAUSE = 1.0  # seconds before the second attempt, twice as long before each further one
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 16


class DownloadError(Exception):
    """No address gave the file; the message is the last reason."""


def fetch(urls: Sequence[str], file: Path, md5: str) -> Path:
    """Download ``file`` from the first of ``urls`` that gives bytes of checksum ``md5``.

    The bytes gather in ``file``.part, which a later attempt or call goes on with (HTTP Range), and
    which becomes ``file`` once it is whole and right. What another process downloads now is waited
    for. Raises DownloadError.
    """
    part = file.with_name(file.name + ".part")
    file.parent.mkdir(parents=True, exist_ok=True)

    def say() -> None:
        print(f"{file.name}: waiting for another process that downloads it", file=sys.stderr)

    with locks.lock(file.with_name(f".{file.name}.lock"), wait=True, on_wait=say) as alone:
        if file.is_file() and md5_of(file) == md5:  # by another process, meanwhile
            return file
        if not alone:  # a part of this call's own, where the file system has no locks
            part = file.with_name(f"{file.name}.{secrets.token_hex(8)}.part")
        try:
            return _fetch(urls, file, part, md5)
        finally:
            if not alone:
                part.unlink(missing_ok=True)


def _fetch(urls: Sequence[str], file: Path, part: Path, md5: str) -> Path:
    reason: Exception | str = "no address"
    had = size(part)
    for url in urls:
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            try:
                append(url, part)
            except HTTPError as error:
                reason = error
                if error.code == 416:  # nothing after the part: whole, or not of this file
                    pass
                elif error.code < 500:  # gone or forbidden: asking again will not help
                    break
                else:
                    continue
            except URLError as error:  # no connection: worth waiting only if there was one before
                reason = error
                if size(part) == had:
                    break
                continue
            except (OSError, http.client.HTTPException) as error:
                reason = error
                continue
            if md5_of(part) == md5:
                os.replace(part, file)
                return file
            part.unlink()  # wrong bytes are no start for a resume
            reason = f"{url} gave bytes of another checksum than {md5}"
    raise DownloadError(str(reason))


def md5_of(file: Path) -> str:
    """The MD5 of a file, in hexadecimal digits: what the hosts of the sets publish. It finds bytes
    that were lost, and is used where MD5 is forbidden as a protection, too."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def size(part: Path) -> int:
    """Bytes of a part, 0 if there is none."""
    return part.stat().st_size if part.exists() else 0


def append(url: str, part: Path) -> None:
    """Ask for what ``part`` lacks and append it. Raises OSError if the connection is cut."""
    have = size(part)
    headers = {"User-Agent": "jlebm", **({"Range": f"bytes={have}-"} if have else {})}
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
        if response.status != 206:  # the server sends the whole file
            have = 0
        left = response.length
        total = None if left is None else have + left
        said = f"downloading {part.name.removesuffix('.part')}"
        with (
            part.open("ab" if have else "wb") as out,
            bar(said, total=total, initial=have, unit="B", unit_scale=True) as progress,
        ):
            while chunk := response.read(CHUNK):
                out.write(chunk)
                progress.update(len(chunk))
        if total is not None and size(part) < total:  # read() ends silently on a cut
            raise ConnectionError(f"{url} was cut off at {size(part)} of {total} bytes")
