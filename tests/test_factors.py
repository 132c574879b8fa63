"""Layers x factors against channels whose mutual information is known exactly."""

import math

import pytest
import torch

from jlebm_core.errors import UsageError
from jlebm_core.evaluate import factors

N = 6000


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_floats_are_cut_into_equally_frequent_values_by_the_training_split():
    train = {"x": torch.rand(N, generator=rng()), "digit": torch.arange(N) % 10}
    test = {"x": torch.tensor([-5.0, 5.0]), "digit": torch.tensor([3, 7])}
    found = factors.discrete(train, train)
    assert found["x"].bincount().tolist() == [N // 10] * 10
    assert torch.equal(found["digit"], train["digit"])
    assert factors.discrete(test, train)["x"].tolist() == [0, 9]
    order = train["x"].argsort()
    assert torch.equal(found["x"][order], found["x"].sort().values)


def test_entropy_of_shares():
    assert factors.entropy(torch.arange(50) % 5) == pytest.approx(math.log(5))
    assert factors.entropy(torch.tensor([0, 0, 0, 2])) == pytest.approx(
        0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    )
    assert factors.entropy(torch.zeros(9, dtype=torch.long)) == 0


def flipped(n, error, seed):
    """Fair bits v, and codes +1 or -1 that tell the wrong one with probability ``error``, each with
    a second coordinate of noise."""
    v = torch.randint(2, (n,), generator=rng(seed))
    wrong = torch.rand(n, generator=rng(seed + 1)) < error
    noise = torch.randn(n, generator=rng(seed + 2))
    return torch.stack([2.0 * (v ^ wrong.long()) - 1, noise], 1), v


@pytest.mark.parametrize("error", [0.0, 0.1, 0.3])
def test_a_layer_holds_what_a_binary_channel_lets_through(error):
    """Capacity of the binary symmetric channel: log 2 - H(error). Standard deviation of the mean
    of -log c over N test codes: sqrt(e (1 - e) / N) log((1 - e) / e)."""
    (train_z, train_v), (test_z, test_v) = flipped(N, error, 0), flipped(N, error, 10)
    (layer,) = factors.layer_information(train_z, {"v": train_v}, test_z, {"v": test_v}, (2,))
    odds = math.log((1 - error) / error) if error else 0.0
    exact = math.log(2) - error * odds + math.log(1 - error)
    bound = 4 * math.sqrt(error * (1 - error) / N) * odds + 0.01  # of the fit
    assert abs(layer["v"] - exact) < bound


def test_only_the_layer_that_holds_a_factor_gets_its_nats():
    v = torch.arange(N) % 10
    angle = v * (2 * math.pi / 10)
    z = torch.stack([angle.cos(), torch.randn(N, generator=rng()), angle.sin()], 1)
    other = torch.randint(3, (N,), generator=rng(1))  # independent of all codes
    sets = (z[:, [1, 0, 2]], {"digit": v, "other": other})
    bottom, top = factors.layer_information(*sets, *sets, (1, 2))
    assert top["digit"] == pytest.approx(math.log(10), abs=0.01)
    assert bottom["digit"] < 0.02 and bottom["other"] < 0.02 and top["other"] < 0.02
    assert min(bottom.values()) >= 0


def test_the_bound_stays_below_the_information_of_a_normal_channel():
    """z = v + noise for equally spaced v: I = H(v) - E[H(v | z)], by numerical integration."""
    spacing, values = 1.5, 6

    def draw(seed):
        v = torch.randint(values, (N,), generator=rng(seed))
        return (spacing * v + torch.randn(N, generator=rng(seed + 1)))[:, None], {"v": v}

    grid = torch.linspace(-6, spacing * values + 6, 20001, dtype=torch.float64)
    likelihood = torch.exp(-0.5 * (grid[:, None] - spacing * torch.arange(values)) ** 2)
    likelihood /= likelihood.sum(0)
    mixture = likelihood.mean(1, keepdim=True)
    exact = (torch.xlogy(likelihood, likelihood) - torch.xlogy(likelihood, mixture)).sum(0).mean()
    (layer,) = factors.layer_information(*draw(0), *draw(2), (1,))
    # E[-log c] over N codes: a standard deviation of log p(v | z) of about one nat
    assert exact.item() - 0.05 < layer["v"] < exact.item() + 4 / math.sqrt(N)
    with_bins = factors.unit_information(*draw(4))[0, 0].item()
    assert exact.item() - 0.08 < with_bins < exact.item() + 4 / math.sqrt(N)


def test_a_unit_has_the_information_of_its_table_of_counts():
    v = torch.arange(N) % 4
    deterministic = v + 0.5 * torch.rand(N, generator=rng())
    halved = (v // 2) + 0.5 * torch.rand(N, generator=rng(1))  # two values of four: log 2
    noise = torch.rand(N, generator=rng(2))
    found = factors.unit_information(torch.stack([deterministic, halved, noise], 1), {"v": v})
    bias = (factors.BINS - 1) * 3 / (2 * N)  # of the noise, chi-squared over 2N
    assert found[0, 0].item() == pytest.approx(math.log(4), abs=1e-9)
    assert found[1, 0].item() == pytest.approx(math.log(2), abs=3 * bias)
    assert found[2, 0].item() < 2 * bias


def test_gaps_of_known_tables():
    information = torch.tensor([[2.0, 0.0], [0.5, 1.0], [0.0, 0.25]], dtype=torch.float64)
    entropies = torch.tensor([2.0, 1.0], dtype=torch.float64)
    # factor 1: (2 - .5) / 2 = .75; factor 2: (1 - .25) / 1 = .75
    assert factors.mig(information, entropies) == pytest.approx(0.75)
    # units 1 and 2 of shares [1, 0] and [.25, 1]; the third is not active
    active = torch.tensor([True, True, False])
    assert factors.mig_sup(information, entropies, active) == pytest.approx((1 + 0.75) / 2)
    assert factors.mig_sup(information, entropies, torch.zeros(3, dtype=torch.bool)) == 0
    assert factors.mig(information[:1], entropies) == pytest.approx(0.5)  # a single unit: 1 and 0


def test_codes_that_are_the_factors_have_gaps_of_one():
    values = torch.cartesian_prod(torch.arange(4), torch.arange(5), torch.arange(300))
    both = {"a": values[:, 0], "b": values[:, 1]}
    z = values[:, :2] + 0.5 * torch.rand(len(values), 2, generator=rng())
    records = factors.measure(z, both, z, both, z, (1, 1))
    found = {(r["name"], r.get("layer"), r.get("factor")): r["value"] for r in records}
    # 20 bins do not split a unit of 4 or 5 values; a and b are independent
    assert found["mig", None, None] == pytest.approx(1, abs=0.01)
    assert found["mig_sup", None, None] == pytest.approx(1, abs=0.01)
    assert found["factor_entropy", None, "b"] == pytest.approx(math.log(5))
    assert found["mutual_information", 1, "a"] == pytest.approx(math.log(4), abs=0.01)
    assert found["mutual_information", 1, "b"] < 0.01


def test_shapes_that_do_not_fit_are_refused():
    z, v = torch.zeros(5, 2), {"v": torch.zeros(5, dtype=torch.long)}
    with pytest.raises(UsageError, match="add up to 3"):
        factors.layer_information(z, v, z, v, (2, 1))
    with pytest.raises(UsageError, match="one value for each of the 5 codes"):
        factors.layer_information(z, {"v": v["v"][:4]}, z, v, (2,))
