"""Fitted Q evaluation against the closed form of a small MDP, and discounted returns against sums by hand."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rlopt.data import Dataset, Metadata
from rlopt.data.returns import discounted_returns, first_rows
from rlopt.errors import ConfigError, DataError, SpaceError
from rlopt.evaluation.fitted_q import fitted_q_evaluation

STATES, ACTIONS, GAMMA = 4, 2, 0.8


class Tabular:
    """Takes the action ``choice[s]`` in state s."""

    observation_space, action_space = spaces.Discrete(STATES), spaces.Discrete(ACTIONS)

    def __init__(self, choice: np.ndarray) -> None:
        self.choice = choice

    def predict(self, observation: Any, deterministic: bool = True, **_: Any) -> tuple[np.ndarray, None]:
        return self.choice[np.asarray(observation).reshape(-1)], None


def transitions(seed: int = 0, n: int = 6000) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """Uniform states and actions, a transition an episode; how often (s, a) went on to s', and the rewards (s, a)."""
    rng = np.random.default_rng(seed)
    dynamics = rng.dirichlet(np.full(STATES, 0.5), (STATES, ACTIONS))
    rewards, ending = 5 + rng.normal(size=(STATES, ACTIONS)), rng.uniform(0, 0.3, (STATES, ACTIONS))
    state, action = rng.integers(0, STATES, n), rng.integers(0, ACTIONS, n)
    following = (dynamics[state, action].cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    over = rng.random(n) < ending[state, action]
    counts = np.zeros((STATES, ACTIONS, STATES))
    np.add.at(counts, (state, action, following), ~over)
    visits = np.zeros((STATES, ACTIONS, 1))
    np.add.at(visits, (state, action), 1)
    data = Dataset(
        observations=state,
        actions=action,
        rewards=rewards[state, action].astype(np.float32),
        next_observations=following,
        discounts=1 - over.astype(np.float32),
        episode_ends=np.ones(n, bool),
        metadata=Metadata("Tabular-v0"),
    )
    return data, counts / visits, rewards


def test_it_finds_the_value_that_the_linear_equations_have() -> None:
    """V = (I - gamma P_pi)^-1 r_pi, with the frequencies of the data; two policies keep their order."""
    data, going_on, rewards = transitions()
    every = np.arange(STATES)
    found, true = [], []
    settings: dict[str, Any] = {"steps": 300, "learning_rate": 1e-2, "tau": 0.05, "net_arch": (16,)}
    for choice in (np.array([0, 0, 0, 0]), np.array([1, 1, 1, 1])):
        moves, paid = going_on[every, choice], rewards[every, choice]
        value = np.linalg.solve(np.eye(STATES) - GAMMA * moves, paid)
        q_value = rewards + GAMMA * going_on @ value
        estimate = fitted_q_evaluation(Tabular(choice), data, gamma=GAMMA, **settings)  # type: ignore[arg-type]
        assert estimate.value == pytest.approx(value[np.asarray(data.observations)].mean(), rel=0.02)
        assert estimate.q_value == pytest.approx(q_value[data.observations, data.actions].mean(), rel=0.02)
        assert estimate.spread < 0.02 * abs(estimate.value)
        found.append(estimate.value)
        true.append(value.mean())
    assert abs(true[0] - true[1]) > 0.5 and (found[0] < found[1]) == (true[0] < true[1])


def test_the_level_of_a_long_horizon_is_solved_for() -> None:
    """Targets that follow by tau (1 - gamma) = 5e-4 a step would be at a seventh of the way after 300 steps."""
    data, _, rewards = transitions()
    data = dataclasses.replace(data, discounts=np.ones(len(data), np.float32))
    moves = np.zeros((STATES, ACTIONS, STATES))
    np.add.at(moves, (data.observations, data.actions, data.next_observations), 1)
    every, choice = np.arange(STATES), np.zeros(STATES, int)
    moves = (moves / moves.sum(axis=2, keepdims=True))[every, choice]
    value = np.linalg.solve(np.eye(STATES) - 0.99 * moves, rewards[every, choice])
    policy: Any = Tabular(choice)
    settings: dict[str, Any] = {"learning_rate": 1e-2, "tau": 0.05, "net_arch": (16,)}
    found = fitted_q_evaluation(policy, data, gamma=0.99, steps=300, **settings)
    assert found.value == pytest.approx(value[np.asarray(data.observations)].mean(), rel=0.02)


def test_a_fit_that_was_too_short_says_how_far_it_is() -> None:
    """Of two parts that nothing connects, each has a level; their difference moves by tau (1 - gamma) a step."""
    rng, n = np.random.default_rng(0), 4000
    state = rng.integers(0, STATES, n)
    state[::2] %= 2  # episodes of two rows begin in the part {0, 1}
    over = np.arange(n) % 2 == 1
    state[over] = 2 + state[over] % 2
    data = Dataset(
        observations=state,
        actions=rng.integers(0, ACTIONS, n),
        rewards=np.where(state < 2, 1.0, -1.0).astype(np.float32),
        next_observations=np.where(state < 2, 0, 2) + rng.integers(0, 2, n),
        discounts=np.ones(n, np.float32),
        episode_ends=over,
        metadata=Metadata("Tabular-v0"),
    )
    policy: Any = Tabular(np.zeros(STATES, int))
    settings: dict[str, Any] = {"gamma": 0.95, "learning_rate": 1e-2, "tau": 0.05, "net_arch": (16,)}
    short = fitted_q_evaluation(policy, data, steps=200, **settings)
    error = 1 / (1 - 0.95) - short.value
    assert error > 5 and not short.converged and 0.5 * error < short.remaining < 2 * error


def test_the_data_s_return_is_that_of_the_first_states() -> None:
    """Rewards 1 and then 3, with a true end: 1 + 0.5 * 3 from the first state, 3 from the second."""
    data = transitions(n=200)[0].take(slice(0, 2))
    ended = dataclasses.replace(
        data,
        rewards=np.array([1, 3], np.float32),
        discounts=np.array([1, 0], np.float32),
        episode_ends=np.array([False, True]),
    )
    policy: Any = Tabular(np.zeros(STATES, int))
    found = fitted_q_evaluation(policy, ended, gamma=0.5, steps=1, net_arch=(4,), batch_size=2)
    assert found.data_return == pytest.approx(2.5)


def test_the_same_seed_gives_the_same_estimate_and_the_policy_is_not_touched() -> None:
    data, _, _ = transitions(n=200)
    policy: Any = Tabular(np.zeros(STATES, int))
    settings: dict[str, Any] = {"steps": 5, "net_arch": (8,), "batch_size": 16}
    first, again = (fitted_q_evaluation(policy, data, seed=3, **settings) for _ in range(2))
    assert first == again != fitted_q_evaluation(policy, data, seed=4, **settings)


def test_what_cannot_be_estimated_says_why() -> None:
    data, _, _ = transitions(n=50)
    policy: Any = Tabular(np.zeros(STATES, int))
    with pytest.raises(ConfigError, match=r"in \[0, 1\)"):
        fitted_q_evaluation(policy, data, gamma=1.0)
    with pytest.raises(DataError, match=r"observations .* have shape"):
        fitted_q_evaluation(
            policy,
            dataclasses.replace(
                data, observations=np.zeros((50, 2), np.float32), next_observations=np.zeros((50, 2), np.float32)
            ),
        )
    policy.observation_space = spaces.Box(0, 255, (3, 8, 8), np.uint8)
    images = np.zeros((50, 3, 8, 8), np.uint8)
    with pytest.raises(SpaceError, match="no images"):
        fitted_q_evaluation(policy, dataclasses.replace(data, observations=images, next_observations=images))


def test_discounted_returns_are_sums_within_episodes() -> None:
    lengths, gamma = (1, 4, 30, 2), 0.7
    rng = np.random.default_rng(0)
    ends = np.zeros(sum(lengths), bool)
    ends[np.cumsum(lengths) - 1] = True
    rewards = rng.normal(size=len(ends)).astype(np.float32)
    discounts = np.ones(len(ends), np.float32)
    discounts[4] = 0  # the second episode truly ends
    column = np.zeros((len(ends), 1), np.float32)
    data = Dataset(column, column, rewards, column, discounts, ends, Metadata("x"))
    returns, whole = discounted_returns(data, gamma)
    for rows in data.episodes():
        for row in range(rows.start, rows.stop):
            later = rewards[row : rows.stop].astype(np.float64)
            assert returns[row] == pytest.approx((gamma ** np.arange(len(later)) * later).sum(), rel=1e-9)
            assert whole[row] == (rows.stop == 5 or gamma ** len(later) < 0.1)
    assert first_rows(data).tolist() == [0, 1, 5, 35]
