"""The quicker VecNormalize against Stable-Baselines3's: the same bits."""

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from rlopt.envs.vec_normalize import Normalize
from rlopt.state.envs import capture_env, check_wrappers, restore_wrappers

BOX = spaces.Box(-np.inf, np.inf, (5,), np.float32)


class Numbers(VecEnv):
    """Random numbers of very different sizes; some episodes end."""

    def __init__(self, space: spaces.Space, n_envs: int) -> None:
        super().__init__(n_envs, space, spaces.Discrete(2))
        self.generator = np.random.default_rng(0)

    def observe(self) -> np.ndarray | dict[str, np.ndarray]:
        if isinstance(self.observation_space, spaces.Dict):
            return {key: self.draw(part) for key, part in self.observation_space.spaces.items()}
        return self.draw(self.observation_space)

    def draw(self, space: spaces.Space) -> np.ndarray:
        shape = (self.num_envs, *(space.shape or ()))
        values = self.generator.normal(5.0, 100.0, shape) * 10.0 ** self.generator.integers(-3, 4, shape)
        return values.astype(space.dtype)

    def reset(self) -> np.ndarray | dict[str, np.ndarray]:
        return self.observe()

    def step_async(self, actions: np.ndarray) -> None:
        pass

    def step_wait(self) -> VecEnvStepReturn:
        dones = self.generator.random(self.num_envs) < 0.2
        last = self.observe()
        infos: list[dict] = [{} for _ in range(self.num_envs)]
        for index in np.flatnonzero(dones):
            row = {key: part[index] for key, part in last.items()} if isinstance(last, dict) else last[index]
            infos[index]["terminal_observation"] = row
        rewards = self.generator.normal(size=self.num_envs).astype(np.float32)
        return self.observe(), rewards, dones, infos

    def close(self) -> None: ...
    def get_attr(self, attr_name, indices=None):
        return [None] * self.num_envs

    def set_attr(self, attr_name, value, indices=None) -> None: ...
    def env_method(self, method_name, *args, indices=None, **kwargs) -> list:
        return []

    def env_is_wrapped(self, wrapper_class, indices=None) -> list[bool]:
        return [False] * self.num_envs


def flat(observation: np.ndarray | dict[str, np.ndarray]) -> list[np.ndarray]:
    return list(observation.values()) if isinstance(observation, dict) else [observation]


@pytest.mark.parametrize(
    ("space", "options"),
    [
        (BOX, {}),
        (BOX, {"norm_obs": False}),
        (BOX, {"norm_reward": False, "clip_obs": 0.5}),
        (BOX, {"training": False}),
        (spaces.Box(-9, 9, (2, 3), np.float64), {"gamma": 0.9}),
        (spaces.Box(-1000, 1000, (4,), np.int64), {}),
        (spaces.Dict({"a": BOX, "b": spaces.Box(-1, 1, (2,), np.float32)}), {"norm_obs_keys": ["a"]}),
    ],
)
@pytest.mark.parametrize("n_envs", [1, 7])
def test_same_bits_as_stable_baselines3(space: spaces.Space, options: dict, n_envs: int) -> None:
    ours, theirs = Normalize(Numbers(space, n_envs), **options), VecNormalize(Numbers(space, n_envs), **options)
    for mine, other in zip(flat(ours.reset()), flat(theirs.reset()), strict=True):
        np.testing.assert_array_equal(mine, other)
    for _ in range(30):
        results, expected = (env.step(np.zeros(n_envs)) for env in (ours, theirs))
        for mine, other in zip(flat(results[0]), flat(expected[0]), strict=True):
            assert mine.dtype == other.dtype
            np.testing.assert_array_equal(mine, other)
        for mine, other in zip(results[1:3], expected[1:3], strict=True):
            assert mine.dtype == other.dtype
            np.testing.assert_array_equal(mine, other)
        for index in np.flatnonzero(results[2]):
            rows = [flat(infos[index]["terminal_observation"]) for infos in (results[3], expected[3])]
            for mine, other in zip(*rows, strict=True):
                np.testing.assert_array_equal(mine, other)
    # A checkpoint of one is one of the other.
    for source, target in ((ours, theirs), (theirs, ours)):
        state = capture_env(source)
        check_wrappers(target, state)
        restore_wrappers(target, state)
        assert target.ret_rms.var == source.ret_rms.var
