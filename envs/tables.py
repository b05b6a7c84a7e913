"""The tasks of dm_control, and those whose EnvPool version is tested to be the same as its reference."""

from dataclasses import dataclass

_SUITE: dict[str, tuple[str, ...]] = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse", "two_poles", "three_poles"),
    "cheetah": ("run",),
    "dog": ("stand", "walk", "trot", "run", "fetch"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run", "run_pure_state"),
    "humanoid_CMU": ("stand", "walk", "run"),
    "lqr": ("lqr_2_1", "lqr_6_2"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("stand", "walk", "run"),
}
DM_CONTROL_TASKS = tuple(f"{domain}-{task}" for domain, tasks in _SUITE.items() for task in tasks)
"""Every ``<domain>-<task>`` of the dm_control suite, written down so that looking an id up imports nothing."""

DM_CONTROL_EPISODE_STEPS = 1000
"""The suite's episode length in agent steps before action repeat; every task but lqr has this limit of its own."""


@dataclass(frozen=True)
class PoolTask:
    """How EnvPool offers a task."""

    pool_id: str
    """EnvPool's id."""
    episode_steps: int
    """The task's own limit, in steps before action repeat."""
    keys: tuple[str, ...] = ()
    """dm_control tasks: the entries of EnvPool's observation dict that make dm_control's flat vector, in its order.
    EnvPool's dict has the union of the keys of all tasks of the domain, in an order of its own."""


_KEYS: dict[str, tuple[str, ...]] = {
    "acrobot": ("orientations", "velocity"),
    "ball_in_cup": ("position", "velocity"),
    "cartpole": ("position", "velocity"),
    "cheetah": ("position", "velocity"),
    "finger": ("position", "velocity", "touch", "target_position", "dist_to_target"),
    "hopper": ("position", "velocity", "touch"),
    "humanoid": ("joint_angles", "head_height", "extremities", "torso_vertical", "com_velocity", "velocity"),
    "pendulum": ("orientation", "velocity"),
    "point_mass": ("position", "velocity"),
    "quadruped": ("egocentric_state", "torso_velocity", "torso_upright", "imu", "force_torque"),
    "reacher": ("position", "to_target", "velocity"),
    "walker": ("orientations", "height", "velocity"),
}
_KEYS_OF_TASK: dict[str, tuple[str, ...]] = {
    "finger-spin": ("position", "velocity", "touch"),
    "humanoid-run_pure_state": ("position", "velocity"),
}
_NOT_IN_POOL = ("cartpole-two_poles", "cartpole-three_poles", "point_mass-hard", "quadruped-escape", "quadruped-fetch")
_GYMNASIUM_IN_POOL: dict[str, int] = {
    "Ant-v5": 1000,
    "HalfCheetah-v5": 1000,
    "Hopper-v5": 1000,
    "Humanoid-v5": 1000,
    "HumanoidStandup-v5": 1000,
    "InvertedDoublePendulum-v5": 1000,
    "InvertedPendulum-v5": 1000,
    "Reacher-v5": 50,
    "Swimmer-v5": 1000,
    "Walker2d-v5": 1000,
    "PointMaze_Open-v3": 300,
    "PointMaze_OpenDense-v3": 300,
    "PointMaze_UMaze-v3": 300,
    "PointMaze_UMazeDense-v3": 300,
    "PointMaze_Medium-v3": 600,
    "PointMaze_MediumDense-v3": 600,
    "PointMaze_Large-v3": 800,
    "PointMaze_LargeDense-v3": 800,
    "parking-v0": 500,
}


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _pool_tasks() -> dict[str, PoolTask]:
    tasks = {env_id: PoolTask(env_id, steps) for env_id, steps in _GYMNASIUM_IN_POOL.items()}
    for task in DM_CONTROL_TASKS:
        domain, _, name = task.partition("-")
        if domain in _KEYS and task not in _NOT_IN_POOL:
            pool_id = f"{_camel(domain)}{_camel(name)}-v1"
            keys = _KEYS_OF_TASK.get(task, _KEYS[domain])
            tasks[f"dm_control/{task}"] = PoolTask(pool_id, DM_CONTROL_EPISODE_STEPS, keys)
    return tasks


POOL_TASKS: dict[str, PoolTask] = _pool_tasks()
"""Environment id -> its EnvPool version, for the tasks whose parity the tests check."""
