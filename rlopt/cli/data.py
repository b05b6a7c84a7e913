"""``rlopt data SUBVERB``: everything about offline data."""

from __future__ import annotations

from rlopt.cli.subverbs import run

SUBVERBS: dict[str, str] = {
    "augment": "make a small data set large by guided augmentation",
    "check": "replay augmented transitions in the simulator",
    "convert": "write a data set in another format, or a maze2d file in PointMaze's frame",
    "generate": "make a data set here: point mazes, snapshots of trained agents",
    "info": "describe a data set: counts, returns, lengths, a picture of the states it covers",
}
"""Name -> one line of help."""


def main(argv: list[str]) -> int:
    """Runs one subverb; returns its exit code."""
    return run("data", "Offline data sets: rlopt's own folders, D4RL files and names, Minari ids.", SUBVERBS, argv)
