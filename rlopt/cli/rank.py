"""``rlopt rank SUBVERB``: studies in which people rank clips. Imports nothing heavy before a subverb runs."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlopt.cli.parsing import OneLineParser, number, run
from rlopt.errors import ConfigError, StudyError
from rlopt.feedback import require_packages
from rlopt.settings.fields import Range

if TYPE_CHECKING:
    from rlopt.feedback.store import Study, StudyStore

_OF_A_STUDY = ("study.db", "study.db-wal", "study.db-shm", "media")
LONGEST_NAME = 80
MOST_NAMES = 100


def main(argv: list[str]) -> int:
    """Runs one subverb; returns its exit code."""
    return run("rank", "Studies in which people rank clips in a browser, and a search follows.", SUBVERBS, argv)


def add_study_options(parser: argparse.ArgumentParser) -> None:
    """Adds STUDY, ``--name`` and ``--media``."""
    parser.add_argument("study", metavar="STUDY", help="folder of the study, or postgresql://USER@HOST/NAME")
    parser.add_argument("--name", metavar="NAME", help="name of the study, if there are several")
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


def export_answers(argv: list[str]) -> int:
    """Writes a study's answers; returns 0."""
    parser = OneLineParser(
        prog="rlopt rank export",
        description="Write a study as text: jsonl holds everything and can be imported again, pairs has one line for "
        "every pair of clips that an answer compares (for preference learning), csv has one row per clip and answer.",
    )
    add_study_options(parser)
    add = parser.add_argument
    add("--format", metavar="WHAT", default="jsonl", help="jsonl (default), pairs or csv")
    add("--out", metavar="FILE", type=Path, help="file to write (default: print it)")
    add("--overwrite", action="store_true", help="replace FILE")
    add("--with-names", action="store_true", help="also write the raters' names, which are personal data")
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


def import_answers(argv: list[str]) -> int:
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
            raise StudyError(f"{arguments.file} is not text: name a file of rlopt rank export") from None
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


def info(argv: list[str]) -> int:
    """Describes a study; returns 0."""
    parser = OneLineParser(
        prog="rlopt rank info", description="Describe a study: its rounds, its raters and their agreement."
    )
    add_study_options(parser)
    parser.add_argument("--forget-names", action="store_true", help="delete the names of all raters")
    parser.add_argument("--expert", metavar="RATER", help="treat this rater's orders as correct and check the other "
        "raters against them (id as listed)")  # fmt: skip
    parser.add_argument("--links", action="store_true", help="print the address with which each rater can continue "
        "in another browser; it is as secret as a password")  # fmt: skip
    arguments = parser.parse(argv)
    store, study = open_study(arguments)

    from rlopt.feedback.results import describe

    if arguments.expert is not None:
        print(f"rater {store.set_expert(study, arguments.expert).public_id[:8]} is an expert now")
    if arguments.forget_names:
        print(f"{store.forget_names(study)} names deleted")
    print(describe(store, study))
    if arguments.links:
        _print_links(store, study)
    return 0


def _print_links(store: StudyStore, study: Study) -> None:
    from rlopt.feedback.server.auth import Access
    from rlopt.feedback.server.links import read_links

    links = read_links(store, study)
    if links is None:
        raise StudyError(f"study {study.name!r} has no links yet: start rlopt rank serve first")
    access = Access(store, study, links.token)
    for rater in store.raters(study):
        print(f"  link       {rater.public_id[:8]} {rater.name or '(no name)'}: /?rater={access.return_code(rater)}")


def replay_answers(argv: list[str]) -> int:
    """Runs the search again on the stored answers; returns 0 if every state comes out bit for bit."""
    parser = OneLineParser(
        prog="rlopt rank replay",
        description="Run a study's search again from its first state on the answers that were used, and compare every "
        "query and every state with what is stored, bit for bit (for a policy search, every query and the last state). "
        "A difference is an error that names the round.",
    )
    add_study_options(parser)
    store, study = open_study(parser.parse(argv))

    from rlopt.agents.zo_ranksgd.policies.study_replay import optimizer_of
    from rlopt.feedback.study import replay

    optimizer, part = optimizer_of(store, study)
    count = replay(store, study, optimizer, part)
    compared = "state" if part is None else "query and the last state"
    print(f"study {study.name!r}: {count} rounds replayed, every {compared} is that of the answers")
    return 0


