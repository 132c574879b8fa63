"""``fit``: one training loop for every system, with logs, checkpoints, resume and a guard."""

import copy
import functools
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .. import checkpoints
from ..configs import Config
from ..data import ImageSet, to_float
from ..errors import UsageError
from ..graphs import Recorded
from ..nets import check_batch
from ..objectives import PriorObjective
from ..precision import resolve_precision
from ..randomness import source
from ..settings import check_shape
from ..surroundings import plain
from ..systems import System
from .batches import Batches, keep_freed_memory
from .monitor import check, detached, moments
from .stages import EPOCH_DECAY, LR_WARMUP, Stage, Training, stages

BLOCK = 1000  # images at a time, where all are encoded


class Trainer:
    """The state of one training run: a system, its optimisers, its noise, its log.

    ``images`` is uint8 (N, C, H, W); the work is done on the device of the system. ``training``
    says what the stages are; unless given it is what the system's own configuration says.
    ``precision`` is "bf16" (autocast; f stays in float32), "float32", the reference, or "auto" (see
    ``resolve_precision``); afterwards it says which it is. On CUDA a step is one recorded graph;
    nowhere does a step wait for its own numbers. Raises UsageError where images and system do not
    fit together, for images too few to learn from, for an unknown precision, and for a system of
    parts of your own without a ``training``.
    """

    @plain()
    def __init__(
        self,
        system: System,
        images: Tensor,
        training: Training | None = None,
        *,
        seed: int = 0,
        precision: str = "auto",
    ):
        check_shape(system.image, images.shape[1:])
        device = system.device
        if (rng := source(seed, device)) is None:
            raise UsageError("a training needs a seed, a whole number from 0 on.")
        self.rng = rng
        self.system, self.seed, self.step = system, seed, 0
        self.training = t = training or system.plan()
        check_sizes(system, t, len(images))
        self.batches = Batches(images, t.batch, seed=seed, device=device)
        self.weight = torch.ones((), device=device)  # of the prior's term in the loss of the nets
        self.precision = resolve_precision(precision, device)
        self.optimisers = optimisers(system, t)
        system.inference.prepare(len(images), system.prior, rng=self.rng)
        weights = {k for k, _ in system.named_parameters()}
        self.averaged = {  # of weights and of the statistics of batch normalisation
            k: v.clone()
            for k, v in system.state_dict().items()
            if t.ema and (k in weights or k.endswith(("running_mean", "running_var")))
        }
        self.recorded: Recorded | None = None  # the step of the stage that is due
        self.logs: list[dict[str, list[float]]] = [{} for _ in t.phases()] or [{}]
        self.seconds, self.cpu_seconds = 0.0, 0.0  # spent in run(), over all sessions
        self.sums: dict[str, Tensor] = {}  # of what is to be logged, since the last log
        self.count = 0  # steps in the sums
        self.used: list[list] = []  # [step, precision, device] from that step on

    @property
    def total(self) -> int:
        """The steps of all stages."""
        return self.training.total

    @property
    def log(self) -> dict[str, list[float]]:
        """The log of the first phase: means of the terms, by name, and the steps they end at."""
        return self.logs[0]

    def rate(self, step: int) -> float:
        """The factor on the learning rates at a step; each phase has its own rise and fall."""
        t = self.training
        start, end = t.phases()[t.phase(step)]
        rise = min(1.0, (step - start + 1) / LR_WARMUP)
        if t.lr_decay == "cosine":
            return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - start) / (end - start))))
        epoch = (step - start) * self.batches.batch // len(self.batches.all)
        return rise * (EPOCH_DECAY**epoch if t.lr_decay == "epoch" else 1.0)

    def begin(self) -> None:
        """Get the parts ready for steps of the stage that is due."""
        if self.step < self.total:
            self.system.train(self.training.at(self.step).stage.nets is not None)
            self.system.prior.train()

    def advance(self) -> dict[str, Tensor]:
        """One step of the stage that is due; the terms to log."""
        t = self.training
        stage, _, end = t.at(self.step)
        for group in (g for o in self.optimisers.values() for g in o.param_groups):
            value = group.setdefault("initial_lr", float(group["lr"])) * self.rate(self.step)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(value)
            else:
                group["lr"] = value
        self.batches.load(self.step)
        if stage.nets:
            first, last = t.phases()[t.phase(self.step)]
            self.weight.fill_(stage.nets.weight(self.step - first))
            self.system.generator.progress((self.step - first + 1) / (last - first))
        if stage.prior and stage.prior.at_once:
            terms = self.fit_at_once(stage.prior)
        else:
            self.recorded = self.recorded or Recorded(
                partial(self.learn, stage), self.rng.device, rng=self.rng
            )
            terms = self.recorded()
        self.step += 1
        if self.averaged and stage.nets:
            self.average()
        if self.step == end:
            self.end(stage)
        return terms

    def warming_up(self, stage: Stage) -> bool:
        """Whether the weight of the prior's term was below 1 before the last step of ``stage``."""
        first, _ = self.training.phases()[self.training.phase(self.step - 1)]
        return bool(stage.nets and stage.nets.weight(self.step - first - 2) < 1)

    def end(self, stage: Stage) -> None:
        """End a stage: what the prior has learned counts, and its optimiser forgets."""
        if stage.prior:
            stage.prior.finish(self.system.prior)
        if stage.prior and "prior" in self.optimisers:
            for state in self.optimisers["prior"].state.values():
                for value in state.values():
                    value.zero_()  # in place: what has no gradient from now on stays as it is
        self.recorded = None  # what a step does has changed
        self.begin()

    def learn(self, stage: Stage) -> dict[str, Tensor]:
        """(beta, phi) on the objective of the nets, then alpha on the prior's, of z_pos, z_neg."""
        system, terms = self.system, {}
        x, rows = self.batches.floats(), self.batches.rows
        if stage.nets:
            self.optimisers["nets"].zero_grad(set_to_none=True)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                loss, z_pos, terms = system.loss(
                    x, objective=stage.nets, weight=self.weight, rng=self.rng, rows=rows
                )
            loss.backward()
            self.optimisers["nets"].step()
        else:
            z_pos = system.encode(x, noise=True, rng=self.rng)
        z_neg = system.prior.sample(len(x), rng=self.rng)
        if stage.prior and "prior" in self.optimisers:
            terms = terms | self.learn_prior(stage.prior, z_pos, z_neg)
        return detached(terms | moments(z_pos=z_pos, z_neg=z_neg))

    def learn_prior(
        self, objective: PriorObjective, z_pos: Tensor, z_neg: Tensor
    ) -> dict[str, Tensor]:
        """One step of alpha; the terms to log."""
        self.optimisers["prior"].zero_grad(set_to_none=True)
        loss, terms = objective(self.system.prior, z_pos, z_neg, rng=self.rng)
        loss.backward()
        self.optimisers["prior"].step()
        gap = {"f_gap": terms["f_pos"] - terms["f_neg"]} if "f_pos" in terms else {}
        return terms | gap

    def fit_at_once(self, objective: PriorObjective) -> dict[str, Tensor]:
        """The whole stage of a prior that is fitted to the codes of all images."""
        blocks = (to_float(x.to(self.rng.device)) for x in self.batches.all.split(BLOCK))
        codes = torch.cat([self.system.encode(x, noise=True, rng=self.rng) for x in blocks])
        return objective(self.system.prior, codes, codes[:0], rng=self.rng)[1]

    @torch.no_grad()
    def average(self) -> None:
        """Move the averaged weights by one step: w <- d w + (1 - d) w_now, with d = ema, but less
        in the first steps, so that the weights of the start are forgotten in short runs too."""
        now, decay = self.system.state_dict(), min(self.training.ema, decay_at(self.step))
        torch._foreach_lerp_([*self.averaged.values()], [now[k] for k in self.averaged], 1 - decay)

    def model(self) -> System:
        """The system to sample from and to keep: a copy with averaged weights, if there are any."""
        if not self.averaged:
            return self.system
        kept = copy.deepcopy(self.system)
        kept.load_state_dict(self.averaged, strict=False)
        return kept.eval()

    @plain()
    def run(
        self,
        steps: int,
        *,
        log_every: int = 50,
        on_log: Callable[["Trainer"], None] | None = None,
        save_every: int = 1000,
        on_save: Callable[["Trainer"], None] | None = None,
        progress: bool = False,
    ) -> None:
        """Advance to step ``steps``.

        Every ``log_every`` steps it logs means, checks them and calls ``on_log``; every
        ``save_every`` steps, and at the last one, it calls ``on_save``, unless something has lost
        its finite value since the last log. Raises Diverged as soon as a logged quantity is not
        finite or beyond ``LIMITS``. On a CPU the process keeps the memory that it frees from now on
        (``keep_freed_memory``).
        """
        keep_freed_memory()
        self.begin()
        here = [self.precision, device_name(self.rng.device)]
        if self.step < steps and here not in [how[1:] for how in self.used[-1:]]:
            self.used.append([self.step, *here])
        start, cpu_start = time.monotonic() - self.seconds, time.process_time() - self.cpu_seconds
        bar = tqdm(total=steps, initial=self.step, disable=not progress, unit="step")
        with bar:
            while self.step < steps:
                stage, _, end = self.training.at(self.step)
                terms = self.advance()
                if self.sums:
                    torch._foreach_add_([self.sums[k] for k in terms], [*terms.values()])
                else:
                    self.sums = {k: v.clone() for k, v in terms.items()}
                self.count += 1
                bar.update()
                logs = self.step % log_every == 0 or self.step in (steps, end)
                saves = on_save and (self.step % save_every == 0 or self.step == steps)
                if logs or saves:
                    means = {k: float(v) / self.count for k, v in self.sums.items()}
                    self.seconds = time.monotonic() - start
                    self.cpu_seconds = time.process_time() - cpu_start
                if logs:
                    self.sums, self.count = {}, 0
                    check(means, self.step, warming_up=self.warming_up(stage))
                    log = self.logs[self.training.phase(self.step - 1)]
                    for k, v in {"step": self.step, **means}.items():
                        log.setdefault(k, []).append(v)
                    bar.set_postfix({k: f"{v:.3g}" for k, v in means.items() if k in SHOWN})
                    if on_log:
                        on_log(self)
                if saves and on_save and all(map(math.isfinite, means.values())):
                    on_save(self)
                if logs or saves:
                    self.begin()
        self.system.eval()

    @functools.cached_property
    def images(self) -> dict:
        """Which images these are (``checkpoints.fingerprint``)."""
        return checkpoints.fingerprint(self.batches.all)

    def save(self, stem: str | Path) -> None:
        """Everything that ``restore`` needs to go on as if nothing had happened."""
        tensors = {f"system.{k}": v for k, v in self.system.state_dict().items()}
        tensors["rng"] = self.rng.get_state()
        for name, optimiser in self.optimisers.items():
            for i, state in optimiser.state_dict()["state"].items():
                tensors |= {f"{name}.{i}.{k}": v for k, v in state.items()}
        tensors |= {f"averaged.{k}": v for k, v in self.averaged.items()}
        tensors |= {f"sums.{k}": v for k, v in self.sums.items()}
        if self.system.inference.table is not None:
            tensors["table"] = self.system.inference.table
        state = {k: getattr(self, k) for k in LOGGED}
        checkpoints.save(stem, tensors, {**self.identity(), **state})

    def restore(self, stem: str | Path) -> None:
        """Load what ``save`` wrote.

        Raises UsageError if it belongs to another configuration or seed, or to other images.
        """
        tensors, meta = checkpoints.load(stem)
        there, here = _flat(meta), _flat(self.identity())
        changed = [k for k in here | there if here.get(k) != there.get(k)]
        if other := [f"{k} {there.get(k)!r} then, {here.get(k)!r} now" for k in changed]:
            raise UsageError(
                f"{stem} was trained with other settings or another seed ({'; '.join(other)}): "
                "give the same ones to resume it, or another folder to start anew."
            )
        table = tensors.get("table")
        trained = meta.get("images") or ({} if table is None else {"count": len(table)})
        name = self.system.config.data if self.system.config else "images"
        checkpoints.same_images(stem, trained, self.images, name)
        self.rng.set_state(tensors.pop("rng"))
        for name, optimiser in self.optimisers.items():
            record = optimiser.state_dict()
            params = [p for group in optimiser.param_groups for p in group["params"]]
            record["state"] = {
                i: {k: torch.empty_like(params[i]).copy_(v) if v.dim() else v for k, v in s.items()}
                for i, s in _nested(tensors, name).items()
            }  # in the memory layout of the parameters: fused Adam pairs them as they lie
            optimiser.load_state_dict(record)
        self.system.load_state_dict(_under(tensors, "system"))
        self.sums = {k: v.to(self.rng.device) for k, v in _under(tensors, "sums").items()}
        for k, v in _under(tensors, "averaged").items():
            self.averaged[k].copy_(v)
        if self.system.inference.table is not None:
            self.system.inference.table.copy_(tensors["table"])
        for k in LOGGED:
            setattr(self, k, meta.get(k, getattr(self, k)))  # older files lack newer ones

    def identity(self) -> dict:
        """What a checkpoint must agree with to be gone on from, as JSON."""
        of = {"seed": self.seed, **self.system.description()}
        usual = "config" in of and self.training == self.system.plan()
        return of if usual else {**of, "training": repr(self.training)}


