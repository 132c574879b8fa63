"""What each layer of the code holds: how far it moves the label, how well it predicts the label.

Layers are listed bottom-up, as in z itself: entry 0 is layer 1, next to the image.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError


@torch.no_grad()
def layer_label_change(
    decode: Callable[[Tensor], Tensor],
    z_fixed: Tensor,
    z_new: Tensor,
    dims: Sequence[int],
    classify: Callable[[Tensor], Tensor],
) -> list[float]:
    """Per layer, the fraction of images whose label differs after replacing only that layer.

    z_fixed (P, D) and z_new (P, n, D) are samples of the joint prior. Layer i of z_fixed[p] is
    replaced by layer i of z_new[p, j], a draw from that layer's marginal or from its conditional
    given the others. decode: z (B, D) -> uint8 images (B, C, H, W); classify: images -> labels
    (B,); B is P or n. Raises UsageError if the shapes do not fit.
    """
    check_dims(dims, z_fixed, z_new)
    if z_new.dim() != 3 or len(z_new) != len(z_fixed):
        raise UsageError(
            f"z_fixed {tuple(z_fixed.shape)} and z_new {tuple(z_new.shape)} do not fit: expected "
            "(P, D) and (P, n, D)."
        )
    check_some("codes", z_fixed.shape[0] * z_new.shape[1])
    labels = classify(decode(z_fixed))
    rates = []
    for start, stop in bounds(dims):
        changed = 0
        for z, new, label in zip(z_fixed, z_new, labels, strict=True):
            mixed = z.repeat(len(new), 1)
            mixed[:, start:stop] = new[:, start:stop]
            changed += (classify(decode(mixed)) != label).sum().item()
        rates.append(changed / (z_new.shape[0] * z_new.shape[1]))
    return rates


def label_entropy(labels: Tensor, classes: int = 10) -> float:
    """Entropy in nats of the shares of labels (N,); log ``classes`` where all are as frequent.

    Raises UsageError for no labels, or for negative ones.
    """
    check_labels(labels)
    share = labels.bincount(minlength=classes).double() / len(labels)
    return torch.special.entr(share).sum().item()


def latent_classifier_accuracy(
    train_z: Tensor,
    train_y: Tensor,
    test_z: Tensor,
    test_y: Tensor,
    dims: Sequence[int],
    *,
    hidden: int = 256,
    epochs: int = 30,
    batch_size: int = 2000,
    seed: int = 0,
) -> list[float]:
    """Per layer, test accuracy of Linear-hidden-ReLU-Linear-softmax on that layer's codes alone.

    z (N, D), labels (N,) >= 0. The codes are standardised by the training set, the net is fitted
    by Adam at a cosine rate from 1e-2. Raises UsageError if the shapes do not fit.
    """
    check_dims(dims, train_z, test_z)
    if train_y.shape != train_z.shape[:1] or test_y.shape != test_z.shape[:1]:
        raise UsageError(
            f"labels {tuple(train_y.shape)}, {tuple(test_y.shape)} do not fit codes "
            f"{tuple(train_z.shape)}, {tuple(test_z.shape)}: expected one label for each code."
        )
    train_z, test_z = standardised(train_z, test_z)
    check_labels(train_y, test_y)
    classes = int(max(train_y.max(), test_y.max())) + 1
    accuracies = []
    for start, stop in bounds(dims):
        net = fit_net(train_z[:, start:stop], train_y, classes, hidden, epochs, batch_size, seed)
        with torch.no_grad():
            hits = net(test_z[:, start:stop]).argmax(1) == test_y
        accuracies.append(hits.double().mean().item())
    return accuracies


def fit_net(
    z: Tensor, y: Tensor, classes: int, hidden: int, epochs: int, batch_size: int, seed: int
) -> nn.Module:
    """The latent classifier of one layer, fitted to codes (N, d) and labels (N,)."""
    with torch.random.fork_rng(devices=[]):  # seeds the initial weights, not the caller's stream
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(z.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, classes))
    net.to(z.device)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(z), generator=generator).to(z.device).split(batch_size):
            loss = F.cross_entropy(net(z[rows]), y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        schedule.step()
    return net


def bounds(dims: Sequence[int]) -> list[tuple[int, int]]:
    """First and last + 1 coordinate of each layer in the flat z."""
    return [(sum(dims[:i]), sum(dims[: i + 1])) for i in range(len(dims))]


def standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (N, D), (M, D) less the mean of ``train``, over its standard deviation; that of one
    code, or of equal ones, is left out. Raises UsageError where there are none of either."""
    check_some("codes", len(train), len(test))
    mean, scale = train.mean(0), torch.ones(())
    if len(train) > 1:
        scale = train.std(0).clamp_min(1e-8)
    return (train - mean) / scale, (test - mean) / scale


def check_some(name: str, *counts: int) -> None:
    """Raise UsageError where a count is 0."""
    if not all(counts):
        raise UsageError(f"there are no {name} to measure: give one or more.")


def check_labels(*labels: Tensor) -> None:
    """Raise UsageError unless there are labels, and none is negative."""
    check_some("labels", *map(len, labels))
    if lowest := min(0, *(int(y.min()) for y in labels)):
        raise UsageError(f"a label is {lowest}: classes are numbered from 0 on.")


def check_dims(dims: Sequence[int], *codes: Tensor) -> None:
    """Raise UsageError unless every tensor of codes has sum(dims) coordinates."""
    for z in codes:
        if z.shape[-1] != sum(dims):
            raise UsageError(
                f"codes of {z.shape[-1]} coordinates do not fit dims {tuple(dims)}, which add up "
                f"to {sum(dims)}: pass the dims of the model that made the codes."
            )


def told_apart(a: Tensor, b: Tensor, dims: Sequence[int], *, seed: int = 0) -> list[float]:
    """Per group of coordinates, how well a net tells two samples of codes (N, D) apart.

    The test accuracy of a classifier that was fitted to the first half of both: 0.5 for samples of
    one law; accuracy A proves a total variation distance of at least 2 A - 1. ``dims`` = (D,)
    looks at all coordinates together. Raises UsageError if the shapes do not fit, or for fewer than
    two codes of either.
    """
    half = min(len(a), len(b)) // 2
    if not half:
        raise UsageError("two samples are told apart by two codes or more of each: draw more.")
    y = torch.arange(2, device=a.device).repeat_interleave(half)
    first = torch.cat([a[:half], b[:half]])
    second = torch.cat([a[half : 2 * half], b[half : 2 * half]])
    return latent_classifier_accuracy(first, y, second, y, dims, seed=seed)
