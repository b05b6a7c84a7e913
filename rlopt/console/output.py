"""Console output and signals of runs: lines, progress, and the request to stop. Imports no torch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rlopt.console.progress import Progress, say
from rlopt.console.signals import StopRequest, StopSignals

MeanReturn = Callable[[], float | None]


class Console:
    """The console of a run that has the process to itself; :class:`SharedConsole` is for one of several."""

    alone = True
    """Whether the run is the only one; what is said of all runs together is then left to it."""

    def say(self, line: str) -> None:
        """Prints a line."""
        say(line)

    @contextmanager
    def stop_signals(self) -> Iterator[StopRequest]:
        """Takes Ctrl-C and the like while a run trains."""
        with StopSignals() as stop:
            yield stop

    def progress(self, total: int, start: int, unit: str = "env steps") -> Progress:
        """Shows a run of ``total`` steps, which are counted in ``unit``, from step ``start`` on."""
        return Progress(total, start, unit)


class SharedProgress(Progress):
    """One bar, or one line, for several runs: the steps of all, the mean of their returns.

    :param count: how many runs
    :param begun: called when the first of them begins
    """

    def __init__(self, count: int, begun: Callable[[], None]) -> None:
        super().__init__(total=0)
        self.count, self._begun = count, begun
        self._steps: dict[str, int] = {}
        self._totals: dict[str, int] = {}
        self._returns: dict[str, MeanReturn] = {}

    def add(self, name: str, total: int, start: int) -> None:
        """Adds a run."""
        if not self._totals:
            self._begun()
        self._steps[name], self._totals[name] = start, total
        self.extend(total, start)

    def report(self, name: str, step: int, mean_return: MeanReturn) -> None:
        """Takes the news that run ``name`` is at ``step``."""
        self._steps[name], self._returns[name] = step, mean_return
        self.update(sum(self._steps.values()), self._mean)

    def drop(self, name: str) -> bool:
        """Removes a run that will not continue; returns whether it had been added."""
        if name not in self._totals:
            return False
        self.extend(self._steps[name] - self._totals.pop(name), 0)
        self.count -= 1
        return True

    def end(self) -> None:
        """Closes the bar, or prints the last line; nothing if no run trained."""
        if self.total:
            self.finish(self._mean())

    def _mean(self) -> float | None:
        found = [value for value in (function() for function in self._returns.values()) if value is not None]
        return sum(found) / len(found) if found else None

    def line(self, mean_return: float | None) -> str:
        return f"{self.count} runs: {super().line(mean_return)}"


class _Part:
    """The share of one run in a :class:`SharedProgress`; what it says carries its name."""

    def __init__(self, whole: SharedProgress, name: str) -> None:
        self._whole, self._name = whole, name

    def update(self, step: int, mean_return: MeanReturn) -> None:
        self._whole.report(self._name, step, mean_return)

    def say(self, text: str) -> None:
        self._whole.say(f"{self._name}: {text}")

    def watch(self, count: Callable[[], int]) -> None:
        """Does nothing: the whole bar moves at boundaries."""

    def evaluated(self, step: int, mean_return: float) -> None:
        """Prints nothing: the run itself prints a line."""

    def finish(self, mean_return: float | None) -> None:
        """Does nothing: the whole bar ends when every run has."""


class SharedConsole(Console):
    """The console of one of several runs.

    :param name: what its lines begin with
    :param whole: the progress of all
    :param stop: the request to stop that all follow
    """

    alone = False

    def __init__(self, name: str, whole: SharedProgress, stop: StopRequest) -> None:
        self.name, self._whole, self._stop = name, whole, stop

    def say(self, line: str) -> None:
        self._whole.say(f"{self.name}: {line}")

    def leave(self, reason: str) -> None:
        """Says that the run has failed, if it had begun to train; what fails before ends all, and is said there."""
        if self._whole.drop(self.name):
            self.say(f"failed: {reason}")

    @contextmanager
    def stop_signals(self) -> Iterator[StopRequest]:
        yield self._stop

    def progress(self, total: int, start: int, unit: str = "env steps") -> Progress:
        self._whole.unit = unit
        self._whole.add(self.name, total, start)
        return _Part(self._whole, self.name)  # type: ignore[return-value]
