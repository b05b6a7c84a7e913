"""Endless environments: Gymnasium's contract, exact processes against sampled transitions, closed forms, wrapper."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from scipy import stats

import rlopt
from rlopt.average_reward import (
    FiniteMDP,
    LinearMDP,
    LinearMixtureMDP,
    evaluate_policy,
    linear_program,
    relative_value_iteration,
)
from rlopt.envs.average_reward import ContinuingWrapper, FiniteEnv
from rlopt.envs.average_reward.river_swim import KERNELS
from rlopt.envs.tasks.own_tasks import NEVER_ENDING
from rlopt.errors import ConfigError, ModelError, UnknownNameError
from rlopt.evaluation.gain import evaluate_average_reward

FINITE: list[tuple[str, dict[str, Any]]] = [
    *(("RiverSwim", {"kernel": kernel}) for kernel in KERNELS),
    ("RiverSwim", {"n_states": 12}),
    ("AccessControl", {}),
    ("AccessControl", {"order": "free_first"}),
    ("TwoChoiceLoop", {}),
    ("ServerAllocation", {"capacity": 3}),
    ("RandomLinear", {}),
    ("AggregatedRiverSwim", {}),
    ("MixtureRiverSwim", {}),
]
finite = pytest.mark.parametrize(("name", "kwargs"), FINITE, ids=[f"{n}-{k}" for n, k in FINITE])


def make(name: str, **kwargs: Any) -> Any:
    return gymnasium.make(f"rlopt/{name}-v0", **kwargs).unwrapped


@pytest.mark.parametrize("env_id", sorted(NEVER_ENDING))
def test_gymnasium_accepts_it_and_it_never_ends(env_id: str) -> None:
    kwargs = {"env": "CartPole-v1"} if "Continuing" in env_id else {}
    env = gymnasium.make(env_id, **kwargs)
    assert gymnasium.spec(env_id).max_episode_steps is None
    check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=3)
    env.action_space.seed(3)
    for _ in range(1500):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert env.observation_space.contains(observation) and np.isfinite(reward)
        assert not terminated and not truncated


def pool(counts: np.ndarray, expected: np.ndarray) -> tuple[list[float], list[float]]:
    """Joins rare outcomes until each cell has five expected, as chi-square wants it."""
    cells: list[list[float]] = [[0.0, 0.0]]
    for index in np.argsort(expected)[::-1]:
        if cells[-1][1] >= 5:
            cells.append([0.0, 0.0])
        cells[-1][0] += counts[index]
        cells[-1][1] += expected[index]
    if len(cells) > 1 and cells[-1][1] < 5:
        last = cells.pop()
        cells[-1] = [cells[-1][0] + last[0], cells[-1][1] + last[1]]
    return [c for c, _ in cells], [e for _, e in cells]


@finite
def test_transitions_and_rewards_are_those_of_the_exact_process(name: str, kwargs: dict[str, Any]) -> None:
    env = make(name, **kwargs)
    mdp: FiniteMDP = env.mdp
    env.reset(seed=11)
    draws, p_values = 400, []
    chosen = np.random.default_rng(0).permutation(mdp.n_states)[:12]
    for state in chosen:
        for action in range(mdp.n_actions):
            counts, rewards = np.zeros(mdp.n_states), np.empty(draws)
            for draw in range(draws):
                env.state = int(state)
                target, rewards[draw], *_ = env.step(action)
                counts[target] += 1
            row = mdp.P[state, action]
            assert counts[row == 0].sum() == 0
            observed, expected = pool(counts[row > 0], draws * row[row > 0])
            if len(expected) > 1:
                p_values.append(stats.chisquare(observed, expected).pvalue)
            low, high = mdp.reward_range
            assert low <= rewards.min() and rewards.max() <= high
            error = rewards.std() / np.sqrt(draws)
            assert abs(rewards.mean() - mdp.r[state, action]) <= 4.5 * error + 1e-12
    # If every row is right the p-values are uniform: none is below 1e-5 in all but 1 of 1000 such tests.
    assert not p_values or min(p_values) > 1e-5


@finite
def test_exact_process_is_solved_and_a_long_run_of_the_optimal_policy_gives_its_gain(
    name: str, kwargs: dict[str, Any]
) -> None:
    env = make(name, **kwargs)
    for planner in (relative_value_iteration, linear_program):
        solution = planner(env.mdp)
        assert solution.gain == pytest.approx(env.mdp.gain, abs=1e-8)
        assert solution.span == pytest.approx(env.mdp.span, abs=1e-8)

    class Optimal:
        def predict(self, observations: np.ndarray, **_: Any) -> tuple[np.ndarray, None]:
            return env.mdp.solution.policy[observations], None

    vec_env = rlopt.make_env(f"rlopt/{name}-v0", env_kwargs=kwargs)
    estimate = evaluate_average_reward(Optimal(), vec_env, n_steps=4_000, burn_in=200, seed=4, confidence=0.999)
    assert estimate.low - 1e-6 <= env.mdp.gain <= estimate.high + 1e-6


def test_river_swim_by_hand() -> None:
    P, r = make("RiverSwim", n_states=3).mdp.P, make("RiverSwim", n_states=3).mdp.r
    np.testing.assert_allclose(P[:, 0], [[1, 0, 0], [1, 0, 0], [0, 1, 0]])
    np.testing.assert_allclose(P[:, 1], [[0.4, 0.6, 0], [0.05, 0.6, 0.35], [0, 0.4, 0.6]])
    np.testing.assert_allclose(r, [[0.005, 0], [0, 0], [0, 1]])
    # Always right is a birth-death chain: detailed balance gives the stationary distribution; the last state pays 1.
    mdp = make("RiverSwim").mdp
    up, down = np.array([0.6, 0.35, 0.35, 0.35, 0.35]), np.array([0.05, 0.05, 0.05, 0.05, 0.4])
    weights = np.append(1.0, np.cumprod(up / down))
    assert evaluate_policy(mdp, np.ones(6, int)).gain == pytest.approx(weights[-1] / weights.sum(), abs=1e-12)
    assert mdp.gain == pytest.approx(weights[-1] / weights.sum(), abs=1e-12)
    assert make("RiverSwim", kernel="strehl_littman").mdp.r[5, 1] == pytest.approx(0.3)
    starts = {make("RiverSwim", kernel="strehl_littman").reset(seed=seed)[0] for seed in range(20)}
    assert starts == {1, 2} and make("RiverSwim").reset(seed=1)[0] == 0


def test_linear_processes_multiply_out() -> None:
    for name in ("RandomLinear", "AggregatedRiverSwim"):
        mdp: LinearMDP = make(name).mdp
        np.testing.assert_allclose(np.einsum("sad,dt->sat", mdp.features, mdp.measures), mdp.P, atol=1e-14)
        np.testing.assert_allclose(mdp.features @ mdp.reward_weights, mdp.r, atol=1e-14)
        assert np.linalg.norm(mdp.features, axis=2).max() <= np.sqrt(2)
    assert make("AggregatedRiverSwim").mdp.features.shape == (30, 2, 12)
    # Without mixing the aggregated river has the gain of the river.
    assert make("AggregatedRiverSwim", mixing=0.0).mdp.gain == pytest.approx(make("RiverSwim").mdp.gain, abs=1e-10)
    mixture: LinearMixtureMDP = make("MixtureRiverSwim").mdp
    np.testing.assert_allclose(mixture.P, make("RiverSwim").mdp.P, atol=1e-15)
    np.testing.assert_allclose(np.tensordot(mixture.weights, mixture.kernels, 1), mixture.P, atol=1e-15)
    with pytest.raises(ModelError, match=r"norm 2, above sqrt 2: divide the features by 1.414"):
        LinearMDP.of(np.full((1, 1, 1), 2.0), np.full((1, 1), 0.5), np.zeros(1))
    with pytest.raises(ModelError, match="do not fit"):
        LinearMDP.of(np.ones((1, 1, 1)), np.ones((2, 1)), np.zeros(1))
    with pytest.raises(ModelError, match="not a distribution"):
        LinearMixtureMDP.of(mixture.kernels, [0.5, 0.5, 0.5, 0, 0], mixture.r)
    with pytest.raises(ModelError, match="sum up to"):
        LinearMixtureMDP.of(0.9 * mixture.kernels, mixture.weights, mixture.r)


def test_access_control_orders_by_hand() -> None:
    # One server. accept_first, free, accept: the server is taken and stays so with 0.94, whatever comes next.
    accept, free = (make("AccessControl", n_servers=1, order=order).mdp for order in ("accept_first", "free_first"))
    np.testing.assert_allclose(accept.P[4 + 2, 1], [0.94 / 4] * 4 + [0.06 / 4] * 4)
    np.testing.assert_allclose(accept.r[:, 1], [0, 0, 0, 0, 1 / 8, 2 / 8, 4 / 8, 1])
    # free_first: a free server that is taken is busy for certain; one busy is free in time with 0.06.
    np.testing.assert_allclose(free.P[4 + 2, 1], [1 / 4] * 4 + [0] * 4)
    np.testing.assert_allclose(free.r[:, 1], [0.06 / 8, 0.12 / 8, 0.24 / 8, 0.06, 1 / 8, 2 / 8, 4 / 8, 1])
    np.testing.assert_allclose(free.P[2, 0], [0.94 / 4] * 4 + [0.06 / 4] * 4)
    both = [make("AccessControl", order=order).mdp for order in ("accept_first", "free_first")]
    assert abs(both[0].gain - both[1].gain) > 1e-4 and abs(both[0].span - both[1].span) > 0.01
    assert {make("AccessControl").reset(seed=seed)[0] for seed in range(40)} == {40, 41, 42, 43}


def test_two_choice_loop_and_server_allocation_have_the_known_best_policies() -> None:
    loop = make("TwoChoiceLoop").mdp
    assert loop.n_states == 9 and loop.gain == pytest.approx(1 / 5) and loop.solution.policy[0] == 1
    assert evaluate_policy(loop, np.zeros(9, int)).gain == pytest.approx(0.5 / 5)
    assert make("TwoChoiceLoop", near=2.0).mdp.solution.policy[0] == 0
    # The c-mu rule, away from the capacity: costs 1 and 3 with services 0.8 and 0.3 make 0.8 < 0.9.
    capacity = 12
    queues = make("ServerAllocation", capacity=capacity, service=(0.8, 0.3), arrival=(0.1, 0.1), cost=(1.0, 3.0)).mdp
    policy = queues.solution.policy.reshape(capacity + 1, capacity + 1)
    assert (policy[1:6, 1:6] == 1).all() and (policy[1:6, 0] == 0).all()
    assert queues.r[0, 0] == 1 and queues.r[-1, 0] == pytest.approx(0)


def test_bad_arguments_are_refused() -> None:
    for name, kwargs, error in (
        ("RiverSwim", {"n_states": 2}, ConfigError),
        ("RiverSwim", {"kernel": "osbund"}, UnknownNameError),
        ("AccessControl", {"order": "first"}, UnknownNameError),
        ("AccessControl", {"free_probability": 0}, ConfigError),
        ("ServerAllocation", {"cost": (0, 1)}, ConfigError),
        ("TwoChoiceLoop", {"length": 1}, ConfigError),
        ("AggregatedRiverSwim", {"mixing": 1.0}, ConfigError),
        ("PuckWorld", {"target_steps": 0}, ConfigError),
        ("Catcher", {"fall": 0}, ConfigError),
        ("Continuing", {"env": "CartPole-v1", "reset_cost": -1}, ConfigError),
        ("Continuing", {"env": "CartPool-v1"}, UnknownNameError),
    ):
        with pytest.raises(error):
            make(name, **kwargs)
    for name in ("RiverSwim", "PuckWorld", "Catcher"):
        env = make(name)
        env.reset(seed=0)
        for action in (-1, 9):
            with pytest.raises(ConfigError, match="action"):
                env.step(action)
    with pytest.raises(ModelError, match=r"P\[0, 0\] sum up to 0.5"):
        FiniteEnv([[[(0.5, 0, 1.0)]]])


def test_catcher_and_puck_world_pay_what_their_docs_say() -> None:
    catcher = make("Catcher", fall=0.25)
    observation, _ = catcher.reset(seed=0)
    rewards = []
    for _ in range(400):
        # Brake as soon as sliding on would reach the fruit: a paddle that follows it catches what it can.
        stop = observation[0] + observation[1] * 0.06 * 4
        action = 1 + int(np.sign(round((observation[2] - stop) / 0.1)))
        previous = observation
        observation, reward, *_ = catcher.step(action)
        if previous[3] <= 0.25 + 1e-6:
            caught = abs(observation[0] - previous[2]) <= 0.1 + 1e-6
            assert reward == (1.0 if caught else -1.0) and observation[3] == 1.0
            rewards.append(reward)
        else:
            assert reward == 0.0
    assert len(rewards) == 100
    puck = make("PuckWorld", target_steps=20)
    observation, _ = puck.reset(seed=0)
    moved = 0
    for step in range(2000):
        target = observation[4:].copy()
        observation, reward, *_ = puck.step(step % 5)
        assert reward == pytest.approx(-np.linalg.norm(observation[:2] - target) / np.sqrt(2), abs=1e-6)
        moved += bool(np.any(observation[4:] != target))
    assert 60 <= moved <= 140  # binomial(2000, 1/20)


class Countdown(gymnasium.Env[int, int]):
    """Ends after three steps, by termination under action 1 in the last one, else by truncation."""

    observation_space = gymnasium.spaces.Discrete(4)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict]:
        super().reset(seed=seed)
        self.left = 3
        return self.left, {"fresh": True}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        self.left -= 1
        over = self.left == 0
        return self.left, 1.0, over and action == 1, over and action == 0, {}


def test_continuing_wrapper_goes_on_after_an_end_for_a_price() -> None:
    env = ContinuingWrapper(Countdown(), reset_cost=5.0)
    assert env.reset(seed=0) == (3, {"fresh": True, "reset": False, "reset_cost": 0.0})
    plain = {"reset": False, "reset_cost": 0.0}
    assert [env.step(1) for _ in range(2)] == [(2, 1.0, False, False, plain), (1, 1.0, False, False, plain)]
    after = {"fresh": True, "terminal_observation": 0, "reset": True, "reset_cost": 5.0}
    assert env.step(1) == (3, -4.0, False, False, after)
    env.step(0), env.step(0)
    assert env.step(0) == (3, 1.0, False, False, {**after, "reset_cost": 0.0})
    with pytest.raises(ConfigError, match="reset_cost is nan"):
        ContinuingWrapper(Countdown(), reset_cost=float("nan"))


def test_continuing_reaches_the_vec_env_before_any_buffer() -> None:
    vec_env = rlopt.make_env("rlopt/Continuing-v0", seed=0, env_kwargs={"env": "CartPole-v1", "reset_cost": 10.0})
    vec_env.reset()
    resets = []
    for _ in range(200):
        _, rewards, dones, infos = vec_env.step(np.array([0]))  # always left: falls within about ten steps
        assert not dones[0] and rewards[0] == (1.0 - 10.0 if infos[0]["reset"] else 1.0)
        resets.append(infos[0]["reset"])
    assert 15 <= sum(resets) <= 25
    # CartPole's time limit of 500 is gone, and an episodic environment is refused by the long-run estimate.
    still = gymnasium.make("rlopt/Continuing-v0", env="Pendulum-v1")
    still.reset(seed=0)
    assert not any(still.step(np.zeros(1, np.float32))[4]["reset"] for _ in range(300))

    class Still:
        def predict(self, observations: np.ndarray, **_: Any) -> tuple[np.ndarray, None]:
            return np.zeros((len(observations), 1), np.float32), None

    with pytest.raises(ConfigError, match="an episode ended after 200 steps"):
        evaluate_average_reward(Still(), "Pendulum-v1", n_steps=500, burn_in=0)


def test_dm_control_goes_on_beyond_its_time_limit() -> None:
    env = gymnasium.make("rlopt/Continuing-v0", env="dm_control/cartpole-swingup")
    env.reset(seed=0)
    for _ in range(1005):
        _, _, terminated, truncated, info = env.step(np.zeros(1, np.float32))
        assert not terminated and not truncated and not info["reset"]


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("RiverSwim", {}),
        ("AccessControl", {}),
        ("PuckWorld", {}),
        ("Catcher", {}),
        ("Continuing", {"env": "CartPole-v1"}),
        ("Continuing", {"env": "Hopper-v5", "reset_cost": 1.0}),
        ("Continuing", {"env": "dm_control/cartpole-swingup"}),
    ],
)
def test_state_of_a_batch_is_restored_exactly(name: str, kwargs: dict[str, Any]) -> None:
    def make_batch(seed: int) -> Any:
        vec_env = rlopt.make_env(f"rlopt/{name}-v0", n_envs=2, seed=seed, env_kwargs=kwargs)
        vec_env.action_space.seed(5)
        vec_env.reset()
        return vec_env

    def play(vec_env: Any, steps: int) -> list[Any]:
        return [vec_env.step(np.stack([vec_env.action_space.sample() for _ in range(2)]))[:2] for _ in range(steps)]

    first = make_batch(8)
    play(first, 60)
    state = first.get_state()
    first.action_space.seed(6)
    expected = play(first, 50)
    second = make_batch(99)
    second.set_state(state)
    second.action_space.seed(6)
    for (o1, r1), (o2, r2) in zip(expected, play(second, 50), strict=True):
        np.testing.assert_array_equal(o1, o2)
        np.testing.assert_array_equal(r1, r2)
