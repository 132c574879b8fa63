"""Langevin dynamics, the one sampler of the book, and its fast paths for priors given by an MLP."""

import functools
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from .graphs import RecordedFunction
from .kernels import native
from .randomness import source

aten = torch.ops.aten
BLOCK = 1000  # chains at a time in the closed form: their activations stay in the cache
NOISE = 2**22  # normal draws that are made ahead of the steps: 16 MiB

SLOPES = {"lrelu": 0.2, "lrelu0.01": 0.01, "relu": 0.0}  # left of 0; right of it the slope is 1


def _leaky(slope: float) -> tuple[Callable, Callable]:
    return (
        lambda a, out: aten.leaky_relu.out(a, slope, out=out),
        lambda g, a, out: aten.leaky_relu_backward.grad_input(g, a, slope, False, grad_input=out),
    )


# (a, out) -> act(a) and (g, a, out) -> g act'(a), for the gradient of f without autograd
CLOSED_FORM: dict[str, tuple[Callable, Callable]] = {
    **{name: _leaky(slope) for name, slope in SLOPES.items()},
    "gelu": (
        lambda a, out: aten.gelu.out(a, out=out),
        lambda g, a, out: aten.gelu_backward.grad_input(g, a, grad_input=out),
    ),
    "silu": (
        lambda a, out: aten.silu.out(a, out=out),
        lambda g, a, out: aten.silu_backward.grad_input(g, a, grad_input=out),
    ),
}


