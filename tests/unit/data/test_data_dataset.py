"""Dataset: what it refuses, how it cuts and joins, and its folder format."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import rlopt.storage.checked_folder
from rlopt.data import Dataset, Metadata, check_spaces, load_dataset
from rlopt.errors import DataError

ENDS = (4, 9, 11, 19)


def make(length: int = 20, **changes: Any) -> Dataset:
    """Row i observes i and leads to i + 1; row 9 is terminal, rows 4, 11 and 19 are cuts."""
    index = np.arange(length, dtype=np.float32)
    discounts = np.ones(length, np.float32)
    discounts[9] = 0
    columns: dict[str, Any] = {
        "observations": np.stack((index, -index), axis=1),
        "actions": np.linspace(-1, 1, length, dtype=np.float32)[:, None],
        "rewards": index,
        "next_observations": np.stack((index + 1, -index - 1), axis=1),
        "discounts": discounts,
        "episode_ends": np.isin(index, ENDS),
        "metadata": Metadata(
            env="Line-v0", generator="test", seed=1, reference_returns=(0, 9.5), versions={"numpy": "2"}, notes=("a",)
        ),
        "extras": {"source_row": np.arange(length)},
    }
    return Dataset(**{**columns, **changes})


def equal(a: Dataset, b: Dataset) -> bool:
    np.testing.assert_equal(a.columns(), b.columns())
    return a.metadata == b.metadata


def with_value(array: np.ndarray, row: int, value: float) -> np.ndarray:
    array = array.copy()
    array[row] = value
    return array


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rewards": np.zeros(0, np.float32)}, "at least one transition"),
        ({"rewards": np.zeros((20, 1), np.float32)}, r"rewards have shape \(20, 1\)"),
        ({"rewards": np.zeros(20)}, "rewards have dtype float64: convert them to float32"),
        ({"rewards": [0.0] * 20}, "rewards is a list: give a numpy array"),
        ({"actions": np.zeros((19, 1), np.float32)}, "actions have 19 rows, rewards 20"),
        ({"actions": np.zeros(20, np.float32)}, r"actions have shape \(20,\): \(N, dimensions\)"),
        ({"actions": np.zeros((20, 1, 2), np.int64)}, r"actions have shape \(20, 1, 2\): \(N,\)"),
        ({"actions": np.zeros((20, 1), object)}, "actions have dtype object"),
        ({"observations": np.zeros((20, 3), np.float32)}, "they must be alike"),
        ({"observations": {"a": np.zeros((20, 2), np.float32)}}, "must both be dictionaries"),
        ({"next_observations": with_value(make().observations, 7, np.inf)}, "NaN or infinity in 1 of 20 rows.*row 7"),
        ({"discounts": with_value(np.ones(20, np.float32), 9, 0.99)}, "discounts are 0.99.* in row 9"),
        ({"discounts": with_value(np.ones(20, np.float32), 3, 0)}, "row 3 is terminal but ends no episode"),
        ({"episode_ends": np.zeros(20, bool)}, "terminal but ends no episode"),
        ({"episode_ends": np.isin(np.arange(20), (9,))}, "the last transition ends no episode"),
        ({"episode_ends": np.zeros(20, np.uint8)}, "episode_ends have dtype uint8"),
        ({"extras": {"x": np.zeros(19)}}, r"extras\['x'\] have 19 rows"),
        ({"extras": {"x": np.array(["a"] * 20)}}, "convert them to numbers"),
        ({"extras": {3: np.zeros(20)}}, "needs a text as its name"),
    ],
)
def test_inconsistent_arrays_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"env": ""}, "give the environment's id"),
        ({"action_repeat": 0}, "from 1"),
        ({"action_repeat": True}, "from 1"),
        ({"generation": "d4r"}, "did you mean 'd4rl'"),
        ({"reference_returns": (5, 5)}, "random < expert"),
        ({"reference_returns": (0, float("nan"))}, "random < expert"),
        ({"seed": 1.5}, "whole number or None"),
        ({"versions": {"a": 1}}, "package names"),
        ({"notes": [1]}, "notes must be texts"),
    ],
)
def test_metadata_are_checked(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Metadata(**{"env": "Line-v0", **changes})


def test_episodes_and_their_returns() -> None:
    data = make()
    assert [(rows.start, rows.stop) for rows in data.episodes()] == [(0, 5), (5, 10), (10, 12), (12, 20)]
    assert data.episode_returns().tolist() == [10, 35, 21, 124] and len(data) == 20


@pytest.mark.parametrize("rows", [slice(3, 14), np.arange(3, 14), np.isin(np.arange(20), np.arange(3, 14)), [3, 4, 5]])
def test_taking_rows_cuts_episodes_without_making_them_terminal(rows: Any) -> None:
    data = make()
    part = data.take(rows)
    kept = [3, 4, 5] if isinstance(rows, list) else list(range(3, 14))
    assert part.extras["source_row"].tolist() == kept
    expected = [row in ENDS or row == kept[-1] for row in kept]
    assert part.episode_ends.tolist() == expected
    assert part.discounts.tolist() == [0 if row == 9 else 1 for row in kept]


def test_taking_rows_out_of_order_ends_an_episode_at_every_break() -> None:
    part = make().take([7, 8, 2, 2, 3, 19])
    assert part.episode_ends.tolist() == [False, True, True, False, True, True]
    np.testing.assert_array_equal(np.asarray(part.next_observations)[:, 0], [8, 9, 3, 3, 4, 20])


@pytest.mark.parametrize("rows", [[], [20], [-1], np.zeros(20, bool), np.zeros(19, bool), [0.5], [[1]], slice(5, 5)])
def test_rows_that_are_not_there_are_refused(rows: Any) -> None:
    with pytest.raises(DataError):
        make().take(rows)


def test_split_holds_out_whole_episodes() -> None:
    data = make()
    held_by_seed = []
    for seed in range(20):
        rest, held = data.split(0.25, seed)
        together = np.sort(np.concatenate((rest.extras["source_row"], held.extras["source_row"])))
        np.testing.assert_array_equal(together, np.arange(20))
        assert len(held.episodes()) == 1 and len(rest.episodes()) == 3
        assert equal(held, data.split(0.25, seed)[1])
        for part in (rest, held):
            for rows in part.episodes():
                sources = part.extras["source_row"][rows]
                assert sources[-1] in ENDS and (sources[0] == 0 or sources[0] - 1 in ENDS)
        held_by_seed.append(int(held.extras["source_row"][0]))
    assert set(held_by_seed) == {0, 5, 10, 12}
    with pytest.raises(DataError, match="single episode"):
        data.take(slice(0, 5)).split(0.5, 0)
    with pytest.raises(DataError, match="not between 0 and 1"):
        data.split(1.0, 0)


def test_concatenation_is_the_inverse_of_taking() -> None:
    data = make()
    assert equal(Dataset.concatenate([data.take(slice(0, 10)), data.take(slice(10, 20))]), data)
    other = dataclasses.replace(make(), metadata=dataclasses.replace(data.metadata, seed=2, notes=("b",)), extras={})
    joined = Dataset.concatenate([data, other])
    assert joined.metadata.seed is None and joined.metadata.notes[:2] == ("a", "b") and joined.extras == {}
    assert "source_row" in joined.metadata.notes[2] and len(joined.episodes()) == 8
    foreign = dataclasses.replace(data, metadata=dataclasses.replace(data.metadata, env="Other-v0"))
    with pytest.raises(DataError, match="'Line-v0' and 'Other-v0' do not belong together"):
        Dataset.concatenate([data, foreign])
    with pytest.raises(DataError, match="observations differ"):
        Dataset.concatenate([data, make(observations=np.zeros((20, 3), "f"), next_observations=np.zeros((20, 3), "f"))])
    with pytest.raises(DataError, match="at least one"):
        Dataset.concatenate([])


def dictionary_dataset() -> Dataset:
    rng = np.random.default_rng(0)
    sides = [{"image": rng.integers(0, 255, (20, 4, 4, 1), np.uint8), "cell": rng.integers(0, 9, 20)} for _ in range(2)]
    return make(observations=sides[0], next_observations=sides[1], actions=np.arange(20) % 3)


def test_the_folder_format_gives_everything_back(tmp_path: Path) -> None:
    for number, data in enumerate((make(), dictionary_dataset(), make(extras={}))):
        path = data.save(tmp_path / "deep" / str(number))
        assert equal(load_dataset(path), data) and equal(Dataset.load(str(path)), data)
    assert sorted(os.listdir(tmp_path / "deep")) == ["0", "1", "2"]
    assert sorted(os.listdir(tmp_path / "deep" / "0")) == ["data.json", "data.safetensors", "manifest.json"]


def test_loaded_arrays_can_be_written_to_and_do_not_alias_the_file(tmp_path: Path) -> None:
    path = make().save(tmp_path / "x")
    data = Dataset.load(path)
    data.rewards[:] = 7
    assert equal(Dataset.load(path), make())


def test_saving_replaces_a_data_set_but_nothing_else(tmp_path: Path) -> None:
    path = make().save(tmp_path / "x")
    make(actions=np.zeros((20, 1), np.float32)).save(path)
    assert (Dataset.load(path).actions == 0).all()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="choose another path"):
        make().save(mine)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="is not a folder"):
        make().save(tmp_path / "file")
    assert (mine / "notes.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert equal(Dataset.load(make().save(tmp_path / "empty")), make())


def test_a_failed_write_leaves_the_older_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make().save(tmp_path / "x")

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    for name in ("_write_text", "save_file", "_sync_folder", "_move_into_place"):
        with monkeypatch.context() as patch:
            patch.setattr(rlopt.storage.checked_folder, name, refuse)
            with pytest.raises(DataError, match=r"No space left.*free space there or write to another folder"):
                dictionary_dataset().save(path)
        assert os.listdir(tmp_path) == ["x"] and equal(Dataset.load(path), make())


def test_a_write_killed_between_its_renames_is_mended(tmp_path: Path) -> None:
    path = make().save(tmp_path / "x")
    path.rename(tmp_path / ".replaced-x")
    assert equal(Dataset.load(path), make())
    (tmp_path / ".writing-x").mkdir()
    dictionary_dataset().save(path)
    assert os.listdir(tmp_path) == ["x"] and equal(Dataset.load(path), dictionary_dataset())


def test_damage_and_other_folders_are_refused(tmp_path: Path) -> None:
    path = make().save(tmp_path / "x")
    tensors = path / "data.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-3] ^= 1
    shutil.copytree(path, tmp_path / "flipped")
    (tmp_path / "flipped" / "data.safetensors").write_bytes(data)
    with pytest.raises(DataError, match=r"data\.safetensors is not what was written"):
        Dataset.load(tmp_path / "flipped")
    tensors.unlink()
    with pytest.raises(DataError, match=r"data\.safetensors is missing"):
        Dataset.load(path)
    with pytest.raises(DataError, match="does not exist"):
        Dataset.load(tmp_path / "nothing")
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="is not a data set"):
        Dataset.load(tmp_path / "other")
    newer = make().save(tmp_path / "newer")
    content = json.loads((newer / "manifest.json").read_text())
    (newer / "manifest.json").write_text(json.dumps({**content, "version": 2}))
    with pytest.raises(DataError, match="format version 2, this rlopt reads 1"):
        Dataset.load(newer)


def test_data_of_another_environment_are_seen() -> None:
    box = gymnasium.spaces.Box
    fits = (box(-100, 100, (2,)), box(-1, 1, (1,)))
    check_spaces(make(), *fits, "Line-v0")
    with pytest.raises(DataError, match=r"shape \(2,\), Other-v0 \(3,\).*of 'Line-v0'"):
        check_spaces(make(), box(-1, 1, (3,)), fits[1], "Other-v0")
    with pytest.raises(DataError, match=r"takes \(2,\)"):
        check_spaces(make(), fits[0], box(-1, 1, (2,)), "Other-v0")
    with pytest.raises(DataError, match="out of bounds in 10 of 20 rows"):
        check_spaces(make(), fits[0], box(0, 1, (1,)), "Other-v0")
    with pytest.raises(DataError, match="not integers from 0 to 2"):
        check_spaces(make(), fits[0], gymnasium.spaces.Discrete(3), "Other-v0")
    spaces = gymnasium.spaces.Dict(image=box(0, 255, (4, 4, 1), np.uint8), cell=gymnasium.spaces.Discrete(9))
    check_spaces(dictionary_dataset(), spaces, gymnasium.spaces.Discrete(3), "Grid-v0")
    with pytest.raises(DataError, match="not integers from 0 to 1"):
        check_spaces(dictionary_dataset(), spaces, gymnasium.spaces.Discrete(2), "Grid-v0")
    with pytest.raises(DataError, match="are dictionaries"):
        check_spaces(make(), spaces, fits[1], "Grid-v0")


def test_importing_the_package_is_light() -> None:
    code = "import sys, rlopt.data, rlopt.cli.data; rlopt.data.normalized_score; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "h5py", "minari", "gymnasium", "matplotlib"}
