"""Layer-wise label change and latent classifiers against exact answers."""

import math

import pytest
import torch

from jlebm_core.errors import UsageError
from jlebm_core.evaluate.probes import (
    label_entropy,
    latent_classifier_accuracy,
    layer_label_change,
    told_apart,
)

DIMS = (2, 1, 3)


def decode_top(z):
    """Image of one pixel: 200 where the first coordinate of the top layer is positive."""
    return (200 * (z[:, 3] > 0)).to(torch.uint8).view(-1, 1, 1, 1)


def classify(images):
    return images.flatten(1)[:, 0].long()


def draws(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_label_change_is_zero_below_and_exact_at_the_layer_that_decides():
    fixed, new = draws(0, 7, 6), draws(1, 7, 11, 6)
    expected = ((new[:, :, 3] > 0) != (fixed[:, None, 3] > 0)).double().mean().item()
    assert 0.2 < expected < 0.8
    assert layer_label_change(decode_top, fixed, new, DIMS, classify) == [0.0, 0.0, expected]


def test_label_change_replaces_one_layer_and_leaves_its_inputs_alone():
    fixed, new = draws(2, 3, 6), draws(3, 3, 4, 6)
    before, seen = (fixed.clone(), new.clone()), []
    layer_label_change(lambda z: seen.append(z) or decode_top(z), fixed, new, DIMS, classify)
    assert torch.equal(fixed, before[0]) and torch.equal(new, before[1])
    assert torch.equal(seen[0], fixed)
    for layer, (start, stop) in enumerate([(0, 2), (2, 3), (3, 6)]):
        mixed = torch.stack(seen[1 + 3 * layer : 4 + 3 * layer])
        inside = torch.zeros(6, dtype=torch.bool)
        inside[start:stop] = True
        assert torch.equal(mixed[..., inside], new[..., inside])
        assert torch.equal(mixed[..., ~inside], fixed[:, None].expand_as(new)[..., ~inside])


@pytest.mark.parametrize("change", ["dims", "people", "flat"])
def test_label_change_refuses_shapes_that_do_not_fit(change):
    fixed, new = draws(0, 3, 6), draws(1, 3, 4, 6)
    dims = (2, 1, 4) if change == "dims" else DIMS
    new = {"people": new[:2], "flat": new[:, 0]}.get(change, new)
    with pytest.raises(UsageError, match="fit"):
        layer_label_change(decode_top, fixed, new, dims, classify)


def test_label_entropy_of_known_shares():
    assert label_entropy(torch.arange(10).repeat(3)) == pytest.approx(math.log(10))
    assert label_entropy(torch.full((7,), 4)) == 0
    shares = torch.tensor([2, 2, 5, 9])  # 1/2, 1/4, 1/4
    assert label_entropy(shares) == pytest.approx(1.5 * math.log(2))


def labelled_codes(seed, n):
    """Layer 1: noise. Layer 2: the label itself, in one coordinate of tiny scale and big offset."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 10, (n,), generator=generator)
    noise = torch.randn(n, 3, generator=generator)
    angle = y * (2 * math.pi / 10)
    informative = 5 + 1e-3 * torch.stack([angle.cos(), angle.sin()], 1)
    return torch.cat([noise, informative + 1e-5 * noise[:, :2]], 1), y


def test_latent_classifier_is_perfect_on_separable_codes_and_at_chance_on_noise():
    state = torch.get_rng_state()
    sets = [*labelled_codes(0, 6000), *labelled_codes(1, 3000)]
    noise, separable = latent_classifier_accuracy(*sets, (3, 2), epochs=15, seed=0)
    assert separable == 1.0
    # labels are independent of the codes: hits are Binomial(3000, 0.1); 4.5 standard deviations
    assert abs(noise - 0.1) < 4.5 * math.sqrt(0.1 * 0.9 / 3000)
    assert torch.equal(torch.get_rng_state(), state)


def test_latent_classifier_is_determined_by_its_seed():
    sets = [*labelled_codes(0, 1000), *labelled_codes(1, 1000)]
    runs = [latent_classifier_accuracy(*sets, (3, 2), epochs=2, seed=s) for s in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_latent_classifier_refuses_shapes_that_do_not_fit():
    (z, y), (test_z, test_y) = labelled_codes(0, 20), labelled_codes(1, 10)
    with pytest.raises(UsageError, match="add up to 6"):
        latent_classifier_accuracy(z, y, test_z, test_y, (3, 3), seed=0)
    with pytest.raises(UsageError, match="one label for each code"):
        latent_classifier_accuracy(z, y[:-1], test_z, test_y, (3, 2), seed=0)


def test_samples_of_one_law_are_not_told_apart_and_shifted_ones_are_as_well_as_can_be():
    n, shift = 8000, 2.0
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, n, 2, generator=rng)
    bound = 5 * (0.25 / n) ** 0.5  # n test points: half of each sample
    assert all(abs(accuracy - 0.5) < bound for accuracy in told_apart(a, b, (1, 1)))
    b[:, 1] += shift
    best = torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(shift / 2)).item()  # Bayes
    same, shifted = told_apart(a, b, (1, 1))
    assert abs(same - 0.5) < bound and abs(shifted - best) < 0.02
