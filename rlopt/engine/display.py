"""What a person sees while jobs run: a table that redraws itself on a terminal, plain lines elsewhere."""

import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from rlopt.console.progress import PLAIN_SECONDS, duration, say
from rlopt.engine.base import Observer
from rlopt.engine.jobs import DONE, FAILED, Job, JobResult

REDRAW_SECONDS = 0.5
_MOST_ROWS = 20
_OTHER_LINES = 4
"""Lines of a terminal that the table leaves free."""


@dataclass
class _Row:
    attempt: int
    began: float = field(default_factory=time.monotonic)
    start: int | None = None
    step: int = 0
    total: int = 0
    value: float | None = None


class Display(Observer):
    """Shows the jobs of one call of :meth:`rlopt.engine.Engine.map`.

    :param total: how many jobs there are, None if that is not known
    :param where: what runs them, for the first line
    :param unit: what a job counts
    """

    def __init__(self, total: int | None, where: str, unit: str = "steps") -> None:
        self.total, self.where, self.unit = total, where, unit
        self.counts: Counter[str] = Counter()
        self._rows: dict[str, _Row] = {}
        self._live = sys.stdout.isatty()
        self._drawn = 0
        self._began = self._last = time.monotonic()
        self._known = 0

    def known(self, result: JobResult) -> None:
        self.counts[result.status] += 1
        self._known += 1

    def started(self, job: Job, attempt: int) -> None:
        self._rows[job.name] = _Row(attempt)
        if not self._live and not attempt:
            self.say(f"{job.name}: started")

    def progress(self, name: str, step: int, total: int, value: float | None) -> None:
        row = self._rows[name]
        if row.start is None:
            row.start, row.began = step, time.monotonic()
        row.step, row.total, row.value = step, total, value

    def retried(self, job: Job, attempt: int, reason: str) -> None:
        self._rows.pop(job.name, None)
        self.say(f"{job.name}: attempt {attempt + 1} failed, it will be tried again: {reason}")

    def ended(self, result: JobResult) -> None:
        self._rows.pop(result.name, None)
        self.counts[result.status] += 1
        if result.status == FAILED:
            self.say(f"{result.name}: failed: {result.reason}")
        elif not self._live:
            self.say(f"{result.name}: {result.status}{describe_value(result)} in {duration(result.seconds)}")

    def tick(self) -> None:
        now = time.monotonic()
        if now - self._last >= (REDRAW_SECONDS if self._live else PLAIN_SECONDS):
            self._last = now
            if self._live:
                self._draw()
            elif self._rows:
                say(self.line())

    def say(self, text: str) -> None:
        """Prints a line without tearing the table."""
        self._erase()
        say(text)

    def finish(self) -> None:
        """Removes the table."""
        self._erase()

    def line(self) -> str:
        """The state of all in one line."""
        ended = sum(self.counts.values())
        parts = [f"{self.counts[DONE]} done"] + [f"{n} {kind}" for kind, n in self.counts.items() if kind != DONE]
        parts.append(f"{len(self._rows)} running")
        if self.total is not None:
            parts.append(f"{max(self.total - ended - len(self._rows), 0)} waiting")
        text = f"{ended}{'' if self.total is None else f' of {self.total}'} jobs on {self.where}: {', '.join(parts)}"
        left = self._left(ended)
        return text if left is None else f"{text}, {duration(left)} left"

    def _left(self, ended: int) -> float | None:
        """Seconds until all have ended, from the share that was done in this call."""
        if self.total is None:
            return None
        shares = [(row.step - (row.start or 0)) / row.total for row in self._rows.values() if row.total]
        done = ended - self._known + sum(shares)
        started_ahead = sum((row.start or 0) / row.total for row in self._rows.values() if row.total)
        if done <= 0:
            return None
        remaining = self.total - self._known - done - started_ahead
        return max(remaining, 0.0) * (time.monotonic() - self._began) / done

    def table(self, width: int, height: int) -> list[str]:
        """The lines of the table, none wider than ``width``."""
        lines = [self.line()]
        room = max(min(_MOST_ROWS, height - _OTHER_LINES), 1)
        names = list(self._rows)
        longest = max((len(name) for name in names[:room]), default=0)
        for name in names[:room]:
            lines.append(f"  {name:<{longest}}  {self._cells(self._rows[name])}")
        if len(names) > room:
            lines.append(f"  and {len(names) - room} more")
        return [line if len(line) < width else f"{line[: width - 2]}…" for line in lines]

    def _cells(self, row: _Row) -> str:
        cells = [f"attempt {row.attempt + 1}"] if row.attempt else []
        if row.total:
            seconds = max(time.monotonic() - row.began, 1e-9)
            rate = (row.step - (row.start or 0)) / seconds
            cells.insert(0, f"{100 * row.step / row.total:3.0f} %  {row.step:,} of {row.total:,}")
            cells += [f"{rate:,.0f} {self.unit}/s"] if rate > 0 else []
            cells += [f"return {row.value:.1f}"] if row.value is not None else []
        else:
            cells.insert(0, "starting")
        return "  ".join(cells)

    def _draw(self) -> None:
        size = shutil.get_terminal_size()
        self._erase()
        lines = self.table(size.columns, size.lines)
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
        self._drawn = len(lines)

    def _erase(self) -> None:
        if self._drawn:
            # Up over what was drawn, then clear to the end of the screen.
            sys.stdout.write(f"\x1b[{self._drawn}F\x1b[J")
            sys.stdout.flush()
            self._drawn = 0


def describe_value(result: JobResult) -> str:
    """The return of a training run, if the job was one that was evaluated."""
    value = result.value.get("return") if isinstance(result.value, dict) else None
    return f", return {value:.1f}" if isinstance(value, float) else ""
