"""Demonstrations in ValueDICE's .npz layout: flat ``states``, ``actions``, ``next_states``, and ``dones`` at the ends.

``rewards`` (N,) and ``terminals`` (N,), the true terminals among the ends, are read where they are there and written
besides, with rlopt's metadata; ValueDICE does not look at them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rlopt.data.dataset import Dataset
from rlopt.data.demonstrations import Demonstrations
from rlopt.data.formats.foreign_demonstrations import (
    METADATA_KEY,
    ForeignEpisodes,
    ForeignOptions,
    demonstrations_of,
    flags,
    flat_observations,
    metadata_text,
)
from rlopt.data.formats.npz import read_npz, write_npz
from rlopt.errors import DataError

KEYS = ("states", "actions", "next_states", "dones")


def read_valuedice(path: Path, options: ForeignOptions) -> Demonstrations:
    """Reads a file; see :func:`rlopt.data.load_demonstrations`."""
    arrays = read_npz(path, KEYS, ("rewards", "terminals", METADATA_KEY))
    try:
        ends = flags("dones", arrays["dones"])
        if len(ends) == 0:
            raise DataError("it holds no transition: record or fetch demonstrations")
        if wrong := [name for name in KEYS if arrays[name].ndim == 0 or len(arrays[name]) != len(ends)]:
            raise DataError(f"{', '.join(wrong)} and dones differ in length: the file was cut or is damaged")
        notes = [] if ends[-1] else ["the last transition is not marked as an end: its episode is taken as cut there"]
        ends = np.append(ends[:-1], True)
        text = arrays.get(METADATA_KEY)
        raw = ForeignEpisodes(
            observations=arrays["states"],
            actions=arrays["actions"],
            next_observations=arrays["next_states"],
            ends=ends,
            rewards=arrays.get("rewards"),
            terminals=flags("terminals", arrays["terminals"]) if "terminals" in arrays else None,
            metadata=None if text is None else str(text),
            generator=f"{path.name}, of ValueDICE's layout",
            notes=notes,
        )
        return demonstrations_of(raw, options)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def write_valuedice(data: Dataset, path: Path) -> Path:
    """Writes ``data`` as an .npz file that ValueDICE and :func:`rlopt.data.load_demonstrations` read.

    :raises rlopt.errors.DataError: dictionary observations, or a full disk
    """
    states, next_states = flat_observations(data, "valuedice")
    arrays = {
        "states": states,
        "actions": data.actions,
        "next_states": next_states,
        "dones": data.episode_ends.astype(np.float32),
        "terminals": data.discounts == 0,
    }
    if getattr(data.metadata, "has_rewards", True):
        arrays["rewards"] = data.rewards
    return write_npz(path, {**arrays, METADATA_KEY: np.array(metadata_text(data))})
