"""Several runs in one process, a thread each, one at a time: each with random states of its own, and joint calls.

The code of a run stays as it is. Between two runs the global generators of Python, numpy and torch are exchanged, so
that each sees the stream that it would see alone. Where all do the same work, :func:`together` hands it to one call.
"""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch

Request = TypeVar("Request")
Answer = TypeVar("Answer")
_here = threading.local()


class Cancelled(BaseException):
    """Raised in a run that is to end because the others cannot begin."""


class _Member:
    """One run: its thread, its random states, and what it waits for."""

    def __init__(self, job: Callable[[], Any]) -> None:
        self.job = job
        self.go, self.back = threading.Semaphore(0), threading.Semaphore(0)
        self.streams = capture_streams()
        self.function: Callable[[Sequence[Any]], Sequence[Any]] | None = None
        self.request: Any = None
        self.answer: Any = None
        self.error: BaseException | None = None
        """Raised at the next return to the run: an error of the joint call, or :class:`Cancelled`."""
        self.begun = self.ended = self.met = False
        self.on_wait: Callable[[], None] | None = None
        """Called in place of waiting, by a run that has nobody to wait for."""
        self.outcome: Any = None
        self.failure: BaseException | None = None

    def main(self, lockstep: Lockstep) -> None:
        self.go.acquire()
        _here.member, _here.lockstep = self, lockstep
        try:
            if self.error is None:
                self.outcome = self.job()
        except BaseException as error:
            self.failure = error
        self.ended = True
        self.back.release()

    def wait(self) -> Any:
        """Called by the run: lets the others continue until the coordinator comes back to it."""
        self.begun = True
        if self.on_wait is not None:
            self.on_wait()
            return None
        self.back.release()
        self.go.acquire()
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return self.answer


class Lockstep:
    """Runs ``jobs``, each in a thread of its own, one at a time; their joint calls are made in the caller's thread.

    :param jobs: functions without arguments, each a whole run
    :param on_round: called each time when every run has gone on
    """

    def __init__(self, jobs: Sequence[Callable[[], Any]], on_round: Callable[[], None] = lambda: None) -> None:
        self._members = [_Member(job) for job in jobs]
        self._on_round = on_round

    @property
    def running(self) -> int:
        """How many runs have not ended."""
        return sum(not member.ended for member in self._members)

    def run(self) -> list[Any | BaseException]:
        """The result of each job, or the exception that ended it.

        A job that fails before it first waits, as for settings that cannot be used, ends all: it is raised here.
        """
        if len(self._members) == 1:
            return [self._run_alone(self._members[0])]
        outside = capture_streams()
        for member in self._members:
            threading.Thread(target=member.main, args=(self,), daemon=True).start()
        try:
            while alive := [member for member in self._members if not member.ended]:
                if all(member.function is not None for member in alive):
                    _answer(alive)
                for member in alive:
                    if member.function is None:
                        self._go_on(member)
                self._on_round()
        except BaseException:
            self._cancel()
            raise
        finally:
            restore_streams(outside)
        return [member.outcome if member.failure is None else member.failure for member in self._members]

    def _run_alone(self, member: _Member) -> Any | BaseException:
        """A single job, in the caller's thread: changing threads would slow its joint calls down."""
        member.on_wait = self._on_round
        outside = capture_streams()
        _here.member, _here.lockstep = member, self
        try:
            return member.job()
        except Exception as error:
            if not member.begun:
                raise
            return error
        finally:
            _here.member = _here.lockstep = None
            member.ended = True
            restore_streams(outside)

    def _go_on(self, member: _Member) -> None:
        first = not member.begun
        restore_streams(member.streams)
        member.go.release()
        member.back.acquire()
        member.streams = capture_streams()
        if first and member.failure is not None:
            raise member.failure

    def _cancel(self) -> None:
        for member in self._members:
            while not member.ended:
                member.error = Cancelled()
                member.go.release()
                member.back.acquire()


def _answer(members: Sequence[_Member]) -> None:
    """Makes the joint call that all of ``members`` wait for; an error of it is raised in each of them."""
    function = members[0].function
    assert function is not None
    try:
        answers = function([member.request for member in members])
    except Exception as error:
        for member in members:
            member.function, member.error = None, error
        return
    for member, answer in zip(members, answers, strict=True):
        member.function, member.answer = None, answer


def has_other_runs() -> bool:
    """Whether the caller's run takes turns with others that have not ended."""
    lockstep: Lockstep | None = getattr(_here, "lockstep", None)
    return lockstep is not None and lockstep.running > 1


def runs_in_lockstep() -> int:
    """How many runs the caller's process began with; 1 for a run of its own."""
    lockstep: Lockstep | None = getattr(_here, "lockstep", None)
    return 1 if lockstep is None else len(lockstep._members)


def wait_for_other_runs() -> None:
    """Lets the other runs of the process catch up; nothing for a run of its own, or if they met since the last call."""
    member: _Member | None = getattr(_here, "member", None)
    if member is not None and not member.met:
        member.wait()
    elif member is not None:
        member.met = False


def together(function: Callable[[Sequence[Request]], Sequence[Answer]], request: Request) -> Answer:
    """``function([request])[0]``; in a process of several runs, one call with the requests of all and an answer each.

    The call is made when every run that has not ended waits for one; all must then ask for the same function.
    """
    return jointly(function)([request])[0]


def jointly(
    function: Callable[[Sequence[Request]], Sequence[Answer]],
) -> Callable[[Sequence[Request]], Sequence[Answer]]:
    """What :func:`together` calls with the one request: ``function`` itself, for a run of its own."""
    member: _Member | None = getattr(_here, "member", None)
    if member is None:
        return function
    if member.on_wait is not None:
        member.begun = member.met = True
        member.on_wait()
        return function

    def wait(requests: Sequence[Request]) -> Sequence[Answer]:
        member.function, member.request, member.met = function, requests[0], True
        return [member.wait()]

    return wait


def side_by_side(jobs: Sequence[Callable[[], Answer]], compiled: bool) -> list[Answer]:
    """What each of ``jobs`` returns: as many run at once as torch has threads, each computing with one thread.

    Only for work that draws no random numbers, and that leaves Python free, as compiled code for the CPU does.

    :param compiled: whether all have run before; otherwise they run in turn, and what the first compiles serves all
    """
    workers = _workers(torch.get_num_threads())
    if not compiled:
        return [workers.submit(job).result() for job in jobs]
    return [job.result() for job in [workers.submit(job) for job in jobs]]


@functools.cache
def _workers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "rlopt-worker", initializer=torch.set_num_threads, initargs=(1,))


def capture_streams() -> tuple[Any, ...]:
    """The states of the global generators of Python, numpy and torch, in the form that is quickest to restore."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state(), cuda


def restore_streams(streams: tuple[Any, ...]) -> None:
    """Puts back what :func:`capture_streams` returned."""
    python, legacy, words, cuda = streams
    random.setstate(python)
    np.random.set_state(legacy)
    torch.set_rng_state(words)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
