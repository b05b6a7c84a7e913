"""What a job sees of the engine that runs it, and how its function is called. Imports no torch."""

import importlib
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlopt.console.signals import StopRequest
from rlopt.errors import ConfigError, EnvFaultError, RloptError, RunError, environment_traceback, one_line

REPORT_SECONDS = 0.5
"""Least time between two reports of progress."""


class JobStopped(Exception):
    """Raised by a job's function that was asked to stop and has written what it needs to continue."""


class JobContext:
    """The first argument of a job's function.

    :param name: name of the job
    :param attempt: 0, or how many attempts have failed in this call of the engine
    :param log: file for what it prints, None if there is none
    :param stop: set when the job is to stop at the next point from which it can continue
    :param send: takes a report
    """

    def __init__(
        self, name: str, attempt: int, log: Path | None, stop: StopRequest, send: Callable[[dict[str, Any]], None]
    ) -> None:
        self.name, self.attempt, self.log, self.stop = name, attempt, log, stop
        self._send, self._last = send, -REPORT_SECONDS

    @property
    def stopping(self) -> bool:
        """Whether the job is to stop; the function then raises :class:`JobStopped` as soon as it can continue later."""
        return self.stop.received is not None

    def progress(self, step: int, total: int, value: Callable[[], float | None] = lambda: None) -> None:
        """Says how far the job is; cheap enough to be called at every step.

        :param value: computes a value to show with it, such as the mean return
        """
        now = time.monotonic()
        if now - self._last >= REPORT_SECONDS:
            self._last = now
            self._send({"kind": "progress", "step": int(step), "total": int(total), "value": value()})

    def evaluated(self, step: int, value: float) -> None:
        """Says how good the job's result is so far, by which it may be stopped early; larger is better."""
        self._send({"kind": "evaluated", "step": int(step), "value": float(value)})


def ask_to_stop(stop: StopRequest) -> None:
    """Asks a job to stop, as a signal would."""
    stop.received = signal.SIGTERM


def run_job(job: Mapping[str, Any], stop: StopRequest, send: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Runs one attempt and says how it ended; lets nothing but the end of the process through.

    :param job: ``name``, ``function``, ``arguments``, ``attempt`` and ``log``, from the process that gave the job
    """
    log = Path(job["log"]) if job["log"] else None
    context = JobContext(job["name"], job["attempt"], log, stop, send)
    began = time.monotonic()
    try:
        value = _function(job["function"])(context, **job["arguments"])
        json.dumps(value)
        ended = {"status": "done", "value": value}
    except JobStopped:
        ended = {"status": "stopped"}
    except Exception as error:
        # What the settings are wrong about does not change by trying again.
        final = isinstance(error, RloptError) and type(error) not in (RunError, EnvFaultError)
        ended = {"status": "failed", "reason": _reason(error), "final": final}
        known = isinstance(error, RloptError)
        if trace := environment_traceback(error) if known else traceback.format_exc().rstrip():
            _write_traceback(log, trace)
    return {**ended, "seconds": time.monotonic() - began}


def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{name} cannot be imported where the job runs ({one_line(error)})") from error
    return function


def _reason(error: Exception) -> str:
    text = one_line(error)
    return text if isinstance(error, RloptError) else f"{type(error).__name__}: {text}"


def _write_traceback(log: Path | None, trace: str) -> None:
    if log is None:
        print(trace, file=sys.stderr)
        return
    with opened_log(log) as write:
        write(trace)


@contextmanager
def opened_log(path: Path) -> Iterator[Callable[[str], None]]:
    """Appends lines to a job's log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:

        def write(line: str) -> None:
            print(line, file=file, flush=True)

        yield write
