"""Sphinx extension: what widgets need on a page. A sentence in place of each for readers without
JavaScript; and weights that only some readers ask for, in files of their own.

An explorer with several models shows the first one when the page opens. The others' weights are
taken out of the page's widget state and written once for all pages, as scripts, since a page that
is opened as a file may load scripts but nothing else. ``explorer/model.js`` loads them.
"""

import hashlib
import json
from pathlib import Path

from sphinx.application import Sphinx

VIEW = '<script type="application/vnd.jupyter.widget-view+json">'
STATE = "application/vnd.jupyter.widget-state+json"
WEIGHTS = "_static/models"
SENTENCE = (
    "<noscript><p><em>Here is an interactive figure: sliders for the numbers of a code, and what "
    "the model makes of them. It runs in your browser and needs JavaScript.</em></p></noscript>"
)


def add_sentences(app, pagename, templatename, context, doctree) -> None:
    """Put the sentence before the script that holds a widget."""
    context["body"] = context.get("body", "").replace(VIEW, SENTENCE + VIEW)


def move_weights(app, pagename, templatename, context, doctree) -> None:
    """Leave in the page the weights of the first model of each explorer alone."""
    for script in context.get("script_files", []):
        attributes = getattr(script, "attributes", {})
        if attributes.get("type") != STATE:
            continue
        page = json.loads(attributes["body"])
        for widget in page["state"].values():
            for buffer in [b for b in widget.get("buffers", []) if b["path"][0] == "exports"]:
                if (index := buffer["path"][1]) > 0:
                    widget["buffers"].remove(buffer)
                    name = write_weights(Path(app.outdir, WEIGHTS), buffer["data"])
                    widget["state"]["sources"][index] = context["pathto"](f"{WEIGHTS}/{name}", 1)
        attributes["body"] = json.dumps(page).replace("</", r"<\/")


def write_weights(folder: Path, data: str) -> str:
    """A script that brings ``data``, base64, under the name of its file; returns that name."""
    key = hashlib.sha256(data.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    script = f"(globalThis.jlebmWeights ??= {{}})[{json.dumps(key)}] = {json.dumps(data)};\n"
    (folder / f"{key}.js").write_text(script)
    return f"{key}.js"


def setup(app: Sphinx) -> dict:
    """Register the extension; the weights move after the scripts of a page have been gathered."""
    app.connect("html-page-context", add_sentences)
    app.connect("html-page-context", move_weights, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
