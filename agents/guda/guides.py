"""Guides: how the parameters of an augmentation are restricted so that the result makes progress to the goal.

A guide is any function ``guide(augmentation, batch, generator) -> parameters``. Those here are objects because they
keep tables. None of them changes what is valid: that is the domain's business.
"""

from collections.abc import Sequence

import numpy as np

from rlopt.agents.guda.augmentations import Augmentation, Parameters
from rlopt.agents.guda.batch import Batch
from rlopt.envs.tasks.mazes import Maze
from rlopt.errors import ConfigError

NOWHERE = np.float32(1e6)
"""A coordinate off every map: what is placed there is not valid."""


def quarter_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The multiple of 90 degrees nearest to the direction of vectors, [n] int in 0..3; [0, 0] counts as 2."""
    rising, falling = x + y > 0, x - y > 0
    return np.where(rising, np.where(falling, 0, 1), np.where(falling, 3, 2))


def displacement(augmentation: Augmentation, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """How far each segment moves the first point of the layout, x and y, [S] each."""
    x, y = augmentation.domain.layout.points[0]
    before, after = batch.observations[batch.first()], batch.next_observations[batch.last()]
    return after[:, x] - before[:, x], after[:, y] - before[:, y]


class ShortestPath:
    """Segments are placed so that they follow a shortest path to their goal's cell (the paper's rule for mazes).

    With a rotation by quarter turns, the guide draws a uniform free place and the turn that brings the segment's own
    direction nearest to a heading on a shortest path, which leaves it up to 45 degrees off. Without a rotation, it
    draws a place where the segment's own direction lies on a shortest path. In the goal's cell every heading is
    allowed. Free cells without a path to the goal are left out.

    :param maze: the map
    :param goal_cell: row and column of the one goal, to whose centre goals are relabelled if they are relabelled at
        all; None for goals that are relabelled to any place: each segment then follows the path to its own
    :raises ConfigError: a goal that is not a free cell
    """

    def __init__(self, maze: Maze, goal_cell: Sequence[int] | None) -> None:
        self.maze = maze
        self.goal_cell = None if goal_cell is None else tuple(int(part) for part in goal_cell)
        row, column = maze.free_cells.T
        goals = maze.free_cells.tolist() if goal_cell is None else [goal_cell]
        allowed = np.stack([maze.headings(goal)[row, column] for goal in goals])  # [goals, cells, 4]
        self._cells, self._n_cells = _ragged([np.flatnonzero(one.any(axis=1)) for one in allowed])
        self._headings, self._n_headings = _ragged([np.flatnonzero(one) for one in allowed.reshape(-1, 4)])
        self._cells_of, self._n_cells_of = _ragged(
            [np.flatnonzero(one) for one in allowed.transpose(0, 2, 1).reshape(4 * len(goals), -1)]
        )

    def __str__(self) -> str:
        return f"shortest paths to {'each goal' if self.goal_cell is None else f'cell {self.goal_cell}'}"

    def __call__(self, augmentation: Augmentation, batch: Batch, generator: np.random.Generator) -> Parameters:
        """Draws positions (and turns); raises :class:`rlopt.errors.ConfigError` for an augmentation without places."""
        clearance = getattr(augmentation.domain, "clearance", None)
        if clearance is None or "position" not in augmentation.columns or "angle" in augmentation.columns:
            raise ConfigError(
                f"shortest paths guide Translate, alone or with quarter turns, in a maze, not ({augmentation})"
            )
        parameters = augmentation.sample(batch, generator)
        goal = self._goals(parameters, batch.n_segments)
        quarter = quarter_of(*displacement(augmentation, batch))
        draws = generator.random(batch.n_segments, dtype=np.float32)
        if "mirror" in parameters:
            quarter = np.where(parameters["mirror"], -quarter % 4, quarter)
        if "quarter_turns" in parameters:
            cells = _pick(self._cells, self._n_cells, goal, generator.random(batch.n_segments, dtype=np.float32))
            rows = goal * len(self.maze.free_cells) + cells
            heading = _pick(self._headings, self._n_headings, rows, draws)
            parameters["quarter_turns"] = ((heading - quarter) % 4).astype(np.int8)
            parameters["position"] = clearance.sample(generator, cells)
            return parameters
        rows = 4 * goal + quarter
        parameters["position"] = clearance.sample(generator, _pick(self._cells_of, self._n_cells_of, rows, draws))
        parameters["position"][self._n_cells_of[rows] == 0] = NOWHERE
        return parameters

    def _goals(self, parameters: Parameters, count: int) -> np.ndarray:
        """Which goal of the tables each segment has, [S] int; sets it where there is one for all."""
        if self.goal_cell is not None:
            if "goal" in parameters:
                parameters["goal"] = np.tile(self.maze.cell_to_xy(self.goal_cell).astype(np.float32), (count, 1))
            return np.zeros(count, np.int32)
        if "goal" not in parameters:
            raise ConfigError("a guide to each goal needs the operation RelabelGoal: give it, or one goal_cell")
        row, column = self.maze.xy_to_cell(parameters["goal"]).T
        return self.maze.free_index[row, column].astype(np.int32)


def _ragged(choices: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Lists of unequal length as one padded table [n, longest] int32, and their lengths [n]."""
    lengths = np.array([len(values) for values in choices])
    table = np.zeros((len(choices), max(1, lengths.max())), np.int32)
    for row, values in enumerate(choices):
        table[row, : len(values)] = values
    return table, lengths


