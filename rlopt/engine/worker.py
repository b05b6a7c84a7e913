"""The process of the local engine that runs jobs: ``python -m rlopt.engine.worker``. Imports no torch by itself.

It reads one JSON value a line from its standard input, from the process that started it, and answers the same way on
what was its standard output. What jobs print goes to their logs.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from typing import Any, TextIO

from rlopt.console.signals import SIGNALS, StopRequest
from rlopt.engine.context import ask_to_stop, run_job

ORPHAN_SECONDS = 30.0
"""How long a job has to write a checkpoint when the process that started it is gone."""


class _Worker:
    def __init__(self, commands: TextIO, answers: TextIO) -> None:
        self._commands, self._answers = commands, answers
        self._jobs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._requests: dict[str, StopRequest] = {}
        self._lock = threading.Lock()

    def report(self, name: str, message: dict[str, Any]) -> None:
        """Sends what job ``name`` says."""
        self.send({**message, "name": name})

    def send(self, message: dict[str, Any]) -> None:
        # Whom it would tell may be gone; listen() then ends the job.
        with self._lock, suppress(OSError, ValueError):
            print(json.dumps(message), file=self._answers, flush=True)

    def listen(self) -> None:
        """Receives jobs and requests to stop, in a thread of its own, until the other side is gone."""
        for line in self._commands:
            message = json.loads(line)
            if message["kind"] == "job":
                self._requests[message["name"]] = StopRequest()
                self._jobs.put(message)
            elif message["kind"] == "stop" and message["name"] in self._requests:
                ask_to_stop(self._requests[message["name"]])
        self.stop_all()
        self._jobs.put(None)
        time.sleep(ORPHAN_SECONDS)
        os._exit(1)

    def stop_all(self, *_: object) -> None:
        for stop in list(self._requests.values()):
            ask_to_stop(stop)

    def run(self) -> None:
        """Runs one job after another, in the main thread, which some libraries ask for."""
        while (job := self._jobs.get()) is not None:
            name = job["name"]
            if job["log"]:
                _print_to(job["log"])
            ended = run_job(job, self._requests[name], partial(self.report, name))
            del self._requests[name]
            self.send({"kind": "ended", "name": name, **ended})


def _print_to(path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def main() -> int:
    """Runs jobs until the process that started this one closes the pipe, or is gone."""
    # A terminal sends Ctrl-C to this process too: the process that started it then asks the jobs to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    commands = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # what jobs read from it would be missing here
    os.close(nothing)
    worker = _Worker(commands, answers)
    for number in SIGNALS:
        # nohup makes a process ignore the loss of its terminal; that is left so.
        if number != signal.SIGINT and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, worker.stop_all)
    sys.path[:] = json.loads(commands.readline())["path"]
    threading.Thread(target=worker.listen, daemon=True).start()
    worker.send({"kind": "ready"})
    worker.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
