"""AILBoost's mathematics on a finite MDP with exact occupancies, by hand, and by finite differences."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from finite_mdp import FiniteMDP, kl
from torch import Tensor, nn

from rlopt.agents.imitation import adversarial_losses as losses
from rlopt.agents.imitation.discriminator import Discriminator
from rlopt.errors import ConfigError, UnknownNameError
from rlopt.replay.mixture import WeightedRows


@pytest.fixture(scope="module")
def mdp() -> FiniteMDP:
    return FiniteMDP(n_states=4, n_actions=3, discount=0.9, seed=1)


def softmax_policy(mdp: FiniteMDP, scale: float, seed: int) -> np.ndarray:
    logits = scale * np.random.default_rng(seed).normal(size=mdp.shape)
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def column(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64).reshape(-1, 1)


def tabular_optimum(loss: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """The minimiser (size, 1) of a convex function of a table, by L-BFGS."""
    table = torch.zeros(size, 1, dtype=torch.float64, requires_grad=True)
    search = {"tolerance_grad": 1e-12, "tolerance_change": 1e-16, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS([table], max_iter=500, **search)  # type: ignore[arg-type]

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(table)
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[arg-type]
    return table.detach()


def test_occupancies_are_those_of_long_simulated_rollouts(mdp: FiniteMDP) -> None:
    """The helper itself, by summing gamma^t P(s_t, a_t) over 400 steps; 0.9^400 is 5e-19."""
    policy = softmax_policy(mdp, 1.0, 0)
    states, total = mdp.first, np.zeros(mdp.shape)
    for step in range(400):
        total += 0.1 * 0.9**step * states[:, None] * policy
        states = np.einsum("s,sa,sat->t", states, policy, mdp.transitions)
    np.testing.assert_allclose(mdp.occupancy(policy), total.reshape(-1), atol=1e-12)
    assert mdp.deterministic.shape == (81, 12)
    np.testing.assert_allclose(mdp.deterministic.sum(axis=1), 1)


@pytest.mark.parametrize("divergence", ["reverse_kl", "js"])
def test_the_optimal_discriminator_is_the_log_ratio(mdp: FiniteMDP, divergence: Any) -> None:
    expert, policy = (mdp.occupancy(softmax_policy(mdp, 1.0, seed)) for seed in (0, 1))
    # The weights are not normalised, as those of absorbing states are not.
    weights = (column(3 * expert), column(0.2 * policy))
    optimum = tabular_optimum(
        lambda table: losses.discriminator_loss(table, table, *weights, divergence=divergence)[0], len(expert)
    )
    np.testing.assert_allclose(optimum.flatten(), np.log(expert / policy), atol=1e-6)
    best = losses.discriminator_loss(optimum, optimum, *weights, divergence=divergence)[0].item()
    middle = (expert + policy) / 2
    by_hand = {"reverse_kl": 1 - kl(policy, expert), "js": 2 * math.log(2) - kl(expert, middle) - kl(policy, middle)}
    assert best == pytest.approx(by_hand[divergence], abs=1e-10)
    estimate = losses.estimated_reverse_kl(optimum, optimum, *weights)
    assert estimate.item() == pytest.approx(kl(policy, expert), abs=1e-6)


def test_the_estimated_divergence_never_exceeds_the_divergence(mdp: FiniteMDP) -> None:
    expert, policy = (mdp.occupancy(softmax_policy(mdp, 1.0, seed)) for seed in (0, 1))
    generator = np.random.default_rng(2)
    for spread in (0.01, 0.3, 2.0):
        outputs = column(np.log(expert / policy) + spread * generator.normal(size=len(expert)))
        estimate = losses.estimated_reverse_kl(outputs, outputs, column(expert), column(policy))
        assert estimate < kl(policy, expert)


@pytest.mark.parametrize("seed", range(3))
def test_exact_best_responses_with_a_small_weight_lower_the_divergence_monotonically(mdp: FiniteMDP, seed: int) -> None:
    """Reward ln(d_e / d_t), its best policy, the mixture by the replay's weights: the divergence falls every round."""
    expert = mdp.occupancy(softmax_policy(mdp, 1.5, seed))
    learners = [mdp.occupancy(softmax_policy(mdp, 2.0, 10 + seed))]
    weighted = WeightedRows("constant", mixture_weight=0.01, truncated_mass=0.0, max_learners=None)
    weighted.add_learner(np.array([0]))
    divergences: list[float] = []
    for learner in range(1, 121):
        mixture = weighted.weights @ np.stack(learners)
        divergences.append(kl(mixture, expert))
        discriminator = column(np.log(expert / mixture))
        reward = losses.reward(discriminator, divergence="reverse_kl").numpy().flatten()
        response = mdp.best_response(reward)
        # The divergence is convex and 0 at the expert, who is no better at this reward than the best response.
        assert reward @ (response - mixture) >= divergences[-1] - 1e-12
        learners.append(response)
        weighted.add_learner(np.array([learner]))
    assert (np.diff(divergences) < 0).all()
    assert divergences[-1] < 0.35 * divergences[0]


