"""Trajectories as people write them: in memory, in .npz files of many layouts, in parquet tables."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rlopt.data import Demonstrations, check_spaces, load_dataset, load_demonstrations
from rlopt.data.checks import doubts
from rlopt.envs.settings import EnvSettings
from rlopt.errors import DataError

LENGTHS = (4, 4, 4)


def episodes(successors: bool = False, last: bool = True) -> list[dict[str, Any]]:
    """Three episodes of four steps; observation t of episode e is (100 e + t, -t), float64. The second one ends."""
    found = []
    for index, length in enumerate(LENGTHS):
        steps = np.arange(length + 1, dtype=np.float64)
        observations = np.stack([100 * index + steps, -steps], axis=1)
        episode: dict[str, Any] = {
            "observations": observations if last else observations[:-1],
            "actions": np.sin(np.arange(length))[:, None] + index / 10,
            "rewards": np.arange(length),
            "terminated": index == 1,
        }
        if successors:
            episode |= {"observations": observations[:-1], "next_observations": observations[1:]}
        found.append(episode)
    return found


def flat(name: str, parts: list[dict[str, Any]] | None = None) -> np.ndarray:
    return np.concatenate([part[name] for part in parts or episodes(last=False)])


def check_whole(data: Demonstrations) -> None:
    """All transitions with their successors, and the second episode's true end."""
    assert data.episode_ends.nonzero()[0].tolist() == [3, 7, 11] and (data.discounts == 0).nonzero()[0].tolist() == [7]
    assert isinstance(data.observations, np.ndarray) and data.observations.dtype == np.float32
    assert data.next_observations[:, 0].tolist() == [100 * e + t + 1 for e in range(3) for t in range(4)]
    assert data.actions.dtype == np.float32 and np.allclose(data.actions, flat("actions"))


def check_cut(data: Demonstrations, ends: tuple[int, ...] = (2, 6, 9)) -> None:
    """Without the last transitions of the episodes that were cut, whose successors nobody wrote down."""
    assert data.episode_ends.nonzero()[0].tolist() == list(ends)
    inside = ~data.episode_ends
    assert np.array_equal(data.next_observations[inside, 0], data.observations[inside, 0] + 1)
    assert any("left out" in note for note in data.metadata.notes)


@pytest.mark.parametrize("successors", [False, True])
@pytest.mark.parametrize("as_object", [False, True])
def test_trajectories_in_memory(successors: bool, as_object: bool) -> None:
    given: list[Any] = episodes(successors)
    if as_object:  # as the imitation library's
        names = {"observations": "obs", "actions": "acts", "rewards": "rews"}
        given = [SimpleNamespace(**{names.get(key, key): part for key, part in one.items()}) for one in given]
    data = Demonstrations.from_trajectories(given, env="Walk-v0", action_repeat=2)
    check_whole(data)
    assert (data.metadata.env, data.metadata.action_repeat, data.metadata.expert_return) == ("Walk-v0", 2, 6.0)


def test_trajectories_of_dict_observations_images_and_choices() -> None:
    steps = np.arange(5)
    camera = (steps[:, None, None, None] * np.ones((1, 3, 2, 2))).astype(np.uint8)
    one = {"obs": {"camera": camera, "arm": np.float64(steps)[:, None]}, "acts": np.stack([steps[:-1] % 3] * 2, axis=1)}
    data = Demonstrations.from_trajectories([one, one], ends="terminated")
    assert isinstance(data.observations, dict) and data.observations["camera"].dtype == np.uint8
    assert data.next_observations["arm"][:, 0].tolist() == [1, 2, 3, 4] * 2  # type: ignore[index]
    assert data.actions.shape == (8, 2) and data.actions.dtype == np.int64 and data.discounts.sum() == 6
    assert not data.metadata.has_rewards
    space = spaces.Dict(camera=spaces.Box(0, 255, (3, 2, 2), np.uint8), arm=spaces.Box(-9, 9, (1,)))
    check_spaces(data, space, spaces.MultiDiscrete([3, 4]), "arm")
    with pytest.raises(DataError, match=r"not choices among \[2, 4\]"):
        check_spaces(data, space, spaces.MultiDiscrete([2, 4]), "arm")


