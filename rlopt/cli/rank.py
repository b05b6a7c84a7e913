"""``rlopt rank SUBVERB``: studies in which people rank clips."""

from __future__ import annotations

from rlopt.cli.subverbs import run

SUBVERBS: dict[str, str] = {
    "export": "write a study's answers as JSON lines, pairs or CSV",
    "import": "make a study of exported JSON lines",
    "info": "describe a study: rounds, raters, agreement",
    "replay": "run a study's search again on its answers and compare",
    "serve": "serve a study to those who rank; prints one URL",
}
"""Name -> one line of help."""


def main(argv: list[str]) -> int:
    """Runs one subverb; returns its exit code."""
    return run("rank", "Studies in which people rank clips in a browser, and a search follows.", SUBVERBS, argv)
