"""MLE-LOOP against brute force: inner maximisations, estimates, gradients, switching rule, optimism, saving."""

import itertools
import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from scipy.optimize import minimize
from stable_baselines3.common.callbacks import BaseCallback

import rlopt
import rlopt.envs.tasks.own_tasks
from rlopt.agents.loop.confidence_sets.barrier import furthest, log_likelihood, most_likely
from rlopt.agents.loop.confidence_sets.likelihood import TabularLikelihood, divergence, optimistic_distributions
from rlopt.agents.loop.confidence_sets.mixture import MixtureLikelihood
from rlopt.agents.loop.confidence_sets.planner import Problem
from rlopt.average_reward import FiniteMDP, policy_iteration
from rlopt.errors import CheckpointError, ConfigError, ModelError

LOOSE = Problem(span=1e3, smallest_reward=0.0, largest_reward=1e3, tolerance=1e-11, max_sweeps=100_000)


def env(name: str, **kwargs: Any) -> Any:
    return gymnasium.make(f"rlopt/{name}-v0", **kwargs).unwrapped


def tabular_data(seed: int, problem: Problem = LOOSE, steps: int = 60) -> TabularLikelihood:
    rng = np.random.default_rng(seed)
    P, r = rng.dirichlet(np.ones(3), size=(3, 2)), rng.uniform(size=(3, 2))
    data = TabularLikelihood(3, 2, problem)
    for state, action, target in itertools.product(range(3), range(2), range(3)):
        data.add(state, action, float(r[state, action]), target)
    for _ in range(steps):
        state, action = int(rng.integers(3)), int(rng.integers(2))
        data.add(state, action, float(r[state, action]), int(rng.choice(3, p=P[state, action])))
    return data


def mixture_data(seed: int, dimension: int = 3, steps: int = 200) -> MixtureLikelihood:
    rng = np.random.default_rng(seed)
    kernels, r = rng.dirichlet(np.ones(4), size=(dimension, 4, 2)), rng.uniform(size=(4, 2))
    truth = np.tensordot(rng.dirichlet(np.ones(dimension)), kernels, 1)
    data = MixtureLikelihood(kernels, r, LOOSE)
    for _ in range(steps):
        state, action = int(rng.integers(4)), int(rng.integers(2))
        data.add(state, action, float(r[state, action]), int(rng.choice(4, p=truth[state, action])))
    return data


# ---- tabular


def test_optimistic_distributions_are_the_numerical_optimum() -> None:
    rng = np.random.default_rng(0)
    for trial in range(20):
        distribution, values, radius = rng.dirichlet(np.ones(4)), rng.normal(size=4), float(rng.uniform(0.01, 1.0))
        if trial % 2:
            # No mass where the values are best, and none on another state.
            distribution[values.argmax()] = 0.0
            distribution /= distribution.sum()
        ours = optimistic_distributions(distribution[None], np.array([radius]), values)[0]
        assert ours.sum() == pytest.approx(1) and ours.min() >= 0
        assert divergence(distribution, ours) <= radius + 1e-9

        def within(p: Any, distribution: Any = distribution, radius: float = radius) -> float:
            return radius - float(
                np.sum(np.where(distribution > 0, distribution * np.log(np.maximum(distribution, 1e-300) / p), 0.0))
            )

        limits = [{"type": "eq", "fun": lambda p: p.sum() - 1}, {"type": "ineq", "fun": within}]
        start = 0.98 * distribution + 0.02 / 4
        found = minimize(
            lambda p, v=values: -p @ v, start, bounds=[(1e-9, 1)] * 4, constraints=limits, options={"ftol": 1e-13}
        )
        assert ours @ values == pytest.approx(-found.fun, abs=2e-5)


def test_optimistic_distributions_at_the_borders() -> None:
    distribution, values = np.array([[0.5, 0.5, 0.0]]), np.array([0.0, 1.0, 2.0])
    np.testing.assert_allclose(optimistic_distributions(distribution, np.array([0.0]), np.zeros(3)), distribution)
    np.testing.assert_allclose(optimistic_distributions(distribution, np.array([0.0]), values), distribution, atol=1e-9)
    # KL(distribution, p) with p = (1 - m)(q, 1 - q, 0) + m on the best: all but certain for a radius that large.
    assert optimistic_distributions(distribution, np.array([50.0]), values)[0, 2] == pytest.approx(1, abs=1e-12)


