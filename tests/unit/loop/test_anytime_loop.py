"""LOOP without an oracle: its set, plans and switches against brute force; noise, SixArms, tasks of one's own."""

import itertools
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from stable_baselines3.common.callbacks import BaseCallback

import rlopt
import rlopt.envs.tasks.own_tasks
from rlopt.agents.loop.confidence_sets.anytime import AnytimeSet
from rlopt.agents.loop.confidence_sets.coverage import coverage
from rlopt.agents.loop.confidence_sets.outcomes import Outcomes, divergence_to_mean, largest_means
from rlopt.average_reward import FiniteMDP, evaluate_policy, relative_value_iteration
from rlopt.envs.average_reward import ContinuingWrapper, FiniteEnv, GapRecorder

ARMS = [[[(0.4, 0, 1.0), (0.6, 0, 0.0)], [(0.6, 0, 1.0), (0.4, 0, 0.0)]]]


def anytime(states: int, actions: int, **settings: Any) -> AnytimeSet:
    given = {"scale": 1.0, "delta": 0.05, "multiple": 4.0, "tolerance": 1e-8, "max_rounds": 10_000} | settings
    return AnytimeSet(states, actions, (0.0, 1.0), **given)


def filled(seed: int, states: int = 3, actions: int = 2, steps: int = 60) -> AnytimeSet:
    """Noisy transitions of a random process, one pair never visited."""
    rng, data = np.random.default_rng(seed), anytime(states, actions)
    P, r = rng.dirichlet(np.full(states, 0.4), size=(states, actions)), rng.uniform(size=(states, actions))
    for _ in range(steps):
        s, a = int(rng.integers(states)), int(rng.integers(actions))
        if (s, a) != (0, 1):
            data.add(s, a, float(rng.random() < r[s, a]), int(rng.choice(states, p=P[s, a])))
    return data


def river(n_states: int = 6) -> Any:
    env: Any = gymnasium.make("rlopt/RiverSwim-v0", n_states=n_states).unwrapped
    env.mdp.__dict__["solution"] = relative_value_iteration(env.mdp)
    return env


def six_arms() -> FiniteEnv:
    """SixArms (Strehl and Littman 2004), rewards over 6000."""
    chances, pays = (1.0, 0.15, 0.1, 0.05, 0.03, 0.01), (50, 133, 300, 800, 1660, 6000)
    centre = [[(p, arm + 1, 0.0), (1 - p, 0, 0.0)] for arm, p in enumerate(chances)]
    rooms = [[[(1.0, k + 1, pays[k] / 6000)] if a == k else [(1.0, 0, 0.0)] for a in range(6)] for k in range(6)]
    return FiniteEnv([centre, *rooms])


# ---- the mathematics


def test_largest_means_are_the_numerical_optimum() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        shares, outcomes, radius = rng.dirichlet(np.ones(4)), rng.uniform(0, 3, size=4), 10 ** rng.uniform(-3, 0.5)
        largest = 3.2
        found = largest_means(shares[None], outcomes[None], np.array([largest]), np.array([radius]))
        q = np.append(found.shares[0], found.rest[0])
        assert q.sum() == pytest.approx(1) and q.min() >= 0
        assert np.sum(shares * np.log(shares / found.shares[0])) == pytest.approx(radius, rel=1e-6)
        assert found.mean[0] == pytest.approx(q @ np.append(outcomes, largest))
        # The dual problem by a numerical optimiser: the least nu - exp(mean log(nu - outcomes) - radius) over nu.
        dual = minimize_scalar(
            lambda nu, p=shares, y=outcomes, r=radius: nu - np.exp(p @ np.log(nu - y) - r),
            bounds=(largest, largest + 200.0),
            method="bounded",
            options={"xatol": 1e-10},
        )
        assert found.mean[0] == pytest.approx(dual.fun, abs=1e-6)
        # And no distribution within the radius has a larger mean.
        for other in rng.dirichlet(np.full(5, 0.5), size=300):
            if np.sum(shares * np.log(shares / np.maximum(other[:4], 1e-300))) <= radius:
                assert other @ np.append(outcomes, largest) <= found.mean[0] + 1e-9


