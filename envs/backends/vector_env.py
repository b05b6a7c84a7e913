"""Vector environments of Gymnasium and of EnvPool, made by their own calls, as Stable-Baselines3's ``VecEnv``."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from rlopt.errors import ConfigError


def as_vec_env(env: Any) -> Any:
    """``env``, or a vector environment of Gymnasium or EnvPool as a ``VecEnv`` with statistics of episodes.

    :raises rlopt.errors.ConfigError: for a vector environment that cannot be one, see :class:`VectorEnvAdapter`
    """
    if isinstance(env, VecEnv) or not (isinstance(env, VectorEnv) or _is_pool(env)):
        return env
    return VecMonitor(VectorEnvAdapter(env))


class VectorEnvAdapter(VecEnv):
    """A ``gymnasium.vector.VectorEnv`` as a ``VecEnv``: an episode that ends is reset in the same step.

    The environment's ``autoreset_mode`` may be any: where it does not reset in the same step itself, the adapter resets
    the copies whose episode has ended, and no others.

    :raises rlopt.errors.ConfigError: for an environment that resets in the next step and cannot reset single copies,
        and for EnvPool's dm_env interface and its asynchronous mode
    """

    def __init__(self, env: Any) -> None:
        _check(env)
        self.env = env
        self._same_step = env.metadata.get("autoreset_mode") == AutoresetMode.SAME_STEP
        self._actions: Any = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> VecEnvObs:
        seeds: Any = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        if seeds and not isinstance(self.env.unwrapped, SyncVectorEnv | AsyncVectorEnv):
            seeds = seeds[0]  # others need not take a list
        options = next(filter(None, self._options), None)
        observations, infos = self.env.reset(seed=seeds, options=dict(options) if options else None)
        self.reset_infos = list(_rows_of(infos, self.num_envs))
        self._reset_seeds()
        self._reset_options()
        return _pick(observations, slice(None))

    def step_async(self, actions: np.ndarray) -> None:
        space = self.action_space
        self._actions = np.asarray(actions, space.dtype).reshape(self.num_envs, *(space.shape or ()))

    def step_wait(self) -> VecEnvStepReturn:
        seen, rewards, terminated, truncated, given = self.env.step(self._actions)
        observations, terminated = _pick(seen, slice(None)), np.array(terminated, bool)
        dones = terminated | np.asarray(truncated, bool)
        infos = list(_rows_of(given, self.num_envs))
        ended = np.flatnonzero(dones)
        for index in ended.tolist():
            last = _pick(observations, index)
            if self._same_step:
                last, final = _pick(infos[index].pop("final_obs"), ...), infos[index].pop("final_info", {})
                self.reset_infos[index], infos[index] = infos[index], final
            infos[index]["terminal_observation"] = last
        for index, info in enumerate(infos):
            info["TimeLimit.truncated"] = bool(dones[index] and not terminated[index])
        if ended.size and not self._same_step:
            self._reset_copies(dones, observations)
        return observations, np.array(rewards, np.float32), dones, infos

    def _reset_copies(self, ended: np.ndarray, observations: Any) -> None:
        """Resets the copies where ``ended`` [n_envs] is true, and puts their first observations into place."""
        everything = ended.all()
        first, given = self.env.reset(options=None if everything else {"reset_mask": ended.copy()})
        infos, count = list(_rows_of(given, self.num_envs)), int(ended.sum())
        for key, rows in observations.items() if isinstance(observations, dict) else [(None, observations)]:
            new = np.asarray(first if key is None else first[key])
            rows[ended] = new if len(new) == count else new[ended]  # EnvPool gives those that were reset only
        for index in np.flatnonzero(ended).tolist():
            self.reset_infos[index] = infos[index]

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        chosen = list(self._get_indices(indices))
        if attr_name == "render_mode":
            return [self.env.render_mode] * len(chosen)
        base = self.env.unwrapped
        if isinstance(base, SyncVectorEnv):
            return [base.envs[index].get_wrapper_attr(attr_name) for index in chosen]
        if isinstance(base, AsyncVectorEnv):
            values = base.get_attr(attr_name)
            return [values[index] for index in chosen]
        return [getattr(self.env, attr_name)] * len(chosen)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        for env in self._copies(f"set {attr_name} of", indices):
            env.set_wrapper_attr(attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        base = self.env.unwrapped
        if isinstance(base, AsyncVectorEnv):
            values = base.call(method_name, *args, **kwargs)
            return [values[index] for index in self._get_indices(indices)]
        copies = self._copies(f"call {method_name} of", indices)
        return [env.get_wrapper_attr(method_name)(*args, **kwargs) for env in copies]

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        base = self.env.unwrapped
        if not isinstance(base, SyncVectorEnv):
            return [False for _ in self._get_indices(indices)]
        return [is_wrapped(base.envs[index], wrapper_class) for index in self._get_indices(indices)]

    def _copies(self, purpose: str, indices: VecEnvIndices) -> list[Any]:
        base = self.env.unwrapped
        if not isinstance(base, SyncVectorEnv):
            raise ConfigError(
                f"cannot {purpose} one copy of {_name(base)}: make it with vectorization_mode='sync', or with "
                "rlopt.make_env"
            )
        return [base.envs[index] for index in self._get_indices(indices)]


def _is_pool(env: Any) -> bool:
    """Whether ``env`` is EnvPool's, told without importing it."""
    return any(base.__name__ == "EnvPoolMixin" for base in type(env).__mro__)


def _check(env: Any) -> None:
    base: Any = env.unwrapped if isinstance(env, VectorEnv) else env
    if not isinstance(env, VectorEnv):
        raise ConfigError("EnvPool's environment has another interface: make it with env_type='gymnasium'")
    if _is_pool(base) and base.is_async:
        raise ConfigError("EnvPool's asynchronous mode steps some environments at a time: make it without batch_size")
    mode = env.metadata.get("autoreset_mode")
    if mode is None:
        raise ConfigError(
            f"{_name(base)} does not say when it resets: put a gymnasium.vector.AutoresetMode into its "
            "metadata['autoreset_mode']"
        )
    # Without shared memory a process forgets that it was reset, and would reset once more.
    resets_single = _is_pool(base) or isinstance(base, SyncVectorEnv) or getattr(base, "shared_memory", False)
    if mode == AutoresetMode.NEXT_STEP and env.num_envs > 1 and not resets_single:
        raise ConfigError(
            f"{_name(base)} resets in the step after an episode's end and cannot reset one copy alone: make it with "
            f"vectorization_mode='sync', as in gymnasium.make_vec(id, num_envs={env.num_envs}, "
            "vectorization_mode='sync')"
        )


def _name(env: Any) -> str:
    return type(env).__name__


def _pick(observations: Any, rows: Any) -> Any:
    """A copy of ``rows`` of a batch of observations, an array or a dict of arrays."""
    if isinstance(observations, dict):
        return {key: _pick(part, rows) for key, part in observations.items()}
    return np.array(np.asarray(observations)[rows])


def _rows_of(infos: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """The infos of each of ``count`` copies, from arrays of all beside masks ("_key") of who has one."""
    for index in range(count):
        row = {}
        for key, values in infos.items():
            mask = infos.get(f"_{key}")
            if (key[:1] == "_" and key[1:] in infos) or (mask is not None and not mask[index]):
                continue
            if isinstance(values, dict):
                row[key] = list(_rows_of(values, count))[index]
            elif np.ndim(values) and len(values) == count:
                row[key] = values[index]
        yield row
