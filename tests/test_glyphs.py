"""The drawn digits: exactly reproducible, and every factor does what its name says."""

import colorsys
import itertools
import math

import pytest
import torch

from jlebm_core import glyphs
from jlebm_core.glyphs import FACTORS, FONTS, NONE, colour, coverage, draw, render, sample_factors

DELTA = 1e-6  # probability that a correct sampler fails a statistical test (for a fresh seed)


def plain(n: int = 1, **values) -> dict[str, torch.Tensor]:
    """Factors of ``n`` images: a centred black digit on white in even light, but for ``values``."""
    defaults = {"scale": 0.6, "background_luma": 1.0, "left": NONE, "right": NONE}
    factors = {}
    for name, (kind, _) in FACTORS.items():
        dtype = torch.long if kind == "categorical" else torch.float32
        value = torch.as_tensor(values.get(name, defaults.get(name, 0)), dtype=dtype)
        factors[name] = value.expand(n).clone()
    return factors


def every_glyph(**values) -> dict[str, torch.Tensor]:
    """Factors of 70 images: each font (slow axis) with each digit (fast axis)."""
    fonts = torch.arange(len(FONTS)).repeat_interleave(10)
    return plain(70, identity=torch.arange(10).repeat(len(FONTS)), font=fonts, **values)


def test_render_shapes_types_and_ranges():
    images, labels, factors = render(300, seed=5)
    assert images.shape == (300, 3, 32, 32) and images.dtype == torch.uint8
    assert labels.dtype == torch.int64 and torch.equal(labels, factors["identity"])
    assert list(factors) == list(FACTORS)
    for name, (kind, values) in FACTORS.items():
        column = factors[name]
        low, high = (0, values - 1) if kind == "categorical" else values
        assert column.shape == (300,) and low <= column.min() and column.max() <= high, name
        assert column.dtype == (torch.int64 if kind == "categorical" else torch.float32), name
    assert render(2, seed=5, size=48)[0].shape == (2, 3, 48, 48)
    assert render(0, seed=5)[0].shape == (0, 3, 32, 32)


def test_same_seed_same_images_and_a_longer_draw_begins_with_a_shorter_one(monkeypatch):
    state = torch.get_rng_state()
    images, _, factors = render(701, seed=3)
    for k in (1, 13, 500, 701):
        start, _, start_factors = render(k, seed=3)
        assert torch.equal(start, images[:k])
        assert all(torch.equal(start_factors[name], factors[name][:k]) for name in FACTORS)
    monkeypatch.setattr(glyphs, "_BLOCK", 37)
    assert torch.equal(draw(factors), images)
    assert not torch.equal(render(701, seed=4)[0], images)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_factors_have_the_stated_distributions():
    n = 20_000
    factors = sample_factors(n, seed=0)
    t = -math.log(DELTA)
    for name, (kind, values) in FACTORS.items():
        if kind == "categorical":
            p = torch.full((values,), 1 / values)
            if name in ("left", "right"):
                p = torch.tensor([1 / 20] * 10 + [1 / 2])
            counts = torch.bincount(factors[name], minlength=values)
            chi_square = ((counts - n * p).square() / (n * p)).sum().item()
            # Laurent and Massart: P(chi2_k >= k + 2 sqrt(k t) + 2 t) <= exp(-t).
            k = values - 1
            assert chi_square < k + 2 * math.sqrt(k * t) + 2 * t, name
        elif name != "ink_luma":
            low, high = values
            assert_uniform((factors[name] - low) / (high - low))
    ink, ground = factors["ink_luma"], factors["background_luma"]
    assert (ink - ground).abs().min() > glyphs.MIN_CONTRAST - 1e-6
    darker = (ground - glyphs.MIN_CONTRAST - 0.05).clamp(min=0)  # what lies below and above
    lighter = (0.95 - ground - glyphs.MIN_CONTRAST).clamp(min=0)
    mass = torch.where(ink < ground, ink - 0.05, darker + ink - ground - glyphs.MIN_CONTRAST)
    assert_uniform(mass / (darker + lighter))


