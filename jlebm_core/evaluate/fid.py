"""FID and KID by torch-fidelity, on in-domain classifier features or on Inception's.

With mu, Sigma the mean and covariance of features phi(x) of samples (1) and reference (2)::

    FID = |mu_1 - mu_2|^2 + tr(Sigma_1 + Sigma_2 - 2 (Sigma_1 Sigma_2)^(1/2))
    KID = unbiased MMD^2 under k(a, b) = (a^T b / d + 1)^3, mean over random subsets

FID is biased upwards by few samples, and by how much depends on the model, so every figure here
carries both sample counts; KID is not biased. FID on classifier features is never plain FID.
"""

import functools
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import UsageError
from .classifier import load_classifier

INCEPTION = "inception-v3-compat"
SUFFIX = "-classifier"
KID_SUBSETS, KID_SUBSET = 100, 1000  # how many, of how many images each


def compare(
    samples: Tensor,
    reference: Tensor,
    *,
    features: str = "mnist-classifier",
    seed: int = 0,
    kid_subset_size: int | None = None,
    weights: str | Path | None = None,
) -> dict:
    """FID and KID between uint8 ``samples`` (N, C, H, W) and ``reference`` (M, C, H, W).

    ``features``: ``"<data>-classifier"``, ``"inception-v3-compat"``, or any extractor registered
    with torch-fidelity. KID draws 100 subsets of ``kid_subset_size`` images from each side (None:
    1000, or half of the smaller side if that is less). ``weights`` is the file of Inception's
    weights, for a machine that cannot download it; torch-fidelity reads it as a pickle, so take it
    only from a source that you trust.

    Returns ``fid``, ``kid``, ``kid_std`` and what defines them: ``features``, ``samples`` = N,
    ``reference_samples`` = M, ``kid_subset_size``, ``seed`` (of the subsets). Raises UsageError if
    torch-fidelity or a file is missing, if the images do not fit, or if there are too few of them.
    """
    fidelity = torch_fidelity()
    check_images(samples, reference)
    register(fidelity, features)
    smaller = min(len(samples), len(reference))
    size = min(KID_SUBSET, smaller // 2) if kid_subset_size is None else kid_subset_size
    if not 2 <= size <= smaller:
        raise UsageError(
            f"KID with subsets of {size} needs 2 <= subset size <= number of images, and the "
            f"smaller side has {smaller}: give more images or another kid_subset_size."
        )
    options = {
        "feature_extractor_weights_path": None if weights is None else str(weights),
        "cuda": samples.is_cuda,
        "cache": False,  # its key is a name, not the content
        "save_cpu_ram": True,  # no worker processes
        "verbose": False,
    }
    dim = dimension(fidelity, features, samples[:1], options)
    if smaller <= dim:
        raise UsageError(
            f"FID on {features} features needs more than {dim} images on each side, else the "
            f"{dim} x {dim} covariance is rank deficient, and the smaller side has {smaller}: "
            "give more images."
        )
    with torch.random.fork_rng(devices=[]):  # data loaders draw from the caller's random stream
        scores = fidelity.calculate_metrics(
            input1=Images(samples, features),
            input2=Images(reference, features),
            fid=True,
            kid=True,
            feature_extractor=features,
            kid_subsets=KID_SUBSETS,
            kid_subset_size=size,
            rng_seed=seed,
            batch_size=50 if features == INCEPTION else 500,  # Inception enlarges to 299 x 299
            **options,
        )
    return {
        "fid": scores[fidelity.KEY_METRIC_FID],
        "kid": scores[fidelity.KEY_METRIC_KID_MEAN],
        "kid_std": scores[fidelity.KEY_METRIC_KID_STD],
        "features": features,
        "samples": len(samples),
        "reference_samples": len(reference),
        "kid_subset_size": size,
        "seed": seed,
    }


def floor(images: Tensor, *, samples: int | None = None, seed: int = 0, **options) -> dict:
    """FID and KID between two disjoint random parts of real ``images`` (N, C, H, W).

    What a perfect model would reach: ``samples`` images against all others (None: two halves).
    Options and result as for compare.
    """
    count = len(images) // 2 if samples is None else samples
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    order = order.to(images.device)
    return compare(images[order[:count]], images[order[count:]], seed=seed, **options)


def metric_records(
    scores: dict, *, reference: str = "train", langevin_steps: int | None = None, suffix: str = ""
) -> list[dict]:
    """The result of compare or floor as flat records of a results file.

    ``reference`` names the split, ``langevin_steps`` the length of the prior chains (None leaves
    it out), ``suffix`` is appended to the names (``"_floor"`` for real against real).
    """
    protocol = {
        "features": scores["features"],
        "samples": scores["samples"],
        "reference": reference,
        "reference_samples": scores["reference_samples"],
        **({} if langevin_steps is None else {"langevin_steps": langevin_steps}),
        "eight_bit": True,
    }
    kid = {"name": f"kid{suffix}", "value": scores["kid"], "std": scores["kid_std"]}
    subsets = {"subset_size": scores["kid_subset_size"], "subsets": KID_SUBSETS}
    return [
        {"name": f"fid{suffix}", "value": scores["fid"], **protocol},
        {**kid, **subsets, "seed": scores["seed"], **protocol},
    ]


class Images(Dataset):
    """uint8 images one by one as bare CPU tensors; grey ones in three channels for Inception."""

    def __init__(self, images: Tensor, features: str) -> None:
        self.images = images.cpu()
        self.channels = 3 if features == INCEPTION else images.shape[1]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index].expand(self.channels, -1, -1)


