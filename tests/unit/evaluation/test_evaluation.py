"""Evaluation: every episode once, no bias to short ones, raw rewards, nothing disturbed."""

import copy
import json
import random
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

import rlopt
from rlopt.errors import ConfigError, NonFiniteError, SpaceError, UnknownNameError
from rlopt.evaluation.evaluate import RandomPolicy, evaluate
from rlopt.statistics.aggregates import bootstrap_interval, iqm


class Schedule(gym.Env):
    """Plays given episode lengths in turn, one reward a step: the return of an episode is its length."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, lengths: list[int], truncate: bool = False) -> None:
        self.schedule, self.truncate, self.episode, self.step_in_episode = lengths, truncate, -1, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode += 1
        self.step_in_episode = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_in_episode += 1
        over = self.step_in_episode >= self.schedule[self.episode % len(self.schedule)]
        observation = np.full(3, 0.1 * self.step_in_episode, np.float32)
        return observation, 1.0, over and not self.truncate, over and self.truncate, {}


class Echo(gym.Env):
    """The observation is fixed and the reward is the first action: shows what the model saw."""

    def __init__(self, observation: Any, space: spaces.Space, steps: int = 4) -> None:
        self.observation_space, self.action_space = space, spaces.Box(-1, 1, (2,), np.float32)
        self.observation, self.steps, self.count = observation, steps, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self.observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return self.observation, float(action[0]), False, self.count >= self.steps, {"is_success": action[0] > 0}


class Still:
    """Acts with zeros."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> Any:
        return np.zeros((len(episode_start), 2), np.float32), None


CALM = {"log_std_init": -4.0}  # so that no action is clipped, which would make different noise look equal


def vec(*envs: gym.Env) -> DummyVecEnv:
    return DummyVecEnv([lambda env=env: env for env in envs])


def brief(name: str) -> gym.Env:
    return gym.make(name, max_episode_steps=12)


def test_every_episode_counts_once_and_short_ones_are_not_preferred() -> None:
    # the first six to finish would be mostly ones; the quotas decided in advance are 2, 2, 1, 1
    env = vec(Schedule([1, 9]), Schedule([30, 2]), Schedule([1]), Schedule([50]))
    result = evaluate(Still(), env, 6)
    assert result.lengths.tolist() == [1, 9, 30, 2, 1, 50]
    assert result.returns.tolist() == [1.0, 9.0, 30.0, 2.0, 1.0, 50.0]
    assert result.env_steps == 50 * 4
    assert result.n_envs == 4


def test_mean_return_is_unbiased_when_length_and_return_correlate() -> None:
    rng = np.random.default_rng(0)
    means = []
    for _ in range(60):
        env = vec(*(Schedule(rng.choice([1, 40], size=20).tolist()) for _ in range(8)))
        means.append(evaluate(Still(), env, 20).mean)
    # true mean 20.5, standard error 19.5 / sqrt(60 * 20) = 0.56; counting the first 20 to finish gives less than 10
    assert np.mean(means) == pytest.approx(20.5, abs=4 * 0.56)


def test_more_environments_than_episodes() -> None:
    result = evaluate(Still(), vec(Schedule([3]), Schedule([5]), Schedule([1])), 2)
    assert result.lengths.tolist() == [3, 5]


def test_terminated_and_truncated_episodes() -> None:
    result = evaluate(Still(), vec(Schedule([4], truncate=True), Schedule([6])), 4)
    assert result.lengths.tolist() == [4, 4, 6, 6]
    assert result.truncated.tolist() == [True, True, False, False]
    assert result.success_rate is None


def test_summary_and_json() -> None:
    result = evaluate(Still(), vec(Schedule([1, 2, 3, 10, 50])), 5, confidence=0.8)
    assert result.iqm == iqm([1, 2, 3, 10, 50]) == 5.0
    assert result.mean == pytest.approx(66 / 5)
    assert result.std == pytest.approx(np.std([1, 2, 3, 10, 50]))
    assert result.interval == bootstrap_interval([1.0, 2.0, 3.0, 10.0, 50.0], confidence=0.8)
    data = json.loads(json.dumps(result.as_dict()))
    assert data["returns"] == [1, 2, 3, 10, 50]
    assert data["iqm"] == 5.0
    assert data["episodes"] == 5
    assert data["env_steps_per_second"] > 0


