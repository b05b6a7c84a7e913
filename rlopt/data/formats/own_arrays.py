"""Trajectories as people have them: columns under the usual names, flat, one behind another, or (E, T, ...).

One table of names serves every file of :mod:`rlopt.data.formats.sources` and
:meth:`rlopt.data.Demonstrations.from_trajectories`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.data.demonstrations import Demonstrations
from rlopt.data.formats.foreign_demonstrations import (
    ForeignEpisodes,
    ForeignOptions,
    demonstrations_of,
    flags,
    step_limit,
    true_ends,
)
from rlopt.data.formats.sources import Source, open_source, parquet
from rlopt.errors import DataError, RloptError, one_line, unknown_name

NAMES: dict[str, tuple[str, ...]] = {
    "observations": ("observations", "observation", "obs", "ob", "states", "state", "observation.state", "s"),
    "actions": ("actions", "action", "acts", "act", "acs", "ac", "a"),
    "next_observations": (
        "next_observations", "next_observation", "next_obs", "new_obs", "obs_next", "next_states", "next_state",
        "next.observation.state", "s_next", "next_s", "s2",
    ),
    "rewards": ("rewards", "reward", "rews", "rew", "next.reward", "r"),
    "dones": ("dones", "done", "next.done", "is_last", "dones_float", "d"),
    "terminals": ("terminals", "terminal", "terminated", "terminateds", "terminations", "term", "is_terminal"),
    "timeouts": ("timeouts", "timeout", "truncated", "truncateds", "truncations", "trunc"),
    "discounts": ("discounts", "discount", "masks"),
    "starts": ("episode_starts", "is_first"),
    "episode": ("episode_index", "episode_id", "eps_id", "episode", "traj_id", "trajectory_id"),
    "lengths": ("lengths", "length", "episode_lengths", "ep_lengths", "traj_lengths", "trajectory_lengths"),
}  # fmt: skip
"""What a column is -> the names that it is found under, the usual one first."""
_NEEDED = "observations (or obs, states) and actions (or acts)"
_WIDE = ("observations", "actions", "next_observations")
"""Columns that may lie in several, numbered."""
_MARKS = {"dones", "terminals", "timeouts", "discounts", "starts", "episode"}
"""Columns that say where episodes end."""
_NUMBERED = re.compile(r"(.*?)[ _.\-]?\[?(\d+)\]?")
_EPISODE = re.compile(r"(?:data/)?((?:demo|episode|ep|traj|trajectory)_?(\d+))/(.+)")
"""A column of an episode's own group: robomimic's, ManiSkill's, Minari's."""
_OF_EPISODE = re.compile(r"(observations|actions|rewards|terminated)_(\d+)((?:_\d+)?)")
"""d3rlpy's names."""
_SHOWN = 12


def known_names() -> list[str]:
    """Every name that a column is found under."""
    return [name for names in NAMES.values() for name in names]


def read_columns(path: Path, options: ForeignOptions) -> Demonstrations:
    """Reads a file of any kind of :func:`rlopt.data.formats.sources.open_source`.

    :raises rlopt.errors.DataError: damaged, or without columns that are observations and actions
    """
    try:
        with open_source(path) as source:
            return from_source(source, path.name, options)
    except DataError as error:
        raise DataError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None


def read_lerobot(folder: Path, options: ForeignOptions) -> Demonstrations:
    """Reads a folder of LeRobot's layout: a row a step in parquet files below ``data``; the videos are left out.

    :raises rlopt.errors.DataError: no parquet file, or a damaged one
    """
    files = sorted((folder / "data").rglob("*.parquet"))
    if not files:
        raise DataError(f"{folder} has no parquet files below data: fetch the whole data set")
    source = parquet(files)
    if (folder / "videos").is_dir():
        source.notes.append("videos are left out: the observations are the state alone")
    try:
        return from_source(source, folder.name, options)
    except DataError as error:
        raise DataError(f"{folder}: {error}") from None


