"""Writes Minari data sets with the minari package."""

import dataclasses
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.data.dataset import Dataset, Observations
from rlopt.data.formats.minari_spaces import ID, RLOPT_KEY, minari_folder
from rlopt.errors import DataError, one_line
from rlopt.storage.json import dump_json


def write(data: Dataset, dataset_id: str, report: Callable[[str], None]) -> Path:
    """Writes ``data`` where Minari looks for ``dataset_id``, and returns that folder.

    Observations are T + 1 an episode, so that each transition must begin where the one before it ended. Extra columns
    become infos, and rlopt's metadata are kept beside Minari's. Images are stored without loss.

    :param report: told in one line what a reader should know
    :raises rlopt.errors.DataError: exists; not consecutive (augmented or shuffled transitions); minari not installed
    """
    match = ID.fullmatch(dataset_id)
    if not match or match[1] != dataset_id:
        raise DataError(f"{dataset_id!r} is not a Minari id: write namespace/name-v0, as in mine/pointmaze-v0")
    try:
        import minari
        from minari.data_collector import EpisodeBuffer
    except ImportError:
        raise DataError("writing Minari data sets needs minari: pip install 'rlopt[d4rl]'") from None
    folder = minari_folder(dataset_id)
    if folder.exists():
        raise DataError(f"{folder} exists: choose another id or version, or delete it first")
    require_consecutive(data, "minari")
    env, spaces = _env_and_spaces(data, report)
    buffers = [
        EpisodeBuffer(
            id=number,
            observations=_whole(data.observations, data.next_observations, rows),
            actions=data.actions[rows],
            rewards=data.rewards[rows],
            terminations=data.discounts[rows] == 0,
            truncations=data.episode_ends[rows] & (data.discounts[rows] == 1),
            infos={name: column[rows] for name, column in data.extras.items()},
        )
        for number, rows in enumerate(data.episodes())
    ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored = minari.create_dataset_from_buffers(
                dataset_id,
                buffers,
                env=env,
                algorithm_name=data.metadata.generator or None,
                observation_space=spaces[0],
                action_space=spaces[1],
                **({"jpeg_encoding": False} if _has_images(data) else {}),
            )
        extra: dict[str, Any] = {RLOPT_KEY: dump_json(dataclasses.asdict(data.metadata))}
        if data.metadata.reference_returns is not None:
            extra |= dict(zip(("ref_min_score", "ref_max_score"), data.metadata.reference_returns, strict=True))
        stored.storage.update_metadata(extra)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, Exception):
            raise DataError(f"{folder} cannot be written ({type(error).__name__}: {one_line(error)})") from error
        raise
    return folder


def _whole(observations: Observations, following: Observations, rows: slice) -> Any:
    """The T + 1 observations of an episode."""
    if isinstance(observations, dict) and isinstance(following, dict):
        nested: dict[str, Any] = {}
        for key, column in observations.items():
            *parents, leaf = key.split("/")
            place = nested
            for parent in parents:
                place = place.setdefault(parent, {})
            place[leaf] = _whole(column, following[key], rows)
        return nested
    assert isinstance(observations, np.ndarray) and isinstance(following, np.ndarray)
    return np.concatenate((observations[rows], following[rows.stop - 1 : rows.stop]))


def require_consecutive(data: Dataset, form: str) -> None:
    """Raises :class:`rlopt.errors.DataError` where a transition does not begin where the one before it ended.

    :param form: the format that cannot hold that, for the message
    """
    inside = np.flatnonzero(~data.episode_ends)
    if len(inside) == 0 and len(data) > 1:
        raise DataError(
            "every transition is an episode of its own: the minari format holds whole walks, not augmented or shuffled "
            "transitions; use the rlopt or d4rl format"
        )
    observations, following = data.observations, data.next_observations
    pairs = (
        [(observations[key], following[key]) for key in observations]
        if isinstance(observations, dict) and isinstance(following, dict)
        else [(observations, following)]
    )
    for here, after in pairs:
        differ = np.asarray(here)[inside + 1] != np.asarray(after)[inside]
        broken = differ.any(axis=tuple(range(1, differ.ndim)))
        if broken.any():
            raise DataError(
                f"row {int(inside[broken.argmax()])} does not lead to the next row: the {form} format holds whole "
                "walks, not augmented, shuffled or subsampled transitions; use the rlopt or d4rl format"
            )


def _env_and_spaces(data: Dataset, report: Callable[[str], None]) -> tuple[Any, tuple[Any, Any]]:
    """The environment's spec and spaces if it can be made and fits, else None and spaces that fit the arrays."""
    import gymnasium

    from rlopt.data.checks import check_spaces
    from rlopt.data.environment import fitting_observation_space, settings_of
    from rlopt.envs.names import register

    env_id = data.metadata.env
    try:
        settings = settings_of(data.metadata)
        register(env_id)
        env = gymnasium.make(env_id, disable_env_checker=True, **(settings.env_kwargs or {}))
        spec, spaces = env.spec, (env.observation_space, env.action_space)
        env.close()
        check_spaces(data, *spaces, env_id)
        return spec, spaces
    except Exception as error:  # an environment's constructor may raise anything
        report(f"written without an environment, as {one_line(env_id)!r} cannot be made here ({one_line(error)})")
    observation_space, action_space = data.metadata.recorded_spaces()
    if observation_space is None or isinstance(observation_space, gymnasium.spaces.Dict):
        observation_space = _nested(fitting_observation_space(data.observations))
    return None, (observation_space, action_space or _fitting_action_space(data))


def _nested(space: Any) -> Any:
    """Dictionaries within dictionaries for keys with slashes."""
    from gymnasium import spaces

    if not isinstance(space, spaces.Dict):
        return space
    groups: dict[str, Any] = {}
    for key, part in space.spaces.items():
        head, _, rest = key.partition("/")
        if rest:
            groups.setdefault(head, {})[rest] = part
        else:
            groups[head] = part
    nested = {key: _nested(spaces.Dict(part)) if isinstance(part, dict) else part for key, part in groups.items()}
    return spaces.Dict(nested)


def _fitting_action_space(data: Dataset) -> Any:
    from gymnasium import spaces

    actions = data.actions
    if actions.dtype == np.int64:
        low = actions.min(axis=0)
        if actions.ndim == 2:
            return spaces.MultiDiscrete(actions.max(axis=0) - low + 1, start=low)
        return spaces.Discrete(int(actions.max() - low) + 1, start=int(low))
    bound = max(1.0, float(np.abs(actions).max()))
    return spaces.Box(-bound, bound, actions.shape[1:], np.float32)


def _has_images(data: Dataset) -> bool:
    parts = data.observations.values() if isinstance(data.observations, dict) else [data.observations]
    return any(part.dtype == np.uint8 for part in parts)
