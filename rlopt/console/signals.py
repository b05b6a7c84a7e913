"""Ctrl-C, SIGTERM and a lost terminal as a request to stop at the next boundary. Imports no torch."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StopRequest:
    """Whether runs are to stop, and what for."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended: 130 for Ctrl-C, 143 for SIGTERM, 0 for none."""
        return 0 if self.received is None else 128 + int(self.received)


class Stopped(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or SIGHUP ended what has nothing to keep, after it had put things in order.

    :param number: of the signal
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.exit_code = 128 + int(number)


class StopSignals(StopRequest):
    """Context in which the first Ctrl-C, SIGTERM or SIGHUP sets :attr:`received`, the second aborts at once.

    Outside the main thread, where signals cannot be handled, it does nothing.

    :param answer: what the person who pressed Ctrl-C is told will happen
    """

    def __init__(self, answer: str = "stopping with a checkpoint of the last whole update") -> None:
        super().__init__()
        self._answer = f"\nrlopt: {answer}; once more aborts at once\n".encode()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            # nohup makes a process ignore the loss of its terminal; that is left so.
            numbers = [n for n in SIGNALS if n.name != "SIGHUP" or signal.getsignal(n) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        # print() may be interrupted in the middle of itself, write() may not.
        with contextlib.suppress(OSError):  # the terminal may be what was lost
            os.write(2, self._answer)


def hand_on(number: signal.Signals) -> None:
    """Gives a signal that was taken to whoever handled signals before: a run, which stops at its next boundary."""
    owner = getattr(signal.getsignal(number), "__self__", None)
    if isinstance(owner, StopRequest):
        owner.received = number
    else:
        signal.raise_signal(number)