def network(seed: int = 0, **settings: Any) -> Discriminator:
    torch.manual_seed(seed)
    return Discriminator(3, (8, 8), **{"activation": "tanh", **settings}).double()


def test_one_learner_only_is_reverse_kl_imitation_on_its_own_rollout() -> None:
    """Same loss and gradient as the on-policy method, whose gradient is E_pi[dD] - E_e[exp(-D) dD], row by row."""
    replay, expert = torch.randn(10, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    discriminator = network()
    parameters = list(discriminator.parameters())
    weighted = WeightedRows()
    weighted.add_learner(np.array([7, 2, 4, 9]))
    rows, weights = weighted.row_weights()
    assert weights.tolist() == [0.25] * 4
    loss, _ = losses.discriminator_loss(
        discriminator(expert), discriminator(replay[rows]), torch.ones(6, 1), column(weights)
    )
    gradients = torch.autograd.grad(loss, parameters)
    expected, value = [torch.zeros_like(part) for part in parameters], 0.0
    for batch, on_expert in ((replay[[7, 2, 4, 9]], False), (expert, True)):
        for row in batch:
            output = discriminator(row[None]).squeeze()
            factor = -math.exp(-output.item()) if on_expert else 1.0
            value += (-factor if on_expert else output.item()) / len(batch)
            for total, part in zip(expected, torch.autograd.grad(output, parameters), strict=True):
                total += factor * part / len(batch)
    assert loss.item() == pytest.approx(value, rel=1e-12)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


def test_the_loss_on_weighted_rows_is_the_mixture_of_the_learners_losses() -> None:
    replay, expert = torch.randn(12, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    outputs, on_expert, ones = network()(replay), network()(expert), torch.ones(6, 1)
    weighted, rollouts = WeightedRows(mixture_weight=0.3), [np.arange(5), np.arange(5, 7), np.arange(7, 12)]
    for rows in rollouts:
        weighted.add_learner(rows)
    rows, weights = weighted.row_weights()
    whole, _ = losses.discriminator_loss(on_expert, outputs[rows], ones, column(weights))
    parts = [losses.discriminator_loss(on_expert, outputs[own], ones, column(np.ones(len(own))))[0] for own in rollouts]
    assert whole.item() == pytest.approx(sum(w * part.item() for w, part in zip([0.49, 0.21, 0.3], parts, strict=True)))


def test_losses_by_hand() -> None:
    """D_e = ln 2 and 0 with weights 1 and 3; D = ln 3 alone."""
    expert, policy, weights = column([math.log(2), 0.0]), column([math.log(3)]), column([1.0, 3.0])
    by_hand = {
        # (1/2 + 3) / 4 + ln 3
        "reverse_kl": 0.875 + math.log(3),
        # (ln 3/2 + 3 ln 2) / 4 + ln 4
        "js": (math.log(1.5) + 3 * math.log(2)) / 4 + math.log(4),
        "wasserstein": math.log(3) - math.log(2) / 4,
    }
    for divergence, expected in by_hand.items():
        loss, info = losses.discriminator_loss(expert, policy, weights, column([5.0]), divergence=divergence)  # type: ignore[arg-type]
        assert loss.item() == pytest.approx(expected, rel=1e-12) and loss.dim() == 0
        assert info["discriminator_loss"] == loss and not info["discriminator_loss"].requires_grad


def test_rewards_by_hand() -> None:
    outputs = column([-1000.0, -1.0, 0.0, math.log(3), 1000.0])
    for divergence in ("reverse_kl", "js", "wasserstein"):
        assert torch.equal(losses.reward(outputs, divergence=divergence), outputs)  # type: ignore[arg-type]
    # -ln(1 - sigma(z)) = ln(1 + e^z); sigma(ln 3) = 3/4.
    gail = losses.reward(outputs, divergence="js", form="gail")
    np.testing.assert_allclose(
        gail.flatten(), [0.0, math.log(1 + math.exp(-1)), math.log(2), math.log(4), 1000.0], rtol=1e-9
    )


def test_unknown_names_and_forms_that_do_not_exist_are_refused() -> None:
    one = column([1.0])
    with pytest.raises(UnknownNameError, match="did you mean 'reverse_kl'"):
        losses.discriminator_loss(one, one, one, one, divergence="reverse-kl")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="reward form 'logit'"):
        losses.reward(one, divergence="js", form="logit")  # type: ignore[arg-type]
    for divergence in ("reverse_kl", "wasserstein"):
        with pytest.raises(ConfigError, match=f"divergence 'js', not '{divergence}'"):
            losses.reward(one, divergence=divergence, form="gail")  # type: ignore[arg-type]


def test_shapes_that_would_broadcast_are_refused() -> None:
    good, flat, longer = torch.ones(4, 1), torch.ones(4), torch.ones(5, 1)
    for bad in (flat, longer, torch.ones(4, 2)):
        for position in range(4):
            arguments = [good] * 4
            arguments[position] = bad
            with pytest.raises(ValueError, match=r"\(B, 1\)"):
                losses.discriminator_loss(*arguments)
    losses.discriminator_loss(longer, good, longer, good)  # the two batches may differ
    with pytest.raises(ValueError, match=r"\(B, 1\)"):
        losses.reward(flat)
    inputs = torch.ones(4, 3)
    for other, mix in ((torch.ones(4, 2), good), (torch.ones(5, 3), good), (inputs, flat), (inputs, longer)):
        with pytest.raises(ValueError, match="expected"):
            losses.convex_mix(inputs, other, mix)


def test_convex_mixes_lie_between_by_the_given_part() -> None:
    expert, policy = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[3.0, -2.0], [8.0, 4.0]])
    mixes = losses.convex_mix(expert, policy, torch.tensor([[0.0], [0.75]]))
    assert mixes.tolist() == [[3.0, -2.0], [2.0, 1.0]]


