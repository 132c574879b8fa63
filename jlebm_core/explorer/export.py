r"""A trained system as data that a page can run: tensors and a list of operations.

An export is one safetensors file. Its metadata hold a ``description``: for each network a program,
a list of operations on named values that starts at ``input``; ``nets.js`` interprets it. Batch
normalisation is folded into the affine map before it, spectral norm and scale into f's layers.
Matrices and kernels are float16 and vectors float32. The encoder only proposes codes that the
reader goes on changing: its matrices take 8 bits, with a scale for each output.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as dump_tensors
from torch import Tensor, nn

from .. import checkpoints
from ..errors import UsageError
from ..generators import BottomGenerator, GatedGenerator, LadderGenerator, NoiseGenerator
from ..inference import DeterministicEncoder, LadderEncoder
from ..nets import NegativeEnergy, Shape, SumOfEnergies, activation
from ..priors import EBMPrior, Prior, RatioPrior, StandardNormal
from ..priors.hierarchical import MAX_LOG_SIGMA, GaussianChain
from ..systems import System

MOST_BYTES = 2_000_000  # what a page may carry for one model
STEP_SIZE = 0.4  # of the page's chains on a prior that has none

# modules without parameters -> the operation
ACTIVATIONS = {
    nn.LeakyReLU: lambda m: {"name": "lrelu", "slope": m.negative_slope},
    nn.ReLU: lambda m: {"name": "lrelu", "slope": 0.0},
    nn.GELU: lambda m: {"name": "gelu"},
    nn.SiLU: lambda m: {"name": "silu"},
    nn.Tanh: lambda m: {"name": "tanh"},
    nn.Identity: lambda m: {"name": "none"},
}


@dataclass(frozen=True)
class Export:
    """A description (JSON types) and the tensors that it names."""

    description: dict
    tensors: dict[str, Tensor]

    def to_bytes(self) -> bytes:
        """The safetensors file. Raises UsageError if it is too large for a page."""
        blob = self._bytes()
        if len(blob) > MOST_BYTES:
            raise UsageError(
                f"{self.description['title']} takes {len(blob) / 1e6:.1f} MB, but a page carries "
                f"at most {MOST_BYTES / 1e6:g} MB a model: leave the encoder out."
            )
        return blob

    def fits(self) -> bool:
        """Whether the file is small enough for a page."""
        return len(self._bytes()) <= MOST_BYTES

    def _bytes(self) -> bytes:
        tensors = {k: t.detach().cpu().contiguous() for k, t in self.tensors.items()}
        return dump_tensors(tensors, {"description": json.dumps(self.description)})


class Program:
    """Collects the operations of one network and their tensors, under names with ``prefix``."""

    def __init__(self, prefix: str, shape: Shape):
        self.prefix, self.shape, self.ops, self.tensors = prefix, shape, [], {}

    def add(self, op: str, *values: str, **options) -> str:
        """Append one operation on named values; returns the name of its result."""
        out = f"{self.prefix}{len(self.ops)}"
        self.ops.append({"op": op, "in": list(values), "out": out, **options})
        return out

    def affine(self, op: str, value: str, weight: Tensor, bias: Tensor | None, **options) -> str:
        """Append an affine map: outputs along axis 0, of transposed convolutions along axis 1."""
        outputs = weight.shape[1 if op == "convT" else 0]
        names = {k: f"{self.prefix}{len(self.ops)}.{k}" for k in ("weight", "bias")}
        self.tensors[names["weight"]] = weight.detach().float()
        self.tensors[names["bias"]] = (
            weight.new_zeros(outputs).float() if bias is None else bias.detach().float()
        )
        return self.add(op, value, **names, **options)

    def fold(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        """Batch normalisation with its running statistics, into the affine map before it."""
        op = next((op for op in reversed(self.ops) if op["op"] != "reshape"), {"op": "start"})
        if op["op"] not in ("linear", "conv", "convT"):
            raise UsageError("the explorer folds batch normalisation only into an affine map.")
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - scale * norm.running_mean
        weight, bias = self.tensors[op["weight"]], self.tensors[op["bias"]]
        each = len(bias) // len(scale)  # a reshaped linear map has several outputs a channel
        scale, shift = scale.detach().repeat_interleave(each), shift.detach()
        axis = [1, -1] if op["op"] == "convT" else [-1, 1]
        self.tensors[op["weight"]] = weight * scale.view(*axis, *[1] * (weight.dim() - 2))
        self.tensors[op["bias"]] = bias * scale + shift.repeat_interleave(each)

    def run(self, module: nn.Module, value: str) -> str:
        """Append what ``module`` does to ``value``. Raises UsageError for an unknown layer."""
        match module:
            case nn.Sequential():
                for part in module:
                    value = self.run(part, value)
                return value
            case nn.Linear():
                return self.affine("linear", value, module.weight, module.bias)
            case nn.Conv2d() | nn.ConvTranspose2d() if _plain(module):
                op = "convT" if module.transposed else "conv"
                where = {"stride": module.stride[0], "padding": module.padding[0]}
                return self.affine(op, value, module.weight, module.bias, **where)
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                self.fold(module)
                return value
            case nn.Flatten():
                return self.add("reshape", value, shape=None)
            case nn.Unflatten():
                return self.add("reshape", value, shape=list(module.unflattened_size))
        if type(module) in ACTIVATIONS:
            return self.add("act", value, **ACTIVATIONS[type(module)](module))
        raise UsageError(f"the explorer does not know the layer {module}.")

    def to_json(self) -> dict:
        """The program as JSON types."""
        return {"shape": list(self.shape), "ops": self.ops}


def _plain(conv: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Whether a convolution is square, undilated, ungrouped and padded by zeros."""
    square = all(len(set(pair)) == 1 for pair in (conv.stride, conv.padding))
    bare = conv.groups == 1 and conv.dilation == (1, 1) and not any(conv.output_padding)
    return square and bare and conv.padding_mode == "zeros"


