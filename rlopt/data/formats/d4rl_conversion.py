"""From the rows of a D4RL file to transitions with known successors.

D4RL's files are lists of rows without successors; its two conversions differ in what they make of the ends of episodes.
Here a row is kept only if its successor is known (or masked by a true terminal), and everything that is left out or
corrected is noted.
"""

from dataclasses import dataclass

import numpy as np

from rlopt.data.formats.d4rl_file import RawFile
from rlopt.data.formats.own_arrays import count_timeouts
from rlopt.data.names import D4RLName
from rlopt.errors import DataError, unknown_name

CHOICES: dict[str, tuple[str, ...]] = {
    "conversion": ("qlearning", "sequence"),
    "waypoints": ("end", "drop", "join"),
    "rewards": ("auto", "recorded", "next"),
    "after_goal": ("keep", "drop"),
}

ANT_JUMP = 2.0
"""Metres. An ant moves well below 1 m in a step of 0.1 s; between two rows further apart it was reset."""
MAZE2D_STEP, MAZE2D_TOLERANCE = 0.01, 1e-4
"""Seconds of a maze2d step, and how far a position may be from the last plus velocity (float32 rounding of both)."""


@dataclass(frozen=True, kw_only=True)
class D4RLOptions:
    """How to read a D4RL file; the defaults correct the known faults and change nothing else."""

    conversion: str = "qlearning"
    """``qlearning``: D4RL's transition-wise conversion: rows that timed out and the last row are left out.
    ``sequence``: by episodes: rows that timed out are kept where the file has their successor, an unfinished last
    episode is not."""
    waypoints: str = "end"
    """maze2d, where ``timeouts`` mark that the planner reached a waypoint goal of one endless rollout, not a time
    limit. ``end``: the marked transitions are kept and end an episode; ``drop``: they are left out, as D4RL does;
    ``join``: the marks are ignored and the rollout is cut at the task's time limit."""
    rewards: str = "auto"
    """``recorded``: as in the file; ``next``: the reward of the following row; ``auto``: ``next`` where maze2d's
    rewards are found to be those of the observation before the step (D4RL issue 194), else as recorded."""
    reward_shift: float = 0.0
    """Added to every reward. -1 is the convention of IQL and CORL for antmaze."""
    after_goal: str = "keep"
    """antmaze, where all rows near the goal are marked terminal while the ant walks on (in umaze-diverse only one).
    ``keep``: each is a terminal transition, as in D4RL; ``drop``: an episode ends at its first, the rest is left
    out."""
    clip_actions: bool = False
    """Clip actions to [-1, 1] instead of refusing a file with others."""
    max_episode_steps: int | None = None
    """Time limit for files without ``timeouts``; None takes the limit of the named task."""
    drop_nan: bool = False
    """Leave out episodes that hold NaN or infinity instead of refusing the file."""

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise unknown_name(name, str(getattr(self, name)), choices)
        if self.max_episode_steps is not None and self.max_episode_steps < 1:
            raise DataError(f"max_episode_steps is {self.max_episode_steps}: give at least 1")
        if not np.isfinite(self.reward_shift):
            raise DataError(f"reward_shift is {self.reward_shift}: give a finite number")


@dataclass
class Transitions:
    """The rows that are kept, M of them, with what a data set needs besides."""

    rows: np.ndarray
    """(M,) indices into the file."""
    next_observations: np.ndarray
    """(M, observation)."""
    terminal: np.ndarray
    """(M,) bool."""
    ends: np.ndarray
    """(M,) bool."""


def convert(raw: RawFile, entry: D4RLName, options: D4RLOptions) -> Transitions:
    """Chooses rows and successors; notes go to ``raw.notes``.

    :raises rlopt.errors.DataError: no transition with a known successor is left
    """
    family = entry.family
    terminal, timeout = _marks(raw, entry, options)
    broken = _broken(raw, family, terminal, timeout)
    following, known, masked = _successors(raw, terminal, broken)
    dropped = np.zeros(len(raw), bool)
    if family == "antmaze":
        dropped = _after_goal(raw, terminal, timeout | broken, options)
    if options.conversion == "qlearning":
        keep = known & ~dropped
        keep[-1] = False
        left_out = "the last row, as in D4RL's qlearning_dataset"
        if family != "maze2d" or options.waypoints == "drop":
            keep &= ~timeout
            left_out = "timed-out rows and the last row, as in D4RL's qlearning_dataset"
    else:
        finished = np.flatnonzero(terminal | timeout)
        keep = known & ~dropped & (np.arange(len(raw)) <= (finished[-1] if len(finished) else -1))
        left_out = "an unfinished last episode and rows without a successor, conversion by episodes"
    raw.notes.append(f"{int((~keep).sum())} of {len(raw)} rows left out: {left_out}")
    if count := int((masked & keep).sum()):
        raw.notes.append(
            f"the observations after {count} terminals are not in the file (its next row is the next episode's first): "
            "the last one is repeated there, masked by the discount"
        )
    rows = np.flatnonzero(keep)
    if len(rows) == 0:
        raise DataError("no transition with a known successor is left: the file has no finished or timed-out episode")
    ends = (terminal | timeout | broken)[rows]
    ends[:-1] |= np.diff(rows) > 1
    ends[-1] = True
    return Transitions(rows, following[rows], terminal[rows], ends)


