"""``rlopt rank info STUDY``"""

from __future__ import annotations

from rlopt.cli.parsing import OneLineParser
from rlopt.cli.rank_options import add_study_options, open_study


def main(argv: list[str]) -> int:
    """Describes a study; returns 0."""
    parser = OneLineParser(
        prog="rlopt rank info", description="Describe a study: its rounds, its raters, how far they agree."
    )
    add_study_options(parser)
    parser.add_argument("--forget-names", action="store_true", help="delete the names of all raters")
    arguments = parser.parse(argv)
    store, study = open_study(arguments)

    from rlopt.feedback.describe import describe

    if arguments.forget_names:
        print(f"{store.forget_names(study)} names deleted")
    print(describe(store, study))
    return 0
