"""What runs jobs: the interface of all engines, and the scheduling that they share. Imports no torch."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from rlopt.console.signals import StopRequest, StopSignals
from rlopt.engine.jobs import DONE, FAILED, PRUNED, STOPPED, Job, JobResult, ResultFolder
from rlopt.errors import ConfigError

POLL_SECONDS = 0.25


class Observer:
    """Receives the events of a call of ``map``; this base class ignores them. All methods run in the thread of
    ``map``."""

    def known(self, result: JobResult) -> None:
        """The job ended in an earlier call, and is not run again."""

    def started(self, job: Job, attempt: int) -> None:
        """An attempt was handed to the engine; 0 is the first."""

    def progress(self, name: str, step: int, total: int, value: float | None) -> None:
        """The job is at ``step`` of ``total``."""

    def evaluated(self, name: str, step: int, value: float) -> Iterable[str]:
        """Takes the job's result so far, larger is better; returns the names of running jobs to end early."""
        return ()

    def retried(self, job: Job, attempt: int, reason: str) -> None:
        """An attempt failed, and there will be another one."""

    def ended(self, result: JobResult) -> None:
        """The job ended, once and for good, or was stopped."""

    def tick(self) -> None:
        """Called a few times a second."""


@dataclass
class _Running:
    job: Job
    attempt: int
    failures: list[str]
    last_value: float | None = None
    pruned: bool = False
    began: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class MapResult:
    """How a call of :meth:`Engine.map` ended."""

    results: dict[str, JobResult]
    """By name, in the order in which the jobs were given."""
    exit_code: int
    """0, or 130 and the like when a signal stopped it; the jobs that had not ended are open then."""

    def values(self) -> list[Any]:
        """What the functions returned, None for those that did not end well."""
        return [result.value if result.status == DONE else None for result in self.results.values()]


