"""Minari data sets: read back against what minari wrote, T + 1 rows, and what must be refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from rlopt.data import Dataset, Metadata, load_dataset, read_minari, write_minari
from rlopt.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def datasets_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


DICT_SPACE = spaces.Dict(
    observation=spaces.Box(-10, 10, (3,), np.float64),
    goals=spaces.Dict(kettle=spaces.Box(-10, 10, (2,), np.float64), door=spaces.Discrete(4)),
    mission=spaces.Text(20),
)


def episode(number: int, steps: int, terminated: bool, truncated: bool, rows: int | None = None) -> EpisodeBuffer:
    rng = np.random.default_rng(number)
    rows = steps + 1 if rows is None else rows
    observations = {
        "observation": rng.uniform(-9, 9, (rows, 3)),
        "goals": {"kettle": rng.uniform(-9, 9, (rows, 2)), "door": rng.integers(0, 4, rows)},
        "mission": ["go"] * rows,
    }
    return EpisodeBuffer(
        id=number,
        observations=observations,
        actions=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),  # type: ignore[arg-type]
        rewards=rng.normal(size=steps).tolist(),
        terminations=[False] * (steps - 1) + [terminated],
        truncations=[False] * (steps - 1) + [truncated],
        infos={"qpos": rng.normal(size=(rows, 2)), "success": np.zeros(rows, bool)},
    )


def create(buffers: list[EpisodeBuffer], **settings: Any) -> None:
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    minari.create_dataset_from_buffers(
        "test/dict-v0", buffers, **{"observation_space": DICT_SPACE, "action_space": action_space, **settings}
    )


def test_dictionaries_terminations_and_successors_are_those_that_minari_stored() -> None:
    buffers = [episode(0, 5, True, False), episode(1, 3, False, True), episode(2, 4, False, False)]
    create(buffers, algorithm_name="dice")
    data = load_dataset("minari:test/dict-v0")
    assert isinstance(data.observations, dict) and isinstance(data.next_observations, dict)
    assert set(data.observations) == {"observation", "goals/kettle", "goals/door"}
    for rows, buffer in zip(data.episodes(), buffers, strict=True):
        stored = buffer.observations
        assert isinstance(stored, dict)
        for key, array in (("observation", stored["observation"]), ("goals/kettle", stored["goals"]["kettle"])):
            np.testing.assert_array_equal(data.observations[key][rows], array[:-1].astype(np.float32))
            np.testing.assert_array_equal(data.next_observations[key][rows], array[1:].astype(np.float32))
        np.testing.assert_array_equal(data.observations["goals/door"][rows], stored["goals"]["door"][:-1])
        np.testing.assert_array_equal(data.actions[rows], buffer.actions)
        np.testing.assert_allclose(data.rewards[rows], buffer.rewards, rtol=1e-6)
        assert buffer.infos is not None
        np.testing.assert_allclose(data.extras["qpos"][rows], buffer.infos["qpos"][:-1], rtol=1e-6)
    assert np.flatnonzero(data.discounts == 0).tolist() == [4]
    assert np.flatnonzero(data.episode_ends).tolist() == [4, 7, 11]
    assert set(data.extras) == {"qpos"}  # success of a step is known behind it, not before
    notes = " ".join(data.metadata.notes)
    assert "1 episodes neither terminated nor truncated" in notes and "text observations left out: mission" in notes
    assert data.metadata.generation == "minari" and data.metadata.generator == "dice"
    assert data.metadata.reference_returns is None


def sample(discrete: bool = False, image: bool = False) -> Dataset:
    rng = np.random.default_rng(0)
    walk = rng.normal(size=(23, 4)).astype(np.float32)
    if image:
        walk = rng.integers(0, 256, (23, 8, 8, 3), np.uint8)
    first = np.r_[0:9, 10:22]
    ends = np.isin(np.arange(21), (8, 20))
    actions = rng.integers(0, 3, 21) if discrete else rng.uniform(-1, 1, (21, 2)).astype(np.float32)
    return Dataset(
        observations=walk[first],
        actions=actions,
        rewards=rng.normal(size=21).astype(np.float32),
        next_observations=walk[first + 1],
        discounts=np.where(np.arange(21) == 8, 0, 1).astype(np.float32),
        episode_ends=ends,
        metadata=Metadata(
            env="Unregistered-v0", generator="walk", seed=3, reference_returns=(1, 2), notes=("a",), action_repeat=2
        ),
        extras={"source_row": first, "goal": walk[first].reshape(21, -1)[:, :2].astype(np.float32)},
    )


@pytest.mark.parametrize("settings", [{}, {"discrete": True}, {"image": True}])
def test_what_is_written_reads_back_exactly(settings: dict[str, bool], datasets_here: Path) -> None:
    data = sample(**settings)
    said: list[str] = []
    assert write_minari(data, "mine/walk-v0", said.append) == datasets_here / "mine" / "walk-v0"
    back = load_dataset("minari:mine/walk-v0")
    assert back.metadata == data.metadata
    for name, column in data.columns().items():
        np.testing.assert_equal(getattr(back, name), column)
    assert len(said) == 1 and "without an environment" in said[0]
    theirs = minari.load_dataset("mine/walk-v0")
    assert theirs.total_episodes == 2 and theirs.total_steps == 21
    np.testing.assert_array_equal(theirs[1].observations[-1], np.asarray(data.next_observations)[-1])
    with pytest.raises(DataError, match="exists: choose another id"):
        write_minari(data, "mine/walk-v0")


def test_nested_observations_of_every_kind_are_written() -> None:
    data = sample()
    sides: dict[str, Any] = {}
    for name in ("observations", "next_observations"):
        flat = np.asarray(getattr(data, name))
        sides[name] = {
            "hand/pose": flat,
            "hand/camera": np.rint(127 + 10 * flat[:, :3]).clip(0, 255).astype(np.uint8),
            "hand/mode": np.rint(10 * flat[:, :1]).astype(np.int64),
        }
    data = dataclasses.replace(data, **sides)
    write_minari(data, "mine/hand-v0")
    space = minari.load_dataset("mine/hand-v0").observation_space["hand"]
    assert space["camera"].dtype == np.uint8 and space["pose"].dtype == np.float32
    assert space["mode"].low.min() == sides["observations"]["hand/mode"].min()
    back = read_minari("mine/hand-v0")
    for name in sides:
        np.testing.assert_equal(getattr(back, name), sides[name])


def test_the_environment_is_named_where_it_fits() -> None:
    data = sample()
    observations, following = (
        {"observation": side, "achieved_goal": side[:, :2], "desired_goal": np.zeros((21, 2), np.float32)}
        for side in (np.asarray(data.observations), np.asarray(data.next_observations))
    )
    data = dataclasses.replace(
        data,
        observations=observations,
        next_observations=following,
        metadata=dataclasses.replace(data.metadata, env="PointMaze_UMaze-v3"),
    )
    write_minari(data, "mine/maze-v0", pytest.fail)
    theirs = minari.load_dataset("mine/maze-v0")
    assert theirs.env_spec is not None and theirs.env_spec.id == "PointMaze_UMaze-v3"
    assert read_minari("mine/maze-v0").metadata.env == "PointMaze_UMaze-v3"


def test_rlopts_own_environments_are_named() -> None:
    data = dataclasses.replace(
        sample(), metadata=dataclasses.replace(sample().metadata, env="rlopt/PointMaze_UMaze-v0")
    )
    assert np.asarray(data.observations).shape[1] == 4
    write_minari(data, "mine/maze-v0", pytest.fail)
    theirs = minari.load_dataset("mine/maze-v0")
    assert theirs.env_spec is not None and theirs.env_spec.id == "rlopt/PointMaze_UMaze-v0"


def test_images_stored_as_jpeg_are_refused_and_not_taken_for_vectors() -> None:
    frames = np.zeros((6, 32, 32, 3), np.uint8)  # equal frames give JPEG texts of equal length
    buffer = dataclasses.replace(episode(0, 5, True, False), observations=frames)
    create([buffer], observation_space=spaces.Box(0, 255, (32, 32, 3), np.uint8))
    with pytest.raises(DataError, match=r"JPEG are not read|objects, text and pickles"):
        read_minari("test/dict-v0")


def test_transitions_that_are_no_walk_are_refused(datasets_here: Path) -> None:
    data = sample()
    with pytest.raises(DataError, match=r"row 0 does not lead to the next row.*augmented"):
        write_minari(dataclasses.replace(data, next_observations=np.asarray(data.observations)), "mine/walk-v0")
    single = dataclasses.replace(data, episode_ends=np.ones(len(data), bool))
    with pytest.raises(DataError, match=r"every transition is an episode of its own.*augmented"):
        write_minari(single, "mine/walk-v0")
    assert not (datasets_here / "mine" / "walk-v0").exists()


def test_what_is_not_there_is_one_line_with_the_path(datasets_here: Path) -> None:
    with pytest.raises(DataError, match=rf"no folder {datasets_here}/D4RL/pointmaze/umaze-v2/data.*--download"):
        load_dataset("minari:D4RL/pointmaze/umaze-v2")
    for wrong in ("../../etc/x-v0", "umaze", "/abs-v0", ""):
        with pytest.raises(DataError, match="is not a Minari id"):
            read_minari(wrong)


def test_a_failing_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(dataset_id: str) -> None:
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(minari, "download_dataset", fail)
    with pytest.raises(DataError, match=r"cannot be downloaded \(no network\)"):
        read_minari("D4RL/pointmaze/umaze-v2", download=True)
    monkeypatch.setattr(minari, "download_dataset", lambda dataset_id: None)
    with pytest.raises(DataError, match="the download left no data"):
        read_minari("hf://farama-minari/D4RL/pointmaze/umaze-v2", download=True)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("rows", r"episode_1: 3 observations for 3 steps: Minari has one more"),
        ("behind", "continues after a termination"),
        ("empty", "it has no steps"),
        ("missing", "rewards missing"),
        ("episodes", "terminations, truncations missing|missing"),
        ("bounds", "out of bounds .* clip_actions=True"),
        ("nan", "rewards hold NaN"),
        ("spaces", "has no observation_space"),
        ("space", "do not fit the bounds of their space"),
        ("format", "format 'arrow' is not read"),
        ("json", "metadata.json is damaged"),
        ("objects", "objects, text and pickles are not read"),
    ],
)
def test_bad_data_sets_are_one_line(kind: str, said: str, datasets_here: Path) -> None:
    create([episode(0, 5, True, False), episode(1, 3, False, True, rows=3 if kind == "rows" else None)])
    folder = datasets_here / "test" / "dict-v0" / "data"
    metadata = json.loads((folder / "metadata.json").read_text())
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        last = file["episode_1"]
        if kind == "behind":
            last["terminations"][0] = True
        elif kind == "empty":
            for name in ("rewards", "terminations", "truncations"):
                last[name].resize((0,))
        elif kind == "missing":
            del last["rewards"]
        elif kind == "episodes":
            metadata["total_episodes"] = 3
        elif kind == "bounds":
            last["actions"][1, 0] = 1.5
        elif kind == "nan":
            last["rewards"][2] = np.nan
        elif kind == "objects":
            del last["actions"]
            last.create_dataset("actions", (3,), dtype=h5py.vlen_dtype(np.uint8))
    if kind == "spaces":
        del metadata["observation_space"]
        metadata["env_spec"] = json.dumps({"id": "Trap-v0", "entry_point": "os:getcwd"})
    elif kind == "space":
        metadata["action_space"] = json.dumps(json.loads(metadata["action_space"]) | {"low": [-1.0, -1.0, -1.0]})
    elif kind == "format":
        metadata["data_format"] = "arrow"
    text = json.dumps(metadata)
    (folder / "metadata.json").write_text(text[:-5] if kind == "json" else text)
    with pytest.raises(DataError, match=said) as caught:
        read_minari("test/dict-v0")
    assert "\n" not in str(caught.value)
    if kind == "bounds":
        assert read_minari("test/dict-v0", clip_actions=True).actions.max() == 1
