"""A data set as the first rows of a replay buffer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rlopt.data.columns import scaled_actions
from rlopt.data.dataset import Dataset
from rlopt.replay.rows import stored_part


def seed_buffer(buffer: Any, dataset: Dataset) -> None:
    """Writes ``dataset`` to the first rows of an empty replay buffer, each environment a stretch of it.

    A stretch that ends inside an episode is marked as cut there; the rest that does not divide by the number of
    environments is left out.
    """
    length = len(dataset) // buffer.n_envs
    actions = scaled_actions(dataset.actions, buffer.action_space)
    ends = dataset.episode_ends.copy()
    ends[length - 1 :: length] = True
    columns: dict[str, Any] = {
        "observations": dataset.observations,
        "next_observations": dataset.next_observations,
        "actions": actions.reshape(len(dataset), -1),
        "rewards": dataset.rewards,
        "dones": ends.astype(np.float32),
        "timeouts": (ends & (dataset.discounts > 0)).astype(np.float32),
    }
    for name, column in columns.items():
        storage = stored_part(buffer, name)
        pairs = [(storage[key], column[key]) for key in storage] if isinstance(storage, dict) else [(storage, column)]
        for rows, values in pairs:
            part = torch.from_numpy(np.ascontiguousarray(values[: length * buffer.n_envs]))
            stretches = part.reshape(buffer.n_envs, length, *part.shape[1:]).transpose(0, 1)
            rows[:length] = stretches.reshape(rows[:length].shape).to(rows.dtype)
    buffer.pos = length % buffer.buffer_size
    buffer.full = length == buffer.buffer_size