def read_episode_files(files: Sequence[Path], options: ForeignOptions) -> Demonstrations:
    """Reads a folder of .npz files, an episode each, as DrQ-v2, ExORL and V-D4RL write them.

    There all arrays have T + 1 rows: an observation with the action and reward that led to it, whose first are of none.

    :raises rlopt.errors.DataError: a damaged file, or one of another layout
    """
    parts, notes = [], []
    for file in files:
        with open_source(file) as source:
            found = _found(source.names, options.columns)
            if {"observations", "actions"} - found.keys():
                raise DataError(f"{file}: {_not_found(source.names)}")
            part = {kind: _column(source, names) for kind, names in found.items()}
        discounts = found.get("discounts") if "next_observations" not in part else None
        if discounts not in (None, {"": ["masks"]}) and _rows(part["observations"]) == len(part["actions"]):
            ended = np.asarray(part.pop("discounts")).reshape(-1)[-1] == 0
            part = {kind: column if kind == "observations" else column[1:] for kind, column in part.items()}
            part["terminals"] = ended
            notes = ["actions and rewards are those that led to the observation of their row, as DrQ-v2 writes them"]
        parts.append({kind: column for kind, column in part.items() if kind not in ("episode", "starts", "discounts")})
    try:
        return from_episodes(parts, f"{len(files)} files of {files[0].parent.name}, an episode each", options, notes)
    except DataError as error:
        raise DataError(f"{files[0].parent}: {error}") from None


def from_source(source: Source, name: str, options: ForeignOptions) -> Demonstrations:
    """Demonstrations of the columns of a file; ``name`` is its name, for people."""
    generator = f"{name}, of the columns "
    episodes = _episode_columns(source.names)
    if episodes and not _names_all(options.columns, source.names, list(next(iter(episodes.values())))):
        return _grouped(source, episodes, f"{name}, a group an episode", options)
    found = _found(source.names, options.columns)
    if {"observations", "actions"} - found.keys():
        raise DataError(_not_found(source.names))
    columns = {kind: _column(source, names) for kind, names in found.items()}
    if (
        found.get("terminals") == {"": ["terminals"]}
        and "rewards" not in found
        and {"qpos", "qvel"} <= set(source.names)
        and "terminals" not in options.columns
    ):
        columns["timeouts"] = columns.pop("terminals")
        if options.ends == "auto":
            columns["terminals"] = np.zeros(len(columns["timeouts"]), bool)
        source.notes.append("terminals mark where a trajectory was cut, as in OGBench's files")
    source.notes += _unused(source.names, found)
    shown = dict.fromkeys(names[0] for kind in found.values() for names in kind.values())
    return from_columns(columns, generator + ", ".join(shown), options, source.notes)


def _names_all(given: Mapping[str, str], names: Sequence[str], of_episode: Sequence[str]) -> bool:
    """Whether the given columns are the file's own, and not those within each of its episodes."""
    keys = [key for text in given.values() for key in text.split("+")]
    own, within = ([bool(fnmatch.filter(known, key)) for key in keys] for known in (names, of_episode))
    return bool(keys) and all(own) and not all(within)


def _unused(names: Sequence[str], found: Found) -> list[str]:
    """A note on the columns of a file that nothing was read from."""
    used = {name for kind in found.values() for several in kind.values() for name in several}
    left = list(dict.fromkeys(name.split("/")[0] for name in names if name not in used))
    if not left:
        return []
    more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
    return [f"columns not used: {', '.join(map(one_line, left[:_SHOWN]))}{more}; --columns KIND=KEY says what one is"]


def _not_found(names: Sequence[str]) -> str:
    shown = ", ".join(map(one_line, names[:_SHOWN])) or "nothing"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (
        f"it has {shown}{more}: {_NEEDED} are needed; say which they are with --columns "
        "observations=KEY,actions=KEY, and where they are there rewards=, next_observations=, terminals=, timeouts=, "
        "dones=, episode=; KEY+KEY joins columns, KEY* takes all that begin so"
    )


Found = dict[str, dict[str, list[str]]]
"""Kind -> key of a dictionary observation ("" for one array) -> the columns to join, in order."""


