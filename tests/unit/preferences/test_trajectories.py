"""Fragments are of one episode, and short only where it truly ended."""

from typing import Any

import numpy as np
import pytest

from rlopt.errors import CheckpointError
from rlopt.preferences.trajectories import Trajectories


def played(steps: int, kept: int = 200, n_envs: int = 2) -> Trajectories:
    """Observations (episode, time); environment 0 ends truly after 7 steps, environment 1 by a limit after 11."""
    made = Trajectories(kept, n_envs, 2, np.zeros((n_envs, 1), np.float32))
    time, episode = np.zeros(n_envs), np.zeros(n_envs)
    for step in range(steps):
        here = np.stack([episode, time], axis=1).astype(np.float32)
        done = time + 1 == np.array([7, 11])[:n_envs]
        following = here + np.array([0, 1])
        made.add(here, np.full((n_envs, 1), step, np.float32), following, time, done, done & (np.arange(n_envs) == 0))
        time, episode = np.where(done, 0, time + 1), episode + done
    return made


@pytest.mark.parametrize("steps", [40, 500])
def test_fragments_stay_within_an_episode(steps: int) -> None:
    drawn = played(steps).draw(400, 5, np.random.default_rng(0))
    assert drawn is not None
    drawn.check()
    for observations, length, last, start, rewards in zip(
        drawn.observations, drawn.lengths, drawn.last_observations, drawn.starts, drawn.rewards, strict=True
    ):
        times = observations[:length, 1]
        assert (observations[:length, 0] == observations[0, 0]).all() and (np.diff(times) == 1).all()
        assert times[0] == start and last.tolist() == [observations[0, 0], times[-1] + 1]
        assert (rewards[:length] == times).all() and not rewards[length:].any()
        assert length == 5 or times[-1] == 6  # environment 0's true end
    assert (drawn.lengths < 5).any() and drawn.starts.max() == 6  # environment 1 gives none after time 6
    assert len(np.unique(drawn.episodes[drawn.lengths < 5])) > 1


def test_there_is_no_fragment_before_enough_steps_of_one_episode() -> None:
    assert played(3).draw(4, 5, np.random.default_rng(0)) is None


def test_a_reset_cuts_what_was_running() -> None:
    made = played(4, n_envs=1)
    made.cut()
    zeros = np.zeros((1, 2), np.float32)
    for _ in range(4):
        made.add(zeros, np.zeros((1, 1), np.float32), zeros, np.zeros(1), np.zeros(1, bool), np.zeros(1, bool))
    assert made.draw(4, 5, np.random.default_rng(0)) is None
    drawn = made.draw(50, 4, np.random.default_rng(0))
    assert drawn is not None and set(drawn.episodes.tolist()) == {0, 1} and not drawn.starts.any()


@pytest.mark.parametrize("steps", [30, 300])
def test_restored_trajectories_go_on_alike(steps: int) -> None:
    first, other = played(steps), Trajectories(200, 2, 2, np.zeros((2, 1), np.float32))
    other.restore(first.tree())
    for made in (first, other):
        zeros = np.zeros((2, 2), np.float32)
        made.add(zeros, np.zeros((2, 1), np.float32), zeros, np.zeros(2), np.ones(2, bool), np.zeros(2, bool))
    drawn: list[Any] = [made.draw(50, 5, np.random.default_rng(1)) for made in (first, other)]
    for name, column in drawn[0].arrays().items():
        np.testing.assert_array_equal(column, drawn[1].arrays()[name])
    with pytest.raises(CheckpointError, match="other environments"):
        Trajectories(200, 1, 2, np.zeros((1, 1), np.float32)).restore(first.tree())
