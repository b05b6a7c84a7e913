"""``python -m rlopt.cli.study_server``: ``rlopt rank serve`` for as long as standard input stays open."""

import os
import signal
import sys
import threading

from rlopt.cli.main import main as rlopt


def main(argv: list[str]) -> int:
    """Serves until standard input ends, as it does when the process that holds its other end is gone."""
    threading.Thread(target=_follow, daemon=True).start()
    return rlopt(["rank", "serve", *argv])


def _follow() -> None:
    # Not sys.stdin, whose lock would be held when the interpreter ends for another reason.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