def _found(names: Sequence[str], given: Mapping[str, str]) -> Found:
    """Which columns of a file are which.

    :raises rlopt.errors.DataError: two columns of one kind, or a given one that is not there
    """
    found: Found = {}
    for kind, text in given.items():
        if kind not in NAMES:
            raise unknown_name("kind of column", kind, NAMES)
        found[kind] = {"": _given(text, names)}
    for kind, known in NAMES.items():
        if kind in found or ("observations" in given and kind == "next_observations" and kind not in names):
            continue
        whole = [name for name in known if name in names and (name != "s2" or "s" in names)]
        if len(whole) > 1:  # JaxRL's names stand beside those of others
            whole = [name for name in whole if name not in ("dones_float", "masks")]
        if len(whole) > 1:
            raise DataError(
                f"it has {' and '.join(whole)}, which are one thing: leave one of them out, or say which with "
                f"--columns {kind}={whole[0]}"
            )
        if whole:
            found[kind] = {"": whole}
            continue
        for name in known:
            parts = {other.removeprefix(f"{name}/"): [other] for other in names if other.startswith(f"{name}/")}
            if parts and kind in _WIDE and kind != "actions":
                found[kind] = parts
                break
            if kind not in _WIDE:
                continue
            numbered = [(int(match[2]), match[0]) for other in names if (match := _NUMBERED.fullmatch(other))
                        and match[1] == name]  # fmt: skip
            if numbered:
                found[kind] = {"": [other for _, other in sorted(numbered)]}
                break
    return found


def _given(text: str, names: Sequence[str]) -> list[str]:
    chosen: list[str] = []
    for part in text.split("+"):
        matched = [part] if part in names else [name for name in names if fnmatch.fnmatchcase(name, part)]
        if not matched:
            raise DataError(str(unknown_name("column", part, names, f"it has {', '.join(names[:_SHOWN])}")))
        chosen += matched
    return chosen


def _column(source: Source, names: Mapping[str, Sequence[str]]) -> Any:
    parts = {key: _joined_columns([np.asarray(source.read(name)) for name in several], several)
             if len(several) > 1 else source.read(several[0]) for key, several in names.items()}  # fmt: skip
    return parts.get("", parts)


def _joined_columns(columns: list[np.ndarray], names: Sequence[str]) -> np.ndarray:
    if len({len(column) for column in columns}) > 1:
        raise DataError(f"{', '.join(names)} differ in length: the file was cut or is damaged")
    return np.concatenate([column.reshape(len(column), -1) for column in columns], axis=1)


def _episode_columns(names: Sequence[str]) -> dict[int, dict[str, str]]:
    """Number of an episode -> name within it -> column, of files with a group (or numbered arrays) an episode."""
    episodes: dict[int, dict[str, str]] = {}
    for name in names:
        if match := _EPISODE.fullmatch(name):
            episodes.setdefault(int(match[2]), {})[match[3]] = name
        elif (match := _OF_EPISODE.fullmatch(name)) and "total_size" in names:
            episodes.setdefault(int(match[2]), {})[match[1] + match[3].replace("_", "/")] = name
    return dict(sorted(episodes.items()))


def _grouped(
    source: Source, episodes: Mapping[int, Mapping[str, str]], generator: str, options: ForeignOptions
) -> Demonstrations:
    parts: list[dict[str, Any]] = []
    notes = list(source.notes)
    for number, columns in episodes.items():
        names = list(columns)
        if "observations" not in options.columns and any(
            name.split("/")[0] in ("obs", "observations") for name in names
        ):
            # Beside observations, "states" are the simulator's.
            names = [name for name in names if name.split("/")[0] not in ("states", "state")]
        try:
            found = _found(names, options.columns)
        except DataError as error:
            raise DataError(f"episode {number}: {error}") from None
        if {"observations", "actions"} - found.keys():
            raise DataError(f"episode {number}: {_not_found(names)}")
        if not parts:
            notes += _unused(names, found)
        if "next_observations" in found:
            shared = found["observations"].keys() & found["next_observations"].keys()
            if not shared:
                raise DataError(
                    f"episode {number}: observations and next observations have no part in common: name both with "
                    "--columns observations=KEY next_observations=KEY"
                )
            for kind in ("observations", "next_observations"):
                found[kind] = {key: columns_of for key, columns_of in found[kind].items() if key in shared}
        within = Source(names, lambda name, columns=columns: source.read(columns[name]))  # type: ignore[misc]
        part = {kind: _column(within, several) for kind, several in found.items()}
        parts.append({kind: column for kind, column in part.items() if kind not in ("starts", "episode", "discounts")})
    return from_episodes(parts, generator, options, notes)


