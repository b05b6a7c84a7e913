"""Demonstrations in the formats of other libraries: written, read, and refused where they are wrong."""

import dataclasses
import io
import json
import pickle
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from demonstration_data import walk
from gymnasium import spaces

from rlopt.data import Demonstrations, load_demonstrations, write_minari
from rlopt.data.formats.foreign_demonstrations import metadata_text
from rlopt.data.formats.huggingface import write_huggingface
from rlopt.data.formats.imitation_files import write_imitation, write_valuedice
from rlopt.errors import DataError, RloptError
from rlopt.storage.spaces import encode_space


class Trap:
    """A pickle of it makes a file when it is read."""

    def __reduce__(self) -> Any:
        return open, ("sprung", "w")


@pytest.fixture(autouse=True)
def no_trap_springs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    yield
    assert not Path("sprung").exists()


def refused(path: Any, said: str, **options: Any) -> str:
    with pytest.raises(DataError, match=said) as caught:
        load_demonstrations(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def discrete() -> Demonstrations:
    data = walk((3, 4, 2), terminal=(1,))
    return dataclasses.replace(data, actions=np.arange(len(data)) % 3)


def images() -> Demonstrations:
    data = walk((3, 4))
    number = (np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 2, 2), np.uint8))[
        [0, 1, 2, 4, 5, 6, 7]
    ]
    following = number + 1
    return dataclasses.replace(data, observations=number, next_observations=following)


def without_rewards() -> Demonstrations:
    data = walk((3, 4), expert_return=None, has_rewards=False)
    return dataclasses.replace(data, rewards=np.zeros(7, np.float32))


def minari(data: Demonstrations, path: Path) -> Any:
    write_minari(data, f"mine/{path.stem}-v0")
    return f"minari:mine/{path.stem}-v0"


WRITERS: dict[str, Callable[[Demonstrations, Path], Any]] = {
    "imitation": write_imitation,
    "valuedice": write_valuedice,
    "hf": write_huggingface,
    "minari": minari,
}


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("make", [walk, discrete, images, without_rewards], ids=lambda make: make.__name__)
def test_what_is_written_reads_back_the_same(form: str, make: Callable[[], Demonstrations]) -> None:
    data = make()
    data = dataclasses.replace(
        data,
        metadata=dataclasses.replace(
            data.metadata,
            observation_keys=("a", "b"),
            deterministic=False,
            action_space=encode_space(spaces.Box(-1, 1, (1,)) if make is not discrete else spaces.Discrete(9)),
            versions={"rlopt": "1"},
            notes=("one",),
            seed=5,
        ),
    )
    name = WRITERS[form](data, Path("demos.npz" if form in ("imitation", "valuedice") else "demos"))
    again = load_demonstrations(name)
    np.testing.assert_equal(again.columns(), data.columns())
    for column in ("observations", "actions", "rewards"):
        assert getattr(again, column).dtype == getattr(data, column).dtype
    notes = again.metadata.notes
    assert dataclasses.replace(again.metadata, notes=("one",)) == data.metadata and notes[0] == "one"


@pytest.mark.parametrize("form", ["imitation", "valuedice"])
def test_the_same_demonstrations_are_the_same_bytes(form: str) -> None:
    contents = [WRITERS[form](walk(), Path(f"{name}.npz")).read_bytes() for name in "ab"]
    assert contents[0] == contents[1]


def test_imitation_splits_the_file_into_the_same_trajectories() -> None:
    """With the arithmetic of imitation's own reader: obs at indices + 0, 1, ... + 1, the rest at indices."""
    data = walk((5, 7, 2), terminal=(0,))
    with np.load(write_imitation(data, Path("x.npz")), allow_pickle=False) as file:
        indices = file["indices"]
        obs = np.split(file["obs"], indices + np.arange(len(indices)) + 1)
        parts = {name: np.split(file[name], indices) for name in ("acts", "rews", "infos")}
        assert file["terminal"].tolist() == [True] * 3
    assert [len(part) for part in obs] == [6, 8, 3]
    for name, column in (("acts", data.actions), ("rews", data.rewards)):
        np.testing.assert_array_equal(np.concatenate(parts[name]), column)
        assert [len(part) for part in parts[name]] == [5, 7, 2]
    assert obs[1][:, 0].tolist() == list(range(100, 108)) and len(parts["infos"][2]) == 2


