"""The rules that every data set must satisfy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rlopt.errors import DataError

if TYPE_CHECKING:
    from rlopt.data.dataset import Dataset

_BLOCK = 16_384
_OBSERVATION_DTYPES = ("float32", "uint8", "int64")


def check_columns(data: Dataset) -> None:
    """Raises :class:`rlopt.errors.DataError` for arrays that do not make a data set; see :class:`Dataset`."""
    rewards = _array("rewards", data.rewards)
    if rewards.ndim != 1 or len(rewards) == 0:
        raise DataError(f"rewards have shape {rewards.shape}: a data set needs (N,) with at least one transition")
    length = len(rewards)
    _column("rewards", rewards, length, ("float32",), ndim=1)
    _column("discounts", data.discounts, length, ("float32",), ndim=1)
    _column("episode_ends", data.episode_ends, length, ("bool",), ndim=1)
    discrete = _array("actions", data.actions).dtype == np.int64  # (N,), or (N, A) of a MultiDiscrete space
    one = discrete and data.actions.ndim != 2
    _column("actions", data.actions, length, ("float32", "int64"), ndim=1 if one else 2)
    _observations(data, length)
    for name, column in data.extras.items():
        if not isinstance(name, str) or not name:
            raise DataError(f"the extra column {name!r} needs a text as its name")
        _column(f"extras[{name!r}]", column, length, None)
    _episode_structure(data)


def _observations(data: Dataset, length: int) -> None:
    pairs: list[tuple[str, Any, Any]]
    if isinstance(data.observations, Mapping) or isinstance(data.next_observations, Mapping):
        if not (isinstance(data.observations, Mapping) and isinstance(data.next_observations, Mapping)):
            raise DataError("observations and next_observations must both be dictionaries or both be arrays")
        if not data.observations or data.observations.keys() != data.next_observations.keys():
            raise DataError(
                f"observations have the keys {sorted(data.observations)}, next_observations "
                f"{sorted(data.next_observations)}: give both the same, at least one"
            )
        pairs = [(f"[{key!r}]", value, data.next_observations[key]) for key, value in data.observations.items()]
    else:
        pairs = [("", data.observations, data.next_observations)]
    for key, here, following in pairs:
        _column(f"observations{key}", here, length, _OBSERVATION_DTYPES)
        _column(f"next_observations{key}", following, length, _OBSERVATION_DTYPES)
        if here.size == 0:
            raise DataError(f"observations{key} have shape {here.shape}: they hold no number")
        if here.shape != following.shape or here.dtype != following.dtype:
            raise DataError(
                f"observations{key} are {here.dtype} {here.shape}, next_observations{key} {following.dtype} "
                f"{following.shape}: they must be alike"
            )


def _array(name: str, value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise DataError(f"{name} is a {type(value).__name__}: give a numpy array")
    return value


def _column(name: str, value: Any, length: int, dtypes: tuple[str, ...] | None, ndim: int | None = None) -> None:
    """``dtypes`` None stands for any number or bool."""
    array = _array(name, value)
    if array.dtype.name not in dtypes if dtypes else array.dtype.kind not in "biuf":
        wanted = " or ".join(dtypes) if dtypes else "numbers"
        raise DataError(f"{name} have dtype {array.dtype}: convert them to {wanted}")
    if ndim is not None and array.ndim != ndim:
        raise DataError(f"{name} have shape {array.shape}: {'(N,)' if ndim == 1 else '(N, dimensions)'} is needed")
    if array.ndim == 0 or len(array) != length:
        raise DataError(f"{name} have {len(array) if array.ndim else 0} rows, rewards {length}: they must be equal")
    if array.dtype.kind == "f":
        require_finite(name, array)


def float32(name: str, array: np.ndarray) -> np.ndarray:
    """``array`` as float32; what is too large becomes infinite, which no data set takes."""
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} have dtype {array.dtype}: convert them to float32")
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def not_finite(array: np.ndarray) -> np.ndarray:
    """(N,) bool: rows of (N, ...) that hold NaN or infinity; a block at a time, as data may fill the memory."""
    bad = np.zeros(len(array), bool)
    if array.dtype.kind == "f":
        for start in range(0, len(array), _BLOCK):
            block = array[start : start + _BLOCK]
            bad[start : start + _BLOCK] = ~np.isfinite(block).reshape(len(block), -1).all(axis=1)
    return bad


def require_finite(name: str, array: np.ndarray) -> None:
    """Raises :class:`rlopt.errors.DataError` naming the first row that holds NaN or infinity."""
    bad = not_finite(array)
    if bad.any():
        raise DataError(
            f"{name} hold NaN or infinity in {bad.sum()} of {len(bad)} rows, first in row {int(bad.argmax())}: "
            "leave these episodes out with rlopt data filter IN OUT --drop-nan, in Python drop_nan=True"
        )


def _episode_structure(data: Dataset) -> None:
    discounts, ends = data.discounts, data.episode_ends
    wrong = (discounts != 0) & (discounts != 1)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(f"discounts are {discounts[row]} in row {row}: give 0 at a true terminal and 1 elsewhere")
    inside = (discounts == 0) & ~ends
    if inside.any():
        raise DataError(f"row {int(inside.argmax())} is terminal but ends no episode: set episode_ends there")
    if not ends[-1]:
        raise DataError("the last transition ends no episode: set episode_ends there (discount 1 if it was cut)")


def check_spaces(data: Dataset, observation_space: Any, action_space: Any, env: str) -> None:
    """Makes sure that the data fit an environment's Gymnasium spaces.

    :param env: the environment's id, for the message
    :raises rlopt.errors.DataError: another shape, other keys, or actions out of bounds
    """
    cure = f"this data set is of {data.metadata.env!r}; choose the data set or the environment that fits"
    if data.metadata.env == env:  # somebody said so, of a file that does not
        cure = "it may be of another environment, or --columns KIND=KEY says which columns are which"
    spaces = getattr(observation_space, "spaces", None)
    if isinstance(spaces, Mapping) and not isinstance(data.observations, dict):
        named = ", ".join(f"{key} {tuple(part.shape)}" for key, part in spaces.items())
        first = next(iter(spaces))
        raise DataError(
            f"observations of {env} are dictionaries of {named}, and these are arrays of "
            f"{tuple(data.observations.shape[1:])}: name an array for each part, observations/{first} and so on, or "
            "record and train in the environment with gymnasium's FlattenObservation"
        )
    if isinstance(data.observations, dict) and not isinstance(spaces, Mapping):
        named = ", ".join(f"{key} {tuple(part.shape[1:])}" for key, part in data.observations.items())
        raise DataError(
            f"observations of {env} are arrays of {tuple(observation_space.shape)}, and these are dictionaries of "
            f"{named}: join the parts in its order with rlopt data convert IN OUT --observation-keys "
            f"{','.join(data.observations)}"
        )
    parts = data.observations if isinstance(data.observations, dict) else {"": data.observations}
    wanted = dict(spaces) if isinstance(spaces, Mapping) else {"": observation_space}
    if parts.keys() != wanted.keys():
        raise DataError(f"observations have the keys {sorted(parts)}, {env} has {sorted(wanted)}: {cure}")
    for key, part in parts.items():
        if part.shape[1:] != tuple(wanted[key].shape):
            raise DataError(f"observations {key} have shape {part.shape[1:]}, {env} {wanted[key].shape}: {cure}")
    clip = (
        "or cut them with rlopt demos convert IN OUT --clip-actions, in Python Demonstrations.clip_actions(low, high)"
    )
    _check_actions(data.actions, action_space, env, cure, f"{cure}, {clip}")


def contradictions(data: Dataset) -> list[str]:
    """A note where successors within an episode are not the next row's observations, but for rounding."""
    inside = ~data.episode_ends[:-1]
    differ = np.zeros(len(inside), bool)
    for key in data.observations if isinstance(data.observations, dict) else [None]:
        sides: Any = (data.observations, data.next_observations)
        here, after = sides if key is None else (side[key] for side in sides)
        for start in range(0, len(inside), _BLOCK):
            rows = slice(start, min(start + _BLOCK, len(inside)))
            theirs, ours = after[rows], here[1:][rows]
            other = (theirs != ours).reshape(len(ours), -1).any(axis=1)
            if other.any():
                near = np.isclose(theirs[other], ours[other], rtol=1e-4, atol=1e-5)
                other[other] = ~near.reshape(len(near), -1).all(axis=1)
            differ[rows] |= other
    count, total = int((differ & inside).sum()), int(inside.sum())
    if not count:
        return []
    return [
        f"next_observations of {count:,} of {total:,} rows within episodes ({max(count / total, 0.01):.0%}) are not "
        "the next row's observations: taken as recorded; are both columns in the same order?"
    ]