def assert_uniform(u: torch.Tensor) -> None:
    """Dvoretzky, Kiefer, Wolfowitz: P(sup |F_n - F| > e) <= 2 exp(-2 n e^2)."""
    n = len(u)
    gap = (u.double().sort().values - (torch.arange(n) + 0.5) / n).abs().max() - 0.5 / n
    assert gap < math.sqrt(math.log(2 / DELTA) / (2 * n))


def test_factors_are_drawn_independently_of_each_other():
    n = 20_000
    factors = sample_factors(n, seed=0)
    names = [name for name in FACTORS if name != "ink_luma"]  # tied to background_luma by contrast
    correlations = torch.corrcoef(torch.stack([factors[name].double() for name in names]))
    pairs = len(names) * (len(names) - 1) / 2
    # Fisher: atanh(r) sqrt(n - 3) is N(0, 1) nearly; a union bound over the pairs.
    bound = -torch.special.ndtri(torch.tensor(DELTA / (2 * pairs))).item() / math.sqrt(n - 3)
    assert correlations.fill_diagonal_(0).abs().max() < math.tanh(bound)


def test_distance_to_a_square_and_to_a_square_with_a_hole():
    square = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    x, y = torch.tensor([[0.0, 2.0, 2.0, 0.5, -0.25], [0.0, 0.0, 2.0, 0.0, 0.75]])
    distance = glyphs._signed_distance(x, y, square, square.roll(-1, 0))
    assert torch.allclose(distance, torch.tensor([-1.0, 1.0, math.sqrt(2), -0.5, -0.25]))
    hole = 0.5 * square.flip(0)  # runs the other way round, so its winding number is 1 - 1
    start, end = torch.cat((square, hole)), torch.cat((square.roll(-1, 0), hole.roll(-1, 0)))
    distance = glyphs._signed_distance(x[[0, 1]], y[[0, 1]], start, end)
    assert torch.allclose(distance, torch.tensor([0.5, 1.0]))


def test_all_glyphs_are_there_and_differ_within_a_font():
    masks = (coverage(every_glyph(scale=0.75)) > 0.5).view(len(FONTS), 10, -1)
    assert masks.any(dim=2).all()
    for font, (a, b) in itertools.product(range(len(FONTS)), itertools.combinations(range(10), 2)):
        one, other = masks[font, a], masks[font, b]
        assert (one & other).sum() < 0.9 * (one | other).sum(), (FONTS[font], a, b)
    whole = masks.permute(1, 0, 2)
    assert all(not torch.equal(whole[0, i], whole[0, j]) for i in range(7) for j in range(i))


@pytest.mark.parametrize(("name", "axis"), [("x", 2), ("y", 1)])
def test_position_moves_the_ink_right_and_down_by_whole_pixels(name, axis):
    moved = coverage(every_glyph(**{name: 3 / 32}))
    assert torch.allclose(moved, coverage(every_glyph()).roll(3, dims=axis), atol=1e-4)


def test_scale_is_the_height_of_the_digit():
    for scale in (0.5, 0.75):
        rows = (coverage(every_glyph(scale=scale), size=128) > 0.5).any(dim=2).sum(dim=1)
        # A pixel of rounding, and the bilinear field cuts a sharp corner by up to half a cell.
        assert (rows - 128 * scale).abs().max() <= 1 + scale * 128 * 1.4 / 95