class Engine(ABC):
    """Runs jobs, on processes of this machine or elsewhere. Leaving its context ends the processes that it started.

    A subclass hands over jobs and collects messages. This class decides what is retried, kept and counted, so that
    these guarantees are the same for all engines.
    """

    ahead = True
    """Whether the engine may be given more jobs than it can run at once, so that it need not wait for the next one. Off
    where a job depends on the results of earlier ones."""
    retry_seconds = 1.0
    """Pause before the second attempt; it doubles with each further one, up to a minute."""

    def map(
        self,
        jobs: Iterable[Job | None],
        *,
        folder: Path | None = None,
        retries: int = 2,
        observer: Observer | None = None,
        retry_failed: bool = True,
        patient: bool = True,
    ) -> MapResult:
        """Runs ``jobs``, each until it has ended exactly once.

        A job whose process dies, or whose function raises, is tried again after a pause, and its function continues
        from what it left on disk. Ctrl-C, SIGTERM and SIGHUP ask every running job to stop where it can continue later;
        a second one ends them at once. When this is called again with the same jobs and folder, jobs that have ended
        are not run again.

        :param jobs: is read as places become free, so that a generator can decide by earlier results; it may give None
            for "none now, ask again when a job has ended"
        :param folder: where results are kept (``results/``) and what jobs print (``logs/``); None keeps nothing
        :param retries: further attempts of a job that failed, at least 0
        :param observer: is told what happens
        :param retry_failed: whether jobs that failed in an earlier call are run again
        :param patient: True lets jobs continue to where they can stop; False ends them at the first signal, which suits
            jobs that keep nothing
        :raises rlopt.errors.ConfigError: if two jobs have the same name
        :raises rlopt.errors.RunError: if a result on disk is damaged
        """
        if retries < 0:
            raise ConfigError(f"retries must be at least 0, not {retries}")
        answer = "the jobs stop as soon as they can" if folder else "giving up the current work"
        with StopSignals(answer) as stop:
            try:
                schedule = _Schedule(self, folder, retries, observer or Observer(), retry_failed, patient, stop)
                return schedule.run(iter(jobs))
            except BaseException:  # the second Ctrl-C among them: no process may outlive the call
                self.kill()
                raise

    @abstractmethod
    def capacity(self) -> int:
        """How many jobs may be handed over at once, now."""

    @abstractmethod
    def describe(self) -> str:
        """What runs the jobs, for people: "2 workers"."""

    @abstractmethod
    def start(self, job: Job, attempt: int, log: Path | None) -> None:
        """Begins an attempt."""

    @abstractmethod
    def messages(self, seconds: float) -> list[dict[str, Any]]:
        """What the jobs have said, waiting up to ``seconds`` for the first of it.

        Each has ``name`` and ``kind``: progress, evaluated, or ended, which comes once for each attempt.
        """

    @abstractmethod
    def stop(self, name: str) -> None:
        """Asks a running job to stop."""

    @abstractmethod
    def kill(self) -> None:
        """Ends every running job at once."""

    @abstractmethod
    def close(self) -> None:
        """Ends the engine's processes."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Schedule:
    """One call of :meth:`Engine.map`."""

    def __init__(
        self,
        engine: Engine,
        folder: Path | None,
        retries: int,
        observer: Observer,
        retry_failed: bool,
        patient: bool,
        stop: StopRequest,
    ) -> None:
        self.engine, self.retries, self.observer, self.stop = engine, retries, observer, stop
        self.retry_failed, self.patient = retry_failed, patient
        self.store = ResultFolder(folder / "results" if folder else None)
        self.logs = folder / "logs" if folder else None
        self.results: dict[str, JobResult | None] = {}
        self.running: dict[str, _Running] = {}
        self.again: deque[tuple[float, _Running]] = deque()

    def run(self, jobs: Iterator[Job | None]) -> MapResult:
        more, asked_to_stop = True, False
        while True:
            if self.stop.received is None:
                self._start_again()
                more = more and self._fill(jobs)
            elif not asked_to_stop:
                asked_to_stop = True
                self._ask_to_stop()
            if not self.running and (asked_to_stop or not (more or self.again)):
                break
            for message in self.engine.messages(POLL_SECONDS):
                self._take(message)
            self.observer.tick()
        for name, waiting in ((item.job.name, item) for _, item in self.again):
            self._end(JobResult(name, STOPPED, failures=tuple(waiting.failures)))
        ended = {name: result for name, result in self.results.items() if result is not None}
        return MapResult(ended, self.stop.exit_code)

    def _ask_to_stop(self) -> None:
        if self.patient:
            for name in self.running:
                self.engine.stop(name)
            return
        self.engine.kill()
        for running in self.running.values():
            self._end(JobResult(running.job.name, STOPPED, failures=tuple(running.failures)))
        self.running.clear()

    def _fill(self, jobs: Iterator[Job | None]) -> bool:
        """Starts what there is room for; returns whether there may be more jobs."""
        while len(self.running) < self.engine.capacity() and self.stop.received is None:
            try:
                job = next(jobs)
            except StopIteration:
                return False
            if job is None:
                return True
            if job.name in self.results:
                raise ConfigError(f"two jobs have the name {job.name!r}")
            self.results[job.name] = before = self.store.read(job.name)
            if before is not None and not (before.status == FAILED and self.retry_failed):
                self.observer.known(before)
            else:
                self._start(_Running(job, 0, []))
        return True

    def _start_again(self) -> None:
        """Starts the jobs whose pause before the next attempt is over."""
        for _ in range(len(self.again)):
            due, waiting = self.again.popleft()
            if due <= time.monotonic() and len(self.running) < self.engine.capacity():
                self._start(_Running(waiting.job, waiting.attempt + 1, waiting.failures))
            else:
                self.again.append((due, waiting))

    def _start(self, running: _Running) -> None:
        name = running.job.name
        self.running[name] = running
        log = self.logs / f"{name}.txt" if self.logs else None
        self.engine.start(running.job, running.attempt, log)
        self.observer.started(running.job, running.attempt)

    def _take(self, message: Mapping[str, Any]) -> None:
        running = self.running.get(message["name"])
        if running is None:  # sent by an attempt that was given up meanwhile
            return
        name = running.job.name
        if message["kind"] == "progress":
            self.observer.progress(name, message["step"], message["total"], message["value"])
        elif message["kind"] == "evaluated":
            running.last_value = message["value"]
            for other in self.observer.evaluated(name, message["step"], message["value"]):
                if other in self.running and not self.running[other].pruned:
                    self.running[other].pruned = True
                    self.engine.stop(other)
        elif message["kind"] == "ended":
            del self.running[name]
            self._take_end(running, message)

    def _take_end(self, running: _Running, message: Mapping[str, Any]) -> None:
        name, status = running.job.name, message["status"]
        seconds = message.get("seconds", time.monotonic() - running.began)
        if status == STOPPED and running.pruned:
            value = running.last_value
            self._end(JobResult(name, PRUNED, value, seconds, tuple(running.failures)))
        elif status == STOPPED and self.stop.received is not None:
            self._end(JobResult(name, STOPPED, None, seconds, tuple(running.failures)))
        elif status == DONE:
            self._end(JobResult(name, DONE, message["value"], seconds, tuple(running.failures)))
        else:  # it failed, or it stopped though nobody here asked it to
            reason = message.get("reason", "its process was told to stop by another program")
            running.failures.append(reason)
            if self.stop.received is not None and not message.get("final"):
                self._end(JobResult(name, STOPPED, None, seconds, tuple(running.failures)))
            elif message.get("final") or running.attempt >= self.retries:
                self._end(JobResult(name, FAILED, None, seconds, tuple(running.failures)))
            else:
                pause = min(self.engine.retry_seconds * 2**running.attempt, 60.0)
                self.again.append((time.monotonic() + pause, running))
                self.observer.retried(running.job, running.attempt, reason)

    def _end(self, result: JobResult) -> None:
        self.results[result.name] = result
        self.store.write(result)
        self.observer.ended(result)
