"""maze2d files in PointMaze's frame: the map, and a replay of every transition in the simulator."""

from pathlib import Path
from typing import Any

import gymnasium
import gymnasium_robotics
import numpy as np
import pytest
from d4rl_files import maze2d_rollout, write_file

from rlopt.data import Dataset, read_d4rl, to_pointmaze
from rlopt.data.formats.maze2d import (
    GOALS,
    position_to_d4rl,
    position_to_pointmaze,
    vector_to_d4rl,
    vector_to_pointmaze,
)
from rlopt.errors import DataError

gymnasium.register_envs(gymnasium_robotics)

ENVS = {"umaze": "PointMaze_UMaze", "medium": "PointMaze_Medium", "large": "PointMaze_Large", "open": "PointMaze_Open"}
# D4RL's mazes, '#' a wall, 'G' the goal, row by row.
MAZES = {
    "umaze": ["#####", "#GOO#", "###O#", "#OOO#", "#####"],
    "medium": ["########", "#OO##OO#", "#OO#OOO#", "##OOO###", "#OO#OOO#", "#O#OO#O#", "#OOO#OG#", "########"],
    "large": [
        *("############", "#OOOO#OOOOO#", "#O##O#O#O#O#", "#OOOOOO#OOO#", "#O####O###O#", "#OO#O#OOOOO#"),
        *("##O#O#O#O###", "#OO#OOO#OGO#", "############"),
    ],
    "open": ["#######", "#OOOOO#", "#OOGOO#", "#OOOOO#", "#######"],
}


def make(maze: str, dense: bool = False) -> Any:
    return gymnasium.make(f"{ENVS[maze]}{'Dense' if dense else ''}-v3", disable_env_checker=True).unwrapped


@pytest.mark.parametrize("maze", MAZES)
def test_the_mazes_are_the_same_and_every_cell_lies_where_pointmaze_has_it(maze: str) -> None:
    env = make(maze)
    lines = MAZES[maze]
    shape = (len(lines), len(lines[0]))
    for row, line in enumerate(lines):
        for column, tile in enumerate(line):
            assert (tile == "#") == (env.maze.maze_map[row][column] == 1)
            centre = np.array([row - 0.2, column - 0.2])
            np.testing.assert_allclose(
                position_to_pointmaze(centre, shape), env.maze.cell_rowcol_to_xy(np.array([row, column])), atol=1e-12
            )
            if tile == "G":
                assert GOALS[maze] == (row, column)


def test_the_map_is_a_rotation_and_its_inverse_is_right() -> None:
    points = np.random.default_rng(0).normal(size=(50, 2))
    np.testing.assert_allclose(position_to_d4rl(position_to_pointmaze(points, (5, 8)), (5, 8)), points, atol=1e-12)
    np.testing.assert_array_equal(vector_to_d4rl(vector_to_pointmaze(points)), points)
    matrix = vector_to_pointmaze(np.eye(2)).T
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(2))
    assert np.linalg.det(matrix) == 1
    moved = position_to_pointmaze(points + np.array([0.3, -0.7]), (5, 8)) - position_to_pointmaze(points, (5, 8))
    np.testing.assert_allclose(moved, np.broadcast_to(vector_to_pointmaze(np.array([0.3, -0.7])), (50, 2)), atol=1e-12)


