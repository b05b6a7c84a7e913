"""D4RL files: both conversions, every known trap in a small file built to contain it, and damaged files."""

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from d4rl_files import gym_arrays, maze2d_rollout, write_file

from rlopt.data import Dataset, load_dataset, read_d4rl, write_d4rl
from rlopt.errors import DataError, UnknownNameError

HOPPER = "hopper-medium-v0"


def qlearning_rows(arrays: dict[str, Any], limit: int) -> list[int]:
    """The rows that D4RL's qlearning conversion keeps, one by one; without timeouts, every episode counts from 0."""
    kept, step = [], 0
    for row in range(len(arrays["rewards"]) - 1):
        final = arrays["timeouts"][row] if "timeouts" in arrays else step == limit - 1
        if final:
            step = 0
            continue
        kept.append(row)
        step = 0 if arrays["terminals"][row] else step + 1
    return kept


def noted(data: Dataset, part: str) -> bool:
    return any(part in note for note in data.metadata.notes)


@pytest.mark.parametrize("timeouts", [True, False])
def test_qlearning_conversion_keeps_the_rows_that_d4rl_keeps(tmp_path: Path, timeouts: bool) -> None:
    arrays = gym_arrays(60, timeouts=(9, 29, 30, 59), terminals=(17, 45, 46))
    if not timeouts:
        del arrays["timeouts"]
    path = write_file(tmp_path / "x.hdf5", arrays)
    data = read_d4rl(path, HOPPER, max_episode_steps=7)
    rows = qlearning_rows(arrays, 7)
    assert data.extras["source_row"].tolist() == rows
    np.testing.assert_array_equal(data.observations, arrays["observations"][rows])
    np.testing.assert_array_equal(data.actions, arrays["actions"][rows])
    np.testing.assert_array_equal(data.rewards, arrays["rewards"][rows])
    np.testing.assert_array_equal(data.discounts == 0, arrays["terminals"][rows])
    for i, row in enumerate(rows):
        # the row after a terminal is the next episode's first: the last observation stands there instead
        following = row if arrays["terminals"][row] else row + 1
        assert data.next_observations[i, 0] == following
        last = i == len(rows) - 1 or rows[i + 1] != row + 1 or arrays["terminals"][row]
        assert data.episode_ends[i] == last
    assert noted(data, "the next episode's first") and noted(data, "qlearning_dataset")
    assert noted(data, "no timeouts in use") != timeouts


