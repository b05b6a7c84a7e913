"""An environment with spaces only, on which a model can be built for predictions."""

from typing import Any, NoReturn

from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from rlopt.errors import ConfigError


class SpacesOnlyVecEnv(VecEnv):
    """``n_envs`` environments that cannot be reset or stepped: a ConfigError says to call ``set_env``."""

    def __init__(self, n_envs: int, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        super().__init__(n_envs, observation_space, action_space)

    def reset(self) -> NoReturn:
        raise ConfigError("this model has no environment: give one to rlopt.load(path, env=...) or to model.set_env")

    def step_async(self, actions: Any) -> NoReturn:
        self.reset()

    def step_wait(self) -> NoReturn:
        self.reset()

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> NoReturn:
        self.reset()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name != "render_mode":
            raise AttributeError(attr_name)
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> NoReturn:
        self.reset()

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs

    def close(self) -> None:
        pass
