"""Replay on the training device: Stable-Baselines3's replay buffers with tensors in place of numpy arrays.

A transition has a *row*: ``position * n_envs + environment``. Drawing rows (``sample_rows``) is apart from reading them
(``gather``), which is tensor operations only and so becomes part of a compiled or captured gradient step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from rlopt.errors import CheckpointError, ConfigError
from rlopt.replay.frames import FrameStore, frame_capacity, frame_shape
from rlopt.replay.memory import Fields, allocate, check_memory, row_fields, storage_is_deferred
from rlopt.replay.normalization import normalize_observations, normalize_rewards
from rlopt.replay.rows import capture_rows, check_rows, restore_rows
from rlopt.settings.device import check_device
from rlopt.storage.tree import Tree


def _as_array(name: str) -> property:
    def read(self: DeviceReplayBuffer) -> Any:
        if name not in self._fields:
            raise AttributeError(f"{type(self).__name__} keeps no {name}: a batch has them")
        return self._views[name] if self._on_host else _each(self._stored[name], _copied)

    return property(read, doc=f"The {name} of all rows as a numpy array, or a dict of those.")


def _copied(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.cpu().numpy()
    array.flags.writeable = False  # what was written would be lost
    return array


Observations: TypeAlias = Tensor | dict[str, Tensor]
Relabel: TypeAlias = Callable[[Any], Tensor]
"""Rewards (B, 1) from a batch of single transitions, by tensor operations only."""


def _each(tree: Any, function: Callable[[Tensor], Any]) -> Any:
    return {key: function(part) for key, part in tree.items()} if isinstance(tree, dict) else function(tree)


def _write_part(storage: np.ndarray | Tensor, position: int, value: Any, reshape: bool) -> None:
    if reshape:
        value = value.reshape(storage.shape[1:])
    if isinstance(storage, np.ndarray):
        storage[position] = value
        return
    if isinstance(value, Tensor):
        storage[position].copy_(value)
        return
    row = np.empty(storage.shape[1:], torch.empty(0, dtype=storage.dtype).numpy().dtype)
    row[...] = value
    storage[position].copy_(torch.from_numpy(row), non_blocking=True)


class DeviceReplayBuffer(ReplayBuffer):
    """As :class:`stable_baselines3.common.buffers.ReplayBuffer`, on ``device`` and without a copy on the host.

    On the CPU a batch is equal to Stable-Baselines3's, bit for bit, with the same seed of ``numpy.random``; memory is
    taken as rows are written. On an accelerator rows are drawn by its own torch generator and no call waits for it.

    ``observations`` and ``next_observations`` (buffer_size, n_envs, ...), ``actions`` (buffer_size, n_envs, A),
    ``rewards``, ``dones`` and ``timeouts`` (buffer_size, n_envs) are numpy arrays: on the CPU those that are learned
    from, of an accelerator copies that cannot be written. :meth:`stored` gives the tensors.

    :param buffer_size: transitions kept, >= 1; a multiple of ``n_envs`` is used
    :param observation_space: Box, Discrete, MultiDiscrete or MultiBinary; observations keep its dtype
    :param action_space: actions keep its dtype, except that float64 becomes float32
    :param device: where all rows are kept and batches appear
    :param n_envs: environments whose transitions come together, >= 1
    :param optimize_memory_usage: keep each observation once; only with ``handle_timeout_termination=False``, because
        the observation at a timeout is then lost
    :param handle_timeout_termination: a batch's ``dones`` are 0 where the episode was cut by a time limit
    :param frames: k, where observations are images (k * channels, height, width) of the last k frames, oldest first,
        before an episode's first frame that frame again or zeros: each frame is kept once, which takes about 1 / 2k of
        the memory. 1 keeps observations as they are
    :raises rlopt.errors.ConfigError: ``device`` cannot be used, or the rows do not fit into its free memory; settings
        that exclude each other
    :raises rlopt.errors.SpaceError: observations or actions of a dtype that torch does not have
    """

    observations, next_observations, actions = map(_as_array, ("observations", "next_observations", "actions"))
    rewards, dones, timeouts = map(_as_array, ("rewards", "dones", "timeouts"))
    relabel: Relabel | None = None
    """What gives a batch its rewards in place of the stored ones, whenever transitions are read; not saved."""
    _batch: ClassVar[Any] = ReplayBufferSamples

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        frames: int = 1,
    ) -> None:
        check_device(device)  # Stable-Baselines3 takes the CPU in its place, without a word
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        if optimize_memory_usage and handle_timeout_termination:
            raise ConfigError(
                "optimize_memory_usage loses the observations at time limits: set handle_timeout_termination=False "
                "(replay_buffer_kwargs) with it, or switch it off"
            )
        if optimize_memory_usage and frames > 1:
            raise ConfigError("frames > 1 keeps each frame once already: switch optimize_memory_usage off")
        self.frames = frames
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        # (n_envs,) does not broadcast to (n_envs, 1).
        parts = {"observations": observation_space, "next_observations": observation_space}
        parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else parts
        self._to_reshape = {name for name, space in parts.items() if isinstance(space, spaces.Discrete)}
        self._fields: Fields = row_fields(observation_space, action_space, optimize_memory_usage, frames)
        if not storage_is_deferred():
            self._allocate()

    def _allocate(self) -> None:
        rows, space = self.buffer_size * self.n_envs, self.observation_space
        check_memory(self._fields, rows, self.n_envs, self.device, space, self.frames)
        self._stored = {
            name: allocate(field, (self.buffer_size, self.n_envs), self.device) for name, field in self._fields.items()
        }
        self._view_storage()
        self.frame_store: FrameStore | None = None
        if self.frames > 1:
            shape, dtype = frame_shape(space, self.frames), np.dtype(space.dtype)
            self.frame_store = FrameStore(
                self._stored["frame_index"],
                shape,
                dtype,
                frame_capacity(rows, self.n_envs, self.frames),
                lambda count: allocate((shape, dtype), (count,), self.device),
            )

    @property
    def storage_version(self) -> int:
        """Changes when rows move in memory: code that was compiled or captured with :meth:`gather` is then void."""
        return self._moves + (self.frame_store.version if self.frame_store is not None else 0)

    def _view_storage(self) -> None:
        """Numpy arrays on the same memory: writing a small row through torch takes several times as long."""
        self._moves = self.__dict__.get("_moves", 0) + 1
        self._views: dict[str, Any] = {}
        if self._on_host:
            self._views = {name: _each(part, lambda tensor: tensor.numpy()) for name, part in self._stored.items()}

    def __getattr__(self, name: str) -> Any:
        if "_fields" in self.__dict__ and name in ("_stored", "_views", "frame_store"):
            self._allocate()
            return self.__dict__[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def stored(self, name: str) -> Any:
        """A part of all rows by name, such as "rewards": a tensor on the device, or a dict of those; None if there is
        no such part.
        """
        return self._stored.get(name, self.__dict__.get(name))

    @property
    def device(self) -> torch.device:
        """Where the rows are. Setting it moves them."""
        return self._device

    @device.setter
    def device(self, device: torch.device) -> None:
        self._device = device
        self._on_host = device.type == "cpu"
        for name, value in list(self.__dict__.items()):
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        if "_stored" in self.__dict__:
            self._stored = {name: _each(part, lambda tensor: tensor.to(device)) for name, part in self._stored.items()}
        if "_views" in self.__dict__:
            self._view_storage()
            if self.frame_store is not None:
                self.frame_store.move(self._stored["frame_index"], self.frame_store.frames.to(device))

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Stores one transition of each environment, replacing the oldest where the buffer is full.

        :param obs: (n_envs, ...), or a dict of such arrays; ``next_obs`` too, at an episode's end its last observation
        :param action: (n_envs, A), as the actor gives it
        :param reward: (n_envs,), as ``done``
        :param infos: one an environment; "TimeLimit.truncated" says that a time limit ended the episode
        """
        self.store(obs, next_obs, action, reward, done, [info.get("TimeLimit.truncated", False) for info in infos])

    def store(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, cut: Any) -> None:
        """As :meth:`add`, of arrays or of tensors on the device, which do not pass the host.

        :param cut: (n_envs,), whether a time limit ended the episode
        """
        if self.frame_store is not None:
            self.frame_store.write(self.pos, self.full, obs, next_obs)
        else:
            self._write_observations(obs, next_obs)
        self._write("actions", self.pos, action.reshape((self.n_envs, self.action_dim)))
        self._write("rewards", self.pos, reward)
        self._write("dones", self.pos, done)
        if self.handle_timeout_termination:
            self._write("timeouts", self.pos, cut)
        if self.pos + 1 == self.buffer_size:
            self.full, self.pos = True, 0
        else:
            self.pos += 1

    def reset(self) -> None:
        """Empties the buffer."""
        super().reset()
        if self.frame_store is not None:
            self.frame_store.reset()

    def _write_observations(self, obs: Any, next_obs: Any) -> None:
        self._write("observations", self.pos, obs)
        if self.optimize_memory_usage:
            self._write("observations", (self.pos + 1) % self.buffer_size, next_obs)
        else:
            self._write("next_observations", self.pos, next_obs)

    def _write(self, name: str, position: int, value: Any) -> None:
        """Writes ``value`` (n_envs, ...), or a dict of such, to the rows at ``position``."""
        storage = (self._views if self._on_host else self._stored)[name]
        if isinstance(storage, dict):
            for key, part in storage.items():
                _write_part(part, position, value[key], key in self._to_reshape)
        else:
            _write_part(storage, position, value, name in self._to_reshape)

    def sample_rows(self, batch_size: int) -> Tensor:
        """Rows (B,) int64, on the device, drawn uniformly with replacement among those that can be used.

        On the CPU they come from numpy's global generator in Stable-Baselines3's order of draws.

        :raises rlopt.errors.ConfigError: there is no transition yet
        """
        size, without_newest = self.size(), self.optimize_memory_usage and self.full
        if size <= without_newest:
            raise ConfigError("the replay buffer has no transition to sample: store some first (learning_starts >= 1)")
        # In the memory-saving variant the row at pos holds the newest next observation and no transition.
        shift, first = (self.pos, 1) if without_newest else (0, 0)
        if self._on_host:
            positions = (np.random.randint(first, size, size=batch_size) + shift) % self.buffer_size
            envs = np.random.randint(0, self.n_envs, size=batch_size)
            return torch.from_numpy(positions * self.n_envs + envs)
        n_envs = self.n_envs
        rows = torch.randint(first * n_envs, size * n_envs, (batch_size,), device=self.device)
        return (rows + shift * n_envs) % (self.buffer_size * n_envs) if shift else rows

    def gather(self, rows: Tensor, env: VecNormalize | None = None) -> Any:
        """The transitions at ``rows`` (B,); without ``env`` tensor operations only, to be compiled or captured.

        :param env: normalises observations and rewards with its present statistics
        :returns: (B, ...) tensors on the device, rewards and dones (B, 1)
        """
        rewards = normalize_rewards(self._at(self._stored["rewards"], rows), env)
        samples = self._samples(rows, rows, rewards, env)
        return samples if self.relabel is None else samples._replace(rewards=self.relabel(samples))

    def transitions(self, rows: Tensor) -> Any:
        """Single transitions at ``rows`` (B,) as they were stored: never normalised, relabelled or summed."""
        return self._samples(rows, rows, self._at(self._stored["rewards"], rows), None)

    def set_rewards(self, rows: Tensor, rewards: Tensor) -> None:
        """Gives the transitions at ``rows`` (B,) the ``rewards`` (B,) in place of those that are stored."""
        self._stored["rewards"].flatten(0, 1).index_copy_(0, rows, rewards.to(self._stored["rewards"]))

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """A batch as Stable-Baselines3's ``sample`` gives it: :meth:`gather` of :meth:`sample_rows`."""
        return self.gather(self.sample_rows(batch_size), env)

    def _samples(self, rows: Tensor, last: Tensor, rewards: Tensor, env: VecNormalize | None) -> Any:
        """Transitions that begin at ``rows`` and end after those at ``last``, which are the same for single steps."""
        if self.frame_store is not None:
            observations, next_observations = self.frame_store.stacks(rows, False), self.frame_store.stacks(last, True)
        elif self.optimize_memory_usage:
            next_rows = (last + self.n_envs) % (self.buffer_size * self.n_envs)
            observations, next_observations = (
                self._at(self._stored["observations"], part) for part in (rows, next_rows)
            )
        else:
            observations = self._at(self._stored["observations"], rows)
            next_observations = self._at(self._stored["next_observations"], last)
        dones = self._at(self._stored["dones"], last) * (1 - self._at(self._stored["timeouts"], last))
        return self._batch(
            normalize_observations(observations, env),
            self._at(self._stored["actions"], rows),
            normalize_observations(next_observations, env),
            dones.reshape(-1, 1),
            rewards.reshape(-1, 1),
        )

    def _at(self, storage: Any, rows: Tensor) -> Any:
        return _each(storage, lambda part: part.flatten(0, 1).index_select(0, rows))

    def get_state(self, copy: bool = True) -> dict[str, Tree]:
        """The position and the filled rows as numpy arrays, for :mod:`rlopt.checkpoint.files`.

        :param copy: False gives views on the CPU, valid until the next transition is stored
        """
        state = capture_rows(self, copy)
        return state if self.frame_store is None else state | {"frames": self.frame_store.get_state(copy)}

    def check_state(self, state: Tree) -> None:
        """Raises :class:`rlopt.errors.CheckpointError` unless ``state`` is well-formed and of a buffer like this."""
        try:
            if ("frames" in state) is not (self.frame_store is not None):
                raise CheckpointError("the checkpoint's replay buffer has other frames: use the same number of frames")
            check_rows(self, state)
            if self.frame_store is not None:
                self.frame_store.check_state(state["frames"], state["rows"]["frame_index"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CheckpointError("the checkpoint's replay buffer is malformed: use an older checkpoint") from error

    def set_state(self, state: Tree) -> None:
        """Fills the buffer, in place, from what :meth:`get_state` gave; raises as :meth:`check_state` does."""
        self.check_state(state)
        restore_rows(self, state)
        if self.frame_store is not None:
            self.frame_store.set_state(state["frames"], self.size(), self.pos - 1)

    def __getstate__(self) -> dict[str, Any]:
        filled, storage = self.get_state(), {"_stored", "_views", "frame_store", "relabel"}
        kept = {name: value for name, value in self.__dict__.items() if name not in storage}
        return {name: value for name, value in kept.items() if not isinstance(value, Tensor)} | {"filled": filled}

    def __setstate__(self, state: dict[str, Any]) -> None:
        filled = state.pop("filled")
        self.__dict__.update(state)
        if self._device.type == "cuda" and not torch.cuda.is_available():
            self.device = torch.device("cpu")
        self._allocate()
        self.full, self.pos = False, 0
        self.set_state(filled)


class DeviceDictReplayBuffer(DeviceReplayBuffer, DictReplayBuffer):
    """As :class:`stable_baselines3.common.buffers.DictReplayBuffer`, on the device: see :class:`DeviceReplayBuffer`."""

    _batch = DictReplayBufferSamples

    def __init__(self, buffer_size: int, observation_space: spaces.Dict, *args: Any, **kwargs: Any) -> None:
        if not isinstance(observation_space, spaces.Dict):
            raise ConfigError(f"observations are {observation_space}, not Dict: use replay_buffer_class='device'")
        DeviceReplayBuffer.__init__(self, buffer_size, observation_space, *args, **kwargs)
        if self.optimize_memory_usage:
            raise ConfigError("Dict observations do not work with optimize_memory_usage: switch it off")
