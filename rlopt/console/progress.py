"""Progress of a training run: one bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import functools
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, TextIO

_CODES = {"bold": "1", "red": "1;31", "yellow": "33", "green": "32"}


def painted(text: str, style: str, stream: TextIO | None = None) -> str:
    """``text`` in a style where ``stream`` shows colours, else as it is.

    :param style: bold, red, yellow or green
    :param stream: default stdout
    """
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if shows_colour(stream or sys.stdout) else text


def shows_colour(stream: TextIO) -> bool:
    """Whether a stream shows colours: NO_COLOR (https://no-color.org), then FORCE_COLOR, then a terminal decides."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def marked(line: str) -> str:
    """A line of a running command with what stands out in it: warnings, and results."""
    if line.startswith("warning: "):
        return painted("warning: ", "yellow") + line.removeprefix("warning: ")
    head, colon, rest = line.partition(": ")
    return f"{painted(head, 'green')}{colon}{rest}" if head in ("best evaluation", "done") else line


PLAIN_SECONDS = 10.0
"""Least time between two plain lines, so that a log file stays readable."""
DRAW_SECONDS = 0.5
"""Between two drawings of the bar, whatever happens between two boundaries."""


def duration(seconds: float) -> str:
    """``seconds`` for people: 42s, 3m05s, 2h07m; ? when unknown."""
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def say(text: str) -> None:
    """Prints a line; where that fails (``rlopt train ... | head``, a full disk), training continues in silence."""
    try:
        print(marked(text), flush=True)
    except OSError:  # of whatever kind, it is the output that fails here
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it lasts as long as the process


@functools.cache
def say_once(text: str) -> None:
    """Prints a line once in the process, for all seeds of a group of runs."""
    say(text)


@dataclass(frozen=True)
class Counted:
    """What the end of a run is counted in."""

    total: int
    unit: str = "env steps"
    attribute: str = "num_timesteps"
    """The model's attribute that counts how much is done."""


class Progress:
    """Reports environment steps per second, the mean return of recent episodes and the time left.

    :param total: environment steps of the whole run
    :param start: environment steps already done by an earlier process
    :param unit: what is counted, if it is not environment steps
    :param drawn: whether a bar is drawn where there is a terminal
    """

    open: ClassVar[weakref.WeakSet[Progress]] = weakref.WeakSet()
    """Those that a person looks at now."""

    def __init__(self, total: int, start: int = 0, unit: str = "env steps", drawn: bool = True) -> None:
        self.total, self.start, self.step, self.unit = total, start, start, unit
        self.began = time.monotonic()
        self._last_line, self._last_shown = self.began, -1
        self._bar: Any = None
        self._waited, self._explained = 0.0, set[str]()
        self._over = threading.Event()
        Progress.open.add(self)
        if drawn and sys.stderr.isatty() and sys.stdout.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                initial=start,
                unit=f" {unit}",
                unit_scale=True,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}, {rate_fmt}{postfix}, {remaining} left",
            )

    def extend(self, total: int, start: int) -> None:
        """Adds the steps of one more run, ``start`` of which are done already."""
        self.total, self.start, self.step = self.total + total, self.start + start, self.step + start
        if self._bar is not None:
            self._bar.total, self._bar.initial = self.total, self.start
            self._bar.update(start)

    def watch(self, count: Callable[[], int]) -> None:
        """Moves the bar between two boundaries too, which may be far apart; elsewhere than on a terminal, does nothing.

        :param count: what is done so far; called from a thread
        """
        if self._bar is None:
            return

        def draw() -> None:
            while not self._over.wait(DRAW_SECONDS):
                if (bar := self._bar) is not None:
                    self._move(bar, count())
                    bar.refresh()

        threading.Thread(target=draw, daemon=True).start()

    @staticmethod
    def _move(bar: Any, step: int) -> None:
        """Moves the bar forward; the last rollout may end beyond the total, where tqdm would show no share at all."""
        bar.n = max(bar.n, step)
        bar.total = max(bar.total, bar.n)

    def update(self, step: int, mean_return: Callable[[], float | None]) -> None:
        """Called at every boundary; draws only as often as a person can read.

        :param mean_return: computes the mean return of the last episodes, None before the first one ends
        """
        advanced, self.step = step - self.step, step
        now = time.monotonic()
        if self._bar is not None:
            if now - self._last_line > 0.5:
                self._last_line, value = now, mean_return()
                self._bar.set_postfix_str("" if value is None else f"return {value:.1f}", refresh=False)
            self._move(self._bar, step)
            self._bar.update(0)
        elif advanced and now - self._last_line >= PLAIN_SECONDS:
            self._last_line, self._last_shown = now, step
            say(self.line(mean_return()))

    def evaluated(self, step: int, mean_return: float) -> None:
        """Called after every evaluation with its mean return; the run itself prints a line about it."""

    def line(self, mean_return: float | None) -> str:
        """The plain line: steps done, steps per second, mean return, time left."""
        elapsed = max(time.monotonic() - self.began - self._waited, 1e-9)
        rate = (self.step - self.start) / elapsed
        left = (self.total - self.step) / rate if rate > 0 else math.inf
        shown = "no episode has ended, " if self.unit == "env steps" else ""
        shown = shown if mean_return is None else f"mean return {mean_return:.1f}, "
        share = min(100 * self.step / max(self.total, 1), 100)
        what = "step" if self.unit.endswith("steps") else self.unit.removesuffix("s")
        pace = f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.2g}"
        return (
            f"{what} {self.step:,} of {self.total:,} ({share:.0f} %), {pace} {self.unit}/s, {shown}"
            f"{duration(max(left, 0.0))} left"
        )

    def say(self, text: str) -> None:
        """Prints a line without tearing the bar."""
        if self._bar is not None:
            self._bar.write(marked(text), file=sys.stdout)
        else:
            say(text)

    @contextmanager
    def waiting(self, reason: str) -> Iterator[None]:
        """Tells once why nothing moves; the time that passes within counts in no rate."""
        if reason not in self._explained:
            self._explained.add(reason)
            self.say(reason)
        began = time.monotonic()
        try:
            yield
        finally:
            self._waited += time.monotonic() - began
            if self._bar is not None:
                self._bar.start_t += time.monotonic() - began

    def finish(self, mean_return: float | None) -> None:
        """Closes the bar, or prints the last plain line, unless it was printed already."""
        self._over.set()
        Progress.open.discard(self)
        if self._bar is not None:
            self._move(self._bar, self.step)
            self._bar.close()
            self._bar = None
        elif self._last_shown != self.step:
            say(self.line(mean_return))


@contextmanager
def waiting(reason: str) -> Iterator[None]:
    """:meth:`Progress.waiting` of what a person looks at, if there is something."""
    with ExitStack() as stack:
        for progress in list(Progress.open):
            stack.enter_context(progress.waiting(reason))
        yield
