"""Demonstrations in the .npz layouts of the ``imitation`` library and of ValueDICE.

``imitation``: one array each of all trajectories behind one another: ``obs`` (T + 1 an episode), ``acts`` and ``rews``
(T), with ``indices``, where the actions of each further trajectory begin, and ``terminal``, whether a trajectory is
complete (truncation included). The ``infos`` that ``imitation`` asks for are pickled there; rlopt writes zeros in their
place and does not read them, so that no pickle is needed. The arrays ``rlopt_*`` say what the layout cannot.

ValueDICE: flat ``states``, ``actions``, ``next_states``, and ``dones`` at the ends. ``rewards`` (N,) and ``terminals``
(N,), the true terminals among the ends, are read where they are there and written besides, with rlopt's metadata;
ValueDICE does not look at them.
"""

from collections.abc import Sequence
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
from rlopt.data.formats.minari_writing import require_consecutive
from rlopt.data.formats.npz import read_npz, write_npz
from rlopt.errors import DataError

KEYS = ("obs", "acts", "indices", "terminal")
_OWN = "rlopt_terminations"


def read_imitation(path: Path, options: ForeignOptions) -> Demonstrations:
    """Reads a file; see :func:`rlopt.data.load_demonstrations`."""
    arrays = read_npz(path, KEYS, ("rews", METADATA_KEY, _OWN))
    try:
        return _demonstrations(arrays, path, options)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _demonstrations(arrays: dict[str, np.ndarray], path: Path, options: ForeignOptions) -> Demonstrations:
    acts, obs = arrays["acts"], arrays["obs"]
    terminal = flags("terminal", arrays["terminal"])
    if acts.ndim == 0 or obs.ndim == 0 or len(terminal) == 0:
        raise DataError("it holds no trajectory: record or fetch demonstrations")
    stops = _stops(arrays["indices"], len(terminal), len(acts))
    if len(obs) != len(acts) + len(stops):
        raise DataError(
            f"{len(obs)} observations for {len(acts)} actions in {len(stops)} trajectories: there must be one more an "
            "episode than actions; the file was cut or is of another layout"
        )
    text = arrays.get(METADATA_KEY)
    first = np.arange(len(acts)) + np.repeat(np.arange(len(stops)), np.diff(stops, prepend=0))
    return join(
        [obs[first], obs[first + 1]],
        acts,
        arrays.get("rews"),
        stops,
        terminal,
        None if arrays.get(_OWN) is None else flags(_OWN, arrays[_OWN]),
        None if text is None else str(text),
        f"{path.name}, of the imitation library's layout",
        options,
    )


def join(
    sides: Sequence[np.ndarray],
    acts: np.ndarray,
    rews: np.ndarray | None,
    stops: np.ndarray,
    complete: np.ndarray,
    terminations: np.ndarray | None,
    metadata: str | None,
    generator: str,
    options: ForeignOptions,
) -> Demonstrations:
    """Demonstrations of the trajectories that end at ``stops``.

    :param sides: observations and their successors, (N, ...)
    :param complete: ``imitation``'s ``terminal``, one for each trajectory
    :param terminations: whether each ended in a true terminal, where that is known
    """
    ends = np.zeros(len(acts), bool)
    ends[stops - 1] = True
    terminals = None
    if terminations is not None:
        if len(terminations) != len(stops):
            raise DataError(f"{len(terminations)} terminations for {len(stops)} trajectories: the file is damaged")
        terminals = ends.copy()
        terminals[ends] = terminations
    fragments = int((~complete).sum())
    notes = [f"{fragments} trajectories are fragments of episodes: taken as truncated"] if fragments else []
    raw = ForeignEpisodes(sides[0], acts, sides[1], ends, rews, terminals, metadata, generator, notes)
    return demonstrations_of(raw, options)


def _stops(indices: np.ndarray, trajectories: int, actions: int) -> np.ndarray:
    """Where each trajectory ends; files that count the last one too are read as well."""
    if indices.ndim != 1 or (indices.dtype.kind not in "iu" and len(indices)):
        raise DataError(f"indices have shape {indices.shape} and dtype {indices.dtype}: whole numbers (n,) are needed")
    stops = indices.astype(np.int64)
    if len(stops) == trajectories - 1:
        stops = np.append(stops, actions)
    lengths = np.diff(stops, prepend=0)
    if len(stops) != trajectories or stops[-1] != actions:
        raise DataError(
            f"its indices say {len(indices)} trajectories up to action {stops[-1] if len(stops) else 0}, terminal and "
            f"acts {trajectories} up to {actions}: the file was cut or is damaged"
        )
    if lengths.min() < 1:
        raise DataError(f"trajectory {int(lengths.argmin())} has no action: leave out empty trajectories")
    return stops


def write_imitation(data: Dataset, path: Path) -> Path:
    """Writes ``data`` as an .npz file that ``imitation`` and :func:`rlopt.data.load_demonstrations` read.

    :raises rlopt.errors.DataError: dictionary observations, transitions that do not follow one another, or a full disk
    """
    arrays = trajectory_arrays(data)
    stops = np.flatnonzero(data.episode_ends) + 1
    own = {METADATA_KEY: np.array(metadata_text(data)), _OWN: data.discounts[stops - 1] == 0}
    infos = np.zeros(len(data), np.int8)
    return write_npz(path, {**arrays, "infos": infos, "indices": stops[:-1], **own})


def trajectory_arrays(data: Dataset) -> dict[str, np.ndarray]:
    """``obs``, ``acts``, ``terminal`` and, if there are rewards, ``rews`` of all trajectories, behind one another.

    :raises rlopt.errors.DataError: dictionary observations, or transitions that do not follow one another
    """
    observations, following = flat_observations(data, "imitation")
    require_consecutive(data, "imitation")
    whole = [np.concatenate((observations[rows], following[rows.stop - 1 : rows.stop])) for rows in data.episodes()]
    arrays = {"obs": np.concatenate(whole), "acts": data.actions, "terminal": np.ones(len(whole), bool)}
    if getattr(data.metadata, "has_rewards", True):
        arrays["rews"] = data.rewards
    return arrays


VALUEDICE_KEYS = ("states", "actions", "next_states", "dones")


def read_valuedice(path: Path, options: ForeignOptions) -> Demonstrations:
    """Reads a file; see :func:`rlopt.data.load_demonstrations`."""
    arrays = read_npz(path, VALUEDICE_KEYS, ("rewards", "terminals", METADATA_KEY))
    try:
        ends = flags("dones", arrays["dones"])
        if len(ends) == 0:
            raise DataError("it holds no transition: record or fetch demonstrations")
        if wrong := [name for name in VALUEDICE_KEYS if arrays[name].ndim == 0 or len(arrays[name]) != len(ends)]:
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
