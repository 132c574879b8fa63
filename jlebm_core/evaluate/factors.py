r"""Layers x factors: how many nats each layer of the code holds of each known factor of an image.

Factors v are discrete: a continuous one is cut into ``VALUES`` equally frequent values, so that
none can exceed log 10 nats, those of the digit's identity. The codes are draws from q(z | x), since
a mean tells of its image however little the draws about it do.

* A layer has several dimensions, and what it holds is bounded from below by a net that reads it:
  I(z_i; v) = H(v) - H(v | z_i) >= H(v) - E[-log c(v | z_i)], E over images that c has not seen.
* A unit is one coordinate. Cut into ``BINS`` values, it has a table of counts with v and I(z_j; v)
  in closed form. MIG (Chen et al. 2018) asks whether one unit holds each factor, MIG-sup (Li et
  al. 2020) whether each unit holds one factor alone.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from .probes import bounds, check_dims, check_some, standardised

VALUES = 10  # of a continuous factor
BINS = 20  # of a unit
HIDDEN, EPOCHS, BATCH = 128, 30, 1000  # of the net that reads a layer
ACTIVE = 0.01  # a unit is active if the variance of its posterior means is above this

Factors = dict[str, Tensor]


def discrete(factors: Factors, like: Factors) -> Factors:
    """Factors (N,) as whole numbers from 0 on: those that are, as they are; floats by the quantiles
    of the same factor in ``like``."""
    return {
        name: _cut(v, like[name], VALUES) if v.is_floating_point() else v
        for name, v in factors.items()
    }


def _cut(x: Tensor, like: Tensor, count: int) -> Tensor:
    """The quantile of ``like``, 0 to ``count`` - 1, in which each number (N,) falls: equal numbers
    fall in the same."""
    at = torch.arange(1, count, dtype=torch.float64, device=like.device) / count
    return torch.bucketize(x.double(), like.double().quantile(at), right=True)


def entropy(v: Tensor) -> float:
    """H(v) = -sum_k p_k log p_k of the shares p_k of whole numbers (N,), in nats."""
    p = v.bincount().double() / len(v)
    return -torch.xlogy(p, p).sum().item()


def layer_information(
    train_z: Tensor,
    train_v: Factors,
    test_z: Tensor,
    test_v: Factors,
    dims: Sequence[int],
    *,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Per layer, bottom first, the lower bound on I(z_i; v) for every factor, not below 0.

    z (N, D), every factor (N,) of whole numbers. One net reads a layer for all factors: two hidden
    layers of ``HIDDEN``, a softmax for each factor; Adam at a cosine rate from 1e-2, decoupled
    weight decay. Raises UsageError if the shapes do not fit.
    """
    check_dims(dims, train_z, test_z)
    for z, v in ((train_z, train_v), (test_z, test_v)):
        if any(len(values) != len(z) for values in v.values()):
            raise UsageError(f"every factor needs one value for each of the {len(z)} codes.")
    train_z, test_z = standardised(train_z, test_z)
    train_y, test_y = (torch.stack([v[k] for k in test_v], 1) for v in (train_v, test_v))
    values = int(max(train_y.max(), test_y.max())) + 1
    found = []
    for start, stop in bounds(dims):
        net = _fit(train_z[:, start:stop], train_y, values, seed)
        with torch.no_grad():
            missing = _cross_entropies(net(test_z[:, start:stop]), test_y).tolist()
        found.append(
            {k: max(0.0, entropy(test_v[k]) - m) for k, m in zip(test_v, missing, strict=True)}
        )
    return found


def _fit(z: Tensor, y: Tensor, values: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # seeds the initial weights, not the caller's stream
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(z.shape[1], HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, y.shape[1] * values), nn.Unflatten(1, (y.shape[1], values)),
        )  # fmt: skip
    net.to(z.device)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1)
    steps = EPOCHS * -(-len(z) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(z), generator=generator).to(z.device).split(BATCH):
            loss = _cross_entropies(net(z[rows]), y[rows]).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return net