def test_divergence_to_mean_is_the_inverse_and_bernoullis() -> None:
    # Outcomes 0 and 1 below the bound 1: the divergence of two coins.
    coin = divergence_to_mean(np.array([[0.7, 0.3]]), np.array([[0.0, 1.0]]), 1.0, np.array([0.5]))
    assert coin.item() == pytest.approx(0.3 * np.log(0.3 / 0.5) + 0.7 * np.log(0.7 / 0.5))
    rng = np.random.default_rng(1)
    shares, outcomes = rng.dirichlet(np.ones(5), size=40), rng.uniform(-2, 1, size=(40, 5))
    shares[:, 4], outcomes[::2, 0] = 0.0, 1.0
    shares /= shares.sum(axis=1, keepdims=True)
    radii = 10 ** rng.uniform(-6, 0.7, size=40)
    means = largest_means(shares, outcomes, np.ones(40), radii).mean
    np.testing.assert_allclose(divergence_to_mean(shares, outcomes, 1.0, means), radii, rtol=1e-5)
    assert divergence_to_mean(shares, outcomes, 1.0, np.full(40, -2.0)).max() == 0.0
    assert np.isinf(divergence_to_mean(np.array([[1.0]]), np.array([[0.5]]), 1.0, np.array([1.0])))[0]


def test_radius_holds_at_all_times_with_the_promised_probability() -> None:
    # Ever within 400 visits: n K_inf > log((n + 1) / delta) for outcomes 0, .3 and 1.
    rng, delta, runs = np.random.default_rng(2), 0.2, 1500
    outcomes, distribution = np.array([0.0, 0.3, 1.0]), np.array([0.55, 0.3, 0.15])
    counts, missed = np.zeros((runs, 3)), np.zeros(runs, bool)
    for n in range(1, 401):
        counts[np.arange(runs), rng.choice(3, size=runs, p=distribution)] += 1
        if n <= 40 or n % 8 == 0:
            apart = divergence_to_mean(
                counts / n, np.tile(outcomes, (runs, 1)), 1.0, np.full(runs, distribution @ outcomes)
            )
            missed |= n * apart > np.log((n + 1) / delta)
    assert missed.mean() <= delta


def test_outcomes_keep_rewards_apart_and_their_means() -> None:
    data = Outcomes(3, 2, (-1.0, 1.0))
    for reward, target in ((-1.0, 0), (1.0, 0), (1.0, 2), (0.25, 2), (0.25, 2)):
        data.add(1, 0, reward, target)
    table = data.table()
    assert table.visits.tolist() == [0, 0, 5, 0, 0, 0] and table.shares.shape == (6, 4)
    seen = sorted(zip(table.shares[2], table.rewards[2], table.following[2], strict=True))
    assert seen == [(0.2, -1.0, 0), (0.2, 1.0, 0), (0.2, 1.0, 2), (0.4, 0.25, 2)]
    assert not table.shares[[0, 1, 3, 4, 5]].any()


def test_plan_is_the_best_member_of_the_set() -> None:
    for seed in range(5):
        data = filled(seed)
        certificate, _ = data.plan()
        low, high = certificate.gain_bracket
        assert certificate.converged and high is not None and low - 1e-9 <= data.gain <= high + 1e-9
        values, targets = data.state_values, data.targets
        visits, top = data.counts, 1.0 + values.max()
        # The fixed point: V + J = max_a of the largest mean within the radius, pair by pair.
        for s, a in itertools.product(range(3), range(2)):
            if visits[s, a] == 0:
                assert (s, a) == (0, 1)
                continue
            shares, outcomes = data.row(s * 2 + a, values.tolist())
            radius = np.array([data.radii[s, a] / visits[s, a]])
            mean = largest_means(np.array([shares]), np.array([outcomes]), np.array([top]), radius).mean.item()
            assert targets[s, a] == pytest.approx(mean, abs=1e-6)
        bests = np.where(visits > 0, targets, top).max(axis=1)
        np.testing.assert_allclose(bests, values + data.gain, atol=1e-6)
        # The targets are at the border of the set.
        apart = data.divergence(np.where(visits > 0, targets, 0.0), values)
        np.testing.assert_allclose((apart / data.radii)[visits > 0], 1.0, rtol=1e-4)