def generator_program(generator: nn.Module, prior: nn.Module) -> Program:
    """Code -> mean image. The code is z; with a Gaussian chain, in the prior or in the generator,
    it is the chain's noises eps ~ N(0, I), from which z is made (``GaussianChain.from_noise``)."""
    if type(generator) not in (LadderGenerator, GatedGenerator, BottomGenerator, NoiseGenerator):
        raise UsageError(f"the explorer does not know the generator {type(generator).__name__}.")
    program = Program("g", (prior.dim,))
    codes = [
        program.add("slice", "input", start=end - d, end=end)
        for end, d in zip(accumulate(prior.dims), prior.dims, strict=True)
    ]
    if chain := chain_of(generator, prior):
        codes = chained(program, chain, codes)
    codes = codes[: len(generator.dims)]  # of a bottom generator: z_1 alone
    h = program.run(generator.blocks[-1], codes[-1])
    for i in reversed(range(len(codes) - 1)):
        code = program.run(generator.projections[i], codes[i])
        h = program.run(generator.blocks[i], program.add(generator.join, code, h))
    return program


def chain_of(generator: nn.Module, prior: nn.Module) -> GaussianChain | None:
    """The Gaussian chain that makes z of noises, if there is one."""
    return prior if type(prior) is GaussianChain else getattr(generator, "chain", None)


def chained(program: Program, chain: GaussianChain, noises: list[str]) -> list[str]:
    """z_i = mu_i + sigma_i eps_i from the top down, as operations; the layers bottom-up."""
    zs, h = [], None
    for i in reversed(range(len(noises))):
        z = noises[i]
        if h is not None:
            both, d = program.run(chain.conditionals[i], h), chain.dims[i]
            mean = program.add("slice", both, start=0, end=d)
            s = program.add("slice", both, start=d, end=2 * d)
            z = program.add("draw", mean, s, z, floor=chain.floor, most=MAX_LOG_SIGMA)
        zs.insert(0, z)
        below = z if h is None or not chain.skips else program.add("concat", z, h)
        h = program.run(chain.path[i - 1], below) if chain.skips and i else z
    return zs


def encoder_program(encoder: nn.Module, image: Shape) -> Program:
    """x -> the mean of q(z | x), or z(x)."""
    if not _known(encoder):
        raise UsageError(f"the explorer does not know the encoder {type(encoder).__name__}.")
    program, means = Program("e", image), []
    t = program.run(encoder.stem, "input")
    for i, (ladder, heads) in enumerate(zip(encoder.ladders, encoder.heads, strict=True)):
        t = program.run(encoder.trunk[i - 1], t) if i else t
        means.append(program.run(heads[0], program.run(ladder, t)))
    program.add("concat", *means)
    return program


def _known(encoder: nn.Module) -> bool:
    """Whether the code is read off the image alone, without a pass through prior or generator."""
    return type(encoder) in (LadderEncoder, DeterministicEncoder)


