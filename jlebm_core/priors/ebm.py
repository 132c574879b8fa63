r"""Energy-based priors: p(z) = exp(f(z)) N(z; 0, I) / Z, f one net or a sum of density ratios."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..langevin import CLOSED_FORM, langevin_mlp
from ..nets import NegativeEnergy, SumOfEnergies
from ..objectives import Contrast, NoiseContrast, PriorObjective
from ..randomness import source
from ..settings import check
from .base import Callback, NormalBase

POOLS = 16  # of proposals at a time in importance resampling


class EBMPrior(NormalBase):
    r"""p(z) = exp(f(z)) N(z; 0, I) / Z: the latent space EBM prior (NeurIPS 2020, eq. 3) for one
    layer, the joint EBM prior (ICCV 2023, eq. 6) for several, since f sees all layers at once.

    ``f`` is a net of your own, (B, D) -> (B,) or (B, 1), or the widths of an MLP's hidden layers
    (``act`` and ``spectral_norm`` are then those of ``NegativeEnergy``). Samples come from
    ``steps`` (K) of Langevin dynamics of size ``step_size`` (s) from N(0, I). Where f is such an
    MLP, its gradient is written out (``langevin_mlp``): the same chains, faster.
    """

    tilted = True
    learns_by: ClassVar[PriorObjective | None] = Contrast()

    def __init__(
        self,
        dims: tuple[int, ...],
        f: nn.Module | Sequence[int] = (100, 100),
        *,
        act: str = "lrelu",
        spectral_norm: float | None = None,
        steps: int = 60,
        step_size: float = 0.4,
    ):
        super().__init__(dims)
        check({"prior_steps": steps, "prior_step_size": step_size})
        self.steps, self.step_size = steps, step_size
        if not isinstance(f, nn.Module):
            f = NegativeEnergy(self.dim, tuple(f), act=act, spectral_norm=spectral_norm)
        self.net = f

    def f(self, z: Tensor) -> Tensor:
        """The negative energy. Shapes: (B, D) -> (B,)."""
        value = self.net(z)
        if value.shape not in ((len(z),), (len(z), 1)):
            raise UsageError(
                f"f makes {tuple(value.shape)} of codes {tuple(z.shape)}: it must give one number "
                f"for each code, (B,) or (B, 1)."
            )
        return value.squeeze(1) if value.dim() == 2 else value

    def chain(
        self,
        z: Tensor,
        *,
        steps: int,
        rng: torch.Generator | int | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """As of ``Prior``, by the quickest way that gives the same chains."""
        net = self.net
        ours = isinstance(net, NegativeEnergy | SumOfEnergies) and net.act in CLOSED_FORM
        plain = type(self).base_log_prob is NormalBase.base_log_prob and type(self).f is EBMPrior.f
        if callback is None and ours and plain:
            options = {"steps": steps, "step_size": self.step_size, "rng": rng}
            return langevin_mlp(net.layers(), net.act, z, **options)
        return super().chain(z, steps=steps, rng=rng, callback=callback)


class RatioPrior(EBMPrior):
    r"""p(z) = prod_k r_k(z) N(z; 0, I) / Z, r_k = exp(logit_k): a product of density ratios, each
    the logit of a classifier of posterior against prior samples. So f(z) = sum_k logit_k(z).

    One ratio: noise contrastive prior, NCP-VAE (NeurIPS 2021); several, learned one after the
    other: Multi-NCP (NeurIPS 2022). A ratio joins f when it has learned (``switch_on``); before
    the first one has, the prior is N(0, I).
    """

    learns_by: ClassVar[PriorObjective | None] = NoiseContrast()
    net: SumOfEnergies

    def __init__(
        self,
        dims: tuple[int, ...],
        ratios: int = 1,
        hidden: tuple[int, ...] = (100, 100),
        *,
        act: str = "lrelu",
        spectral_norm: float | None = None,
        steps: int = 60,
        step_size: float = 0.4,
    ):
        options = {"act": act, "spectral_norm": spectral_norm}
        sum_of_logits = SumOfEnergies(ratios, sum(dims), hidden, **options)
        super().__init__(dims, sum_of_logits, steps=steps, step_size=step_size)
        self.ratios, self.tilted = ratios, False
        self.register_load_state_dict_post_hook(_look)

    def look(self) -> None:
        """See from the switches whether any ratio is on, after they were set from outside."""
        self.tilted = bool(self.net.on.any())

    def switch_on(self) -> None:
        """Let the ratio in training join f; it stays as it is from now on."""
        off = (self.net.on == 0).nonzero()
        if len(off):
            self.net.on[off[0]] = 1
        self.look()

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


def _look(prior: RatioPrior, incompatible: object) -> None:  # a name, so that priors pickle
    prior.look()