def test_below_scale_1_what_was_never_seen_loses_its_appeal_once_the_largest_reward_was_seen() -> None:
    data, rng = anytime(4, 2, scale=0.3), np.random.default_rng(3)
    P = rng.dirichlet(np.ones(3), size=(3, 2))
    steps = [(int(rng.integers(3)), int(rng.integers(2))) for _ in range(60)]
    for s, a in steps:
        if (s, a) != (0, 1):
            data.add(s, a, 0.8 * float(rng.random()), int(rng.choice(3, p=P[s, a])))
    data.plan()
    assert data.gain == pytest.approx(1.0, abs=1e-6), "the state 3 may pay 1 for ever"
    data.add(1, 0, 1.0, 2)
    certificate, _ = data.plan()
    values, targets, visits = data.state_values, data.targets, data.counts
    assert certificate.converged and data.gain < 0.99
    backup = np.full((4, 2), 1.0 + values[[1, 2]].max())  # of the states in which both actions were tried
    for s, a in zip(*np.nonzero(visits), strict=True):
        shares, outcomes = data.row(s * 2 + a, values.tolist())
        top, radius = np.array([1.0 + values[:3].max()]), np.array([data.radii[s, a] / visits[s, a]])
        backup[s, a] = largest_means(np.array([shares]), np.array([outcomes]), top, radius).mean.item()
    np.testing.assert_allclose(targets[visits > 0], backup[visits > 0], atol=1e-6)
    np.testing.assert_allclose(backup.max(axis=1), values + data.gain, atol=1e-6)


def test_a_state_that_cannot_be_reached_is_not_looked_for() -> None:
    arms = [[(0.9, 0, 1.0), (0.1, 0, 0.0)], [(0.3, 0, 1.0), (0.7, 0, 0.0)]]
    model = rlopt.LOOP(FiniteEnv([arms, arms]), seed=0).learn(2000, log_interval=None)
    assert model.data.counts[0, 1] < 100 and model.gain < 0.95
    # With the whole set it may still exist, and pay 1 at every step.
    model = rlopt.LOOP(FiniteEnv([arms, arms]), seed=0, beta_scale=1.0).learn(2000, log_interval=None)
    assert model.gain == pytest.approx(1.0, abs=1e-5)


def test_truth_is_in_the_set_with_noisy_rewards_and_the_right_arm_is_found() -> None:
    covered = right = 0
    for seed in range(20):
        env = FiniteEnv(ARMS)
        inside = []

        class Check(BaseCallback):
            def _on_step(self, inside: Any = inside, env: Any = env) -> bool:
                if self.num_timesteps % 100 == 0:
                    inside.append(coverage(self.model, env.mdp).covered)
                return True

        model = rlopt.LOOP(env, beta_scale=1.0, seed=seed).learn(2000, callback=Check(), log_interval=None)
        covered += all(inside)
        right += model.data.counts[0, 1] > model.data.counts[0, 0]
    assert covered >= 19 and right >= 18


def test_plans_are_optimistic() -> None:
    plans = 0
    for seed in range(6):
        env = river(3)
        model = rlopt.LOOP(env, beta_scale=1.0, seed=seed).learn(3000, log_interval=None)
        assert all(plan.gain >= env.mdp.gain - 1e-6 for plan in model.plans)
        assert coverage(model, env.mdp).covered
        plans += len(model.plans)
    assert plans >= 12


# ---- switches


def test_a_plan_is_given_up_once_a_pair_refutes_it() -> None:
    data = anytime(2, 2)
    for _ in range(30):
        data.add(0, 0, 0.9, 0)
    data.plan()
    target, values = data.targets[0, 0], data.state_values
    data._state_limits = [np.inf, np.inf]
    for visits in range(31, 4000):
        data.add(0, 0, 0.0, 0)
        shares = np.array([[30 / visits, 1 - 30 / visits]])
        outcomes = np.array([[0.9, 0.0]]) + values[0]
        apart = visits * divergence_to_mean(shares, outcomes, 1.0 + values.max(), np.array([target])).item()
        if data.refuted(0, 0):
            assert apart >= 4 * float(data.radius(visits, visits))
            break
        # Checked only when the visits have grown by a tenth.
        assert apart < 4 * float(data.radius(visits, visits)) * 1.6
    else:
        pytest.fail("it froze")


def test_there_is_a_new_plan_once_the_visits_of_a_state_have_doubled() -> None:
    data = anytime(2, 2)
    for _ in range(30):
        data.add(0, 0, 0.9, 0)
    data.plan()
    # What the plan says of the pair is confirmed: nothing refutes it.
    data._targets = [0.9] * 4
    for visits in range(31, 61):
        data.add(0, 0, 0.9, 0)
        assert data.refuted(0, 0) == (visits == 60)