def imitation_arrays(**changed: Any) -> dict[str, Any]:
    """Two trajectories of three and two steps, as imitation 0.3 wrote them, without the infos."""
    arrays = {
        "obs": np.arange(7.0)[:, None],
        "acts": np.linspace(-1, 1, 5)[:, None],
        "rews": np.arange(5.0),
        "indices": np.array([3]),
        "terminal": np.array([True, True]),
    }
    return {**arrays, **changed}


def npz(name: str, arrays: dict[str, Any]) -> Path:
    np.savez_compressed(name, **{key: value for key, value in arrays.items() if value is not None})
    return Path(name)


@pytest.mark.parametrize("indices", [[3], [3, 5]])
def test_a_file_of_imitation_is_read(indices: list[int]) -> None:
    data = load_demonstrations(npz("x.npz", imitation_arrays(indices=np.array(indices))))
    assert data.observations.tolist() == [[0], [1], [2], [4], [5]]  # type: ignore[union-attr]
    assert data.next_observations.tolist() == [[1], [2], [3], [5], [6]]  # type: ignore[union-attr]
    assert data.episode_returns().tolist() == [3, 7] and data.metadata.expert_return == 5
    assert data.metadata.env == "unknown" and data.discounts.all()
    assert any("taken as truncations" in note for note in data.metadata.notes)


def test_a_fragment_is_a_truncation_and_noted() -> None:
    data = load_demonstrations(npz("x.npz", imitation_arrays(terminal=np.array([False, True]), rews=None)))
    assert any("1 trajectories are fragments" in note for note in data.metadata.notes)
    assert not data.metadata.has_rewards and data.metadata.expert_return is None and not data.rewards.any()


def valuedice_arrays(**changed: Any) -> dict[str, Any]:
    dones = np.zeros(503)
    dones[[2, 502]] = 1
    states = np.arange(503.0)[:, None] * np.ones((1, 4))
    return {"states": states, "actions": np.arange(503) % 2, "next_states": states + 1, "dones": dones, **changed}


def test_ends_are_told_apart_by_the_time_limit() -> None:
    """CartPole-v1 cuts at 500 steps: the episode of three has ended by itself, that of 500 was cut."""
    path = npz("x.npz", valuedice_arrays())
    data = load_demonstrations(path, env="CartPole-v1")
    assert np.flatnonzero(data.discounts == 0).tolist() == [2] and data.n_trajectories == 2
    assert load_demonstrations(path).discounts.all()
    assert load_demonstrations(path, env="CartPole-v1", ends="truncated").discounts.all()
    both = load_demonstrations(path, ends="terminated")
    assert np.flatnonzero(both.discounts == 0).tolist() == [2, 502]
    # A hundred repeats of five steps are as long as the limit.
    five = npz("five.npz", valuedice_arrays(dones=np.isin(np.arange(503), (4, 502))))
    repeated = load_demonstrations(five, env="CartPole-v1", action_repeat=100)
    assert np.flatnonzero(repeated.discounts == 0).tolist() == []
    wide = npz("wide.npz", valuedice_arrays(states=np.zeros((503, 5)), next_states=np.zeros((503, 5))))
    task = load_demonstrations(wide, env="dm_control/cartpole-swingup", observation_keys=("position", "velocity"))
    assert task.discounts.all() and task.metadata.observation_keys == ("position", "velocity")


def test_options_are_checked() -> None:
    path = npz("x.npz", valuedice_arrays())
    with pytest.raises(RloptError, match="did you mean 'CartPole-v1'"):
        load_demonstrations(path, env="CartPole-v")
    with pytest.raises(RloptError, match="did you mean 'truncated'"):
        load_demonstrations(path, ends="truncate")
    refused(write_imitation(walk(), Path("own.npz")), "says itself which environment", env="CartPole-v1")
    refused(walk().save("own"), "--env cannot be given here", env="CartPole-v1")


