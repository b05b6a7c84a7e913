"""Small data sets of mazes for the tests of augmentations."""

import functools

import gymnasium
import numpy as np

from rlopt.agents.guda.maze_domains import PointMaze
from rlopt.collect.generators import generate
from rlopt.data import Dataset, Metadata
from rlopt.envs.tasks.mazes import Maze
from rlopt.envs.tasks.own_tasks import FIXED_GOAL_MAZES


@functools.cache
def point_maze_data(name: str, n: int = 800) -> Dataset:
    return generate(f"pointmaze-{name}", n, seed=0, n_envs=1, backend="gymnasium")


def point_maze_domain(dataset: Dataset, **settings: bool) -> PointMaze:
    maze = Maze.from_id(dataset.metadata.env)
    return PointMaze(maze, maze.cell_to_xy(FIXED_GOAL_MAZES[dataset.metadata.env].goal_cell), **settings)


@functools.cache
def ant_maze_data(episodes: int = 3, length: int = 150) -> Dataset:
    """Random actions of full size: the ant falls, slides and kicks the floor."""
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    env = gymnasium.make("AntMaze_UMaze-v5", include_cfrc_ext_in_observation=False)
    generator = np.random.default_rng(0)
    before, actions, after = [], [], []
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        for _ in range(length):
            action = generator.uniform(-1, 1, 8).astype(np.float32)
            following = env.step(action)[0]
            before.append(np.concatenate((observation["achieved_goal"], observation["observation"])))
            after.append(np.concatenate((following["achieved_goal"], following["observation"])))
            actions.append(action)
            observation = following
    env.close()
    count = episodes * length
    ends = np.zeros(count, bool)
    ends[length - 1 :: length] = True
    return Dataset(
        np.array(before, np.float32),
        np.array(actions),
        np.zeros(count, np.float32),
        np.array(after, np.float32),
        np.ones(count, np.float32),
        ends,
        Metadata("AntMaze_UMaze-v5"),
    )
