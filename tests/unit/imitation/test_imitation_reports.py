"""What people report of imitation libraries and is tested nowhere else here.

The others are where their subject is: own arrays, actions beyond the bounds, pickles in test_own_trajectories; choices
and the alternatives that errors name in test_imitation_models; early ends in test_imitation_endings; normalised experts
and images in test_demonstration_recording; cloning before reinforcement learning in test_imitation_init_from.
"""

from typing import Any

import numpy as np
from demonstrated import demonstrations, make
from reach import Reach, vec_env

import rlopt


class Silent(Reach):
    """The same task without a reward."""

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = super().step(action)
        return observation, 0.0, terminated, truncated, info


def test_the_environment_needs_no_reward() -> None:
    model = make("gail", env=vec_env(env=Silent)).learn(64)
    assert np.abs(model.rollout_buffer.rewards).min() > 0


def test_a_seed_repeats_a_clone_bit_for_bit() -> None:
    weights = []
    for seed in (0, 0, 1):
        model = rlopt.BC("MlpPolicy", vec_env(), dataset=demonstrations(), seed=seed, device="cpu").learn(20)
        weights.append(np.concatenate([part.detach().numpy().ravel() for part in model.policy.parameters()]))
    assert np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[0], weights[2])