NAN = np.array([[0.0], [np.nan], [2.0], [3.0], [4.0], [5.0], [6.0]])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"obs": NAN}, "observations hold NaN or infinity in 1 of 5 rows, first in row 1"),
        ({"acts": np.full((5, 1), np.inf)}, "actions hold NaN or infinity"),
        ({"rews": np.array([1e300] * 5)}, "rewards hold NaN or infinity"),
        ({"obs": np.arange(6.0)[:, None]}, "6 observations for 5 actions in 2 trajectories"),
        ({"terminal": np.array([True] * 3)}, "indices say 1 trajectories"),
        ({"indices": np.array([5])}, "trajectory 1 has no action"),
        ({"indices": np.array([9])}, "is damaged|has no action"),
        ({"indices": np.array([[3]])}, "whole numbers"),
        ({"indices": np.array([2.5])}, "whole numbers"),
        ({"terminal": np.zeros(0, bool), "indices": np.zeros(0, int), "acts": np.zeros((0, 1))}, "no trajectory"),
        ({"terminal": np.array([2, 1])}, "not all 0 or 1"),
        ({"acts": None}, "it has indices, obs.* --columns"),
        ({"acts": np.array([["a"]] * 5)}, "acts holds <U1"),
        ({"acts": np.ones((5, 1), complex)}, "acts holds complex128"),
        ({"rews": np.ones((5, 2))}, "rewards have shape"),
        ({"acts": np.ones((5, 2, 2))}, r"actions have shape \(5, 2, 2\)"),
        ({"obs": None, "acts": None, "indices": None, "terminal": None}, "it has rews: observations .* are needed"),
    ],
)
def test_a_bad_imitation_file_is_one_line(changed: dict[str, Any], said: str) -> None:
    assert "x.npz" in refused(npz("x.npz", imitation_arrays(**changed)), said)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"states": np.full((503, 4), np.nan)}, "observations hold NaN"),
        ({"next_states": np.zeros((502, 4))}, "next_states and dones differ in length"),
        ({"next_states": np.zeros((503, 3))}, "must be alike"),
        ({"dones": np.full(503, 0.5)}, "not all 0 or 1"),
        ({"dones": np.zeros(0)}, "no transition"),
        ({"terminals": np.arange(503) == 1}, "row 1 is terminal but ends no episode"),
        ({"rlopt_metadata": np.array("{"), "terminals": np.zeros(503)}, "malformed"),
        (
            {"rlopt_metadata": np.array(metadata_text(walk(env="evil:x-v0")))},
            "which ends are true terminals is missing",
        ),
        ({"rlopt_metadata": np.array("{}")}, "other metadata"),
    ],
)
def test_a_bad_valuedice_file_is_one_line(changed: dict[str, Any], said: str) -> None:
    refused(npz("x.npz", valuedice_arrays(**changed)), said)


def test_an_unmarked_last_episode_is_cut_there() -> None:
    data = load_demonstrations(npz("x.npz", valuedice_arrays(dones=np.arange(503) == 2)))
    assert np.flatnonzero(data.episode_ends).tolist() == [2, 502]
    assert any("not marked" in note for note in data.metadata.notes)


def test_objects_are_refused_with_a_command_that_works() -> None:
    infos = np.array([Trap() for _ in range(5)], object)
    path = npz("x.npz", imitation_arrays())
    with_infos = npz("y.npz", imitation_arrays(infos=np.array([{"a": 1}] * 5, object)))
    # Only arrays that are asked for are looked at, so that pickled infos do no harm.
    assert len(load_demonstrations(with_infos)) == len(load_demonstrations(path)) == 5
    assert len(load_demonstrations(npz("z.npz", imitation_arrays(infos=infos)))) == 5
    for name in ("o", """o's "o" $(touch harm) `touch harm`"""):
        objects = npz(f"{name}.npz", imitation_arrays(rews=np.array([1.0, 2, 3, 4, 5], object)))
        command = re.search(r"run python (-c .*), then", refused(objects, "rews holds Python objects"))
        assert command
        subprocess.run(f"{shlex.quote(sys.executable)} {command[1]}", shell=True, check=True)
        assert len(load_demonstrations(f"{name}-plain.npz")) == 5
    assert not Path("harm").exists()


@pytest.mark.parametrize("name", ["x.pkl", "x.npz", "x"])
def test_pickles_are_refused_unread(name: str) -> None:
    Path(name).write_bytes(pickle.dumps({"states": Trap()}))
    assert "docs/data.md" in refused(name, "is a pickle")


def test_damaged_files_are_refused() -> None:
    whole = write_imitation(walk(), Path("x.npz")).read_bytes()
    rng = np.random.default_rng(0)
    original = load_demonstrations("x.npz").columns()
    outcomes = {"refused": 0, "the same": 0}
    for case in range(200):
        content = bytearray(whole)
        if case % 2:
            del content[int(rng.integers(len(content))) :]
        else:
            content[int(rng.integers(len(content)))] ^= int(rng.integers(1, 256))
        Path("damaged.npz").write_bytes(content)
        try:
            np.testing.assert_equal(load_demonstrations("damaged.npz").columns(), original)
            outcomes["the same"] += 1
        except RloptError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
    assert outcomes["refused"] > 150  # a flipped date or permission bit in the archive's directory does no harm
    Path("x.npz").write_bytes(b"")
    refused("x.npz", "not a .npz file, or it was cut")
    refused("nowhere/x.npz", "does not exist")


