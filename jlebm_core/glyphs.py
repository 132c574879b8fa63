"""Built-in data: colour digits that look like house numbers, drawn from known factors.

Every pixel is a function of the factors alone, so "which layer of z holds what" has an exact
answer to compare with. The outlines come from fonts that matplotlib ships, so nothing is
downloaded and a system's own fonts change nothing.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from .surroundings import plain

# Upright faces of regular weight only: font, slant and weight stay three separate factors.
FONTS = ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif", "STIXGeneral", "cmr10", "cmss10", "cmtt10")
NONE = 10  # the value of ``left`` and ``right`` where there is no neighbour
LUMA = (0.299, 0.587, 0.114)  # weights of R, G, B (Rec. 601)
MIN_CONTRAST = 0.35  # least difference in luma between ink and background, before lighting

# name -> (kind, number of values) or (kind, (low, high)). Circular factors are in turns: 0 = 1.
FACTORS: dict[str, tuple[str, int | tuple[float, float]]] = {
    "identity": ("categorical", 10),  # the digit in the middle
    "font": ("categorical", len(FONTS)),
    "slant": ("continuous", (-0.3, 0.3)),  # shear; positive leans to the right
    "weight": ("continuous", (0.0, 0.05)),  # growth of the outline, in digit heights
    "x": ("continuous", (-0.1, 0.1)),  # centre of the digit right of the image's, in image sides
    "y": ("continuous", (-0.1, 0.1)),  # centre of the digit below the image's, in image sides
    "scale": ("continuous", (0.5, 0.75)),  # height of the digit, in image sides
    "ink_hue": ("circular", (0.0, 1.0)),  # as in HSV: 0 red, 1/3 green, 2/3 blue
    "ink_saturation": ("continuous", (0.2, 1.0)),  # of the greatest possible at this luma and hue
    "ink_luma": ("continuous", (0.05, 0.95)),
    "background_hue": ("circular", (0.0, 1.0)),
    "background_saturation": ("continuous", (0.2, 1.0)),
    "background_luma": ("continuous", (0.1, 0.9)),
    "light_direction": ("circular", (0.0, 1.0)),  # 0 = light from the right, 1/4 = from above
    "light_strength": ("continuous", (0.0, 0.7)),  # 0 = even light, 1 = black at the far corner
    "left": ("categorical", NONE + 1),  # the digit to the left, or NONE (one half of the images)
    "right": ("categorical", NONE + 1),
}

_CELLS = 96  # side of a distance field
_HALF = 0.7  # a field spans [-_HALF, _HALF]^2 digit heights: the digit and a margin
_GAP = 0.14  # space between the outlines of neighbours, in digit heights
_BLOCK = 500  # images drawn at a time, to bound memory


@plain()
def render(n: int, *, seed: int, size: int = 32) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Draw ``n`` random digits; the first k of ``n`` are the same for every n >= k.

    Returns images uint8 (n, 3, size, size), labels int64 (n,) and factors, a dict with one tensor
    (n,) for each name in FACTORS: int64 if categorical, else float32. labels = factors["identity"].
    """
    factors = sample_factors(n, seed=seed)
    return draw(factors, size=size), factors["identity"].clone(), factors


@plain()
def sample_factors(n: int, *, seed: int) -> dict[str, Tensor]:
    """Draw the factors of ``n`` images, a dict of tensors (n,).

    All are uniform and independent but for two: a neighbour is NONE with probability 1/2, and
    ink_luma is uniform where it is at least MIN_CONTRAST away from background_luma.
    """
    generator = torch.Generator().manual_seed(seed)
    # One row per image, so that a longer draw begins with a shorter one. Doubles, because a
    # float32 just below 1, times the number of values, can round up to that number.
    uniform = torch.rand(n, len(FACTORS), generator=generator, dtype=torch.float64)
    factors = {}
    for (name, (kind, values)), u in zip(FACTORS.items(), uniform.unbind(1), strict=True):
        if kind == "categorical":
            count = 2 * NONE if name in ("left", "right") else values
            factors[name] = (u * count).long().clamp(max=values - 1)
        else:
            low, high = values
            factors[name] = (low + (high - low) * u).float()
    low, high = FACTORS["ink_luma"][1]
    ground, u = factors["background_luma"].double(), uniform[:, list(FACTORS).index("ink_luma")]
    darker = (ground - MIN_CONTRAST - low).clamp(min=0)  # lengths of the two allowed intervals
    lighter = (high - ground - MIN_CONTRAST).clamp(min=0)
    t = u * (darker + lighter)
    ink = torch.where(t < darker, low + t, ground + MIN_CONTRAST + t - darker)
    factors["ink_luma"] = ink.float()
    return factors


@plain()
def draw(factors: dict[str, Tensor], *, size: int = 32) -> Tensor:
    """Draw the images of given factors, tensors (n,) each: uint8 (n, 3, size, size)."""
    images = [_draw_block(block, size) for block in _blocks(factors)]
    return torch.cat(images) if images else torch.empty(0, 3, size, size, dtype=torch.uint8)


