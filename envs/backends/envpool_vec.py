"""The EnvPool backend: one call into C++ steps all environments, with the behaviour of the gymnasium backend."""

import shlex
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from rlopt.envs.backends.batch import Observation, ObservationBuffer, check_settings, float32_space, guard_actions
from rlopt.envs.backends.pool_support import available_cores, import_envpool, maze_reward, parking_reward
from rlopt.envs.calls import call
from rlopt.envs.rendering import require_pool_pixels
from rlopt.envs.settings import EnvSettings, derive_seeds
from rlopt.envs.state.replay import ActionLog
from rlopt.envs.tables import POOL_TASKS
from rlopt.errors import ConfigError, StateUnavailableError

MAX_RESETS = 2000
"""Resets of one environment after which the pool is recreated, so that a replay on resume takes seconds."""
MAX_RESETS_DM_CONTROL = 20
"""The same for dm_control tasks: their resets are slow (up to 10 ms of CPU time each), and as all episodes have one
length and end together, a new pool cuts none of them."""
_BOOKKEEPING = ("env_id", "players", "elapsed_step")


class EnvPoolVecEnv(VecEnv):
    """A pool of C++ environments as a Stable-Baselines3 ``VecEnv``.

    Differs from the gymnasium backend in one thing: the task's own info entries are given in the step that ends an
    episode only. After ``max_resets`` resets of one environment the pool is recreated with derived seeds, and the
    running episodes end as truncated.

    :param settings: with backend ``envpool``; the id must be one of the parity-tested tasks
    """

    def __init__(self, settings: EnvSettings, max_resets: int | None = None) -> None:
        self._envpool = import_envpool()
        self.settings = settings
        self.task = POOL_TASKS[settings.id]
        self.pool: Any = None
        """EnvPool's own object; None before the first ``reset``."""
        self._limit = settings.max_episode_steps or self.task.episode_steps
        self._max_resets = max_resets or (MAX_RESETS_DM_CONTROL if self.task.keys else MAX_RESETS)
        self._seed, self._generation = settings.seed, 0
        self._pending_seed: int | None = settings.seed
        self._by_rows = False
        """Whether the pool plays the episodes of :meth:`start_episodes`."""
        spec = self._envpool.make_spec(self.task.pool_id, **self._pixel_options())
        single, self._slices = _single_space(spec.gymnasium_observation_space, self.task.keys)
        count = settings.n_envs
        self._buffer = ObservationBuffer(single, count, settings.frame_stack)
        action_space = float32_space(spec.gymnasium_action_space)
        super().__init__(count, self._buffer.space, action_space)
        shape = action_space.shape or ()
        self._log = ActionLog(count, shape, np.float32, min(1024, -(-self._limit // settings.action_repeat)))
        self._elapsed = np.zeros(count, np.int64)
        self._resets = np.zeros(count, np.int64)
        self._actions = np.zeros((count, *shape), np.float32)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds every environment at the next ``reset``; the pool is then recreated, as EnvPool asks for."""
        self._pending_seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else int(seed)
        return list(derive_seeds(self._pending_seed, self.num_envs))

    def reset(self) -> VecEnvObs:
        if self._pending_seed is not None:
            self._seed, self._generation, self._pending_seed = self._pending_seed, 0, None
            self._make_pool()
        elif self._resets.max() >= self._max_resets:
            self._generation += 1
            self._make_pool()
        self._reset_rows(None)
        return self._buffer.read()

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = guard_actions(actions, self.action_space, self.num_envs)

    def step_wait(self) -> VecEnvStepReturn:
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]
        rewards, terminated = self._advance(self._actions, infos)
        self._log.append(self._actions)
        self._buffer.advance()
        dones = terminated | (self._elapsed >= self._limit)
        if dones.any():
            ended = np.flatnonzero(dones)
            renew = bool(self._resets[ended].max() >= self._max_resets)
            if renew:
                dones[:] = True
                ended = np.arange(self.num_envs)
            for index in ended.tolist():
                infos[index]["terminal_observation"] = self._buffer.read_row(index)
                infos[index]["TimeLimit.truncated"] = not terminated[index]
            if renew:
                self._generation += 1
                self._make_pool()
            self._reset_rows(None if len(ended) == self.num_envs else ended)
        return self._buffer.read(), rewards, dones, infos

    def start_episodes(self, seeds: Sequence[int]) -> Observation:
        """Makes the pool anew, its first ``len(seeds)`` environments each with its own seed, for :meth:`step_rows`.

        :returns: the observations of all environments
        """
        idle = list(seeds[:1]) * (self.num_envs - len(seeds))
        self._make_pool([*map(int, seeds), *map(int, idle)])
        self._pending_seed = self._seed
        self._reset_rows(np.arange(len(seeds)))
        return self._buffer.read()

    def step_rows(self, rows: np.ndarray, actions: np.ndarray) -> tuple[Observation, np.ndarray, np.ndarray]:
        """Steps the environments ``rows`` only, and resets none; to be called for episodes that have not ended.

        :param rows: [n] indices
        :param actions: [n, *action]
        :returns: the observations of all environments, and rewards [n] and ends [n] of ``rows``
        """
        actions = guard_actions(actions, self.action_space, len(rows))
        rewards, terminated = np.zeros(len(rows), np.float32), np.zeros(len(rows), bool)
        running = np.arange(len(rows))
        for _ in range(self.settings.action_repeat):
            ids = rows[running].astype(np.int32)
            observation, reward, ended, _, _ = self._call("step", self.pool.step, actions[running], ids)
            self._load(observation, ids)
            self._elapsed[ids] += 1
            rewards[running] += reward
            terminated[running] = ended
            running = np.flatnonzero(~terminated & (self._elapsed[rows] < self._limit))
            if not len(running):
                break
        self._buffer.advance()
        return self._buffer.read(), rewards, terminated | (self._elapsed[rows] >= self._limit)

    def _advance(self, actions: np.ndarray, infos: list[dict[str, Any]] | None) -> tuple[np.ndarray, np.ndarray]:
        """Repeats one action per environment, stopping each where its episode ends: summed rewards, true ends."""
        observation, reward, terminated, _, info = self._call("step", self.pool.step, actions)
        self._load(observation, slice(None))
        self._elapsed += 1
        rewards = reward.astype(np.float32)
        self._describe_ends(terminated, np.arange(self.num_envs) if infos else None, info, infos)
        for _ in range(self.settings.action_repeat - 1):
            running = np.flatnonzero(~terminated & (self._elapsed < self._limit)).astype(np.int32)
            if not len(running):
                break
            observation, reward, ended, _, info = self._call("step", self.pool.step, actions[running], running)
            self._load(observation, running)
            self._elapsed[running] += 1
            rewards[running] += reward
            terminated[running] = ended
            self._describe_ends(ended, running if infos else None, info, infos)
        return rewards, terminated

    def _call(self, what: str, function: Any, *arguments: Any) -> Any:
        return call(self.settings.id, what, function, *arguments)

    def _describe_ends(self, terminated: np.ndarray, ids: Any, info: dict[str, Any], infos: Any) -> None:
        """Copies the task's own info entries of the environments that have just ended."""
        if ids is None:
            return
        over = terminated | (self._elapsed[ids] >= self._limit)
        if over.any():
            for row in np.flatnonzero(over):
                for key, value in info.items():
                    if key not in _BOOKKEEPING and isinstance(value, np.ndarray):
                        infos[ids[row]][key] = value[row]

    def _load(self, observation: Any, indices: Any) -> None:
        rows = self._buffer.rows
        if self._slices:
            flat = rows[None]
            for name, part in self._slices:
                value = observation[name]
                flat[indices, part] = value.reshape(len(value), -1)
        elif None in rows:
            rows[None][indices] = observation
        else:
            for key, array in rows.items():
                array[indices] = observation[key]

    def _reset_rows(self, indices: np.ndarray | None) -> None:
        rows: Any = slice(None) if indices is None else indices
        arguments = () if indices is None else (indices.astype(np.int32),)
        observation, _ = self._call("reset", self.pool.reset, *arguments)
        self._load(observation, rows)
        self._buffer.restart(rows)
        self._log.clear(rows)
        self._elapsed[rows] = 0
        self._resets[rows] += 1

    def _make_pool(self, seeds: list[int] | None = None) -> None:
        self.close()
        if self.settings.from_pixels:
            require_pool_pixels()
        # EnvPool calls an episode that ends truly in its last allowed step truncated: the limit is kept here instead,
        # and the pool's own lies one step behind it.
        self.pool = self._envpool.make(
            self.task.pool_id,
            env_type="gymnasium",
            num_envs=self.num_envs,
            num_threads=min(self.num_envs, self.settings.num_threads or available_cores()),
            seed=seeds or derive_seeds(self._seed, self.num_envs, self._generation),
            max_episode_steps=self._limit + 1,
            **self._pixel_options(),
        )
        self._resets[:] = 0
        self._by_rows = seeds is not None

    def _pixel_options(self) -> dict[str, Any]:
        if not self.settings.from_pixels:
            return {}
        size = self.settings.image_size
        camera = self.settings.camera_id
        return {"from_pixels": True, "render_width": size, "render_height": size, "render_camera_id": camera}

    def get_state(self) -> dict[str, Any]:
        """Everything that the coming steps depend on: how often each environment was reset, and its actions since."""
        state = {
            "settings": self.settings.as_dict(),
            "envpool": self._envpool.__version__,
            "max_resets": self._max_resets,
            "seed": self._seed,
            "generation": self._generation,
            "pending_seed": self._pending_seed,
            "started": self.pool is not None and not self._by_rows,
        }
        if state["started"]:
            state |= {
                "resets": self._resets.copy(),
                "elapsed": self._elapsed.copy(),
                "log": self._log.get_state(),
                "frames": self._buffer.get_state(),
            }
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Brings the environments to ``state`` by resets and replayed actions, and checks the observations reached.

        :raises StateUnavailableError: when the state is of other settings or another EnvPool, or the replay differs
        """
        check_settings(state, self.settings)
        if state["envpool"] != self._envpool.__version__:
            raise StateUnavailableError(
                f"the state is of envpool {state['envpool']}, this is {self._envpool.__version__}: "
                f"pip install {shlex.quote('envpool==' + str(state['envpool']))} to continue exactly"
            )
        self._seed, self._generation = state["seed"], state["generation"]
        self._pending_seed, self._max_resets = state["pending_seed"], state["max_resets"]
        if not state["started"]:
            return
        self._make_pool()
        self._repeat_resets(np.asarray(state["resets"]))
        self._elapsed[:] = 0
        self._log.set_state(state["log"])
        self._replay()
        reached = {key: array.copy() for key, array in self._buffer.rows.items()}
        self._buffer.set_state(state["frames"])
        same = all(reached[key].tobytes() == array.tobytes() for key, array in self._buffer.rows.items())
        if not same or not np.array_equal(self._elapsed, state["elapsed"]):
            raise StateUnavailableError(
                "replaying the saved actions led to other observations (another CPU or library?): "
                "the episodes cannot be continued exactly"
            )

    def _repeat_resets(self, resets: np.ndarray) -> None:
        for count in range(int(resets.max())):
            due = np.flatnonzero(resets > count).astype(np.int32)
            observation, _ = self.pool.reset(due)
            self._load(observation, due)
        self._resets[:] = resets

    def _replay(self) -> None:
        lengths = self._log.lengths
        for step in range(int(lengths.max(initial=0))):
            due = np.flatnonzero(lengths > step).astype(np.int32)
            actions = self._log.at(due, step)
            for _ in range(self.settings.action_repeat):
                observation, _, _, _, _ = self.pool.step(actions, due)
                self._load(observation, due)
                self._elapsed[due] += 1

    def close(self) -> None:
        if self.pool is not None:
            self.pool.close()
            self.pool = None

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute of the adapter, once per environment: the environments themselves live in C++."""
        if attr_name == "render_mode":
            return [None for _ in self._get_indices(indices)]
        value = getattr(self, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        raise ConfigError(f"EnvPool environments have no attribute {attr_name!r} to set: use backend='gymnasium'")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """``compute_reward`` of PointMaze and parking (for hindsight relabelling); nothing else can be called."""
        if method_name == "compute_reward" and self.settings.id.startswith("PointMaze_"):
            dense = "Dense" in self.settings.id
            return [maze_reward(*args[:2], dense=dense) for _ in self._get_indices(indices)]
        if method_name == "compute_reward" and self.settings.id.startswith("parking-"):
            return [parking_reward(*args[:2]) for _ in self._get_indices(indices)]
        raise ConfigError(f"EnvPool environments have no method {method_name!r}: use backend='gymnasium'")

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        raise ConfigError("EnvPool environments give no videos: make the environment with backend='gymnasium'")


def _single_space(space: Any, keys: tuple[str, ...]) -> tuple[spaces.Space[Any], list[tuple[str, slice]]]:
    """The space of one environment's observation, and where each of EnvPool's entries goes in a flat one."""
    if isinstance(space, spaces.Dict) and keys:
        slices, start = [], 0
        for key in keys:
            size = int(np.prod(space[key].shape or ()))
            slices.append((key, slice(start, start + size)))
            start += size
        return spaces.Box(-np.inf, np.inf, (start,), np.float32), slices
    return space, []