def langevin(
    log_prob: Callable[[Tensor], Tensor],
    z: Tensor,
    *,
    steps: int,
    step_size: float,
    noise: float = 1.0,
    rng: torch.Generator | int | None = None,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    r"""Run ``steps`` of unadjusted Langevin dynamics from ``z`` and return the last state.

    Shapes: z (B, D); ``log_prob``: (B, D) -> (B,), known up to a constant.
    z <- z + (s^2 / 2) grad log p(z) + s eps,  eps ~ N(0, I)      (ICCV 2023, eq. 13)
    ``step_size`` is s; ``noise`` multiplies eps (0 climbs the density without noise).
    ``callback(k, z, log_prob(z))`` sees every state, the start (k = 0) and the end (k = steps)
    included. Chain b follows from row b alone: ``log_prob`` must not mix the rows of a batch.
    """
    drift, spread = step_size**2 / 2, step_size * noise
    rng = source(rng, z.device)
    # gradients are taken in any mode, the callback has the caller's; spectral norm: one power
    # iteration a chain, not one a step
    was = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(was), parametrize.cached():
        z = z.clone() if z.is_inference() else z.detach()
        for k in range(steps):
            value, grad = _value_and_grad(log_prob, z)
            if callback:
                callback(k, z, value)
            z = z + drift * grad
            if spread:
                eps = torch.randn(z.shape, generator=rng, device=z.device, dtype=z.dtype)
                z = z + spread * eps
    if callback:
        with torch.no_grad():
            callback(steps, z, log_prob(z))
    return z


def langevin_block(
    log_prob: Callable[[Tensor], Tensor], z: Tensor, block: slice, start: Tensor, **options
) -> Tensor:
    r"""``langevin`` on the coordinates ``block`` of z alone, the others held where they are.

    A chain on p(z_block | z_rest), since log p(z_block | z_rest) = log p(z) + const. Shapes: z
    (B, D), ``start`` (B, d), returns (B, D). ``options`` as for ``langevin``, whose callback sees
    the block.
    """
    below, above = z[:, : block.start].detach(), z[:, block.stop :].detach()

    def whole(part: Tensor) -> Tensor:
        return torch.cat([below, part, above], 1)

    return whole(langevin(lambda part: log_prob(whole(part)), start, **options))


def _value_and_grad(log_prob: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        value = log_prob(z)
        (grad,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), grad


@torch.no_grad()
def langevin_mlp(
    layers: Sequence[tuple[Tensor, Tensor]],
    act: str,
    z: Tensor,
    *,
    steps: int,
    step_size: float,
    rng: torch.Generator | int | None = None,
    run: Callable[..., None] | None = None,
) -> Tensor:
    r"""``langevin`` on f(z) + log N(z; 0, I) for an MLP f, its gradient written out.

    Shapes: z (B, D); ``layers`` are the (weight, bias) of f's linear maps, the last one to one
    number; ``act``, one of ``CLOSED_FORM``, stands between them. With
    a_i = W_i h_{i-1} + b_i, h_i = act(a_i), h_0 = z and g_n = act'(a_n) w_out,
    g_i = act'(a_i) (W_{i+1}^T g_{i+1})  and  grad f = W_1^T g_1.
    On a CPU the noise is that of ``langevin``, in the same order: the chains agree to rounding.
    ``run`` makes the steps; unless given it is the quickest that fits: ``native_steps``,
    ``recorded_steps`` on CUDA, else ``closed_form_steps``. On CUDA a kernel of its own, where it
    fits, makes all steps and their noise in one launch.
    """
    layers, rng = [(w.detach(), b.detach()) for w, b in layers], source(rng, z.device)
    z = z.detach().clone(memory_format=torch.contiguous_format)
    if not len(z):  # no chains: no kernel has blocks for them
        return z
    kernel = _cuda_kernel() if run is None and z.is_cuda and z.dtype == torch.float32 else None
    options = {"steps": steps, "drift": step_size**2 / 2, "spread": step_size, "rng": rng}
    if kernel and kernel.fits(layers, act, len(z)):
        if kernel.run(layers, act, SLOPES.get(act, 0.0), z, **options):
            return z
    run = run or _quickest(act, z)
    chunk = max(1, NOISE // max(1, z.numel()))
    for done in range(0, steps, chunk):
        eps = z.new_empty(min(chunk, steps - done), *z.shape)
        for e in eps:
            e.normal_(0, step_size, generator=rng)
        run(layers, act, z, eps, drift=step_size**2 / 2)
    return z


def _quickest(act: str, z: Tensor) -> Callable[..., None]:
    if z.is_cuda:
        return recorded_steps
    fits = act in SLOPES and z.dtype == torch.float32 and z.device.type == "cpu"
    return native_steps if fits and native.available() else closed_form_steps


@functools.cache
def _cuda_kernel() -> ModuleType | None:
    try:
        from .kernels import cuda
    except ImportError:  # no Triton here
        return None
    return cuda


def native_steps(
    layers: Sequence[tuple[Tensor, Tensor]], act: str, z: Tensor, eps: Tensor, *, drift: float
) -> None:
    """One step for each entry of ``eps`` (K, B, D), in place, by the compiled CPU kernel."""
    native.run(layers, SLOPES[act], z, eps, drift=drift)


def closed_form_steps(
    layers: Sequence[tuple[Tensor, Tensor]], act: str, z: Tensor, eps: Tensor, *, drift: float
) -> None:
    """One step for each entry of ``eps`` (K, B, D), already scaled by s; ``z`` changes in place.

    Blocks of chains go through all steps while their activations, features x chains, lie in the
    cache; buffers are used again from step to step.
    """
    forward, backward = CLOSED_FORM[act]
    *hidden, (out, _) = layers
    weights = [w for w, _ in hidden]
    down = [drift * weights[0], *(w.T.contiguous() for w in weights[1:])]
    block = max(1, len(z)) if z.is_cuda else BLOCK
    for z_block, e_block in zip(z.split(block), eps.split(block, 1), strict=True):
        count = len(z_block)
        a, h = ([z.new_empty(len(w), count) for w in weights] for _ in range(2))
        biases = [b[:, None].expand(-1, count) for _, b in hidden]
        top, state = out.T.expand(-1, count), z_block
        for e in e_block:
            below = state.T
            for i, w in enumerate(weights):
                torch.addmm(biases[i], w, below, out=a[i])
                below = forward(a[i], h[i]) if i < len(weights) - 1 else None
            g = backward(top, a[-1], h[-1])
            for i in reversed(range(len(weights) - 1)):
                g = backward(torch.mm(down[i + 1], g, out=h[i]), a[i], h[i])
            state = e.addmm_(g.T, down[0]).add_(state, alpha=1 - drift)
        z_block.copy_(state)


def recorded_steps(
    layers: Sequence[tuple[Tensor, Tensor]], act: str, z: Tensor, eps: Tensor, *, drift: float
) -> None:
    """``closed_form_steps`` as one CUDA graph for each shape of z, eps and the layers."""
    weights = [t for layer in layers for t in layer]
    _recorded_closed_form((z, eps, *weights), act, drift)


def _closed_form(tensors: Sequence[Tensor], act: str, drift: float) -> None:
    z, eps, *weights = tensors
    layers = list(zip(weights[::2], weights[1::2], strict=True))
    closed_form_steps(layers, act, z, eps, drift=drift)


_recorded_closed_form = RecordedFunction(_closed_form)