def _marks(raw: RawFile, entry: D4RLName, options: D4RLOptions) -> tuple[np.ndarray, np.ndarray]:
    """(terminal, timeout) as they are meant."""
    terminal, timeout = raw.terminals, raw.timeouts
    if entry.family == "maze2d":
        if terminal.any():
            # D4RL's own generation script writes "goal of the planner reached" here and no timeouts (issue 176).
            raw.notes.append(f"{int(terminal.sum())} terminals taken for reached waypoints: maze2d never ends")
            timeout = terminal if timeout is None else timeout | terminal
            terminal = np.zeros_like(terminal)
        if timeout is not None and options.waypoints != "join":
            raw.notes.append(f"timeouts mean a reached waypoint, not a time limit; waypoints={options.waypoints!r}")
            return terminal, timeout
        if timeout is not None:
            raw.notes.append("timeouts ignored, as they mean a reached waypoint; cut at the time limit instead")
        timeout = None
    if timeout is not None:
        return terminal, timeout
    limit = options.max_episode_steps or entry.max_episode_steps
    raw.notes.append(
        f"no timeouts in use: an episode is cut after {limit} steps (D4RL's own count is one short behind a terminal)"
    )
    return terminal, count_timeouts(terminal, limit)


def _broken(raw: RawFile, family: str, terminal: np.ndarray, timeout: np.ndarray) -> np.ndarray:
    """Where the following row is not the successor. (N,) bool."""
    broken = np.zeros(len(raw), bool)
    if family == "maze2d":
        broken[:-1] = ~_one_maze2d_step(raw)
    elif family == "antmaze":
        jump = np.linalg.norm(np.diff(raw.observations[:, :2], axis=0), axis=1) > ANT_JUMP
        unmarked = int((jump & ~(terminal | timeout)[:-1]).sum())
        if unmarked:
            raw.notes.append(
                f"{unmarked} resets without a timeout mark found by a jump of over {ANT_JUMP} m (D4RL issue 77): "
                "episodes cut there"
            )
        broken[:-1] = jump | timeout[:-1]
    else:
        broken = terminal | timeout
    broken[-1] = True
    return broken


def _one_maze2d_step(raw: RawFile) -> np.ndarray:
    """Whether each row but the last is one simulator step from the next.

    MuJoCo's Euler integrator adds the time step times the new velocity to the position, in contact too.
    """
    position, velocity = raw.observations[:, :2].astype(np.float64), raw.observations[:, 2:]
    error = np.abs(position[1:] - position[:-1] - MAZE2D_STEP * velocity[1:]).max(axis=1)
    one_step = error <= MAZE2D_TOLERANCE
    wrong = int((~one_step).sum())
    if wrong > 0.2 * len(one_step):
        raise DataError(
            f"in {wrong} of {len(one_step)} rows the next position is not the last plus {MAZE2D_STEP} s of velocity: "
            "these are not steps of maze2d's point mass"
        )
    if wrong:
        raw.notes.append(f"{wrong} rows whose next row is not one simulator step away: successor unknown, left out")
    return one_step


def _successors(raw: RawFile, terminal: np.ndarray, broken: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(next observations, whether they are known, whether they are masked repetitions), each for all N rows."""
    if raw.next_observations is not None:
        differ = (raw.next_observations[:-1] != raw.observations[1:]).any(axis=1) & ~broken[:-1]
        if differ.any():
            raw.notes.append(f"next_observations of {int(differ.sum())} rows are not the next row: taken as recorded")
        return raw.next_observations, np.ones(len(raw), bool), np.zeros(len(raw), bool)
    following = np.concatenate((raw.observations[1:], raw.observations[-1:]))
    masked = terminal & broken
    following[masked] = raw.observations[masked]
    return following, ~broken | masked, masked


def _after_goal(raw: RawFile, terminal: np.ndarray, boundary: np.ndarray, options: D4RLOptions) -> np.ndarray:
    """Rows to leave out behind the first terminal of each recorded walk. (N,) bool."""
    differ = int(((raw.rewards > 0) != terminal).sum())
    if differ:
        raw.notes.append(f"terminals and rewards above 0 disagree in {differ} rows")
    walk = np.concatenate(([0], np.cumsum(boundary)[:-1]))
    before = np.cumsum(terminal) - terminal
    first = np.concatenate(([True], boundary[:-1]))
    reached = before - np.maximum.accumulate(np.where(first, before, 0))
    behind = reached > 0
    if not behind.any():
        if terminal.any():
            raw.notes.append(
                "the goal is marked in a single row each time, unlike in the other antmaze files (issue 199)"
            )
        return behind
    number = len(np.unique(walk[behind]))
    if options.after_goal == "keep":
        raw.notes.append(f"{number} walks continue after the goal: after_goal='drop' ends them there")
        return np.zeros_like(behind)
    raw.notes.append(f"{int(behind.sum())} rows behind the goal left out of {number} walks")
    return behind
