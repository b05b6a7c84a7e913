"""Any environment as one that never ends: an end becomes a reset inside the step, with a cost."""

from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from rlopt.errors import ConfigError


class ContinuingWrapper(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Continues after an end: the step returns the observation after the reset, neither terminated nor truncated.

    So the transition into the reset state is an ordinary one for every buffer and learner, as average reward needs. A
    termination costs ``reset_cost``. A truncation is not the agent's doing and costs nothing; preferably make the
    environment without a time limit. Every step's info has ``reset`` (bool), ``reset_cost`` (what was taken off the
    reward, 0 where nothing ended), and after an end ``terminal_observation`` besides the reset's info.

    :param reset_cost: >= 0, in units of reward
    :raises ConfigError: for a reset cost below 0 or not finite
    """

    def __init__(self, env: gymnasium.Env[Any, Any], reset_cost: float = 0.0) -> None:
        super().__init__(env)
        if not (np.isfinite(reset_cost) and reset_cost >= 0):
            raise ConfigError(f"reset_cost is {reset_cost}: give a finite number of at least 0")
        self.reset_cost = float(reset_cost)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, {**info, "reset": False, "reset_cost": 0.0}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if not (terminated or truncated):
            return observation, reward, False, False, {**info, "reset": False, "reset_cost": 0.0}
        cost = self.reset_cost if terminated else 0.0
        terminal = observation
        observation, after = self.env.reset()
        info = {**info, **after, "terminal_observation": terminal, "reset": True, "reset_cost": cost}
        return observation, float(reward) - cost, False, False, info


def make_continuing(env: str = "dm_control/cartpole-swingup", reset_cost: float = 0.0, **kwargs: Any) -> gymnasium.Env:
    """Makes ``rlopt/Continuing-v0``: the environment ``env`` without its time limit, in a :class:`ContinuingWrapper`.

    A ``dm_control/<domain>-<task>`` never ends by itself, so it then simply continues.

    :param kwargs: for the environment
    :raises UnknownNameError: for an id that does not exist, with the nearest one
    """
    from rlopt.envs import names

    names.check_id(env)
    if names.is_dm_control(env):
        from rlopt.envs.dmc import DMControlEnv

        inner: gymnasium.Env[Any, Any] = DMControlEnv(env.removeprefix(names.DM_CONTROL_PREFIX), **kwargs)
    else:
        names.register(env)
        inner = gymnasium.make(env, max_episode_steps=-1, disable_env_checker=True, **kwargs)
    return ContinuingWrapper(inner, reset_cost)