def _pick(table: np.ndarray, lengths: np.ndarray, rows: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """A uniform entry of the chosen rows, from ``draws`` in [0, 1)."""
    # float32 draws times a length can round up to the length itself.
    counts = lengths.take(rows)
    which = np.minimum((draws * counts).astype(np.int32), np.maximum(counts - 1, 0))
    return table.reshape(-1).take(rows * table.shape[1] + which)


class ParkAtGoal:
    """The drive ends in the spot that is its new goal, headed as the goal is (the paper's rule for parking).

    :param heading_noise: radians: the heading is off by up to this much, uniformly, in [0, pi]. Paper: 45 degrees.
    """

    def __init__(self, heading_noise: float = np.pi / 4) -> None:
        if not 0 <= heading_noise <= np.pi:
            raise ConfigError(f"heading_noise must be in [0, pi] radians, got {heading_noise}")
        self.heading_noise = heading_noise

    def __str__(self) -> str:
        return f"drives that end in their goal, heading off by up to {np.degrees(self.heading_noise):g} degrees"

    def __call__(self, augmentation: Augmentation, batch: Batch, generator: np.random.Generator) -> Parameters:
        """Draws the goal; sets position and angle. Needs RelabelGoal, Translate and Rotate about the last state."""
        _require(augmentation, self, {"goal", "position", "angle"})
        parameters = augmentation.sample(batch, generator)
        goal, end = parameters["goal"], batch.next_observations[batch.last()]
        heading = np.arctan2(end[:, 5], end[:, 4])
        if "mirror" in parameters:
            heading = np.where(parameters["mirror"], -heading, heading)
        noise = generator.uniform(-self.heading_noise, self.heading_noise, len(goal))
        parameters["angle"] = (np.arctan2(goal[:, 5], goal[:, 4]) - heading + noise).astype(np.float32)
        parameters["position"] = goal[:, :2].copy()
        return parameters


class BallToward:
    """Soccer segments that bring the ball to the goal: kicking segments aim at it, walking ones get behind the ball.

    A segment in which the ball moves is turned so that the ball moves toward the goal, from a uniform place. A segment
    in which it rests is turned so that the ball lies between the robot and the goal at its end; if the robot walks away
    from the ball, the segment is not used.

    :param aim_noise: radians: directions are off by up to this much, uniformly, in [0, pi]
    """

    def __init__(self, aim_noise: float = 0.1) -> None:
        if not 0 <= aim_noise <= np.pi:
            raise ConfigError(f"aim_noise must be in [0, pi] radians, got {aim_noise}")
        self.aim_noise = aim_noise

    def __str__(self) -> str:
        return f"balls that move toward the goal, aim off by up to {self.aim_noise:g} rad"

    def __call__(self, augmentation: Augmentation, batch: Batch, generator: np.random.Generator) -> Parameters:
        """Sets the angle (and leaves out what walks away); position and mirror stay uniform."""
        _require(augmentation, self, {"position", "angle"})
        parameters = augmentation.sample(batch, generator)
        before, after = batch.observations[batch.first()], batch.next_observations[batch.last()]
        rolled = after[:, 4:6] - before[:, 4:6]
        moves = np.hypot(rolled[:, 0], rolled[:, 1]) > 1e-6
        lies = after[:, 4:6] - after[:, 0:2]
        was = before[:, 4:6] - before[:, 0:2]
        own = np.where(moves[:, None], rolled, lies)
        direction = np.arctan2(own[:, 1], own[:, 0])
        if "mirror" in parameters:
            direction = np.where(parameters["mirror"], -direction, direction)
        goal = after[:, 8:10] - parameters["position"]
        noise = generator.uniform(-self.aim_noise, self.aim_noise, len(goal))
        parameters["angle"] = (np.arctan2(goal[:, 1], goal[:, 0]) - direction + noise).astype(np.float32)
        leaves = ~moves & (np.hypot(lies[:, 0], lies[:, 1]) >= np.hypot(was[:, 0], was[:, 1]))
        parameters["position"][leaves] = NOWHERE
        return parameters


class BallInGoal:
    """The ball ends in the goal; turned and mirrored at random (the paper's rule for whole soccer episodes)."""

    def __str__(self) -> str:
        return "balls that end in the goal"

    def __call__(self, augmentation: Augmentation, batch: Batch, generator: np.random.Generator) -> Parameters:
        """Sets the position to somewhere in the goal; the rest stays uniform, the field's border decides."""
        _require(augmentation, self, {"position"})
        parameters = augmentation.sample(batch, generator)
        goal = batch.next_observations[batch.last()][:, 8:10]
        spread = generator.uniform(-0.4, 0.4, len(goal))
        parameters["position"] = np.stack((goal[:, 0], goal[:, 1] + spread), axis=1).astype(np.float32)
        return parameters


class ReachedGoal:
    """The goal is what the segment achieved at its end (hindsight), for Fetch tasks."""

    def __str__(self) -> str:
        return "goals that the segment reached"

    def __call__(self, augmentation: Augmentation, batch: Batch, generator: np.random.Generator) -> Parameters:
        """Sets the goal."""
        _require(augmentation, self, {"goal"})
        parameters = augmentation.sample(batch, generator)
        parameters["goal"] = augmentation.domain.achieved_goal(batch.next_observations[batch.last()]).copy()
        return parameters


def _require(augmentation: Augmentation, guide: object, columns: set[str]) -> None:
    if not columns <= set(augmentation.columns):
        raise ConfigError(
            f"the guide {type(guide).__name__} sets {', '.join(sorted(columns))}, but ({augmentation}) has "
            f"{', '.join(augmentation.columns)}: give it the operations for them"
        )
