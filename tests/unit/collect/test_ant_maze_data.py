"""Ant-maze data of our own: the trot goes where it is sent, walks follow the maze, and end as the task does."""

import numpy as np
import pytest

from rlopt.collect import generate
from rlopt.collect.ant_maze import FREQUENCY, STEP, landmarks, trot, upright
from rlopt.envs.make import make_env
from rlopt.envs.tasks.mazes import Maze
from rlopt.errors import ConfigError

pytest.importorskip("gymnasium_robotics")


@pytest.mark.parametrize("direction", [0.0, 0.8, 2.0, -1.9])
def test_the_trot_goes_where_it_is_sent(direction: float) -> None:
    env = make_env("rlopt/AntMaze_UMaze-v0", n_envs=1, seed=0, backend="gymnasium")
    env.reset()
    ant = env.envs[0].unwrapped.ant_env
    ant.set_state(np.concatenate(([20.0, 20.0], ant.init_qpos[2:])), np.zeros(14))  # outside, far from all walls
    for step in range(80):
        observation = np.concatenate((ant.data.qpos, ant.data.qvel))
        action = trot(observation[None], np.array([direction]), np.array([2 * np.pi * FREQUENCY * STEP * step]))
        ant.step(action[0])
    env.close()
    moved = ant.data.qpos[:2] - 20
    along = moved @ [np.cos(direction), np.sin(direction)]
    assert along > 2 and along > 1.5 * abs(moved @ [-np.sin(direction), np.cos(direction)])
    assert upright(np.concatenate((ant.data.qpos, ant.data.qvel))) > 0.9


def test_play_walks_between_corners_and_dead_ends() -> None:
    assert landmarks(Maze.from_id("rlopt/AntMaze_UMaze-v0")).tolist() == [[1, 1], [1, 3], [3, 1], [3, 3]]
    crossing = Maze([[1] * 5, [1, 1, 0, 1, 1], [1, 0, 0, 0, 1], [1, 1, 0, 1, 1], [1] * 5])
    assert len(landmarks(crossing)) == 5
    assert landmarks(Maze([[1] * 5, [1, 0, 0, 0, 1], [1] * 5])).tolist() == [[1, 1], [1, 3]]


def test_walks_stay_in_the_maze_and_end_at_the_goal() -> None:
    data = generate("antmaze-umaze-play", 1500, seed=0)
    maze = Maze.from_id(data.metadata.env)
    assert all(maze.is_free(cell) for cell in maze.xy_to_cell(data.observations[:, :2]))
    goal = maze.cell_to_xy((3, 1))
    arrived = np.linalg.norm(data.next_observations[:, :2] - goal, axis=1) <= 0.45
    assert np.array_equal(data.rewards, arrived) and np.array_equal(data.discounts == 0, arrived)
    assert data.episode_ends.sum() > 3
    for rows in data.episodes()[:-1]:
        assert rows.stop - rows.start > 20  # none begins at its end
    for rows in data.episodes():
        inside = slice(rows.start, rows.stop - 1)
        assert np.array_equal(data.next_observations[inside], data.observations[rows.start + 1 : rows.stop])
        assert (data.observations[rows.start, 15:] == 0).all()  # at rest
    assert max(rows.stop - rows.start for rows in data.episodes()) <= 700
    with pytest.raises(ConfigError, match="noise must be"):
        generate("antmaze-umaze-play", 10, noise=float("nan"))
