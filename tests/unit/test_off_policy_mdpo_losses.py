"""The mathematics of off-policy MDPO against hand-computed values, quadrature and finite differences."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from rlopt.agents.mdpo import off_policy_losses as losses
from rlopt.agents.sac import losses as soft


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def random_parameters(batch: int = 5, dims: int = 3, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    mean, log_std, old_mean, old_log_std, noise = torch.randn(
        5, batch, dims, generator=generator, dtype=torch.float64
    ).mul(0.5)
    return mean, log_std, old_mean, old_log_std, noise


# --- densities ---


def test_gaussian_log_density_is_torchs_bit_for_bit() -> None:
    u, mean, log_std = torch.randn(3, 64, 6)
    std = log_std.exp()
    assert torch.equal(soft.gaussian_log_density(u, mean, std), Normal(mean, std).log_prob(u))


def test_joint_log_prob_is_the_density_of_the_squashed_action() -> None:
    mean, log_std, _, _, noise = random_parameters()
    policy = soft.sample_squashed_gaussian(mean, log_std, noise)
    squashed = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform()])
    expected = squashed.log_prob(policy.actions).sum(dim=1, keepdim=True)
    assert policy.actions.shape == (5, 3)
    # 1e-6 under the logarithm of the Jacobian, where 1 - a^2 is not small
    torch.testing.assert_close(
        soft.joint_log_prob(policy.log_density, policy.log_jacobian), expected, rtol=0, atol=2e-5
    )


@pytest.mark.parametrize(
    ("q", "x", "expected"), [(2.0, 3.0, 2.0), (1.5, 4.0, 2.0), (1.0, math.e, 1.0), (2.0, 0.0, -1.0)]
)
def test_tsallis_log_by_hand(q: float, x: float, expected: float) -> None:
    log_x = torch.tensor(math.log(x) if x else -math.inf, dtype=torch.float64)
    assert losses.tsallis_log(log_x, tsallis_q=q).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("p", [1e-300, 1e-12, 1e-8, 9e-7, 1.1e-6, 1e-5, 1e-3, 0.1])
def test_tsallis_log_is_accurate_near_one_in_single_precision(p: float) -> None:
    log_x = np.linspace(-30, 20, 101)
    # ln x (1 + y/2 + y^2/6 + ...), y = p ln x: the series of expm1, exact to double precision for these y, else numpy's
    y = p * log_x
    series = log_x * (1 + y / 2 + y**2 / 6 + y**3 / 24)
    expected = series if p < 1e-4 else np.expm1(y) / p
    got = losses.tsallis_log(torch.tensor(log_x, dtype=torch.float32), tsallis_q=1 + p)
    # q = 1 + p is itself rounded in double precision, so the step from q back to p is what is compared
    assert np.allclose(got.double().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_tsallis_log_is_continuous_through_one() -> None:
    log_x = torch.linspace(-10, 5, 50, dtype=torch.float64)
    at_one = losses.tsallis_log(log_x, tsallis_q=1.0)
    for p in (1e-4, 1e-5, 2e-6, 5e-7, 1e-9):
        difference = (losses.tsallis_log(log_x, tsallis_q=1 + p) - at_one).abs().max().item()
        assert difference <= p * 100 * 0.51 + 1e-12  # |y ln x / 2| with |ln x| <= 10, first order in p


# --- the divergences ---


def test_gaussian_kl_by_hand() -> None:
    mean, std = torch.tensor([[0.3, 1.0]]), torch.tensor([[1.0, 2.0]])
    old_mean, old_std = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 1.0]])
    # first dimension: 0.3^2 / 2 = 0.045; second: (4 - 1 - ln 4) / 2 = 0.8068528; the sum, not the mean, over dimensions
    assert losses.gaussian_kl(mean, std, old_mean, old_std).item() == pytest.approx(0.045 + 0.8068528, abs=1e-6)


def test_expectation_of_the_kl_estimate_is_the_closed_form() -> None:
    mean, log_std, old_mean, old_log_std, _ = random_parameters(batch=7, dims=1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(10)  # exact: the integrand is a quadratic in the noise
    total = torch.zeros(7, 1, dtype=torch.float64)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        policy = soft.sample_squashed_gaussian(mean, log_std, torch.full_like(mean, node))
        old = soft.gaussian_log_density(policy.pre_tanh, old_mean, old_log_std.exp())
        total += weight * losses.proximity(policy.log_density, old, policy.log_jacobian)
    torch.testing.assert_close(total, losses.gaussian_kl(mean, log_std.exp(), old_mean, old_log_std.exp()))


def test_kl_estimate_is_exact_where_tanh_saturates() -> None:
    # u = 30 in single precision: tanh(u) is 1 and inverting it would give 8.7 or infinity.
    mean, std, old_mean = torch.full((1, 1), 30.0), torch.ones(1, 1), torch.full((1, 1), 29.0)
    policy = soft.sample_squashed_gaussian(mean, std.log(), torch.zeros(1, 1))
    old = soft.gaussian_log_density(policy.pre_tanh, old_mean, std)
    assert policy.actions.item() == 1.0
    assert losses.proximity(policy.log_density, old, policy.log_jacobian).item() == pytest.approx(0.5, abs=1e-6)


def bregman(q: float, mean: torch.Tensor, std: float, old_mean: float, old_std: float) -> torch.Tensor:
    """B_q(pi, pi_k) of two squashed one-dimensional Gaussians by quadrature of the sampled term, constant included."""
    u = torch.linspace(-9, 9, 20001, dtype=torch.float64).unsqueeze(1)
    step = (u[1] - u[0]).item()
    jacobian = soft.log_jacobian(torch.tanh(u))
    new = soft.gaussian_log_density(u, mean, torch.tensor(std, dtype=torch.float64))
    old = soft.gaussian_log_density(
        u, torch.tensor(old_mean, dtype=torch.float64), torch.tensor(old_std, dtype=torch.float64)
    )
    sampled = losses.proximity(new, old, jacobian, tsallis_q=q)
    constant = (q - 1) * losses.regularised_log_prob(old, jacobian, tsallis_q=q)
    return (new.exp() * sampled + old.exp() * constant).sum() * step


@pytest.mark.parametrize("q", [1.0, 1.2, 1.5, 2.0])
def test_divergence_is_zero_at_the_old_policy_and_positive_elsewhere(q: float) -> None:
    def at(mean: float, std: float) -> float:
        return bregman(q, torch.tensor(mean, dtype=torch.float64), std, 0.2, 0.5).item()

    assert at(0.2, 0.5) == pytest.approx(0.0, abs=1e-9)
    for mean, std in ((0.3, 0.5), (0.1, 0.5), (0.2, 0.6), (0.2, 0.4), (1.0, 0.3)):
        assert at(mean, std) > 1e-3


def test_unit_gaussian_divergence_has_the_published_sign_and_size() -> None:
    # mean shift 0.3 at q = 1: KL is 0.3^2 / 2 = +0.045, where a term E_old[log new - log old] would give -0.045
    assert bregman(1.0, torch.tensor(0.3, dtype=torch.float64), 1.0, 0.0, 1.0).item() == pytest.approx(0.045, abs=1e-6)


@pytest.mark.parametrize("q", [1.0, 1.5, 2.0])
def test_expected_gradient_vanishes_at_the_old_policy(q: float) -> None:
    mean = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    bregman(q, mean, 0.5, 0.2, 0.5).backward()
    assert mean.grad is not None and abs(mean.grad.item()) < 1e-7


def test_tsallis_sums_over_dimensions_instead_of_taking_the_joint_power() -> None:
    log_density, jacobian = torch.log(column(2.0).expand(1, 10)), torch.zeros(1, 10, dtype=torch.float64)
    # q = 2: log_2(x) = x - 1 = 1 a dimension, so 10; the joint density 2^10 would give 1023
    assert losses.regularised_log_prob(log_density, jacobian, tsallis_q=2.0).item() == pytest.approx(10.0)


# --- the actor's loss ---


def actor_objective(
    mean: torch.Tensor, log_std: torch.Tensor, *, q: float, floor: float | None = None, kl_coef: float = 0.7
) -> torch.Tensor:
    _, _, old_mean, old_log_std, noise = random_parameters()
    policy = soft.sample_squashed_gaussian(mean, log_std, noise)
    old = soft.gaussian_log_density(policy.pre_tanh, old_mean, old_log_std.exp())
    log_prob = losses.regularised_log_prob(
        policy.log_density, policy.log_jacobian, tsallis_q=q, log_density_floor=floor
    )
    divergence = losses.proximity(policy.log_density, old, policy.log_jacobian, tsallis_q=q, log_density_floor=floor)
    q_values = (policy.actions * torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)).sum(dim=1, keepdim=True)
    loss, _ = losses.actor_loss(log_prob, q_values, divergence, ent_coef=0.2, kl_coef=kl_coef)
    return loss + losses.output_penalty(mean, log_std.exp(), mean_penalty=0.01, log_std_penalty=0.02)


@pytest.mark.parametrize("q", [1.0, 1.0 + 1e-7, 1.3, 2.0])
def test_gradients_against_finite_differences(q: float) -> None:
    mean, log_std, *_ = random_parameters()
    arguments = (mean.requires_grad_(), log_std.requires_grad_())
    assert torch.autograd.gradcheck(lambda m, s: actor_objective(m, s, q=q), arguments, atol=1e-6)


@pytest.mark.parametrize("q", [1.0, 1.5, 2.0])
def test_actor_loss_is_the_papers_formula(q: float) -> None:
    # c lq(pi) + q (lambda - c) lq(pi_k) - Q, written with c and lambda and with the powers themselves
    mean, log_std, old_mean, old_log_std, noise = random_parameters()
    policy = soft.sample_squashed_gaussian(mean, log_std, noise)
    old = soft.gaussian_log_density(policy.pre_tanh, old_mean, old_log_std.exp())

    def lq(log_density: torch.Tensor) -> torch.Tensor:
        density = (log_density - policy.log_jacobian).exp()
        return (density.log() if q == 1 else (density ** (q - 1) - 1) / (q - 1)).sum(dim=1, keepdim=True)

    c, lam, q_values = 0.9, 0.2, column(1.0, -1.0, 2.0, 0.0, 3.0)
    expected = (c * lq(policy.log_density) + q * (lam - c) * lq(old) - q_values).mean()
    loss, info = losses.actor_loss(
        losses.regularised_log_prob(policy.log_density, policy.log_jacobian, tsallis_q=q),
        q_values,
        losses.proximity(policy.log_density, old, policy.log_jacobian, tsallis_q=q),
        ent_coef=lam,
        kl_coef=c - lam,
    )
    torch.testing.assert_close(loss, expected)
    assert torch.equal(info["actor_loss"], loss)


def test_loss_is_continuous_in_q_through_one() -> None:
    mean, log_std, *_ = random_parameters()
    at_one = actor_objective(mean, log_std, q=1.0).item()
    assert actor_objective(mean, log_std, q=1 + 1e-7).item() == pytest.approx(at_one, abs=1e-5)


def test_density_floor_cuts_the_gradient_and_the_default_does_not() -> None:
    # A dimension whose action lies 8 standard deviations from the mean: log-density about -31, below ln 1e-6 = -13.8.
    def gradient(floor: float | None) -> float:
        mean = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
        u = torch.full((1, 1), 0.8, dtype=torch.float64)
        log_density = soft.gaussian_log_density(u, mean, torch.full_like(u, 0.1))
        jacobian = soft.log_jacobian(torch.tanh(u))
        losses.regularised_log_prob(log_density, jacobian, log_density_floor=floor).sum().backward()
        assert mean.grad is not None
        return mean.grad.item()

    assert gradient(math.log(1e-6)) == 0.0
    assert gradient(None) == pytest.approx(80.0)  # (u - mean) / std^2


def test_output_penalty_by_hand() -> None:
    mean, std = torch.tensor([[1.0, 3.0]]), torch.tensor([[math.e, 1.0]])
    # 0.1 * (1 + 9)/2 + 0.5 * (1 + 0)/2
    assert losses.output_penalty(mean, std, mean_penalty=0.1, log_std_penalty=0.5).item() == pytest.approx(0.75)


# --- the critic's losses ---


def test_soft_value_gives_each_state_its_own_entropy() -> None:
    q_values = torch.tensor([[1.0, 2.0], [5.0, 3.0]], dtype=torch.float64)
    # min Q - 0.5 log pi: 1 + 0.5, 3 - 0.5. Averaging log pi over the batch, as shapes (B,) and (B, 1) do, gives 1, 3.
    values = losses.soft_value(q_values, column(-1.0, 1.0), ent_coef=0.5)
    assert values.tolist() == [[1.5], [2.5]]


def test_bound_on_the_critics_log_density() -> None:
    q_values = torch.zeros(3, 2, dtype=torch.float64)
    values = losses.soft_value(q_values, column(-9.0, 1.0, 9.0), ent_coef=1.0, log_prob_bound=2.0)
    assert values.flatten().tolist() == [2.0, -1.0, -2.0]


def test_targets_and_regressions_by_hand() -> None:
    targets = soft.td_target(column(1.0, 2.0), column(0.9, 0.0), column(10.0, 10.0))
    assert targets.flatten().tolist() == [10.0, 2.0]
    loss, info = soft.critic_loss((column(8.0, 2.0), column(10.0, 5.0)), targets)
    assert loss.item() == pytest.approx(0.5 * (4 / 2 + 9 / 2))
    assert info["critic_loss"].item() == loss.item() and not info["critic_loss"].requires_grad
    assert losses.value_loss(column(8.0, 2.0), targets)[0].item() == pytest.approx(0.5 * 4 / 2)


def test_entropy_coefficient_moves_towards_the_target() -> None:
    log_ent_coef = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    loss, _ = soft.ent_coef_loss(log_ent_coef, column(1.0, 2.0), target_entropy=-3.0)
    loss.backward()
    # entropy -1.5 is above the target -3, so the gradient, -(1.5 - 3) = 1.5, lowers lambda
    assert log_ent_coef.grad is not None and log_ent_coef.grad.item() == pytest.approx(1.5)


@pytest.mark.parametrize("shape", [(4,), (4, 4), (3, 1), (4, 2), ()])
def test_shapes_that_would_broadcast_are_refused(shape: tuple[int, ...]) -> None:
    good, bad = torch.zeros(4, 1), torch.zeros(shape)
    with pytest.raises(ValueError, match=r"\(B, 1\)"):
        losses.value_loss(good, bad)
    with pytest.raises(ValueError, match=r"\(B, 1\)"):
        losses.soft_value(torch.zeros(4, 2), bad, ent_coef=0.1)
    with pytest.raises(ValueError, match=r"\(B, 1\)"):
        losses.actor_loss(bad, good, ent_coef=0.1)
    with pytest.raises(ValueError, match=r"\(B, 1\)"):
        losses.actor_loss(good, good, bad, ent_coef=0.1, kl_coef=0.1)
    with pytest.raises(ValueError, match=r"\(B, 1\)"):
        soft.td_target(good, bad, good)
    with pytest.raises(ValueError, match=r"\(B, 1\)"):
        soft.critic_loss([good, bad], good)