@plain()
def coverage(factors: dict[str, Tensor], *, size: int = 32) -> Tensor:
    """The part of each pixel that ink covers: float32 (n, size, size) in [0, 1].

    A pixel at signed distance d (in pixels, positive inside) of the outline, grown by the factor
    weight, has coverage smoothstep(d + 1/2).
    """
    fields, half_widths = _distance_fields()
    font, identity = factors["font"], factors["identity"]
    weight, scale = factors["weight"], factors["scale"]
    centres = (torch.arange(size) + 0.5) / size - 0.5
    across = (centres - factors["x"][:, None]) / scale[:, None]  # (n, size), in digit heights
    down = (centres - factors["y"][:, None]) / scale[:, None]
    across = across[:, None, :] + factors["slant"][:, None, None] * down[:, :, None]
    down = down[:, :, None].expand_as(across)
    outside = torch.full_like(across, math.inf)
    for name, side in (("identity", 0), ("left", -1), ("right", 1)):
        digit = factors[name]
        # Neighbours stand a gap apart from outline to outline, however bold or slanted they are.
        step = half_widths[font, identity] + half_widths[font, digit] + _GAP + 2 * weight
        grid = torch.stack((across - side * step[:, None, None], down), dim=3) / _HALF
        field = fields[font, digit].unsqueeze(1)
        distance = F.grid_sample(field, grid, padding_mode="border", align_corners=True)
        outside = torch.minimum(outside, distance.squeeze(1))
    inside = (weight[:, None, None] - outside) * (scale * size)[:, None, None]
    t = (inside + 0.5).clamp(0, 1)
    return t * t * (3 - 2 * t)


@plain()
def colour(hue: Tensor, saturation: Tensor, luma: Tensor) -> Tensor:
    """RGB in [0, 1], (n, 3), of exactly this luma and HSV hue (tensors (n,)).

    rgb = luma + saturation r d, where d is the pure hue less its luma and r is the greatest
    radius that stays inside the cube.
    """
    turns = (6 * hue[:, None] + torch.tensor([0.0, 4.0, 2.0])) % 6
    pure = ((turns - 3).abs() - 1).clamp(0, 1)
    direction = pure - (pure * torch.tensor(LUMA)).sum(1, keepdim=True)
    room = torch.where(direction > 0, 1 - luma[:, None], luma[:, None])
    radius = (room / direction.abs().clamp(min=1e-6)).amin(1)
    return (luma[:, None] + (saturation * radius)[:, None] * direction).clamp(0, 1)


def _blocks(factors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    n = len(factors["identity"])
    return [{k: v[i : i + _BLOCK] for k, v in factors.items()} for i in range(0, n, _BLOCK)]


def _draw_block(factors: dict[str, Tensor], size: int) -> Tensor:
    ink, ground = (
        colour(*(factors[f"{part}_{name}"] for name in ("hue", "saturation", "luma")))
        for part in ("ink", "background")
    )
    covered = coverage(factors, size=size)[:, None]
    image = ground[:, :, None, None] + covered * (ink - ground)[:, :, None, None]
    return (image * _light(factors, size)).mul(255).round().to(torch.uint8)


def _light(factors: dict[str, Tensor], size: int) -> Tensor:
    """Brightness (n, 1, size, size): a linear ramp from 1 down to 1 - light_strength."""
    angle = 2 * math.pi * factors["light_direction"].double()
    towards = (2 * torch.arange(size) + 1) / size - 1  # pixel centres in [-1, 1]
    right, up = angle.cos().float()[:, None, None], angle.sin().float()[:, None, None]
    away = 0.5 - (right * towards - up * towards[:, None]) / math.sqrt(8)
    return 1 - (factors["light_strength"][:, None, None] * away)[:, None]


@lru_cache(maxsize=1)
def _distance_fields() -> tuple[Tensor, Tensor]:
    """Signed distances (fonts, 11, cells, cells), positive outside, and half widths (fonts, 11).

    In units of the digit's height, each digit centred on its bounding box; row NONE is empty.
    """
    fields = torch.full((len(FONTS), NONE + 1, _CELLS, _CELLS), _HALF)
    half_widths = torch.zeros(len(FONTS), NONE + 1)
    axis = torch.linspace(-_HALF, _HALF, _CELLS)
    for i, font in enumerate(FONTS):
        for digit in range(10):
            start, end = _outline(font, digit)
            half_widths[i, digit] = start[:, 0].max()
            for row, y in enumerate(axis):  # by rows, whose temporaries fit into the cache
                fields[i, digit, row] = _signed_distance(axis, y, start, end)
    return fields, half_widths


def _outline(font: str, digit: int) -> tuple[Tensor, Tensor]:
    """Start and end points (segments, 2) of a digit's outline: x right, y down, height 1."""
    from pathlib import Path

    import matplotlib
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    file = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    # A large size, because curves are cut into segments of about a unit's precision.
    path = TextPath((0, 0), str(digit), size=200, prop=FontProperties(fname=str(file)))
    polygons = [torch.from_numpy(polygon).float() for polygon in path.to_polygons()]
    start, end = torch.cat([p[:-1] for p in polygons]), torch.cat([p[1:] for p in polygons])
    low, high = start.amin(0), start.amax(0)
    scale = torch.tensor([1.0, -1.0]) / (high - low)[1]
    return (start - (low + high) / 2) * scale, (end - (low + high) / 2) * scale


def _signed_distance(x: Tensor, y: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Distance of points (x, y) to an outline, negative where its winding number is not 0."""
    (x0, y0), (dx, dy) = start.unbind(1), (end - start).unbind(1)
    x, y = x[..., None] - x0, y[..., None] - y0  # (..., segments)
    t = ((x * dx + y * dy) / (dx * dx + dy * dy).clamp(min=1e-12)).clamp(0, 1)
    distance = ((x - t * dx).square() + (y - t * dy).square()).amin(-1).sqrt()
    downward, upward = (y >= 0) & (y < dy), (y < 0) & (y >= dy)
    left = dx * y < dy * x
    winding = (downward & left).sum(-1) - (upward & ~left).sum(-1)
    return torch.where(winding != 0, -distance, distance)