ONE_AFTER_ANOTHER = {"observations": flat("observations"), "actions": flat("actions")}
ENDS = np.tile([0.0, 0, 0, 1], 3)
TRUE = np.repeat([False, True, False], 4) & (ENDS > 0)
FOLLOWING = {"next_observations": flat("next_observations", episodes(successors=True))}
LAYOUTS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "dones": ({**ONE_AFTER_ANOTHER, "dones": ENDS}, (2, 5, 8)),
    "d4rl": ({**ONE_AFTER_ANOTHER, "terminals": TRUE, "timeouts": (ENDS > 0) & ~TRUE}, (2, 6, 9)),
    "gymnasium": ({**ONE_AFTER_ANOTHER, "terminated": TRUE, "truncated": (ENDS > 0) & ~TRUE}, (2, 6, 9)),
    "dones and timeouts": ({**ONE_AFTER_ANOTHER, "dones": ENDS, "timeouts": (ENDS > 0) & ~TRUE}, (2, 6, 9)),
    "starts": ({**ONE_AFTER_ANOTHER, "episode_starts": np.roll(ENDS, 1)}, (2, 5, 8)),
    "numbers": ({"obs": flat("observations"), "acts": flat("actions"), "episode": np.repeat([5, 2, 9], 4)}, (2, 5, 8)),
    "stacked": (
        {name: np.stack([one[name] for one in episodes(last=False)]) for name in ("observations", "actions")},
        (2, 5, 8),
    ),
    "nothing": ({"obs": flat("observations"), "acts": flat("actions")}, (10,)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_npz_files(name: str, tmp_path: Path) -> None:
    arrays, ends = LAYOUTS[name]
    np.savez(tmp_path / "own.npz", **arrays)
    data = load_demonstrations(tmp_path / "own.npz")
    assert data.episode_ends.nonzero()[0].tolist() == list(ends)
    if name != "nothing":
        check_cut(data, ends)
    assert (data.discounts == 0).sum() == (name in ("d4rl", "gymnasium", "dones and timeouts"))
    assert len(load_dataset(tmp_path / "own.npz")) == len(data)


def test_layouts_that_say_all(tmp_path: Path) -> None:
    whole = {**ONE_AFTER_ANOTHER, **FOLLOWING, "terminals": TRUE, "timeouts": (ENDS > 0) & ~TRUE}
    np.savez(tmp_path / "flat.npz", **whole)
    check_whole(load_demonstrations(tmp_path / "flat.npz"))
    stacked = {name: np.stack([one[name] for one in episodes()]) for name in ("observations", "actions")}
    terminated = TRUE.reshape(3, 4)
    np.savez(tmp_path / "stacked.npz", obs=stacked["observations"], acts=stacked["actions"], terminals=terminated)
    check_whole(load_demonstrations(tmp_path / "stacked.npz"))
    np.savez(tmp_path / "one.npz", obs=stacked["observations"][0], acts=stacked["actions"][0])
    assert load_demonstrations(tmp_path / "one.npz").next_observations[-1, 0] == 4  # type: ignore[call-overload]
    # Which ends are true ones is told as for other files.
    np.savez(tmp_path / "dones.npz", **ONE_AFTER_ANOTHER, dones=ENDS)
    data = load_demonstrations(tmp_path / "dones.npz", ends="terminated")
    assert len(data) == 12 and (data.discounts == 0).sum() == 3


def test_parquet_tables(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "observation.state": flat("observations").tolist(),
        "action": flat("actions").tolist(),
        "episode_index": np.repeat([0, 1, 2], 4),
        "next.done": ENDS > 0,
        "timestamp": np.arange(12.0),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "own.parquet")
    check_cut(load_demonstrations(tmp_path / "own.parquet"), (2, 5, 8))
    assert len(load_dataset(tmp_path / "own.parquet")) == 9
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "own.parquet").read_bytes()[:200])
    with pytest.raises(DataError, match="not a readable parquet file"):
        load_demonstrations(tmp_path / "cut.parquet")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"obs": np.zeros((4, 2)), "states": np.zeros((4, 2)), "acts": np.zeros((4, 1))}, "obs and states"),
        ({"obs": np.zeros((7, 2)), "acts": np.zeros((4, 1))}, "7 observations and 4 actions"),
        ({"obs": np.zeros((0, 2)), "acts": np.zeros((0, 1))}, "no transition"),
        ({"obs": np.full((4, 2), np.nan), "acts": np.zeros((4, 1))}, "NaN"),
        ({"obs": np.zeros((4, 2)), "acts": np.zeros((4, 1)), "dones": np.arange(4)}, "not all 0 or 1"),
        ({"foo": np.zeros(3)}, "it has foo: observations .* are needed; say which they are with --columns"),
        ({"obs": np.array([[1], None], object), "acts": np.zeros((2, 1))}, "a pickle"),
    ],
)
def test_files_that_cannot_be_read_say_why(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_demonstrations(tmp_path / "own.npz")


def test_trajectories_that_cannot_be_used_say_why() -> None:
    one = episodes()[0]
    cases: list[tuple[list[Any], str]] = [
        ([], "no trajectory"),
        ([{"observations": one["observations"]}], "needs observations"),
        ([{**one, "rewards": [1.0]}], "trajectory 0 has 1 rewards and 4 actions"),
        ([{**one, "terminated": [True, False, False, True]}], "continues after a true end"),
        ([one, {**one, "observations": np.zeros((5, 3))}], "rows of different shapes"),
        ([{"obs": [[1.0, 2.0]], "acts": [[0.0]]}], "every episode is one observation"),
    ]
    for given, message in cases:
        with pytest.raises(DataError, match=message):
            Demonstrations.from_trajectories(given)


def test_actions_slightly_beyond_the_bounds_can_be_cut() -> None:
    given = [{**one, "actions": 1.005 * np.ones((4, 1))} for one in episodes()]
    data = Demonstrations.from_trajectories(given)
    box = spaces.Box(-9, 999, (2,)), spaces.Box(-1, 1, (1,))
    with pytest.raises(DataError, match="--clip-actions"):
        check_spaces(data, *box, "Walk-v0")
    cut = data.clip_actions(-1, np.ones(1))
    check_spaces(cut, *box, "Walk-v0")
    assert cut.actions.tolist() == [[1.0]] * 12 and "12 of 12 actions" in cut.metadata.notes[-1]
    assert data.clip_actions(-2, 2).metadata == data.metadata
    with pytest.raises(DataError, match="choices"):
        Demonstrations.from_trajectories([{"obs": np.zeros((3, 1)), "acts": np.arange(3)}]).clip_actions(0, 1)


UNEQUAL = (2, 4, 3)


def unequal(last: bool) -> list[dict[str, Any]]:
    """The episodes cut to other lengths."""
    more = int(last)
    return [
        {
            "observations": part["observations"][: n + more],
            "actions": part["actions"][:n],
            "rewards": part["rewards"][:n],
        }
        for part, n in zip(episodes(), UNEQUAL, strict=True)
    ]


def padded(parts: list[np.ndarray]) -> np.ndarray:
    longest = max(map(len, parts))
    return np.stack([np.pad(part, [(0, longest - len(part)), *[(0, 0)] * (part.ndim - 1)]) for part in parts])


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("join", [padded, np.concatenate])
def test_lengths_say_where_episodes_end(join: Any, last: bool, tmp_path: Path) -> None:
    parts = unequal(last)
    arrays = {name: join([part[name] for part in parts]) for name in parts[0]}
    np.savez(tmp_path / "x.npz", lengths=UNEQUAL, **arrays)
    data = load_demonstrations(tmp_path / "x.npz")
    lengths = UNEQUAL if last else [n - 1 for n in UNEQUAL]  # without the successor of its last row
    assert [rows.stop - rows.start for rows in data.episodes()] == list(lengths)
    wanted = np.concatenate([part["actions"][:n] for part, n in zip(parts, lengths, strict=True)])
    assert np.allclose(data.actions, wanted) and np.all(data.next_observations[:, 0] == data.observations[:, 0] + 1)


def test_a_length_of_something_else_changes_nothing(tmp_path: Path) -> None:
    parts = unequal(False)
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    episode = np.repeat(np.arange(3), UNEQUAL)
    np.savez(tmp_path / "with.npz", length=np.arange(9) / 7, episode=episode, **arrays)
    np.savez(tmp_path / "without.npz", episode=episode, **arrays)
    found, wanted = (load_demonstrations(tmp_path / f"{name}.npz") for name in ("with", "without"))
    assert np.array_equal(found.actions, wanted.actions) and np.array_equal(found.episode_ends, wanted.episode_ends)
    alone = Demonstrations.from_trajectories([part | {"length": len(part["actions"])} for part in unequal(True)])
    assert [rows.stop - rows.start for rows in alone.episodes()] == list(UNEQUAL)


def test_padding_without_lengths_and_lengths_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    parts = unequal(True)
    arrays = {name: padded([part[name] for part in parts]) for name in parts[0]}
    for lengths, said in ((None, "ends with 2 rows of zeros.*add the array lengths"), ((2, 9, 3), "do not fit")):
        np.savez(tmp_path / "x.npz", **arrays, **({} if lengths is None else {"lengths": lengths}))
        with pytest.raises(DataError, match=said):
            load_demonstrations(tmp_path / "x.npz")


def test_the_command_for_a_file_of_objects_keeps_its_episodes(tmp_path: Path) -> None:
    parts = unequal(True)
    arrays = {}
    for name in parts[0]:
        arrays[name] = np.empty(len(parts), object)
        arrays[name][:] = [part[name] for part in parts]
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError) as error:
        load_demonstrations(tmp_path / "x.npz")
    command = str(error.value).partition("run ")[2].partition(", then give")[0]
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True)
    data = load_demonstrations(tmp_path / "x-plain.npz")
    assert [rows.stop - rows.start for rows in data.episodes()] == list(UNEQUAL)


