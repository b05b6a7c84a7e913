"""``rlopt demos SUBVERB``: demonstrations of an expert, for imitation learners."""

from __future__ import annotations

from rlopt.cli.subverbs import run

SUBVERBS: dict[str, str] = {
    "convert": "write demonstrations in another format",
    "info": "describe demonstrations: environment, returns, observation order, what made them",
    "record": "record whole episodes of a trained agent",
}
"""Name -> one line of help."""


def main(argv: list[str]) -> int:
    """Runs one subverb; returns its exit code."""
    return run("demos", "Demonstrations of an expert, which imitation learners take with --demos.", SUBVERBS, argv)