def torch_fidelity() -> ModuleType:
    """torch-fidelity, imported at its first use (it takes seconds). Raises UsageError."""
    try:
        import torch_fidelity
    except ImportError:
        raise UsageError(
            "FID and KID need torch-fidelity 0.4 or later: pip install 'torch-fidelity>=0.4'."
        ) from None
    return torch_fidelity


def check_images(samples: Tensor, reference: Tensor) -> None:
    """Raise UsageError unless both are uint8 (N, C, H, W) of one (C, H, W)."""
    for images in (samples, reference):
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise UsageError(
                f"FID takes uint8 images (N, C, H, W), and got {images.dtype} of shape "
                f"{tuple(images.shape)}: convert floats with data.to_uint8."
            )
    if samples.shape[1:] != reference.shape[1:]:
        raise UsageError(
            f"samples {tuple(samples.shape[1:])} and reference {tuple(reference.shape[1:])} differ "
            "in (C, H, W): compare images of one data set."
        )


def register(fidelity: ModuleType, features: str) -> None:
    """Make extractor ``features`` known to torch-fidelity. Raises UsageError for an unknown one."""
    registry = fidelity.registry.FEATURE_EXTRACTORS_REGISTRY
    if features in registry:
        return
    if not features.endswith(SUFFIX):
        raise UsageError(
            f"unknown features {features!r}: choose <data>{SUFFIX} or one of {', '.join(registry)}."
        )
    load_classifier(features.removesuffix(SUFFIX))  # one clear sentence if there is none
    fidelity.register_feature_extractor(features, extractor_class(fidelity))


@functools.cache
def extractor_class(fidelity: ModuleType) -> type:
    """The features of our classifiers as torch-fidelity wants them (its base is imported late)."""

    class ClassifierFeatures(fidelity.feature_extractor_base.FeatureExtractorBase):
        """Registered as ``<data>-classifier``; features in float64, so FID is exact to rounding."""

        def __init__(self, name: str, features_list: list[str], **_) -> None:
            super().__init__(name, features_list)
            self.classifier = load_classifier(name.removesuffix(SUFFIX))

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("features",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "features"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, input: Tensor) -> tuple[Tensor, ...]:
            return (self.classifier.features(input).double(),)

    return ClassifierFeatures


def dimension(fidelity: ModuleType, features: str, image: Tensor, options: dict) -> int:
    """Number of features, found by one image (1, C, H, W).

    Raises UsageError if Inception's weights cannot be downloaded or read.
    """
    layer = fidelity.utils.resolve_feature_layer_for_metric("fid", feature_extractor=features)
    weights = options["feature_extractor_weights_path"]
    try:
        extractor = fidelity.utils.create_feature_extractor(features, [layer], **options)
    except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
        what = "cannot be downloaded" if weights is None else f"cannot be read from {weights}"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"the weights of {features} {what} ({reason}): pass weights=, the path of "
            "weights-inception-2015-12-05-6726825d.pth, or take features of one of our classifiers."
        ) from None
    batch = image.expand(-1, 3, -1, -1) if features == INCEPTION else image
    return extractor(batch)[0].shape[1]
