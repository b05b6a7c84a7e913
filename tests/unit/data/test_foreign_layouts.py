"""Layouts of other people's files, each made by hand after its format's documentation, against one set of episodes.

Three episodes of 4, 3 and 5 transitions; the observation of step t of episode e is (10 e + t, -t), the action
(sin(e + t), cos(e + t)) / 2, the reward t + e / 10. The second episode truly ends, the others are cut.
"""

import dataclasses
import json
import pickle
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from safetensors.numpy import save_file

from rlopt.cli.main import main
from rlopt.data import load_dataset
from rlopt.data.description import describe
from rlopt.errors import DataError

LENGTHS = (4, 3, 5)
EPISODE, STEP = np.repeat(np.arange(3), LENGTHS), np.concatenate([np.arange(n) for n in LENGTHS])
LAST = np.isin(np.arange(12), (3, 6, 11))
TERMINAL, TIMEOUT = LAST & (EPISODE == 1), LAST & (EPISODE != 1)


def observation(episode: Any, step: Any) -> np.ndarray:
    return np.stack([10.0 * np.asarray(episode) + step, -1.0 * np.asarray(step)], axis=-1)


OBS, NEXT = observation(EPISODE, STEP), observation(EPISODE, STEP + 1)
ACT = np.stack([np.sin(EPISODE + STEP), np.cos(EPISODE + STEP)], axis=1) / 2
REW = STEP + EPISODE / 10
ROWS = [slice(0, 4), slice(4, 7), slice(7, 12)]
WHOLE = [observation(e, np.arange(n + 1)) for e, n in enumerate(LENGTHS)]
"""T + 1 observations an episode."""


@dataclass
class Layout:
    """A way to write the episodes."""

    write: Callable[[Path], Path]
    dropped: tuple[int, ...] = ()
    """Rows whose successor the layout does not hold."""
    terminals: bool = True
    """Whether it says which ends are true."""
    rewards: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    key: str = ""
    """Of a dictionary observation in which these observations lie."""


CUT = tuple(np.flatnonzero(TIMEOUT).tolist())
ALL_LAST = tuple(np.flatnonzero(LAST).tolist())


def npz(**arrays: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "x.npz", **arrays)
        return folder / "x.npz"

    return write