def from_columns(
    columns: dict[str, Any], generator: str, options: ForeignOptions, notes: Sequence[str] = ()
) -> Demonstrations:
    """Demonstrations of columns by kind (:data:`NAMES`).

    :raises rlopt.errors.DataError: columns of other lengths
    """
    if isinstance(columns["actions"], list) or isinstance(columns["observations"], list):  # an episode a row
        count = len(columns["actions"])
        if wrong := [
            kind for kind, column in columns.items() if not isinstance(column, Mapping) and len(column) != count
        ]:
            raise DataError(f"{', '.join(wrong)} and actions hold different numbers of episodes")
        kinds = [kind for kind in columns if kind not in ("episode", "starts", "discounts")]
        return from_episodes([{kind: columns[kind][row] for kind in kinds} for row in range(count)], generator, options)
    stacked = _is_stacked(columns["observations"], columns["actions"])
    discounts = columns.get("discounts")
    if not stacked and discounts is not None and np.size(discounts) != len(columns["actions"]):
        del columns["discounts"]  # several numbers a row are a mask of actions
    lengths = columns.get("lengths")
    if not stacked and lengths is not None and len(lengths) == len(columns["actions"]) != np.sum(lengths):
        del columns["lengths"]  # a number a row is a log of something else
    if "lengths" in columns:
        return from_episodes(_of_lengths(columns), generator, options, notes)
    if stacked:
        _refuse_padding(columns)
        columns = _unstacked(columns)
    notes = list(notes)
    if _lacks_marks_of_cuts(columns):
        notes.append(_mark_cuts(columns, options))
    return demonstrations_of(_flat(columns, generator, options, notes), options)


def _rows(column: Any) -> int:
    return len(next(iter(column.values()))) if isinstance(column, Mapping) else len(column)


def _is_stacked(observations: Any, actions: np.ndarray) -> bool:
    """Whether arrays are (E, T, ...): actions (E, T, A), or whole numbers (E, T) beside as many observations."""
    if actions.ndim == 3:
        return True
    whole = actions.dtype.kind in "iu" and actions.ndim == 2 and isinstance(observations, np.ndarray)
    return bool(whole and observations.ndim >= 3 and observations.shape[1] - actions.shape[1] in (0, 1))


