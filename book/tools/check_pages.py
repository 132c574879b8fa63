"""Check the built pages without a browser: one line for each breach, exit code 1 if any.

Every local link and anchor resolves; nothing is loaded from another host; every image has an
alternative text; no output is an object's bare name in Python; every page of the table of contents
was built; every Colab link leads to a notebook of this repository; in the text, pages of the book
name each other by relative links; no output is a progress bar.
"""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from addresses import BOOK, COLAB, ROOT, ours
from bs4 import BeautifulSoup, Tag

SOURCES = {"a": "href", "link": "href", "img": "src", "script": "src", "iframe": "src"}
BARE = re.compile(r"tensor\(\[|<[\w.]+ object at 0x|<(?:function|bound method|class) ")
PROGRESS = re.compile(r"\d+%\s*\||\d+(?:\.\d+)?\w?/\d+(?:\.\d+)?\w? \[\d\d:\d\d")  # tqdm's, as text
PROGRESS_MODEL = re.compile(r'"_model_name":\s*"(?:Float|Int)ProgressModel"')
FILE_NAMES = (".png", ".svg", ".jpg", ".jpeg", ".gif", ".webp")  # MyST-NB's stand-in for alt text


class Site:
    """The pages under ``folder``, parsed once; ``notebooks`` are the paths Colab may be sent to."""

    def __init__(self, folder: Path, notebooks: set[str]):
        self.folder, self.notebooks = folder.resolve(), notebooks
        self.pages = {
            path: BeautifulSoup(path.read_text("utf-8"), "html.parser")
            for path in sorted(self.folder.rglob("*.html"))
            if "_static" not in path.parts
        }
        self.anchors = {
            path: {tag["id"] for tag in page.find_all(id=True)}
            | {tag["name"] for tag in page.find_all("a", attrs={"name": True})}
            for path, page in self.pages.items()
        }

    def problems(self) -> list[str]:
        """Every breach on every page, each as one sentence."""
        found = []
        for path, page in self.pages.items():
            name = path.relative_to(self.folder)
            for tag, attribute in SOURCES.items():
                for element in page.find_all(tag, attrs={attribute: True}):
                    if problem := self._link(path, element, element[attribute]):
                        found.append(f"{name}: {problem}")
            for image in page.select("main img"):
                alt = (image.get("alt") or "").strip()
                if not alt or alt.lower().endswith(FILE_NAMES):
                    source = image.get("src", "")[:60]
                    found.append(f"{name}: image {source} has no alternative text ({alt!r})")
            for output in page.select("main .cell_output"):
                if bare := BARE.search(output.get_text()):
                    found.append(f"{name}: an output shows a bare object: {bare[0]}")
                if bar := PROGRESS.search(output.get_text()):
                    found.append(f"{name}: an output shows a progress bar: {bar[0]}")
            if any(PROGRESS_MODEL.search(script.get_text()) for script in page.find_all("script")):
                found.append(f"{name}: a widget is a progress bar")
        return list(dict.fromkeys(found))

    def _link(self, path: Path, element: Tag, target: str) -> str | None:
        url = urlsplit(target)
        if url.scheme in ("data", "mailto", "javascript"):
            return None
        if url.scheme or url.netloc:
            if target.startswith(COLAB) and target.removeprefix(COLAB) not in self.notebooks:
                return f"Colab link to a notebook that is not in the repository: {target}"
            if element.find_parent("article") and (ours(target) or "").startswith(BOOK):
                return f"absolute link to a page of the book: {target}"
            only_named = element.name == "a" or "canonical" in element.get("rel", [])
            return None if only_named else f"<{element.name}> is loaded from elsewhere: {target}"
        file = (path.parent / unquote(url.path)).resolve() if url.path else path
        file = file / "index.html" if file.is_dir() else file
        if not file.exists():
            return f"dead link {target}"
        if file in self.anchors and url.fragment:
            if unquote(url.fragment) not in self.anchors[file]:
                return f"no such anchor: {target}"
        return None


def toc_files(toc: dict) -> list[str]:
    """The documents named in a parsed ``_toc.yml``, root first."""
    inner = [toc.get("root"), toc.get("file")]
    for key in ("parts", "chapters", "sections"):
        for entry in toc.get(key, []):
            inner += toc_files(entry)
    return [name for name in inner if name]


def repository_notebooks() -> set[str]:
    """Notebooks that git holds or would take (not the ignored ones); all of book/ without git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.ipynb"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {str(path.relative_to(ROOT)) for path in (ROOT / "book").glob("*.ipynb")}
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def main() -> int:
    """Check the site in ``_build/html``."""
    folder = ROOT / "_build" / "html"
    site = Site(folder, repository_notebooks())
    found = site.problems()
    for name in toc_files(yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())):
        if not (folder / f"{name}.html").is_file():
            found.append(f"{name}: in _toc.yml, but there is no such page")
    print(*found, f"{len(site.pages)} pages, {len(found)} problems.", sep="\n")
    return int(bool(found) or not site.pages)


if __name__ == "__main__":
    sys.exit(main())
