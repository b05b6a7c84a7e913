"""Registers the tasks of our own: point mazes, soccer in the plane, and those that never end. Imports no simulator."""

from dataclasses import dataclass

import gymnasium


@dataclass(frozen=True)
class FixedGoalMaze:
    """A point maze of gymnasium-robotics with the goal cell that D4RL's maze2d of the same map has."""

    base: str
    """gymnasium-robotics' id, whose map and time limit are taken."""
    goal_cell: tuple[int, int]
    """Row and column."""
    episode_steps: int
    reference_returns: tuple[float, float]
    """Mean return of uniform random actions and of :class:`rlopt.collect.point_maze.GoalController`, 200 episodes each:
    ``python scripts/reproduce_guda.py references``."""


FIXED_GOAL_MAZES: dict[str, FixedGoalMaze] = {
    "rlopt/PointMaze_UMaze-v0": FixedGoalMaze("PointMaze_UMaze-v3", (1, 1), 300, (14.8, 228.7)),
    "rlopt/PointMaze_Medium-v0": FixedGoalMaze("PointMaze_Medium-v3", (6, 6), 600, (15.5, 473.6)),
    "rlopt/PointMaze_Large-v0": FixedGoalMaze("PointMaze_Large-v3", (7, 9), 800, (5.7, 621.8)),
}
"""Environment id -> what it is made of."""


@dataclass(frozen=True)
class FixedGoalAntMaze:
    """An ant maze of gymnasium-robotics with the start and the goal that D4RL's antmaze of the same map has."""

    base: str
    """gymnasium-robotics' id, whose map is taken."""
    goal_cell: tuple[int, int]
    """Row and column."""
    episode_steps: int
    start_cell: tuple[int, int] = (1, 1)


FIXED_GOAL_ANT_MAZES: dict[str, FixedGoalAntMaze] = {
    "rlopt/AntMaze_UMaze-v0": FixedGoalAntMaze("AntMaze_UMaze-v5", (3, 1), 700),
    "rlopt/AntMaze_Medium-v0": FixedGoalAntMaze("AntMaze_Medium-v5", (6, 6), 1000),
    "rlopt/AntMaze_Large-v0": FixedGoalAntMaze("AntMaze_Large-v5", (7, 9), 1000),
}
"""Environment id -> what it is made of."""

NEVER_ENDING: dict[str, str] = {
    "rlopt/RiverSwim-v0": "river_swim:RiverSwim",
    "rlopt/MixtureRiverSwim-v0": "river_swim:MixtureRiverSwim",
    "rlopt/AggregatedRiverSwim-v0": "river_swim:AggregatedRiverSwim",
    "rlopt/RandomLinear-v0": "river_swim:RandomLinear",
    "rlopt/AccessControl-v0": "queues:AccessControl",
    "rlopt/ServerAllocation-v0": "queues:ServerAllocation",
    "rlopt/TwoChoiceLoop-v0": "loops:TwoChoiceLoop",
    "rlopt/PuckWorld-v0": "puck_world:PuckWorld",
    "rlopt/Catcher-v0": "catcher:Catcher",
    "rlopt/Continuing-v0": "continuing:make_continuing",
}
"""Environment id -> where it is made, in :mod:`rlopt.envs.average_reward`; none has a time limit."""


def _register() -> None:
    for env_id, maker in NEVER_ENDING.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point=f"rlopt.envs.average_reward.{maker}")
    for env_id, maze in FIXED_GOAL_MAZES.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point="rlopt.envs.tasks.point_maze:make_fixed_goal_maze",
                max_episode_steps=maze.episode_steps,
                kwargs={"base": maze.base, "goal_cell": maze.goal_cell},
            )
    for env_id, ant_maze in FIXED_GOAL_ANT_MAZES.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point="rlopt.envs.tasks.ant_maze:make_fixed_goal_ant_maze",
                max_episode_steps=ant_maze.episode_steps,
                kwargs={"base": ant_maze.base, "start_cell": ant_maze.start_cell, "goal_cell": ant_maze.goal_cell},
            )
    if "rlopt/BallToGoal-v0" not in gymnasium.registry:
        entry_point = "rlopt.envs.tasks.ball_to_goal:BallToGoal"
        gymnasium.register("rlopt/BallToGoal-v0", entry_point=entry_point, max_episode_steps=200)


_register()