def _cross_entropies(logits: Tensor, y: Tensor) -> Tensor:
    """Mean -log c(v | z) of each factor. (B, factors, values), (B, factors) -> (factors,)."""
    return F.cross_entropy(logits.transpose(1, 2), y, reduction="none").mean(0)


def unit_information(z: Tensor, factors: Factors) -> Tensor:
    """I(z_j; v) of single units cut into ``BINS`` equally frequent values, in nats.

    From the shares of the joint table, which for N codes lie above the truth by about
    (BINS - 1)(values - 1) / 2N. Shapes: z (N, D), factors (N,) -> (D, factors). Raises UsageError
    for no codes.
    """
    check_some("codes", len(z))
    bins = [_cut(unit, unit, BINS) for unit in z.unbind(1)]
    rows = []
    for v in factors.values():
        values = int(v.max()) + 1
        tables = [(unit * values + v).bincount(minlength=BINS * values) for unit in bins]
        p = torch.stack(tables).view(-1, BINS, values).double() / len(z)
        outer = p.sum(2, keepdim=True) * p.sum(1, keepdim=True)
        rows.append((torch.xlogy(p, p) - torch.xlogy(p, outer)).sum((1, 2)))
    return torch.stack(rows, 1)


def gaps(shares: Tensor) -> Tensor:
    """The largest entry of each row less the next one; 0 stands in where there is only one."""
    top = F.pad(shares, (0, 1)).topk(2, 1).values
    return top[:, 0] - top[:, 1]


def mig(information: Tensor, entropies: Tensor) -> float:
    r"""Mutual information gap: mean over factors of (I_1st - I_2nd) / H(v), over the units that
    hold most. Shapes: (units, factors), (factors,). Factors of one value only, H(v) = 0, are left
    out; 0 without any other."""
    return _mean(gaps(_shares(information, entropies).T))


def _shares(information: Tensor, entropies: Tensor) -> Tensor:
    """I(z_j; v) / H(v) of the factors that vary."""
    varies = entropies > 0
    return information[:, varies] / entropies[varies]


def _mean(values: Tensor) -> float:
    return values.mean().item() if len(values) else 0.0


def mig_sup(information: Tensor, entropies: Tensor, active: Tensor) -> float:
    """Mean over active units of the gap between the two factors they hold most of, as shares of
    H(v); 0 without any. Shapes: (units, factors), (factors,), bool (units,)."""
    shares = _shares(information, entropies)
    return _mean(gaps(shares[active])) if shares.shape[1] else 0.0


def measure(
    train_z: Tensor,
    train_factors: Factors,
    test_z: Tensor,
    test_factors: Factors,
    means: Tensor,
    dims: Sequence[int],
    *,
    seed: int = 0,
) -> list[dict]:
    """All figures of this file as records: draws from q(z | x) of training and test images, their
    factors, and the posterior ``means`` of the test images, which say what units are active."""
    check_some("codes", len(train_z), len(test_z))
    device = test_z.device
    train_v = {k: v.to(device) for k, v in discrete(train_factors, train_factors).items()}
    test_v = {k: v.to(device) for k, v in discrete(test_factors, train_factors).items()}
    layers = layer_information(train_z, train_v, test_z, test_v, dims, seed=seed)
    both = {k: torch.cat([train_v[k], test_v[k]]) for k in test_v}
    information = unit_information(torch.cat([train_z, test_z]), both)
    entropies = information.new_tensor([entropy(v) for v in both.values()])
    active = means.var(0, correction=min(1, len(means) - 1)) > ACTIVE
    images = len(train_z) + len(test_z)
    how = {"estimate": "classifier bound", "fitted_on": len(train_z), "images": len(test_z)}
    return [
        *(
            {"name": "mutual_information", "value": nats, "layer": i, "factor": k, **how}
            for i, layer in enumerate(layers, 1)
            for k, nats in layer.items()
        ),
        *({"name": "factor_entropy", "value": entropy(v), "factor": k} for k, v in test_v.items()),
        {
            "name": "mig",
            "value": mig(information, entropies),
            "units": len(active),
            "images": images,
        },
        {
            "name": "mig_sup",
            "value": mig_sup(information, entropies, active),
            "units": int(active.sum()),
            "images": images,
        },
    ]
