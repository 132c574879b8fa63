"""The attack on one layer: its budget, its aim, and the layers that it leaves alone."""

import pytest
import torch

from jlebm_core import systems
from jlebm_core.errors import UsageError
from jlebm_core.evaluate import attack as attacks
from jlebm_core.evaluate.attack import attack, label_rates, project


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def pair(n=6):
    x, target = 1.8 * torch.rand(2, n, 1, 28, 28, generator=seeded(0)) - 0.9
    return x, target


@pytest.fixture(scope="module")
def system():
    return systems.build(systems.configure("joint-ebm", "demo", (1, 28, 28))).eval()


def kl(system, x, target, layer):
    """KL between the posteriors of one layer, from torch.distributions."""
    with torch.no_grad():
        q, p = (system.inference.posterior(images).split(system.config.dims)[layer - 1]
                for images in (x, target))  # fmt: skip
    normal = torch.distributions.Normal
    pairs = normal(q.mean, q.std), normal(p.mean, p.std)
    return torch.distributions.kl_divergence(*pairs).sum(1)


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.3), ("l2", 1.5)])
@pytest.mark.parametrize("layer", [1, 3])
def test_an_attack_stays_in_its_budget_and_brings_the_layer_nearer(system, norm, radius, layer):
    x, target = pair()
    before = x.clone()
    found = attack(system, x, target, layer, radius=radius, norm=norm, steps=15)
    d = (found.x - x).flatten(1)
    size = d.abs().amax(1) if norm == "linf" else d.norm(dim=1)
    assert (size <= radius * (1 + 1e-5)).all() and (size > radius / 10).all()
    assert found.x.abs().max() <= 1 and torch.equal(x, before)
    assert torch.allclose(found.before, kl(system, x, target, layer), rtol=1e-4, atol=1e-5)
    assert torch.allclose(found.after, kl(system, found.x, target, layer), rtol=1e-4, atol=1e-5)
    assert (found.after < found.before).all()


def test_an_attack_without_steps_or_on_itself_changes_nothing(system):
    x, target = pair()
    still = attack(system, x, target, 2, radius=0.1, steps=0)
    assert torch.equal(still.x, x) and torch.equal(still.before, still.after)
    own = attack(system, x, x, 2, radius=0.1, steps=3)  # KL is 0 already, nothing is below it
    assert torch.equal(own.x, x) and own.before.max() == 0


def test_each_image_is_attacked_for_itself(system):
    x, target = pair(4)
    whole = attack(system, x, target, 3, radius=0.2, steps=5)
    alone = attack(system, x[1:2], target[1:2], 3, radius=0.2, steps=5)
    assert torch.allclose(whole.x[1:2], alone.x, atol=1e-4)


def test_no_parameter_gets_a_gradient(system):
    x, target = pair(2)
    attack(system, x, target, 1, radius=0.2, steps=2)
    assert all(p.grad is None for p in system.parameters())


def test_project_is_the_nearest_point_of_the_ball():
    d = torch.tensor([[3.0, 4.0], [0.3, -0.4]]).view(2, 1, 1, 2)
    assert torch.allclose(project(d, 1.0, "l2").flatten(1), torch.tensor([[0.6, 0.8], [0.3, -0.4]]))
    assert torch.equal(project(d, 1.0, "linf").flatten(1), torch.tensor([[1.0, 1.0], [0.3, -0.4]]))


def test_label_rates_count_the_labels_of_reconstructions(system):
    x, _ = pair(4)
    seen = []

    def classify(images):
        seen.append(images)
        return torch.tensor([1, 2, 2, 3])

    rates = label_rates(system, classify, x, torch.tensor([1, 1, 2, 0]), torch.tensor([0, 2, 0, 3]))
    assert rates == [0.5, 0.5]
    assert seen[0].dtype == torch.uint8 and seen[0].shape == x.shape


def test_bad_input_gets_one_sentence(system):
    x, target = pair(2)
    with pytest.raises(UsageError, match="no layer 4"):
        attack(system, x, target, 4, radius=0.1)
    with pytest.raises(UsageError, match="unknown norm 'l1': choose one of linf, l2"):
        attack(system, x, target, 1, radius=0.1, norm="l1")
    with pytest.raises(UsageError, match="do not pair"):
        attack(system, x, target[:1], 1, radius=0.1)
    lvae = systems.build(systems.configure("lvae", "demo", (1, 28, 28)))
    with pytest.raises(UsageError, match="MergedEncoder does not give"):
        attacks.attack(lvae, x, target, 1, radius=0.1)