def test_doubtful_observations_and_actions_are_noted() -> None:
    box = spaces.Box(-np.ones(2, np.float32), np.array([1, 50], np.float32))
    motor = spaces.Box(-4, 4, (1,))
    rows = [[0.5, 20], [-0.5, 40], [0.1, 0]]
    for order, actions, notes in (
        ([0, 1], [[0.5], [2], [3]], 0),
        ([1, 0], [[0.5], [2], [3]], 1),
        ([1, 0], [[0.5], [1], [-1]], 2),
    ):
        given = {"observations": np.array(rows)[:, order], "actions": np.array(actions[:2])}
        data = Demonstrations.from_trajectories([given | {"actions": np.array(actions[:2])}])
        found = doubts(data, box, motor, "Arm-v0")
        assert len(found) == notes, found


def test_a_dict_environment_s_parts_are_named() -> None:
    space = spaces.Dict(angle=spaces.Box(-1, 1, (2,)), goal=spaces.Box(-1, 1, (1,)))
    data = Demonstrations.from_trajectories(episodes())
    with pytest.raises(DataError, match=r"angle \(2,\), goal \(1,\).*observations/angle.*FlattenObservation"):
        check_spaces(data, space, spaces.Box(-2, 2, (1,)), "Arm-v0")


def test_a_module_before_an_id_makes_no_other_environment() -> None:
    box, motor = spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(-1.5, 1.5, (1,))
    data = Demonstrations.from_trajectories(episodes(), env="Walk-v0")
    data.check_fits(EnvSettings("mine:Walk-v0"), box, motor)
    with pytest.raises(DataError, match="of Walk-v0, not of mine:Run-v0"):
        data.check_fits(EnvSettings("mine:Run-v0"), box, motor)
    assert repr(data) == "Demonstrations(Walk-v0, 12 transitions in 3 episodes)"