def doubts(data: Dataset, observation_space: Any, action_space: Any, env: str) -> list[str]:
    """Notes on data that fit an environment's spaces in shape, but hardly in what they hold."""
    notes = []
    spaces = getattr(observation_space, "spaces", None) or {"": observation_space}
    parts = data.observations if isinstance(data.observations, dict) else {"": data.observations}
    for key, part in parts.items():
        low, high = getattr(spaces[key], "low", None), getattr(spaces[key], "high", None)
        if low is None or high is None or part.dtype.kind != "f" or part.ndim != 2:
            continue
        beyond = np.maximum(part - high, low - part).max(axis=0) > 1e-3 * np.maximum(1.0, np.abs(high))
        if beyond.any():
            column = int(beyond.argmax())
            notes.append(
                f"observations{f' {key}' if key else ''} leave the bounds of {env} in {int(beyond.sum())} of "
                f"{len(beyond)} columns (column {column}: {part[:, column].min():.4g} to {part[:, column].max():.4g}, "
                f"bounds {low[column]:.4g} to {high[column]:.4g}): are the columns in its order and units?"
            )
    bound = np.abs(getattr(action_space, "high", np.zeros(0)))
    largest = np.abs(data.actions).max(axis=0) if data.actions.dtype.kind == "f" else np.zeros(0)
    if len(bound) and largest.shape == bound.shape and (bound >= 1.5).all() and 0.9 <= largest.max() <= 1 + 1e-6:
        notes.append(
            f"no action exceeds 1, and those of {env} reach {bound.max():.4g}: if they were scaled to [-1, 1], scale "
            f"them back with rlopt data convert IN OUT --env {env} --scale-actions, in Python scale_actions=True"
        )
    return notes