def test_progress_is_told_once_per_counted_episode() -> None:
    told: list[tuple[int, int]] = []
    evaluate(Still(), vec(Schedule([1]), Schedule([7])), 4, on_episode=lambda *counts: told.append(counts))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def fingerprint(model: Any) -> list[Any]:
    """All that acting could change: random states, observations, modes, noise."""
    marks: list[Any] = [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()]
    marks.append(str(model.action_space.np_random.bit_generator.state))
    marks.append(str(model._last_obs))
    marks.append([module.training for module in model.policy.modules()])
    for module in model.policy.modules():
        distribution = getattr(module, "action_dist", None)
        if distribution is not None:
            marks.append({name: id(value) for name, value in vars(distribution).items()})
    return marks


@pytest.mark.parametrize(("make", "sde"), [(PPO, False), (PPO, True), (SAC, False), (SAC, True), (DQN, False)])
@pytest.mark.parametrize("deterministic", [True, False])
def test_nothing_is_disturbed_in_the_middle_of_training(make: Any, sde: bool, deterministic: bool) -> None:
    name = "CartPole-v1" if make is DQN else "Pendulum-v1"
    small = {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 1} | ({"use_sde": True} if sde else {})
    short = {"n_steps": 32, "n_epochs": 1, "batch_size": 32} if make is PPO else {"learning_starts": 10}

    def train(interrupt: bool) -> tuple[list[torch.Tensor], bool]:
        model = make("MlpPolicy", VecNormalize(vec(brief(name))), **small, **short)
        same = []

        class Between(BaseCallback):
            def _on_rollout_start(self) -> None:
                if interrupt:
                    before = fingerprint(self.model)
                    evaluate(self.model, vec(brief(name), brief(name)), 3, deterministic=deterministic)
                    same.append(fingerprint(self.model) == before)

            def _on_step(self) -> bool:
                return True

        model.learn(48, callback=Between())
        return [value.clone() for value in model.policy.state_dict().values()], bool(same) and all(same)

    alone, _ = train(interrupt=False)
    watched, untouched = train(interrupt=True)
    assert untouched
    assert all(torch.equal(a, b) for a, b in zip(alone, watched, strict=True))


def test_a_failing_environment_leaves_the_random_states_too() -> None:
    model = PPO("MlpPolicy", vec(Schedule([5])), device="cpu", seed=0)
    before = fingerprint(model)
    broken = Schedule([5])
    broken.step = lambda action: (np.zeros(3, np.float32), float("nan"), False, False, {})  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match=r"reward is nan in environment 1 at evaluation step 0"):
        evaluate(model, vec(Schedule([5]), broken), 2, deterministic=False)
    assert fingerprint(model) == before


def test_stochastic_evaluation_is_seeded() -> None:
    box = spaces.Box(-5, 5, (3,), np.float32)
    model = PPO("MlpPolicy", vec(Echo(np.ones(3, np.float32), box)), device="cpu", seed=0)
    torch.manual_seed(77)

    def play(seed: int) -> list[float]:
        env = vec(*(Echo(np.ones(3, np.float32), box) for _ in range(3)))
        return evaluate(model, env, 6, deterministic=False, seed=seed).returns.tolist()

    first = play(3)
    torch.rand(5)
    assert play(3) == first
    assert play(4) != first
    assert len(set(first)) == 6


def test_gsde_noise_is_fresh_for_each_episode_and_environment() -> None:
    box = spaces.Box(-5, 5, (3,), np.float32)
    model = PPO(
        "MlpPolicy", vec(Echo(np.ones(3, np.float32), box)), device="cpu", seed=0, use_sde=True, policy_kwargs=CALM
    )
    env = vec(*(Echo(np.ones(3, np.float32), box) for _ in range(3)))
    returns = evaluate(model, env, 9, deterministic=False).returns
    assert len(np.unique(returns.round(6))) == 9  # the observation is fixed, so equal noise would give equal returns
    single = evaluate(model, vec(Echo(np.ones(3, np.float32), box)), 4, deterministic=False).returns
    assert len(np.unique(single.round(6))) == 4


def test_gsde_noise_lasts_for_an_episode() -> None:
    box = spaces.Box(-5, 5, (3,), np.float32)
    model = PPO(
        "MlpPolicy", vec(Echo(np.ones(3, np.float32), box)), device="cpu", seed=0, use_sde=True, policy_kwargs=CALM
    )
    seen: list[float] = []

    class Watched(Echo):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            seen.append(float(action[0]))
            return super().step(action)

    evaluate(
        model, vec(Watched(np.ones(3, np.float32), box), Echo(np.ones(3, np.float32), box, 3)), 2, deterministic=False
    )
    assert len(seen) == 4
    assert len(set(seen)) == 1  # same observation, same noise, although the other environment began a new episode


