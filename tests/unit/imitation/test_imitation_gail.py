"""GAIL's rollouts: the discriminator's rewards and what it sees."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demonstrated import SMALL_GAIL, Near, make
from offline_data import corridor
from reach import Reach, vec_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

import rlopt
from rlopt.agents.imitation.gail import GAIL
from rlopt.data.demonstrations import Demonstrations
from rlopt.errors import ConfigError

STEPS = 60


def test_gail_s_rollout_has_the_discriminator_s_rewards() -> None:
    """Advantages by hand from rewards by hand, on a rollout with true ends, time limits and a running episode."""
    env = VecMonitor(vec_env(2, Near))
    model = make("gail", env=env, n_steps=STEPS, gamma=0.9, gae_lambda=0.8, n_epochs=1)
    seen: list[tuple[Any, ...]] = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            names = ("new_obs", "clipped_actions", "dones", "infos", "rewards")
            seen.append(tuple(np.array(self.locals[name]) for name in names))
            return True

    model.learn(0, callback=Watch())  # sets up
    model._total_timesteps = 2 * STEPS
    _, callback = model._setup_learn(2 * STEPS, Watch())
    first = model._last_obs.copy()
    seen.clear()
    model.collect_rollouts(model.env, callback, model.rollout_buffer, STEPS)
    rewards, ends = np.zeros((STEPS, 2)), np.zeros((STEPS, 2))
    low, high = Reach.action_space.low, Reach.action_space.high  # type: ignore[attr-defined]
    counted = {"true": 0, "cut": 0}
    at_rest = float(model.adversary.statistics.absorbing_output)
    assert at_rest != 0

    def logit(inputs: np.ndarray) -> float:
        with torch.no_grad():
            return float(model.adversary.discriminator(torch.tensor(inputs[None], dtype=torch.float32)))

    for step, (_, actions, dones, infos, given) in enumerate(seen):
        here = first if step == 0 else seen[step - 1][0]
        assert (given == 0).all()
        for index in range(2):
            scaled = 2 * (actions[index] - low) / (high - low) - 1
            shown = model.adversary.statistics(torch.tensor(here[index][None], dtype=torch.float32))[0].numpy()
            d = logit(np.concatenate([shown, scaled]))
            rewards[step, index] = np.log1p(np.exp(d)) - np.log1p(np.exp(at_rest))
            ends[step, index] = dones[index]
            if dones[index] and infos[index]["TimeLimit.truncated"]:
                last = torch.as_tensor(infos[index]["terminal_observation"])[None]
                rewards[step, index] += 0.9 * model.policy.predict_values(last).item()
                counted["cut"] += 1
            elif dones[index]:
                counted["true"] += 1
    values = model.rollout_buffer.values
    following = np.concatenate([values[1:], model.policy.predict_values(torch.as_tensor(model._last_obs)).detach().T])
    advantages, running = np.zeros((STEPS, 2)), np.zeros(2)
    for step in reversed(range(STEPS)):
        delta = rewards[step] + 0.9 * following[step] * (1 - ends[step]) - values[step]
        running = delta + 0.9 * 0.8 * (1 - ends[step]) * running
        advantages[step] = running
    assert min(counted.values()) > 0, counted
    assert np.allclose(model.rollout_buffer.advantages, advantages, atol=1e-4)


def test_gail_sees_observations_before_they_are_normalised() -> None:
    env = VecNormalize(VecMonitor(vec_env(2)))
    model = make("gail", env=env)
    kept: list[Any] = []
    rows = model._rows
    model._rows = lambda *columns: kept.append(columns[0]) or rows(*columns)
    model.learn(32)
    raw = kept[0]
    assert raw.shape == (32, 2) and np.abs(raw - model.rollout_buffer.observations.reshape(32, 2)).max() > 0.05
    # Reach moves by at most 0.1 * 3 a step, whatever the statistics.
    assert np.abs(raw[2:][::2] - raw[:-2][::2]).max(axis=1)[:5].max() <= 0.3 + 1e-6


def test_gail_has_discrete_actions() -> None:
    shown = Demonstrations.from_dataset(corridor(60, right=1.0))
    model = GAIL("MlpPolicy", rlopt.make_env("rlopt/Corridor-v0", n_envs=2), shown, device="cpu", **SMALL_GAIL)  # type: ignore[arg-type]
    model.learn(64)
    assert model.adversary.discriminator.n_inputs == 1 + 2


def test_a_setting_that_load_changes_is_checked(tmp_path: Path) -> None:
    make("gail").save(tmp_path / "model")
    with pytest.raises(ConfigError, match="discriminator_steps = 0 is outside"):
        GAIL.load(tmp_path / "model", discriminator_steps=0, device="cpu")
    with pytest.raises(ConfigError, match="no finite value"):
        GAIL.load(tmp_path / "model", gamma=1.0, device="cpu")