def hdf5(**arrays: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with h5py.File(folder / "x.hdf5", "w") as file:
            for name, array in arrays.items():
                file[name.replace("__", "/")] = array
        return folder / "x.hdf5"

    return write


def table(name: str, **columns: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        if name.endswith(".csv"):
            rows = zip(*columns.values(), strict=True)
            lines = [",".join(columns), *(",".join(str(value) for value in row) for row in rows)]
            (folder / name).write_text("\n".join(lines) + "\n")
        elif name.endswith(".jsonl"):
            rows = zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True)
            lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
            (folder / name).write_text("\n".join(lines))
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            lists = {key: column if isinstance(column, list) else np.asarray(column).tolist()
                     for key, column in columns.items()}  # fmt: skip
            parquet.write_table(pyarrow.table(lists), folder / name)
        return folder / name

    return write


def numbered(**columns: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{name}_{index}": column[:, index] for name, column in columns.items() for index in range(column.shape[1])}


def apart(column: np.ndarray) -> list[Any]:
    """A list an episode."""
    return [column[rows].tolist() for rows in ROWS]


def robomimic(folder: Path) -> Path:
    """data/demo_i with obs and next_obs groups, dones at the ends, and the simulator's states."""
    with h5py.File(folder / "low_dim.hdf5", "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        for episode, rows in enumerate(ROWS):
            group = file.create_group(f"data/demo_{episode}")
            group["obs/object"], group["next_obs/object"] = OBS[rows], NEXT[rows]
            group["actions"], group["rewards"] = ACT[rows], REW[rows]
            group["dones"], group["states"] = LAST[rows].astype(int), np.zeros((LENGTHS[episode], 9))
        file["mask/train"] = np.array([b"demo_0", b"demo_1"])
    return folder / "low_dim.hdf5"


def maniskill(folder: Path) -> Path:
    """traj_i with T + 1 observations, terminated and truncated."""
    with h5py.File(folder / "trajectory.h5", "w") as file:
        for episode, rows in enumerate(ROWS):
            group = file.create_group(f"traj_{episode}")
            group["obs"], group["actions"], group["rewards"] = WHOLE[episode], ACT[rows], REW[rows]
            group["terminated"], group["truncated"] = TERMINAL[rows], TIMEOUT[rows]
            group["env_states/actors"] = np.zeros((LENGTHS[episode] + 1, 13))
    return folder / "trajectory.h5"


def d3rlpy(folder: Path) -> Path:
    """Numbered columns, rewards (T, 1), one flag an episode."""
    with h5py.File(folder / "dataset.h5", "w") as file:
        file["columns"] = [b"observations", b"actions", b"rewards", b"terminated"]
        for episode, rows in enumerate(ROWS):
            file[f"observations_{episode}"], file[f"actions_{episode}"] = OBS[rows], ACT[rows]
            file[f"rewards_{episode}"], file[f"terminated_{episode}"] = REW[rows][:, None], bool(episode == 1)
        file["total_size"], file["version"] = 3, b"2.1"
    return folder / "dataset.h5"


def ogbench(folder: Path) -> Path:
    """A row more an episode, which holds an observation alone; terminals mark that row, whatever ended it."""
    actions = np.concatenate([np.concatenate([ACT[rows], np.zeros((1, 2))]) for rows in ROWS])
    terminals = np.concatenate([np.arange(n + 1) == n for n in LENGTHS])
    qpos = np.concatenate(WHOLE)
    return npz(observations=qpos, actions=actions, terminals=terminals, qpos=qpos, qvel=qpos)(folder)


def drq(folder: Path) -> Path:
    """A file an episode; the action and reward of a row led to its observation."""
    (folder / "buffer").mkdir()
    for episode, rows in enumerate(ROWS):
        zero = np.zeros((1, 2))
        np.savez(
            folder / "buffer" / f"20260101T000000_{episode}_{LENGTHS[episode]}.npz",
            observation=WHOLE[episode],
            action=np.concatenate([zero, ACT[rows]]),
            reward=np.concatenate([zero[:, :1], REW[rows][:, None]]),
            discount=1.0 - np.concatenate([zero[:, :1], TERMINAL[rows][:, None]]),
        )
    return folder / "buffer"


def lerobot(folder: Path) -> Path:
    """meta/info.json, and a row a step in parquet files."""
    for episode, rows in enumerate(ROWS):
        columns = {
            "observation.state": OBS[rows],
            "action": ACT[rows],
            "next.reward": REW[rows],
            "next.done": LAST[rows],
            "episode_index": EPISODE[rows],
            "frame_index": STEP[rows],
            "timestamp": STEP[rows] / 30,
        }
        table(f"lerobot/data/chunk-000/episode_{episode:06d}.parquet", **columns)(folder)
    (folder / "lerobot" / "meta").mkdir()
    (folder / "lerobot" / "meta" / "info.json").write_text(json.dumps({"codebase_version": "v2.1", "fps": 30}))
    return folder / "lerobot"


def safetensors(folder: Path) -> Path:
    arrays = {"obs": OBS, "action": ACT, "reward": REW, "next_obs": NEXT, "terminated": TERMINAL, "truncated": TIMEOUT}
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "x.safetensors")
    return folder / "x.safetensors"


D4RL = {"observations": OBS, "actions": ACT, "rewards": REW, "terminals": TERMINAL}
SUCCESSORS = {"next_observations": NEXT}
LAYOUTS: dict[str, Layout] = {
    "plain npz, dones": Layout(npz(observations=OBS, actions=ACT, rewards=REW, dones=LAST), ALL_LAST, terminals=False),
    "plain npz, all columns": Layout(npz(**D4RL, **SUCCESSORS, timeouts=TIMEOUT)),
    "npz of a replay buffer": Layout(
        npz(state=OBS, action=ACT, reward=REW[:, None], next_state=NEXT, done=LAST, timeout=TIMEOUT)
    ),
    "npz of a tutorial": Layout(npz(s=OBS, a=ACT, r=REW, s2=NEXT, d=LAST), terminals=False),
    "Stable-Baselines' expert npz": Layout(
        npz(obs=OBS, actions=ACT, rewards=REW, episode_starts=STEP == 0, episode_returns=np.zeros(3)), ALL_LAST,
        terminals=False,
    ),
    "D4RL's layout": Layout(hdf5(**D4RL, timeouts=TIMEOUT), CUT),
    "D4RL's layout with successors": Layout(hdf5(**D4RL, **SUCCESSORS, timeouts=TIMEOUT.astype(np.float32))),
    "D4RL's layout without timeouts": Layout(hdf5(**D4RL, **SUCCESSORS)),
    "HDF5 with groups": Layout(
        hdf5(observations__place=OBS, actions=ACT, rewards=REW, terminals=TERMINAL, timeouts=TIMEOUT), CUT, key="place"
    ),
    "robomimic": Layout(robomimic, terminals=False, key="object"),
    "ManiSkill": Layout(maniskill),
    "d3rlpy": Layout(d3rlpy, CUT),
    "OGBench": Layout(ogbench, terminals=False, rewards=False),
    "DrQ-v2 and ExORL": Layout(drq),
    "LeRobot": Layout(lerobot, ALL_LAST, terminals=False),
    "CSV": Layout(
        table("x.csv", **numbered(obs=OBS, action=ACT), reward=REW, terminated=TERMINAL, truncated=TIMEOUT), CUT
    ),
    "CSV with own names": Layout(
        table("x.csv", x=OBS[:, 0], v=OBS[:, 1], **numbered(u=ACT), score=REW, dead=TERMINAL, cut=TIMEOUT), CUT,
        options={"columns": {"observations": "x+v", "actions": "u_*", "rewards": "score", "terminals": "dead",
                             "timeouts": "cut"}},
    ),
    "parquet of lists": Layout(
        table("x.parquet", observations=OBS, actions=ACT, rewards=REW, dones=LAST), ALL_LAST, terminals=False
    ),
    "parquet of numbers": Layout(
        table("x.parquet", **numbered(observation=OBS, act=ACT), reward=REW, terminated=TERMINAL, episode_id=EPISODE),
        CUT,
    ),
    "parquet with an episode a row": Layout(
        table("x.parquet", observations=apart(OBS), actions=apart(ACT), rewards=apart(REW), terminals=apart(TERMINAL)),
        CUT,
    ),
    "JSON lines of RLlib": Layout(
        table("x.jsonl", obs=OBS, actions=ACT, rewards=REW, new_obs=NEXT, terminateds=TERMINAL, truncateds=TIMEOUT)
    ),
    "safetensors": Layout(safetensors),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_files_of_others_are_read_right(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    data = load_dataset(layout.write(tmp_path), **layout.options)
    kept = ~np.isin(np.arange(12), layout.dropped)
    ends = LAST[kept] | np.append(np.diff(np.flatnonzero(kept)) > 1, True)
    terminal = TERMINAL[kept] & layout.terminals
    sides = [getattr(data, side) for side in ("observations", "next_observations")]
    here, after = (side[layout.key] if layout.key else side for side in sides)
    np.testing.assert_allclose(here, OBS[kept])
    inside = ~terminal  # nobody reads what follows a true end
    np.testing.assert_allclose(after[inside], NEXT[kept][inside])
    np.testing.assert_allclose(data.actions, ACT[kept], atol=1e-6)
    np.testing.assert_allclose(data.rewards, REW[kept] * layout.rewards, atol=1e-6)
    np.testing.assert_array_equal(data.discounts == 0, terminal)
    np.testing.assert_array_equal(data.episode_ends, ends)


def test_at_least_twenty_layouts_are_in_the_table() -> None:
    assert len(LAYOUTS) >= 20


LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d7a' * 16}\nsize 12345\n"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("x.hdf5", LFS, "pointer of git-LFS and not the data: fetch them with git lfs pull"),
        ("x.npz", LFS, "pointer of git-LFS"),
        ("x.parquet", LFS, "pointer of git-LFS"),
        ("x.pkl", pickle.dumps([1]), "is a pickle, which runs code"),
        ("x.npy", b"\x93NUMPY", "put observations, actions, rewards and dones into one .npz"),
        ("x.tfrecord", b"\x00", "TensorFlow's records are not read"),
        ("x.mat", b"MATLAB 5.0", "MATLAB's files are not read"),
        ("x.csv", "1,2,3\n4,5,6\n", "its first line names no columns"),
        ("x.csv", "obs_0,action,name\n1,2,tom\n", "holds more than numbers"),
        ("x.jsonl", '{"obs": "BASE64", "actions": 1}\n', "holds texts"),
        ("x.jsonl", "{", "not a file of JSON lines"),
        ("x.safetensors", b"12345678{}", "damaged or was cut"),
    ],
)
def test_what_is_not_read_says_why(file: str, content: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / file
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=said) as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value) and str(caught.value).count(str(path)) == 1


def test_what_lacks_names_shows_its_keys_and_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = npz(position=OBS, torque=ACT, score=REW)(tmp_path)
    assert main(["data", "convert", str(path), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "it has position, score, torque" in said and "--columns observations=KEY,actions=KEY" in said
    columns = "observations=position,actions=torque,rewards=score"
    assert main(["data", "convert", str(path), str(tmp_path / "out"), "--columns", columns]) == 0
    assert len(load_dataset(tmp_path / "out")) == 11
    for wrong, cure in (("observations", "write observations=KEY"), ("obs=position", "unknown kind of column 'obs'"),
                        ("observations=positon,actions=torque", "did you mean 'position'")):  # fmt: skip
        assert main(["data", "convert", str(path), str(tmp_path / "b"), "--columns", wrong]) == 2
        assert cure in capsys.readouterr().err


def test_one_column_may_be_named_and_the_others_found(tmp_path: Path) -> None:
    data = load_dataset(npz(obs=OBS, acts=ACT, score=REW, dones=LAST)(tmp_path), columns={"rewards": "score"})
    np.testing.assert_allclose(data.rewards, REW[~LAST])
    np.testing.assert_allclose(data.observations, OBS[~LAST])


def test_numbered_letters_are_columns_of_one_thing(tmp_path: Path) -> None:
    """Not successors (s2) or ends (d0), which are single columns."""
    columns = {"s1": OBS[:, 0], "s2": OBS[:, 1], "a1": ACT[:, 0], "d0": np.ones(12), "episode": EPISODE}
    data = load_dataset(table("x.csv", **columns)(tmp_path))
    np.testing.assert_allclose(data.observations, OBS[~LAST])
    assert np.flatnonzero(data.episode_ends).tolist() == [2, 4, 8]


def notes_of(path: Path, **options: Any) -> str:
    return "; ".join(load_dataset(path, **options).metadata.notes)


def test_marked_cuts_are_never_taken_for_true_ends(tmp_path: Path) -> None:
    """A limit above every length makes true ends of dones alone, but not of OGBench's marks and of timeouts."""
    assert (load_dataset(npz(obs=OBS, acts=ACT, dones=LAST)(tmp_path), max_episode_steps=200).discounts == 0).sum() == 3
    data = load_dataset(ogbench(tmp_path), max_episode_steps=200)
    assert len(data) == 12 and data.discounts.all() and data.episode_ends.sum() == 3
    assert "columns not used: qpos, qvel" in " ".join(data.metadata.notes)
    cut = load_dataset(npz(obs=OBS, next_obs=NEXT, acts=ACT, timeouts=LAST)(tmp_path), max_episode_steps=200)
    assert len(cut) == 12 and cut.discounts.all() and cut.episode_ends.sum() == 3


def test_the_note_on_guessed_ends_counts_them(tmp_path: Path) -> None:
    path = npz(obs=OBS, next_obs=NEXT, acts=ACT, dones=LAST)(tmp_path)
    assert "2 of 3 ends are taken as true terminals" in notes_of(path, max_episode_steps=5)
    assert "no episode is shorter than 3 environment steps" in notes_of(path, max_episode_steps=3)


def test_a_plain_log_is_nobody_s_expert(tmp_path: Path) -> None:
    data = load_dataset(npz(**D4RL, timeouts=TIMEOUT)(tmp_path))
    assert "expert" not in describe(data) + repr(data.metadata) and "returns          mean" in describe(data)


def test_jaxrl_s_masks_and_ends_are_read(tmp_path: Path) -> None:
    path = npz(observations=OBS, next_observations=NEXT, actions=ACT, rewards=REW, masks=1.0 - TERMINAL,
               dones_float=LAST.astype(np.float32))(tmp_path)  # fmt: skip
    data = load_dataset(path)
    np.testing.assert_array_equal(data.discounts, 1.0 - TERMINAL)
    np.testing.assert_array_equal(data.episode_ends, LAST)
    assert not data.metadata.notes


def test_successors_that_are_not_the_next_row_are_noted(tmp_path: Path) -> None:
    columns = {"observations": OBS, "actions": ACT, "rewards": REW, "terminals": TERMINAL, "timeouts": TIMEOUT}
    assert "next_observations" not in notes_of(npz(**columns, next_observations=NEXT.astype(np.float32))(tmp_path))
    wrong = NEXT.copy()
    wrong[[0, 1, 6, 8]] += 1  # row 6 ends an episode
    assert "next_observations of 3 of 9 rows within episodes (33%)" in notes_of(
        npz(**columns, next_observations=wrong)(tmp_path)
    )


def swing(folder: Path, *parts: str) -> Path:
    """robomimic's layout of two steps in Pendulum, its observation in ``parts`` of one number or whole."""
    seen = np.array([[1, 0, 2], [0, 1, 3], [0, -1, 4]], float)
    columns = {part: seen if len(parts) == 1 else seen[:, index : index + 1] for index, part in enumerate(parts)}
    sides = {f"data__demo_0__obs__{part}": column[:-1] for part, column in columns.items()}
    sides |= {f"data__demo_0__next_obs__{part}": column[1:] for part, column in columns.items()}
    ends = {"data__demo_0__rewards": np.zeros(2), "data__demo_0__dones": np.array([0, 1])}
    return hdf5(**sides, **ends, data__demo_0__actions=np.array([[0.5], [-1]]))(folder)


def test_parts_are_joined_for_an_environment_of_flat_observations(tmp_path: Path) -> None:
    one = load_dataset(swing(tmp_path, "flat"), env="Pendulum-v1")
    assert np.asarray(one.observations).tolist() == [[1, 0, 2], [0, 1, 3]]
    three = swing(tmp_path, "x", "y", "w")
    with pytest.raises(DataError, match=r"dictionaries of w \(1,\), x \(1,\), y \(1,\).* --observation-keys w,x,y"):
        load_dataset(three, env="Pendulum-v1")
    joined = load_dataset(three, env="Pendulum-v1", observation_keys=("x", "y", "w"))
    np.testing.assert_array_equal(joined.observations, one.observations)
    np.testing.assert_array_equal(joined.next_observations, one.next_observations)
    with pytest.raises(DataError, match="unknown part of the observations 'z'"):
        load_dataset(three, env="Pendulum-v1", observation_keys=("x", "z"))


def test_columns_may_be_named_within_each_episode(tmp_path: Path) -> None:
    path = swing(tmp_path, "flat")
    data = load_dataset(path, columns={"observations": "obs/flat", "next_observations": "next_obs/flat"})
    assert np.asarray(data.next_observations).tolist() == [[0, 1, 3], [0, -1, 4]]
    with pytest.raises(DataError, match=r"episode 0: unknown column 'obs/flt': did you mean 'obs/flat'\?"):
        load_dataset(path, columns={"observations": "obs/flt"})
    whole = load_dataset(path, columns={"observations": "data/demo_0/obs/flat", "actions": "data/demo_0/actions"})
    assert len(whole) == 1


def test_scaled_actions_are_scaled_back(tmp_path: Path) -> None:
    """Pendulum's torques reach 2: (a + 1) / 2 of the way from -2 to 2."""
    columns = {"observations": np.tile(OBS, 2)[:, :3], "rewards": REW, "terminals": TERMINAL, "timeouts": TIMEOUT}
    path = npz(**columns, actions=np.clip(2.2 * ACT[:, :1], -1, 1))(tmp_path)
    assert "rlopt data convert IN OUT --env Pendulum-v1 --scale-actions" in notes_of(path, env="Pendulum-v1")
    scaled, plain = (load_dataset(path, env="Pendulum-v1", scale_actions=on) for on in (True, False))
    np.testing.assert_allclose(scaled.actions, 2 * plain.actions, rtol=1e-6)
    with pytest.raises(DataError, match=r"not in \[-1, 1\]; leave --scale-actions out"):
        load_dataset(npz(**columns, actions=3 * ACT[:, :1])(tmp_path), env="Pendulum-v1", scale_actions=True)
    with pytest.raises(DataError, match="it takes --env"):
        load_dataset(path, scale_actions=True)


def test_an_environment_that_is_not_here_is_a_note(tmp_path: Path) -> None:
    data = load_dataset(npz(**D4RL, timeouts=TIMEOUT)(tmp_path), env="Elsewhere-v0")
    assert data.metadata.env == "Elsewhere-v0" and "cannot be made here" in " ".join(data.metadata.notes)


def test_true_ends_alone_need_the_time_limit(tmp_path: Path) -> None:
    path = hdf5(**D4RL)(tmp_path)
    with pytest.raises(DataError, match=r"--env ID.* --max-episode-steps"):
        load_dataset(path)
    data = load_dataset(path, max_episode_steps=4)
    # Rows 3 and 10 are the fourth of their episodes, row 11 the last of the file.
    assert np.flatnonzero(data.episode_ends).tolist() == [2, 5, 8]
    np.testing.assert_array_equal(data.observations[:, 0], OBS[[0, 1, 2, 4, 5, 6, 7, 8, 9], 0])


def test_actions_are_bounded_by_the_environment_that_is_named(tmp_path: Path) -> None:
    """Pendulum's torques lie in [-2, 2]: those of D4RL's files lie in [-1, 1], which is no rule for others."""
    observations, torques = np.tile(OBS, 2)[:, :3], 4 * ACT[:, :1]
    path = hdf5(observations=observations, actions=torques, rewards=REW, terminals=TERMINAL, timeouts=TIMEOUT)(tmp_path)
    data = load_dataset(path, env="Pendulum-v1")
    assert np.abs(data.actions).max() > 1 and data.metadata.max_episode_steps == 200
    assert data.metadata.recorded_spaces()[1].high == 2  # type: ignore[union-attr]
    with h5py.File(path, "a") as file:
        file["actions"][0] = 2.5
    with pytest.raises(DataError, match=r"out of bounds in 1 of 10 rows.*those of Pendulum-v1; .* --clip-actions"):
        load_dataset(path, env="Pendulum-v1")
    assert load_dataset(path, env="Pendulum-v1", clip_actions=True).actions.max() == 2
    with pytest.raises(DataError, match=r"shape \(1,\), Hopper-v5 takes \(3,\)"):
        load_dataset(path, env="Hopper-v5")
    with pytest.raises(DataError, match="bounds for clipping actions are unknown: give --env") as caught:
        load_dataset(path, clip_actions=True)
    assert str(caught.value).count(str(path)) == 1


def test_episodes_with_nan_are_left_out_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    observations = OBS.copy()
    observations[5, 1] = np.nan
    path = npz(**{**D4RL, "observations": observations}, timeouts=TIMEOUT)(tmp_path)
    out = str(tmp_path / "out")
    assert main(["data", "convert", str(path), out]) == 2 and "rlopt data filter" in capsys.readouterr().err
    assert main(["data", "filter", str(path), out, "--drop-nan"]) == 0
    said = capsys.readouterr().out
    assert "1 of 3 episodes hold NaN or infinity and are left out, 3 of 10 rows" in said
    assert "2 episodes, 7 transitions: " in said
    data = load_dataset(out)
    np.testing.assert_allclose(data.observations[:, 0], OBS[[0, 1, 2, 7, 8, 9, 10], 0])
    assert np.flatnonzero(data.episode_ends).tolist() == [2, 6]


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        (["--min-return", "3.2"], ROWS[1:]),  # returns 6, 3.3 and 11, of which the first and last lose a step
        (["--max-return", "3.2"], ROWS[:1]),
        (["--min-length", "4"], ROWS[2:]),
        (["--best", "0.34"], ROWS[2:]),
        (["--episodes", "2"], ROWS[:2]),
    ],
)
def test_episodes_are_chosen_by_what_they_are(options: list[str], rows: list[slice], tmp_path: Path) -> None:
    """With the successors left out, returns are 3, 3.3 and 6.8, lengths 3, 3 and 4."""
    path = npz(**D4RL, timeouts=TIMEOUT)(tmp_path)
    assert main(["data", "filter", str(path), str(tmp_path / "out"), *options]) == 0
    kept = np.concatenate([np.arange(12)[part] for part in rows])
    kept = kept[~np.isin(kept, CUT)]
    data = load_dataset(tmp_path / "out")
    np.testing.assert_allclose(data.observations, OBS[kept])
    assert data.metadata.expert_return == pytest.approx(data.episode_returns().mean())  # type: ignore[attr-defined]


def test_a_table_that_unpacks_to_more_than_it_can_hold_is_refused(tmp_path: Path) -> None:
    """A million lists of ten zeros each take some hundred bytes there."""
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.zeros(10**7, np.float32)), 10)
    parquet.write_table(pyarrow.table({"obs": lists, "action": lists}), tmp_path / "x.parquet", compression="zstd")
    assert (tmp_path / "x.parquet").stat().st_size < 20_000
    with pytest.raises(DataError, match="more than the file can hold"):
        load_dataset(tmp_path / "x.parquet")


