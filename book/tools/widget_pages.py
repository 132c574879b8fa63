"""Sphinx extension: what widgets need on a page. A sentence in place of each for readers without
JavaScript; and the weights of the explorers' models, in files of their own.

They are taken out of the page's widget state and written once for all pages, as scripts, since a
page that is opened as a file may load scripts but nothing else. The page itself loads the first
model of its first explorer, beside all else; a further explorer loads its own when the reader comes
near it, and every explorer another model when it is chosen (``explorer/model.js``).
"""

import hashlib
import json
import re
from pathlib import Path

from sphinx.application import Sphinx

VIEW = '<script type="application/vnd.jupyter.widget-view+json">'
VIEWS = re.compile(re.escape(VIEW) + "(.*?)</script>", re.DOTALL)
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
    """Take the weights of all models out of the page; it loads those that it shows first."""
    for script in context.get("script_files", []):
        attributes = getattr(script, "attributes", {})
        if attributes.get("type") != STATE:
            continue
        page = json.loads(attributes["body"])
        state = page["state"]
        for widget in state.values():
            for buffer in [b for b in widget.get("buffers", []) if b["path"][0] == "exports"]:
                widget["buffers"].remove(buffer)
                name = write_weights(Path(app.outdir, WEIGHTS), buffer["data"])
                source = context["pathto"](f"{WEIGHTS}/{name}", 1)
                widget["state"]["sources"][buffer["path"][1]] = source
        attributes["body"] = json.dumps(page).replace("</", r"<\/")
        first = first_weights(state, context["body"])
        if first and first not in context["body"]:
            context["body"] = f'<script async src="{first}"></script>' + context["body"]


def first_weights(state: dict, body: str) -> str | None:
    """The script of the model that the first explorer of a page shows, if there is one."""
    shown = (json.loads(view)["model_id"] for view in VIEWS.findall(body))
    parts = (child for box in shown for child in state[box]["state"].get("children", []))
    canvases = (state[child.removeprefix("IPY_MODEL_")]["state"] for child in parts)
    return next((c["sources"][0] for c in canvases if c.get("sources")), None)


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
