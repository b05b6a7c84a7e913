"""Boxes of whole numbers: as observations they are learned from, as actions they are refused."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from rlopt import IQL, MDPO, SAC
from rlopt.errors import SpaceError

TINY: dict[str, Any] = {"policy_kwargs": {"net_arch": [4]}, "device": "cpu", "seed": 0}


class Counters(gymnasium.Env):
    """Observations count from -3, or from 0, to 100 in the given dtype, and name themselves."""

    def __init__(self, dtype: Any, action_dtype: Any = np.float32) -> None:
        self.low = 0 if np.dtype(dtype).kind == "u" else -3
        self.observation_space = spaces.Box(self.low, 100, (2,), dtype)
        self.action_space = spaces.Box(-1, 1, (2,), action_dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.count = self.low
        return self.seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return self.seen(), float(self.count), False, False, {}

    def seen(self) -> np.ndarray:
        return np.full(2, self.count, self.observation_space.dtype)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint8])
def test_observations_are_the_numbers_that_they_are(dtype: Any) -> None:
    low = Counters(dtype).low
    off = SAC("MlpPolicy", Counters(dtype), learning_starts=4, batch_size=2, buffer_size=10, **TINY).learn(6)
    buffer: Any = off.replay_buffer
    assert buffer.observations[:6, 0, 0].tolist() == list(range(low, low + 6))
    on = MDPO("MlpPolicy", Counters(dtype), n_steps=6, batch_size=None, **TINY).learn(6)
    assert on.rollout_buffer.observations[:, 0, 1].tolist() == list(range(low, low + 6))
    seen = on.policy.obs_to_tensor(Counters(dtype).reset()[0])[0]
    of_policy, _ = on.policy.extract_features(seen)
    for features in (of_policy, off.actor.extract_features(seen, off.actor.features_extractor)):
        assert features.flatten().tolist() == [low, low]  # not divided by 255: only images are


@pytest.mark.parametrize("cls", [SAC, MDPO, IQL])
@pytest.mark.parametrize("dtype", [np.int32, np.uint8])
def test_actions_are_refused_with_the_cure(cls: Any, dtype: Any) -> None:
    env = Counters(np.float32, np.int32)
    env.action_space = spaces.Box(0, 10, (1,), dtype)
    with pytest.raises(SpaceError, match="real numbers: make it a float Box and round in the environment"):
        cls("MlpPolicy", env, device="cpu")