@pytest.mark.parametrize("double", [False, True])
def test_reading_takes_little_more_memory_than_what_is_read(double: bool, tmp_path: Path) -> None:
    """In numpy's arrays, which tracemalloc counts; HDF5's own buffers are small."""
    rows, kind = 40_000, np.float64 if double else np.float32
    wide, zeros = np.zeros((rows, 40), kind), np.zeros(rows, bool)
    cuts = np.arange(rows) % 100 == 99
    columns = {
        "observations": wide,
        "actions": wide[:, :4],
        "rewards": wide[:, 0],
        "terminals": zeros,
        "timeouts": cuts,
    }
    path = hdf5(**columns)(tmp_path)
    load_dataset(path)  # imports take memory too
    tracemalloc.start()
    data = load_dataset(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = sum(part.nbytes for part in (data.observations, data.next_observations, data.actions, data.rewards))
    assert peak < 1.8 * size


def test_filters_that_leave_nothing_or_choose_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = npz(**D4RL, timeouts=TIMEOUT)(tmp_path)
    for options, said in (([], "no condition given"), (["--min-return", "99"], "returns are 3 to 6.8")):
        assert main(["data", "filter", str(path), str(tmp_path / "out"), *options]) == 2
        assert said in capsys.readouterr().err
    data = load_dataset(path)
    from rlopt.data.filtering import filter_episodes

    assert filter_episodes(data) is data
    drawn = filter_episodes(data, episodes=2, seed=1)
    assert len(drawn.episodes()) == 2
    again = filter_episodes(data, episodes=2, seed=1)
    np.testing.assert_array_equal(drawn.rewards, again.rewards)
    assert dataclasses.replace(drawn.metadata, notes=()) != drawn.metadata


def test_an_unrelated_column_that_is_named_leaves_the_simulator_s_states_out(tmp_path: Path) -> None:
    data = load_dataset(robomimic(tmp_path), columns={"rewards": "rewards"})
    observations: Any = data.observations
    np.testing.assert_array_equal(observations["object"], np.concatenate([OBS[rows] for rows in ROWS]))


def test_masks_of_actions_are_no_ends(tmp_path: Path) -> None:
    masks = np.zeros((12, 3))
    path = npz(observations=OBS, next_observations=NEXT, actions=ACT, rewards=REW, dones=LAST, masks=masks)(tmp_path)
    assert (load_dataset(path, ends="truncated").discounts == 1).all()


def test_other_names_come_before_jaxrl_s(tmp_path: Path) -> None:
    path = npz(observations=OBS, next_observations=NEXT, actions=ACT, rewards=REW, dones=LAST, dones_float=0 * REW)
    np.testing.assert_array_equal(load_dataset(path(tmp_path)).episode_ends, LAST)


def test_what_is_said_of_ends_holds_for_ogbench_s_files_too(tmp_path: Path) -> None:
    assert (load_dataset(ogbench(tmp_path), ends="terminated").discounts == 0).sum() == 3