def test_tabular_plan_is_a_member_and_no_member_beats_it() -> None:
    rng = np.random.default_rng(0)
    for seed in range(5):
        data, beta = tabular_data(seed), 1.2
        certificate = data.plan(beta)
        frequencies, rewards = data.model.kernel(), data.model.mean_rewards(1.0)
        assert certificate.in_set and certificate.converged
        apart = data.model.counts * divergence(frequencies, data.distributions)
        assert certificate.discrepancy == pytest.approx(apart.sum()) and np.all(apart <= beta / 6 * (1 + 1e-6))
        exact = policy_iteration(FiniteMDP(data.distributions, rewards))
        assert data.gain == pytest.approx(exact.gain, abs=1e-8)
        np.testing.assert_array_equal(data.policy, exact.policy)
        for _ in range(100):
            other = rng.dirichlet(np.full(3, 0.5), size=(3, 2))
            share = np.ones((3, 2))
            for _ in range(60):
                member = frequencies + share[:, :, None] * (other - frequencies)
                share = np.where(data.model.counts * divergence(frequencies, member) > beta / 6, 0.8 * share, share)
            member = frequencies + share[:, :, None] * (other - frequencies)
            assert policy_iteration(FiniteMDP(member, rewards)).gain <= data.gain + 1e-8


def test_without_a_radius_the_plan_is_that_of_the_frequencies() -> None:
    data = tabular_data(3)
    data.plan(1e-12)
    assert data.gain == pytest.approx(FiniteMDP(data.model.kernel(), data.model.mean_rewards(1.0)).gain, abs=1e-5)


class Watch(BaseCallback):
    """Recomputes the summed total variation from all data after every 37th step."""

    def __init__(self, process: Any) -> None:
        super().__init__()
        self.process, self.checked, self.transitions = process, 0, np.zeros(process.mdp.P.shape)

    def _on_training_start(self) -> None:
        self.last = self.process.state
        self.seen_at_plan = self.transitions.sum(axis=2) > 0

    def _on_step(self) -> bool:
        self.transitions[self.last, int(self.locals["actions"][0]), self.process.state] += 1
        self.last = self.process.state
        if self.model.plans[-1].step == self.num_timesteps:
            self.seen_at_plan = self.transitions.sum(axis=2) > 0
        if self.num_timesteps % 37 == 0:
            visits = self.transitions.sum(axis=2)
            frequencies = self.transitions / np.maximum(visits, 1)[:, :, None]
            variation = 0.5 * np.abs(self.model.data.distributions - frequencies).sum(axis=2)
            brute = np.sum(visits * np.where(self.seen_at_plan, variation, 1.0))
            assert self.model.discrepancy == pytest.approx(brute, abs=1e-7)
            assert self.model.threshold == pytest.approx(3 * math.sqrt(self.model.beta * self.num_timesteps))
            assert self.model.discrepancy < self.model.threshold
            self.checked += 1
        return True


def test_running_total_variation_is_that_of_all_data_and_below_its_threshold() -> None:
    process = env("RiverSwim")
    watch = Watch(process)
    model = rlopt.MLELOOP(process, seed=0).learn(4000, callback=watch)
    assert watch.checked == 108 and model.n_switches >= 4
    assert model.beta == pytest.approx(0.02 * 12 * math.log(4000 * 12 / 0.05))


# ---- mixtures


def test_most_likely_weights_are_within_the_gap_of_every_distribution() -> None:
    rng = np.random.default_rng(0)
    for seed in range(5):
        data = mixture_data(seed)
        densities, counts = data.transition_densities()
        found = most_likely(np.full(3, 1 / 3), densities, counts, 1e-4)
        assert found.sum() == pytest.approx(1, abs=1e-12) and found.min() > 0
        value = log_likelihood(found, densities, counts)
        others = np.concatenate([rng.dirichlet(np.ones(3), size=3000), np.eye(3), found + 1e-3 * np.eye(3)])
        others /= others.sum(axis=1, keepdims=True)
        assert max(log_likelihood(w, densities, counts) for w in others) <= value + 1e-4


def test_furthest_weights_are_the_numerical_optimum() -> None:
    rng = np.random.default_rng(1)
    for seed in range(5):
        data = mixture_data(seed)
        densities, counts = data.transition_densities()
        estimate = most_likely(np.full(3, 1 / 3), densities, counts, 1e-6)
        least, direction = log_likelihood(estimate, densities, counts) - 1.5, rng.normal(size=3)
        ours = furthest(direction, estimate, densities, counts, least)
        assert log_likelihood(ours, densities, counts) >= least - 1e-9
        grid = np.array([(a, b, 400 - a - b) for a in range(401) for b in range(401 - a)]) / 400
        with np.errstate(divide="ignore"):
            inside = np.log(grid @ densities.T) @ counts >= least
        best = float((grid[inside] @ direction).max())
        assert best - 1e-6 <= ours @ direction <= best + 0.01


def test_gradient_of_the_gain_is_that_of_finite_differences() -> None:
    for seed in range(5):
        data, weights = mixture_data(seed), np.array([0.5, 0.2, 0.3])
        gradient = data.gradient(weights, data.solve(weights))
        for direction in (np.array([1.0, -1.0, 0.0]), np.array([0.5, 0.5, -1.0])):
            step = 1e-5 * direction
            difference = data.solve(weights + step).gain - data.solve(weights - step).gain
            assert gradient @ direction == pytest.approx(difference / 2e-5, abs=1e-5)


