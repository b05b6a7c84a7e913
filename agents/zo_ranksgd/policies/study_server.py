"""The server of a study as a process that ends with the search that started it, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence


def start(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Starts ``rlopt rank serve`` with ``arguments``; it prints its URL on this process's standard output."""
    command = [sys.executable, "-m", "rlopt.agents.zo_ranksgd.policies.study_server", *arguments]
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


def main(argv: list[str]) -> int:
    """Serves until standard input ends, as it does when the process that holds its other end is gone."""
    from rlopt.cli.main import main as rlopt

    threading.Thread(target=_follow, daemon=True).start()
    return rlopt(["rank", "serve", *argv])


def _follow() -> None:
    # Not sys.stdin, whose lock would be held when the interpreter ends for another reason.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
