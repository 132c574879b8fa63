"""The rules for the book's notebooks, as a check: one line for each breach, exit code 1 if any.

python book/tools/check_notebooks.py          # check book/*.ipynb
python book/tools/check_notebooks.py --fix    # strip what is not ours, make links absolute, check
"""

import copy
import re
import sys
from pathlib import Path

import nbformat
from addresses import (
    BRANCH,
    LINK,
    REPOSITORY,
    ROOT,
    absolute,
    is_relative,
    ours,
    with_absolute_links,
)

BOOK = Path(__file__).resolve().parents[1]
INSTALL = f"""\
# On Colab, install the book's module; elsewhere it is already there.
import importlib.util
import sys

if importlib.util.find_spec("jlebm_core") is None:
    if "google.colab" in sys.modules:
        %pip install -q "jlebm-core @ git+{REPOSITORY}@{BRANCH}"
    else:
        print("jlebm_core is missing: run `pip install -e .` in the root of the repository.")"""
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
GPU = {"accelerator": "GPU", "colab": {"gpuType": "T4"}}  # read by Colab
MODES = (
    "**Another mode:** run `%env JLEBM_MODE=train` (or `smoke`) in a cell of its own, on Colab "
    "too, before the first import."
)
PAGES = ("intro", "parts", "reproducibility")  # notebooks that are no chapters
SECTIONS = ("What you will learn", "What can go wrong", "Summary", "Exercises")
CELL_METADATA = {"tags", "mystnb"}
TAGS = {"remove-cell", "hide-input", "hide-output", "hide-cell", "remove-input", "remove-output"}
ABSOLUTE_PATH = re.compile(r"(?<![\w:/.<])/(home|root|work|tmp|mnt|content|Users)/|\b[A-Z]:\\Users")
MYST_ONLY = re.compile(r"^\s*(?:```|:::+)\{|(?<!`)\{[a-z:]+\}`", re.MULTILINE)
NO_ALT_TEXT = re.compile(r"!\[\s*\]\(")
PAPER = re.compile(r"(?:arxiv\.org/\w+/|doi\.org/)([^\s#?]+?)(?:v\d+|\.pdf)*$")
REFERENCES = set(
    re.findall(
        r"(?:arXiv:|doi\s*=\s*\{|DOI:)([^\s}]+)", (BOOK / "references.bib").read_text("utf-8")
    )
)
HEADING = re.compile(r"^(#{1,6}) +(.+?)\s*$", re.MULTILINE)


def problems(path: Path) -> list[str]:
    """Every breach of the rules in the notebook at ``path``, each as one sentence."""
    try:
        book = nbformat.reader.reads(path.read_text("utf-8"))
        nbformat.validate(copy.deepcopy(book))  # it would mend repeated ids in place
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        return [f"{path.name}: not a valid notebook: {str(error).splitlines()[0]}"]
    found = [*_whole(path, book), *_headings(book, () if path.stem in PAGES else SECTIONS)]
    for number, cell in enumerate(book.cells, start=1):
        check = _code if cell.cell_type == "code" else _text
        for problem in (*_any_cell(cell, prefix(path)), *check(cell)):
            found.append(f"cell {number}: {problem}")
    return [f"{path.name}: {problem}" for problem in found]


def prefix(path: Path) -> str:
    """What the ids of a notebook's cells start with: 01 of 01_slug.ipynb, intro of intro.ipynb."""
    return path.stem.split("_")[0]


def metadata(book) -> dict:
    """The metadata of a notebook: its kernel, and a GPU where ``train`` mode trains."""
    trains = any("modes.obtain" in c.source for c in book.cells if c.cell_type == "code")
    return {"kernelspec": KERNEL, **(GPU if trains else {})}


def _whole(path: Path, book) -> list[str]:
    found = []
    if not re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem) and path.stem not in PAGES:
        found.append(f"the file name is neither NN_slug.ipynb nor one of {', '.join(PAGES)}")
    if (book.nbformat, book.nbformat_minor) != (4, 5):
        found.append("the format is not 4.5")
    if book.metadata != metadata(book):
        found.append(f"the metadata are not just {metadata(book)}")
    ids = [cell.get("id") for cell in book.cells]
    if len(set(ids)) < len(ids):
        found.append("two cells have the same id")
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    if not code or code[0].source != INSTALL or code[0].metadata != {"tags": ["remove-cell"]}:
        found.append("the first code cell is not INSTALL of check_notebooks.py, tagged remove-cell")
    if any("pip install" in cell.source for cell in code[1:]):
        found.append("a cell after the first installs packages")
    has_modes = any("modes." in cell.source for cell in code)
    if has_modes and MODES not in book.cells[0].source.splitlines():
        found.append("the first cell lacks the line MODES of check_notebooks.py")
    return found


