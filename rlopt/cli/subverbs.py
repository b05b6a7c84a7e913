"""Verbs with subverbs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rlopt.errors import unknown_name


def run(
    verb: str, description: str, subverbs: Mapping[str, tuple[Callable[[list[str]], int], str]], argv: list[str]
) -> int:
    """Runs one subverb; returns its exit code.

    :param subverbs: name -> function of its arguments, one line of help
    :raises rlopt.errors.UnknownNameError: for another subverb, with the nearest one
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        lines = "\n".join(f"  {name:<10}{summary}" for name, (_, summary) in subverbs.items())
        print(
            f"usage: rlopt {verb} SUBVERB ...\n\n{description}\n\nsubverbs:\n{lines}\n\n"
            f"rlopt {verb} SUBVERB --help explains a subverb."
        )
        return 0
    if argv[0] not in subverbs:
        raise unknown_name(f"subverb of rlopt {verb}", argv[0], subverbs)
    return subverbs[argv[0]][0](argv[1:])
