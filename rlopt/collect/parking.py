"""Parking data: a planner that samples steering and acceleration and looks ahead with the car's own equations."""

import numpy as np

from rlopt.collect.recording import record
from rlopt.data.dataset import Dataset
from rlopt.data.environment import made
from rlopt.data.metadata import Metadata
from rlopt.envs.settings import EnvSettings
from rlopt.errors import ConfigError

METRES, METRES_PER_SECOND = 100.0, 5.0
"""highway-env divides positions and velocities by these."""
STEP, SUBSTEPS = 0.2, 3
"""Seconds of a decision, and simulation steps in it."""
ACCELERATION, STEERING, HALF_LENGTH = 5.0, np.pi / 4, 2.5
LOT = (31.0, 17.5)
"""Metres from the centre that the planner keeps within, along x and y."""
KNOTS, HOLD = 8, 3
"""Pieces of a plan, and decisions for which each is held: 4.8 s."""
SAMPLES, ELITES, ROUNDS = 192, 16, 4
TOP_SPEED = 8.0
ARRIVED = 0.12
"""highway-env's ``success_goal_reward``."""


class ParkingPlanner:
    """Drives parking-v0's car by the cross-entropy method, replanned at every decision.

    A plan costs the task's distance to the goal along the way, and more outside the lot or above 8 m/s.

    :param noise: standard deviation of the Gaussian noise on the action, which is then clipped to [-1, 1]
    :param seed: seed of plans and noise
    """

    def __init__(self, noise: float, seed: int) -> None:
        self.noise = noise
        self._generator = np.random.default_rng(seed)
        self._plans: dict[int, np.ndarray] = {}

    def predict(
        self, observation: dict[str, np.ndarray], episode_start: np.ndarray, deterministic: bool = False
    ) -> tuple[np.ndarray, None]:
        """Actions [n, 2] float32 in [-1, 1] for parking-v0's observations of n cars."""
        cars, goals = observation["observation"], observation["desired_goal"]
        actions = np.stack(
            [self._action(index, cars[index], goals[index], bool(episode_start[index])) for index in range(len(cars))]
        )
        actions = actions + self.noise * self._generator.standard_normal(actions.shape)
        return np.clip(actions, -1, 1).astype(np.float32), None

    def _action(self, index: int, car: np.ndarray, goal: np.ndarray, new: bool) -> np.ndarray:
        mean = np.zeros((KNOTS, 2)) if new or index not in self._plans else self._plans[index]
        deviation = np.full((KNOTS, 2), 0.6)
        best, best_cost = mean, np.inf
        for _ in range(ROUNDS):
            plans = mean + deviation * self._generator.standard_normal((SAMPLES, KNOTS, 2))
            plans[0] = best
            plans = np.clip(plans, -1, 1)
            costs = plan_costs(car, goal, np.repeat(plans, HOLD, axis=1))
            order = np.argsort(costs)[:ELITES]
            mean, deviation = plans[order].mean(axis=0), plans[order].std(axis=0) + 0.05
            if costs[order[0]] < best_cost:
                best, best_cost = plans[order[0]], costs[order[0]]
        self._plans[index] = best
        return best[0]


def advance(cars: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The cars after a decision: highway-env's kinematic bicycle, without walls.

    :param cars: [S, 4]: x, y [m], heading [rad], speed [m/s]
    :param actions: [S, 2] in [-1, 1]: acceleration, steering
    :returns: [S, 4]
    """
    x, y, heading, speed = cars.T
    slip = np.arctan(np.tan(STEERING * actions[:, 1]) / 2)
    dt = STEP / SUBSTEPS
    for _ in range(SUBSTEPS):
        x, y = x + dt * speed * np.cos(heading + slip), y + dt * speed * np.sin(heading + slip)
        heading = heading + dt * speed * np.sin(slip) / HALF_LENGTH
        speed = speed + dt * ACCELERATION * actions[:, 0]
    return np.stack((x, y, heading, speed), axis=1)


def cars_of(rows: np.ndarray) -> np.ndarray:
    """[n, 4] as :func:`advance` takes them, of parking-v0's observations [n, 6]."""
    speed = METRES_PER_SECOND * (rows[:, 2] * rows[:, 4] + rows[:, 3] * rows[:, 5])
    return np.stack((rows[:, 0] * METRES, rows[:, 1] * METRES, np.arctan2(rows[:, 5], rows[:, 4]), speed), axis=1)


def plan_costs(car: np.ndarray, goal: np.ndarray, plans: np.ndarray) -> np.ndarray:
    """What each plan costs from one state: the sum of distances to the goal until it is reached.

    :param car: [6] of parking-v0's observation
    :param goal: [6]
    :param plans: [S, T, 2] actions in [-1, 1]
    :returns: [S]
    """
    cars = np.repeat(cars_of(car[None].astype(np.float64)), len(plans), axis=0)
    cost, under_way = np.zeros(len(plans)), np.ones(len(plans), bool)
    for step in range(plans.shape[1]):
        cars = advance(cars, plans[:, step])
        x, y, heading, speed = cars.T
        away = np.abs(x / METRES - goal[0]) + 0.3 * np.abs(y / METRES - goal[1])
        turned = np.abs(np.cos(heading) - goal[4]) + np.abs(np.sin(heading) - goal[5])
        outside = np.maximum(np.abs(x) - LOT[0], 0) + np.maximum(np.abs(y) - LOT[1], 0)
        distance = np.sqrt(away + 0.02 * turned)
        under_way &= distance >= 0.9 * ARRIVED
        cost += under_way * (distance + outside + np.maximum(np.abs(speed) - TOP_SPEED, 0))
    return cost


def generate_parking(n: int, *, seed: int = 0, noise: float = 0.3, n_envs: int = 1, backend: str = "auto") -> Dataset:
    """Makes ``n`` transitions of parking-v0 with :class:`ParkingPlanner`, episode after episode.

    :param n: transitions, at least 1; a drive takes about 20
    :param noise: on the action, >= 0
    :param n_envs: lots stepped together
    :param backend: ``envpool``, ``gymnasium`` or ``auto``
    :raises ConfigError: a value out of range, or a backend that cannot be used
    """
    if not (np.isfinite(noise) and noise >= 0):
        raise ConfigError(f"noise must be a number >= 0, got {noise}")
    settings = EnvSettings(id="parking-v0", n_envs=min(n_envs, n), seed=seed, backend=backend)
    metadata = Metadata(
        **made(settings),
        termination="at the goal, or where the car has crashed",
        reward="minus the square root of the weighted distance to the goal, and -5 for a crash",
        generator=f"cross-entropy planner with the car's equations, action noise {noise:g}; {n_envs} lots",
        seed=int(seed),
    )
    return record(ParkingPlanner(noise, seed), settings, n, metadata)
