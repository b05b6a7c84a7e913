"""The server of a study as a process that ends with the search that started it, however that ends."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from rlopt.console.progress import say
from rlopt.errors import StudyError
from rlopt.feedback.study import HumanStudy
from rlopt.run_folder import shell_quote

FAREWELL_SECONDS = 7.0
"""For how long a server continues after the last round: longer than the pause of a page that waits for the next."""


def ask_people(
    study: HumanStudy, folder: Path, rounds: int, *, port: int | None = 0, stopping: Callable[[], bool] = lambda: False
) -> bool:
    """Asks until ``rounds`` rounds of a study in ``folder`` are answered; whether they are.

    :param study: which gives up waiting after a while, see ``deadline_seconds``
    :param port: port of the server that is started; None for none
    :param stopping: looked at between answers; the study continues at the next call
    :raises rlopt.errors.StudyError: the server has ended
    """
    name, server = study.study.name, None
    if port is None:
        say(f"waiting for people: rlopt rank serve {shell_quote(str(folder))} --name {shell_quote(name)}")
    elif study.iteration < rounds:
        say(f"study {name!r}: {study.iteration} of {rounds} rounds are answered; open this link to rank:")
        server = start([str(folder), "--name", name, "--port", str(port)])
    try:
        while study.iteration < rounds:
            if stopping():
                return False
            if study.step() is None and server is not None and server.poll() is not None:
                raise StudyError("the server of the study has ended, so that nobody can rank: give another --port")
        study.finish()
        if server is not None:
            with suppress(subprocess.TimeoutExpired):
                server.wait(timeout=FAREWELL_SECONDS)
    finally:
        if server is not None:
            stop(server)
    return True


def start(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Starts ``rlopt rank serve`` with ``arguments``; it prints its URL on this process's standard output."""
    command = [sys.executable, "-m", "rlopt.cli.study_server", *arguments]
    # Ctrl-C is for the search, which then ends the server.
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def stop(server: subprocess.Popen[bytes]) -> None:
    """Ends a server that :func:`start` started, and waits for it."""
    if server.stdin is not None:
        server.stdin.close()
    server.terminate()
    try:
        server.wait(timeout=10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
