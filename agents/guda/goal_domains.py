"""Parking, soccer in the plane and the Fetch robot as domains: tasks whose goal is part of the observation."""

from typing import Any

import numpy as np

from rlopt.agents.guda.augmentations import Augmentation, Reflect, RelabelGoal, Rotate, Translate
from rlopt.agents.guda.batch import Batch
from rlopt.agents.guda.domains import Domain, Layout
from rlopt.data.dataset import Dataset
from rlopt.envs.backends.pool_support import parking_reward
from rlopt.envs.flat import flatten
from rlopt.envs.tasks import ball_to_goal
from rlopt.errors import AugmentationError

_METRES = 100.0
"""highway-env divides positions by this,"""
_METRES_PER_SECOND = 5.0
"""and velocities by this."""


def parking_spots() -> np.ndarray:
    """The goals of highway-env's parking-v0, [28, 6] float32: x, y, vx, vy, cosine and sine of the heading, scaled."""
    x = np.arange(-26, 27, 4) / _METRES
    rows = [
        np.stack((x, np.full(14, side * 0.14), 0 * x, 0 * x, 0 * x, np.full(14, side)), axis=1) for side in (1.0, -1.0)
    ]
    return np.concatenate(rows).astype(np.float32)


class Parking(Domain):
    """parking-v0 of highway-env (or EnvPool), without other cars.

    Flat observation [12]: x, y (1/100 m), vx, vy (1/5 m/s), cosine and sine of the heading, and the goal in the same
    numbers. Action: acceleration and steering, in the car's frame. The car is a bicycle model on an even floor, so
    translations, rotations and mirrors are exact away from the walls.
    """

    name = "parking"
    width = 12
    goal_columns = slice(6, 12)
    layout = Layout(points=((0, 1),), vectors=((2, 3), (4, 5)), mirrored_actions=(1,))
    invalid_because = "the car was within reach of a wall, before or after the step"
    unusable_because = "the recorded car is within reach of a wall, where it may have crashed"
    SUCCESS_REWARD = -0.12
    REACH = 2.7
    """Metres from the car's centre to its corners, rounded up."""
    LOT = (34.5, 20.5)
    """Metres from the centre to the walls along x and y."""
    LOOK_AHEAD = 1 / 15
    """Seconds that the collision check looks ahead: one simulation step."""

    def augmentation(self) -> Augmentation:
        """Relabel the goal, move the end of the drive, turn about it: the paper's functions for parking."""
        return Augmentation(self, RelabelGoal(), Translate(), Rotate(), anchor="last")

    def usable(self, batch: Batch) -> np.ndarray:
        return self.valid(batch)

    def valid(self, batch: Batch) -> np.ndarray:
        return self._free(batch.observations) & self._free(batch.next_observations)

    def _free(self, rows: np.ndarray) -> np.ndarray:
        speed = _METRES_PER_SECOND * np.hypot(rows[:, 2], rows[:, 3])
        room = self.REACH + self.LOOK_AHEAD * speed
        inside = [np.abs(rows[:, axis]) * _METRES + room <= self.LOT[axis] for axis in (0, 1)]
        return inside[0] & inside[1]

    def positions(self, generator: np.random.Generator, count: int) -> np.ndarray:
        half = (np.array(self.LOT, np.float32) - np.float32(self.REACH)) / np.float32(_METRES)
        return (2 * generator.random((count, 2), dtype=np.float32) - 1) * half

    def goals(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """Uniform over the 28 spots."""
        spots = parking_spots()
        return spots[generator.integers(0, len(spots), count)]

    def outcome(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """highway-env's ``compute_reward``; the episode ends where it exceeds -0.12. A valid car has not crashed."""
        rewards = parking_reward(batch.next_observations[:, :6], batch.next_observations[:, self.goal_columns])
        return rewards.astype(np.float32), (rewards <= self.SUCCESS_REWARD).astype(np.float32)

    def achieved_goal(self, flat: np.ndarray) -> np.ndarray:
        return flat[:, :6]

    def simulator(self, env: Any = None) -> Any:
        from rlopt.agents.guda.simulators import EnvSimulator, make_registered, parking_state

        return EnvSimulator(make_registered("parking-v0") if env is None else env, parking_state, self.keys)


class BallToGoal(Domain):
    """``rlopt/BallToGoal-v0``: soccer in the plane.

    Flat observation [10]: robot x, y, cosine and sine of its heading, ball x, y, vx, vy, goal x, y. Action: forward, to
    the left, turn left, in the robot's frame. Apart from the field's border, all places and directions are alike, so
    translations, rotations and mirrors are exact. The goal stays where it is.

    :param dense: reward minus the distance of ball and goal, instead of 1 in the goal
    """

    name = "ball"
    width = 10
    goal_columns = slice(8, 10)
    layout = Layout(points=((4, 5), (0, 1)), vectors=((2, 3), (6, 7)), mirrored_actions=(1, 2))
    invalid_because = "robot or ball were off the field"
    unusable_because = "robot or ball are off the field"

    def __init__(self, dense: bool = False) -> None:
        self.dense = dense

    def augmentation(self) -> Augmentation:
        """Move the ball's last place, turn about it, mirror: the paper's functions for soccer."""
        return Augmentation(self, Translate(), Rotate(), Reflect(), anchor="last")

    def usable(self, batch: Batch) -> np.ndarray:
        return self._on_field(batch.observations)

    def valid(self, batch: Batch) -> np.ndarray:
        """Robot and ball on the field; after the step the ball may be in the goal's mouth, beyond the line."""
        arrived = ball_to_goal.ball_reward(batch.next_observations[:, 4:6], batch.next_observations[:, 8:10]) > 0
        return self._on_field(batch.observations) & (self._on_field(batch.next_observations) | arrived)

    def _on_field(self, rows: np.ndarray) -> np.ndarray:
        return ball_to_goal.inside(rows[:, 0:2]) & ball_to_goal.inside(rows[:, 4:6])

    def positions(self, generator: np.random.Generator, count: int) -> np.ndarray:
        half = np.array([ball_to_goal.HALF_LENGTH, ball_to_goal.HALF_WIDTH], np.float32)
        return (2 * generator.random((count, 2), dtype=np.float32) - 1) * half

    def goals(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """The one goal of the field."""
        return np.tile(np.array(ball_to_goal.GOAL, np.float32), (count, 1))

    def outcome(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        ball, goal = batch.next_observations[:, 4:6], batch.next_observations[:, self.goal_columns]
        rewards = ball_to_goal.ball_reward(ball, goal, dense=self.dense).astype(np.float32)
        ends = (ball_to_goal.ball_reward(ball, goal) > 0) | ~self._on_field(batch.next_observations)
        return rewards, (~ends).astype(np.float32)

    def simulator(self, env: Any = None) -> Any:
        from rlopt.agents.guda.simulators import EnvSimulator, ball_state, make_registered

        if env is None:
            env = make_registered("rlopt/BallToGoal-v0", reward_type="dense" if self.dense else "sparse")
        return EnvSimulator(env, ball_state, self.keys)


class Fetch(Domain):
    """gymnasium-robotics' Fetch tasks: only the goal is replaced, which changes no motion.

    Flat observation: the 10 (Reach) or 25 numbers, then the goal [3]. Goals are drawn uniformly from the box that holds
    the goals of the data set.

    :param dataset: of a Fetch task, with dictionary observations or flat ones
    :raises AugmentationError: observations of another width
    """

    name = "fetch"
    layout = Layout(points=((0, 1),))
    translates = mirrors = False
    rotations = exact_rotations = "none"
    inexact_because = "the arm's reach depends on where it stands; only the goal can be replaced"
    REACHED = 0.05
    """Metres within which a goal counts as reached."""

    def __init__(self, dataset: Dataset, dense: bool = False) -> None:
        observations = dataset.observations
        flat = flatten(observations, self.keys) if isinstance(observations, dict) else observations
        if flat.ndim != 2 or flat.shape[1] not in (13, 28):
            raise AugmentationError(
                f"the domain fetch needs observations of 10 or 25 numbers and a goal of 3, this data set of "
                f"{dataset.metadata.env} has {flat.shape[1:]}: choose the domain that fits"
            )
        self.width, self.dense = flat.shape[1], dense
        self.goal_columns = slice(self.width - 3, self.width)
        # Reach moves the gripper to the goal, the other tasks an object.
        self._achieved = slice(0, 3) if self.width == 13 else slice(3, 6)
        goals = flat[:, self.goal_columns]
        self.low, self.high = goals.min(axis=0), goals.max(axis=0)

    def augmentation(self) -> Augmentation:
        """Relabel the goal."""
        return Augmentation(self, RelabelGoal())

    def valid(self, batch: Batch) -> np.ndarray:
        return np.ones(len(batch), bool)

    def goals(self, generator: np.random.Generator, count: int) -> np.ndarray:
        return generator.uniform(self.low, self.high, (count, 3)).astype(np.float32)

    def achieved_goal(self, flat: np.ndarray) -> np.ndarray:
        return flat[:, self._achieved]

    def outcome(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """``compute_reward`` of the Fetch tasks, which never end truly."""
        gap = self.achieved_goal(batch.next_observations) - batch.next_observations[:, self.goal_columns]
        distance = np.linalg.norm(gap, axis=1)
        rewards = -distance if self.dense else -(distance > self.REACHED).astype(np.float32)
        return rewards.astype(np.float32), np.ones(len(batch), np.float32)

    def simulator(self, env: Any = None) -> Any:
        raise AugmentationError(
            "the observations of a Fetch task do not determine its state, so they cannot be replayed: give "
            "check_dynamics a simulator of your own; relabelling leaves states and actions as they were recorded"
        )
