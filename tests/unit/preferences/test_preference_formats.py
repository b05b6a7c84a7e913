"""Preference sets of others, written here in their layouts."""

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlopt.data import Dataset
from rlopt.data.metadata import Metadata
from rlopt.errors import CheckpointError, DataError
from rlopt.feedback.ranking import Ranking
from rlopt.preferences import Preferences
from rlopt.preferences.formats import from_imitation, read_preferences, write_preferences

RNG = np.random.default_rng(0)
OBS = RNG.normal(size=(4, 3, 2)).astype(np.float32)
ACTS = RNG.normal(size=(4, 3, 1)).astype(np.float32)
REWS = RNG.normal(size=(4, 3)).astype(np.float32)
PAIRS = {"obs_1": OBS[:2], "action_1": ACTS[:2], "obs_2": OBS[2:], "action_2": ACTS[2:]}


def said(preferences: Preferences) -> list[tuple[list[float], float]]:
    """The first observation of each fragment of a pair, and whether the first was preferred."""
    pairs, first = preferences.pairs()
    starts = preferences.fragments.observations[:, 0, 0]
    return [(starts[pair].tolist(), float(better)) for pair, better in zip(pairs, first, strict=True)]


def test_npz_of_pairs_has_labels_that_are_probabilities_of_the_second(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, label=np.array([1.0, 0.5]), reward_1=REWS[:2], reward_2=REWS[2:], **PAIRS)
    read = read_preferences(path)
    assert said(read) == [(OBS[[0, 2], 0, 0].tolist(), 0.0), (OBS[[1, 3], 0, 0].tolist(), 0.5)]
    np.testing.assert_array_equal(read.fragments.rewards, REWS)
    np.savez(path, label=np.array([1.0, 2.0]), **PAIRS)
    with pytest.raises(DataError, match="probabilities"):
        read_preferences(path)


def d4rl_folder(path: Path, labels: Any = (0, 1, -1)) -> Dataset:
    """As Preference Transformer's human_label has them: pickles of an array or a list."""
    path.mkdir()
    for name, value in (
        ("indices_num3_q4", np.array([0, 5, 10])),
        ("indices_2_num3_q4", [np.int64(3), np.int64(8), np.int64(13)]),
        ("label_human", np.array(labels)),
    ):
        (path / name).write_bytes(pickle.dumps(value))
    steps = np.arange(20, dtype=np.float32)[:, None]
    ends = np.arange(20) == 19
    metadata = Metadata(env="somebody/Line-v0")
    return Dataset(steps, steps * 10, steps[:, 0], steps + 1, np.ones(20, np.float32), ends, metadata)


def test_d4rl_indices_name_steps_of_a_data_set(tmp_path: Path) -> None:
    dataset = d4rl_folder(tmp_path / "human")
    read = read_preferences(tmp_path / "human", dataset=dataset)
    assert said(read) == [([0, 3], 1.0), ([5, 8], 0.0), ([10, 13], 0.5)]
    assert read.fragments.observations.shape == (6, 4, 1) and read.fragments.last_observations[0].tolist() == [4]
    assert read.fragments.starts.tolist() == [0, 5, 10, 3, 8, 13]
    with pytest.raises(DataError, match="--dataset"):
        read_preferences(tmp_path / "human")
    with pytest.raises(DataError, match="begins at 13"):
        read_preferences(tmp_path / "human", dataset=dataset, length=9)


def test_a_d4rl_pickle_runs_nothing_and_other_labels_are_refused(tmp_path: Path) -> None:
    dataset = d4rl_folder(tmp_path / "three", labels=(0, 1, 2))
    with pytest.raises(DataError, match="label 2"):
        read_preferences(tmp_path / "three", dataset=dataset)

    class Dangerous:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "was-run",))

    (tmp_path / "three" / "label_human").write_bytes(pickle.dumps(Dangerous()))
    with pytest.raises(CheckpointError, match="holds no numbers"):
        read_preferences(tmp_path / "three", dataset=dataset)
    assert not (tmp_path / "was-run").exists()


