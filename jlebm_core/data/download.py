"""Downloads that can be cut off: progress, checksum, resume, retry; nothing half-written counts.

torchvision knows where the sets lie and their checksums; what it lacks is going on with a part.
"""

import http.client
import os
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from torchvision.datasets.utils import check_md5
from tqdm.auto import tqdm

ATTEMPTS = 4  # per address
PAUSE = 1.0  # seconds before the second attempt, twice as long before each further one
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 16


class DownloadError(Exception):
    """No address gave the file; the message is the last reason."""


def fetch(urls: Sequence[str], file: Path, md5: str) -> Path:
    """Download ``file`` from the first of ``urls`` that gives bytes of checksum ``md5``.

    The bytes gather in ``file``.part, which a later attempt or call goes on with (HTTP Range), and
    which becomes ``file`` once it is whole and right. Raises DownloadError.
    """
    part = file.with_name(file.name + ".part")
    file.parent.mkdir(parents=True, exist_ok=True)
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
            if check_md5(part, md5):
                os.replace(part, file)
                return file
            part.unlink()  # wrong bytes are no start for a resume
            reason = f"{url} gave bytes of another checksum than {md5}"
    raise DownloadError(str(reason))


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
        name = part.name.removesuffix(".part")
        with (
            part.open("ab" if have else "wb") as out,
            tqdm(total=total, initial=have, desc=name, unit="B", unit_scale=True) as bar,
        ):
            while chunk := response.read(CHUNK):
                out.write(chunk)
                bar.update(len(chunk))
        if total is not None and size(part) < total:  # read() ends silently on a cut
            raise ConnectionError(f"{url} was cut off at {size(part)} of {total} bytes")
