"""What is minimised, and whom the gradients reach."""

import pytest
import torch
from torch import nn

from jlebm_core import systems
from jlebm_core.gaussians import DiagonalGaussian, standard_normal_log_prob
from jlebm_core.generators import GaussianGenerator
from jlebm_core.inference import Encoder
from jlebm_core.nets import frozen
from jlebm_core.objectives import KL_ESTIMATES, Contrast, NoiseContrast, Variational, free_bits
from jlebm_core.priors import EBMPrior, RatioPrior, StandardNormal

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


@pytest.mark.parametrize("estimate", KL_ESTIMATES)
def test_a_prior_without_energy_gives_vlaes_loss_to_the_last_bit(estimate):
    joint, vlae = built("joint-ebm", prior_hidden=(), kl=estimate), built("vlae", kl=estimate)
    vlae.load_state_dict(joint.state_dict())
    losses = [s.loss(images(), weight=0.7, rng=seeded()) for s in (joint, vlae)]
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
    a, b = (s.loss(images(), weight=1.0, rng=seeded()) for s in (joint, vlae))
    torch.testing.assert_close(a.loss, b.loss - 2.0)
    a.loss.backward()
    b.loss.backward()
    for p, q in zip(joint.generator.parameters(), vlae.generator.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=0)


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_gradients_reach_the_nets_and_only_the_nets_then_the_prior_and_only_the_prior(name):
    system = built(name, posterior_steps=2, prior_steps=2)
    outcome = system.loss(images(), weight=1.0, rng=seeded())
    outcome.loss.backward()
    counts, own = system.parameter_counts(), system.prior.learns_by
    expected = {part for part, count in counts.items() if count} - ({"prior"} if own else set())
    assert parameters_with_gradients(system) == expected
    assert not outcome.z_pos.requires_grad
    if not own or own.at_once:  # what is fitted at once has no gradient
        return
    system.zero_grad(set_to_none=True)
    z_neg = system.prior.sample(4, rng=seeded())
    loss, _ = own(system.prior, outcome.z_pos, z_neg, rng=seeded())
    loss.backward()
    assert parameters_with_gradients(system) == {"prior"}


def test_the_encoder_feels_the_energy():
    """d loss / d phi includes -grad f, so a tilted prior must change the encoder's gradient."""
    grads = []
    for hidden in ((), (20,)):
        system = built("joint-ebm", prior_hidden=hidden)
        system.loss(images(), weight=1.0, rng=seeded()).loss.backward()
        grads.append(system.inference.heads[0][0].weight.grad)
    assert not torch.allclose(*grads)


def test_prior_weight_scales_kl_minus_f_as_one_term():
    system = built("joint-ebm")
    system.eval()
    at = [system.loss(images(), weight=w, rng=seeded()).loss for w in (0.0, 0.5, 1.0)]
    torch.testing.assert_close(at[1] - at[0], at[2] - at[1], rtol=1e-3, atol=1e-3)
    outcome = system.loss(images(), weight=0.0, rng=seeded())
    torch.testing.assert_close(outcome.loss, outcome.terms["nll"])


def test_elbo_of_a_linear_gaussian_system_is_the_log_evidence():
    """With the exact posterior as q, the ELBO equals log p(x), whatever z was drawn."""
    a, sigma = 0.8, 0.5
    x = torch.tensor([[0.3], [-1.1], [2.0]])
    variance = 1 / (1 + a**2 / sigma**2)

    class Exact(Encoder):
        exact_kl = False  # by the one sample: then the bound is exact for every draw

        def posterior(self, x):
            mean = variance * a * x.flatten(1) / sigma**2
            return DiagonalGaussian(mean, torch.full_like(mean, variance).log())

    decoder = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Unflatten(1, (1, 1, 1)))
    decoder[0].weight.data.fill_(a)
    parts = StandardNormal((1,)), GaussianGenerator(decoder, sigma), Exact()
    evidence = torch.distributions.Normal(0.0, (a**2 + sigma**2) ** 0.5).log_prob(x)
    outcome = Variational()(x[..., None, None], *parts, rng=seeded())
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
    loss, _ = Contrast()(prior, data, grid[rows])
    loss.backward()
    flat = torch.cat([p.grad.flatten() for p in prior.parameters()])
    target = torch.cat([e.flatten() for e in exact])
    # 200,000 draws: a relative error of order 1 / sqrt(200,000) = 0.002, times the terms' spread
    assert (flat - target).norm() < 0.03 * target.norm()


