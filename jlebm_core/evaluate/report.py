"""Every standard figure of one trained system, as flat records of a results file."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..data import ImageSet, to_float, to_uint8
from ..errors import UsageError
from ..priors import Prior, sample_layer
from ..randomness import source
from ..systems import System
from ..training.batches import keep_freed_memory
from . import factors, fid, probes
from .classifier import Classifier, available, load_classifier
from .features import SUFFIX, Extractor, Features, Stream

BLOCK = 500  # images or chains at a time
PROPOSALS = 1000  # for each draw by importance resampling
PANELS, DRAWS = 100, 20  # label change: fixed codes, new draws for each
READ = 8000  # training images whose codes teach a net to read factors off a layer


def sample_blocks(
    system: System, n: int, *, steps: int | None = None, rng: torch.Generator | int | None = None
) -> Iterator[Tensor]:
    """``n`` samples as uint8 images, each block drawn when it is asked for. (B, C, H, W) each."""
    rng = source(rng, device_of(system))
    for i in range(0, max(n, 1), BLOCK):  # none are one empty block, which has a shape
        yield to_uint8(system.sample(min(BLOCK, n - i), steps=steps, rng=rng))


def sample_uint8(
    system: System, n: int, *, steps: int | None = None, rng: torch.Generator | int | None = None
) -> Tensor:
    """``n`` samples as uint8 images, all at once. Shape: (n, C, H, W)."""
    return torch.cat([*sample_blocks(system, n, steps=steps, rng=rng)])


def device_of(system: System) -> torch.device:
    """Where the parameters of ``system`` are."""
    return system.device


def encode_all(
    system: System, images: Tensor, *, noise: bool = False, rng: torch.Generator | int | None = None
) -> Tensor:
    """Codes of uint8 images, in blocks (``noise`` as for ``encode``). (N, C, H, W) -> (N, D)."""
    here = device_of(system)
    rng = source(rng, here)
    blocks = (to_float(x.to(here)) for x in images.split(BLOCK))
    return torch.cat([system.encode(x, noise=noise, rng=rng) for x in blocks])


def reconstruction_mse(system: System, images: Tensor, z: Tensor) -> float:
    """Mean squared error a pixel between images, scaled to [-1, 1], and decoded codes z.

    Raises UsageError where there are none.
    """
    probes.check_some("images", len(images))
    errors = [
        (system.decode(codes) - to_float(x.to(z.device))).square().flatten(1).mean(1)
        for x, codes in zip(images.split(BLOCK), z.split(BLOCK), strict=True)
    ]
    return torch.cat(errors).mean().item()


def label_change(
    system: System,
    classifier: Classifier,
    *,
    reading: str = "marginal",
    dims: tuple[int, ...] | None = None,
    fixed: int | None = None,
    draws: int | None = None,
    rng: torch.Generator | int | None = None,
) -> list[float]:
    """Per layer, bottom first: how often new codes of that layer alone change the label.

    The codes are joint prior samples. The new ones are draws from the layer's marginal, as in the
    authors' hierarchical sampling (ICCV 2023, figures 4 and 5), or with ``reading`` "conditional"
    chains on that layer with the others held where they are. ``dims`` groups the coordinates
    otherwise than by layers, e.g. (1, .., 1) by units; of marginals alone. ``fixed`` codes (None:
    100) get ``draws`` new ones each (None: 20).
    """
    prior, rng = system.prior, source(rng, device_of(system))
    count, draws = fixed or PANELS, draws or DRAWS
    z = prior.sample(count * (draws + 1), rng=rng)
    kept, new = z[:count], z[count:].view(count, draws, -1)
    if reading == "conditional":
        new = given_others(prior, kept.repeat_interleave(draws, 0), rng=rng).view_as(new)
    return probes.layer_label_change(
        lambda codes: to_uint8(system.decode(codes)),
        kept,
        new,
        dims or system.dims,
        classifier.predict,
    )


def given_others(prior: Prior, z: Tensor, *, rng: torch.Generator | int | None = None) -> Tensor:
    """Every layer of z drawn anew from its conditional given the others as they were: no sample of
    the joint prior, but one chain a layer. Shapes: (B, D) -> (B, D)."""
    dims, rng = prior.dims, source(rng, z.device)
    anew = [sample_layer(prior, z, i, rng=rng).split(dims, 1)[i - 1] for i, _ in enumerate(dims, 1)]
    return torch.cat(anew, 1)


def by_langevin(
    system: System,
    samples: int,
    reference: Features,
    *,
    steps: int,
    seed: int,
    alone: bool = False,
) -> list[dict]:
    """FID and its kin, or FID ``alone``, of samples after ``steps`` Langevin steps."""
    rng = torch.Generator(device_of(system)).manual_seed(seed)
    x = Stream(samples, sample_blocks(system, samples, steps=steps, rng=rng))
    scores = fid.compare(x, reference, seed=seed, alone=alone)
    return fid.metric_records(scores, langevin_steps=steps)


def by_resampling(
    system: System,
    samples: int,
    reference: Features,
    *,
    rng: torch.Generator | int | None,
    seed: int,
) -> list[dict]:
    """FID and its kin of samples by importance resampling, and its effective sample size."""
    sizes, rng = [], source(rng, device_of(system))

    def blocks() -> Iterator[Tensor]:
        for start in range(0, samples, BLOCK):
            z, ess = system.prior.resample(
                min(BLOCK, samples - start), proposals=PROPOSALS, rng=rng
            )
            sizes.append(ess)
            yield to_uint8(system.decode(z))

    scores = fid.compare(Stream(samples, blocks()), reference, seed=seed)
    how = {"sampler": "importance resampling", "proposals": PROPOSALS}
    records = [{**r, **how} for r in fid.metric_records(scores)]
    ess = torch.cat(sizes).mean().item()
    return [*records, {"name": "effective_sample_size", "value": ess, **how}]


def factor_records(
    system: System,
    train: ImageSet,
    test: ImageSet,
    z_test: Tensor,
    *,
    rng: torch.Generator | int | None,
    seed: int,
) -> list[dict]:
    """Layers x factors, MIG and MIG-sup (``factors.measure``) of data whose factors are known.

    ``z_test`` are the codes of the test images: means of q(z | x), or draws where q is a chain.
    """
    rng = source(rng, device_of(system))
    drawn = encode_all(system, train.images[:READ], noise=True, rng=rng)
    amortised = system.inference.amortised
    return factors.measure(
        *(drawn, {k: v[:READ] for k, v in train.factors.items()}),
        encode_all(system, test.images, noise=True, rng=rng) if amortised else z_test,
        test.factors,
        z_test,
        system.dims,
        seed=seed,
    )


def extractor(
    train: ImageSet,
    test: ImageSet,
    *,
    device: torch.device,
    samples: int = 10_000,
    features: str | None = None,
    weights: str | Path | None = None,
) -> Extractor:
    """The features that ``evaluate`` takes with these options; UsageError where none fit the data,
    where there are too few images for them, or labels that are none."""
    for part in (train, test):
        if part.labels is not None and part.labels.min() < 0:
            raise UsageError(
                f"labels count from 0, and {part.name} ({part.split}) has "
                f"{int(part.labels.min())}: leave those images out, or the labels."
            )
    extract = Extractor(
        features or train.name + SUFFIX, train.shape, weights=weights, device=device
    )
    few = min(samples, len(test))  # of the floor
    fid.check_counts(few, len(train), extract, fid.kid_subset(few, len(train)))
    return extract


def evaluate(
    system: System,
    train: ImageSet,
    test: ImageSet,
    *,
    samples: int = 10_000,
    features: str | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
) -> list[dict]:
    """Test MSE; FID and its kin at K steps, at 0, and of real test images (the floor); label
    change and latent classifier by layer, and where factors are known what each layer holds.

    ``features`` defaults to the data's own classifier (``weights`` is a file of Inception's); label
    change is left out where the data have no classifier. Samples go from the generator into the
    extractor block by block, and the training images pass through it once. Every figure is drawn
    from a generator of its own, so that each can be repeated alone. Raises UsageError where no
    features fit the data.
    """
    device = device_of(system)
    keep_freed_memory()

    def rng() -> torch.Generator:
        return torch.Generator(device).manual_seed(seed)

    how = {"samples": samples, "features": features, "weights": weights, "device": device}
    extract = extractor(train, test, **how)
    reference = extract(train.images)
    z_test = encode_all(system, test.images, rng=rng())
    records = [
        {
            "name": "mse",
            "value": reconstruction_mse(system, test.images, z_test),
            "split": "test",
            "images": len(test),
            "range": "[-1, 1]",
        }
    ]
    steps = (system.prior.steps, 0) if system.prior.tilted else (0,)
    for k in steps:
        records += by_langevin(system, samples, reference, steps=k, seed=seed)
    if hasattr(system.prior, "resample"):
        records += by_resampling(system, samples, reference, rng=rng(), seed=seed)
    scores = fid.compare(test.images[:samples], reference, seed=seed)
    records += fid.metric_records(scores, suffix="_floor")
    if len(system.dims) > 1 and train.name in available():
        classifier = load_classifier(train.name).to(device)
        for reading in ("marginal", "conditional") if system.prior.tilted else ("marginal",):
            rates = label_change(system, classifier, reading=reading, rng=rng())
            protocol = {"reading": reading, "fixed": PANELS, "draws": DRAWS}
            records += [
                {"name": "label_change_rate", "value": rate, "layer": i, **protocol}
                for i, rate in enumerate(rates, 1)
            ]
    if train.labels is not None and test.labels is not None and system.inference.amortised:
        z_train = encode_all(system, train.images, rng=rng())
        accuracies = probes.latent_classifier_accuracy(
            z_train,
            train.labels.to(device),
            z_test,
            test.labels.to(device),
            system.dims,
            seed=seed,
        )
        records += [
            {"name": "latent_classifier_accuracy", "value": a, "layer": i, "split": "test"}
            for i, a in enumerate(accuracies, 1)
        ]
    if train.factors is not None and test.factors is not None:
        records += factor_records(system, train, test, z_test, rng=rng(), seed=seed)
    return records