def prior_description(prior: Prior) -> tuple[dict, dict[str, Tensor]]:
    """f as a list of layers with its activation, K and s, and the tensors."""
    layers, act, tensors = [], {}, {}
    if type(prior) not in (StandardNormal, EBMPrior, RatioPrior, GaussianChain):
        raise UsageError(f"the explorer does not know the prior {type(prior).__name__}.")
    if isinstance(prior, EBMPrior) and not isinstance(prior.net, NegativeEnergy | SumOfEnergies):
        raise UsageError(
            "the explorer runs an f that is an MLP of the module, not one of your own."
        )
    if isinstance(prior, EBMPrior) and prior.net.act:  # without hidden layers f = 0
        module = activation(prior.net.act)
        act = ACTIVATIONS[type(module)](module)
        for i, (weight, bias) in enumerate(prior.net.layers()):
            layers.append([f"f{i}.weight", f"f{i}.bias"])
            tensors |= zip(layers[-1], (weight.detach(), bias.detach()), strict=True)
    chain = {"steps": prior.steps, "step_size": prior.step_size or STEP_SIZE}
    f = {"layers": layers, "act": act.get("name"), "slope": act.get("slope")}
    return {**chain, "f": f}, checkpoints.halved(tensors)


def quantised(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels in 8 bits, row by row: int8 ``name`` times float32 ``name.scale``."""
    found = {}
    for name, t in tensors.items():
        if t.dim() < 2:
            found[name] = t
            continue
        scale = t.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
        found[name + ".scale"] = scale
        found[name] = (t / scale.view(-1, *[1] * (t.dim() - 1))).round().to(torch.int8)
    return found


@torch.no_grad()
def describe(
    part: System | Prior,
    *,
    title: str | None = None,
    notes: Sequence[str] = (),
    encoder: bool | None = None,
    name: str | None = None,
    codes: Tensor | None = None,
) -> Export:
    """The export of a system, or of a prior alone, which has no image.

    ``title`` is what a chooser shows, ``notes`` a few words on each layer, bottom first. The
    inference network comes along if it can and fits (None), in any case (True), or not (False).
    ``name`` tells models apart in links (None: system and data). ``codes`` of images, (N, D), are
    drawn beside the chains where every layer has two dimensions.
    Raises UsageError for a part or a layer that the explorer does not know, and for other codes.
    """
    system = part if isinstance(part, System) else None
    prior = system.prior if system else part
    config = system.config if system else None
    origin = (config.system, config.data) if config else ("system" if system else "prior",)
    about, tensors = prior_description(prior)
    noises = chain_of(system.generator if system else None, prior) is not None
    base = StandardNormal(prior.dims).to(prior.here.device) if noises else prior
    draws = base.sample(500, rng=torch.Generator(prior.here.device).manual_seed(0))
    reach, likeliest = draws.abs().quantile(0.999).item(), draws[base.log_prob(draws).argmax()]
    description = {
        "format": "jlebm-explorer-1",
        "title": title or " on ".join(origin),
        "name": name or "-".join(origin),
        "data": origin[-1],
        "symbol": "ε" if noises else "z",
        "dims": list(prior.dims),
        "notes": list(notes),
        "reach": max(3.0, round(2 * reach) / 2),  # of the sliders
        "start": [round(v, 3) for v in likeliest.tolist()],
        "prior": about,
        "generator": None,
        "encoder": None,
    }
    if system:
        program = generator_program(system.generator, prior)
        description |= {"image": list(system.image), "generator": program.to_json()}
        tensors |= checkpoints.halved(program.tensors)
    if codes is not None:
        if noises or codes.dim() != 2 or codes.shape[1] != prior.dim:
            raise UsageError(
                f"codes {tuple(codes.shape)} cannot be drawn: expected (N, {prior.dim}), "
                "of a prior whose codes are not made of noises."
            )
        tensors["codes"] = codes.half()
    bare = Export(description, tensors)
    if not system or encoder is False or not encoder and (noises or not _known(system.inference)):
        return bare
    if noises:
        raise UsageError("the explorer shows noises, but the encoder gives z: leave it out.")
    reverse = encoder_program(system.inference, system.image)
    extra = quantised(reverse.tensors)
    whole = Export({**description, "encoder": reverse.to_json()}, {**tensors, **extra})
    return whole if encoder or whole.fits() else bare


def read(file: Path) -> Export:
    """The export in ``file``. Raises UsageError if there is none."""
    try:
        with safe_open(file, "pt") as f:
            tensors = {name: f.get_tensor(name) for name in f.keys()}
            return Export(json.loads(f.metadata()["description"]), tensors)
    except (OSError, SafetensorError, TypeError, KeyError):
        raise UsageError(f"{file} is no export: `jlebm export` writes them.") from None


def export(system: System, file: Path, **options) -> Export:
    """Write ``describe(system, **options)`` to ``file`` in one step, and return it."""
    described = describe(system, **options)
    blob = described.to_bytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write_atomic(file, blob)
    return described
