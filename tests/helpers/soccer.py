"""A player for rlopt/BallToGoal-v0."""

import numpy as np

from rlopt.envs.tasks.ball_to_goal import GOAL


def cross(a: np.ndarray, b: np.ndarray) -> float:
    return float(a[0] * b[1] - a[1] * b[0])


def walk_and_kick(observation: dict) -> np.ndarray:
    """Goes behind the ball as seen from the goal, then runs through it."""
    robot, heading, ball = (observation["observation"][part : part + 2] for part in (0, 2, 4))
    aim = (np.array(GOAL) - ball) / np.linalg.norm(np.array(GOAL) - ball)
    behind = ball - 0.5 * aim
    lined_up = np.dot(ball - robot, aim) > 0.2 and abs(cross(aim, ball - robot)) < 0.1
    target = ball if lined_up else behind
    if not lined_up and np.dot(robot - ball, aim) > -0.3:
        target = behind + 0.6 * np.array([-aim[1], aim[0]]) * (1 if cross(aim, robot - ball) > 0 else -1)
    step = (target - robot) / max(np.linalg.norm(target - robot), 0.1)
    return np.array([np.dot(step, heading), np.dot(step, [-heading[1], heading[0]]), 0.0], np.float32)
