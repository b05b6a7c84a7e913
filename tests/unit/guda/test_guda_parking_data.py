"""Parking data of our own: drives that arrive, by equations that are highway-env's."""

import numpy as np
import pytest

from rlopt.agents.guda.config import GuDAConfig
from rlopt.agents.guda.tasks import make_augmented
from rlopt.collect import generate
from rlopt.collect.parking import STEP, plan_costs
from rlopt.errors import ConfigError

pytest.importorskip("highway_env")


def test_a_drive_arrives_and_can_be_augmented() -> None:
    data = generate("parking", 60, seed=0, noise=0.0, backend="gymnasium")
    arrived = np.flatnonzero(data.discounts == 0)
    assert len(arrived) and (data.rewards[arrived] > -0.12).all() and data.episode_ends[arrived].all()
    # Where the car goes in a step: its velocity before and after, by the trapezoidal rule.
    rows = data.observations["observation"].astype(np.float64)
    following = data.next_observations["observation"].astype(np.float64)
    moved = 100 * (following[:, :2] - rows[:, :2])
    assert np.abs(moved - STEP * 5 * (rows[:, 2:4] + following[:, 2:4]) / 2).max() < 0.6
    made = make_augmented(data, GuDAConfig(n=2000))
    assert (made.discounts == 0).sum() > 20 and made.rewards[made.discounts == 0].min() > -0.2


def test_plans_cost_the_tasks_own_distance() -> None:
    goal = np.array([0.02, 0.14, 0, 0, 0, 1.0])
    # At rest, no action: 10 m short of the goal, which costs sqrt(0.3 * 0.1) a decision; at the goal nothing.
    short, there = goal - [0, 0.1, 0, 0, 0, 0], goal
    still = np.zeros((1, 7, 2))
    assert plan_costs(short, goal, still) == pytest.approx(7 * np.sqrt(0.03), abs=1e-6)
    assert plan_costs(there, goal, still) == 0
    with pytest.raises(ConfigError, match="noise must be"):
        generate("parking", 10, noise=-1.0)
