"""Sphinx extension: a sentence in place of each widget for readers without JavaScript."""

from sphinx.application import Sphinx

VIEW = '<script type="application/vnd.jupyter.widget-view+json">'
SENTENCE = (
    "<noscript><p><em>Here is an interactive figure: sliders for the numbers of a code, and what "
    "the model makes of them. It runs in your browser and needs JavaScript.</em></p></noscript>"
)


def add_sentences(app, pagename, templatename, context, doctree) -> None:
    """Put the sentence before the script that holds a widget."""
    context["body"] = context.get("body", "").replace(VIEW, SENTENCE + VIEW)


def setup(app: Sphinx) -> dict:
    """Register the extension."""
    app.connect("html-page-context", add_sentences)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