def test_an_array_that_declares_more_than_there_is_takes_no_memory() -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**40, 1)})  # type: ignore[arg-type]
    npz("x.npz", imitation_arrays(obs=None))
    with zipfile.ZipFile("x.npz", "a") as file:
        file.writestr("obs.npy", header.getvalue() + bytes(8))
    refused("x.npz", "declares more than the file holds")


def test_formats_refuse_what_they_cannot_hold() -> None:
    thin = walk((5, 7), terminal=()).subsample(2)
    for write in (write_imitation, write_huggingface):
        with pytest.raises(DataError, match="subsampled"):
            write(thin, Path("x.npz"))
    np.testing.assert_equal(load_demonstrations(write_valuedice(thin, Path("y.npz"))).columns(), thin.columns())
    observations = {"a": np.zeros((12, 1), np.float32)}
    parts = dataclasses.replace(walk(), observations=observations, next_observations=observations)
    for write in (write_imitation, write_valuedice, write_huggingface):
        with pytest.raises(DataError, match="dictionary"):
            write(parts, Path("x.npz"))


def stored_rows(**changed: Any) -> dict[str, Any]:
    """What imitation saves: each info a text in which jsonpickle could name a class."""
    info = json.dumps({"py/object": "demonstrations.Trap"})
    rows = {
        "obs": [[[0.0], [1.0], [2.0]], [[5.0], [6.0]]],
        "acts": [[[0.5], [0.25]], [[1.0]]],
        "infos": [[info] * 2, [info]],
        "terminal": [True, True],
        "rews": [[1.0, 2.0], [4.0]],
    }
    return {name: value for name, value in {**rows, **changed}.items() if value is not None}


def test_a_folder_of_imitation_is_read() -> None:
    datasets.Dataset.from_dict(stored_rows()).save_to_disk("x")
    data = load_demonstrations("x", ends="terminated")
    assert data.observations.tolist() == [[0], [1], [5]]  # type: ignore[union-attr]
    assert data.next_observations.tolist() == [[1], [2], [6]]  # type: ignore[union-attr]
    assert data.actions.tolist() == [[0.5], [0.25], [1]] and data.episode_returns().tolist() == [3, 4]
    assert np.flatnonzero(data.discounts == 0).tolist() == [1, 2]


def test_a_written_folder_has_the_columns_that_imitation_takes() -> None:
    write_huggingface(walk((5, 7)), Path("x"))
    stored = datasets.load_from_disk("x")
    assert set(stored.features) == {"obs", "acts", "rews", "infos", "terminal"}
    assert [np.shape(obs) for obs in stored["obs"]] == [(6, 2), (8, 2)]
    assert stored["terminal"][:] == [True, True] and stored["infos"][0] == ["{}"] * 5


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"obs": [[[0.0], [1.0]], [[5.0], [6.0]]]}, "trajectory 0 has 2 observations for 2 actions"),
        ({"obs": [[[0.0], [float("nan")], [2.0]], [[5.0], [6.0]]]}, "observations hold NaN"),
        ({"acts": None}, "no column acts"),
        ({"acts": [[["a"], ["b"]], [["c"]]]}, "not plain numbers"),
        ({name: [] for name in stored_rows()}, "empty"),
    ],
)
def test_a_bad_folder_of_imitation_is_one_line(changed: dict[str, Any], said: str) -> None:
    datasets.Dataset.from_dict(stored_rows(**changed)).save_to_disk("x")
    refused("x", said)


def test_a_damaged_folder_is_one_line() -> None:
    write_huggingface(walk(), Path("x"))
    (arrow,) = Path("x").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:200])
    refused("x", "is damaged, empty or was cut")
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(stored_rows())}).save_to_disk("y")
    refused("y", "several splits")


@pytest.mark.parametrize("form", WRITERS)
def test_the_module_of_an_environment_is_not_imported(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("evil.py").write_text("open('sprung', 'w')")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    name = WRITERS[form](walk(env="evil:Walk-v0"), Path("x.npz" if form in ("imitation", "valuedice") else "x"))
    assert load_demonstrations(name).metadata.env == "evil:Walk-v0"