def test_sequence_conversion_keeps_whole_episodes_and_drops_the_unfinished_last(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.hdf5", gym_arrays(20, timeouts=(4,), terminals=(11,)))
    data = read_d4rl(path, HOPPER, conversion="sequence")
    # row 4 timed out and its successor is nowhere in the file; rows 12 to 19 are an unfinished episode
    assert data.extras["source_row"].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert [(rows.start, rows.stop) for rows in data.episodes()] == [(0, 4), (4, 11)]
    assert data.discounts.tolist() == [1] * 10 + [0] and data.next_observations[3, 0] == 4


def test_sequence_conversion_keeps_timed_out_rows_whose_successor_is_recorded(tmp_path: Path) -> None:
    arrays = gym_arrays(20, timeouts=(4, 19), terminals=(11,))
    arrays["next_observations"] = arrays["observations"] + np.float32(1)
    data = read_d4rl(write_file(tmp_path / "x.hdf5", arrays), HOPPER, conversion="sequence")
    assert data.extras["source_row"].tolist() == list(range(20))
    np.testing.assert_array_equal(data.next_observations, arrays["next_observations"])
    assert np.flatnonzero(data.episode_ends).tolist() == [4, 11, 19] and (data.discounts == 0).sum() == 1


def test_maze2d_timeouts_are_waypoints_of_one_rollout(tmp_path: Path) -> None:
    arrays = maze2d_rollout(400, reached=(90, 200))
    path = write_file(tmp_path / "x.hdf5", arrays)
    kept = read_d4rl(path, "maze2d-umaze-v1")
    assert np.flatnonzero(kept.episode_ends).tolist() == [90, 200, 398] and len(kept) == 399
    np.testing.assert_array_equal(kept.next_observations, arrays["observations"][1:])
    assert (kept.discounts == 1).all() and noted(kept, "waypoint")
    dropped = read_d4rl(path, "maze2d-umaze-v1", waypoints="drop")
    assert dropped.extras["source_row"].tolist() == qlearning_rows(arrays, 300)
    joined = read_d4rl(path, "maze2d-umaze-v1", waypoints="join")
    assert np.flatnonzero(joined.episode_ends).tolist() == [299, 398]


def test_maze2d_rewards_are_moved_to_the_step_that_earns_them(tmp_path: Path) -> None:
    arrays = maze2d_rollout(50)
    near = np.array([1.0, 1.0]) + np.linspace(0.8, 0.2, 50)[:, None] * [1, 0]
    arrays["observations"][:, :2] = arrays["infos/qpos"][:] = near
    arrays["observations"][:, 2:] = arrays["infos/qvel"][:] = np.gradient(near, 0.01, axis=0)
    arrays["rewards"] = (np.linalg.norm(arrays["observations"][:, :2] - 1, axis=1) <= 0.5).astype(np.float32)
    path = write_file(tmp_path / "x.hdf5", arrays)
    reached = np.linalg.norm(arrays["observations"][1:, :2] - 1, axis=1) <= 0.5
    data = read_d4rl(path, "maze2d-umaze-v1")
    np.testing.assert_array_equal(data.rewards, reached[data.extras["source_row"]])
    assert noted(data, "issue 194")
    recorded = read_d4rl(path, "maze2d-umaze-v1", rewards="recorded")
    np.testing.assert_array_equal(recorded.rewards, arrays["rewards"][:-1])
    arrays["rewards"] = np.append(reached, False).astype(np.float32)
    right = read_d4rl(write_file(path, arrays), "maze2d-umaze-v1")
    np.testing.assert_array_equal(right.rewards, reached)
    assert not noted(right, "issue 194")


def test_maze2d_rows_that_repeat_a_stale_observation_are_repaired_or_left_out(tmp_path: Path) -> None:
    arrays = maze2d_rollout(60, reached=(20, 40))
    true = arrays["observations"].copy()
    for row in (21, 41):  # as the generation script writes the row behind a reached waypoint
        arrays["observations"][row] = true[row - 1]
    path = write_file(tmp_path / "x.hdf5", arrays)
    repaired = read_d4rl(path, "maze2d-umaze-v1")
    np.testing.assert_array_equal(repaired.observations, true[:-1])
    assert noted(repaired, "2 observations differ from infos/qpos")
    del arrays["infos/qpos"], arrays["infos/qvel"]
    cut = read_d4rl(write_file(path, arrays), "maze2d-umaze-v1")
    assert sorted(set(range(59)) - set(cut.extras["source_row"].tolist())) == [20, 21, 40, 41]
    assert noted(cut, "4 rows whose next row is not one simulator step away")


def test_maze2d_as_the_generation_script_writes_it_without_timeouts(tmp_path: Path) -> None:
    arrays = maze2d_rollout(30, reached=(10,))
    arrays["terminals"] = arrays.pop("timeouts")
    arrays["rewards"] = np.zeros(30, np.float32)
    data = read_d4rl(write_file(tmp_path / "x.hdf5", arrays), "maze2d-umaze-v1")
    assert (data.discounts == 1).all() and np.flatnonzero(data.episode_ends).tolist() == [10, 28]
    assert noted(data, "maze2d never ends")


def test_file_that_is_no_point_mass_is_not_taken_for_maze2d(tmp_path: Path) -> None:
    arrays = maze2d_rollout(30)
    arrays["observations"] = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    del arrays["infos/qpos"], arrays["infos/qvel"]
    with pytest.raises(DataError, match="not steps of maze2d's point mass"):
        read_d4rl(write_file(tmp_path / "x.hdf5", arrays), "maze2d-umaze-v1")


def antmaze_arrays(length: int = 30) -> dict[str, Any]:
    observations = np.zeros((length, 29), np.float32)
    observations[:, 0] = 0.3 * np.arange(length)
    return {
        "observations": observations,
        "actions": np.zeros((length, 8), np.float32),
        "rewards": np.zeros(length, np.float32),
        "terminals": np.zeros(length, np.float32),  # as published: 0 and 1 in float32
        "timeouts": np.zeros(length, bool),
    }


def test_antmaze_resets_without_a_mark_are_found(tmp_path: Path) -> None:
    arrays = antmaze_arrays()
    arrays["observations"][13:, 0] += 9.0  # the ant was reset after row 12; the mark is two rows late
    arrays["timeouts"][14] = True
    data = read_d4rl(write_file(tmp_path / "x.hdf5", arrays), "antmaze-medium-diverse-v0")
    assert sorted(set(range(29)) - set(data.extras["source_row"].tolist())) == [12, 14]
    assert np.abs(data.next_observations - data.observations)[:, 0].max() < 1
    assert noted(data, "issue 77")


def test_antmaze_goals_are_terminal_in_clusters_or_end_the_walk(tmp_path: Path) -> None:
    arrays = antmaze_arrays()
    arrays["rewards"][[5, 6, 7]] = arrays["terminals"][[5, 6, 7]] = 1
    arrays["timeouts"][15] = True
    path = write_file(tmp_path / "x.hdf5", arrays)
    kept = read_d4rl(path, "antmaze-umaze-v2")
    assert (kept.discounts == 0).sum() == 3 and noted(kept, "continue after the goal")
    np.testing.assert_array_equal(kept.next_observations[5:8, 0], arrays["observations"][6:9, 0])
    ended = read_d4rl(path, "antmaze-umaze-v2", after_goal="drop", reward_shift=-1)
    assert ended.extras["source_row"].tolist() == [0, 1, 2, 3, 4, 5, *range(16, 29)]
    assert ended.rewards.tolist() == [-1] * 5 + [0] + [-1] * 13 and noted(ended, "-1 added")


def test_antmaze_umaze_diverse_differs_from_its_siblings_and_says_so(tmp_path: Path) -> None:
    arrays = antmaze_arrays()
    arrays["rewards"][6], arrays["terminals"][6] = 1, 1
    arrays["timeouts"][6] = True
    arrays["observations"][7:, 0] -= 2.1
    arrays["rewards"][9] = 1
    data = read_d4rl(write_file(tmp_path / "x.hdf5", arrays), "antmaze-umaze-diverse-v2", conversion="sequence")
    assert noted(data, "issue 199") and noted(data, "disagree in 1 rows")


@pytest.mark.parametrize("shape", [(40, 1), (40,)])
def test_double_precision_and_columns_are_taken(tmp_path: Path, shape: tuple[int, ...]) -> None:
    arrays = gym_arrays(timeouts=(39,))
    arrays["observations"] = arrays["observations"].astype(">f8")
    arrays["rewards"] = arrays["rewards"].astype(np.float64).reshape(shape)
    data = read_d4rl(write_file(tmp_path / "x.hdf5", arrays), HOPPER)
    assert data.observations.dtype == data.rewards.dtype == np.float32 and data.rewards.shape == (39,)
    assert data.observations.dtype.isnative and data.observations[7, 0] == 7


def test_published_file_names_are_recognised(tmp_path: Path) -> None:
    path = write_file(tmp_path / "hopper_mixed.hdf5", gym_arrays(timeouts=(39,)))
    data = load_dataset(path)
    assert data.metadata.env == "hopper-medium-replay-v0" and data.metadata.generation == "d4rl"
    assert data.metadata.reference_returns == (-20.272305, 3234.3)
    other = write_file(tmp_path / "mine.hdf5", gym_arrays(timeouts=(39,)))
    with pytest.raises(DataError, match=r"does not say which of D4RL's data sets it is: give --name NAME; or --env ID"):
        read_d4rl(other)
    assert load_dataset(other).metadata.env == "unknown" and len(load_dataset(other)) == 39
    assert load_dataset(other, env="Hopper-v5").metadata.env == "Hopper-v5"
    assert load_dataset(other, env="Hopper-v5").metadata.reference_returns is None


def test_options_and_names_are_checked(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.hdf5", gym_arrays(timeouts=(39,)))
    with pytest.raises(UnknownNameError, match="did you mean 'conversion'"):
        read_d4rl(path, HOPPER, convertion="sequence")
    with pytest.raises(UnknownNameError, match="did you mean 'sequence'"):
        read_d4rl(path, HOPPER, conversion="sequences")
    with pytest.raises(UnknownNameError, match="did you mean 'hopper-medium-v"):
        read_d4rl(path, "hoper-medium-v2")


def damaged(arrays: dict[str, Any], kind: str) -> dict[str, Any]:
    length = len(arrays["rewards"])
    changes: dict[str, dict[str, Any]] = {
        "missing": {"actions": None},
        "rows": {"actions": arrays["actions"][:-3]},
        "flat": {"observations": arrays["observations"].ravel()},
        "nan": {"observations": np.where(np.arange(length)[:, None] == 7, np.nan, arrays["observations"])},
        "overflow": {"rewards": np.full(length, 1e300)},
        "integers": {"actions": np.zeros((length, 3), np.int64)},
        "flags": {"terminals": np.full(length, 2)},
        "text": {"rewards": np.full(length, b"1.0")},
        "bounds": {"actions": arrays["actions"] * 3},
        "empty": {name: array[:0] for name, array in arrays.items()},
        "one row": {name: array[:1] for name, array in arrays.items()},
        "other": {"observations": arrays["observations"][:, :8]},
        "following": {"next_observations": arrays["observations"][:, :4]},
        "unterminated": {"timeouts": np.zeros(length, bool)},
    }
    return {name: array for name, array in {**arrays, **changes[kind]}.items() if array is not None}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", r"actions missing \(it has observations, rewards"),
        ("rows", "actions has 37 rows, rewards 40"),
        ("flat", "observations has 440 rows"),
        ("nan", r"observations hold NaN or infinity in 1 of 39 rows, first in row 7"),
        ("overflow", "rewards hold NaN or infinity"),
        ("integers", "actions has dtype int64"),
        ("flags", "terminals has values other than 0 and 1"),
        ("text", "'rewards' holds |S3 and not plain numbers".replace("|", r"\|")),
        ("bounds", r"actions are out of bounds in .* clip_actions=True"),
        ("empty", "it has 0 rows"),
        ("one row", "it has 1 rows"),
        ("other", "this is the data set of another environment"),
        ("following", "next_observations .* differ"),
        ("unterminated", "no finished or timed-out episode"),
    ],
)
def test_bad_files_are_one_line_with_the_cure(tmp_path: Path, kind: str, said: str) -> None:
    arrays = damaged(gym_arrays(timeouts=(39,)), kind)
    path = write_file(tmp_path / "x.hdf5", arrays)
    with pytest.raises(DataError, match=said) as caught:
        read_d4rl(path, HOPPER, conversion="sequence")
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_out_of_bound_actions_can_be_clipped(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.hdf5", damaged(gym_arrays(timeouts=(39,)), "bounds"))
    data = read_d4rl(path, HOPPER, clip_actions=True)
    assert np.abs(data.actions).max() == 1 and noted(data, "clipped to [-1, 1]")


def test_missing_truncated_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_d4rl(tmp_path / "nothing.hdf5", HOPPER)
    (tmp_path / "text.hdf5").write_text("no such luck")
    with pytest.raises(DataError, match="not an HDF5 file"):
        read_d4rl(tmp_path / "text.hdf5", HOPPER)
    path = write_file(tmp_path / "x.hdf5", gym_arrays(timeouts=(39,)))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match="damaged or truncated"):
        read_d4rl(path, HOPPER)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("trap"),))


