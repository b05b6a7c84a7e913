"""Parking data of our own: drives that arrive, by equations that are highway-env's."""

import subprocess
import sys

import numpy as np
import pytest

from rlopt.agents.guda.config import GuDAConfig
from rlopt.agents.guda.tasks import make_augmented
from rlopt.collect import generate
from rlopt.collect.parking import advance, cars_of, plan_costs
from rlopt.data import Dataset, Metadata
from rlopt.errors import ConfigError

pytest.importorskip("highway_env")


def test_a_drive_arrives_and_can_be_augmented() -> None:
    data = generate("parking", 60, seed=0, noise=0.0, backend="gymnasium")
    arrived = np.flatnonzero(data.discounts == 0)
    assert len(arrived) and (data.rewards[arrived] > -0.12).all() and data.episode_ends[arrived].all()
    going_on = data.rewards > -1  # not crashed
    rows, following = (side["observation"].astype(np.float64) for side in (data.observations, data.next_observations))
    gap = advance(cars_of(rows), data.actions) - cars_of(following)
    gap[:, 2] = np.sin(gap[:, 2])  # a heading is an angle
    assert np.abs(gap[going_on]).max() < 1e-4
    made = make_augmented(data, GuDAConfig(n=2000))
    assert (made.discounts == 0).sum() > 20 and made.rewards[made.discounts == 0].min() > -0.2


def test_the_check_makes_its_simulator_itself(tmp_path) -> None:
    rows = np.zeros((4, 6), np.float32)
    rows[:, 4] = 1
    goal = np.tile(np.array([0.02, 0.14, 0, 0, 0, 1], np.float32), (4, 1))
    state = {"achieved_goal": rows, "desired_goal": goal, "observation": rows}
    still = np.zeros((4, 2), np.float32)
    zeros, ones, ends = np.zeros(4, np.float32), np.ones(4, np.float32), np.ones(4, bool)
    Dataset(state, still, zeros, state, ones, ends, Metadata("parking-v0")).save(tmp_path / "data")
    command = [sys.executable, "-m", "rlopt.cli.main", "data", "check", str(tmp_path / "data"), "--n", "5"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0 and "exact" in said.stdout, said.stderr


def test_plans_cost_the_tasks_own_distance() -> None:
    goal = np.array([0.02, 0.14, 0, 0, 0, 1.0])
    # At rest, no action: 10 m short of the goal, which costs sqrt(0.3 * 0.1) a decision; at the goal nothing.
    short, there = goal - [0, 0.1, 0, 0, 0, 0], goal
    still = np.zeros((1, 7, 2))
    assert plan_costs(short, goal, still) == pytest.approx(7 * np.sqrt(0.03), abs=1e-6)
    assert plan_costs(there, goal, still) == 0
    with pytest.raises(ConfigError, match="noise must be"):
        generate("parking", 10, noise=-1.0)
