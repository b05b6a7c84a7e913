"""Stores stacked image observations as single frames: each picture once, however many stacks it is part of."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlopt.errors import CheckpointError, ConfigError
from rlopt.storage.tree import Tree


def frame_shape(space: spaces.Space, frames: int) -> tuple[int, int, int]:
    """(C, H, W) of one of ``frames`` frames that are stacked along the first axis of ``space``.

    :raises rlopt.errors.ConfigError: ``space`` is no such stack
    """
    shape = space.shape
    if not isinstance(space, spaces.Box) or shape is None or len(shape) != 3 or frames < 1 or shape[0] % frames:
        raise ConfigError(
            f"frames={frames} does not fit the observations {space}: it needs images (frames * channels, height, "
            "width); set frames=1"
        )
    return shape[0] // frames, shape[1], shape[2]


def frame_capacity(rows: int, n_envs: int, frames: int) -> int:
    """How many frames a buffer has room for at first: enough for episodes of 8 steps or more.

    Each row adds one frame; each episode adds one more, for its first stack.
    """
    return rows + rows // 8 + (frames + 1) * n_envs


class FrameStore:
    """The frames of ``n_envs`` environments. A row of the replay buffer names k + 1 of them, oldest first.

    The first k are the stack before the transition, the last k the stack after it. A frame is freed with the last row
    that refers to it. The rows of an environment that refer to one frame follow each other, so that the row after the
    one that is overwritten says which frames are still needed.

    :param index: (buffer_size, n_envs, k + 1) int32, on the device: where in the store the frames of each row lie
    :param shape: (C, H, W) of a frame; ``dtype`` its numpy dtype
    :param capacity: frames to make room for at first; the store grows if episodes need more
    :param allocate: zeros on the device for that many frames
    """

    def __init__(
        self,
        index: Tensor,
        shape: tuple[int, int, int],
        dtype: np.dtype,
        capacity: int,
        allocate: Callable[[int], Tensor],
    ) -> None:
        self._allocate = allocate
        self._shape, self._dtype = shape, dtype
        self.frames = allocate(capacity)
        """(capacity, C, H, W)."""
        self.version = 0
        """Changes when ``frames`` moves in memory: what was compiled or captured with it is then out of date."""
        self.move(index, self.frames)
        self.reset()

    def move(self, index: Tensor, frames: Tensor) -> None:
        """Takes over tensors of another device."""
        self.index, self.frames = index, frames
        # write() needs the places on the host at every step. On the CPU this is the same memory.
        self._places = index.cpu().numpy()
        self.version += 1

    def reset(self) -> None:
        """Forgets all frames."""
        self._free: list[int] = []
        self._used = 0
        self._last: np.ndarray | None = None
        self._last_places: list[list[int]] = []

    def write(self, position: int, occupied: bool, observations: np.ndarray, next_observations: np.ndarray) -> None:
        """Stores the stacks (n_envs, k * C, H, W) of one step at ``position``.

        :param occupied: whether a row that is there is replaced
        :raises rlopt.errors.ConfigError: a next stack is not its stack moved by one frame
        """
        n_envs, k = self._places.shape[1], self._places.shape[2] - 1
        stacks, next_stacks = (
            np.array(part, self._dtype).reshape(n_envs, k, *self._shape) for part in (observations, next_observations)
        )
        if not np.array_equal(stacks[:, 1:], next_stacks[:, :-1]):
            raise ConfigError(
                f"observations are not stacks of {k} frames, oldest first, that move by one a step: set frames=1"
            )
        rows = [self._row(env, stacks[env], next_stacks[env]) for env in range(n_envs)]
        if occupied:
            oldest = (position + 1) % len(self._places)
            for env, row in enumerate(rows):
                kept = set(row) | (set(self._places[oldest, env].tolist()) if oldest != position else set())
                self._free += sorted(set(self._places[position, env].tolist()) - kept)
        self._places[position] = rows
        if self.index.device.type != "cpu":
            self.index[position].copy_(torch.tensor(rows, dtype=torch.int32), non_blocking=True)
        self._last, self._last_places = next_stacks, [row[1:] for row in rows]

    def _row(self, env: int, stack: np.ndarray, next_stack: np.ndarray) -> list[int]:
        """The places of an environment's k + 1 frames; frames that are not stored yet are stored."""
        # Within an episode this stack is the last step's next stack: only one frame is new.
        if self._last is not None and np.array_equal(self._last[env], stack):
            places = list(self._last_places[env])
        else:
            places = [self._store(stack[-1])]
            for newer, frame in zip(stack[:0:-1], stack[-2::-1], strict=True):
                # An episode's first stack repeats its first frame or a blank one: equal frames are stored once.
                places.insert(0, places[0] if np.array_equal(newer, frame) else self._store(frame))
        return [*places, self._store(next_stack[-1])]

    def _store(self, frame: np.ndarray) -> int:
        if self._free:
            place = self._free.pop()
        else:
            place, self._used = self._used, self._used + 1
            self._provide(self._used)
        if self.frames.device.type == "cpu":
            self.frames.numpy()[place] = frame
        else:
            self.frames[place].copy_(torch.from_numpy(frame), non_blocking=True)
        return place

    def _provide(self, frames: int) -> None:
        """Makes room for ``frames`` frames, growing by a quarter at least so that growth is rare."""
        if frames > len(self.frames):
            larger = self._allocate(max(frames, len(self.frames) * 5 // 4))
            larger[: len(self.frames)] = self.frames
            self.frames = larger
            self.version += 1

    def stacks(self, rows: Tensor, after: bool) -> Tensor:
        """(B, k * C, H, W) before, or ``after``, the transitions at flat ``rows`` (B,)."""
        places = self.index.flatten(0, 1).index_select(0, rows)
        places = places[:, 1:] if after else places[:, :-1]
        return self.frames.index_select(0, places.flatten()).reshape(len(rows), -1, *self._shape[1:])

    def get_state(self, copy: bool) -> np.ndarray:
        """The frames (F, C, H, W) up to the last that was ever used; freed ones lie between the others."""
        frames = self.frames[: self._used].cpu().numpy()
        return frames.copy() if copy else frames

    def check_state(self, saved: Any, index: Tree) -> None:
        """Raises CheckpointError unless ``saved`` are frames of this shape, among which are all places in ``index``."""
        if not isinstance(saved, np.ndarray) or saved.dtype != self._dtype or saved.shape[1:] != self._shape:
            raise CheckpointError(f"the checkpoint's replay buffer has other frames than {self._dtype} {self._shape}")
        if index.size and (index.min() < 0 or index.max() >= len(saved)):
            raise CheckpointError("the checkpoint's replay buffer has frames outside it: it is malformed")

    def set_state(self, saved: np.ndarray, filled: int, newest: int) -> None:
        """Takes over frames that :meth:`check_state` accepted, for ``filled`` rows that are in place already."""
        self.reset()
        self._provide(len(saved))
        self.frames[: len(saved)] = torch.from_numpy(saved)
        self._used = len(saved)
        self._places = self.index.cpu().numpy()
        self._free = sorted(set(range(len(saved))) - set(np.unique(self._places[:filled]).tolist()), reverse=True)
        if filled:
            self._last_places = self._places[newest, :, 1:].tolist()
            self._last = np.stack([saved[places] for places in self._last_places])
