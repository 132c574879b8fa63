"""What is minimised, and whom the gradients reach."""

from types import SimpleNamespace

import pytest
import torch

from jlebm_core import objectives, systems
from jlebm_core.inference import DiagonalGaussian
from jlebm_core.priors import EBMPrior, standard_normal_log_prob

IMAGE = (1, 28, 28)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=4):
    return torch.rand(n, *IMAGE, generator=seeded(9)) * 2 - 1


def built(name, **overrides):
    return systems.build(systems.configure(name, "mnist", IMAGE, **overrides))


def parameters_with_gradients(system):
    return {
        part
        for part in ("prior", "generator", "inference")
        if any(p.grad is not None for p in getattr(system, part).parameters())
    }


@pytest.mark.parametrize("estimate", objectives.KL_ESTIMATES)
def test_a_prior_without_energy_gives_vlaes_loss_to_the_last_bit(estimate):
    joint, vlae = built("joint-ebm", prior_hidden=(), kl=estimate), built("vlae", kl=estimate)
    vlae.load_state_dict(joint.state_dict())
    losses = [s.loss(images(), prior_weight=0.7, rng=seeded()) for s in (joint, vlae)]
    assert losses[0].loss.equal(losses[1].loss)
    for outcome in losses:
        outcome.loss.backward()
    for a, b in zip(joint.parameters(), vlae.parameters(), strict=True):
        assert a.grad.equal(b.grad)


def test_a_constant_energy_moves_the_loss_by_the_constant_and_no_gradient():
    joint, vlae = built("joint-ebm"), built("vlae")
    vlae.load_state_dict({k: v for k, v in joint.state_dict().items() if not k.startswith("prior")})
    for p in joint.prior.parameters():
        torch.nn.init.zeros_(p)
    joint.prior.net.net[-1].bias.data.fill_(2.0)
    a, b = (s.loss(images(), prior_weight=1.0, rng=seeded()) for s in (joint, vlae))
    torch.testing.assert_close(a.loss, b.loss - 2.0)
    a.loss.backward()
    b.loss.backward()
    for p, q in zip(joint.generator.parameters(), vlae.generator.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=0)


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_gradients_reach_the_nets_and_only_the_nets_then_the_prior_and_only_the_prior(name):
    system = built(name, posterior_steps=2, prior_steps=2)
    outcome = system.loss(images(), prior_weight=1.0, rng=seeded())
    outcome.loss.backward()
    amortised = {"inference"} if system.inference.amortised else set()
    assert parameters_with_gradients(system) == {"generator"} | amortised
    assert not outcome.z_pos.requires_grad
    if not system.prior.learned:
        return
    system.zero_grad(set_to_none=True)
    z_neg = system.prior.sample(4, rng=seeded())
    loss, _ = objectives.prior_loss(system.prior, outcome.z_pos, z_neg)
    loss.backward()
    assert parameters_with_gradients(system) == {"prior"}


def test_the_encoder_feels_the_energy():
    """d loss / d phi includes -grad f, so a tilted prior must change the encoder's gradient."""
    grads = []
    for hidden in ((), (20,)):
        system = built("joint-ebm", prior_hidden=hidden)
        system.loss(images(), prior_weight=1.0, rng=seeded()).loss.backward()
        grads.append(system.inference.heads[0][0].weight.grad)
    assert not torch.allclose(*grads)


def test_prior_weight_scales_kl_minus_f_as_one_term():
    system = built("joint-ebm")
    system.eval()
    at = [system.loss(images(), prior_weight=w, rng=seeded()).loss for w in (0.0, 0.5, 1.0)]
    torch.testing.assert_close(at[1] - at[0], at[2] - at[1], rtol=1e-3, atol=1e-3)
    outcome = system.loss(images(), prior_weight=0.0, rng=seeded())
    torch.testing.assert_close(outcome.loss, outcome.terms["nll"])


def test_elbo_of_a_linear_gaussian_system_is_the_log_evidence():
    """With the exact posterior as q, the ELBO equals log p(x), whatever z was drawn."""
    a, sigma = 0.8, 0.5
    x = torch.tensor([[0.3], [-1.1], [2.0]])
    variance = 1 / (1 + a**2 / sigma**2)
    q = DiagonalGaussian(variance * a * x / sigma**2, torch.full_like(x, variance).log())
    generator = SimpleNamespace(
        log_lik=lambda x, z: torch.distributions.Normal(a * z, sigma).log_prob(x).sum(1)
    )
    prior = EBMPrior((1,), ())
    inference = SimpleNamespace(posterior=lambda x: q)
    system = SimpleNamespace(prior=prior, generator=generator, inference=inference)
    evidence = torch.distributions.Normal(0.0, (a**2 + sigma**2) ** 0.5).log_prob(x)
    outcome = objectives.variational(system, x, kl="monte-carlo", rng=seeded())
    torch.testing.assert_close(outcome.loss, -evidence.mean())


def test_prior_loss_gradient_is_the_likelihoods():
    """On a grid, with exact expectations, grad of the loss = - grad of E_data[log p]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior = EBMPrior((2,), (16,)).double()
    axis = torch.linspace(-5, 5, 101, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    data = torch.randn(50, 2, generator=seeded(), dtype=torch.float64)
    log_p = prior.log_prob(grid)
    log_z = log_p.logsumexp(0)
    (prior.f(data) + standard_normal_log_prob(data) - log_z).mean().neg().backward()
    exact = [p.grad.clone() for p in prior.parameters()]
    prior.zero_grad()
    weights = (log_p - log_z).exp().detach()
    ((weights * prior.f(grid)).sum() - prior.f(data).mean()).backward()
    for p, e in zip(prior.parameters(), exact, strict=True):
        torch.testing.assert_close(p.grad, e)
    prior.zero_grad()
    rows = weights.multinomial(200_000, replacement=True, generator=seeded(1))
    loss, _ = objectives.prior_loss(prior, data, grid[rows])
    loss.backward()
    flat = torch.cat([p.grad.flatten() for p in prior.parameters()])
    target = torch.cat([e.flatten() for e in exact])
    # 200,000 draws: a relative error of order 1 / sqrt(200,000) = 0.002, times the terms' spread
    assert (flat - target).norm() < 0.03 * target.norm()


def test_penalty_is_on_the_square_of_f():
    prior = EBMPrior((2,), (16,))
    z_pos, z_neg = torch.randn(2, 8, 2, generator=seeded())
    plain, terms = objectives.prior_loss(prior, z_pos, z_neg)
    with_penalty, _ = objectives.prior_loss(prior, z_pos, z_neg, penalty=0.5)
    squares = prior.f(z_pos).square().mean() + prior.f(z_neg).square().mean()
    torch.testing.assert_close(with_penalty - plain, 0.5 * squares)
    torch.testing.assert_close(plain, terms["f_neg"] - terms["f_pos"])


def test_frozen_restores_also_after_an_error():
    prior = EBMPrior((2,), (4,))
    with pytest.raises(ZeroDivisionError), objectives.frozen(prior):
        assert not any(p.requires_grad for p in prior.parameters())
        1 / 0  # noqa: B018
    assert all(p.requires_grad for p in prior.parameters())
