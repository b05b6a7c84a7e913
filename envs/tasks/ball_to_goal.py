"""A small soccer task in the plane: walk to a ball and kick it into a goal. Pure numpy, vectorised."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rlopt.errors import ConfigError

HALF_LENGTH, HALF_WIDTH = 4.5, 3.0
"""The field, metres: |x| and |y| within these."""
GOAL = (4.5, 0.0)
GOAL_RADIUS = 0.5
"""The ball is in the goal within this distance of its centre."""
STEP = 0.1
"""Seconds of one step."""
WALK_SPEED = 1.0
"""Metres a second at full forward or sideways action."""
TURN_RATE = 2.0
"""Radians a second at full turning action."""
REACH = 0.25
"""Metres within which robot and ball touch."""
KICK = 2.0
"""Speed of a kicked ball over the robot's speed toward it."""
ROLLING = 0.9
"""Share of its speed that a rolling ball keeps in one step."""


def advance(states: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """One step of robot and ball, everywhere alike: the same from every place, in every direction and mirrored.

    The robot walks (forward, sideways, both along its heading before the step) and turns. A ball within reach is pushed
    out of it, and if the robot moves toward the ball it takes KICK times that speed along the line from robot to ball.

    :param states: [n, 8]: robot x, y, cosine and sine of its heading, ball x, y, vx, vy
    :param actions: [n, 3] in [-1, 1]: forward, to the left, turn to the left
    :returns: [n, 8] float64
    """
    states, actions = np.asarray(states, np.float64), np.clip(np.asarray(actions, np.float64), -1.0, 1.0)
    robot, heading, ball, rolling = (states[:, part : part + 2] for part in (0, 2, 4, 6))
    left = np.stack((-heading[:, 1], heading[:, 0]), axis=1)
    velocity = WALK_SPEED * (actions[:, :1] * heading + actions[:, 1:2] * left)
    robot = robot + STEP * velocity
    angle = STEP * TURN_RATE * actions[:, 2:]
    heading = np.cos(angle) * heading + np.sin(angle) * left
    ball = ball + STEP * rolling
    rolling = ROLLING * rolling
    gap = ball - robot
    distance = np.linalg.norm(gap, axis=1, keepdims=True)
    # A ball under the robot's centre has no direction of its own: it goes where the robot looks.
    toward = np.where(distance > 1e-9, gap / np.maximum(distance, 1e-9), heading)
    touching = distance < REACH
    ball = np.where(touching, robot + REACH * toward, ball)
    approach = np.sum(velocity * toward, axis=1, keepdims=True)
    along = np.sum(rolling * toward, axis=1, keepdims=True)
    kicked = rolling + (KICK * approach - along) * toward
    rolling = np.where(touching & (approach > 0) & (KICK * approach > along), kicked, rolling)
    return np.concatenate((robot, heading, ball, rolling), axis=1)


def ball_reward(achieved: np.ndarray, desired: np.ndarray, *, dense: bool = False) -> np.ndarray:
    """1 where the ball [..., 2] lies within GOAL_RADIUS of the goal [..., 2] and 0 elsewhere; -distance if dense."""
    distance = np.linalg.norm(np.asarray(achieved) - np.asarray(desired), axis=-1)
    return -distance if dense else (distance <= GOAL_RADIUS).astype(np.float64)


def inside(points: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """Which points [..., 2] lie in the field, at least ``margin`` from its border."""
    return (np.abs(points[..., 0]) <= HALF_LENGTH - margin) & (np.abs(points[..., 1]) <= HALF_WIDTH - margin)


class BallToGoal(gymnasium.Env[Any, np.ndarray]):
    """``rlopt/BallToGoal-v0``: the dynamics of :func:`advance` on a field of 9 m by 6 m.

    Observation: a dictionary of ``observation`` float64 [8] (see :func:`advance`), ``achieved_goal`` (the ball) and
    ``desired_goal`` (the goal's centre), [2] each. Robot and ball start anywhere on the field, at rest. The episode
    ends truly when the ball is in the goal (reward 1) or robot or ball leaves the field (reward 0); it is cut after
    200 steps.

    :param reward_type: ``sparse``, or ``dense``: minus the distance of ball and goal
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, reward_type: str = "sparse", render_mode: str | None = None) -> None:
        if reward_type not in ("sparse", "dense"):
            raise ConfigError(f"reward_type must be 'sparse' or 'dense', got {reward_type!r}")
        self.reward_type, self.render_mode = reward_type, render_mode
        self.observation_space = spaces.Dict(
            {
                name: spaces.Box(-np.inf, np.inf, (size,), np.float64)
                for name, size in (("observation", 8), ("achieved_goal", 2), ("desired_goal", 2))
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.goal = np.array(GOAL)
        self.state = np.zeros(8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        self.goal = np.array(GOAL)
        high = np.array([HALF_LENGTH, HALF_WIDTH]) - 0.5
        angle = self.np_random.uniform(-np.pi, np.pi)
        robot, ball = self.np_random.uniform(-high, high, (2, 2))
        self.state = np.concatenate((robot, [np.cos(angle), np.sin(angle)], ball, [0.0, 0.0]))
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        self.state = advance(self.state[None], np.asarray(action)[None])[0]
        observation = self._observation()
        reward = float(self.compute_reward(observation["achieved_goal"], self.goal, {}))
        scored = bool(ball_reward(self.state[4:6], self.goal))
        lost = not bool(inside(self.state[[0, 4, 1, 5]].reshape(2, 2).T).all())
        return observation, reward, scored or lost, False, {"is_success": scored}

    def compute_reward(self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any) -> np.ndarray:
        """The reward of balls [..., 2] for goals [..., 2]: for hindsight and for augmentations."""
        return ball_reward(achieved_goal, desired_goal, dense=self.reward_type == "dense")

    def _observation(self) -> dict[str, np.ndarray]:
        return {
            "observation": self.state.copy(),
            "achieved_goal": self.state[4:6].copy(),
            "desired_goal": self.goal.copy(),
        }
