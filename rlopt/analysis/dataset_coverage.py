"""A picture of the states that a data set covers, with the returns and lengths of its episodes."""

from typing import Any

import numpy as np

from rlopt.analysis.plotting import COLORS
from rlopt.data.dataset import Dataset

BINS = 120
_POSITION_FAMILIES = ("maze2d-", "antmaze-", "PointMaze_", "AntMaze_")


def draw_coverage(data: Dataset) -> Any:
    """A matplotlib figure: visits over two state coordinates, and histograms of episode returns and lengths.

    The coordinates are the position where the environment has one (mazes, goal dictionaries), else the first two
    principal components of the standardised observations. Walls of a PointMaze or AntMaze are drawn where
    gymnasium-robotics is installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 5.2), dpi=150, layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.6, 1))
    _draw_states(figure, figure.add_subplot(grid[:, 0]), data)
    lengths = np.array([rows.stop - rows.start for rows in data.episodes()])
    for row, (values, label) in enumerate(((data.episode_returns(), "episode return"), (lengths, "episode length"))):
        panel = figure.add_subplot(grid[row, 1])
        panel.hist(values, bins=min(40, max(5, len(values))), color=COLORS[0])
        panel.set_xlabel(label)
        panel.set_ylabel("episodes")
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def coordinates(data: Dataset) -> tuple[np.ndarray, tuple[str, str], bool] | None:
    """(points (N, 2), axis labels, whether they are positions); None for images and single numbers."""
    observations = data.observations
    if isinstance(observations, dict):
        position = observations.get("achieved_goal")
        if position is not None and position.ndim == 2 and position.shape[1] >= 2:
            return position[:, :2], ("x", "y"), True
        flat = [part for part in observations.values() if part.ndim == 2 and part.dtype == np.float32]
        if not flat:
            return None
        observations = np.concatenate(flat, axis=1)
    if observations.ndim != 2 or observations.shape[1] < 2 or observations.dtype == np.uint8:
        return None
    positions = data.metadata.env.removeprefix("rlopt/").startswith(_POSITION_FAMILIES)
    if positions or observations.shape[1] == 2:
        return observations[:, :2], ("observation 0", "observation 1"), positions
    return _principal(observations), ("first principal component", "second principal component"), False


def _principal(observations: np.ndarray) -> np.ndarray:
    """The first two principal components of standardised observations, signs fixed so that pictures repeat."""
    values = observations.astype(np.float64)
    spread = values.std(axis=0)
    values = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)
    _, vectors = np.linalg.eigh(values.T @ values)
    axes = vectors[:, :-3:-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    return np.asarray(values @ axes)


def _draw_states(figure: Any, panel: Any, data: Dataset) -> None:
    from matplotlib.colors import LogNorm

    found = coordinates(data)
    panel.set_title(f"{data.metadata.env}: {len(data):,} transitions", loc="left", fontsize=11)
    if found is None:
        panel.text(0.5, 0.5, "no state coordinates to draw", ha="center", va="center", transform=panel.transAxes)
        panel.set_axis_off()
        return
    points, labels, positions = found
    walls = _walls(data.metadata.env) if positions else None
    extent = None
    if walls is not None:
        solid, scale = walls
        half = (solid.shape[1] * scale / 2, solid.shape[0] * scale / 2)
        extent = [[-half[0], half[0]], [-half[1], half[1]]]
        panel.imshow(np.where(solid, 0.25, np.nan), extent=(*extent[0], *extent[1]), cmap="Greys", vmin=0, vmax=1)
    counts, x, y = np.histogram2d(points[:, 0], points[:, 1], bins=BINS, range=extent)
    shown = np.ma.masked_equal(counts.T, 0)
    image = panel.pcolormesh(x, y, shown, cmap="viridis", norm=LogNorm(1, max(2.0, counts.max())))
    figure.colorbar(image, ax=panel, label="transitions", shrink=0.8)
    panel.set_xlabel(labels[0])
    panel.set_ylabel(labels[1])
    if positions:
        panel.set_aspect("equal")


def _walls(env_id: str) -> tuple[np.ndarray, float] | None:
    """(where a maze has walls (rows, columns), width of a cell); None if that cannot be found out."""
    from rlopt.envs.tasks.mazes import Maze
    from rlopt.errors import ConfigError

    if ":" in env_id:  # such an id imports a module, which reading data must not
        return None
    try:
        maze = Maze.from_id(env_id)
    except (ConfigError, ImportError):  # D4RL's names, and mazes of packages that are not here
        return None
    return maze.walls, maze.scale
