"""How a study is named on the command line."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rlopt.feedback import require_packages

if TYPE_CHECKING:
    from rlopt.feedback.store import Study, StudyStore


def add_study_options(parser: argparse.ArgumentParser) -> None:
    """Adds STUDY, ``--name`` and ``--media``."""
    parser.add_argument("study", metavar="STUDY", help="folder of the study, or postgresql://USER@HOST/NAME")
    parser.add_argument("--name", metavar="NAME", help="which study, where there are several")
    parser.add_argument("--media", metavar="FOLDER", help="folder of the clips (default: STUDY/media)")


def open_study(arguments: argparse.Namespace) -> tuple[StudyStore, Study]:
    """Opens what the options name.

    :raises rlopt.errors.StudyError: there is no such study, or it cannot be read
    :raises rlopt.errors.ConfigError: the packages are missing
    """
    require_packages()
    from rlopt.feedback.store import open_store

    store = open_store(arguments.study, arguments.media)
    return store, store.study(arguments.name)