def _flat(identity: dict) -> dict:
    """What makes up an identity, by name: of a system from a configuration its settings."""
    made = identity.get("config")
    settings = asdict(Config.from_json(made)) if made else {"parts": identity.get("parts")}
    return {"seed": identity["seed"], **settings, "training": identity.get("training", "as set")}


def check_sizes(system: System, training: Training, images: int) -> None:
    """Raise UsageError if ``images`` are too few for ``training``."""
    if not images:
        raise UsageError("there are no images to train on: give one or more.")
    check_batch(system, min(training.batch, images), training=True)
    for stage, *_ in training.places():
        if stage.prior:
            stage.prior.check(system.prior, images)


def device_name(device: torch.device) -> str:
    """What a results file calls a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def fit(
    system: System,
    images: Tensor | ImageSet,
    *,
    steps: int | None = None,
    prior_steps: int = 0,
    seed: int = 0,
    precision: str = "auto",
    log_every: int = 50,
    progress: bool = True,
    **numbers: Any,
) -> Trainer:
    """Train ``system`` on images, where it is; returns the finished run with its ``log``.

    ``images`` are uint8 (N, C, H, W), a tensor or an ``ImageSet``. Generator and inference learn
    for ``steps``, the prior with them where it has an objective of its own (``learns_by``); then
    the prior alone learns for ``prior_steps`` from codes. Without ``steps`` a system from a
    configuration trains as that says. ``numbers`` are those of ``Training``: batch, lr, lr_prior,
    and so on. Raises UsageError where they do not fit together, Diverged as ``Trainer.run``.
    """
    images = images.images if isinstance(images, ImageSet) else torch.as_tensor(images)
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise UsageError(
            f"images must be bytes, uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}."
        )
    training = None
    if steps is not None:
        prior = system.prior
        plan = stages(
            system.objective, prior.learns_by, prior, steps=steps, prior_steps=prior_steps
        )
        try:
            training = Training(plan, **numbers)
        except TypeError as error:
            raise UsageError(f"fit does not know how to train so: {error}") from None
    run = Trainer(system, images, training, seed=seed, precision=precision)
    run.run(run.total, log_every=log_every, progress=progress)
    return run


def optimisers(system: System, training: Training) -> dict[str, torch.optim.Optimizer]:
    """Adam for generator and inference, "nets", and one for the "prior" if it has an objective of
    its own and parameters; else its parameters learn with the nets."""
    t, prior, cuda = training, system.prior, system.device.type == "cuda"
    options = {"betas": t.betas, "fused": True, "capturable": cuda}

    def rate(value: float) -> float | Tensor:
        return torch.tensor(value, device=system.device) if cuda else value  # a graph reads it

    own = prior.learns_by is not None
    nets = [system.generator, system.inference] + [prior] * (not own)
    weights = [p for net in nets for p in net.parameters()]
    found = {"nets": torch.optim.Adam(weights, rate(t.lr), weight_decay=t.weight_decay, **options)}
    base = prior.base_parameters()
    tilt = [p for p in prior.parameters() if all(p is not b for b in base)]
    groups = [
        {"params": params, "lr": rate(lr)}
        for params, lr in ((tilt, t.lr_prior), (base, t.lr_chain))
        if params
    ]
    if own and groups:
        found["prior"] = torch.optim.Adam(groups, **options)
    return found


LOGGED = ("step", "seconds", "cpu_seconds", "logs", "count", "used", "images")
SHOWN = ("nll", "sse", "kl", "bce", "code_elbo", "f_pos", "f_neg", "z_pos_std", "z_neg_std")


def _nested(tensors: dict[str, Tensor], name: str) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for key in [k for k in tensors if k.startswith(f"{name}.")]:
        _, i, field = key.split(".")
        state.setdefault(int(i), {})[field] = tensors[key]
    return state


def _under(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}


def decay_at(step: int) -> float:
    """The largest decay of an average after ``step`` steps: it spans a tenth of them."""
    return step / (step + 10)
