"""Figures and walks in latent space."""

import io

import pytest
import torch
from PIL import Image
from torchvision.utils import make_grid

from jlebm_core import systems, viz
from jlebm_core.experiments import layers
from jlebm_core.langevin import langevin
from jlebm_core.priors import sample_layer

IMAGE = (1, 28, 28)


@pytest.fixture(scope="module")
def system():
    return systems.build(systems.configure("joint-ebm", "d", IMAGE, prior_steps=2)).eval()


def seeded():
    return torch.Generator().manual_seed(0)


def test_mosaic_puts_images_in_reading_order():
    images = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    picture = viz.mosaic(images, 2)
    assert picture.shape == (7, 7, 3)
    assert picture[1, 1, 0] == 0 and picture[1, 4, 0] == 0.5 and picture[4, 1, 0] == 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("count", "columns"), [(1, 3), (2, 5), (3, 1), (5, 3), (6, 3)])
def test_a_mosaic_is_torchvisions_grid(count, columns, channels):
    images = torch.randn(count, channels, 4, 6, generator=seeded())
    grid = make_grid((images + 1) / 2, nrow=columns, padding=1, pad_value=0.5)
    assert torch.equal(viz.mosaic(images, columns), grid.clamp(0, 1).permute(1, 2, 0))


def test_hierarchical_samples_change_one_layer_only(system):
    panels = viz.hierarchical_samples(system, 4, rng=seeded())
    z = system.prior.sample(4, rng=seeded())
    start = 0
    for panel, d in zip(panels, system.config.dims, strict=True):
        mixed = z[:1].repeat(4, 1)
        mixed[:, start : start + d] = z[:, start : start + d]
        assert panel.equal(system.decode(mixed))
        assert panel[0].equal(panels[0][0])  # the first draw is the fixed code itself
        start += d


def test_conditional_samples_are_chains_on_one_layer(system):
    panels = viz.hierarchical_samples(system, 4, reading="conditional", rng=seeded())
    rng = seeded()
    z = system.prior.sample(4, rng=rng)[:1].repeat(4, 1)
    for i, panel in enumerate(panels, 1):
        mixed = torch.cat([z[:1], sample_layer(system.prior, z[1:], i, rng=rng)])
        assert panel.equal(system.decode(mixed))


def test_traverse_walks_one_coordinate(system):
    z = system.prior.sample(1, rng=seeded())[0]
    images = viz.traverse(system, z, 3, torch.tensor([-1.0, z[3].item()]))
    torch.testing.assert_close(images[1], system.decode(z[None])[0])
    assert not torch.allclose(images[0], images[1])


def test_plane_has_rows_along_y():
    grid = viz.plane(1.0, 3)
    assert grid[0, 2].tolist() == [1.0, -1.0]


def test_figures_are_made_and_closed(system):
    import matplotlib.pyplot as plt

    z = system.prior.sample(6, rng=seeded())
    viz.image_grids({"a": system.decode(z), "b": system.decode(z)}, columns=3)
    viz.traversal_figure(system, z[0], torch.linspace(-2, 2, 5))
    viz.curves({"step": [1, 2], "nll": [3.0, 2.0]}, {"loss": ["nll"]})
    _, (ax,) = viz.figure()
    viz.codes_cloud(ax, z[:, :2], z[:, 2:4])
    viz.matrix(ax, torch.eye(3), "abc", "def", top=1.0)
    viz.density_image(ax, torch.rand(5, 5, generator=seeded()), limit=3)
    assert not plt.get_fignums()


def test_bars_stand_over_the_images_of_their_values(system):
    z, values = system.prior.sample(1, rng=seeded())[0][:2], torch.linspace(-2, 2, 5)
    two = systems.build(
        systems.configure(
            *("joint-ebm", "d", IMAGE), dims=(1, 1), **layers.two_layers(layers.NETS[28])
        )
    ).eval()
    fig = viz.traversal_bars(two, z, values)
    bars, images = fig.axes[2], fig.axes[3]  # of the top unit
    heights = [bar.get_height() for bar in bars.patches]
    assert heights == pytest.approx([*[z[0].item()] * 5, *values.tolist()])
    shown = torch.from_numpy(images.images[0].get_array())
    assert torch.equal(shown.float(), viz.mosaic(viz.traverse(two, z, 1, values), 5))
    middles = [bar.get_x() + bar.get_width() / 2 for bar in bars.patches]
    assert all(int(x) == i % 5 for i, x in enumerate(middles))  # each within its own column
    assert [ax.get_title(loc="left")[-9:] for ax in fig.axes[::2]] == ["(layer 1)", "(layer 2)"]


def test_clouds_have_the_top_layer_first_and_codes_over_the_last_column():
    states = {k: torch.full((3, 4), float(k)) for k in (0, 7, 9)}
    codes = torch.arange(12.0).view(3, 4)
    fig = viz.clouds_over_steps(states, codes, (2, 2))
    drawn = [[c.get_offsets().tolist() for c in ax.collections] for ax in fig.axes]
    assert [len(clouds) for clouds in drawn] == [1, 1, 2] * 2
    assert drawn[2][1] == codes[:, 2:].tolist() and drawn[5][1] == codes[:, :2].tolist()
    assert [ax.get_ylabel() for ax in fig.axes[::3]] == ["layer 2", "layer 1"]
    assert drawn[1][0] == [[7.0, 7.0]] * 3


def test_png_is_the_mosaic_enlarged():
    images = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    picture = Image.open(io.BytesIO(viz.png(images, 2, scale=3)))
    assert picture.size == (21, 12)
    assert picture.getpixel((4, 4)) == (0, 0, 0) and picture.getpixel((13, 4)) == (255, 255, 255)


def test_source_is_the_modules():
    assert "def langevin(" in viz.show_source(langevin).data


def test_table_escapes_what_it_shows():
    html = viz.table(["a", "b"], [[1, "<x>"]]).data
    assert "<th>a</th><th>b</th>" in html and "<td>1</td><td>&lt;x&gt;</td>" in html
