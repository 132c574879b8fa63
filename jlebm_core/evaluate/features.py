"""Features of images by torch-fidelity's extractors: taken block by block, taken once.

An extractor is Inception (``inception-v3-compat``), any other that torch-fidelity knows, or one of
our classifiers (``<data>-classifier``), registered here. Images that are still to be drawn come as
a ``Stream``: each block goes from the generator into the extractor and is forgotten.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import checkpoints, paths
from ..errors import UsageError
from .classifier import load_classifier

INCEPTION = "inception-v3-compat"
SUFFIX = "-classifier"


class Stream(NamedTuple):
    """``n`` uint8 images that come in blocks (B, C, H, W), on any device, of any sizes."""

    n: int
    blocks: Iterable[Tensor]


@dataclass(frozen=True, eq=False)
class Features:
    """Features (N, d) of N images, and their logits (N, k) where the extractor has some.

    Without an extractor: points that were made up, for which the answer is known.
    """

    extractor: "Extractor | None"
    values: Tensor
    logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)

    @functools.cached_property
    def statistics(self) -> dict[str, np.ndarray]:
        """Mean (d,) and covariance (d, d), as torch-fidelity takes them for FID."""
        return torch_fidelity().metric_fid.fid_features_to_statistics(self.values)


@dataclass(frozen=True, eq=False)
class Moments:
    """All that FID needs of a side: mean (d,) and covariance (d, d), of images or of a law."""

    mean: Tensor
    covariance: Tensor

    @property
    def statistics(self) -> dict[str, np.ndarray]:
        """As in Features."""
        return {"mu": self.mean.numpy(), "sigma": self.covariance.numpy()}


class Extractor:
    """The features called ``name`` of images of one ``shape`` (C, H, W); ``dim`` of them.

    ``weights`` is the file of Inception's weights, for a machine that cannot download it;
    torch-fidelity reads it as a pickle, so take it only from a source that you trust. Raises
    UsageError for an unknown name, a shape that does not fit, or weights that cannot be had.
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, int, int],
        *,
        weights: str | Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        fidelity = torch_fidelity()
        register(fidelity, name)
        self.name, self.shape, self.device = name, tuple(shape), torch.device(device)
        self.batch = 50 if name == INCEPTION else 500  # Inception enlarges to 299 x 299
        layer = fidelity.utils.resolve_feature_layer_for_metric("fid", feature_extractor=name)
        logits = "logits_unbiased" if name == INCEPTION else "logits"
        self.layers = [layer, *([logits] if name == INCEPTION or name.endswith(SUFFIX) else [])]
        self.net = create(fidelity, name, self.layers, weights).to(self.device)
        blank = torch.zeros(1, *self.shape, dtype=torch.uint8, device=self.device)
        self.dim = self.net(self.widened(blank))[0].shape[1]

    def __call__(self, images: Tensor | Stream) -> Features:
        """Features of uint8 images (N, C, H, W); they stay where they are drawn until seen."""
        blocks = images.blocks if isinstance(images, Stream) else images.split(self.batch)
        taken: list[tuple[Tensor, ...]] = []
        for block in blocks:
            check_images(block, self.shape)
            with torch.no_grad():  # not around the drawing: Langevin chains take gradients
                for part in block.split(self.batch):
                    taken.append(self.net(self.widened(part.to(self.device))))
        if not sum(len(values) for values, *_ in taken):
            raise UsageError("there are no images to take features of: give one or more.")
        values, *logits = (torch.cat(parts).cpu() for parts in zip(*taken, strict=True))
        return Features(self, values, *(logits or [None]))

    def widened(self, images: Tensor) -> Tensor:
        """Grey images in three channels for Inception."""
        return images.expand(-1, 3, -1, -1) if self.name == INCEPTION else images