def test_mixture_plan_reaches_the_best_member_of_a_grid() -> None:
    for seed in range(6):
        data, beta = mixture_data(seed, steps=60), 1.0
        certificate = data.plan(beta)
        densities, counts = data.transition_densities()
        least = log_likelihood(most_likely(np.full(3, 1 / 3), densities, counts, 1e-8), densities, counts) - beta
        grid = np.array([(a, b, 40 - a - b) for a in range(41) for b in range(41 - a)]) / 40
        with np.errstate(divide="ignore"):
            inside = np.log(grid @ densities.T) @ counts >= least
        gains = [FiniteMDP(np.tensordot(w, data.kernels, 1), data.rewards).gain for w in grid[inside]]
        assert certificate.in_set and certificate.converged
        assert log_likelihood(data.weights, densities, counts) >= least - 2e-3
        assert max(gains) - 1e-6 <= data.gain <= max(gains) + 0.02
        exact = FiniteMDP(np.tensordot(data.weights, data.kernels, 1), data.rewards)
        assert data.gain == pytest.approx(exact.gain, abs=1e-8)


def test_mixture_total_variation_by_brute_force() -> None:
    data = mixture_data(0, steps=100)
    data.plan(0.5)
    own, estimate = (np.tensordot(w, data.kernels, 1) for w in (data.weights, data.estimate))
    variation = 0.5 * np.abs(own - estimate).sum(axis=2)
    assert data.discrepancy == pytest.approx(np.sum(data.transitions.sum(axis=2) * variation))
    before = data.discrepancy
    data.add(1, 0, 0.0, 2)
    assert data.discrepancy == pytest.approx(before + variation[1, 0])
    for _ in range(19):
        data.add(1, 0, 0.0, 2)
    # The twentieth refreshes the estimate.
    estimate = np.tensordot(data.estimate, data.kernels, 1)
    variation = 0.5 * np.abs(own - estimate).sum(axis=2)
    assert data.discrepancy == pytest.approx(np.sum(data.transitions.sum(axis=2) * variation))


# ---- runs


def test_plans_are_optimistic_at_scale_one() -> None:
    optimistic = []
    for seed in range(20):
        process = env("MixtureRiverSwim", n_states=4)
        model = rlopt.MLELOOP(process, seed=seed, beta_scale=1.0, max_sweeps=2000).learn(200)
        optimistic.append(min(plan.gain for plan in model.plans) >= process.mdp.gain - 1e-6)
    assert np.mean(optimistic) >= 0.95


@pytest.mark.parametrize(("name", "switches"), [("RiverSwim", 20), ("MixtureRiverSwim", 40)])
def test_ends_with_the_best_policy_after_few_switches(name: str, switches: int) -> None:
    process = env(name)
    model = rlopt.MLELOOP(process, seed=0).learn(15_000)
    np.testing.assert_array_equal(model.policy, process.mdp.solution.policy)
    assert model.n_switches <= switches
    assert all(plan.certificate.in_set and plan.certificate.converged for plan in model.plans)


@pytest.mark.parametrize("name", ["RiverSwim", "MixtureRiverSwim"])
def test_saving_continues_exactly(name: str, tmp_path: Path) -> None:
    whole = rlopt.MLELOOP(env(name), seed=3).learn(2500)
    first = rlopt.MLELOOP(env(name), seed=3, horizon=2500).learn(1113)
    first.save(tmp_path / "agent")
    second = rlopt.MLELOOP.load(tmp_path / "agent", env=first.env, force_reset=False)
    second.learn(2500 - 1113, reset_num_timesteps=False)
    assert second.reward_sum == whole.reward_sum and second.plans == whole.plans
    for key, value in whole.data.get_state().items():
        np.testing.assert_equal(second.data.get_state()[key], value)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kernels are not given"):
        rlopt.MLELOOP(env("RiverSwim"), model="mixture")
    with pytest.raises(ConfigError, match="rewards are not given"):
        rlopt.MLELOOP(env("RiverSwim"), kernels=np.full((2, 6, 2, 6), 1 / 6))
    with pytest.raises(ModelError, match=r"give \[d, 6, 2, 6\]"):
        rlopt.MLELOOP(env("RiverSwim"), kernels=np.full((2, 5, 2, 5), 0.2), rewards=np.zeros((6, 2)))
    with pytest.raises(ModelError, match="sum up"):
        rlopt.MLELOOP(env("RiverSwim"), kernels=np.full((2, 6, 2, 6), 0.2), rewards=np.zeros((6, 2)))
    jumps = np.broadcast_to(np.eye(6)[3], (1, 6, 2, 6))
    with pytest.raises(ModelError, match="no kernel leads from state"):
        rlopt.MLELOOP(env("RiverSwim"), kernels=jumps, rewards=env("RiverSwim").mdp.r, seed=0).learn(500)
    model = rlopt.MLELOOP(env("MixtureRiverSwim"), seed=0).learn(50)
    model.data.weights = model.data.weights * 2  # type: ignore[union-attr]
    model.save(tmp_path / "agent")
    with pytest.raises(CheckpointError, match="not a distribution"):
        rlopt.MLELOOP.load(tmp_path / "agent")
