"""Sphinx extension: drop inline scripts that a page already has.

sphinx-thebe registers ``const THEBE_JS_URL`` twice, a SyntaxError in the console of every page.
"""

from sphinx.application import Sphinx


def drop_repeats(app, pagename, templatename, context, doctree) -> None:
    """Keep the first of several inline scripts with the same body."""
    seen, kept = set(), []
    for script in context.get("script_files", []):
        body = getattr(script, "attributes", {}).get("body")
        if body and body in seen:
            continue
        seen.add(body)
        kept.append(script)
    context["script_files"] = kept


def setup(app: Sphinx) -> dict:
    """Register the extension; it runs after the extensions that add scripts."""
    app.connect("html-page-context", drop_repeats, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
