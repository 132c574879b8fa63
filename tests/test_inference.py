"""Inference: encoders that go up, down or both ways, Langevin against an exact posterior."""

from functools import partial

import pytest
import torch
from torch import nn

from jlebm_core import inference
from jlebm_core.errors import UsageError
from jlebm_core.gaussians import merge
from jlebm_core.inference import (
    BidirectionalEncoder,
    DeterministicEncoder,
    LadderEncoder,
    LangevinPosterior,
    MergedEncoder,
)
from jlebm_core.langevin import langevin
from jlebm_core.priors import GaussianChain, StandardNormal


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_ladder_reads_each_layer_off_its_own_level():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = LadderEncoder((1, 2, 3), (1, 8, 8), ("down 2", "fc 5"), ("down 3", "fc 4", ""))
    x = torch.randn(6, 1, 8, 8, generator=seeded())
    q = encoder.posterior(x)
    t1 = encoder.trunk[0](x)
    t2 = encoder.trunk[1](t1)
    reads = [ladder(t) for ladder, t in zip(encoder.ladders, (x, t1, t2), strict=True)]
    for k, part in enumerate((q.mean, q.log_var)):
        expected = [head[k](r) for head, r in zip(encoder.heads, reads, strict=True)]
        assert part.equal(torch.cat(expected, 1))
    assert encoder.posterior(x[:1]).mean.shape == (1, 6)


def test_ladder_refuses_what_does_not_fit():
    with pytest.raises(UsageError, match="L layers need L ladders"):
        LadderEncoder((2, 2), (1, 8, 8), (), ("fc 3", "fc 3"))


class LinearGenerator(nn.Module):
    """x = W z + N(0, sigma^2): the posterior is a known normal."""

    def __init__(self, weight, sigma):
        super().__init__()
        self.weight, self.sigma = weight, sigma

    def log_lik(self, x, z):
        return -(x - z @ self.weight.T).square().sum(1) / (2 * self.sigma**2)


def test_posterior_langevin_reaches_the_exact_posterior():
    weight, sigma, s, n = torch.tensor([[1.0, 0.4], [0.0, 0.8], [0.5, 0.0]]), 0.5, 0.1, 20_000
    x = torch.tensor([0.3, -1.0, 0.6]).repeat(n, 1)
    precision = torch.eye(2) + weight.T @ weight / sigma**2
    mean = torch.linalg.solve(precision, weight.T @ x[0] / sigma**2)
    # unadjusted chain of step s: covariance (A (I - s^2 A / 4))^-1 for precision A
    cov = torch.linalg.inv(precision @ (torch.eye(2) - s**2 / 4 * precision))
    z = LangevinPosterior(1500, s).sample(
        x, StandardNormal((2,)), LinearGenerator(weight, sigma), rng=seeded()
    )
    error = (cov.diagonal() / n).sqrt()
    assert ((z.mean(0) - mean).abs() < 5 * error).all()
    assert ((z.T.cov() - cov).abs() < 5 * cov.diagonal().max() * (2 / n) ** 0.5).all()


NETS = ((1, 8, 8), ("down 2", "fc 5"), ("down 3", "fc 4", ""))


