"""Linear LOOP against least squares, the tabular agent, finite differences; any feature map; refusals; saving."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import rlopt
import rlopt.envs.tasks.own_tasks
from rlopt.agents.loop.confidence_sets.linear import LinearSet
from rlopt.agents.loop.confidence_sets.planner import Problem
from rlopt.agents.loop.confidence_sets.tabular import TabularSet
from rlopt.agents.loop.losses import projected_discrepancy
from rlopt.errors import CheckpointError, ConfigError, ModelError, SpaceError

LOOSE = Problem(span=1e3, smallest_reward=0.0, largest_reward=1e3, tolerance=1e-10, max_sweeps=100_000)
TINY = 1e-9
"""A ridge that changes nothing."""


def aggregated(**kwargs: Any) -> Any:
    return gymnasium.make("rlopt/AggregatedRiverSwim-v0", **kwargs).unwrapped


def walk(env: Any, steps: int, seed: int) -> list[tuple[int, int, float, int]]:
    """Transitions of uniform actions from everywhere in turn."""
    rng, seen = np.random.default_rng(seed), []
    env.reset(seed=seed)
    for step in range(steps):
        env.state = state = step % env.mdp.n_states
        action = int(rng.integers(env.mdp.n_actions))
        target, reward, *_ = env.step(action)
        seen.append((state, action, reward, target))
    return seen


def filled(features: np.ndarray, seen: list[tuple[int, int, float, int]], problem: Problem, ridge: float) -> LinearSet:
    """Rows are the states themselves."""
    data = LinearSet(features.shape[2], features.shape[1], problem, ridge)
    for of_state in features:
        data.add_state(of_state)
    for transition in seen:
        data.add(*transition)
    return data


def plan_arrays(data: LinearSet, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Q_f + J_f [S, A] and V_f [S] of the plan in force."""
    found = [data.evaluate_features(f) for f in features]
    return np.array([e.targets for e in found]), np.array([e.state_value for e in found])


def test_projected_discrepancy_is_the_squared_distance_to_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    phi, targets, y, ridge = rng.normal(size=(50, 4)), rng.normal(size=50), rng.normal(size=50), 0.7
    w = np.linalg.solve(phi.T @ phi + ridge * np.eye(4), phi.T @ y)
    expected = float(np.sum((targets - phi @ w) ** 2))
    assert projected_discrepancy(targets @ targets, phi.T @ (2 * targets - y), w, ridge) == pytest.approx(expected)


