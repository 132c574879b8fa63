"""Figures and walks in latent space."""

import io

import pytest
import torch
from PIL import Image

from jlebm_core import systems, viz
from jlebm_core.langevin import langevin

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
    viz.density_image(ax, torch.rand(5, 5, generator=seeded()), limit=3)
    assert not plt.get_fignums()


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
