"""``fit``: one training loop for every system, with logs, checkpoints, resume and a guard."""

import copy
import functools
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from . import checkpoints
from .data import to_float
from .errors import UsageError
from .feed import Feed, keep_freed_memory
from .graphs import Recorded
from .monitor import check, check_sizes, detached, moments
from .precision import resolve_precision
from .systems import System

FIT_BLOCK = 1000  # images at a time, where a prior is fitted to the codes of all
LR_WARMUP = 200  # steps; a Tanh output under a summed squared error can die at -1 without it


class Trainer:
    """The state of one training run: a system, its optimisers, its noise, its log.

    ``images`` is uint8 (N, C, H, W); the work is done on the device of the system. ``precision``
    is "bf16" (autocast; f stays in float32), "float32", the reference, or "auto" (see
    ``resolve_precision``); afterwards it says which it is. On CUDA a step is one recorded graph;
    nowhere does a step wait for its own numbers. Raises UsageError for images of another shape than
    the system's and for an unknown precision.
    """

    def __init__(self, system: System, images: Tensor, *, seed: int = 0, precision: str = "auto"):
        c = system.config
        c.check_images(images.shape[1:])
        check_sizes(system, len(images))
        device = next(system.generator.parameters()).device
        keep_freed_memory()
        self.system, self.seed, self.step = system, seed, 0
        self.feed = Feed(images, c.batch, seed=seed, device=device)
        self.precision = resolve_precision(precision, device)
        own = system.objective.prior is not None  # does the prior have a loss of its own?
        nets = [system.generator, system.inference] + [system.prior] * (not own)
        base = system.prior.base_parameters()
        tilt = [p for p in system.prior.parameters() if all(p is not b for b in base)]
        cuda = device.type == "cuda"
        options = {"betas": c.betas, "fused": True, "capturable": cuda}

        def rate(value: float) -> float | Tensor:
            return torch.tensor(value, device=device) if cuda else value  # a graph reads it

        self.optimisers = {
            "nets": torch.optim.Adam(
                [p for net in nets for p in net.parameters()],
                rate(c.lr),
                weight_decay=c.weight_decay,
                **options,
            )
        }
        if own and (tilt or base):
            groups = [
                {"params": tilt, "lr": rate(c.lr_prior)},
                {"params": base, "lr": rate(c.lr_chain)},
            ]
            groups = [group for group in groups if group["params"]]
            self.optimisers["prior"] = torch.optim.Adam(groups, **options)
        self.rng = torch.Generator(device).manual_seed(seed)
        if not system.inference.amortised:
            system.inference.prepare(len(images), system.prior, rng=self.rng)
        weights = {k for k, _ in system.named_parameters()}
        self.averaged = {  # of weights and of the statistics of batch normalisation
            k: v.clone()
            for k, v in system.state_dict().items()
            if c.ema and (k in weights or k.endswith(("running_mean", "running_var")))
        }
        self.stages = self.recorded()
        self.log: dict[str, list[float]] = {}
        self.fit_log: dict[str, list[float]] = {}  # of the second stage
        self.seconds, self.cpu_seconds = 0.0, 0.0  # spent in run(), over all sessions
        self.sums: dict[str, Tensor] = {}  # of what is to be logged, since the last log
        self.count = 0  # steps in the sums
        self.used: list[list] = []  # [step, precision, device] from that step on

    def recorded(self) -> list[Recorded]:
        """The steps of both stages, to be recorded anew where there are CUDA graphs."""
        device = self.rng.device
        return [Recorded(stage, device, rng=self.rng) for stage in (self.learn, self.fit_prior)]

    @property
    def total(self) -> int:
        """Steps of both stages together; a prior that is fitted at once takes one step for it."""
        c, objective = self.system.config, self.system.objective
        return c.steps + (1 if objective.fit else c.fit_steps if objective.afterwards else 0)

    def rate(self, step: int) -> float:
        """The factor on the learning rates at a step; each stage has its own rise and fall."""
        c = self.system.config
        second = self.total > step >= c.steps
        start, length = (c.steps, self.total - c.steps) if second else (0, c.steps)
        rise = min(1.0, (step - start + 1) / LR_WARMUP)
        if c.lr_decay == "cosine":
            return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - start) / length)))
        epoch = (step - start) * self.feed.batch // len(self.feed.all)
        return rise * (0.998**epoch if c.lr_decay == "epoch" else 1.0)

    def advance(self) -> dict[str, Tensor]:
        """One step of the stage that is due, and word to the prior of how far it has come."""
        c, objective = self.system.config, self.system.objective
        second = self.step >= c.steps
        for group in (g for o in self.optimisers.values() for g in o.param_groups):
            value = group.setdefault("initial_lr", float(group["lr"])) * self.rate(self.step)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(value)
            else:
                group["lr"] = value
        self.feed.load(self.step, min(1.0, (self.step + 1) / c.warmup) if c.warmup else 1.0)
        self.system.generator.proceed(self.step + 1, c.steps)
        terms = self.fit_at_once() if second and objective.fit else self.stages[second]()
        self.step += 1
        if self.averaged and not second:
            self.average()
        if self.tell_prior():
            if "prior" in self.optimisers:
                self.forget("prior")
            self.stages = self.recorded()  # what a step does has changed
        return terms

    def tell_prior(self) -> bool:
        """Tell the prior how far its training is; True if it now begins to learn another part."""
        c, later = self.system.config, self.system.objective.afterwards
        start, length = (c.steps, c.fit_steps) if later else (0, c.steps)
        return self.system.prior.proceed(max(0, self.step - start), max(1, length))

    def learn(self) -> dict[str, Tensor]:
        """(beta, phi) on the objective, then alpha on the prior's loss of z_pos and z_neg."""
        system = self.system
        self.optimisers["nets"].zero_grad(set_to_none=True)
        x, rows, weight = self.feed.floats(), self.feed.rows, self.feed.share
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            loss, z_pos, terms = system.loss(x, prior_weight=weight, rng=self.rng, rows=rows)
        loss.backward()
        self.optimisers["nets"].step()
        z_neg = system.prior.sample(len(x), rng=self.rng)
        if not system.objective.afterwards:
            terms |= self.learn_prior(z_pos, z_neg)
        return detached(terms | moments(z_pos=z_pos, z_neg=z_neg))

    def learn_prior(self, z_pos: Tensor, z_neg: Tensor) -> dict[str, Tensor]:
        """One step of alpha, if the prior has a loss of its own; the terms to log."""
        if "prior" not in self.optimisers:
            return {}
        system = self.system
        self.optimisers["prior"].zero_grad(set_to_none=True)
        loss, terms = system.objective.prior(
            system.prior, z_pos, z_neg, penalty=system.config.penalty, rng=self.rng
        )
        loss.backward()
        self.optimisers["prior"].step()
        gap = {"f_gap": terms["f_pos"] - terms["f_neg"]} if "f_pos" in terms else {}
        return terms | gap

    def fit_prior(self) -> dict[str, Tensor]:
        """One step of the second stage: the encoder is done, the prior learns from its codes."""
        system = self.system
        system.eval()
        system.prior.train()
        z_pos = system.encode(self.feed.floats(), noise=True, rng=self.rng)
        z_neg = system.prior.sample(len(z_pos), rng=self.rng)
        return detached(self.learn_prior(z_pos, z_neg) | moments(z_pos=z_pos, z_neg=z_neg))

    def fit_at_once(self) -> dict[str, Tensor]:
        """The whole second stage of a prior that is fitted to the codes of all images."""
        system, device = self.system.eval(), self.feed.rows.device
        blocks = (to_float(x.to(device)) for x in self.feed.all.split(FIT_BLOCK))
        codes = [system.encode(x, noise=True, rng=self.rng) for x in blocks]
        return system.prior.fit(torch.cat(codes), seed=self.seed)

    def forget(self, name: str) -> None:
        """Reset an optimiser in place: what has no gradient from now on then stays as it is."""
        for state in self.optimisers[name].state.values():
            for value in state.values():
                value.zero_()

    @torch.no_grad()
    def average(self) -> None:
        """Move the averaged weights by one step: w <- d w + (1 - d) w_now, with d = ema, but less
        in the first steps, so that the weights of the start are forgotten in short runs too."""
        now, decay = self.system.state_dict(), min(self.system.config.ema, decay_at(self.step))
        torch._foreach_lerp_([*self.averaged.values()], [now[k] for k in self.averaged], 1 - decay)

    def model(self) -> System:
        """The system to sample from and to keep: a copy with averaged weights, if there are any."""
        if not self.averaged:
            return self.system
        kept = copy.deepcopy(self.system)
        kept.load_state_dict(self.averaged, strict=False)
        return kept.eval()

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
        finite or beyond ``LIMITS``.
        """
        self.system.train()
        here = [self.precision, device_name(self.rng.device)]
        if self.step < steps and here not in [how[1:] for how in self.used[-1:]]:
            self.used.append([self.step, *here])
        start, cpu_start = time.monotonic() - self.seconds, time.process_time() - self.cpu_seconds
        bar = tqdm(total=steps, initial=self.step, disable=not progress, unit="step")
        with bar:
            while self.step < steps:
                terms = self.advance()
                if self.sums:
                    torch._foreach_add_([self.sums[k] for k in terms], [*terms.values()])
                else:
                    self.sums = {k: v.clone() for k, v in terms.items()}
                self.count += 1
                bar.update()
                last = self.step in (steps, self.system.config.steps)  # of a stage or of all
                logs = self.step % log_every == 0 or last
                saves = on_save and (self.step % save_every == 0 or self.step == steps)
                if logs or saves:
                    means = {k: float(v) / self.count for k, v in self.sums.items()}
                    self.seconds = time.monotonic() - start
                    self.cpu_seconds = time.process_time() - cpu_start
                if logs:
                    self.sums, self.count = {}, 0
                    check(means, self.step, warming_up=self.step <= self.system.config.warmup)
                    log = self.fit_log if self.step > self.system.config.steps else self.log
                    for k, v in {"step": self.step, **means}.items():
                        log.setdefault(k, []).append(v)
                    bar.set_postfix({k: f"{v:.3g}" for k, v in means.items() if k in SHOWN})
                    if on_log:
                        on_log(self)
                        self.system.train()
                if saves and all(map(math.isfinite, means.values())):
                    on_save(self)
                    self.system.train()
        self.system.eval()

    @functools.cached_property
    def images(self) -> dict:
        """Which images these are (``checkpoints.fingerprint``)."""
        return checkpoints.fingerprint(self.feed.all)

    @property
    def table(self) -> Tensor | None:
        """The chains that a warm Langevin inference keeps, one row a training image."""
        return getattr(self.system.inference, "table", None)

    def save(self, stem: str | Path) -> None:
        """Everything that ``restore`` needs to go on as if nothing had happened."""
        tensors = {f"system.{k}": v for k, v in self.system.state_dict().items()}
        tensors["rng"] = self.rng.get_state()
        for name, optimiser in self.optimisers.items():
            for i, state in optimiser.state_dict()["state"].items():
                tensors |= {f"{name}.{i}.{k}": v for k, v in state.items()}
        tensors |= {f"averaged.{k}": v for k, v in self.averaged.items()}
        tensors |= {f"sums.{k}": v for k, v in self.sums.items()}
        if self.table is not None:
            tensors["table"] = self.table
        state = {k: getattr(self, k) for k in LOGGED}
        checkpoints.save(stem, tensors, {"config": self.system.config.to_json(), **state})

    def restore(self, stem: str | Path) -> None:
        """Load what ``save`` wrote.

        Raises UsageError if it belongs to another configuration or seed, or to other images.
        """
        tensors, meta = checkpoints.load(stem)
        config = type(self.system.config).from_json(meta["config"])
        there = {"seed": meta["seed"], **asdict(config)}
        here = {"seed": self.seed, **asdict(self.system.config)}
        if other := [f"{k} {v!r} then, {here[k]!r} now" for k, v in there.items() if v != here[k]]:
            raise UsageError(
                f"{stem} was trained with other settings or another seed ({'; '.join(other)}): "
                "give the same ones to resume it, or another folder to start anew."
            )
        table = tensors.get("table")
        trained = meta.get("images") or ({} if table is None else {"count": len(table)})
        checkpoints.same_images(stem, trained, self.images, config.data)
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
        if self.table is not None:
            self.table.copy_(tensors["table"])
        for k in LOGGED:
            setattr(self, k, meta.get(k, getattr(self, k)))  # older files lack newer ones
        self.tell_prior()


LOGGED = ("seed", "step", "seconds", "cpu_seconds", "log", "fit_log", "count", "used", "images")
SHOWN = ("nll", "sse", "kl", "bce", "code_elbo", "f_pos", "f_neg", "z_pos_std", "z_neg_std")


def _nested(tensors: dict[str, Tensor], name: str) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for key in [k for k in tensors if k.startswith(f"{name}.")]:
        _, i, field = key.split(".")
        state.setdefault(int(i), {})[field] = tensors[key]
    return state


def _under(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}


def device_name(device: torch.device) -> str:
    """What a results file calls a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def decay_at(step: int) -> float:
    """The largest decay of an average after ``step`` steps: it spans a tenth of them."""
    return step / (step + 10)
