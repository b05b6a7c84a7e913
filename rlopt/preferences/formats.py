"""Preference sets of others: pairs in .npz files, indices into a D4RL data set, Hugging Face rows, the ``imitation``
library.

``docs/preferences.md`` describes the layouts.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlopt.checkpoint.vec_normalize_file import pickled_numbers
from rlopt.data.dataset import Dataset
from rlopt.data.formats.npz import read_npz, write_npz
from rlopt.errors import DataError, one_line
from rlopt.feedback.ranking import Ranking
from rlopt.preferences.fragments import Fragments, Preferences
from rlopt.storage.json import dump_json, parse_json

Format = Literal["npz", "d4rl", "jsonl", "huggingface"]
_INDICES = re.compile(r"indices_num(\d+)(?:_q(\d+))?")
_LABELS = ("label_human", "label_dummy", "label_script")
_FIRST, _SECOND, _TIE = Ranking(((0,), (1,))), Ranking(((1,), (0,))), Ranking(((0, 1),))
_MAX_LINE = 64 * 2**20


def read_preferences(path: str | Path, *, dataset: Dataset | None = None, length: int | None = None) -> Preferences:
    """Reads a preference data set and recognises its format.

    :param dataset: the D4RL data set whose steps the indices of a folder name
    :param length: steps of a fragment there; None where the files' names say it (``_q100``), else 100
    :raises rlopt.errors.DataError: it is in no layout that is known, damaged, or needs a data set
    """
    path = Path(path)
    indices: list[re.Match[str]] = []
    if path.is_dir():
        indices = [found for each in sorted(path.iterdir()) if (found := _INDICES.fullmatch(each.name))]
    elif not path.is_file():
        raise DataError(f"{path} does not exist: give an .npz file, a .jsonl file, or a folder")
    if indices:
        return _d4rl(path, indices, dataset, length)
    if dataset is not None or length is not None:
        raise DataError(f"{path} holds no indices into a data set: leave the data set and the length out")
    if path.is_dir():
        return _huggingface(path)
    return _npz(path) if path.suffix == ".npz" else _rows(_json_lines(path), str(path))


def write_preferences(preferences: Preferences, path: str | Path) -> Path:
    """Writes the comparisons of pairs that the answers imply: .npz, .jsonl, or a folder of Hugging Face's ``datasets``.

    :raises rlopt.errors.DataError: something is there already, or there is nothing to write
    """
    path = Path(path)
    if path.exists():
        raise DataError(f"{path} exists: choose another name, or delete it first")
    pairs, first_is_better = preferences.pairs()
    if not len(pairs):
        raise DataError("there is no answer to write: ask some first")
    if path.suffix == ".npz":
        return write_npz(path, _pair_arrays(preferences.fragments, pairs, first_is_better))
    rows = list(_pair_rows(preferences.fragments, pairs, first_is_better))
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{dump_json(row)}\n" for row in rows))
        return path
    if path.suffix:
        raise DataError(
            f"{path} is not a format of preferences: end it in .npz or .jsonl, or give a folder for Hugging Face"
        )
    _import_datasets().Dataset.from_list(rows).save_to_disk(str(path))
    return path


# ---- .npz of pairs


def _npz(path: Path) -> Preferences:
    arrays = read_npz(
        path, ("obs_1", "action_1", "obs_2", "action_2", "label"), ("reward_1", "reward_2", "length_1", "length_2")
    )
    try:
        labels = np.asarray(arrays["label"], np.float64).reshape(-1)
        sides = []
        for side in ("1", "2"):
            observations, actions = arrays[f"obs_{side}"], arrays[f"action_{side}"]
            if observations.ndim != 3 or len(observations) != len(labels):
                raise DataError(
                    f"obs_{side} of shape {observations.shape}: (pairs, steps, numbers) for {len(labels)} labels"
                )
            sides.append(_fragments(observations, actions, arrays.get(f"reward_{side}"), arrays.get(f"length_{side}")))
        return _of_pairs(sides, [_said(1 - label) for label in labels])
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _pair_arrays(fragments: Fragments, pairs: np.ndarray, first_is_better: np.ndarray) -> dict[str, np.ndarray]:
    arrays = {"label": (1 - first_is_better).astype(np.float32)}
    for side, rows in (("1", pairs[:, 0]), ("2", pairs[:, 1])):
        part = fragments.take(rows)
        arrays |= {f"obs_{side}": part.observations, f"action_{side}": part.actions, f"reward_{side}": part.rewards}
        arrays |= {f"length_{side}": part.lengths}
    return arrays


# ---- indices into a D4RL data set


def _d4rl(path: Path, found: Sequence[re.Match[str]], dataset: Dataset | None, length: int | None) -> Preferences:
    """Starts of the first and of the second fragments, and labels: 0 prefers the first, 1 the second, -1 neither."""
    if len(found) > 1:
        names = ", ".join(each.group() for each in found)
        raise DataError(f"{path} holds several sets ({names}): keep one of them in a folder")
    if dataset is None:
        raise DataError(f"{path} holds indices into a data set: give it with --dataset")
    name = found[0].group()
    labels = next((path / each for each in _LABELS if (path / each).is_file()), None)
    if labels is None:
        raise DataError(f"{path} has no labels: one of {', '.join(_LABELS)}")
    steps = length or int(found[0].group(2) or 100)
    firsts = pickled_numbers(path / name)
    seconds = pickled_numbers(path / name.replace("indices_num", "indices_2_num"))
    said = pickled_numbers(labels)
    if not firsts.shape == seconds.shape == said.shape:
        raise DataError(f"{path} has {len(firsts)} and {len(seconds)} indices and {len(said)} labels")
    unknown = sorted(set(said.tolist()) - {-1.0, 0.0, 1.0})
    if unknown:
        raise DataError(f"{path} has the label {unknown[0]:g}: they are 0, 1, or -1 for no preference")
    observations, following = dataset.observations, dataset.next_observations
    if not (isinstance(observations, np.ndarray) and isinstance(following, np.ndarray)):
        raise DataError("the data set has dictionaries of observations: give a D4RL data set of vectors")
    rows = np.arange(steps)
    sides = []
    for starts in (firsts, seconds):
        if len(starts) and not (starts.min() >= 0 and starts.max() + steps <= len(dataset)):
            raise DataError(
                f"a fragment of {path} begins at {int(starts.max())}, in a data set of {len(dataset):,} steps"
            )
        at = starts.astype(np.int64)[:, None] + rows
        sides.append(
            _fragments(
                observations[at],
                dataset.actions[at],
                dataset.rewards[at],
                last=following[at[:, -1]],
                starts=starts.astype(np.int64),
            )
        )
    return _of_pairs(sides, [_said({0.0: 1.0, 1.0: 0.0, -1.0: 0.5}[label]) for label in said.tolist()])


# ---- Hugging Face


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError("Hugging Face data sets need the package datasets: pip install 'rlopt[hf]'") from None
    datasets.disable_progress_bars()
    return datasets


def _huggingface(path: Path) -> Preferences:
    datasets = _import_datasets()
    try:
        rows = datasets.load_from_disk(str(path)).to_list()
    except Exception as error:  # Arrow and the library raise errors of many kinds
        raise DataError(f"{path} holds no preference set ({one_line(error)}): give a folder of one split") from None
    return _rows(rows, str(path))


def _json_lines(path: Path) -> Iterator[Any]:
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if len(line) > _MAX_LINE:
                    raise DataError(f"{path}, line {number}: longer than {_MAX_LINE} characters")
                try:
                    yield parse_json(line)
                except ValueError as error:
                    raise DataError(f"{path}, line {number}: {one_line(error)}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text: give an .npz file, a .jsonl file, or a folder") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check its permissions") from None


def _rows(rows: Any, name: str) -> Preferences:
    parts: list[Fragments] = []
    answers: list[Ranking] = []
    for number, row in enumerate(rows, 1):
        try:
            sides = [row["chosen"], row["rejected"]]
            for side in sides:
                rewards = side.get("rewards")
                parts.append(
                    _fragments(
                        np.asarray(side["observations"], np.float32)[None],
                        np.asarray(side["actions"])[None],
                        None if rewards is None else np.asarray(rewards, np.float32)[None],
                    )
                )
            tie = row.get("tie", False)
            if tie not in (None, True, False):
                raise DataError(f"{name}, row {number}: tie is {one_line(repr(tie))[:80]}: use true or false")
            answers.append(_TIE if tie else _FIRST)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(
                f"{name}, row {number}: it has not chosen and rejected, each with observations and actions "
                f"({one_line(error)})"
            ) from None
    if not parts:
        raise DataError(f"{name} holds no preference")
    joined = Fragments.joined(parts)
    questions = np.arange(len(parts)).reshape(-1, 2).tolist()
    made = Preferences.of(joined, questions, answers)
    made.check()
    return made


def _pair_rows(fragments: Fragments, pairs: np.ndarray, first_is_better: np.ndarray) -> Iterator[dict[str, Any]]:
    known = bool(np.isfinite(fragments.rewards).all())

    def side(index: int) -> dict[str, Any]:
        steps = fragments.lengths[index]
        columns = {"observations": fragments.observations, "actions": fragments.actions}
        columns |= {"rewards": fragments.rewards} if known else {}
        return {name: column[index, :steps].tolist() for name, column in columns.items()}

    for (first, second), better in zip(pairs.tolist(), first_is_better.tolist(), strict=True):
        chosen, rejected = (second, first) if better < 0.5 else (first, second)
        yield {"chosen": side(chosen), "rejected": side(rejected), "tie": better == 0.5}


# ---- the imitation library


def from_imitation(dataset: Any) -> Preferences:
    """The preferences of imitation's ``PreferenceDataset``, which keeps them in ``fragments1``, ``fragments2`` and
    ``preferences`` (probabilities that the first is better). Probabilities between are taken as the nearer of the two,
    .5 as a tie. Its files are pickles, which rlopt does not read: load them with imitation.
    """
    parts = [_trajectories(dataset.fragments1), _trajectories(dataset.fragments2)]
    return _of_pairs(parts, [_said(float(each)) for each in np.asarray(dataset.preferences)])


def to_imitation(preferences: Preferences) -> tuple[list[tuple[Any, Any]], np.ndarray]:
    """What imitation's ``PreferenceDataset.push`` takes: pairs of its ``TrajectoryWithRew``, and (P,) float32,
    probabilities that the first is better.

    :raises rlopt.errors.DataError: imitation is not installed, or the rewards or last observations are not known
    """
    try:
        from imitation.data.types import TrajectoryWithRew
    except ImportError:
        raise DataError("this needs the package imitation: pip install imitation") from None
    fragments = preferences.fragments
    if not (np.isfinite(fragments.last_observations).all() and np.isfinite(fragments.rewards).all()):
        raise DataError("imitation's trajectories need every reward and the observation after the last step")

    def made(index: int) -> Any:
        steps = int(fragments.lengths[index])
        observations = np.concatenate([fragments.observations[index, :steps], fragments.last_observations[index][None]])
        return TrajectoryWithRew(
            obs=observations,
            acts=fragments.actions[index, :steps],
            infos=None,
            terminal=steps < fragments.observations.shape[1],
            rews=fragments.rewards[index, :steps].astype(np.float64),
        )

    pairs, first_is_better = preferences.pairs()
    return [(made(first), made(second)) for first, second in pairs.tolist()], first_is_better.astype(np.float32)


def _trajectories(fragments: Sequence[Any]) -> Fragments:
    if not len(fragments):
        raise DataError("the preference set of imitation is empty")
    parts = []
    for each in fragments:
        obs = np.asarray(each.obs, np.float32).reshape(len(each.obs), -1)
        rewards = getattr(each, "rews", None)
        known = None if rewards is None else np.asarray(rewards, np.float32)[None]
        parts.append(_fragments(obs[None, :-1], np.asarray(each.acts)[None], known, last=obs[-1:]))
    return Fragments.joined(parts)


# ---- shared


def _fragments(
    observations: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray | None,
    lengths: np.ndarray | None = None,
    *,
    last: np.ndarray | None = None,
    starts: np.ndarray | None = None,
) -> Fragments:
    count, steps = observations.shape[:2]
    if rewards is not None and np.shape(rewards) != (count, steps):
        raise DataError(f"rewards of shape {np.shape(rewards)} do not fit {count} fragments of {steps} steps")
    flat = np.ascontiguousarray(observations, np.float32).reshape(count, steps, -1)
    unknown = np.full(count, -1, np.int64)
    made = Fragments(
        flat,
        np.ascontiguousarray(actions),
        np.full(count, steps, np.int64) if lengths is None else np.asarray(lengths, np.int64),
        np.full((count, steps), np.nan, np.float32) if rewards is None else np.asarray(rewards, np.float32),
        np.full((count, flat.shape[2]), np.nan, np.float32) if last is None else np.asarray(last, np.float32),
        unknown,
        unknown if starts is None else starts,
    )
    made.check()
    return made


def _of_pairs(sides: Sequence[Fragments], answers: Sequence[Ranking]) -> Preferences:
    """The two fragments of each pair stand in ``sides``, one each."""
    count = len(answers)
    questions = np.stack([np.arange(count), np.arange(count) + count], axis=1)
    made = Preferences.of(Fragments.joined(sides), questions.tolist(), answers)
    made.check()
    return made


def _said(first_is_better: float) -> Ranking:
    if not 0 <= first_is_better <= 1:
        raise DataError(f"a label is {first_is_better:g}: they are probabilities, from 0 to 1")
    return _TIE if first_is_better == 0.5 else _FIRST if first_is_better > 0.5 else _SECOND
