"""The explorer as a widget: sliders of ipywidgets, joined in the browser to an anywidget canvas.

Everything that answers a slider runs in the page, so it works in Jupyter, on Colab, and on a
rendered page that has neither kernel nor network.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import anywidget
import ipywidgets
import torch
import traitlets
from torch import Tensor

from ..errors import UsageError
from ..priors import Prior
from ..systems import System
from .export import Export, describe

HERE = Path(__file__).parent
MODULES = (  # in order of dependence
    *("maps", "nets", "chain", "parts", "model", "curve"),
    *("planes", "panels", "chain_panel", "encode_panel", "explorer", "widget"),
)
STEP = 0.05  # of a slider
Part = System | Prior | Export


def script() -> str:
    """The JavaScript modules as one: imports of each other dropped, all names in one scope."""
    texts = [(HERE / f"{name}.js").read_text("utf-8") for name in MODULES]
    return re.sub(r"^import [^;]*;\n", "", "\n".join(texts), flags=re.MULTILINE)


class Canvas(anywidget.AnyWidget):
    """The picture and its panels. Its script finds the sliders by ``controls``, in place of links
    of ipywidgets: a link is a widget that no other one names, and Colab fetches those alone.

    ``controls`` holds, for each kind of code, ``layout`` (of all its sliders) and ``layers``,
    bottom layer first: ``head``, ``keep`` (None for a single layer) and ``sliders``.
    """

    _esm = script()
    _css = (HERE / "explorer.css").read_text("utf-8")
    controls = traitlets.List().tag(sync=True, **ipywidgets.widget_serialization)
    exports = traitlets.List(traitlets.Bytes()).tag(sync=True)
    sources = traitlets.List(traitlets.Unicode()).tag(sync=True)  # weights kept outside a page
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    titles = traitlets.List(traitlets.Unicode()).tag(sync=True)
    forms = traitlets.List(traitlets.Unicode()).tag(sync=True)
    code = traitlets.List(traitlets.Float()).tag(sync=True)
    reach = traitlets.Float().tag(sync=True)
    step = traitlets.Float(STEP).tag(sync=True)
    chosen = traitlets.Int(0).tag(sync=True)
    examples = traitlets.List(traitlets.Bytes()).tag(sync=True)
    example_shapes = traitlets.List(traitlets.List(traitlets.Int())).tag(sync=True)
    example_sets = traitlets.List(traitlets.Unicode()).tag(sync=True)


class LatentExplorer(ipywidgets.Box):
    """Sliders for every latent of a system, its image, and the prior's chain at work.

    ``parts`` is a system, an EBM prior of two dimensions (drawn over its exact density), an
    ``Export``, or several of them as a list or as a mapping from titles. Where every layer has two
    dimensions, the panel of the chain shows each as a plane. ``z`` (D,) is the code to
    start with; ``images``, uint8 (N, C, H, W), can be picked and encoded: by every model of that
    shape, or, as a mapping from names of data sets, by the models of each. Raises UsageError for a
    part that cannot be exported, a code of another length, and images that are not of that form.
    """

    def __init__(
        self,
        parts: Part | Sequence[Part] | Mapping[str, Part],
        *,
        z: Tensor | None = None,
        images: Tensor | Mapping[str, Tensor] | None = None,
    ):
        named = (
            parts
            if isinstance(parts, Mapping)
            else dict(enumerate(parts if isinstance(parts, Sequence) else [parts]))
        )
        exports = [p if isinstance(p, Export) else describe(p) for p in named.values()]
        if not exports:
            raise UsageError("the explorer needs a system, or several.")
        forms = list(dict.fromkeys(tuple(e.description["dims"]) for e in exports))
        reach = max(e.description["reach"] for e in exports)
        self.sizes = [sum(e.description["dims"]) for e in exports]  # of the models' codes
        code = exports[0].description["start"] if z is None else self._code(z, 0)
        sets = images if isinstance(images, Mapping) else {} if images is None else {"": images}
        for x in sets.values():
            if x.dtype != torch.uint8 or x.dim() != 4:
                found = f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}"
                raise UsageError(f"the explorer needs images in uint8, (N, C, H, W), not {found}.")
        groups, controls = zip(*(sliders(dims, code, reach) for dims in forms), strict=True)
        for group in groups[1:]:
            group.layout.display = "none"
        self.canvas = Canvas(  # after its controls: a page knows them when it hears of them
            controls=list(controls),
            exports=[e.to_bytes() for e in exports],
            sources=[""] * len(exports),
            names=[e.description["name"] for e in exports],
            titles=[
                title if isinstance(title, str) else e.description["title"]
                for title, e in zip(named, exports, strict=True)
            ],
            forms=["-".join(map(str, f)) for f in forms],
            reach=reach,
            code=code,
            examples=[x.cpu().numpy().tobytes() for x in sets.values()],
            example_shapes=[list(x.shape) for x in sets.values()],
            example_sets=list(sets),
        )
        super().__init__([self.canvas, *groups])
        self.add_class("jx-explorer")

    def _code(self, z: Tensor, model: int) -> list[float]:
        if z.shape != (self.sizes[model],):
            raise UsageError(f"z must have the shape ({self.sizes[model]},), not {tuple(z.shape)}.")
        return z.tolist()

    @property
    def z(self) -> Tensor:
        """The code that is shown. Shape: (D,); with a live kernel it can be read and set."""
        return torch.tensor(self.canvas.code)

    @z.setter
    def z(self, code: Tensor) -> None:
        self.canvas.code = self._code(code, self.canvas.chosen)


def sliders(
    dims: tuple[int, ...], code: Sequence[float], reach: float
) -> tuple[ipywidgets.Box, dict]:
    """The sliders of every model with these dims, top layer first, and the canvas's entry of them.

    They start from ``code``, at 0 where it ends: that of the first model may be shorter.
    """
    boxes, layers, first = [], [], 0
    for d in dims:
        head, keep = ipywidgets.HTML(), None
        if len(dims) > 1:
            keep = ipywidgets.Checkbox(description="keep", indent=False)
        row = [
            ipywidgets.FloatSlider(
                value=code[i] if i < len(code) else 0.0,
                min=-reach,
                max=reach,
                step=STEP,
                description=f"{i - first + 1}",
            )
            for i in range(first, first + d)
        ]
        title, rows = ipywidgets.Box([head, keep] if keep else [head]), ipywidgets.Box(row)
        title.add_class("jx-title")
        rows.add_class("jx-sliders")
        box = ipywidgets.VBox([title, rows])
        box.add_class("jx-layer")
        boxes.insert(0, box)
        layers.append({"head": head, "keep": keep, "sliders": row})
        first += d
    group = ipywidgets.VBox(boxes, layout={"display": "flex"})
    group.add_class("jx-layers")
    return group, {"layout": group.layout, "layers": layers}