def test_objects_and_pickles_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_file(tmp_path / "x.hdf5", gym_arrays(timeouts=(39,)))
    with h5py.File(path, "a") as file:
        del file["actions"]
        file.create_dataset("actions", (40,), dtype=h5py.vlen_dtype(np.uint8))
        file["actions"][0] = np.frombuffer(pickle.dumps(Trap()), np.uint8)
    with pytest.raises(DataError, match="objects, text and pickles are not read"):
        read_d4rl(path, HOPPER)
    with h5py.File(path, "a") as file:
        del file["actions"]
        file["actions"] = np.void(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="objects, text and pickles are not read"):
        read_d4rl(path, HOPPER)
    (tmp_path / "whole.pkl").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="is a pickle, which runs code when it is read: convert it"):
        read_d4rl(tmp_path / "whole.pkl", HOPPER)
    assert not (tmp_path / "trap").exists()


def test_links_out_of_the_file_are_refused(tmp_path: Path) -> None:
    secret = write_file(tmp_path / "secret.hdf5", {"actions": np.zeros((40, 3), np.float32)})
    path = write_file(tmp_path / "x.hdf5", gym_arrays(timeouts=(39,)))
    links: list[Any] = [h5py.ExternalLink(str(secret), "actions"), h5py.SoftLink("/nowhere"), "virtual", "external"]
    for link in links:
        with h5py.File(path, "a") as file:
            del file["actions"]
            if link == "virtual":
                layout = h5py.VirtualLayout((40, 3), np.float32)
                layout[:] = h5py.VirtualSource(str(secret), "actions", (40, 3))
                file.create_virtual_dataset("actions", layout)
            elif link == "external":
                raw = [(str(tmp_path / "raw"), 0, 480)]
                (tmp_path / "raw").write_bytes(bytes(480))
                file.create_dataset("actions", (40, 3), np.float32, external=raw)
            else:
                file["actions"] = link
        with pytest.raises(DataError, match=r"link out of its place|lies in another file"):
            read_d4rl(path, HOPPER)


