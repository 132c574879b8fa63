"""The latent explorer: a trained system as data, and one widget for live kernels and static pages.

``export.py`` writes the data; ``nets.js`` runs it, ``chain.js`` samples it, ``explorer.js`` and
``panels.js`` are what the reader sees, ``widget.py`` and ``widget.js`` join it to ipywidgets.
"""

from .export import Export, describe, export, read

__all__ = ["Export", "LatentExplorer", "describe", "export", "read"]


def __getattr__(name: str):
    """``LatentExplorer`` on first use: it needs ipywidgets, which an export does not."""
    if name != "LatentExplorer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .widget import LatentExplorer

    return LatentExplorer
