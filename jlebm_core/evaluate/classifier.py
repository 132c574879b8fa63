"""A small image classifier: the features of FID and KID in-domain, the labels of the probes.

The shipped classifiers were fitted by ``jlebm classifier --data NAME``, in the way of ``RECIPES``.
"""

import math
import platform
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from .. import checkpoints, paths
from ..data import ImageSet, to_float
from ..errors import UsageError
from ..precision import resolve_precision

CLASSES = 10
LEAST_SIDE = 4


class Recipe(NamedTuple):
    """How the classifier of a data set is built and fitted."""

    channels: tuple[int, int, int] = (16, 32, 64)
    dim: int = 64
    epochs: int = 10
    flip: bool = False  # whether an image and its mirror image mean the same


OBJECTS = Recipe((32, 64, 128), 128, flip=True)
RECIPES: dict[str, Recipe] = {  # any other data: Recipe()
    "fashion-mnist": Recipe(epochs=12),
    "glyphs": Recipe(epochs=12),
    "cifar10": OBJECTS,
    "cifar10-jpeg": OBJECTS,
}


def block(inputs: int, outputs: int) -> list[nn.Module]:
    """3x3 convolution that keeps the size, batch norm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


class Classifier(nn.Module):
    """Five convolutions, a feature layer of ``dim`` units, a linear layer to 10 logits.

    ``shape`` = (C, H, W) of the uint8 images. The features are taken after batch norm and ReLU, so
    they are >= 0 and no unit dominates a distance by its scale alone. Raises UsageError for images
    below 4x4, of which nothing is left to pool.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        channels: tuple[int, int, int] = (16, 32, 64),
        dim: int = 64,
    ) -> None:
        super().__init__()
        if min(shape[1:]) < LEAST_SIDE:
            raise UsageError(
                f"a classifier pools images twice and takes none below {LEAST_SIDE}x{LEAST_SIDE}, "
                f"but these are {shape[1]}x{shape[2]}: enlarge them."
            )
        a, b, c = channels
        self.shape, self.channels, self.dim = tuple(shape), tuple(channels), dim
        self.trunk = nn.Sequential(
            *block(shape[0], a), nn.MaxPool2d(2),
            *block(a, b), *block(b, b), nn.MaxPool2d(2),
            *block(b, c), *block(c, c), nn.AdaptiveAvgPool2d(4),
            nn.Flatten(), nn.Linear(16 * c, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(dim, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate layer, after its ReLU: uint8 ``(B, C, H, W)`` -> float ``(B, dim)``.

        Raises UsageError if ``x`` is not uint8 of this classifier's shape.
        """
        if x.dtype != torch.uint8 or tuple(x.shape[1:]) != self.shape:
            raise UsageError(
                f"this classifier takes uint8 images of shape (N, C, H, W) with (C, H, W) = "
                f"{self.shape}, and got {x.dtype} of shape {tuple(x.shape)}: choose the classifier "
                "of the same data set, and convert floats with data.to_uint8."
            )
        # channels last: the faster layout for convolutions on a CPU
        return self.trunk(to_float(x).contiguous(memory_format=torch.channels_last))

    def forward(self, x: Tensor) -> Tensor:
        """Logits: uint8 ``(B, C, H, W)`` -> ``(B, 10)``."""
        return self.head(self.features(x))

    @torch.no_grad()
    def predict(self, x: Tensor, batch_size: int = 1000) -> Tensor:
        """Most probable class: uint8 ``(N, C, H, W)`` -> int64 ``(N,)``, in evaluation mode."""
        was_training = self.training
        self.eval()
        labels = torch.cat([self(part).argmax(1) for part in x.split(batch_size)])
        self.train(was_training)
        return labels


def recipe(data_name: str) -> Recipe:
    """The recipe of a data set."""
    return RECIPES.get(data_name, Recipe())


def augment(x: Tensor, generator: torch.Generator, *, flip: bool = False) -> Tensor:
    """Random rotation within 10 degrees, scale within 10 %, shift within 2 pixels, per image.

    With ``flip`` every other image, at random, is mirrored.
    """
    n, _, height, width = x.shape
    angle, log_scale, right, down = 2 * torch.rand(4, n, generator=generator).to(x.device) - 1
    scale, angle = torch.exp(0.1 * log_scale), angle * math.pi / 18
    cos, sin = scale * angle.cos(), scale * angle.sin()
    side = torch.ones_like(cos)
    if flip:
        side = 1 - 2 * torch.randint(2, (n,), generator=generator).to(x.device)
    # 2 pixels of a grid 2 wide
    rows = [side * cos, -sin, right * 4 / width, side * sin, cos, down * 4 / height]
    grid = F.affine_grid(torch.stack(rows, 1).view(n, 2, 3), list(x.shape), align_corners=False)
    moved = F.grid_sample(x.float(), grid, padding_mode="border", align_corners=False)
    return moved.round().to(torch.uint8)


def fit_classifier(
    train: ImageSet,
    test: ImageSet,
    *,
    seed: int = 0,
    epochs: int | None = None,
    batch_size: int = 200,
    progress: bool = True,
) -> tuple[Classifier, float]:
    """Fit a classifier to ``train`` by its recipe; return it with its accuracy on ``test``.

    ``epochs`` overrides those of the recipe. AdamW under a one-cycle rate, precision "auto" (see
    ``resolve_precision``), random augmentation. The weights are rounded to float16 before the
    accuracy is taken, so that it is the accuracy of the stored file.
    Raises UsageError if labels are missing or are not 0..9, or if there are fewer than two images
    to learn from or none to test.
    """
    if len(train) < 2 or not len(test):
        raise UsageError(
            f"a classifier learns from two images or more and is tested on one or more, but "
            f"{train.name} has {len(train)} and {len(test)}: give more images."
        )
    for part in (train, test):
        if part.labels is None or not 0 <= part.labels.min() <= part.labels.max() < CLASSES:
            raise UsageError(
                f"a classifier needs labels 0..9, and {part.name} ({part.split}) lacks them: "
                "choose one of the labelled data sets."
            )
    how = recipe(train.name)
    epochs = how.epochs if epochs is None else epochs
    with torch.random.fork_rng(devices=[]):  # seeds the initial weights, not the caller's stream
        torch.manual_seed(seed)
        model = Classifier(train.shape, how.channels, how.dim)
    model.to(train.images.device, memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(seed)
    device, batch_size = train.images.device, min(batch_size, len(train))
    bf16 = resolve_precision("auto", device) == "bf16"
    batches = len(train) // batch_size  # of full size: batch norm dislikes a rest of one
    steps = epochs * batches
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=max(steps, 1))
    with tqdm(total=steps, desc=f"classifier {train.name}", disable=not progress) as bar:
        for _ in range(epochs):
            order = torch.randperm(len(train), generator=generator).to(device)
            for rows in order.split(batch_size)[:batches]:
                x = augment(train.images[rows], generator, flip=how.flip)
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    logits = model(x)
                loss = F.cross_entropy(logits.float(), train.labels[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")
    model.load_state_dict(stored(model))
    model.eval().requires_grad_(False)
    return model, (model.predict(test.images) == test.labels).double().mean().item()


def stored(model: Classifier) -> dict[str, Tensor]:
    """The tensors of the file: matrices and kernels in float16, everything small as it is."""
    return {k: t.half() if t.dim() > 1 else t for k, t in model.state_dict().items()}


def save_classifier(
    model: Classifier, data_name: str, *, accuracy: float, seed: int, epochs: int
) -> None:
    """Store ``model`` as the shipped classifier of ``data_name`` (see checkpoints.save)."""
    meta = {
        "kind": "classifier",
        "data": data_name,
        "accuracy": accuracy,
        "split": "test",
        "architecture": {"shape": model.shape, "channels": model.channels, "dim": model.dim},
        "seed": seed,
        "epochs": epochs,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    checkpoints.save(stem(data_name), stored(model), meta)


def load_classifier(data_name: str) -> Classifier:
    """The shipped classifier of data set ``data_name``, in evaluation mode, without gradients.

    Raises UsageError that lists the existing ones if there is none.
    """
    if data_name not in available():
        raise UsageError(
            f"there is no classifier for {data_name!r}, only for {', '.join(available())}: choose "
            "one of these, fit one (jlebm classifier), or take inception-v3-compat features."
        )
    tensors, meta = checkpoints.load(stem(data_name))
    with torch.device("meta"):  # no random initial weights: the caller's random stream is untouched
        model = Classifier(**meta["architecture"])
    single = {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()}
    model.load_state_dict(single, assign=True)
    return model.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def available() -> list[str]:
    """Data sets with a shipped classifier."""
    found = paths.shipped("checkpoints").glob("classifier-*.json")
    return sorted(path.stem.removeprefix("classifier-") for path in found)


def stem(data_name: str) -> Path:
    """Checkpoint stem of the classifier of ``data_name``."""
    return paths.shipped("checkpoints", f"classifier-{data_name}")
