"""Each offline learner on small data: better than the policy that made them, or as good as cloning can be."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from offline_data import corridor, recorded

import rlopt
import rlopt.envs.tasks.toy
from rlopt.data import Dataset

TARGET, CORRIDOR = "rlopt/RandomTarget-v0", "rlopt/Corridor-v0"
SETTINGS: dict[str, Any] = {"seed": 0, "device": "cpu", "batch_size": 128, "learning_rate": 1e-3, "compile": "off"}
NETS = {"net_arch": [64, 64]}
OPTIONS: dict[str, dict[str, Any]] = {
    "TD3BC": {},
    "AWAC": {"awac_lambda": 0.3},
    "IQL": {"beta": 10.0, "expectile": 0.8},
    "CQL": {"cql_alpha": 0.1, "n_actions": 4},
    "ReBRAC": {"actor_bc_coef": 0.05, "critic_bc_coef": 0.01},
}


def mediocre(steps: int = 4000) -> Dataset:
    """Half way to the target, with noise: the mean action's return is -10 E|t| / 2 = -2.5."""

    def act(observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.clip(0.5 * observation[:1] + rng.normal(0, 0.4, 1), -1, 1).astype(np.float32)

    return recorded(gymnasium.make(TARGET), TARGET, steps, act)


def score(model: Any, env_id: str, episodes: int = 60) -> float:
    return rlopt.evaluate(model, env_id, n_episodes=episodes, seed=5).mean


@pytest.mark.slow
@pytest.mark.parametrize("stochastic", [False, True])
def test_cloning_finds_the_mean_action(stochastic: bool) -> None:
    data = mediocre()
    model = rlopt.BC("MlpPolicy", data, stochastic=stochastic, policy_kwargs=NETS, **SETTINGS).learn(1500)
    targets = np.stack([np.linspace(-1, 1, 21), np.zeros(21)], axis=1).astype(np.float32)
    actions = model.predict(targets, deterministic=True)[0][:, 0]
    np.testing.assert_allclose(actions, 0.5 * targets[:, 0], atol=0.12)
    assert data.episode_returns().mean() < score(model, TARGET) < -2.0
    if stochastic:
        assert model.policy.actor.log_std is not None
        assert 0.3 < float(model.policy.actor.log_std.detach().exp()) < 0.45


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_learners_beat_the_policy_that_made_the_data(name: str) -> None:
    model = getattr(rlopt, name)("MlpPolicy", mediocre(), policy_kwargs=NETS, **SETTINGS, **OPTIONS[name])
    model.learn(1500)
    # Cloning without the noise gives -2.5, the noisy policy less.
    assert score(model, TARGET) > -1.6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["AWAC", "IQL"])
def test_discrete_actions_are_learnt_beyond_the_data(name: str) -> None:
    data = corridor(3000, right=0.5)
    assert data.episode_returns().mean() < 0.3
    model = getattr(rlopt, name)("MlpPolicy", data, policy_kwargs={"net_arch": [32]}, **SETTINGS, **OPTIONS[name])
    model.learn(1500)
    # Going right always ends after 4 steps with 0.6.
    assert score(model, CORRIDOR, 4) == pytest.approx(0.6)


@pytest.mark.slow
def test_fine_tuning_goes_beyond_the_data() -> None:
    def hardly_moves(_: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return rng.normal(0, 0.1, 1).astype(np.float32)

    data = recorded(gymnasium.make(TARGET), TARGET, 1000, hardly_moves)
    model = rlopt.TD3BC("MlpPolicy", data, alpha=0.0, exploration_noise=0.4, policy_kwargs=NETS, **SETTINGS)
    model.learn(500)
    # The mean action is 0, so cloning gives -10 E|t| = -5.
    assert score(model, TARGET) == pytest.approx(-5.0, abs=0.6)
    model.alpha = 10.0
    model.set_env(rlopt.make_env(TARGET, seed=3))
    model.learn(2500, reset_num_timesteps=False)
    assert score(model, TARGET) > -2.0
