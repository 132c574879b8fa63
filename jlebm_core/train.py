"""``fit``: one training loop for every system, with logs, checkpoints, resume and a guard."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from . import checkpoints
from .data import to_float
from .errors import UsageError
from .objectives import prior_loss
from .systems import System

PRECISIONS = ("bf16", "float32")
LR_WARMUP = 200  # steps; a Tanh output under a summed squared error can die at -1 without it
# f_gap = f_pos - f_neg: where it opens, K steps no longer follow f, and f and the codes run away
# together, long before anything overflows.
LIMITS = {"f_gap": 50.0, "f_pos": 1e3, "f_neg": 1e3, "z_pos_max": 100.0, "z_neg_max": 100.0}


class Diverged(RuntimeError):
    """Training left every reasonable range; the message says which quantity did, and when."""


class Trainer:
    """The state of one training run: a system, its optimisers, its noise, its log.

    ``images`` is uint8 (N, C, H, W) on the device of the system. ``precision`` is "bf16"
    (autocast; f stays in float32) or "float32", the reference.
    """

    def __init__(self, system: System, images: Tensor, *, seed: int = 0, precision: str = "bf16"):
        c = system.config
        if tuple(images.shape[1:]) != tuple(c.image):
            raise UsageError(
                f"the system takes images {c.image}, but the data are {tuple(images.shape[1:])}."
            )
        self.system, self.images, self.seed, self.step = system, images, seed, 0
        self.batch = min(c.batch, len(images))
        self.precision = precision
        self.nets = [*system.generator.parameters(), *system.inference.parameters()]
        options = {"betas": c.betas, "fused": True}
        self.optimisers = {
            "nets": torch.optim.Adam(self.nets, c.lr, weight_decay=c.weight_decay, **options)
        }
        if system.prior.learned:
            self.optimisers["prior"] = torch.optim.Adam(
                system.prior.parameters(), c.lr_prior, **options
            )
        self.rng = torch.Generator(images.device).manual_seed(seed)
        self.order: tuple[int, Tensor] = (-1, torch.empty(0))  # of one epoch, made when needed
        self.log: dict[str, list[float]] = {}
        self.seconds = 0.0  # spent in run(), over all sessions

    def images_at(self, step: int) -> Tensor:
        """The batch of a step, as floats: every epoch its own order, a function of the seed."""
        epoch, i = divmod(step, len(self.images) // self.batch)
        if self.order[0] != epoch:
            rng = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            picked = torch.randperm(len(self.images), generator=rng)
            self.order = epoch, picked.to(self.images.device)
        x = to_float(self.images[self.order[1][i * self.batch :][: self.batch]])
        return x.contiguous(memory_format=torch.channels_last)

    def rate(self, step: int) -> float:
        """The factor on both learning rates at a step."""
        c = self.system.config
        rise = min(1.0, (step + 1) / LR_WARMUP)
        if c.lr_decay == "cosine":
            return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / c.steps)))
        epoch = step * self.batch // len(self.images)
        return rise * (0.998**epoch if c.lr_decay == "epoch" else 1.0)

    def advance(self) -> dict[str, Tensor]:
        """One step: (beta, phi) on the objective, then alpha on f(z_neg) - f(z_pos)."""
        c, system = self.system.config, self.system
        for optimiser in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * self.rate(self.step)
        x = self.images_at(self.step)
        weight = min(1.0, (self.step + 1) / c.warmup) if c.warmup else 1.0
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            loss, z_pos, terms = system.loss(x, prior_weight=weight, rng=self.rng)
        loss.backward()
        self.optimisers["nets"].step()
        z_neg = system.prior.sample(len(x), rng=self.rng)
        if "prior" in self.optimisers:
            loss, more = prior_loss(system.prior, z_pos, z_neg, penalty=c.penalty)
            loss.backward()
            self.optimisers["prior"].step()
            terms |= more | {"f_gap": more["f_pos"] - more["f_neg"]}
        for name, z in (("z_pos", z_pos), ("z_neg", z_neg)):
            terms |= {
                f"{name}_mean": z.mean(),
                f"{name}_std": z.std(),
                f"{name}_max": z.abs().amax(),
            }
        self.step += 1
        return {k: v.detach() for k, v in terms.items()}

    def run(
        self,
        steps: int,
        *,
        log_every: int = 50,
        on_log: Callable[["Trainer"], None] | None = None,
        progress: bool = False,
    ) -> None:
        """Advance to step ``steps``; every ``log_every`` steps log means, check, call ``on_log``.

        Raises Diverged as soon as a logged quantity is not finite or beyond ``LIMITS``.
        """
        self.system.train()
        start = time.monotonic() - self.seconds
        sums: dict[str, Tensor] = {}
        count = 0
        bar = tqdm(total=steps, initial=self.step, disable=not progress, unit="step")
        with bar:
            while self.step < steps:
                terms = self.advance()
                sums = {k: sums.get(k, 0) + v for k, v in terms.items()}
                count += 1
                bar.update()
                if self.step % log_every and self.step < steps:
                    continue
                means = {k: float(v) / count for k, v in sums.items()}
                sums, count = {}, 0
                check(means, self.step)
                for k, v in {"step": self.step, **means}.items():
                    self.log.setdefault(k, []).append(v)
                bar.set_postfix({k: f"{v:.3g}" for k, v in means.items() if k in SHOWN})
                self.seconds = time.monotonic() - start
                if on_log:
                    on_log(self)
                    self.system.train()
        self.system.eval()

    def save(self, stem: str | Path) -> None:
        """Everything that ``restore`` needs to go on as if nothing had happened."""
        tensors = {f"system.{k}": v for k, v in self.system.state_dict().items()}
        tensors["rng"] = self.rng.get_state()
        for name, optimiser in self.optimisers.items():
            for i, state in optimiser.state_dict()["state"].items():
                tensors |= {f"{name}.{i}.{k}": v for k, v in state.items()}
        state = {k: getattr(self, k) for k in ("seed", "step", "seconds", "log")}
        checkpoints.save(stem, tensors, {"config": self.system.config.to_json(), **state})

    def restore(self, stem: str | Path) -> None:
        """Load what ``save`` wrote.

        Raises UsageError if it belongs to another configuration or seed.
        """
        tensors, meta = checkpoints.load(stem)
        config = type(self.system.config).from_json(meta["config"])
        if config != self.system.config or meta["seed"] != self.seed:
            raise UsageError(
                f"{stem} was trained with other settings or another seed: give the same ones to "
                "resume it, or another folder to start anew."
            )
        self.rng.set_state(tensors.pop("rng"))
        for name, optimiser in self.optimisers.items():
            record = optimiser.state_dict()
            record["state"] = _nested(tensors, name)
            optimiser.load_state_dict(record)
        own = {k.removeprefix("system."): v for k, v in tensors.items() if k.startswith("system.")}
        self.system.load_state_dict(own)
        self.step, self.seconds, self.log = meta["step"], meta["seconds"], meta["log"]


SHOWN = ("nll", "kl", "f_pos", "f_neg", "z_pos_std", "z_neg_std")


def check(means: dict[str, float], step: int) -> None:
    """Raise Diverged with one sentence if a logged mean is not finite or beyond ``LIMITS``."""
    for name, value in means.items():
        limit = LIMITS.get(name, math.inf)
        if not math.isfinite(value) or abs(value) > limit:
            raise Diverged(
                f"training diverged at step {step}: {name} = {value:.3g} (limit {limit:g}); "
                "try a smaller lr_prior, a larger penalty on f^2, or spectral_norm."
            )


def _nested(tensors: dict[str, Tensor], name: str) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for key in [k for k in tensors if k.startswith(f"{name}.")]:
        _, i, field = key.split(".")
        state.setdefault(int(i), {})[field] = tensors[key]
    return state


def channels_last(module: nn.Module) -> nn.Module:
    """The module with convolution weights in the layout that is quickest on CPU and GPU."""
    return module.to(memory_format=torch.channels_last)
