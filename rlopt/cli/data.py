"""``rlopt data SUBVERB``: everything about offline data. Imports a subverb only when it is used."""

from __future__ import annotations

import importlib

from rlopt.errors import unknown_name

SUBVERBS: dict[str, str] = {
    "augment": "make a small data set large by guided augmentation",
    "check": "replay augmented transitions in the simulator",
    "convert": "write a data set in another format, or a maze2d file in PointMaze's frame",
    "generate": "make a data set here: point mazes, snapshots of trained agents",
    "info": "describe a data set: counts, returns, lengths, a picture of the states it covers",
}
"""Name -> one line of help. ``rlopt data NAME`` is ``main(argv) -> int`` of the module ``rlopt.cli.data_NAME``."""


def usage() -> str:
    """The text of ``rlopt data --help``."""
    verbs = "\n".join(f"  {verb:<10}{summary}" for verb, summary in SUBVERBS.items())
    return (
        "usage: rlopt data SUBVERB ...\n\n"
        "Offline data sets: rlopt's own folders, D4RL files and names, Minari ids.\n\n"
        f"subverbs:\n{verbs}\n\n"
        "rlopt data SUBVERB --help explains a subverb."
    )


def main(argv: list[str]) -> int:
    """Runs one subverb; returns its exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    subverb, rest = argv[0], argv[1:]
    if subverb not in SUBVERBS:
        raise unknown_name("subverb of rlopt data", subverb, SUBVERBS)
    code: int = importlib.import_module(f"rlopt.cli.data_{subverb}").main(rest)
    return code
