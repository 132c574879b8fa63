"""Every figure of the book. Functions return a matplotlib Figure; images are float in [-1, 1]."""

import inspect
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

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
    """Images in rows of ``columns`` with a line between. Shapes: (N, C, H, W) -> (H', W', 3)."""
    from torchvision.utils import make_grid

    tiles = make_grid((images.float().cpu() + 1) / 2, nrow=columns, padding=1, pad_value=0.5)
    return tiles.clamp(0, 1).permute(1, 2, 0)


def png(images: Tensor, columns: int, *, scale: int = 1) -> bytes:
    """The mosaic as a PNG file, every pixel ``scale`` times as large."""
    from PIL import Image

    pixels = (mosaic(images, columns) * 255).round().to(torch.uint8).numpy()
    picture = Image.fromarray(pixels)
    file = io.BytesIO()
    picture.resize((picture.width * scale, picture.height * scale), Image.NEAREST).save(file, "png")
    return file.getvalue()


def draw_images(ax: "Axes", images: Tensor, *, columns: int, title: str = "") -> None:
    """Draw images (N, C, H, W) on ``ax`` as one mosaic."""
    ax.imshow(mosaic(images, columns).numpy(), interpolation="nearest")
    ax.set(xticks=[], yticks=[], title=title)


def image_grids(grids: Mapping[str, Tensor], *, columns: int = 10, width: float = 8.0) -> "Figure":
    """Mosaics side by side, one for each title -> images (N, C, H, W)."""
    first = next(iter(grids.values()))
    rows = -(-len(first) // columns)
    fig, axes = figure(1, len(grids), width=width, height=width / len(grids) * rows / columns + 0.4)
    for ax, (title, images) in zip(axes, grids.items(), strict=True):
        draw_images(ax, images, columns=columns, title=title)
    return fig


def curves(log: Mapping[str, Sequence[float]], groups: Mapping[str, Sequence[str]]) -> "Figure":
    """Training curves: one panel for each title -> names in the log, against the step."""
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
    system: System, n: int = 100, *, rng: torch.Generator | None = None, steps: int | None = None
) -> list[Tensor]:
    """For each layer, bottom first: ``n`` images that differ in that layer's codes alone.

    The other codes are those of the first prior sample; the layer's own are its ``n`` draws, from
    its marginal (ICCV 2023, figures 4 and 5, as the authors' code does it).
    """
    z = system.prior.sample(n, steps=steps, rng=rng)
    panels, start = [], 0
    for d in system.config.dims:
        mixed = z[:1].repeat(n, 1)
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
    rows = torch.cat([traverse(system, z, i, values) for i in range(len(z))])
    labels = [f"$z_{{{i},{j + 1}}}$" for i, d in enumerate(system.config.dims, 1) for j in range(d)]
    fig, (ax,) = figure(width=8.0, height=8.0 * len(z) / len(values) + 0.5)
    draw_images(ax, rows, columns=len(values))
    side = system.config.image[-1] + 1
    ax.set_yticks([side * (i + 0.5) for i in range(len(z))], labels)
    ax.set_xticks([side * (i + 0.5) for i in range(len(values))], [f"{v:.1f}" for v in values])
    return fig


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