def _check_actions(actions: np.ndarray, space: Any, env: str, cure: str, out_of_bounds: str) -> None:
    number = getattr(space, "n", None)
    if number is not None:
        start = int(getattr(space, "start", 0))
        check_discrete_actions(actions, start, start + int(number) - 1, env)
        return
    choices = getattr(space, "nvec", None)
    if choices is not None:
        if actions.shape[1:] != choices.shape or actions.dtype != np.int64:
            raise DataError(f"actions have shape {actions.shape[1:]}, {env} takes {len(choices)} choices: {cure}")
        if (actions < space.start).any() or (actions >= space.start + choices).any():
            raise DataError(f"actions are not choices among {choices.tolist()}, as {env} takes: {cure}")
        return
    if actions.shape[1:] != tuple(space.shape):
        raise DataError(f"actions have shape {actions.shape[1:]}, {env} takes {space.shape}: {cure}")
    check_bounds(actions, space.low, space.high, out_of_bounds)


def check_actions(actions: np.ndarray, space: Any, env: str, whose: str, clip: bool) -> tuple[np.ndarray, list[str]]:
    """Actions that lie in their recorded space, and notes.

    :param env: who takes them, for the message
    :param whose: whose bounds they are, for the message
    :param clip: cut continuous ones to their bounds instead of refusing them
    :raises rlopt.errors.DataError: actions outside of it, or of another shape
    """
    notes = []
    if clip and hasattr(space, "low") and actions.shape[1:] == space.shape:
        clipped = np.clip(actions, space.low.astype(np.float32), space.high.astype(np.float32))
        if changed := int((clipped != actions).any(axis=1).sum()):
            notes.append(f"actions of {changed} rows clipped to the action space")
        actions = clipped
    _check_actions(actions, space, env, "it is damaged or of another environment", f"{whose}; {CLIP_ACTIONS}")
    return actions, notes


def check_discrete_actions(actions: np.ndarray, lowest: int, highest: int, env: str) -> None:
    """Raises :class:`rlopt.errors.DataError` for actions that are not integers from ``lowest`` to ``highest``."""
    if actions.dtype != np.int64 or actions.ndim != 1 or actions.min() < lowest or actions.max() > highest:
        raise DataError(f"actions are not integers from {lowest} to {highest}, as {env} takes: choose data that fit it")


CLIP_ACTIONS = "rlopt data convert IN OUT --clip-actions clips them, in Python clip_actions=True"


def check_bounds(actions: np.ndarray, low: Any, high: Any, cure: str) -> None:
    """Raises :class:`rlopt.errors.DataError` for actions outside [low, high] by more than float32 rounding."""
    below = actions < low - 1e-6 * np.maximum(1.0, np.abs(low))
    outside = (below | (actions > high + 1e-6 * np.maximum(1.0, np.abs(high)))).any(axis=1)
    if outside.any():
        row = int(outside.argmax())
        raise DataError(
            f"actions are out of bounds in {outside.sum()} of {len(actions)} rows, first in row {row} (largest "
            f"{np.abs(actions[row]).max():.6g}): {cure}"
        )


LARGEST = 50_000
"""Rows of the data that are looked at, drawn at random from more."""
RADIUS = 0.1
"""Root mean square over the columns, in standard deviations, within which data tell of a state."""


def share_outside(data: np.ndarray, states: np.ndarray, spread: np.ndarray, seed: int = 0) -> float:
    """The share of ``states`` outside the support of ``data``, in [0, 1]: no row of the data within ``RADIUS``.

    :param data: [N, d] observations
    :param states: [M, d]
    :param spread: [d] standard deviations in which distances are measured; 0 leaves a column in its own unit
    :param seed: seed of the rows that are drawn where there are more than 50,000
    """
    if len(data) > LARGEST:
        data = data[np.random.default_rng(seed).choice(len(data), LARGEST, replace=False)]
    scale = np.where(spread > 0, spread, 1.0) * np.sqrt(data.shape[1])
    data, states = data / scale, states / scale
    squares = (data**2).sum(axis=1)
    outside = 0
    for start in range(0, len(states), 100):
        part = states[start : start + 100]
        nearest = ((part**2).sum(axis=1)[:, None] - 2 * part @ data.T + squares).min(axis=1)
        outside += int((nearest > RADIUS**2).sum())
    return outside / len(states)
