"""The project's one address (``repository`` in _config.yml), and links between pages made from it.

Notebooks in git name other pages by absolute addresses, since Colab opens a notebook without the
files beside it: a notebook on Colab, any other file on GitHub. On the site the same links are
relative; this file is also the Sphinx extension that makes them so.
"""

import re
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
REPOSITORY, BRANCH = CONFIG["repository"]["url"], CONFIG["repository"]["branch"]
BOOK = CONFIG["repository"]["path_to_book"] + "/"
FILES = f"{REPOSITORY}/blob/{BRANCH}/"
COLAB = f"{CONFIG['launch_buttons']['colab_url']}/github{urlsplit(FILES).path}"
LINK = re.compile(r"""(?<=\]\()[^)\s]+|(?<=href=")[^"]+|(?<=src=")[^"]+""")
TO_THE_BOOK = re.compile(rf"(?<=\]\()(?:{re.escape(COLAB)}|{re.escape(FILES)}){BOOK}")


def absolute(path: str) -> str:
    """Address of a file, ``path`` from the repository's root; an anchor stays at its end."""
    notebook = urlsplit(path).path.endswith(".ipynb")
    return (COLAB if notebook else FILES) + path


def ours(link: str) -> str | None:
    """Path from the root, without an anchor, of the file that ``link`` names, or None."""
    for start in (COLAB, FILES):
        if link.startswith(start):
            return urlsplit(link.removeprefix(start)).path
    return None


def is_relative(link: str) -> bool:
    """Whether ``link`` leads to a file beside this one, which a notebook on Colab does not have."""
    url = urlsplit(link)
    return not (url.scheme or url.netloc) and bool(url.path)


def with_absolute_links(markdown: str) -> str:
    """The text of a cell with the relative links between pages made absolute."""
    return LINK.sub(lambda m: absolute(BOOK + m[0]) if is_relative(m[0]) else m[0], markdown)


def make_relative(app: Sphinx, docname: str, source: list[str]) -> None:
    """Shorten the links between pages of the book in a source that Sphinx has read."""
    source[0] = TO_THE_BOOK.sub("", source[0])


def setup(app: Sphinx) -> dict:
    """Register the extension."""
    app.connect("source-read", make_relative)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