def _of_lengths(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The episodes of columns that lie one behind another, or (E, T, ...) with padding; ``lengths`` count actions."""
    lengths = np.asarray(columns["lengths"]).reshape(-1)
    if lengths.dtype.kind not in "iu" or len(lengths) == 0 or lengths.min() < 1:
        raise DataError("lengths are not whole numbers above 0: give the number of actions of each episode")
    count, total = len(lengths), int(lengths.sum())
    stacked = _is_stacked(columns["observations"], columns["actions"])
    longest = columns["actions"].shape[1] if stacked else 0

    def cut(kind: str, part: np.ndarray) -> list[Any]:
        if stacked and len(part) == count:
            more = int(part.ndim > 1 and part.shape[1] == longest + 1)
            if part.ndim == 1:  # one an episode
                return list(part)
            if part.shape[1] in (longest, longest + 1) and lengths.max() <= longest:
                return [row[: length + more] for row, length in zip(part, lengths, strict=True)]
        elif not stacked and len(part) in (total, total + count):
            return np.split(part, np.cumsum(lengths + (len(part) != total))[:-1])
        raise DataError(f"{kind} have shape {part.shape}, which {count} episodes of {total} actions do not fit")

    episodes: list[dict[str, Any]] = [{} for _ in lengths]
    for kind, column in columns.items():
        if kind in ("lengths", "episode", "starts", "discounts"):
            continue
        parts = {
            key: cut(kind, part) for key, part in (column if isinstance(column, Mapping) else {"": column}).items()
        }
        for index, episode in enumerate(episodes):
            own = {key: part[index] for key, part in parts.items()}
            episode[kind] = own if isinstance(column, Mapping) else own[""]
    return episodes


def _refuse_padding(columns: Mapping[str, Any]) -> None:
    """Raises :class:`rlopt.errors.DataError` where stacked episodes end in zeros, so that they seem to be padded."""
    parts = columns["observations"]
    parts = [*(parts.values() if isinstance(parts, Mapping) else [parts]), columns["actions"]]
    length = columns["actions"].shape[1]
    zero = np.all([(part[:, -length:].reshape(len(part), length, -1) == 0).all(axis=2) for part in parts], axis=0)
    padded = zero[:, -2:].all(axis=1)
    if padded.any() and columns["actions"].dtype.kind == "f":
        index = int(padded.argmax())
        rows = length - 1 - int((~zero[index]).nonzero()[0].max(initial=-1))
        raise DataError(
            f"trajectory {index} ends with {rows} rows of zeros, as if it were padded: add the array lengths, the "
            f"number of actions of each of the {len(padded)} trajectories"
        )


def _unstacked(columns: Mapping[str, Any]) -> dict[str, Any]:
    episodes, length = columns["actions"].shape[:2]
    flat: dict[str, Any] = {"episode": np.repeat(np.arange(episodes), length)}

    def joined(part: np.ndarray) -> np.ndarray:
        return part.reshape(episodes * length, *part.shape[2:])

    for kind, column in columns.items():
        if kind in ("episode", "starts"):
            continue
        if _rows(column) != episodes:
            raise DataError(f"{kind} and actions hold different numbers of episodes")
        longer = kind == "observations" and _each_is(column, lambda part: part.shape[1] == length + 1)
        if longer:
            flat["observations"] = _each(column, lambda part: joined(part[:, :-1]))
            flat["next_observations"] = _each(column, lambda part: joined(part[:, 1:]))
        elif kind in ("terminals", "timeouts", "dones") and column.ndim == 1:  # one an episode
            flat[kind] = np.zeros(episodes * length, bool)
            flat[kind][length - 1 :: length] = flags(kind, column)
        elif kind != "next_observations" or kind not in flat:
            if not _each_is(column, lambda part: part.ndim >= 2 and part.shape[1] == length):
                raise DataError(f"{kind} do not hold {length} rows an episode, as actions do")
            flat[kind] = _each(column, joined)
    return flat


def _lacks_marks_of_cuts(columns: Mapping[str, Any]) -> bool:
    """Whether a file marks true ends alone, so that what was cut looks like one long episode."""
    if _rows(columns["observations"]) == len(columns["actions"]) + 1:
        return False
    return _MARKS & columns.keys() in ({"terminals"}, {"discounts"})


def _mark_cuts(columns: dict[str, Any], options: ForeignOptions) -> str:
    """Adds ``timeouts`` where episodes must have been cut; says by what."""
    length = len(columns["actions"])
    terminals = _true_ends(columns)
    assert terminals is not None
    limit = options.max_episode_steps
    settings = options.settings
    if limit is None and settings is not None and "next_observations" not in columns:
        try:
            found = step_limit(settings.id)
        except RloptError:
            found = None
        limit = None if found is None else -(-found // settings.action_repeat)
    if limit is not None:
        columns["timeouts"] = count_timeouts(terminals, limit) & ~terminals
        return f"no timeouts in the file: an episode is cut after {limit} steps"
    if "next_observations" not in columns:
        raise DataError(
            "it marks only true ends, not where episodes were cut: give --env ID, whose time limit is then taken, or "
            "--max-episode-steps N, the limit that it was recorded with (more than its rows if there was none)"
        )
    broken = np.zeros(length, bool)
    here, after = columns["observations"], columns["next_observations"]
    for key in here if isinstance(here, Mapping) else [None]:
        ours, theirs = (here, after) if key is None else (here[key], after[key])
        broken[:-1] |= (ours[1:] != theirs[:-1]).reshape(length - 1, -1).any(axis=1)
    columns["timeouts"] = broken & ~terminals
    return f"no timeouts in the file: {int(columns['timeouts'].sum())} episodes are cut where the next row is another's"


def count_timeouts(terminals: np.ndarray, limit: int) -> np.ndarray:
    """Marks every ``limit``-th row of an episode, counting anew after each mark and each terminal. (N,) bool.

    D4RL's own conversions begin an episode behind a terminal at 1 instead of 0, so that they take the row before the
    true timeout for it, and the true one for a transition into the next episode.
    """
    index = np.arange(len(terminals))
    begins = np.concatenate(([True], terminals[:-1]))
    start = np.maximum.accumulate(np.where(begins, index, 0))
    return (index - start) % limit == limit - 1


def _true_ends(columns: Mapping[str, Any]) -> np.ndarray | None:
    if "terminals" in columns:
        return flags("terminals", columns["terminals"])
    if "discounts" in columns:
        return np.asarray(columns["discounts"]).reshape(len(columns["actions"]), -1)[:, 0] == 0
    if {"dones", "timeouts"} <= columns.keys():
        return flags("dones", columns["dones"]) & ~flags("timeouts", columns["timeouts"])
    return None


def _flat(columns: Mapping[str, Any], generator: str, options: ForeignOptions, notes: list[str]) -> ForeignEpisodes:
    """Transitions of columns (N, ...), an episode behind the other; those whose successor is not known are left out."""
    actions, observations = columns["actions"], columns["observations"]
    length = len(actions)
    if length == 0:
        raise DataError("it holds no transition: record or fetch demonstrations")
    counts = {kind: _rows(column) for kind, column in columns.items()}
    following = columns.get("next_observations")
    longer = counts["observations"] == length + 1 and following is None and not _MARKS & columns.keys()
    if wrong := {kind: n for kind, n in counts.items() if n != length and not (longer and kind == "observations")}:
        raise DataError(
            f"{', '.join(f'{count} {kind}' for kind, count in wrong.items())} and {length} actions: one of each is "
            "needed for every transition, or one observation more than actions in a single episode"
        )
    if longer:
        following = _each(observations, lambda part: part[1:])
        observations = _each(observations, lambda part: part[:-1])
    if not _MARKS & columns.keys():
        notes.append("nothing says where episodes end: all transitions are taken as one")
    terminals = _true_ends(columns)
    ends = np.zeros(length, bool) if terminals is None else terminals.copy()
    for kind in ("dones", "timeouts"):
        if kind in columns:
            ends |= flags(kind, columns[kind])
    if "starts" in columns:
        ends[:-1] |= flags("episode_starts", columns["starts"])[1:]
    if "episode" in columns:
        number = columns["episode"].reshape(length, -1)
        ends[:-1] |= (number[1:] != number[:-1]).any(axis=1)
    ends[-1] = True
    if terminals is None and _MARKS & columns.keys() == {"timeouts"} and options.ends == "auto":
        terminals = np.zeros(length, bool)  # cuts are marked, and nothing else is
    if terminals is None:
        terminals, said = true_ends(ends, options)
        notes += said
    if following is None:
        kept = ~ends | terminals
        if not kept.any():
            raise DataError("every episode is one observation, with nothing that follows it: give next_observations")
        rows = np.flatnonzero(kept)
        if dropped := length - len(rows):
            notes.append(f"{dropped} last transitions whose successor is not known are left out")
        if masked := int(terminals.sum()):
            notes.append(f"{masked} true ends without a successor in the file: their own observation stands there")
        after = rows + ~ends[rows]
        following = _each(observations, lambda part: part[after])
        observations = _each(observations, lambda part: part if len(rows) == length else part[rows])
        cut = np.concatenate((np.diff(rows) > 1, [True]))
        ends, terminals, actions = ends[rows] | cut, terminals[rows], actions[rows]
        columns = {kind: column[rows] for kind, column in columns.items() if kind == "rewards"}
    return ForeignEpisodes(
        observations=observations,
        actions=actions,
        next_observations=following,
        ends=ends,
        rewards=columns.get("rewards"),
        terminals=terminals,
        generator=generator,
        notes=notes,
    )


def from_episodes(
    episodes: Sequence[Mapping[str, Any]], generator: str, options: ForeignOptions, notes: Sequence[str] = ()
) -> Demonstrations:
    """Demonstrations of episodes by kind of column (:data:`NAMES`), T transitions each.

    Of T observations without successors the last one leads nowhere: that transition is left out, unless it is a true
    end, whose successor nobody reads.

    :raises rlopt.errors.DataError: an episode whose columns have other lengths
    """
    if not episodes:
        raise DataError("it holds no trajectory: record or fetch demonstrations")
    # An episode that stands by itself needs no count of its actions.
    episodes = [{kind: column for kind, column in episode.items() if kind != "lengths"} for episode in episodes]
    lengths = [_length(index, episode) for index, episode in enumerate(episodes)]
    columns: dict[str, Any] = {
        "episode": np.repeat(np.arange(len(episodes)), lengths),
        "actions": _joined([np.asarray(episode["actions"]) for episode in episodes]),
    }
    sides = [_sides(episode, length) for episode, length in zip(episodes, lengths, strict=True)]
    columns["observations"] = _joined([here for here, _ in sides])
    if all(following is not None for _, following in sides):
        columns["next_observations"] = _joined([following for _, following in sides])
    elif any(following is not None for _, following in sides):
        raise DataError(
            "some trajectories have the observation behind their last action and others do not: make them alike"
        )
    if all("rewards" in episode for episode in episodes):
        columns["rewards"] = _joined([np.asarray(episode["rewards"]) for episode in episodes])
    if all("terminals" in episode for episode in episodes):
        columns["terminals"] = _marks_of("terminals", episodes, lengths)
    return demonstrations_of(_flat(columns, generator, options, list(notes)), options)


def by_kind(trajectory: Any) -> dict[str, Any]:
    """The columns of a trajectory, a mapping or an object with attributes such as ``imitation``'s, by kind.

    :raises rlopt.errors.DataError: without observations or actions
    """
    if not isinstance(trajectory, Mapping):
        trajectory = {name: getattr(trajectory, name) for name in known_names() if hasattr(trajectory, name)}
    given = [name for name in trajectory if trajectory[name] is not None]
    found = _found(given, {})
    if {"observations", "actions"} - found.keys():
        raise DataError(f"a trajectory has {', '.join(map(str, trajectory)) or 'nothing'}: it needs {_NEEDED}")
    return {kind: trajectory[names[""][0]] for kind, names in found.items() if "" in names}


def _length(index: int, episode: Mapping[str, Any]) -> int:
    length = len(np.asarray(episode["actions"]))
    if length == 0:
        raise DataError(f"trajectory {index} has no action: leave out empty trajectories")
    for name, column in episode.items():
        if name in ("terminals", "timeouts", "dones") and np.ndim(column) == 0:
            continue
        parts = column.values() if isinstance(column, Mapping) else [column]
        allowed = (length, length + 1) if name == "observations" and "next_observations" not in episode else (length,)
        if wrong := [len(np.asarray(part)) for part in parts if len(np.asarray(part)) not in allowed]:
            raise DataError(f"trajectory {index} has {wrong[0]} {name} and {length} actions")
    return length


def _marks_of(kind: str, episodes: Sequence[Mapping[str, Any]], lengths: Sequence[int]) -> np.ndarray:
    """(N,) bool of the last mark of each episode."""
    marks = np.zeros(sum(lengths), bool)
    marks[np.cumsum(lengths) - 1] = [bool(np.asarray(episode[kind]).reshape(-1)[-1]) for episode in episodes]
    for index, (episode, length) in enumerate(zip(episodes, lengths, strict=True)):
        given = np.asarray(episode[kind]).reshape(-1)
        if len(given) == length and given[:-1].any():
            raise DataError(f"trajectory {index} continues after a true end: cut it there")
    return marks


def _sides(episode: Mapping[str, Any], length: int) -> tuple[Any, Any]:
    observations = _each(episode["observations"], np.asarray)
    if _rows(observations) == length + 1:
        return _each(observations, lambda part: part[:-1]), _each(observations, lambda part: part[1:])
    following = episode.get("next_observations")
    return observations, None if following is None else _each(following, np.asarray)


def _each(column: Any, function: Any) -> Any:
    return {key: function(part) for key, part in column.items()} if isinstance(column, Mapping) else function(column)


def _each_is(column: Any, holds: Any) -> bool:
    return all(map(holds, column.values() if isinstance(column, Mapping) else [column]))


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], Mapping):
        return {key: _joined([part[key] for part in parts]) for key in parts[0]}
    try:
        return np.concatenate(parts)
    except ValueError:
        shapes = sorted({part.shape[1:] for part in parts})
        raise DataError(f"trajectories have rows of different shapes, {shapes}: keep them apart") from None