def made(kind, dims, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(dims, *NETS, **options), GaussianChain(dims, (8,), skips="context" in options)


def images(n=6):
    return torch.randn(n, 1, 8, 8, generator=seeded())


def test_without_noise_the_codes_are_the_means():
    encoder, prior = made(LadderEncoder, (1, 2, 3))
    z, q = encoder.draw(images(), prior, None, noise=False)
    assert z.equal(q.mean) and q.mean.equal(encoder.posterior(images()).mean)
    z, q = encoder.draw(images(), prior, None, rng=seeded(1))
    assert z.equal(q.rsample(rng=seeded(1)))


def test_a_stem_comes_before_the_first_ladder():
    encoder = LadderEncoder((2, 2), (1, 8, 8), ("fc 5",), ("", ""), stem="down 2, fc 7")
    assert encoder.heads[0][0].in_features == 7 and encoder.heads[1][0].in_features == 5
    t = encoder.stem(images())
    assert encoder.posterior(images()).mean[:, :2].equal(encoder.heads[0][0](t))


def test_a_deterministic_code_has_one_head_and_no_distribution():
    encoder, prior = made(DeterministicEncoder, (1, 2, 3))
    z, q = encoder.draw(images(), prior, None, rng=seeded())
    again, _ = encoder.draw(images(), prior, None, rng=seeded(1))
    assert q is None and z.shape == (6, 6) and z.equal(again)
    assert all(len(heads) == 1 for heads in encoder.heads)


def test_the_merged_posterior_is_the_product_with_the_prior_from_the_top_down():
    dims = (1, 2, 3)
    encoder, prior = made(MergedEncoder, dims)
    z, q = encoder.draw(images(), prior, None, rng=seeded(1))
    from_below, p = encoder.posterior(images()).split(dims), prior.base(z).split(dims)
    *merged, top = q.split(dims)
    torch.testing.assert_close(top.mean, from_below[2].mean)  # nothing comes from above
    for got, below, above in zip(merged, from_below, p, strict=False):
        expected = merge(below, above)
        torch.testing.assert_close(got.mean, expected.mean)
        torch.testing.assert_close(got.log_var, expected.log_var)
        assert (got.log_var < torch.minimum(below.log_var, above.log_var)).all()
    eps = seeded(1)  # drawn layer by layer, the top first
    for part, layer in zip(reversed(q.split(dims)), reversed(z.split(dims, 1)), strict=True):
        torch.testing.assert_close(part.rsample(rng=eps), layer)


def test_bidirectional_inference_goes_both_ways():
    """z^BU depends on the image and the z^BU beneath; z^TD also on the layers above."""
    dims = (2, 3, 4)
    encoder, prior = made(BidirectionalEncoder, dims, context=8)
    assert encoder.groups == (1, 1, 2, 1, 4) and sum(encoder.groups) == sum(dims)
    x = images()
    z, q = encoder.draw(x, prior, None, rng=seeded(1))
    assert z.shape == q.mean.shape == (6, 9)
    bu = [slice(0, 1), slice(2, 4)]
    td = [slice(1, 2), slice(4, 5)]
    first = encoder.up.posterior(x).mean[:, :1]
    torch.testing.assert_close(q.mean[:, bu[0]], first)  # the lowest sees the image alone
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(0.5)
    moved, r = encoder.draw(x, prior, None, rng=seeded(1))
    for i in range(2):
        torch.testing.assert_close(r.mean[:, bu[i]], q.mean[:, bu[i]])
        assert not torch.allclose(r.mean[:, td[i]], q.mean[:, td[i]])
    torch.testing.assert_close(r.mean[:, 5:], q.mean[:, 5:])
    still, s = encoder.draw(x, prior, None, noise=False)
    assert still.equal(s.mean)
    assert not torch.allclose(s.mean[:, 2:4], q.mean[:, 2:4])  # another z_1^BU beneath


@pytest.mark.parametrize("dims", [(4,), (1, 3)])
def test_bidirectional_inference_needs_two_layers_of_two(dims):
    with pytest.raises(UsageError, match="in both directions"):
        trunk, ladders = ("fc 4",) * (len(dims) - 1), ("",) * len(dims)
        BidirectionalEncoder(dims, (1, 8, 8), trunk, ladders, context=8)


def test_a_warm_chain_goes_on_where_its_image_left_it():
    generator = LinearGenerator(torch.eye(2), 1.0)
    prior, chain = StandardNormal((2,)), LangevinPosterior(3, 0.2, warm=True)
    chain.prepare(5, prior, rng=seeded())
    start, x = chain.table.clone(), torch.randn(5, 2, generator=seeded(1))
    rows, starts = torch.tensor([3, 0]), []
    z = chain.sample(
        x[rows], prior, generator, rng=seeded(2), rows=rows,
        callback=lambda k, z, value: starts.append(z),
    )  # fmt: skip
    assert starts[0].equal(start[rows]) and chain.table[rows].equal(z)
    untouched = torch.tensor([1, 2, 4])
    assert chain.table[untouched].equal(start[untouched])
    cold = chain.sample(x[rows], prior, generator, rng=seeded(2))
    assert cold.equal(LangevinPosterior(3, 0.2).sample(x[rows], prior, generator, rng=seeded(2)))
    assert chain.table[rows].equal(z) and not chain.state_dict()


def test_rows_in_another_order_give_the_same_chains(monkeypatch):
    """The table is indexed by image: permuting a batch permutes its rows and nothing else.

    Without noise in the chains, which follows the place in the batch.
    """
    monkeypatch.setattr(inference, "langevin", partial(langevin, noise=0.0))
    generator, prior = LinearGenerator(torch.eye(2), 1.0), StandardNormal((2,))
    x = torch.randn(4, 2, generator=seeded(1))
    ends = []
    for order in (torch.arange(4), torch.tensor([2, 0, 3, 1])):
        chain = LangevinPosterior(50, 0.2, warm=True)
        chain.prepare(4, prior, rng=seeded())
        chain.sample(x[order], prior, generator, rows=order)
        ends.append(chain.table)
    torch.testing.assert_close(*ends)
    assert not torch.allclose(ends[0][0], ends[0][1])
