"""``rlopt rank import FILE STUDY``"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlopt.cli.parsing import OneLineParser
from rlopt.cli.rank_options import add_study_options
from rlopt.errors import StudyError
from rlopt.feedback import require_packages

_OF_A_STUDY = ("study.db", "study.db-wal", "study.db-shm", "media")


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
    made = [arguments.study] if "://" not in arguments.study else []
    made += [] if arguments.media is None else [arguments.media]
    with file, _undone_on_failure([Path(folder) for folder in made]):
        store = open_store(arguments.study, arguments.media, create=True)
        try:
            study = import_study(store, file, name=arguments.name, clips=arguments.clips)
        except UnicodeDecodeError:
            raise StudyError(f"{arguments.file} is no text: name a file of rlopt rank export") from None
        finally:
            store.close()
    print(f"study {study.name!r}: {arguments.study}")
    return 0


@contextmanager
def _undone_on_failure(folders: list[Path]) -> Iterator[None]:
    """Removes what was not there before: folders, and the empty study in one that was."""
    own = [folder / name for folder in folders if folder.is_dir() for name in _OF_A_STUDY]
    new = [path for path in own if not os.path.lexists(path)]
    for folder in folders:
        missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
        new += missing[-1:]  # the outermost of those that have to be made
    try:
        yield
    except BaseException:
        for path in new:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise
