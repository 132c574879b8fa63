"""The tools of the book: each planted defect is found, and a sound notebook or page passes."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import nbformat
import pytest

TOOLS = Path(__file__).resolve().parents[1] / "book" / "tools"
sys.path.insert(0, str(TOOLS))

import addresses  # noqa: E402
import check_notebooks  # noqa: E402
import check_pages  # noqa: E402
import fetch_data  # noqa: E402
import make_site  # noqa: E402
import widget_pages  # noqa: E402

from jlebm_core import cli  # noqa: E402
from jlebm_core.data import download  # noqa: E402

CHAPTER = addresses.absolute("book/02_latent_ebm.ipynb")
TEXT = f"# Title\n\n## What you will learn\n\nA $z$, `{{x}}` and [a page]({CHAPTER}#x).\n"
END = "## What can go wrong\n\n## Summary\n\n## Exercises\n"


def notebook():
    """A small notebook that keeps every rule."""
    new = nbformat.v4
    cells = [
        new.new_markdown_cell(TEXT, id="01-title"),
        new.new_code_cell(
            check_notebooks.INSTALL, id="01-install", metadata={"tags": ["remove-cell"]}
        ),
        new.new_code_cell("x = 1 / 3\nx", id="01-third"),
        new.new_markdown_cell(END, id="01-end"),
    ]
    return new.new_notebook(cells=cells, metadata={"kernelspec": check_notebooks.KERNEL})


def written(book, folder: Path, name: str = "01_chapter.ipynb") -> Path:
    (folder / name).write_text(json.dumps(book))  # nbformat.write would mend repeated ids
    return folder / name


def test_a_sound_notebook_passes(tmp_path):
    assert check_notebooks.problems(written(notebook(), tmp_path)) == []


@pytest.mark.parametrize("name", ["intro", "reproducibility"])
def test_a_page_that_is_no_chapter_needs_no_sections_of_one(tmp_path, name):
    book = notebook()
    book.cells.pop()
    for cell in book.cells:
        cell["id"] = cell["id"].replace("01-", f"{name}-")
    assert check_notebooks.problems(written(book, tmp_path, f"{name}.ipynb")) == []
    found = check_notebooks.problems(written(book, tmp_path))  # under a chapter's name
    assert len(found) == len(book.cells) + len(check_notebooks.SECTIONS) - 1


DEFECTS = {
    "kernelspec": lambda b: b.metadata.update(title="x"),
    "first code cell": lambda b: b.cells.pop(1),
    "installs packages": lambda b: b.cells[2].update(source="%pip install -U numpy"),
    "shell command": lambda b: b.cells[2].update(source="!ls"),
    "absolute path": lambda b: b.cells[2].update(source="open('/home/me/x')"),
    "outputs": lambda b: b.cells[2].update(execution_count=3),
    "stray metadata": lambda b: b.cells[2].metadata.update(collapsed=True),
    "unknown tags": lambda b: b.cells[2].metadata.update(tags=["raises-exception"]),
    "is not 01-some-words": lambda b: b.cells[2].update(id="f3a0c1d2"),
    "same id": lambda b: b.cells[2].update(id="01-title"),
    "exactly one title": lambda b: b.cells[3].update(source=END + "# Again\n"),
    "skips a level": lambda b: b.cells[3].update(source=END + "#### Deep\n"),
    "## Summary": lambda b: b.cells[3].update(source=END.replace("## Summary", "")),
    "MyST syntax": lambda b: b.cells[0].update(source=TEXT + "\n```{note}\nx\n```\n"),
    "'{cite}`'": lambda b: b.cells[0].update(source=TEXT + "see {cite}`x`"),
    "figure without alternative text": lambda b: b.cells[2].update(source="fig = 1\nfig"),
    "image without alternative text": lambda b: b.cells[0].update(
        source=TEXT + f"![]({addresses.FILES}book/static/icon.svg)"
    ),
    "relative link 02_x.ipynb": lambda b: b.cells[0].update(source=TEXT + "[x](02_x.ipynb)"),
    "relative link ../README.md": lambda b: b.cells[3].update(source=END + "[x](../README.md#a)"),
    "relative link static/icon.svg": lambda b: b.cells[0].update(
        source=TEXT + "![icon](static/icon.svg)"
    ),
    "relative link api.md": lambda b: b.cells[0].update(source=TEXT + '<a href="api.md">x</a>'),
    "file that is not there": lambda b: b.cells[0].update(
        source=TEXT + f"[x]({addresses.COLAB}book/99_gone.ipynb)"
    ),
    "in place of": lambda b: b.cells[0].update(
        source=TEXT + f"[x]({addresses.FILES}book/02_latent_ebm.ipynb)"
    ),
    "no entry with 1234.56789": lambda b: b.cells[3].update(
        source=END + "[x](https://arxiv.org/abs/1234.56789v2)"
    ),
    "no entry with 10.1000/182": lambda b: b.cells[3].update(
        source=END + "[x](https://doi.org/10.1000/182)"
    ),
    "the line MODES": lambda b: b.cells[2].update(source="from m import modes\n\nmodes.mode()"),
    "'accelerator': 'GPU'": lambda b: (
        b.cells[0].update(source=f"{TEXT}\n{check_notebooks.MODES}"),
        b.cells[2].update(source="modes.obtain('vae')"),
    ),
    "just {'kernelspec'": lambda b: b.metadata.update(check_notebooks.GPU),
}


@pytest.mark.filterwarnings("ignore:Non-unique cell id")
@pytest.mark.parametrize("sentence", DEFECTS)
def test_each_breach_in_a_notebook_is_found(tmp_path, sentence):
    book = notebook()
    DEFECTS[sentence](book)
    found = check_notebooks.problems(written(book, tmp_path))
    assert len(found) == 1 and sentence in found[0], found


def test_a_file_that_is_no_notebook_is_one_problem(tmp_path):
    path = tmp_path / "01_x.ipynb"
    path.write_text("not JSON")
    assert len(check_notebooks.problems(path)) == 1


def test_fix_strips_what_a_run_left_and_nothing_else(tmp_path):
    book = notebook()
    book.cells[2].update(execution_count=2, outputs=[nbformat.v4.new_output("stream", text="x")])
    book.cells[2].metadata.update(execution={"iopub.status.busy": "12:00"})
    book.cells[2].metadata.update(mystnb={"image": {"alt": "a bar"}})
    path = written(book, tmp_path)
    check_notebooks.fix(path)
    assert check_notebooks.problems(path) == []
    fixed = nbformat.read(path, 4).cells[2]
    assert (fixed.source, fixed.id) == ("x = 1 / 3\nx", "01-third")
    assert fixed.metadata == {"mystnb": {"image": {"alt": "a bar"}}}


def test_fix_makes_relative_links_absolute_and_asks_for_a_gpu(tmp_path):
    book = notebook()
    book.cells[0].source = (
        "# Title\n\n## What you will learn\n\n[a](02_latent_ebm.ipynb#x), [b](#here), "
        "[c](https://arxiv.org/abs/1312.6114), [d](notation.md)\n\n" + check_notebooks.MODES
    )
    book.cells[2].source = "modes.obtain('vae')"
    path = written(book, tmp_path)
    check_notebooks.fix(path)
    assert check_notebooks.problems(path) == []
    fixed = nbformat.read(path, 4)
    text = fixed.cells[0].source
    assert f"[a]({CHAPTER}#x), [b](#here), [c](https://arxiv.org/abs/1312.6114)" in text
    assert f"[d]({addresses.REPOSITORY}/blob/main/book/notation.md)" in text
    assert fixed.metadata["colab"] == {"gpuType": "T4"}


def test_the_site_has_relative_links_where_notebooks_have_absolute_ones():
    source = [f"[a]({CHAPTER}#x) [b]({addresses.FILES}book/api.md) [c]({addresses.FILES}LICENSE)"]
    addresses.make_relative(None, "x", source)
    assert source == [f"[a](02_latent_ebm.ipynb#x) [b](api.md) [c]({addresses.FILES}LICENSE)"]


def test_addresses_are_made_from_the_one_of_the_configuration():
    assert addresses.REPOSITORY == addresses.CONFIG["repository"]["url"]
    for start in (addresses.FILES, addresses.COLAB, f"{addresses.REPOSITORY}@main"):
        assert addresses.REPOSITORY.removeprefix("https://github.com") in start
    assert f"git+{addresses.REPOSITORY}@main" in check_notebooks.INSTALL


INSTALLS = """
import sys
from IPython.core.interactiveshell import InteractiveShell

there, missing, folder = sys.argv[1:]
shell = InteractiveShell.instance()
shell.register_magic_function(lambda line: print("pip", line), magic_name="pip")
for source in (there, missing):
    shell.run_cell(source).raise_error()
    print("--")
sys.path.append(folder)
import google.colab

for source in (there, missing):
    shell.run_cell(source).raise_error()
    print("--")
"""


def test_the_install_cell_acts_on_colab_alone_and_elsewhere_says_how(tmp_path):
    (tmp_path / "google" / "colab").mkdir(parents=True)
    (tmp_path / "google" / "colab" / "__init__.py").touch()
    missing = check_notebooks.INSTALL.replace("jlebm_core", "no_such_module")
    command = [sys.executable, "-c", INSTALLS, check_notebooks.INSTALL, missing, str(tmp_path)]
    env = {**os.environ, "IPYTHONDIR": str(tmp_path / "ipython")}
    found = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    here, not_here, on_colab, not_on_colab, _ = found.split("--\n")
    assert here == on_colab == ""
    assert not_here.count("\n") == 1 and "no_such_module is missing: run `pip install" in not_here
    assert not_on_colab == f'pip install -q "jlebm-core @ git+{addresses.REPOSITORY}@main"\n'


PAGE = '<html><body><main><h1 id="top">x</h1>{}</main></body></html>'
COLAB = addresses.COLAB + "book/01_a.ipynb"
SOUND = f'<a href="b.html#top">b</a><img src="p.png" alt="A bar"><a href="{COLAB}">c</a>'
BREACHES = {
    "dead link gone.html": '<a href="gone.html">x</a>',
    "no such anchor": '<a href="b.html#gone">x</a>',
    "loaded from elsewhere": '<script src="https://example.org/x.js"></script>',
    "no alternative text ('')": '<img src="p.png">',
    "no alternative text ('p.png')": '<img src="p.png" alt="p.png">',
    "dead link no.png": '<img src="no.png" alt="A bar">',
    "bare object: tensor([": '<div class="cell_output"><td>tensor([[1.0000]])</td></div>',
    "absolute link to a page": f'<article><a href="{COLAB}">x</a></article>',
    "absolute link to a page of the book: https://github": (
        f'<article><a href="{addresses.FILES}book/api.md">x</a></article>'
    ),
    "progress bar: 42%|": '<div class="cell_output"><pre>x: 42%|####  | 4/9 [00:01</pre></div>',
    "progress bar: 9.9M/9.9M": '<div class="cell_output"><pre>9.9M/9.9M [00:01<00:00]</pre></div>',
    "a widget is a progress bar": (
        '<script type="application/vnd.jupyter.widget-state+json">'
        '{"state": {"a": {"model_name": "FloatProgressModel", "state": '
        '{"_model_name": "FloatProgressModel"}}}}</script>'
    ),
    "not in the repository": f'<a href="{addresses.COLAB}book/99_x.ipynb">x</a>',
}


def site(folder: Path, body: str) -> list[str]:
    for name, text in {"a.html": body, "b.html": "", "p.png": ""}.items():
        (folder / name).write_text(PAGE.format(text) if name.endswith("html") else text)
    return check_pages.Site(folder, {"book/01_a.ipynb"}).problems()


def test_a_sound_page_passes(tmp_path):
    assert site(tmp_path, SOUND) == []


@pytest.mark.parametrize("sentence", BREACHES)
def test_each_breach_on_a_page_is_found(tmp_path, sentence):
    found = site(tmp_path, SOUND + BREACHES[sentence])
    assert len(found) == 1 and sentence in found[0], found


def test_toc_files_are_found_at_every_depth():
    toc = {"root": "i", "parts": [{"chapters": [{"file": "a", "sections": [{"file": "b"}]}]}]}
    assert check_pages.toc_files(toc) == ["i", "a", "b"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A book of one chapter in a temporary project."""
    for folder in ("book", "jlebm_core", "data/results"):
        (tmp_path / folder).mkdir(parents=True)
    for name, value in {"ROOT": "", "BOOK": "book", "RUN": "_run", "BUILD": "_build"}.items():
        monkeypatch.setattr(make_site, name, tmp_path / value)
    (tmp_path / "requirements.txt").write_text("numpy\n")
    written(notebook(), tmp_path / "book")
    return tmp_path


def test_a_chapter_runs_once_and_its_run_is_what_the_cache_holds(project, capfd):
    chapter = project / "book" / "01_chapter.ipynb"
    assert make_site.run("load", jobs=1) == 0 and "1 of 1" in capfd.readouterr().out
    assert make_site.run("load", jobs=1) == 0 and "0 of 1" in capfd.readouterr().out
    make_site.seed_cache()
    cache = make_site.get_cache(make_site.BUILD / ".jupyter_cache")
    _, merged = cache.merge_match_into_notebook(nbformat.read(chapter, 4))
    assert merged.cells[2].outputs[0].data["text/plain"].startswith("0.333")
    assert not make_site.is_current(chapter, "smoke")
    (project / "data/results/x.json").write_text("{}")
    assert not make_site.is_current(chapter, "load")


def test_a_failed_chapter_is_not_taken_for_run(project):
    book = notebook()
    book.cells[2].source = "1 / 0"
    path = written(book, project / "book")
    assert make_site.run("smoke", jobs=1) != 0
    assert not make_site.is_current(path, "smoke")


def test_the_site_is_not_built_from_an_old_run(project):
    with pytest.raises(SystemExit, match="make book"):
        make_site.seed_cache()


@pytest.mark.parametrize(
    ("mode", "text", "splits"),
    [
        ("smoke", "import jlebm_core", None),
        ("load", "x", None),
        ("load", "import jlebm_core", ["test"]),
        ("train", "import jlebm_core", ["train", "test"]),
    ],
)
def test_data_are_fetched_before_the_kernels_start(mode, text, splits, tmp_path, monkeypatch):
    script = tmp_path / "fetch.py"
    script.write_text("import sys; open('asked', 'w').write(' '.join(sys.argv[1:])); sys.exit(3)")
    monkeypatch.setattr(make_site, "FETCH", script)
    monkeypatch.setattr(make_site, "ROOT", tmp_path)
    chapter = tmp_path / "x.ipynb"
    chapter.write_text(text)
    make_site.fetch_data(mode, [chapter])
    asked = tmp_path / "asked"
    assert (asked.read_text().split() if asked.exists() else None) == splits


def test_a_run_fetches_data_first(project, monkeypatch, capfd):
    book = notebook()
    book.cells[2].source = "from pathlib import Path\nfound = Path('fetched').read_text()"
    written(book, project / "book")
    (project / "fetch.py").write_text(
        "import pathlib; [pathlib.Path(d, 'fetched').write_text('') for d in ('.', '_run/load')]"
    )
    (project / "_run/load").mkdir(parents=True)
    monkeypatch.setattr(make_site, "FETCH", project / "fetch.py")
    assert make_site.run("load", jobs=1) == 0


@pytest.fixture
def patient(monkeypatch):
    """The patience of downloads comes back, which the tool shortens for its process."""
    monkeypatch.setattr(download, "TIMEOUT", download.TIMEOUT)


@pytest.mark.parametrize("splits", [["test"], ["train", "test"]])
def test_what_cannot_be_had_is_one_sentence(roots, patient, splits, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fetch_data.py", *splits])
    fetch_data.main()
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "MNIST and Fashion-MNIST cannot be had: the chapters show what is shipped."


def test_a_host_that_does_not_answer_is_left_after_seconds(roots, patient, monkeypatch):
    waits = []

    def silent(request, timeout):
        waits.append(timeout)
        raise URLError(TimeoutError("timed out"))

    monkeypatch.setattr(download, "urlopen", silent)
    assert fetch_data.missing(["test"]) == ["MNIST", "Fashion-MNIST"]
    assert waits and set(waits) == {5.0} and len(waits) <= 4


def test_the_sets_that_chapters_show_are_those_fetched():
    shown = set()
    for notebook in make_site.chapters():
        for cell in nbformat.read(notebook, 4).cells:
            if cell.cell_type == "code":
                shown.update(re.findall(r'real_images\("([a-z0-9-]+)"', cell.source))
                for sets in re.findall(r"^SETS = (\{.*\})", cell.source, re.MULTILINE):
                    shown.update(ast.literal_eval(sets))
    assert shown - {"glyphs"} == set(fetch_data.SHOWN)


def test_smoke_mode_has_neither_data_nor_network(monkeypatch):
    monkeypatch.setenv("JLEBM_DATA", "somewhere")
    env = make_site.environment("smoke")
    assert "JLEBM_DATA" not in env and env["https_proxy"].startswith("http://127.0.0.1")
    assert make_site.environment("load")["JLEBM_DATA"] == "somewhere"


def test_each_widget_gets_a_sentence_for_readers_without_javascript():
    context = {"body": f"<p>x</p>{widget_pages.VIEW}a</script>{widget_pages.VIEW}b</script>"}
    widget_pages.add_sentences(None, "", "", context, None)
    assert context["body"].count(widget_pages.SENTENCE + widget_pages.VIEW) == 2
    empty = {}
    widget_pages.add_sentences(None, "", "", empty, None)
    assert empty == {"body": ""}


def test_weights_of_models_go_from_the_page_into_scripts(tmp_path):
    def buffer(name, index, data):
        return {"path": [name, index], "data": data, "encoding": "base64"}

    buffers = [buffer("exports", 0, "Zmlyc3Q="), buffer("exports", 1, "c2Vjb25k")]
    buffers.append(buffer("examples", 1, "aW1hZ2Vz"))
    state = {"exports": [None, None], "sources": ["", ""], "title": "</script>"}
    box = {"state": {"children": ["IPY_MODEL_slider", "IPY_MODEL_canvas"]}}
    canvas = {"state": state, "buffers": buffers}
    page = {"state": {"canvas": canvas, "slider": {"state": {}}, "box": box}}
    attributes = {"type": widget_pages.STATE, "body": json.dumps(page)}
    script, other = SimpleNamespace(attributes=attributes), SimpleNamespace(attributes={})
    view = widget_pages.VIEW + json.dumps({"model_id": "box"}) + "</script>"
    context = {"script_files": [other, script], "pathto": lambda path, _: f"../{path}"}
    context["body"] = f"<p>x</p>{view}"
    for _ in range(2):  # what has moved stays where it is
        widget_pages.move_weights(SimpleNamespace(outdir=tmp_path), "", "", context, None)
    assert "</script>" not in attributes["body"]
    canvas = json.loads(attributes["body"])["state"]["canvas"]
    assert [b["path"] for b in canvas["buffers"]] == [["examples", 1]]
    assert len(list((tmp_path / "_static/models").iterdir())) == 2
    for source, data in zip(canvas["state"]["sources"], ("Zmlyc3Q=", "c2Vjb25k"), strict=True):
        file = tmp_path / source.removeprefix("../")
        assert source.startswith("../_static/models/")
        assert file.stem in file.read_text() and data in file.read_text()
    (first, _) = canvas["state"]["sources"]
    assert context["body"] == f'<script async src="{first}"></script><p>x</p>{view}'


def test_the_site_knows_what_it_was_built_without(project):
    book = notebook()
    said = "MNIST is not at hand and could not be downloaded: shown from shipped data."
    book.cells[2].source = f"print('x')\nprint({said!r})"
    written(book, project / "book")
    (project / "_run/load").mkdir(parents=True)
    book.cells[2].outputs = [nbformat.v4.new_output("stream", text=f"x\n{said}\n")]
    written(book, project / "_run/load")
    assert make_site.not_at_hand() == ["MNIST"]
    book.cells[2].outputs = [nbformat.v4.new_output("stream", text="x\n")]
    written(book, project / "_run/load")
    assert make_site.not_at_hand() == []


def test_continuous_integration_tests_what_a_machine_without_data_has():
    """`make test` sees no JLEBM_DATA and caches of its own; data come in a pass after it."""
    lines = (TOOLS.parents[1] / ".ci" / "run").read_text().splitlines()
    commands = [line for line in lines if not line.lstrip().startswith("#")]
    (whole,) = [i for i, line in enumerate(commands) if line.endswith("make test")]
    words = commands[whole].split()
    assert words[:3] == ["env", "-u", "JLEBM_DATA"]
    for name in ("HOME", "XDG_CACHE_HOME", "JLEBM_CACHE"):
        assert any(word.startswith(f'{name}="$own') for word in words)
    before, after = "\n".join(commands[:whole]), "\n".join(commands[whole + 1 :])
    assert "own=$(mktemp -d)" in before and "JLEBM_DATA" not in before
    assert "shared/data" not in before and "make test-data" in after


def test_threads_of_chapters_and_commands_sleep_while_they_wait(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert make_site.environment("load")["OMP_WAIT_POLICY"] == "PASSIVE"
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert os.environ.pop("OMP_WAIT_POLICY") == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")  # whoever asks for something else gets it
    assert make_site.environment("load")["OMP_WAIT_POLICY"] == "ACTIVE"
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