def test_arrays_that_were_never_written_or_cannot_be_real_are_refused(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.hdf5", gym_arrays(timeouts=(39,)))
    for shape, said in (((40, 3), "not written to its end"), ((10**12, 3), "more than the file can hold")):
        with h5py.File(path, "a") as file:
            del file["actions"]
            file.create_dataset("actions", shape, np.float32, chunks=(10, 3))
        with pytest.raises(DataError, match=said):
            read_d4rl(path, HOPPER)


def goal_dataset() -> Dataset:
    rng = np.random.default_rng(3)
    observations, following = (
        {
            key: rng.normal(size=(50, size)).astype(np.float32)
            for key, size in (("observation", 4), ("achieved_goal", 2), ("desired_goal", 2))
        }
        for _ in range(2)
    )
    flat = load_sample()
    ends = np.zeros(50, bool)
    ends[[9, 30, 49]] = True
    discounts = np.ones(50, np.float32)
    discounts[30] = 0
    return Dataset(
        observations=observations,
        actions=rng.uniform(-1, 1, (50, 2)).astype(np.float32),
        rewards=rng.normal(size=50).astype(np.float32),
        next_observations=following,
        discounts=discounts,
        episode_ends=ends,
        metadata=flat,
        extras={"source_row": np.arange(50), "goal": rng.normal(size=(50, 2)).astype(np.float32)},
    )


def load_sample() -> Any:
    from rlopt.data import Metadata

    return Metadata(
        env="PointMaze_UMaze-v3", generator="test", seed=5, reference_returns=(0.5, 100), versions={"numpy": "2"},
        notes=("one", "two"), action_repeat=2,
    )  # fmt: skip


def test_written_files_read_back_exactly_and_serve_others(tmp_path: Path) -> None:
    data = goal_dataset()
    path = write_d4rl(data, tmp_path / "deep" / "x.hdf5")
    back = load_dataset(path)
    assert back.metadata == data.metadata
    for name, column in data.columns().items():
        np.testing.assert_equal(getattr(back, name), column)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["observations"], data.observations["observation"])
        assert file["terminals"].dtype == bool and np.flatnonzero(file["timeouts"]).tolist() == [9, 49]
    assert [entry.name for entry in path.parent.iterdir()] == ["x.hdf5"]
    with pytest.raises(DataError, match="--env cannot be given here"):
        load_dataset(path, env="Hopper-v5")


@pytest.mark.parametrize("name", ["actions", "rlopt/manifest", "infos/source_row", "rlopt/observations/achieved_goal"])
def test_a_changed_value_in_a_written_file_is_seen(tmp_path: Path, name: str) -> None:
    path = write_d4rl(goal_dataset(), tmp_path / "x.hdf5")
    with h5py.File(path, "a") as file:
        file[name][3] = 0 if name != "rlopt/manifest" else ord("x")
    with pytest.raises(DataError, match="damaged"):
        load_dataset(path)


def test_without_timeouts_the_row_that_timed_out_is_left_out_behind_a_terminal_too(tmp_path: Path) -> None:
    arrays = gym_arrays(18, terminals=(3,))
    del arrays["timeouts"]
    # rows 0-3 end in a terminal; rows 4-8, 9-13 are episodes of five steps, the limit; 14-17 are cut by the file's end
    data = read_d4rl(write_file(tmp_path / "x.hdf5", arrays), HOPPER, max_episode_steps=5)
    assert data.extras["source_row"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 16]
    inside = data.discounts == 1
    np.testing.assert_array_equal(data.next_observations[inside, 0], data.observations[inside, 0] + 1)
    assert noted(data, "one short behind a terminal")