def test_slant_shifts_each_row_in_proportion_to_its_height():
    size, slant = 64, 0.25
    y = 0.5 / size  # rows lie a whole number of pixels from the centre, here row 32
    upright, leaning = (coverage(every_glyph(slant=s, y=y), size=size) for s in (0.0, slant))
    for row in range(0, size, 4):  # shifts by whole pixels: those above lean to the right
        shift = int(slant * (size // 2 - row))
        assert torch.allclose(leaning[:, row], upright[:, row].roll(shift, dims=1), atol=1e-4)
    assert upright[:, ::4].sum(2).gt(1).sum() > 70 * 8  # those rows are not empty


def test_weight_adds_ink_everywhere_and_widens_the_outline_by_its_amount():
    weights = (0.0, 0.0125, 0.025, 0.0375, 0.05)
    drawn = [coverage(every_glyph(weight=w)) for w in weights]
    for thin, bold in itertools.pairwise(drawn):
        assert (bold >= thin).all() and (bold.sum((1, 2)) > thin.sum((1, 2)) + 1).all()
    size = 256
    thin, bold = (
        (coverage(every_glyph(weight=w), size=size) > 0.5).any(dim=1).sum(dim=1) for w in (0, 0.05)
    )
    assert (bold - thin - 2 * 0.05 * 0.6 * size).abs().max() <= 3


def test_neighbours_are_the_same_digits_a_step_aside():
    _, half_widths = glyphs._distance_fields()
    font, identity, left, right, scale, weight = 2, 4, 7, 1, 0.6, 0.03
    common = {"font": font, "scale": scale, "weight": weight}
    parts = [coverage(plain(identity=identity, **common))]
    for digit, side in ((left, -1), (right, 1)):
        step = half_widths[font, identity] + half_widths[font, digit] + 0.14 + 2 * weight
        parts.append(coverage(plain(identity=digit, x=side * step * scale, **common)))
    row = coverage(plain(identity=identity, left=left, right=right, **common))
    assert torch.allclose(row, torch.stack(parts).amax(0), atol=1e-4)
    assert all(part.max() == 1 for part in parts)  # each is visible
    assert (torch.stack(parts) > 0).sum(0).max() == 1  # and apart from the others


def test_colour_has_exactly_the_stated_luma_and_hue():
    g = torch.Generator().manual_seed(0)
    hue, saturation, luma = torch.rand(3, 500, generator=g).unbind(0)
    rgb = colour(hue, saturation, luma)
    assert rgb.min() >= 0 and rgb.max() <= 1
    assert torch.allclose(rgb @ torch.tensor(glyphs.LUMA), luma, atol=1e-6)
    vivid = (rgb.amax(1) - rgb.amin(1)) > 0.01  # the hue of a grey is not defined
    measured = torch.tensor([colorsys.rgb_to_hsv(*c)[0] for c in rgb[vivid].tolist()])
    assert turns_apart(measured, hue[vivid]).max() < 1e-4
    pure = colour(hue, torch.ones(500), luma)
    assert torch.minimum(pure.amin(1), 1 - pure.amax(1)).abs().max() < 1e-6  # as vivid as can be
    assert torch.allclose(colour(hue, torch.zeros(500), luma), luma[:, None].expand(500, 3))


def turns_apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return ((a - b + 0.5) % 1 - 0.5).abs()


@pytest.mark.parametrize(("part", "level"), [("ink", 1.0), ("background", 0.0)])
def test_ink_and_background_colours_are_recovered_from_the_pixels(part, level):
    factors = sample_factors(300, seed=1)
    factors["light_strength"].zero_()
    images, covered = draw(factors), coverage(factors)
    tested = 0
    for i in range(300):
        pixels = images[i][:, covered[i] == level].T.long()
        assert len(pixels) and (pixels == pixels[0]).all()
        rgb = pixels[0].double()
        luma = (rgb @ torch.tensor(glyphs.LUMA).double()).item() / 255
        assert abs(luma - factors[f"{part}_luma"][i]) <= 0.5 / 255 + 1e-6  # rounding to 8 bits
        chroma = (rgb.max() - rgb.min()).item()
        if chroma < 20:
            continue
        # hue = (difference / chroma) / 6 turns, both off by at most 1, |difference| <= chroma.
        hue = torch.tensor(colorsys.rgb_to_hsv(*(rgb / 255).tolist())[0])
        assert turns_apart(hue, factors[f"{part}_hue"][i]) <= 2 / (6 * (chroma - 1))
        tested += 1
    assert tested > 200


def test_light_falls_off_linearly_away_from_its_direction():
    directions, strength = torch.arange(8) / 8, 0.6
    white = plain(8, ink_luma=1.0, light_direction=directions, light_strength=strength)
    light = draw(white)[:, 0].double() / 255
    angle, away = 2 * math.pi * directions.double(), (2 * torch.arange(32) + 1) / 32 - 1
    towards = angle.cos()[:, None, None] * away - angle.sin()[:, None, None] * away[:, None]
    expected = 1 - strength * (0.5 - towards / math.sqrt(8))
    assert (light - expected).abs().max() <= 0.5 / 255 + 1e-6
    assert light[0, 16, -1] > light[0, 16, 0] and light[2, 0, 16] > light[2, -1, 16]
    assert (draw(plain(ink_luma=1.0)) == 255).all()  # strength 0: even light