def simulated_file(path: Path, maze: str, steps: int, dense: bool) -> Path:
    """A file as D4RL recorded it: a walk of the simulator, hitting walls too, seen in D4RL's frame."""
    env = make(maze)
    env.reset(seed=3)
    rng = np.random.default_rng(3)
    shape = (len(MAZES[maze]), len(MAZES[maze][0]))
    rows: dict[str, list[Any]] = {"observations": [], "actions": []}
    direction = rng.uniform(-1, 1, 2)
    for step in range(steps):
        if step % 40 == 0:
            direction = rng.uniform(-1, 1, 2)
        action = np.clip(direction + 0.3 * rng.normal(size=2), -1, 1).astype(np.float32)
        state = np.concatenate((env.point_env.data.qpos, env.point_env.data.qvel))
        rows["observations"].append(np.concatenate((position_to_d4rl(state[:2], shape), vector_to_d4rl(state[2:]))))
        rows["actions"].append(vector_to_d4rl(action))
        env.step(action)
    observations = np.array(rows["observations"], np.float32)
    distance = np.linalg.norm(observations[:, :2] - np.array(GOALS[maze]), axis=1)
    timeouts = np.zeros(steps, bool)
    timeouts[[steps // 3, steps // 2]] = True
    goals = np.full((steps, 2), 1.0, np.float32) + np.arange(steps)[:, None] // (steps // 3) * np.float32([0.1, 0.2])
    return write_file(
        path,
        {
            "observations": observations,
            "actions": np.array(rows["actions"], np.float32),
            "rewards": (np.exp(-distance) if dense else distance <= 0.5).astype(np.float32),
            "terminals": np.zeros(steps, bool),
            "timeouts": timeouts,
            "infos/goal": goals,
            "infos/qpos": observations[:, :2],
            "infos/qvel": observations[:, 2:],
        },
    )


def replay_errors(data: Dataset, env: Any) -> np.ndarray:
    """The largest error of each transition when its state is set and its action taken in the simulator."""
    assert isinstance(data.observations, dict) and isinstance(data.next_observations, dict)
    errors = []
    for row in range(len(data)):
        state = data.observations["observation"][row].astype(np.float64)
        env.goal = data.observations["desired_goal"][row].astype(np.float64)
        env.point_env.set_state(state[:2], state[2:])
        env.point_env.data.qacc_warmstart[:] = 0
        following, reward, terminated, truncated, _ = env.step(data.actions[row])
        found = {key: np.abs(following[key] - data.next_observations[key][row]).max() for key in following}
        assert not terminated and not truncated and data.discounts[row] == 1
        distance = np.linalg.norm(following["achieved_goal"] - env.goal)
        reward_error = abs(reward - data.rewards[row]) if abs(distance - 0.45) > 1e-5 else 0.0
        errors.append(max(*found.values(), reward_error))
    return np.array(errors)


@pytest.mark.parametrize("maze", MAZES)
@pytest.mark.parametrize("goal", ["task", "recorded"])
def test_every_mapped_transition_is_what_the_simulator_does(tmp_path: Path, maze: str, goal: str) -> None:
    dense = goal == "recorded"
    version = "v0" if maze == "open" else "v1"
    path = simulated_file(tmp_path / "x.hdf5", maze, 600, dense)
    data = to_pointmaze(read_d4rl(path, f"maze2d-{maze}{'-dense' if dense else ''}-{version}"), goal)
    env = make(maze, dense)
    env.reset(seed=0)
    assert data.metadata.env == env.spec.id and data.metadata.generation == "rlopt"
    assert data.metadata.reference_returns is None and any("mapped from" in note for note in data.metadata.notes)
    errors = replay_errors(data, env)
    # float32 rounds positions of up to 6 by 2.4e-7; where a wall pushes back, its stiffness makes tens of that
    assert np.quantile(errors, 0.9) < 1e-5 and errors.max() < 1e-4, np.quantile(errors, (0.5, 0.9, 1))
    assert len(data) == 599 and len(data.episodes()) == 3


def test_recorded_goals_are_mapped_with_the_rest(tmp_path: Path) -> None:
    path = simulated_file(tmp_path / "x.hdf5", "medium", 90, False)
    raw = read_d4rl(path, "maze2d-medium-v1")
    data = to_pointmaze(raw, "recorded")
    assert isinstance(data.observations, dict)
    np.testing.assert_allclose(
        data.observations["desired_goal"], position_to_pointmaze(raw.extras["goal"], (8, 8)), atol=1e-6
    )
    np.testing.assert_allclose(data.extras["goal"], data.observations["desired_goal"], atol=1e-6)
    np.testing.assert_allclose(data.extras["qpos"], data.observations["achieved_goal"], atol=1e-6)


def test_the_data_of_another_maze_are_seen(tmp_path: Path) -> None:
    path = simulated_file(tmp_path / "x.hdf5", "large", 300, False)
    with pytest.raises(DataError, match=r"inside the walls of PointMaze_UMaze-v3.*another maze"):
        to_pointmaze(read_d4rl(path, "maze2d-umaze-v1"))
    data = to_pointmaze(read_d4rl(path, "maze2d-large-v1"))
    with pytest.raises(DataError, match="only D4RL's maze2d can be mapped"):
        to_pointmaze(data)


def test_recorded_goals_must_be_there(tmp_path: Path) -> None:
    arrays = maze2d_rollout(30)
    del arrays["infos/goal"]
    data = read_d4rl(write_file(tmp_path / "x.hdf5", arrays), "maze2d-umaze-v1")
    with pytest.raises(DataError, match="no infos/goal"):
        to_pointmaze(data, "recorded")
