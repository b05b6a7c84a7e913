"""Small demonstrations whose every number can be told from its place."""

from typing import Any

import numpy as np

from rlopt.data import DemonstrationMetadata, Demonstrations


def walk(lengths: tuple[int, ...] = (5, 7), terminal: tuple[int, ...] = (0,), **fields: Any) -> Demonstrations:
    """Episodes of the given lengths; the observation of step t of episode e is (100 e + t, -t), its reward t.

    :param terminal: numbers of the episodes that end in a true terminal
    :param fields: of the metadata
    """
    steps = np.concatenate([np.arange(length) for length in lengths]).astype(np.float32)
    episode = np.repeat(np.arange(len(lengths)), lengths).astype(np.float32)
    ends = np.zeros(len(steps), bool)
    ends[np.cumsum(lengths) - 1] = True
    known: dict[str, Any] = {"env": "Walk-v0", "expert_return": float(np.mean([n * (n - 1) / 2 for n in lengths]))}
    return Demonstrations(
        observations=np.stack((100 * episode + steps, -steps), axis=1),
        actions=np.sin(np.arange(len(steps), dtype=np.float32))[:, None],
        rewards=steps,
        next_observations=np.stack((100 * episode + steps + 1, -steps - 1), axis=1),
        discounts=1 - (ends & np.isin(episode, terminal)).astype(np.float32),
        episode_ends=ends,
        metadata=DemonstrationMetadata(**{**known, **fields}),
    )


def with_images(data: Demonstrations) -> Demonstrations:
    """The same steps with images (3, 2, 2): each shows the step's number in the data set, its successor one more."""
    import dataclasses

    number = np.arange(len(data), dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 2, 2), np.uint8)
    return dataclasses.replace(data, extras={"pixels": number, "next_pixels": number + np.uint8(1)})
