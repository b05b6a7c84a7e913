"""The server of a study as a process that ends with the search that started it, however that ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence


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
