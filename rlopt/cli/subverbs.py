"""Verbs that have verbs of their own. Imports a subverb only when it is used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from rlopt.errors import unknown_name


def usage(verb: str, description: str, subverbs: Mapping[str, str]) -> str:
    """The text of ``rlopt VERB --help``."""
    lines = "\n".join(f"  {name:<10}{summary}" for name, summary in subverbs.items())
    return (
        f"usage: rlopt {verb} SUBVERB ...\n\n{description}\n\nsubverbs:\n{lines}\n\n"
        f"rlopt {verb} SUBVERB --help explains a subverb."
    )


def run(verb: str, description: str, subverbs: Mapping[str, str], argv: list[str]) -> int:
    """Runs one subverb, ``main(argv) -> int`` of the module ``rlopt.cli.VERB_SUBVERB``; returns its exit code.

    :param subverbs: name -> one line of help
    :raises rlopt.errors.UnknownNameError: for another subverb, with the nearest one
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage(verb, description, subverbs))
        return 0
    subverb, rest = argv[0], argv[1:]
    if subverb not in subverbs:
        raise unknown_name(f"subverb of rlopt {verb}", subverb, subverbs)
    code: int = importlib.import_module(f"rlopt.cli.{verb}_{subverb}").main(rest)
    return code