def test_the_training_statistics_are_used_frozen_and_rewards_stay_raw() -> None:
    box = spaces.Box(-100, 100, (3,), np.float32)
    there = np.array([10.0, 20.0, 30.0], np.float32)
    training = VecNormalize(vec(Echo(there, box)))
    training.obs_rms.mean, training.obs_rms.var = np.array([8.0, 20.0, 36.0]), np.array([4.0, 1.0, 9.0])
    training.ret_rms.var = np.array(1e-4)
    model = PPO("MlpPolicy", training, device="cpu", seed=0)
    kept = copy.deepcopy((training.obs_rms.mean, training.obs_rms.var, training.obs_rms.count, training.returns))
    # by hand: (10-8)/2, 0, (30-36)/3
    action = model.predict(np.array([[1.0, 0.0, -2.0]], np.float32), deterministic=True)[0][0, 0]
    for env in (
        vec(Echo(there, box)),
        VecMonitor(vec(Echo(there, box))),
        VecNormalize(vec(Echo(there, box))),  # never synchronised: the model's own statistics count
        VecMonitor(VecNormalize(vec(Echo(there, box)))),
    ):
        result = evaluate(model, env, 2)
        assert result.returns == pytest.approx([4 * action] * 2, rel=1e-4)
        assert result.success_rate == float(action > 0)
    assert str((training.obs_rms.mean, training.obs_rms.var, training.obs_rms.count, training.returns)) == str(kept)


def test_statistics_of_the_given_environment_serve_a_model_without_any() -> None:
    box = spaces.Box(-100, 100, (3,), np.float32)
    there = np.array([10.0, 20.0, 30.0], np.float32)
    model = PPO("MlpPolicy", vec(Echo(there, box)), device="cpu", seed=0)
    for stack in (1, 2):
        env = VecNormalize(vec(Echo(there, box)))
        env.obs_rms.mean, env.obs_rms.var = np.array([8.0, 20.0, 36.0]), np.array([4.0, 1.0, 9.0])
        count = env.obs_rms.count
        if stack == 2:
            stacked = VecFrameStack(env, 2)
            model = PPO("MlpPolicy", VecFrameStack(vec(Echo(there, box)), 2), device="cpu", seed=0)
            seen = [[0.0, 0.0, 0.0, 1.0, 0.0, -2.0]] + 3 * [[1.0, 0.0, -2.0, 1.0, 0.0, -2.0]]
            expected = sum(model.predict(np.array(o, np.float32), deterministic=True)[0][0] for o in seen)
            result = evaluate(model, stacked, 1)
            assert env.training
        else:
            expected = 4 * model.predict(np.array([1.0, 0.0, -2.0], np.float32), deterministic=True)[0][0]
            result = evaluate(model, env, 1)
        assert result.returns[0] == pytest.approx(expected, rel=1e-4)
        assert env.obs_rms.count == count


def test_dict_observations_and_a_plain_environment() -> None:
    space = spaces.Dict({"a": spaces.Box(-5, 5, (2,), np.float32), "b": spaces.Discrete(3)})
    env = Echo({"a": np.ones(2, np.float32), "b": 1}, space)
    model = PPO("MultiInputPolicy", vec(env), device="cpu", seed=0)
    batch = {"a": np.ones((1, 2), np.float32), "b": np.array([[1]])}
    action = model.predict(batch, deterministic=True)[0][0, 0]
    result = evaluate(model, Monitor(Echo({"a": np.ones(2, np.float32), "b": 1}, space)), 2)
    assert result.returns == pytest.approx([4 * action] * 2, rel=1e-5)


def test_images_are_put_channels_first_where_the_model_wants_it() -> None:
    space = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    picture = np.random.default_rng(0).integers(0, 255, (36, 36, 3)).astype(np.uint8)
    model = PPO("CnnPolicy", vec(Echo(picture, space)), n_steps=8, device="cpu", seed=0)
    assert model.observation_space.shape == (3, 36, 36)
    action = model.predict(picture.transpose(2, 0, 1), deterministic=True)[0][0]
    assert evaluate(model, vec(Echo(picture, space)), 1).returns[0] == pytest.approx(4 * action, rel=1e-5)


def test_recurrent_state_and_episode_starts_reach_the_model() -> None:
    class Counter:
        def predict(
            self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
        ) -> Any:
            state = np.zeros(len(episode_start)) if state is None else state
            state = np.where(episode_start, 0.0, state + 1)
            return np.stack([state, state], axis=1) / 10, state

    box = spaces.Box(-5, 5, (3,), np.float32)
    result = evaluate(Counter(), vec(*(Echo(np.ones(3, np.float32), box) for _ in range(2))), 4)
    assert result.returns == pytest.approx([(0 + 1 + 2 + 3) / 10] * 4)


