"""The losses of IQ-Learn and ValueDICE against hand-made numbers, closed forms, a small MDP and finite differences."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from rlopt.agents.imitation import losses
from rlopt.agents.imitation.adversarial_losses import gradient_penalty
from rlopt.errors import UnknownNameError

GAMMA = 0.9
N_STATES, N_ACTIONS = 3, 2


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


@pytest.mark.parametrize("value_term", ["value", "v0", "value_expert"])
@pytest.mark.parametrize("regularize_policy", [True, False])
def test_iq_loss_is_the_formula(value_term: losses.ValueTerm, regularize_policy: bool) -> None:
    rng = np.random.default_rng(0)
    q1, q2, v, next_v, end = rng.normal(size=(5, 6))
    discounts, expert = np.array([0.9, 0.0, 0.9, 0.9, 0.0, 0.9]), np.array([0, 0, 0, 1, 1, 1])
    losses_by_hand = []
    for q in (q1, q2):
        y = end + discounts * next_v
        r = q - y
        total = -r[3:].mean()
        total += {"value": (v - y).mean(), "v0": 0.1 * v[3:].mean(), "value_expert": (v - y)[3:].mean()}[value_term]
        total += (r**2 if regularize_policy else r[3:] ** 2).mean() / (4 * 0.3)
        losses_by_hand.append(total)
    loss, info = losses.iq_loss(
        [column(*q1), column(*q2)],
        column(*v),
        column(*next_v),
        column(*end),
        column(*discounts),
        column(*expert),
        gamma=0.9,
        chi_alpha=0.3,
        value_term=value_term,
        regularize_policy=regularize_policy,
    )
    assert loss.item() == pytest.approx(np.mean(losses_by_hand), rel=1e-12)
    mean_reward = ((q1 + q2) / 2 - end - discounts * next_v)[3:].mean()
    assert info["expert_reward"].item() == pytest.approx(mean_reward, rel=1e-12)


def chain() -> np.ndarray:
    """P[s, a, s'] of a ring of three states: action 0 stays, action 1 goes on, either slips with probability 0.1."""
    transitions = np.zeros((N_STATES, N_ACTIONS, N_STATES))
    for state in range(N_STATES):
        following = (state + 1) % N_STATES
        transitions[state, 0, [state, following]] = 0.9, 0.1
        transitions[state, 1, [following, state]] = 0.9, 0.1
    return transitions


def occupancy(policy: np.ndarray, start: np.ndarray) -> np.ndarray:
    """(1 - gamma) sum gamma^t P(s_t, a_t), by solving the flow equations."""
    flow = np.einsum("sa,sat->st", policy, chain())
    states = np.linalg.solve(np.eye(N_STATES) - GAMMA * flow.T, (1 - GAMMA) * start)
    return states[:, None] * policy


def test_the_optimum_of_iq_learn_on_a_small_mdp_is_the_closed_form() -> None:
    """A table Q on a ring of three states where action 0 stays and action 1 goes on, V its soft maximum.

    The expert's 35 rows are its stationary occupancy, from which it also starts, so that means over rows are exact
    expectations. The loss in r = Q - gamma V' is then stationary where r = 2 alpha (1 - d / d_e), with d the occupancy
    of the softmax policy that Q itself defines.
    """
    temperature, alpha = 0.5, 0.5
    counts = np.array([[1, 4], [16, 4], [6, 4]])  # the flow from each state to the next is 4
    state, action = np.repeat(np.indices(counts.shape).reshape(2, -1), counts.reshape(-1), axis=1)
    # Rows of the policy do not count here, whatever they hold.
    state, action = np.append(state, [0, 1, 2, 2]), np.append(action, [0, 0, 1, 0])
    following = (state + action) % N_STATES
    is_expert = column(*np.arange(len(state)) < 35)
    zeros, discounts = torch.zeros_like(is_expert), torch.full_like(is_expert, GAMMA)
    table = torch.zeros(N_STATES, N_ACTIONS, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([table], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15)

    def closure() -> Tensor:
        optimizer.zero_grad()
        values = temperature * torch.logsumexp(table / temperature, dim=1)
        q, here, there = table[state, action], values[state], values[following]
        columns = [part.unsqueeze(1) for part in (q, here, there)]
        loss, _ = losses.iq_loss(
            columns[:1],
            columns[1],
            columns[2],
            zeros,
            discounts,
            is_expert,
            gamma=GAMMA,
            chi_alpha=alpha,
            value_term="v0",
            regularize_policy=False,
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    q = table.detach().numpy()
    values = temperature * np.log(np.exp(q / temperature).sum(axis=1))
    successors = (np.arange(N_STATES)[:, None] + np.arange(N_ACTIONS)) % N_STATES
    reward = q - GAMMA * values[successors]
    policy = np.exp((q - values[:, None]) / temperature)
    flow = np.zeros((N_STATES, N_STATES))
    for s in range(N_STATES):
        for a in range(N_ACTIONS):
            flow[s, successors[s, a]] += policy[s, a]
    expert = counts / 35
    visited = np.linalg.solve(np.eye(N_STATES) - GAMMA * flow.T, (1 - GAMMA) * expert.sum(axis=1))[:, None] * policy
    assert np.abs(reward - 2 * alpha * (1 - visited / expert)).max() < 1e-6
    assert np.abs(policy - expert / expert.sum(axis=1, keepdims=True)).max() < 0.25  # it imitates


@pytest.mark.parametrize("value_term", ["value", "v0", "value_expert"])
@pytest.mark.parametrize(("expert_ends", "policy_ends"), [(0.0, 0.05), (0.03, 0.01), (0.02, 0.0), (0.04, 0.04)])
def test_the_absorbing_reward_minimises_its_part_of_the_loss(
    value_term: losses.ValueTerm, expert_ends: float, policy_ends: float
) -> None:
    weights = column(expert_ends, policy_ends)

    def part(r: float) -> float:
        """The loss's terms in r over rows of the absorbing state alone, weighted by how many there are."""
        expert, policy = weights.flatten().tolist()
        value = {"value": (expert + policy) / 2, "value_expert": expert, "v0": policy}[value_term]
        return -expert * r + value * r + (expert + policy) / 2 * r * r / (4 * 0.3)

    wanted = minimize_scalar(part).x
    found = losses.absorbing_reward(expert_ends, policy_ends, chi_alpha=0.3, value_term=value_term)
    assert found == pytest.approx(wanted, abs=1e-6)
    assert losses.absorbing_reward(0.0, 0.0) == 0.0


def test_value_dice_loss_is_the_formula() -> None:
    rng = np.random.default_rng(1)
    expert, replay, initial = rng.normal(size=5), rng.normal(size=4), rng.normal(size=5)
    expert_weights, replay_weights = np.array([1.0, 1, 1, 1, 10]), np.array([1.0, 1, 1, 0])
    alpha = 0.2
    mix = (1 - alpha) * np.average(np.exp(expert), weights=expert_weights)
    mix += alpha * np.average(np.exp(replay), weights=replay_weights)
    linear = (1 - alpha) * (1 - GAMMA) * initial.mean() + alpha * np.average(replay, weights=replay_weights)
    columns = [column(*x) for x in (expert, replay, initial, expert_weights, replay_weights)]
    loss, _ = losses.value_dice_loss(*columns, gamma=GAMMA, replay_weight=alpha)
    assert loss.item() == pytest.approx(np.log(mix) - linear, rel=1e-12)
    without, _ = losses.value_dice_loss(*columns, gamma=GAMMA, replay_weight=0.0)
    exact = np.log(np.average(np.exp(expert), weights=expert_weights)) - (1 - GAMMA) * initial.mean()
    assert without.item() == pytest.approx(exact, rel=1e-12)


def test_weightless_rows_have_a_finite_gradient_of_zero() -> None:
    replay = column(0.3, -0.2).requires_grad_()
    weights = column(1.0, 0.0)
    loss, _ = losses.value_dice_loss(
        column(0.1), replay, column(0.0), column(1.0), weights, gamma=GAMMA, replay_weight=0.1
    )
    loss.backward()
    assert replay.grad is not None and replay.grad.isfinite().all() and replay.grad[1].item() == 0


def test_the_minimum_over_nu_is_minus_the_divergence_of_occupancies() -> None:
    """On the ring, with every transition weighted by its exact probability, min over a table nu is -KL(d || d_e)."""
    start = np.array([1.0, 0.0, 0.0])
    expert_policy, policy = (
        np.array([[0.2, 0.8], [0.9, 0.1], [0.5, 0.5]]),
        np.array([[0.6, 0.4], [0.3, 0.7], [0.5, 0.5]]),
    )
    expert, visited = occupancy(expert_policy, start), occupancy(policy, start)
    divergence = float((visited * np.log(visited / expert)).sum())
    # A table of nu for a policy in expectation: deterministic successors are needed for x, so take the expected one.
    transitions, acting = torch.from_numpy(chain()), torch.from_numpy(policy)
    nu = torch.zeros(N_STATES, N_ACTIONS, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([nu], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15)

    def objective() -> Tensor:
        residuals = nu - GAMMA * transitions @ (acting * nu).sum(dim=1)
        initial = (acting * nu).sum(dim=1)[:1]  # the ring starts in state 0
        found, _ = losses.value_dice_loss(
            residuals.reshape(-1, 1),
            residuals.reshape(-1, 1),
            initial.reshape(-1, 1),
            torch.from_numpy(expert).reshape(-1, 1),
            torch.ones(N_STATES * N_ACTIONS, 1, dtype=torch.float64),
            gamma=GAMMA,
            replay_weight=0.0,
        )
        return found

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective()
        value.backward()
        return value

    optimizer.step(closure)
    assert objective().item() == pytest.approx(-divergence, abs=1e-6)


def test_the_orthogonal_penalty_is_zero_for_orthogonal_units_only() -> None:
    orthogonal = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0] * 3
    assert losses.orthogonal_penalty([orthogonal]).item() == pytest.approx(0, abs=1e-20)
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])  # rows (1, 2) and (3, 4): their product is 11, twice
    assert losses.orthogonal_penalty([weight, weight]).item() == pytest.approx(2 * 2 * 11**2)


def test_the_gradient_penalty_reaches_the_parameters_of_a_network() -> None:
    """Its gradient, through torch.func inside of backward, against finite differences."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)).double()
    inputs = torch.randn(7, 3, dtype=torch.float64)
    gradient_penalty(network, inputs).backward()
    weight = network[0].weight
    with torch.no_grad():
        for index in ((0, 0), (3, 2)):
            around = []
            for shift in (1e-5, -1e-5):
                weight[index] += shift
                around.append(gradient_penalty(network, inputs).item())
                weight[index] -= shift
            assert weight.grad is not None
            assert weight.grad[index].item() == pytest.approx((around[0] - around[1]) / 2e-5, rel=1e-6)


def test_other_shapes_and_names_are_refused() -> None:
    row = column(1.0, 2.0)
    with pytest.raises(ValueError, match="expected columns"):
        losses.iq_loss([row], row.flatten(), row, row, row, row, gamma=0.9)
    with pytest.raises(ValueError, match="expected columns"):
        losses.value_dice_loss(row, row, row, row.flatten(), row, gamma=0.9)
    with pytest.raises(UnknownNameError, match="value_expert"):
        losses.iq_loss([row], row, row, row, row, row, gamma=0.9, value_term="value_experts")  # type: ignore[arg-type]