def serve_study(argv: list[str]) -> int:
    """Serves until Ctrl-C or SIGTERM; returns 0."""
    parser = OneLineParser(
        prog="rlopt rank serve",
        description="Serve a study to its raters. Prints the raters' URL, and the URL of the results for you. The "
        "trainer is another process and need not be running.",
    )
    add_study_options(parser)
    add = parser.add_argument
    add("--host", metavar="ADDRESS", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine "
        "only; others need --token)")  # fmt: skip
    parser.add_number("--port", Range(ge=0, le=65535), default=0, help="port to listen on (default 0: the last one, "
        "or a free one)")  # fmt: skip
    add("--token", metavar="TEXT", help="token in the link: auto keeps the last one or draws one (the default on "
        "this machine), new draws one, none needs no token (this machine only), or your own of at least 20 "
        "characters")  # fmt: skip
    add("--raters", metavar="N|NAMES", help="number of browsers that the link admits (default: as many as can "
        "rank at once), or raters' names: ada,grace")  # fmt: skip
    add(
        "--public-url",
        metavar="URL",
        help="address of a proxy in front of the server, such as https://rank.example.org",
    )
    add(
        "--allow-host", metavar="NAME", action="append", default=[], help="another host name that the server answers to"
    )
    parser.add_number("--requests-per-second", Range(gt=0), float, metavar="X", default=20.0, help="largest number "
        "of requests per second from one browser (default 20)")  # fmt: skip
    parser.add_number("--lease-seconds", Range(ge=1, le=86400), float, default=120.0, help="seconds for which a "
        "silent browser keeps a round (default 120)")  # fmt: skip
    parser.add_number("--minimum-seconds", Range(ge=0, le=3600), float, default=1.0, help="shortest time in seconds "
        "from showing clips to accepting an order of them (default 1)")  # fmt: skip
    add("--protocol", metavar="FILE", help="YAML file of the study's protocol: consent, training, checks, duels, end "
        "(docs/feedback.md lists its settings)")  # fmt: skip
    add("--verbose", action="store_true", help="print a line for each request, without secrets")
    arguments = parser.parse(argv)
    raters = _raters(arguments.raters)
    require_packages()

    from rlopt.console.progress import say
    from rlopt.feedback.protocol import read_protocol
    from rlopt.feedback.server.serving import ServeSettings, check, serve

    settings = ServeSettings(
        host=arguments.host,
        port=arguments.port,
        token=arguments.token,
        public_url=arguments.public_url,
        allow_hosts=tuple(name.lower() for name in arguments.allow_host),
        verbose=arguments.verbose,
        requests_per_second=arguments.requests_per_second,
        lease_seconds=arguments.lease_seconds,
        minimum_seconds=arguments.minimum_seconds,
        protocol=read_protocol(arguments.protocol),
        **raters,
    )
    check(settings)
    store, study = open_study(arguments)
    serve(store, study, settings, say)
    return 0


def _raters(text: str | None) -> dict[str, Any]:
    """A number of raters, or their names."""
    if text is None:
        return {}
    if text.strip().lstrip("+-").replace(".", "").isdigit():
        return {"raters": number("--raters", text, int, Range(ge=1, le=100_000))}
    names = [" ".join(name.split()) for name in text.split(",")]
    cure = "write a number, or different names with commas between them: --raters ada,grace"
    for name in names:
        if not name or not name.isprintable() or len(name) > LONGEST_NAME:
            raise ConfigError(f"--raters: {name[:LONGEST_NAME]!r} is not 1 to {LONGEST_NAME} characters; {cure}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"--raters names {twice!r} twice; {cure}")
    if len(names) > MOST_NAMES:
        raise ConfigError(f"--raters has {len(names)} names, of at most {MOST_NAMES}: give their number")
    return {"names": tuple(names)}


def rank_images(argv: list[str]) -> int:
    """Lets people rank images of a pipeline; returns 0, or 130 or 143 after a signal."""
    from rlopt.cli.rank_images import main as images

    return images(argv)


SUBVERBS = {
    "export": (export_answers, "write a study's answers as JSON lines, pairs or CSV"),
    "images": (rank_images, "let people rank images of a diffusion pipeline, and search its latent"),
    "import": (import_answers, "make a study of exported JSON lines"),
    "info": (info, "describe a study: rounds, raters, agreement"),
    "replay": (replay_answers, "run a study's search again on its answers and compare"),
    "serve": (serve_study, "serve a study to its raters; prints its URLs"),
}
"""Name -> function, one line of help."""
