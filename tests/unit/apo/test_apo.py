"""APO: advantages by brute force, what an end of an episode means, and the gain of a process whose optimum is known."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.logger import configure

import rlopt
from rlopt.agents.apo.losses import differential_advantages
from rlopt.errors import ConfigError


class Ring(gymnasium.Env[Any, Any]):
    """Five states in a ring. Action 1 goes on, and pays 1 where it closes the ring; action 0 stays, and pays .1.

    Going on for ever pays .2 a step, staying .1. With ``ends``, every so many steps an episode terminates.
    """

    observation_space = spaces.Box(0, 1, (5,))
    action_space = spaces.Discrete(2)

    def __init__(self, ends: int | None = None) -> None:
        self.state, self.steps, self.ends = 0, 0, ends

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.state = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        reward = 0.1
        if action == 1:
            self.state = (self.state + 1) % 5
            reward = float(self.state == 0)
        return self._seen(), reward, self.ends is not None and self.steps % self.ends == 0, False, {}

    def _seen(self) -> Any:
        return np.eye(5, dtype=np.float32)[self.state]


def test_advantages_are_sums_of_residuals() -> None:
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(6, 2)), rng.normal(size=(6, 2))
    last, cut = rng.normal(size=2), np.zeros((6, 2))
    cut[2, 0] = 1
    gain, trace = 0.3, 0.9
    expected = np.zeros((6, 2))
    following = np.vstack([values[1:], last])
    for env in range(2):
        for start in range(6):
            for step in range(start, 6):
                ahead = 0.0 if cut[step, env] else following[step, env]
                residual = rewards[step, env] - gain + ahead - values[step, env]
                expected[start, env] += trace ** (step - start) * residual
                if cut[step, env]:
                    break
    found = differential_advantages(rewards, values, last, cut, gain, gae_lambda=trace)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_an_end_is_refused_or_leads_on_at_its_price() -> None:
    with pytest.raises(ConfigError, match=r'terminated at step 3.*on_termination="reset"'):
        rlopt.APO("MlpPolicy", Ring(ends=3), n_steps=8, device="cpu").learn(8)

    settings: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "seed": 0, "device": "cpu", "learning_rate": 0.0}
    model = rlopt.APO("MlpPolicy", Ring(ends=3), on_termination="reset", reset_cost=2.0, **settings)
    model.set_logger(configure(None, []))
    model.learn(8)
    free = rlopt.APO("MlpPolicy", Ring(ends=3), on_termination="reset", **settings)
    free.learn(8)
    paid = free.rollout_buffer.rewards - model.rollout_buffer.rewards
    assert np.flatnonzero(paid).tolist() == [2, 5] and np.allclose(paid[[2, 5]], 2.0)
    buffer = model.rollout_buffer
    last, _ = model.policy.obs_to_tensor(model._last_obs)  # type: ignore[arg-type]
    last_values = model.policy.predict_values(last).flatten().detach().numpy()
    # No trace stops at an end.
    whole = differential_advantages(
        buffer.rewards, buffer.values, last_values, np.zeros((8, 1)), model.gain, gae_lambda=model.gae_lambda
    )
    np.testing.assert_allclose(buffer.advantages, whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(buffer.returns, whole + buffer.values - 0.1 * model.mean_value, rtol=1e-5, atol=1e-6)
    assert model.gain == pytest.approx(buffer.rewards.mean())


def test_a_time_limit_only_cuts() -> None:
    env = gymnasium.wrappers.TimeLimit(Ring(), 3)
    model = rlopt.APO("MlpPolicy", env, n_steps=8, batch_size=8, seed=0, device="cpu", learning_rate=0.0)
    model.learn(8)
    buffer = model.rollout_buffer
    cut = np.zeros((8, 1))
    cut[[2, 5]] = 1
    # The rewards of those two steps hold the value of the state in which they were cut.
    assert model.gain == pytest.approx(buffer.rewards[cut == 0].mean())
    last, _ = model.policy.obs_to_tensor(model._last_obs)  # type: ignore[arg-type]
    last_values = model.policy.predict_values(last).flatten().detach().numpy()
    expected = differential_advantages(
        buffer.rewards, buffer.values, last_values, cut, model.gain, gae_lambda=model.gae_lambda
    )
    np.testing.assert_allclose(buffer.advantages, expected, rtol=1e-5, atol=1e-6)


def test_it_finds_the_better_gain() -> None:
    model = rlopt.APO("MlpPolicy", Ring(), n_steps=128, learning_rate=3e-3, seed=0, device="cpu")
    model.learn(128 * 20)
    assert all(model.predict(np.eye(5, dtype=np.float32)[state], deterministic=True)[0] == 1 for state in range(5))
    assert 0.17 < model.gain <= 0.2


def test_there_is_no_discount_to_set() -> None:
    with pytest.raises(ConfigError, match="gamma"):
        rlopt.APO("MlpPolicy", "Pendulum-v1", gamma=0.9)
