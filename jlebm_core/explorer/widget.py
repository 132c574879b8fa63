"""The explorer as a widget: sliders of ipywidgets, joined in the browser to an anywidget canvas.

Everything that answers a slider runs in the page, so it works in Jupyter, on Colab, and on a
rendered page that has neither kernel nor network.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
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


@cache
def script() -> str:
    """The JavaScript modules as one: imports of each other dropped, all names in one scope."""
    texts = [(HERE / f"{name}.js").read_text("utf-8") for name in MODULES]
    return re.sub(r"^import [^;]*;\n", "", "\n".join(texts), flags=re.MULTILINE)


@cache
def canvas_type(size: int, layers: int, forms: int) -> type[anywidget.AnyWidget]:
    """The canvas's class, with a trait for each thing that another widget is linked to."""
    linked = {f"z{i}": traitlets.Float(0.0) for i in range(size)}
    linked |= {f"keep{i}": traitlets.Bool(False) for i in range(1, layers + 1)}
    linked |= {f"head{i}": traitlets.Unicode() for i in range(1, layers + 1)}
    linked |= {f"display{k}": traitlets.Unicode("flex") for k in range(forms)}
    own = {
        "exports": traitlets.List(traitlets.Bytes()),
        "sources": traitlets.List(traitlets.Unicode()),  # of weights that a page keeps outside
        "names": traitlets.List(traitlets.Unicode()),
        "titles": traitlets.List(traitlets.Unicode()),
        "forms": traitlets.List(traitlets.Unicode()),
        "code": traitlets.List(traitlets.Float()),
        "reach": traitlets.Float(),
        "step": traitlets.Float(STEP),
        "chosen": traitlets.Int(0),
        "examples": traitlets.List(traitlets.Bytes()),
        "example_shapes": traitlets.List(traitlets.List(traitlets.Int())),
        "example_sets": traitlets.List(traitlets.Unicode()),
    }
    synced = {name: trait.tag(sync=True) for name, trait in {**linked, **own}.items()}
    style = (HERE / "explorer.css").read_text("utf-8")
    return type("Canvas", (anywidget.AnyWidget,), {"_esm": script(), "_css": style, **synced})


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
        kind = canvas_type(max(map(sum, forms)), max(map(len, forms)), len(forms))
        self.sizes = [sum(e.description["dims"]) for e in exports]  # of the models' codes
        code = exports[0].description["start"] if z is None else self._code(z, 0)
        sets = images if isinstance(images, Mapping) else {} if images is None else {"": images}
        for x in sets.values():
            if x.dtype != torch.uint8 or x.dim() != 4:
                found = f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}"
                raise UsageError(f"the explorer needs images in uint8, (N, C, H, W), not {found}.")
        self.canvas = kind(
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
            **{f"display{k}": "flex" if k == 0 else "none" for k in range(len(forms))},
            **{f"z{i}": value for i, value in enumerate(code)},
            examples=[x.cpu().numpy().tobytes() for x in sets.values()],
            example_shapes=[list(x.shape) for x in sets.values()],
            example_sets=list(sets),
        )
        groups = [self._sliders(dims, k, reach) for k, dims in enumerate(forms)]
        super().__init__([self.canvas, *groups])
        self.add_class("jx-explorer")

    def _sliders(self, dims: tuple[int, ...], form: int, reach: float) -> ipywidgets.Box:
        """The sliders of every model with these dims, top layer first."""
        layers, first = [], 0
        for layer, d in enumerate(dims, 1):
            title, sliders = [ipywidgets.HTML()], []
            ipywidgets.jslink((self.canvas, f"head{layer}"), (title[0], "value"))
            if len(dims) > 1:
                title.append(ipywidgets.Checkbox(description="keep", indent=False))
                ipywidgets.jslink((self.canvas, f"keep{layer}"), (title[1], "value"))
            for i in range(first, first + d):
                slider = ipywidgets.FloatSlider(
                    value=getattr(self.canvas, f"z{i}"),
                    min=-reach,
                    max=reach,
                    step=STEP,
                    description=f"{i - first + 1}",
                )
                ipywidgets.jslink((self.canvas, f"z{i}"), (slider, "value"))
                sliders.append(slider)
            head, rows = ipywidgets.Box(title), ipywidgets.Box(sliders)
            head.add_class("jx-title")
            rows.add_class("jx-sliders")
            box = ipywidgets.VBox([head, rows])
            box.add_class("jx-layer")
            layers.insert(0, box)
            first += d
        group = ipywidgets.VBox(layers)
        group.add_class("jx-layers")
        ipywidgets.jslink((self.canvas, f"display{form}"), (group.layout, "display"))
        return group

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
