"""Reward centring: values counted from the average reward are the values but for a constant, in every mode."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import configure

import rlopt
from rlopt.agents.sac import losses
from rlopt.errors import ConfigError

GAMMA = 0.9


class Pays(gymnasium.Env[Any, Any]):
    """Pays 2 a step, whatever is done; ``ends``: every so many steps an episode terminates."""

    observation_space = spaces.Box(-1, 1, (2,))

    def __init__(self, ends: int | None = None, discrete: bool = False) -> None:
        self.action_space = spaces.Discrete(2) if discrete else spaces.Box(-1, 1, (1,))
        self.ends, self.steps = ends, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return self._seen(), 2.0, self.ends is not None and self.steps % self.ends == 0, False, {}

    def _seen(self) -> Any:
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)


@pytest.mark.parametrize("average", [0.0, 0.7, -3.0])
def test_centred_values_are_the_values_less_a_constant(average: float) -> None:
    """By solving both sets of equations, in a process whose episodes end, with three rewards summed a step."""
    rng = np.random.default_rng(0)
    kernel, rewards = rng.dirichlet(np.ones(6), size=6), rng.normal(size=(6, 6))
    ends = rng.random((6, 6)) < 0.3
    discounts = np.where(ends, 0.0, GAMMA**3)

    def solved(r: np.ndarray) -> np.ndarray:
        return np.linalg.solve(np.eye(6) - kernel * discounts, (kernel * r).sum(axis=1))

    def column(x: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(x).reshape(-1, 1)

    centred = losses.centred(column(rewards), column(discounts), torch.tensor(average), gamma=GAMMA).numpy()
    values, differences = solved(rewards), solved(centred.reshape(6, 6))
    np.testing.assert_allclose(differences + average / (1 - GAMMA), values, rtol=1e-6, atol=1e-6)


def sac(**options: Any) -> Any:
    settings: dict[str, Any] = {
        "reward_centring": True, "centring_rate": 0.05, "gamma": GAMMA, "ent_coef": 0.0, "learning_rate": 3e-3,
        "tau": 0.1, "learning_starts": 100, "batch_size": 32, "buffer_size": 200, "seed": 0, "device": "cpu",
        "policy_kwargs": {"net_arch": [16]},
    }  # fmt: skip
    return rlopt.SAC("MlpPolicy", Pays(), **{**settings, "compile": "off", **options})


def test_sac_learns_the_average_apart() -> None:
    model = sac().learn(500)
    (average,) = model.average_reward.tolist()
    with torch.no_grad():
        q_values = model.critic(torch.zeros(1, 2), torch.zeros(1, 1))[0].item()
    assert q_values + average / (1 - GAMMA) == pytest.approx(2 / (1 - GAMMA), rel=0.02)
    assert average > 1 and abs(q_values) < 10


def test_the_centred_step_is_the_same_as_one_function() -> None:
    models = [sac().learn(120)]
    models.append(sac())
    models[1]._mode = lambda parts: "eager"
    models[1].learn(120)
    assert models[1].update is not None
    torch.testing.assert_close(models[0].average_reward, models[1].average_reward, rtol=1e-4, atol=1e-5)
    for one, other in zip(models[0].critic.parameters(), models[1].critic.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_average_is_saved(tmp_path: Path) -> None:
    model = sac().learn(110)
    model.save(tmp_path / "model.zip")
    loaded = rlopt.SAC.load(tmp_path / "model.zip", Pays(), device="cpu")
    assert loaded.average_reward is not None and torch.equal(loaded.average_reward, model.average_reward)
    assert rlopt.SAC.load(tmp_path / "model.zip", device="cpu", reward_centring=False).average_reward is None


@pytest.mark.parametrize("kind", [rlopt.PPO, rlopt.MDPO])
@pytest.mark.parametrize("compile", ["off", "on"])
def test_on_policy_advantages_are_those_of_rewards_less_the_average(kind: Any, compile: str) -> None:
    """Over a true end and a time limit; with a value function of 0 the rewards alone count."""

    def rollout(**options: Any) -> Any:
        env = gymnasium.wrappers.TimeLimit(Pays(ends=5, discrete=True), 4)
        settings: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "learning_rate": 0.0, "seed": 0, "device": "cpu"}
        model = kind("MlpPolicy", env, gamma=GAMMA, compile=compile, **settings, **options)
        with torch.no_grad():
            for parameter in model.policy.value_net.parameters():
                parameter.zero_()
        model.set_logger(configure(None, []))
        model.learn(16)
        return model

    model, plain = rollout(reward_centring=True, centring_rate=0.25), rollout()
    assert plain.average_reward == 0 and model.average_reward == 2
    buffer = model.rollout_buffer
    # Steps 9 to 16 of the environment: 10 and 15 end truly, 9 and 14 by the time limit.
    ended, cut = np.zeros(8), np.zeros(8)
    ended[[1, 6]], cut[[0, 5]] = 1, 1
    rewards = 2.0 - 2.0 * np.where(ended == 1, 1 / (1 - GAMMA), 1)
    expected, following = np.zeros(8), 0.0
    for step in reversed(range(8)):
        following = rewards[step] + GAMMA * model.gae_lambda * (1 - max(ended[step], cut[step])) * following
        expected[step] = following
    np.testing.assert_allclose(buffer.advantages.flatten(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(buffer.returns, buffer.advantages + buffer.values, rtol=1e-6)


def test_without_a_discount_there_is_nothing_to_centre() -> None:
    for kind, env in ((rlopt.SAC, Pays()), (rlopt.PPO, Pays())):
        with pytest.raises(ConfigError, match="reward_centring needs gamma < 1"):
            kind("MlpPolicy", env, gamma=1.0, reward_centring=True)
    for kind in (rlopt.DeepLOOP, rlopt.APO, rlopt.SQIL, rlopt.GAIL, rlopt.AILBoost):
        with pytest.raises(ConfigError, match="reward_centring"):
            kind("MlpPolicy", Pays(), reward_centring=True)
