"""The newest steps of several environments, from which fragments of episodes are drawn. Knows numpy only."""

from typing import Any

import numpy as np

from rlopt.errors import CheckpointError
from rlopt.preferences.fragments import Fragments


class Trajectories:
    """A ring of the newest steps.

    :param steps: kept of each environment, T
    :param n_envs: environments, N
    :param observation_size: O
    :param action: (N, ...) as they come, for their shape and type
    """

    def __init__(self, steps: int, n_envs: int, observation_size: int, action: np.ndarray) -> None:
        self._columns = {
            "observations": np.zeros((steps, n_envs, observation_size), np.float32),
            "following": np.zeros((steps, n_envs, observation_size), np.float32),
            "actions": np.zeros((steps, n_envs, *action.shape[1:]), action.dtype),
            "rewards": np.zeros((steps, n_envs), np.float32),
            "done": np.zeros((steps, n_envs), bool),
            "ended": np.zeros((steps, n_envs), bool),
            "episodes": np.zeros((steps, n_envs), np.int64),
            "times": np.zeros((steps, n_envs), np.int64),
        }
        self._seen = 0
        self._episodes, self._times = np.arange(n_envs), np.zeros(n_envs, np.int64)
        self._begun = n_envs

    def __len__(self) -> int:
        """Steps of each environment that are kept."""
        return min(self._seen, len(self._columns["rewards"]))

    def add(self, observations: np.ndarray, actions: np.ndarray, following: np.ndarray, rewards: np.ndarray,
            done: np.ndarray, ended: np.ndarray) -> None:  # fmt: skip
        """A step of each environment.

        :param observations: (N, O) before it; ``following`` after it, at an episode's end its last
        :param done: (N,), whether the episode is over; ``ended``, whether truly, not by a time limit
        """
        row = self._seen % len(self._columns["rewards"])
        values = {"observations": observations, "following": following, "actions": actions, "rewards": rewards,
                  "done": done, "ended": ended, "episodes": self._episodes, "times": self._times}  # fmt: skip
        for name, value in values.items():
            self._columns[name][row] = value
        self._seen += 1
        self._times = np.where(done, 0, self._times + 1)
        fresh = np.flatnonzero(done)
        self._episodes = self._episodes.copy()
        self._episodes[fresh] = self._begun + np.arange(len(fresh))
        self._begun += len(fresh)

    def cut(self) -> None:
        """The environments were reset: what was running is over."""
        if self._seen:
            self._columns["done"][(self._seen - 1) % len(self._columns["done"])] = True
            self._times = np.zeros_like(self._times)
            self._episodes = self._begun + np.arange(len(self._times))
            self._begun += len(self._times)

    def draw(self, count: int, length: int, rng: np.random.Generator) -> Fragments | None:
        """``count`` fragments of ``length`` steps, or fewer up to a true end, uniformly among all first steps, with
        replacement; None if there is none.
        """
        order = np.arange(self._seen - len(self), self._seen) % len(self._columns["rewards"])
        kept = {name: column[order] for name, column in self._columns.items()}
        remaining, ends = _remaining(kept["done"], kept["ended"])
        rows, envs = np.nonzero((remaining >= length) | ends)
        if not len(rows):
            return None
        chosen = rng.integers(len(rows), size=count)
        rows, envs = rows[chosen], envs[chosen]
        lengths = np.minimum(remaining[rows, envs], length)
        steps = np.arange(length)
        there = steps < lengths[:, None]
        at = np.minimum(rows[:, None] + steps, len(order) - 1), envs[:, None]

        def column(name: str) -> np.ndarray:
            found = kept[name][at]
            found[~there] = 0
            return found

        last = rows + lengths - 1
        return Fragments(
            column("observations"),
            column("actions"),
            lengths.astype(np.int64),
            column("rewards"),
            kept["following"][last, envs],
            kept["episodes"][rows, envs],
            kept["times"][rows, envs],
        )

    def tree(self) -> dict[str, Any]:
        """For :mod:`rlopt.storage`: what is kept, oldest first."""
        order = np.arange(self._seen - len(self), self._seen) % len(self._columns["rewards"])
        kept = {name: column[order] for name, column in self._columns.items()}
        counters = {"seen": self._seen, "begun": self._begun, "running": self._episodes, "running_times": self._times}
        return {"columns": kept, **{name: np.copy(value) if isinstance(value, np.ndarray) else value
                                    for name, value in counters.items()}}  # fmt: skip

    def restore(self, tree: Any) -> None:
        """Takes what :meth:`tree` gave; raises CheckpointError for what does not fit."""
        columns, seen = tree["columns"], tree["seen"]
        kept = min(seen, len(self._columns["rewards"]))
        for name, own in self._columns.items():
            if columns[name].shape != (kept, *own.shape[1:]) or columns[name].dtype != own.dtype:
                raise CheckpointError(f"the recorded {name} are of other environments: use the same settings")
        order = np.arange(seen - kept, seen) % len(self._columns["rewards"])
        for name, own in self._columns.items():
            own[order] = columns[name]
        self._seen, self._begun = int(seen), int(tree["begun"])
        self._episodes, self._times = tree["running"].copy(), tree["running_times"].copy()


def _remaining(done: np.ndarray, ended: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, N) steps from each one, it included, to the end of its episode or of the recording; and whether that is a
    true end.
    """
    remaining = np.zeros(done.shape, np.int64)
    ends = np.zeros(done.shape, bool)
    following, truly = np.zeros(done.shape[1], np.int64), np.zeros(done.shape[1], bool)
    for step in range(len(done) - 1, -1, -1):
        following = np.where(done[step], 1, following + 1)
        truly = np.where(done[step], ended[step], truly)
        remaining[step], ends[step] = following, truly
    return remaining, ends
