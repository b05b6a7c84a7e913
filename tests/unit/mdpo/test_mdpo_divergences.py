"""Divergences against numerical quadrature, torch's own KL, and enumeration."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, kl_divergence

from rlopt.agents.mdpo.losses import bernoulli_divergence, categorical_divergence, divergence, gaussian_divergence
from rlopt.agents.ppo.distributions import Bernoulli, Categorical


def random_gaussians(batch: int = 7, dims: int = 3) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)

    def draw() -> torch.Tensor:
        return torch.randn(batch, dims, generator=generator, dtype=torch.float64)

    return draw(), (0.3 * draw()).exp(), draw(), (0.3 * draw()).exp()


def log_q(x: float, q: float) -> float:
    return math.log(x) if q == 1 else (x ** (q - 1) - 1) / (q - 1)


def quadrature(mean: float, std: float, old_mean: float, old_std: float, q: float) -> float:
    """B_q from its definition, integrated numerically."""

    def density(x: float, m: float, s: float) -> float:
        return math.exp(-0.5 * ((x - m) / s) ** 2) / (s * math.sqrt(2 * math.pi))

    def integrand(x: float) -> float:
        new, old = density(x, mean, std), density(x, old_mean, old_std)
        return new * (log_q(new, q) - q * log_q(old, q)) + (q - 1) * old * log_q(old, q)

    width = 12 * max(std, old_std)
    low, high = min(mean, old_mean) - width, max(mean, old_mean) + width
    return quad(integrand, low, high, limit=400, epsabs=1e-12)[0]


def test_kl_is_new_against_old_summed_over_dimensions() -> None:
    mean, std, old_mean, old_std = random_gaussians()
    expected = kl_divergence(Independent(Normal(mean, std), 1), Independent(Normal(old_mean, old_std), 1))
    actual = gaussian_divergence(mean, std, old_mean, old_std, q=1.0)
    assert actual.shape == (7,)
    torch.testing.assert_close(actual, expected)
    backwards = kl_divergence(Independent(Normal(old_mean, old_std), 1), Independent(Normal(mean, std), 1))
    assert not torch.allclose(actual, backwards, rtol=1e-2)


@pytest.mark.parametrize("q", [1.0, 1.2, 1.5, 2.0])
def test_gaussian_divergence_agrees_with_quadrature(q: float) -> None:
    mean, std, old_mean, old_std = random_gaussians(batch=3, dims=2)
    actual = gaussian_divergence(mean, std, old_mean, old_std, q=q)
    for row in range(3):
        columns = zip(*(x[row].tolist() for x in (mean, std, old_mean, old_std)), strict=True)
        expected = sum(quadrature(*column, q) for column in columns)
        assert actual[row].item() == pytest.approx(expected, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(("q", "expected"), [(1.0, 0.045), (1.5, 0.023), (2.0, 0.013)])
def test_tsallis_penalises_distance_of_shifted_unit_gaussians(q: float, expected: float) -> None:
    """The released code has the opposite sign: it rewards moving away (-0.045, -0.015, -0.006 on this pair)."""
    one = torch.ones(1, 1)
    actual = gaussian_divergence(0.3 * one, one, 0 * one, one, q=q)
    assert actual.item() == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("q", [1.0, 1.3, 2.0])
def test_divergences_vanish_only_at_the_old_policy_with_zero_gradient(q: float) -> None:
    mean, std, other_mean, other_std = random_gaussians()
    new_mean, new_std = mean.clone().requires_grad_(), std.clone().requires_grad_()
    at_old = gaussian_divergence(new_mean, new_std, mean, std, q=q)
    torch.testing.assert_close(at_old, torch.zeros_like(at_old), atol=1e-12, rtol=0)
    gradients = torch.autograd.grad(at_old.sum(), [new_mean, new_std])
    for gradient in gradients:
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)
    assert (gaussian_divergence(mean, std, other_mean, other_std, q=q) > 0).all()
    logits, other = torch.randn(50, 4, dtype=torch.float64), torch.randn(50, 4, dtype=torch.float64)
    assert categorical_divergence(logits, logits, q=q).abs().max() < 1e-12
    assert (categorical_divergence(logits, other, q=q) > 0).all()


def test_tsallis_is_continuous_at_q_one_in_single_precision() -> None:
    gaussians = [x.float() for x in random_gaussians()]
    kl = gaussian_divergence(*gaussians, q=1.0)
    torch.testing.assert_close(gaussian_divergence(*gaussians, q=1.0 + 1e-5), kl, rtol=2e-4, atol=1e-5)
    logits, old = torch.randn(20, 5), torch.randn(20, 5)
    torch.testing.assert_close(
        categorical_divergence(logits, old, q=1.0 + 1e-5),
        categorical_divergence(logits, old, q=1.0),
        rtol=1e-3,
        atol=1e-5,
    )


def test_gaussian_gradients_agree_with_finite_differences() -> None:
    mean, std, old_mean, old_std = random_gaussians(batch=2, dims=2)
    for q in (1.0, 1.5):
        assert torch.autograd.gradcheck(
            lambda m, s, q=q: gaussian_divergence(m, s, old_mean, old_std, q=q),
            (mean.requires_grad_(), std.requires_grad_()),
        )


@pytest.mark.parametrize("q", [1.0, 1.4, 2.0])
def test_discrete_divergences_agree_with_enumeration(q: float) -> None:
    generator = np.random.default_rng(1)
    logits, old_logits = generator.normal(size=(5, 4)), generator.normal(size=(5, 4))
    actual = categorical_divergence(torch.tensor(logits), torch.tensor(old_logits), q=q)
    for row in range(5):
        new = np.exp(logits[row]) / np.exp(logits[row]).sum()
        old = np.exp(old_logits[row]) / np.exp(old_logits[row]).sum()
        expected = sum(
            p * (log_q(p, q) - q * log_q(o, q)) + (q - 1) * o * log_q(o, q) for p, o in zip(new, old, strict=True)
        )
        assert actual[row].item() == pytest.approx(expected, abs=1e-12)


def test_discrete_kl_agrees_with_torch() -> None:
    logits, old = torch.randn(6, 3), torch.randn(6, 3)
    expected = kl_divergence(TorchCategorical(logits=logits), TorchCategorical(logits=old))
    torch.testing.assert_close(categorical_divergence(logits, old, q=1.0), expected)
    expected = kl_divergence(TorchBernoulli(logits=logits), TorchBernoulli(logits=old)).sum(-1)
    torch.testing.assert_close(bernoulli_divergence(logits, old, q=1.0), expected)


@pytest.mark.parametrize("q", [1.0, 1.5])
def test_what_is_masked_adds_nothing(q: float) -> None:
    """Logits of -inf leave the distribution of the others: same divergence, same gradient, and 0 at the old policy."""
    logits, old = torch.randn(5, 3, dtype=torch.float64, requires_grad=True), torch.randn(5, 3, dtype=torch.float64)
    masked = torch.cat([logits, torch.full((5, 1), -math.inf, dtype=torch.float64)], dim=1)
    old_masked = torch.cat([old, torch.full((5, 1), -math.inf, dtype=torch.float64)], dim=1)
    found, wanted = categorical_divergence(masked, old_masked, q=q), categorical_divergence(logits, old, q=q)
    torch.testing.assert_close(found, wanted)
    mine, theirs = (torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (found, wanted))
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(Categorical((masked,)).entropy(), Categorical((logits,)).entropy())
    if q == 1:  # what the old policy never does is infinitely far
        assert categorical_divergence(torch.zeros(1, 2), torch.tensor([[0.0, -math.inf]]), q=q).isinf()


@pytest.mark.parametrize("forced", [-math.inf, math.inf])
@pytest.mark.parametrize("q", [1.0, 1.5])
def test_a_binary_action_that_is_masked_adds_nothing(q: float, forced: float) -> None:
    """A logit of -inf leaves 0 and one of inf leaves 1: the other actions' divergence, entropy, gradients remain."""
    logits, old = torch.randn(5, 3, dtype=torch.float64, requires_grad=True), torch.randn(5, 3, dtype=torch.float64)
    column = torch.full((5, 1), forced, dtype=torch.float64)
    actions = torch.bernoulli(torch.full((5, 3), 0.5, dtype=torch.float64))
    mine, theirs = Bernoulli(torch.cat([logits, column], dim=1)), Bernoulli(logits)
    taken = torch.cat([actions, (column > 0).double()], dim=1)
    values = [
        (divergence(mine, Bernoulli(torch.cat([old, column], dim=1)), q=q), divergence(theirs, Bernoulli(old), q=q)),
        (mine.entropy(), theirs.entropy()),
        (mine.log_prob(taken), TorchBernoulli(logits=logits).log_prob(actions).sum(-1)),
    ]
    for found, wanted in values:
        torch.testing.assert_close(found, wanted)
        grads = (torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (found, wanted))
        torch.testing.assert_close(*grads)
    torch.testing.assert_close(theirs.entropy(), TorchBernoulli(logits=logits).entropy().sum(-1))
    assert mine.log_prob(1 - taken).isneginf().all()