def test_the_training_environment_is_refused_or_replaced() -> None:
    model = PPO("MlpPolicy", vec(Schedule([5])), device="cpu")
    for env in (model.get_env(), VecMonitor(model.get_env())):
        with pytest.raises(ConfigError, match="second environment"):
            evaluate(model, env, 1)


@pytest.mark.parametrize(
    ("observation", "action", "words"),
    [
        (spaces.Box(-1, 1, (4,), np.float32), None, r"observation space Box.*\(3,\).* differs.*\(4,\)"),
        (spaces.Dict({"a": spaces.Box(-1, 1, (3,), np.float32)}), None, "observation space"),
        (None, spaces.Box(-2, 2, (2,), np.float32), "action space"),
        (None, spaces.Discrete(2), "action space"),
    ],
)
def test_foreign_spaces_are_refused_by_name(observation: Any, action: Any, words: str) -> None:
    model = PPO("MlpPolicy", vec(Schedule([5])), device="cpu")
    env = Schedule([5])
    env.observation_space = observation or env.observation_space
    env.action_space = action or env.action_space
    with pytest.raises(SpaceError, match=words) as caught:
        evaluate(model, vec(env), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_episodes": 0}, "n_episodes"),
        ({"confidence": 1.2}, "confidence"),
        ({"n_envs": 3}, "n_envs"),
        ({"env": 5}, "not int"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        evaluate(**({"model": Still(), "env": vec(Schedule([2])), "n_episodes": 1} | arguments))


def test_a_model_that_acts_with_nan_is_stopped() -> None:
    class Broken(Still):
        def predict(self, *args: Any, **kwargs: Any) -> Any:
            return np.full((1, 2), np.nan), None

    with pytest.raises(NonFiniteError, match="action"):
        evaluate(Broken(), vec(Schedule([5])), 1)


def test_random_policy_spans_the_space_and_leaves_the_given_one() -> None:
    space = spaces.Box(-2, 3, (2,), np.float32)
    space.seed(9)
    before = str(space.np_random.bit_generator.state)
    actions = np.concatenate([RandomPolicy(space, 1).predict(None, episode_start=np.ones(500))[0]])
    assert actions.shape == (500, 2)
    assert actions.mean() == pytest.approx(0.5, abs=4 * 5 / np.sqrt(12 * 1000))
    assert str(space.np_random.bit_generator.state) == before


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("key", [None, "speed"])
def test_a_broken_observation_is_stopped(key: str | None, first: bool) -> None:
    class Broken(Schedule):
        observation_space = (
            Schedule.observation_space if key is None else spaces.Dict({key: Schedule.observation_space})
        )

        def observe(self, value: float) -> Any:
            observation = np.full(3, value, np.float32)
            return observation if key is None else {key: observation}

        def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
            super().reset(**kwargs)
            return self.observe(np.nan if first else 0.0), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return self.observe(np.inf), *super().step(action)[1:]

    named = "observation 'speed'" if key else "observation"
    with pytest.raises(
        NonFiniteError, match=rf"the {named} is NaN or infinite at evaluation step {0 if first else 1}:"
    ):
        evaluate(Still(), DummyVecEnv([lambda: Broken([5])]), 1)


def test_an_episode_without_an_end_is_stopped_unless_its_limit_is_higher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlopt.evaluation.evaluate.LONGEST_EPISODE", 30)
    gym.register("rlopt-test/Endless-v0", lambda: Schedule([10**9]))
    try:
        with pytest.raises(ConfigError, match="not ended after 30 steps: give the environment a limit, max_episode_st"):
            evaluate(Still(), "rlopt-test/Endless-v0", 1)
        for limit in (30, 40):
            assert evaluate(Still(), "rlopt-test/Endless-v0", 1, max_episode_steps=limit).lengths.tolist() == [limit]
    finally:
        del gym.registry["rlopt-test/Endless-v0"]


@pytest.mark.parametrize(
    ("name", "advice"), [("n_eval_episodes", "its name is n_episodes"), ("max_episode_step", "'max_episode_steps'")]
)
def test_unknown_arguments_are_told_the_right_ones(name: str, advice: str) -> None:
    with pytest.raises(UnknownNameError, match=f"rlopt.evaluate has no argument '{name}'.*{advice}"):
        rlopt.evaluate(None, "CartPole-v1", **{name: 1})  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match=r"make_env has no argument 'num_envs': .*'n_envs'"):
        rlopt.make_env("CartPole-v1", num_envs=2)  # type: ignore[call-arg]