@pytest.mark.parametrize("planner", ["bonus", "ellipsoid"])
def test_running_discrepancy_is_that_of_all_data_by_least_squares(planner: str) -> None:
    env = aggregated()
    features, seen = env.mdp.features, walk(env, 900, seed=1)
    data = filled(features, seen[:500], LOOSE, TINY)
    data.plan(3.0, planner)
    done = 500
    for count in (500, 501, 700, 900):
        for transition in seen[done:count]:
            data.add(*transition)
        done = count
        targets, values = plan_arrays(data, features)
        s, a, t = (np.array([transition[i] for transition in seen[:count]]) for i in (0, 1, 3))
        y = np.array([transition[2] for transition in seen[:count]]) + values[t]
        phi = features[s, a]
        fit, *_ = np.linalg.lstsq(phi, y, rcond=None)
        assert data.discrepancy == pytest.approx(np.sum((targets[s, a] - phi @ fit) ** 2), rel=1e-5, abs=1e-6)
        if planner == "ellipsoid":  # a linear Q: then it is L(f, f) - min_g L(f, g)
            paper = np.sum((targets[s, a] - y) ** 2) - np.sum((phi @ fit - y) ** 2)
            assert data.discrepancy == pytest.approx(paper, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("planner", ["bonus", "ellipsoid"])
def test_one_hot_features_give_the_tabular_plan(planner: str) -> None:
    env = gymnasium.make("rlopt/RiverSwim-v0", n_states=4).unwrapped
    features = np.eye(8).reshape(4, 2, 8)
    for seed in range(5):
        seen = walk(env, 600, seed)
        linear, tabular = filled(features, seen, LOOSE, TINY), TabularSet(4, 2, LOOSE)
        for transition in seen:
            tabular.add(*transition)
        beta = 2.0
        ours, theirs = linear.plan(beta, planner), tabular.plan(beta, planner)
        assert linear.gain == pytest.approx(tabular.gain, abs=1e-6)
        assert ours.discrepancy == pytest.approx(theirs.discrepancy, rel=1e-4) and ours.in_set and theirs.in_set
        targets, values = plan_arrays(linear, features)
        np.testing.assert_allclose(targets, tabular.targets, atol=1e-4)
        np.testing.assert_allclose(values, tabular.state_values, atol=1e-4)
        for transition in walk(env, 300, seed + 50):
            linear.add(*transition)
            tabular.add(*transition)
        assert linear.discrepancy == pytest.approx(tabular.discrepancy, rel=1e-4)


def test_gradient_of_the_gain_is_that_of_finite_differences() -> None:
    env = aggregated()
    features = env.mdp.features
    # A large ridge makes the gain depend on which state's value is 0.
    data = filled(features, walk(env, 4000, seed=2), LOOSE, 50.0)
    data.plan(1e-6, "bonus")
    log = data.log()
    gram = log.features.T @ log.features + 50.0 * np.eye(12)
    rng = np.random.default_rng(0)
    for _ in range(3):
        tilt = 0.01 * rng.normal(size=12)
        point = data._solve(log, tilt, 0.0)
        gradient = gram @ data._gradient(point.backup.argmax(axis=1), point, log.into, gram)
        for direction in rng.normal(size=(3, 12)):
            step = 1e-5 * direction
            change = (data._solve(log, tilt + step, 0.0).gain - data._solve(log, tilt - step, 0.0).gain) / 2e-5
            assert gradient @ direction == pytest.approx(change, rel=1e-3, abs=1e-5)


def test_bonus_and_ellipsoid_plans_are_certified_members() -> None:
    env = aggregated()
    features = env.mdp.features
    for seed in range(5):
        seen, beta = walk(env, 1500, seed), 1.0
        bonus, ellipsoid = (filled(features, seen, LOOSE, 0.01) for _ in range(2))
        first, second = bonus.plan(beta, "bonus"), ellipsoid.plan(beta, "ellipsoid")
        assert first.in_set and second.in_set and first.converged and second.converged
        # The bonus meets the trace identity sum_i phi_i A^-1 phi_i = d - ridge tr(A^-1); the ellipsoid is used up.
        phi = np.array([features[s, a] for s, a, *_ in seen])
        inverse = np.linalg.inv(phi.T @ phi + 0.01 * np.eye(12))
        assert first.discrepancy == pytest.approx(beta / 12 * np.einsum("ni,ij,nj->", phi, inverse, phi), rel=1e-4)
        assert second.discrepancy == pytest.approx(beta, rel=1e-2)
        assert ellipsoid.gain >= bonus.gain - 1e-9 and first.gain_bracket == (bonus.gain, None)


@pytest.mark.parametrize("planner", ["bonus", "ellipsoid"])
def test_learns_the_aggregated_river_with_few_switches(planner: Any) -> None:
    env = aggregated()
    model = rlopt.LinearLOOP(env, planner=planner, seed=0, span=env.mdp.span).learn(10_000)
    assert model.reward_sum > 0.9 * env.mdp.gain * 10_000
    assert 2 <= model.n_switches <= 60 and model.data.n_states <= 30
    certificates = [plan.certificate for plan in model.plans]
    assert sum(not certificate.converged for certificate in certificates) <= 1
    for certificate in certificates:
        assert certificate.converged == (certificate.residual <= 1e-6 * model.span)
        assert certificate.in_set == (certificate.discrepancy <= model.beta * (1 + 1e-6))


def test_optimism_at_theorys_scale() -> None:
    switches = 0
    for seed in range(4):
        env = gymnasium.make("rlopt/RandomLinear-v0", seed=seed).unwrapped
        model = rlopt.LinearLOOP(env, beta_scale=1.0, seed=seed, span=env.mdp.span).learn(4000)
        assert all(plan.gain >= env.mdp.gain - 1e-6 for plan in model.plans)
        switches += model.n_switches
    assert switches >= 2  # the set has shrunk


class Blind(gymnasium.Wrapper):
    """The environment without what it knows of itself."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.mdp = None

    @property
    def unwrapped(self) -> Any:
        return self


@pytest.mark.parametrize("kind", ["linear", "paper", "mixture"])
def test_without_a_span_every_plan_has_the_smallest_double_that_no_value_reaches(kind: str) -> None:
    env: Any = aggregated() if kind == "linear" else gymnasium.make("rlopt/MixtureRiverSwim-v0").unwrapped
    blind, low_high = Blind(env), (0.0, 1.0)
    if kind == "linear":
        model: Any = rlopt.LinearLOOP(blind, env.mdp.features, beta_scale=1e-4, reward_range=low_high, seed=0)
    elif kind == "paper":
        model = rlopt.LOOP(blind, procedure="paper", reward_range=low_high, seed=0)
    else:
        model = rlopt.MLELOOP(blind, env.mdp.kernels, env.mdp.r, reward_range=low_high, seed=0)
    tried: list[tuple[int, float, int]] = []
    plan = model._plan

    def planned() -> Any:
        certificate = plan()
        tried.append((model.n_transitions, model.span, certificate.clipped_states))
        assert certificate.beta == model.beta and model.data.problem.span == model.span
        return certificate

    model._plan = planned
    model.learn(4000)
    assert model.reward_sum > 0.7 * 4000 * env.mdp.gain
    by_plan = [[entry[1:] for entry in tried if entry[0] == record.step] for record in model.plans]
    assert sum(map(len, by_plan)) == len(tried) and max(map(len, by_plan)) >= 3
    for spans in by_plan:
        assert [span for span, _ in spans] == [2.0**k for k in range(len(spans))]
        assert all(clipped for _, clipped in spans[:-1]) and not spans[-1][1]


class OneHot(gymnasium.ObservationWrapper):
    """The state of a finite environment as a vector, which no table can index."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(0, 1, (env.observation_space.n,), np.float32)

    def observation(self, state: Any) -> np.ndarray:
        vector = np.zeros(self.observation_space.shape, np.float32)
        vector[state] = 1.0
        return vector


def test_vectors_with_a_feature_function_give_the_same_run_as_states_with_a_table() -> None:
    env, other = aggregated(), aggregated()
    table = env.mdp.features
    by_table = rlopt.LinearLOOP(env, seed=3).learn(1200)
    by_function = rlopt.LinearLOOP(OneHot(other), lambda o: table[int(np.argmax(o))], seed=3).learn(1200)
    assert by_function.data.n_states == 1201 and by_table.data.n_states <= 30
    assert by_function.reward_sum == by_table.reward_sum
    assert [p.step for p in by_function.plans] == [p.step for p in by_table.plans]
    np.testing.assert_allclose([p.gain for p in by_function.plans], [p.gain for p in by_table.plans], rtol=1e-5)
    vectors = np.eye(30, dtype=np.float32)
    np.testing.assert_array_equal(by_function.predict(vectors)[0], by_table.predict(np.arange(30))[0])


def test_learns_with_continuous_observations() -> None:
    env = gymnasium.make("rlopt/PuckWorld-v0", target_steps=50)
    rng = np.random.default_rng(0)
    frequencies, phases = rng.normal(size=(6, 12)) * 2, rng.uniform(0, 2 * np.pi, size=12)

    def fourier(observation: np.ndarray) -> np.ndarray:
        wave = np.append(np.cos(observation @ frequencies + phases) / np.sqrt(12), 1.0)
        return np.kron(np.eye(5), wave)

    model = rlopt.LinearLOOP(env, fourier, span=3.0, seed=0).learn(600)
    assert model.num_timesteps == 600 and model.data.n_states == 601 and model.dimension == 65
    assert all(plan.certificate.converged for plan in model.plans)
    observation, _ = env.reset(seed=1)
    assert model.predict(observation)[0].shape == () and model.predict(np.stack([observation] * 3))[0].shape == (3,)


def test_save_and_load_continue_exactly(tmp_path: Path) -> None:
    whole, env = aggregated(), aggregated()
    expected = rlopt.LinearLOOP(whole, seed=2, horizon=3000).learn(3000)
    first = rlopt.LinearLOOP(env, seed=2, horizon=3000).learn(1300)
    folder = first.save(tmp_path / "agent")
    second = rlopt.LinearLOOP.load(folder, env=env, force_reset=False)
    assert second.discrepancy == first.discrepancy and second.plans == first.plans
    second.learn(1700, reset_num_timesteps=False)
    assert second.reward_sum == expected.reward_sum and second.plans == expected.plans
    assert second.discrepancy == expected.discrepancy

    table = env.mdp.features
    by_function = rlopt.LinearLOOP(OneHot(aggregated()), lambda o: table[int(np.argmax(o))], seed=2).learn(100)
    folder = by_function.save(tmp_path / "function")
    with pytest.raises(CheckpointError, match="give it as feature_map"):
        rlopt.LinearLOOP.load(folder)
    loaded = rlopt.LinearLOOP.load(folder, feature_map=lambda o: table[int(np.argmax(o))])
    vector = np.eye(30, dtype=np.float32)[4]
    assert loaded.predict(vector)[0] == by_function.predict(vector)[0]
    data = by_function.data
    for name, value in (("end", np.full(100, 101, np.int64)), ("inverse", np.eye(3)), ("rewards", np.zeros(99))):
        with pytest.raises(ValueError, match=r"fit|not there"):
            data.set_state({**data.get_state(), name: value})


def test_bad_features_are_refused_with_the_cure() -> None:
    env = gymnasium.make("rlopt/RiverSwim-v0").unwrapped
    with pytest.raises(ConfigError, match="feature_map is not given"):
        rlopt.LinearLOOP(env)
    with pytest.raises(ModelError, match=r"shape \(6, 3, 4\): give \[6, 2, d\]"):
        rlopt.LinearLOOP(env, np.zeros((6, 3, 4)))
    with pytest.raises(ModelError, match="above sqrt 2"):
        rlopt.LinearLOOP(env, np.ones((6, 2, 4)))
    with pytest.raises(ModelError, match="NaN"):
        rlopt.LinearLOOP(env, np.full((6, 2, 4), np.nan))
    with pytest.raises(ModelError, match="give a function"):
        rlopt.LinearLOOP(OneHot(env), np.zeros((6, 2, 4)), span=1.0)
    far = gymnasium.make("rlopt/RiverSwim-v0", kernel="strehl_littman")  # begins in state 1 or 2
    late = rlopt.LinearLOOP(far, lambda s: np.ones((2, 1 if s == 0 else 3)) / 2)
    with pytest.raises(ModelError, match=r"gives shape \(2, 3\): it must give \[2, 1\]"):
        late.learn(2000)
    with pytest.raises(SpaceError, match="make it Discrete"):
        rlopt.LinearLOOP("Pendulum-v1", lambda o: o)
