"""``rlopt rank import FILE STUDY``"""

from __future__ import annotations

from pathlib import Path

from rlopt.cli.parsing import OneLineParser
from rlopt.cli.rank import require_packages
from rlopt.cli.rank_options import add_study_options
from rlopt.errors import StudyError


def main(argv: list[str]) -> int:
    """Makes a study of JSON lines; returns 0."""
    parser = OneLineParser(
        prog="rlopt rank import", description="Make a study of the JSON lines that rlopt rank export wrote."
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the JSON lines")
    add_study_options(parser)
    parser.add_argument("--clips", metavar="FOLDER", type=Path, help="the exported study's media folder, whose "
        "clips are copied and checked (default: none are)")  # fmt: skip
    arguments = parser.parse(argv)
    require_packages()

    from rlopt.feedback.importing import import_study
    from rlopt.feedback.store import open_store

    try:
        file = open(arguments.file, encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        raise StudyError(
            f"{arguments.file} cannot be read ({error.strerror}): name a file of rlopt rank export"
        ) from None
    with file:
        store = open_store(arguments.study, arguments.media, create=True)
        try:
            study = import_study(store, file, name=arguments.name, clips=arguments.clips)
        except UnicodeDecodeError:
            raise StudyError(f"{arguments.file} is no text: name a file of rlopt rank export") from None
    print(f"study {study.name!r}: {arguments.study}")
    return 0