def _headings(book, sections: tuple[str, ...]) -> list[str]:
    texts = [_without_code(cell.source) for cell in book.cells if cell.cell_type == "markdown"]
    headings = [(len(m[1]), m[2]) for text in texts for m in HEADING.finditer(text)]
    levels = [level for level, _ in headings]
    found = []
    if book.cells[:1] and not book.cells[0].source.startswith("# ") or levels.count(1) != 1:
        found.append("not exactly one title (# ...), as the first line")
    for (before, _), (level, name) in zip(headings, headings[1:], strict=False):
        if level > before + 1:
            found.append(f"heading {name!r} skips a level")
    missing = [name for name in sections if (2, name) not in headings]
    return found + [f"there is no section '## {name}'" for name in missing]


def _any_cell(cell, chapter: str) -> list[str]:
    found = []
    if not re.fullmatch(rf"{chapter}-[a-z0-9-]+", cell.get("id", "")):
        found.append(f"id {cell.get('id')!r} is not {chapter}-some-words")
    if extra := sorted(set(cell.metadata) - CELL_METADATA):
        found.append(f"stray metadata {extra}")
    if extra := sorted(set(cell.metadata.get("tags", [])) - TAGS):
        found.append(f"unknown tags {extra}")
    if match := ABSOLUTE_PATH.search(cell.source):
        found.append(f"absolute path {match[0]!r}")
    return found


def _code(cell) -> list[str]:
    found = []
    if cell.outputs or cell.execution_count is not None:
        found.append("has outputs or an execution count; --fix strips them")
    if re.search(r"^\s*!", cell.source, re.MULTILINE):
        found.append("runs a shell command (!...)")
    alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt")
    if cell.source.endswith("\nfig") and not alt:
        found.append("a figure without alternative text")
    return found


def _text(cell) -> list[str]:
    found, text = [], _without_code(cell.source)
    if match := MYST_ONLY.search(cell.source):
        found.append(f"MyST syntax that Colab shows raw: {match[0].strip()!r}")
    if NO_ALT_TEXT.search(text):
        found.append("an image without alternative text")
    for link in LINK.findall(text):
        if is_relative(link):
            found.append(f"relative link {link}, which Colab cannot follow; see --fix")
        elif (file := ours(link)) is not None:
            if not (ROOT / file).is_file():
                found.append(f"link to a file that is not there: {link}")
            elif not link.startswith(absolute(file)):
                found.append(f"link {link} in place of {absolute(file)}")
        elif (paper := PAPER.search(link)) and paper[1] not in REFERENCES:
            found.append(f"references.bib has no entry with {paper[1]}")
    return found


def _without_code(markdown: str) -> str:
    return re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)


def fix(path: Path) -> None:
    """Strip outputs, execution counts and metadata that are not ours, name unnamed cells, and make
    relative links absolute."""
    book = nbformat.read(path, 4)
    book.metadata = nbformat.from_dict(metadata(book))
    book.nbformat_minor = 5
    for number, cell in enumerate(book.cells, start=1):
        kept = {k: v for k, v in cell.metadata.items() if k in CELL_METADATA}
        cell.metadata = nbformat.from_dict(kept)
        if not cell.get("id", "").startswith(prefix(path) + "-"):
            cell["id"] = f"{prefix(path)}-cell-{number}"
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        elif cell.cell_type == "markdown":
            cell.source = with_absolute_links(cell.source)
    nbformat.write(book, path)


def main(arguments: list[str]) -> int:
    """Check (after ``--fix``, if given) every notebook of the book."""
    notebooks = sorted(BOOK.glob("*.ipynb"))
    if "--fix" in arguments:
        for path in notebooks:
            fix(path)
    found = [problem for path in notebooks for problem in problems(path)]
    print(*found, f"{len(notebooks)} notebooks, {len(found)} problems.", sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