@pytest.mark.parametrize("centre", [0.0, 1.0])
@pytest.mark.parametrize("output", ["tanh", "none"])
def test_the_gradient_penalty_and_its_gradient_are_those_of_finite_differences(output: str, centre: float) -> None:
    discriminator, inputs = network(3, output=output), torch.randn(9, 3, dtype=torch.float64)
    for parameter in discriminator.parameters():
        parameter.data *= 2.5  # gradients on both sides of 1

    def by_differences() -> float:
        norms = []
        with torch.no_grad():
            for row in inputs:
                steps = 1e-5 * torch.eye(3, dtype=torch.float64)
                slopes = (discriminator(row + steps) - discriminator(row - steps)) / 2e-5
                norms.append(slopes.square().sum().sqrt().item())
        if centre:
            assert min(norms) < 1 < max(norms)
        return float(np.mean((np.array(norms) - centre) ** 2))

    penalty = losses.gradient_penalty(discriminator, inputs, centre=centre)
    assert penalty.item() == pytest.approx(by_differences(), rel=1e-7)
    parameters = list(discriminator.parameters())
    gradients = torch.autograd.grad(penalty, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        gradient = torch.zeros_like(parameter) if gradient is None else gradient
        for index in range(0, parameter.numel(), 7):
            entry = parameter.data.view(-1)
            before, sides = entry[index].item(), []
            for step in (1e-4, -1e-4):
                entry[index] = before + step
                sides.append(by_differences())
            entry[index] = before
            slope = (sides[0] - sides[1]) / 2e-4
            assert gradient.flatten()[index].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_the_penalty_of_a_constant_has_a_finite_gradient() -> None:
    """At a gradient of exactly 0 the norm has no derivative: 0 is taken, as torch does, not NaN."""
    layer = nn.Linear(3, 1)
    nn.init.zeros_(layer.weight)
    penalty = losses.gradient_penalty(layer, torch.randn(4, 3))
    assert penalty.item() == 1.0
    assert not torch.autograd.grad(penalty, layer.weight)[0].any()
