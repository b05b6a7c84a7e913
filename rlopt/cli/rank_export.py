"""``rlopt rank export STUDY``"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rlopt.cli.parsing import OneLineParser
from rlopt.cli.rank_options import add_study_options, open_study
from rlopt.errors import StudyError


def main(argv: list[str]) -> int:
    """Writes a study's answers; returns 0."""
    parser = OneLineParser(
        prog="rlopt rank export",
        description="Write a study as text: jsonl holds everything and can be imported again, pairs has a line for "
        "every two clips that an answer compares (for preference learning), csv a row for every clip of every answer.",
    )
    add_study_options(parser)
    add = parser.add_argument
    add("--format", metavar="WHAT", default="jsonl", help="jsonl (default), pairs or csv")
    add("--out", metavar="FILE", type=Path, help="where to (default: printed)")
    add("--overwrite", action="store_true", help="replace FILE")
    add("--with-names", action="store_true", help="write the raters' names too, which are personal data")
    arguments = parser.parse(argv)
    if arguments.out is not None and arguments.out.exists() and not arguments.overwrite:
        raise StudyError(f"{arguments.out} is there already: add --overwrite to replace it")
    store, study = open_study(arguments)

    from rlopt.feedback.export import export

    if arguments.out is None:
        export(store, study, arguments.format, sys.stdout, names=arguments.with_names)
        return 0
    temporary = arguments.out.with_name(f".{arguments.out.name}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            count = export(store, study, arguments.format, file, names=arguments.with_names)
        os.replace(temporary, arguments.out)
    except OSError as error:
        raise StudyError(f"{arguments.out} cannot be written ({error.strerror}): use another place") from None
    finally:
        temporary.unlink(missing_ok=True)
    print(f"{count} lines: {arguments.out}")
    return 0