def test_penalty_is_on_the_square_of_f():
    prior = EBMPrior((2,), (16,))
    z_pos, z_neg = torch.randn(2, 8, 2, generator=seeded())
    plain, terms = Contrast()(prior, z_pos, z_neg)
    with_penalty, _ = Contrast(penalty=0.5)(prior, z_pos, z_neg)
    squares = prior.f(z_pos).square().mean() + prior.f(z_neg).square().mean()
    torch.testing.assert_close(with_penalty - plain, 0.5 * squares)
    torch.testing.assert_close(plain, terms["f_neg"] - terms["f_pos"])


def test_frozen_restores_also_after_an_error():
    prior = EBMPrior((2,), (4,))
    with pytest.raises(ZeroDivisionError), frozen(prior):
        assert not any(p.requires_grad for p in prior.parameters())
        1 / 0  # noqa: B018
    assert all(p.requires_grad for p in prior.parameters())


def test_noise_contrast_finds_the_ratio_of_two_normals():
    """q = N(m, I) against N(0, I): log q / p = m^T z - |m|^2 / 2, here within the family of f."""
    m = torch.tensor([0.8, -0.4])
    prior = RatioPrior((2,), 1, (1,), act="none")  # the logit is linear in z
    n = 50_000
    z_neg = torch.randn(n, 2, generator=seeded())
    z_pos = torch.randn(n, 2, generator=seeded(1)) + m
    optimiser = torch.optim.LBFGS(prior.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss, _ = NoiseContrast()(prior, z_pos, z_neg)
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        bias, *slopes = prior.logit(corners)
        found = torch.stack([bias, *(s - bias for s in slopes)])
        exact = torch.tensor([-0.5 * m.square().sum(), *m])
        # logistic regression: the covariance of its estimate is the inverse Fisher information
        x = torch.cat([torch.ones(2 * n, 1), torch.cat([z_neg, z_pos])], 1)
        d = torch.sigmoid(x @ exact)
        error = torch.linalg.inv((x * (d * (1 - d))[:, None]).T @ x).diagonal().sqrt()
    assert ((found - exact).abs() < 5 * error).all()


def test_noise_contrast_is_the_cross_entropy_of_the_ratio_in_training():
    prior = RatioPrior((2,), 2, (8,))
    z_pos, z_neg = torch.randn(2, 9, 2, generator=seeded())
    prior.switch_on()
    loss, terms = NoiseContrast()(prior, z_pos, z_neg)
    logits = torch.cat([prior.net.each(z)[:, 1] for z in (z_pos, z_neg)])
    labels = torch.arange(2.0).flip(0).repeat_interleave(9)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(loss, 2 * expected)  # the sum over the two kinds, not their mean
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in prior.net.nets[0].parameters())
    weights = prior.net.each(z_neg)[:, 1].exp()
    ess = weights.sum().square() / weights.square().sum() / 9
    torch.testing.assert_close(terms["ess"], ess.detach())


def test_free_bits_hold_the_gradient_of_groups_below_them():
    kl = torch.tensor([[0.1, 0.1, 3.0], [0.3, 0.1, 1.0]], requires_grad=True)
    total = free_bits(kl, (2, 1), 0.5)  # group means: 0.3 and 2.0
    assert total.item() == pytest.approx(0.5 + 2.0)
    total.backward()
    assert kl.grad.equal(torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5]]))
    assert free_bits(kl, (2, 1), 0.0).item() == pytest.approx(2.3)


def test_the_regularised_loss_is_its_formula():
    system, x = built("rae", code_penalty=0.3, decoder_penalty=0.02).eval(), images()
    z = system.encode(x)
    sse = (x - system.generator.mean(z)).square().sum() / len(x)
    weights = sum(p.square().sum() for p in system.generator.parameters() if p.dim() > 1)
    expected = sse + 0.15 * z.square().sum() / len(x) + 0.02 * weights
    outcome = system.loss(x, weight=0.0, rng=None)
    torch.testing.assert_close(outcome.loss, expected)
    assert outcome.z_pos.equal(z)


def test_a_learned_sigma_is_the_root_mean_squared_error_at_its_optimum():
    system, x = built("2s-vae").eval(), images()
    z = system.encode(x)
    error = system.generator.squared_error(x, z).mean() / x[0].numel()
    with torch.no_grad():
        system.generator.log_sigma.copy_(0.5 * error.log())
    (-system.generator.log_lik(x, z).mean()).backward()
    assert abs(system.generator.log_sigma.grad.item()) < 1e-3 * x[0].numel()
    assert system.generator.sigma.item() ** 2 == pytest.approx(error.item())