def row(chosen: int, rejected: int, steps: int = 3, **more: Any) -> dict[str, Any]:
    sides = {
        name: {"observations": OBS[index, :steps].tolist(), "actions": ACTS[index, :steps].tolist()}
        for name, index in (("chosen", chosen), ("rejected", rejected))
    }
    return {**sides, **more}


def test_rows_of_hugging_face(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in (row(2, 0), row(1, 3, tie=True))))
    read = read_preferences(path)
    assert said(read) == [(OBS[[2, 0], 0, 0].tolist(), 1.0), (OBS[[1, 3], 0, 0].tolist(), 0.5)]
    datasets = pytest.importorskip("datasets", reason="Hugging Face's datasets is an extra")
    datasets.Dataset.from_list([row(2, 0), row(1, 3)]).save_to_disk(str(tmp_path / "folder"))
    assert said(read_preferences(tmp_path / "folder"))[0] == said(read)[0]
    path.write_text(json.dumps({"chosen": "a text", "rejected": "another"}))
    with pytest.raises(DataError, match="row 1: it has not chosen and rejected"):
        read_preferences(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("set.jsonl", b"\xff\xfe", "not UTF-8 text"),
        ("set.jsonl", json.dumps(row(2, 0, tie="false")).encode(), "row 1: tie is 'false': use true or false"),
        ("set.jsonl", b"", "holds no preference"),
        ("set.npz", b"PK", "damaged"),
    ],
)
def test_files_that_hold_no_preferences_are_refused(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_preferences(path)


def test_what_does_not_fit_a_set_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    sides = PAIRS | {"label": np.zeros(2)}
    np.savez(path, **sides, reward_1=REWS[:1])
    with pytest.raises(DataError, match="do not fit"):
        read_preferences(path)
    np.savez(path, **sides)
    assert len(read_preferences(path)) == 2
    with pytest.raises(DataError, match="leave the data set and the length out"):
        read_preferences(path, length=3)


def test_imitations_preference_dataset() -> None:
    def trajectory(index: int) -> Any:
        obs = np.concatenate([OBS[index], OBS[index, :1] + 9])
        return SimpleNamespace(obs=obs, acts=ACTS[index], rews=REWS[index], terminal=False)

    dataset = SimpleNamespace(
        fragments1=[trajectory(0), trajectory(1)],
        fragments2=[trajectory(2), trajectory(3)],
        preferences=np.array([1.0, 0.5], np.float32),
    )
    read = from_imitation(dataset)
    assert said(read) == [(OBS[[0, 2], 0, 0].tolist(), 1.0), (OBS[[1, 3], 0, 0].tolist(), 0.5)]
    np.testing.assert_array_equal(read.fragments.last_observations, OBS[:, 0] + 9)


@pytest.mark.parametrize("name", ["set.npz", "set.jsonl", "folder"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    if name == "folder":
        pytest.importorskip("datasets", reason="Hugging Face's datasets is an extra")
    source = tmp_path / "source.npz"
    np.savez(source, label=np.array([1.0, 0.5]), length_1=np.array([2, 3]), length_2=np.array([3, 1]), **PAIRS)
    first = read_preferences(source).fragments
    # Four places: 1 and 2 tie behind 0, and 3 is unranked, so that five pairs are said.
    preferences = Preferences.of(first, [[0, 1, 2, 3]], [Ranking(((0,), (1, 2)), (3,))])
    write_preferences(preferences, tmp_path / name)
    again = read_preferences(tmp_path / name)

    def ordered(each: Preferences) -> list[Any]:
        return sorted((sorted(start), better == 0.5, start[0] if better == 1 else start[1] if better == 0 else None)
                      for start, better in said(each))  # fmt: skip

    assert len(again) == 6 and ordered(again) == ordered(preferences)
    assert sorted(again.fragments.lengths.tolist()) == sorted([2, 3, 3, 1] * 3)
    with pytest.raises(DataError, match="exists"):
        write_preferences(preferences, tmp_path / name)