def save_reference(name: str, train: Tensor, test: Tensor) -> Path:
    """Ship what FID and its kin need of the real data set ``name``: no image, 1 to 3 MB.

    The moments of its classifier's features of the uint8 images ``train``, in float64, and the
    features of ``test`` themselves, in float16. Returns the checkpoint's stem.
    """
    extract = Extractor(name + SUFFIX, train.shape[1:])
    moments = {k: torch.from_numpy(v) for k, v in extract(train).statistics.items()}
    tensors = {**moments, "test": extract(test).values.half()}
    meta = {"kind": "features", "data": name, "features": extract.name, "train_images": len(train)}
    checkpoints.save(reference_stem(name), tensors, meta)
    return reference_stem(name)


def load_reference(name: str) -> tuple[Moments, Features]:
    """The shipped moments of a data set's training images and features of its test images.

    Raises UsageError if there are none.
    """
    tensors, meta = checkpoints.load(reference_stem(name))
    classifier = load_classifier(name)
    extract = Extractor(meta["features"], classifier.shape)
    values = tensors["test"].float()
    test = Features(extract, values.double(), classifier.head(values).double())
    return Moments(tensors["mu"], tensors["sigma"]), test


def reference_stem(name: str) -> Path:
    """Checkpoint stem of the shipped features of a data set."""
    return paths.shipped("checkpoints", f"features-{name}")


def check_images(images: Tensor, shape: tuple[int, int, int] | None = None) -> None:
    """Raise UsageError unless ``images`` are uint8 (N, C, H, W), with (C, H, W) = ``shape``."""
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise UsageError(
            f"FID takes uint8 images (N, C, H, W), and got {images.dtype} of shape "
            f"{tuple(images.shape)}: convert floats with data.to_uint8."
        )
    if shape is not None and tuple(images.shape[1:]) != shape:
        raise UsageError(
            f"samples {tuple(images.shape[1:])} and reference {shape} differ in (C, H, W): compare "
            "images of one data set."
        )


def torch_fidelity() -> ModuleType:
    """torch-fidelity, imported at its first use (it takes seconds). Raises UsageError."""
    try:
        import torch_fidelity
    except ImportError:
        raise UsageError(
            "FID and KID need torch-fidelity 0.4 or later: pip install 'torch-fidelity>=0.4'."
        ) from None
    return torch_fidelity


def check(name: str, weights: str | Path | None = None) -> None:
    """Raise UsageError if there are no features called ``name``, OSError if their ``weights`` are
    no file that can be read; what takes longer to find is for Extractor."""
    register(torch_fidelity(), name)
    if weights is not None:
        with Path(weights).open("rb"):
            pass


def register(fidelity: ModuleType, name: str) -> None:
    """Make extractor ``name`` known to torch-fidelity. Raises UsageError for an unknown one."""
    registry = fidelity.registry.FEATURE_EXTRACTORS_REGISTRY
    if name in registry:
        return
    if not name.endswith(SUFFIX):
        raise UsageError(
            f"unknown features {name!r}: choose <data>{SUFFIX} or one of {', '.join(registry)}."
        )
    load_classifier(name.removesuffix(SUFFIX))  # one clear sentence if there is none
    fidelity.register_feature_extractor(name, extractor_class(fidelity))


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
            return ("features", "logits")

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits" if metric == "isc" else "features"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, input: Tensor) -> tuple[Tensor, ...]:
            features = self.classifier.features(input)
            both = {"features": features, "logits": self.classifier.head(features)}
            return tuple(both[name].double() for name in self.features_list)

    return ClassifierFeatures


def create(
    fidelity: ModuleType, name: str, layers: list[str], weights: str | Path | None
) -> torch.nn.Module:
    """The net of an extractor. Raises UsageError if its weights cannot be downloaded or read."""
    path = None if weights is None else str(weights)
    options = {"feature_extractor_weights_path": path, "cuda": False, "verbose": False}
    try:
        with torch.random.fork_rng(devices=[]):  # initial weights draw from the caller's stream
            return fidelity.utils.create_feature_extractor(name, layers, **options)
    except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
        what = "cannot be downloaded" if weights is None else f"cannot be read from {weights}"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"the weights of {name} {what} ({reason}): pass weights=, the path of "
            "weights-inception-2015-12-05-6726825d.pth, or take features of one of our classifiers."
        ) from None
