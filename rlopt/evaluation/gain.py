"""The average reward of a policy, from one long run of an environment."""

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv

from rlopt.average_reward.estimation import MIN_BATCHES, GainEstimate, estimate_gain
from rlopt.errors import ConfigError


def evaluate_average_reward(
    model: Any,
    env: Any,
    n_steps: int = 100_000,
    burn_in: int = 1_000,
    n_envs: int = 1,
    seed: int = 0,
    deterministic: bool = True,
    confidence: float = 0.95,
) -> GainEstimate:
    """The mean reward per step of ``model`` in a continuing environment.

    The model and the random states of Python, numpy and torch are left as they were.

    :param model: anything with Stable-Baselines3's ``predict``
    :param env: an id or an ``EnvSettings``, whose time limit is left out; or a ``VecEnv`` or a Gymnasium environment,
        which is seeded, reset and left open
    :param n_steps: steps of each copy that count
    :param burn_in: steps of each copy before those, >= 0
    :param seed: seed of the environments and of sampling from the policy
    :raises ConfigError: an episode ends (wrap the environment in ``ContinuingWrapper``), or an argument is out of range
    """
    if n_steps < MIN_BATCHES or burn_in < 0:
        raise ConfigError(f"n_steps is {n_steps}, burn_in {burn_in}: give at least {MIN_BATCHES} and 0")
    from rlopt.evaluation.envs import observed_as_trained, open_env
    from rlopt.state.isolate import isolated, seed_everything

    if dataclasses.is_dataclass(env) and hasattr(env, "max_episode_steps"):
        env = dataclasses.replace(env, max_episode_steps=None)  # type: ignore[type-var]
    with isolated(model):
        seed_everything(seed)
        given = isinstance(env, VecEnv | gymnasium.Env)
        copies = None if given else n_envs
        vec_env, mine = open_env(model, env, n_envs, n_envs=copies, seed=seed, backend="auto")
        try:
            vec_env.seed(seed)
            with observed_as_trained(model, vec_env) as (base, seen, raw_reward):
                rewards = _played(model, base, seen, raw_reward, n_steps, burn_in, deterministic)
        finally:
            if mine:
                vec_env.close()
    return estimate_gain(rewards.T, confidence)


def _played(
    model: Any, vec_env: Any, seen: Any, raw_reward: Any, n_steps: int, burn_in: int, deterministic: bool
) -> npt.NDArray[np.float64]:
    """[n_steps, copies] rewards after the burn-in."""
    rewards = np.empty((n_steps, vec_env.num_envs))
    observations, state = vec_env.reset(), None
    starts = np.ones(vec_env.num_envs, bool)
    for step in range(-burn_in, n_steps):
        actions, state = model.predict(
            seen(observations), state=state, episode_start=starts, deterministic=deterministic
        )
        observations, step_rewards, starts, _ = vec_env.step(actions)
        if np.any(starts):
            raise ConfigError(
                f"an episode ended after {step + burn_in + 1} steps, but an average reward needs an environment that "
                f"continues: wrap it in rlopt.envs.average_reward.ContinuingWrapper, without a time limit"
            )
        if step >= 0:
            rewards[step] = raw_reward(step_rewards)
    return rewards
