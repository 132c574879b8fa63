"""Every figure of the book. Functions return a matplotlib Figure; images are float in [-1, 1]."""

import inspect
import io
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import UsageError
from .priors import sample_layer
from .randomness import source
from .systems import System

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100


def figure(rows: int = 1, columns: int = 1, *, width: float = 8.0, height: float = 3.0):
    """A figure with a grid of axes, always a flat list: (Figure, [Axes, ..])."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(
        rows, columns, figsize=(width, height), dpi=DPI, squeeze=False, layout="constrained"
    )
    plt.close(fig)  # the cell shows the returned figure once, not a second time on its own
    return fig, list(axes.flat)


def mosaic(images: Tensor, columns: int) -> Tensor:
    """Images in rows of ``columns`` with a line between. Shapes: (N, C, H, W) -> (H', W', 3).

    Raises UsageError for no images, which fill no row.
    """
    _some("images", images)
    images = ((images.float().cpu() + 1) / 2).expand(-1, 3, -1, -1)
    if len(images) > 1:  # as torchvision's make_grid, whose import costs more than most chapters
        columns = min(columns, len(images))
        empty = -len(images) % columns
        tiles = F.pad(images, (1, 0, 1, 0), value=0.5)  # a line above each and on its left
        tiles = F.pad(tiles, (0, 0, 0, 0, 0, 0, 0, empty), value=0.5)
        rows = tiles.unflatten(0, (-1, columns)).permute(2, 0, 3, 1, 4)
        whole = F.pad(rows.flatten(3, 4).flatten(1, 2), (0, 1, 0, 1), value=0.5)
    else:
        whole = images[0]
    return whole.clamp(0, 1).permute(1, 2, 0)


def _some(name: str, *drawn: Sized) -> None:
    if not all(map(len, drawn)):
        raise UsageError(f"there are no {name} to draw: give one or more.")


# How a picture is written, by the suffix of its file: as it is, or for JPEG as near as can be.
FORMATS = {
    **dict.fromkeys(("", ".png"), {"format": "png"}),
    **dict.fromkeys((".jpg", ".jpeg"), {"format": "jpeg", "quality": 95, "subsampling": 0}),
    **dict.fromkeys((".tif", ".tiff"), {"format": "tiff"}),
    ".webp": {"format": "webp", "lossless": True, "exact": True},
    ".bmp": {"format": "bmp"},
}


def png(images: Tensor, columns: int, *, scale: int = 1) -> bytes:
    """The mosaic as a PNG file, every pixel ``scale`` times as large."""
    return picture(images, columns, scale=scale)


def picture(images: Tensor, columns: int, *, scale: int = 1, suffix: str = ".png") -> bytes:
    """The mosaic as a file of the kind that ``suffix`` names, one of ``FORMATS``, every pixel
    ``scale`` times as large. Raises UsageError for another suffix."""
    if suffix.lower() not in FORMATS:
        kinds = ", ".join(filter(None, FORMATS))
        raise UsageError(f"a picture is one of {kinds}, and no {suffix} file.")
    from PIL import Image

    pixels = (mosaic(images, columns) * 255).round().to(torch.uint8).numpy()
    image, file = Image.fromarray(pixels), io.BytesIO()
    image = image.resize((image.width * scale, image.height * scale), Image.NEAREST)
    image.save(file, **FORMATS[suffix.lower()])
    return file.getvalue()


def draw_images(ax: "Axes", images: Tensor, *, columns: int, title: str = "") -> None:
    """Draw images (N, C, H, W) on ``ax`` as one mosaic."""
    ax.imshow(mosaic(images, columns).numpy(), interpolation="nearest")
    ax.set(xticks=[], yticks=[], title=title)


def image_grids(grids: Mapping[str, Tensor], *, columns: int = 10, width: float = 8.0) -> "Figure":
    """Mosaics side by side, one for each title -> images (N, C, H, W)."""
    _some("images", grids, *grids.values())
    first = next(iter(grids.values()))
    rows = -(-len(first) // columns)
    fig, axes = figure(1, len(grids), width=width, height=width / len(grids) * rows / columns + 0.4)
    for ax, (title, images) in zip(axes, grids.items(), strict=True):
        draw_images(ax, images, columns=columns, title=title)
    return fig


def curves(log: Mapping[str, Sequence[float]], groups: Mapping[str, Sequence[str]]) -> "Figure":
    """Training curves: one panel for each title -> names in the log, against the step."""
    _some("curves", groups)
    fig, axes = figure(1, len(groups), width=3.0 * len(groups) + 1, height=2.6)
    for ax, (title, names) in zip(axes, groups.items(), strict=True):
        for name in names:
            ax.plot(log["step"], log[name], label=name)
        ax.set(title=title, xlabel="step")
        ax.legend(fontsize=8)
    return fig


def plane(limit: float, points: int) -> Tensor:
    """A square grid of points in the plane. Shape: (points, points, 2), rows along y."""
    axis = torch.linspace(-limit, limit, points)
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)


def density_image(
    ax: "Axes", density: Tensor, *, limit: float, title: str = "", cmap: str = "viridis"
) -> None:
    """Draw a density given on ``plane(limit, points)``. Shape: (points, points)."""
    ax.imshow(density.numpy(), origin="lower", extent=(-limit, limit, -limit, limit), cmap=cmap)
    ax.set(title=title, xlabel="$z_1$", ylabel="$z_2$")


def codes_cloud(
    ax: "Axes", prior: Tensor, posterior: Tensor | None = None, *, title: str = ""
) -> None:
    """Two-dimensional codes as points: prior in blue, posterior in orange. Shapes: (N, 2)."""
    ax.scatter(*prior.cpu().T, s=3, alpha=0.5, label="prior", color="tab:blue", linewidths=0)
    if posterior is not None:
        ax.scatter(
            *posterior.cpu().T, s=3, alpha=0.5, label="posterior", color="tab:orange", linewidths=0
        )
        ax.legend(fontsize=8, markerscale=3)
    ax.set(title=title, aspect="equal")


def hierarchical_samples(
    system: System,
    n: int = 100,
    *,
    reading: str = "marginal",
    rng: torch.Generator | int | None = None,
    steps: int | None = None,
) -> list[Tensor]:
    """For each layer, bottom first: ``n`` images that differ in that layer's codes alone.

    The other codes are those of the first prior sample; the layer's own are its ``n`` draws, from
    its marginal (ICCV 2023, figures 4 and 5, as the authors' code does it), or with ``reading``
    "conditional" that code itself and ``n`` - 1 chains on the layer with the others held.
    """
    rng = source(rng, system.prior.here.device)
    z = system.prior.sample(n, steps=steps, rng=rng)
    panels, start = [], 0
    for i, d in enumerate(system.dims, 1):
        mixed = z[:1].repeat(n, 1)
        if reading == "conditional":
            mixed[1:] = sample_layer(system.prior, mixed[1:], i, steps=steps, rng=rng)
        else:
            mixed[:, start : start + d] = z[:, start : start + d]
        panels.append(system.decode(mixed))
        start += d
    return panels


def traverse(system: System, z: Tensor, coordinate: int, values: Tensor) -> Tensor:
    """Images of one code z (D,) while one coordinate takes ``values``. Shape: (N, C, H, W)."""
    codes = z.repeat(len(values), 1)
    codes[:, coordinate] = values
    return system.decode(codes)


def traversal_figure(system: System, z: Tensor, values: Tensor) -> "Figure":
    """One row for each coordinate of z (D,), bottom layer first, with the value it takes."""
    _some("values", values)
    rows = torch.cat([traverse(system, z, i, values) for i in range(len(z))])
    labels = [f"$z_{{{i},{j + 1}}}$" for i, d in enumerate(system.dims, 1) for j in range(d)]
    fig, (ax,) = figure(width=8.0, height=8.0 * len(z) / len(values) + 0.5)
    draw_images(ax, rows, columns=len(values))
    side = system.image[-1] + 1
    ax.set_yticks([side * (i + 0.5) for i in range(len(z))], labels)
    ax.set_xticks([side * (i + 0.5) for i in range(len(values))], [f"{v:.1f}" for v in values])
    return fig


def traversal_bars(system: System, z: Tensor, values: Tensor) -> "Figure":
    """As in the paper's slides: for each coordinate of z (D,) a row of images in which it takes
    ``values``, and above every image the whole code as bars, one colour a coordinate."""
    _some("values", values)
    size, columns = len(z), len(values)
    row = 8.6 / columns  # of images: higher than they are, so that they span the width of the bars
    fig, axes = figure(2 * size, 1, width=8.0, height=(row + 0.8) * size)
    axes[0].get_gridspec().set_height_ratios([0.5, row] * size)
    reach = 1.1 * max(values.abs().max().item(), z.abs().max().item())
    starts = [sum(system.dims[:i]) for i in range(len(system.dims))]
    layer = [max(i for i, start in enumerate(starts, 1) if start <= j) for j in range(size)]
    for i in range(size):
        bars, images = axes[2 * i], axes[2 * i + 1]
        for j in range(size):
            heights = values if j == i else z[j].expand(columns)
            at = torch.arange(columns) + 0.5 + (j - (size - 1) / 2) * 0.6 / size
            bars.bar(at.numpy(), heights.cpu().numpy(), 0.6 / size, color=f"C{j}")
        bars.axhline(0, color="0.6", lw=0.8)
        bars.set(xlim=(0, columns), ylim=(-reach, reach), xticks=[], yticks=[])
        bars.spines[:].set_visible(False)
        bars.set_title(
            f"unit {i + 1} moves (layer {layer[i]})", color=f"C{i}", fontsize=11, loc="left"
        )
        draw_images(images, traverse(system, z, i, values), columns=columns)
    return fig


def clouds_over_steps(
    states: Mapping[int, Tensor], posterior: Tensor, dims: Sequence[int], *, points: int = 2000
) -> "Figure":
    """Prior codes of layers of two dimensions along a chain, the top layer in the first row; in the
    last column the ``posterior`` codes lie over them. ``states``: step -> (N, D) (ICCV 2023, figure
    7)."""
    _some("codes", states, posterior, *states.values())
    last, columns = max(states), len(states)
    fig, axes = figure(len(dims), columns, width=8.4, height=1.75 * len(dims) + 0.35)
    cells = iter(axes)
    for i in reversed(range(len(dims))):
        here = slice(sum(dims[:i]), sum(dims[: i + 1]))
        both = torch.cat([states[last][:, here], posterior[:, here]]).abs()
        limit = 1.1 * both.quantile(0.995).item()
        for k, z in sorted(states.items()):
            ax = next(cells)
            codes_cloud(ax, z[:points, here])
            if k == last:
                over = posterior[:points, here].cpu().T
                ax.scatter(*over, s=3, alpha=0.5, color="tab:orange", linewidths=0)
            ax.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[])
            if i == len(dims) - 1:
                ax.set_title(f"k = {k}" + (", codes" if k == last else ""), fontsize=11)
            if k == min(states):
                ax.set_ylabel(f"layer {i + 1}", fontsize=11)
    return fig


def matrix(
    ax: "Axes", values: Tensor, rows: Sequence[str], columns: Sequence[str], *, top: float
) -> None:
    """Draw a matrix (rows, columns) of numbers from 0 to ``top``: shade and number in each cell."""
    ax.imshow(values.numpy(), cmap="Blues", vmin=0, vmax=top, aspect="auto")
    ax.set_yticks(range(len(rows)), rows)
    ax.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    ax.tick_params(length=0)
    for i, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            colour = "white" if value > 0.6 * top else "0.2"
            ax.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=8, color=colour)


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> "object":
    """A table for the page, from a header and rows of cells."""
    from html import escape

    from IPython.display import HTML

    def line(tag: str, cells: Sequence[object]) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(str(c))}</{tag}>' for c in cells)}</tr>"

    body = line("th", header) + "".join(line("td", row) for row in rows)
    return HTML(f'<table class="table">{body}</table>')


def show_source(*objects: Callable) -> "object":
    """The source of functions or classes of the module, as highlighted code."""
    from IPython.display import Code

    return Code("\n\n".join(inspect.getsource(o).rstrip() for o in objects), language="python")
