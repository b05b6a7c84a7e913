"""``rlopt demos info IN``"""

from __future__ import annotations

from rlopt.cli.demos_options import DEMOS_HELP, add_reading_options, reading_options
from rlopt.cli.parsing import OneLineParser


def main(argv: list[str]) -> int:
    """Describes demonstrations; returns 0."""
    parser = OneLineParser(prog="rlopt demos info", description="Describe demonstrations.")
    parser.add_argument("demos", metavar="IN", help=DEMOS_HELP)
    add_reading_options(parser)
    arguments = parser.parse(argv)
    options = reading_options(arguments)

    from rlopt.data import load_demonstrations
    from rlopt.data.description import describe

    print(describe(load_demonstrations(arguments.demos, **options)))
    return 0