def test_no_plan_freezes_on_six_arms() -> None:
    env = GapRecorder(six_arms())
    env.unwrapped.mdp.__dict__["solution"] = relative_value_iteration(env.unwrapped.mdp)  # type: ignore[attr-defined]
    model = rlopt.LOOP(env, seed=0).learn(30_000, log_interval=None)
    # 30,000 is total failure, and what a plan that froze would cost.
    assert env.losses.sum() < 15_000
    assert model.data.counts[0].min() >= 1, "every arm was tried"


def test_few_switches_and_the_best_policy_on_river_swim() -> None:
    env = GapRecorder(river())
    model = rlopt.LOOP(env, seed=1).learn(20_000, log_interval=None)
    assert evaluate_policy(env.unwrapped.mdp, model.policy).gain == pytest.approx(env.unwrapped.mdp.gain)
    assert env.losses.sum() < 150 and model.n_switches < 120


# ---- tasks of one's own


def test_a_queue_of_ones_own_needs_no_span() -> None:
    class Queue(gymnasium.Env[Any, Any]):
        """Admit (5) or reject; the next customer comes with .4, one leaves with .5; each present costs 1."""

        observation_space, action_space = gymnasium.spaces.Discrete(11), gymnasium.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
            super().reset(seed=seed)
            self.waiting = 0
            return 0, {}

        def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
            pay, drawn = -float(self.waiting), self.np_random.random()
            if drawn < 0.4:
                if action and self.waiting < 10:
                    self.waiting, pay = self.waiting + 1, pay + 5
            elif drawn < 0.9:
                self.waiting = max(self.waiting - 1, 0)
            return self.waiting, pay, False, False, {}

    model = rlopt.LOOP(Queue(), reward_range=(-10.0, 5.0), seed=0).learn(20_000, log_interval=None)
    # Admitting to an empty queue alone earns 2/3 a step: 5 (.4)(5/9) less the mean number waiting, 4/9. Always: -1.6.
    assert model.reward_sum / 20_000 > 0.4 and model.policy[0] == 1


def test_a_reset_on_failure_has_its_price() -> None:
    class Fragile(gymnasium.Env[Any, Any]):
        """Action 1 pays 1 and breaks the machine one time in five, action 0 pays .6."""

        observation_space, action_space = gymnasium.spaces.Discrete(1), gymnasium.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
            super().reset(seed=seed)
            return 0, {}

        def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
            return 0, (0.6, 1.0)[action], bool(action) and self.np_random.random() < 0.2, False, {}

    # One failure in five costs 1 and 3 a time: .8 and .4 beside the sure .6.
    for cost, best in ((1.0, 1), (3.0, 0)):
        env = ContinuingWrapper(Fragile(), reset_cost=cost)
        model = rlopt.LOOP(env, reward_range=(1.0 - cost, 1.0), seed=0).learn(2000, log_interval=None)
        assert model.predict(0)[0] == best and model.data.counts[0, best] > 1000


def test_own_arrays_without_a_single_parameter() -> None:
    P = np.zeros((2, 2, 2))
    P[:, 0, 0] = P[:, 1, 1] = 1.0
    env = FiniteEnv(mdp=FiniteMDP(P, [[0.2, 0.0], [0.0, 0.7]]))
    model = rlopt.LOOP(env, seed=0).learn(500, log_interval=None)
    # State 0 is seldom seen, so that its plan may still be a guess.
    assert model.policy[1] == 1 and model.data.counts[1, 1] > 300 and model.gain == pytest.approx(0.7, abs=1e-5)


def test_save_and_load_continue_exactly(tmp_path: Path) -> None:
    whole = rlopt.LOOP(river(), seed=2).learn(3000)
    first = rlopt.LOOP(river(), seed=2).learn(1100)
    first.save(tmp_path / "agent")
    second = rlopt.LOOP.load(tmp_path / "agent", env=first.env, force_reset=False)
    assert second.config == first.config
    second.learn(1900, reset_num_timesteps=False)
    assert (second.reward_sum, second.plans) == (whole.reward_sum, whole.plans)
    assert isinstance(second.data, AnytimeSet) and isinstance(whole.data, AnytimeSet)
    assert second.data.top == whole.data.top and second.data.largest_seen == whole.data.largest_seen
    for name, value in whole.data.get_state().items():
        np.testing.assert_equal(second.data.get_state()[name], value)
