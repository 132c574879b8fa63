"""The computations in the form of the papers' published code, written anew for the comparison.

Autograd in every step of a chain, float32 throughout, torch.optim.Adam as it comes, images as
floats. The nets are the very same modules as ours.
"""

import torch
from torch import Tensor

from jlebm_core.data import to_float
from jlebm_core.systems import System


def prior_chain(prior, n: int, *, steps: int, step_size: float) -> Tensor:
    """z <- z - s^2/2 (grad E + z) + s eps from N(0, I), E = -f, one autograd call a step."""
    z = torch.randn(n, prior.dim, device=prior.base_sample(1).device)
    for _ in range(steps):
        z = z.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(-prior.f(z).sum(), z)
        z = z.data - 0.5 * step_size**2 * (gradient + z.data) + step_size * torch.randn_like(z)
    return z.detach()


def posterior_chain(system: System, x: Tensor, *, steps: int, step_size: float) -> Tensor:
    """The same with grad of SSE / (2 sigma^2), by an autograd call of its own."""
    z = torch.randn(len(x), system.prior.dim, device=x.device)
    weight = 1 / (2 * system.config.sigma**2)
    for _ in range(steps):
        z = z.detach().requires_grad_(True)
        loss = weight * (system.generator.mean(z) - x).square().sum()
        (of_image,) = torch.autograd.grad(loss, z)
        (of_prior,) = torch.autograd.grad(-system.prior.f(z).sum(), z)
        drift = of_image + of_prior + z.data
        z = z.data - 0.5 * step_size**2 * drift + step_size * torch.randn_like(z)
    return z.detach()


class Training:
    """A training step of ``system`` on ``images`` (uint8): variational, or with both chains."""

    def __init__(self, system: System, images: Tensor):
        c = system.config
        plain = system.to(memory_format=torch.contiguous_format)  # as convolutions come
        self.system, self.images = plain.train(), to_float(images)
        nets = [*system.generator.parameters(), *system.inference.parameters()]
        decay = {"weight_decay": c.weight_decay}
        self.nets = torch.optim.Adam(nets, c.lr, betas=c.betas, foreach=False, **decay)
        alpha = system.prior.parameters()
        self.prior = torch.optim.Adam(alpha, c.lr_prior, betas=c.betas, foreach=False)

    def step(self) -> None:
        """One update of generator and inference, then one of the prior."""
        c, system = self.system.config, self.system
        chosen = torch.randint(len(self.images), (c.batch,), device=self.images.device)
        x = self.images[chosen]
        amortised = system.inference.amortised
        if amortised:
            q = system.inference.posterior(x)
            z = q.rsample()
            log_base = -0.5 * (z.square() + 1.8378770664).sum(1)
            regulariser = (q.log_prob(z) - log_base - system.prior.f(z)).mean()
        else:
            chain = {"steps": c.posterior_steps, "step_size": c.posterior_step_size}
            z, regulariser = posterior_chain(system, x, **chain), 0.0
        error = (system.generator.mean(z) - x).square().sum() / len(x)
        self.nets.zero_grad()
        (error / (2 * c.sigma**2) + regulariser).backward()
        self.nets.step()
        chain = {"steps": c.prior_steps, "step_size": c.prior_step_size}
        z_neg = prior_chain(system.prior, len(x), **chain)
        self.prior.zero_grad()
        (system.prior.f(z_neg).mean() - system.prior.f(z.detach()).mean()).backward()
        self.prior.step()
        error.item()  # it is printed in every iteration
