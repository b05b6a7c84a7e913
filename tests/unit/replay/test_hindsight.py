"""Hindsight replay on the device against Stable-Baselines3's with the same random numbers, bit for bit."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from replay import ACTIONS, assert_equal_batches, draw, fill, normalizer
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from rlopt.errors import ConfigError, UnknownNameError
from rlopt.replay.her import DeviceHerReplayBuffer

GOALS = spaces.Dict(
    {
        "observation": spaces.Box(0, 255, (2, 3, 3), np.uint8),
        "achieved_goal": spaces.Box(-np.inf, np.inf, (2,), np.float32),
        "desired_goal": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    }
)


class Rewards:
    """Stands for a VecEnv: computes rewards and remembers for what."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def env_method(self, name: str, achieved: Any, desired: Any, infos: Any, indices: list[int]) -> list[np.ndarray]:
        assert name == "compute_reward" and indices == [0]
        self.calls.append((achieved.copy(), desired.copy(), list(infos)))
        bonus = np.array([info.get("bonus", 0.0) for info in infos])
        return [-np.linalg.norm(achieved - desired, axis=-1) + bonus]


def pair(n_envs: int = 2, size: int = 60, **settings: Any) -> tuple[HerReplayBuffer, DeviceHerReplayBuffer]:
    arguments: dict[str, Any] = {"device": "cpu", "n_envs": n_envs, **settings}
    theirs = HerReplayBuffer(size, GOALS, ACTIONS, Rewards(), **arguments)  # type: ignore[arg-type]
    return theirs, DeviceHerReplayBuffer(size, GOALS, ACTIONS, Rewards(), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", ["future", "final", "episode"])
@pytest.mark.parametrize("settings", [{}, {"copy_info_dict": True, "n_sampled_goal": 1}, {"n_sampled_goal": 0}])
def test_samples_are_stable_baselines3s_bit_for_bit(strategy: str, settings: dict[str, Any]) -> None:
    theirs, ours = pair(goal_selection_strategy=strategy, **settings)
    for steps in (9, 12, 30, 31, 7):  # partly filled, then past the end with episodes cut by it
        fill([theirs, ours], steps, seed=steps, end=0.1)
        assert np.array_equal(theirs.ep_length, ours.ep_length)
        for seed in range(3):
            assert_equal_batches(draw(theirs, 50, seed), draw(ours, 50, seed))
    for wanted, found in zip(theirs.env.calls, ours.env.calls, strict=True):  # type: ignore[union-attr]
        assert np.array_equal(wanted[0], found[0]) and np.array_equal(wanted[1], found[1]) and wanted[2] == found[2]


def test_normalised_samples_are_stable_baselines3s() -> None:
    theirs, ours = pair()
    fill([theirs, ours], 50)
    env = normalizer(GOALS, 2, norm_obs_keys=["observation", "achieved_goal"])
    assert_equal_batches(draw(theirs, env=env), draw(ours, env=env))
    assert not torch.equal(draw(ours, env=env).rewards, draw(ours).rewards)


def test_rows_are_of_complete_episodes() -> None:
    _, ours = pair(n_envs=1)
    with pytest.raises(ConfigError, match="no episode is complete"):
        ours.sample_rows(3)
    fill([ours], 5, end=0.0)
    with pytest.raises(ConfigError, match="learning_starts"):
        ours.sample(3)
    fill([ours], 1, end=1.0)
    fill([ours], 3, end=0.0)
    assert set(ours.sample_rows(200).tolist()) == set(range(6))


def test_truncating_the_last_trajectory() -> None:
    theirs, ours = pair()
    fill([theirs, ours], 20, end=0.05)
    for buffer in (theirs, ours):
        with pytest.warns(UserWarning, match="truncated"):
            buffer.truncate_last_trajectory()
    assert_equal_batches(draw(theirs), draw(ours))


def test_pickled_it_leaves_the_environment_behind() -> None:
    _, ours = pair(copy_info_dict=True)
    fill([ours], 20)
    copy = pickle.loads(pickle.dumps(ours))
    with pytest.raises(ConfigError, match="set_env"):
        copy.sample(3)
    copy.set_env(Rewards())
    fill([ours, copy], 30, seed=4)
    assert_equal_batches(draw(ours), draw(copy))


def test_refusals() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'future'"):
        DeviceHerReplayBuffer(10, GOALS, ACTIONS, Rewards(), goal_selection_strategy="futur")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="n_sampled_goal is -1"):
        DeviceHerReplayBuffer(10, GOALS, ACTIONS, Rewards(), n_sampled_goal=-1)  # type: ignore[arg-type]
