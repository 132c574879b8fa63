r"""Priors p(z) over the joined latents z = [z_1, .., z_L]: the standard normal and its tilts.

p(z) = exp(f(z)) p_0(z) / Z  with  p_0 = N(0, I).  f is the **negative** energy: larger f, more
likely. Shapes: z is (B, D), layers bottom-up; f and every log-density are (B,). Priors whose base
p_0 runs down the layers are in ``chains``, densities fitted to codes in ``fitted``.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .errors import UsageError
from .gaussians import DiagonalGaussian, standard_normal, standard_normal_log_prob
from .langevin import CLOSED_FORM, langevin, langevin_block, langevin_mlp
from .nets import NegativeEnergy, SumOfEnergies
from .randomness import source

POOLS = 16  # of proposals at a time in importance resampling


class StandardNormal(nn.Module):
    """p(z) = N(0, I): the prior of VAE and VLAE, and the f = 0 case of every tilt here."""

    learned = False  # are samples chains on a learned f, which ``steps=0`` leaves out?
    density = True  # do samples follow ``log_prob``, in the limit of long chains?

    def __init__(self, dims: tuple[int, ...]):
        super().__init__()
        self.dims, self.dim = tuple(dims), sum(dims)
        self.register_buffer("here", torch.empty(0), persistent=False)  # knows the device

    def f(self, z: Tensor) -> Tensor:
        """The tilt f(z) = 0. Shapes: (B, D) -> (B,)."""
        return z.new_zeros(len(z))

    def base(self, z: Tensor) -> DiagonalGaussian:
        """p_0 as conditionals p_0(z_i | z_{>i}) at z; here N(0, I) at any z. Shape: (B, D)."""
        return standard_normal(len(z), self.dim, z)

    def base_log_prob(self, z: Tensor) -> Tensor:
        """log p_0(z), normalised. Shapes: (B, D) -> (B,)."""
        return standard_normal_log_prob(z)

    def log_prob(self, z: Tensor) -> Tensor:
        """f(z) + log p_0(z), i.e. log p(z) up to the constant -log Z. Shapes: (B, D) -> (B,)."""
        return self.f(z) + self.base_log_prob(z)

    def start(self, n: int, *, rng: torch.Generator | int | None = None) -> Tensor:
        """``n`` draws from N(0, I), where every chain starts, whatever p_0 is. Shape: (n, D)."""
        if n < 0:
            raise UsageError(f"{n} draws were asked for: ask for 0 or more.")
        here, rng = self.here, source(rng, self.here.device)
        return torch.randn(n, self.dim, generator=rng, device=here.device, dtype=here.dtype)

    def base_sample(self, n: int, *, rng: torch.Generator | int | None = None) -> Tensor:
        """``n`` draws from p_0. Shape: (n, D)."""
        return self.start(n, rng=rng)

    def base_parameters(self) -> list[nn.Parameter]:
        """The parameters of p_0, as far as it has any."""
        return []

    def proceed(self, done: int, of: int) -> bool:
        """Told how far the prior's training is; True if it now begins to learn another part."""
        return False

    def sample(
        self,
        n: int,
        *,
        steps: int | None = None,
        rng: torch.Generator | int | None = None,
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """``n`` draws from p(z), exact here; ``steps`` and ``callback`` belong to chains."""
        return self.base_sample(n, rng=rng)


class EBMPrior(StandardNormal):
    r"""p(z) = exp(f(z)) N(z; 0, I) / Z: the latent space EBM prior (NeurIPS 2020, eq. 3) for one
    layer, the joint EBM prior (ICCV 2023, eq. 6) for several, since f sees all layers at once.

    Samples come from ``steps`` (K) of Langevin dynamics of size ``step_size`` (s) from N(0, I).
    """

    learned = True

    def __init__(
        self,
        dims: tuple[int, ...],
        hidden: tuple[int, ...] = (100, 100),
        *,
        act: str = "lrelu",
        spectral_norm: float | None = None,
        steps: int = 60,
        step_size: float = 0.4,
    ):
        super().__init__(dims)
        self.steps, self.step_size = steps, step_size
        self.net = NegativeEnergy(self.dim, hidden, act=act, spectral_norm=spectral_norm)

    def f(self, z: Tensor) -> Tensor:
        """The negative energy. Shapes: (B, D) -> (B,)."""
        return self.net(z)

    def sample(
        self,
        n: int,
        *,
        steps: int | None = None,
        rng: torch.Generator | int | None = None,
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """``n`` chains of ``steps`` (K by default) Langevin steps from N(0, I). Shape: (n, D).

        ``steps=0`` gives N(0, I) itself: the same model without its EBM. The callback sees
        ``(k, z, f(z) + log p_0(z))`` at every step; without one, and for the activations whose
        derivative is at hand, the gradient is written out (``langevin_mlp``): the same chains.
        """
        rng = source(rng, self.here.device)
        start = self.base_sample(n, rng=rng)
        steps = self.steps if steps is None else steps
        if callback is None and self.net.act in CLOSED_FORM:
            return langevin_mlp(
                self.net.layers(),
                self.net.act,
                start,
                steps=steps,
                step_size=self.step_size,
                rng=rng,
            )
        return langevin(
            self.log_prob,
            start,
            steps=steps,
            step_size=self.step_size,
            rng=rng,
            callback=callback,
        )


def _count_finished(prior: "RatioPrior", _: object) -> None:
    prior.finished = int(prior.net.on.sum())


class RatioPrior(EBMPrior):
    r"""p(z) = prod_k r_k(z) N(z; 0, I) / Z, r_k = exp(logit_k): a product of density ratios, each
    the logit of a classifier of posterior against prior samples. So f(z) = sum_k logit_k(z).

    One ratio: noise contrastive prior, NCP-VAE (NeurIPS 2021); several, learned one after the
    other: Multi-NCP (NeurIPS 2022). A ratio joins f when its stage is over and stays as it is.
    """

    def __init__(self, dims: tuple[int, ...], ratios: int = 1, hidden=(100, 100), **options):
        chain = {k: options.pop(k) for k in ("steps", "step_size") if k in options}
        super().__init__(dims, (), **chain)
        self.net = SumOfEnergies(ratios, self.dim, hidden, **options)
        self.finished = 0  # ratios that are on: the sum of ``net.on``, which lies on the device
        self.register_load_state_dict_post_hook(_count_finished)

    def proceed(self, done: int, of: int) -> bool:
        """Stage k of K runs from k/K to (k+1)/K of the training; the ratios before it are on."""
        ratios, before = len(self.net.nets), self.finished
        self.finished = done * ratios // of
        if self.finished != before:
            self.net.on.copy_(torch.arange(ratios) < self.finished)
        return self.finished != before

    def sample(self, n: int, **options) -> Tensor:
        """As of ``EBMPrior``; exact draws of N(0, I) while the first ratio is in training."""
        if self.training and not self.finished:
            return self.base_sample(n, rng=options.get("rng"))
        return super().sample(n, **options)

    def logit(self, z: Tensor) -> Tensor:
        """The logit in training: of the first ratio that is not yet on. Shapes: (B, D) -> (B,)."""
        on = self.net.on
        current = torch.cat([on.new_ones(1), on[:-1]]) - on
        return (self.net.each(z) * current).sum(1)

    @torch.no_grad()
    def resample(
        self, n: int, *, proposals: int = 1000, rng: torch.Generator | int | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""``n`` draws by sampling-importance-resampling: of ``proposals`` draws from N(0, I) each,
        one is kept with probability in proportion to r(z) = exp f(z).

        Returns z (n, D) and the effective sample sizes (sum r)^2 / sum r^2 of the n pools, (n,).
        """
        if n < 0 or proposals < 1:
            raise UsageError(
                f"{n} draws from {proposals} proposals each were asked for: ask for 0 draws or "
                "more, and for 1 proposal or more."
            )
        kept, sizes, rng = [], [], source(rng, self.here.device)
        for rows in torch.arange(n).split(POOLS):
            pools = self.base_sample(len(rows) * proposals, rng=rng)
            weights = self.f(pools).view(len(rows), proposals).softmax(1)
            pick = weights.multinomial(1, generator=rng).squeeze(1)
            kept.append(pools.view(len(rows), proposals, self.dim)[torch.arange(len(rows)), pick])
            sizes.append(1 / weights.square().sum(1))
        return torch.cat(kept), torch.cat(sizes)


def check_density(prior: nn.Module) -> None:
    """Raise UsageError unless ``prior`` has a ``log_prob`` that is the law of its samples."""
    if not prior.density:
        raise no_density(prior)


def no_density(prior: nn.Module) -> UsageError:
    """What to raise where ``prior`` has no density and one is needed."""
    return UsageError(
        f"{type(prior).__name__} has no density in closed form, and what is asked for needs one: "
        "choose a system with another prior."
    )


def sample_layer(
    prior: StandardNormal,
    z: Tensor,
    layer: int,
    *,
    steps: int | None = None,
    rng: torch.Generator | int | None = None,
) -> Tensor:
    """z with one layer (from 1) drawn anew from p(z_i | z_1, .., z_{i-1}, z_{i+1}, .., z_L).

    By ``steps`` (K by default) of Langevin dynamics on that layer from N(0, I), the others held: a
    prior whose samples are chains. Shapes: (B, D) -> (B, D). Raises UsageError for another prior
    or a layer that it does not have.
    """
    if not prior.learned:
        raise UsageError("a layer given the others is drawn by the chains of a learned prior.")
    if not 1 <= layer <= len(prior.dims):
        raise UsageError(f"there is no layer {layer}: the prior has 1 to {len(prior.dims)}.")
    first, rng = sum(prior.dims[: layer - 1]), source(rng, z.device)
    block = slice(first, first + prior.dims[layer - 1])
    return langevin_block(
        prior.log_prob,
        *(z, block, prior.start(len(z), rng=rng)[:, block]),
        steps=prior.steps if steps is None else steps,
        step_size=prior.step_size,
        rng=rng,
    )
