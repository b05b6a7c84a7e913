"""Calls into an environment: an error or a timeout becomes one typed error that names it."""

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import connection
from types import FrameType
from typing import Any

from rlopt.errors import EnvFaultError, RloptError, one_line

GRACE_SECONDS = 5.0
"""How long an environment that was interrupted may continue before the process is ended."""
LOCKED_SECONDS = 60.0
"""How long, besides twice the limit, compiled code may keep all of Python waiting before the process is ended."""


class _TimeUp(BaseException):
    """Raised within an environment that takes too long. No Exception: environments catch those."""


class _Watch(threading.Thread):
    """Watches how long the present call takes; interrupts it, and ends the process where that does not help.

    :param seconds: that a call may take
    :param last_words: called before the process is ended; what it returns is printed
    """

    def __init__(self, seconds: float, last_words: Callable[[], str]) -> None:
        super().__init__(name="rlopt-env-timeout", daemon=True)
        self.seconds = seconds
        self.began = 0.0
        """When the present call began, by the monotonic clock; 0 between two calls."""
        self.called = ("", "", 0)
        """The environment, the function and the thread of the present call."""
        self._last_words = last_words
        self._over = threading.Event()
        self._handled = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()
        self._handler_before: Any = None

    def __enter__(self) -> None:
        if self._handled:
            self._handler_before = signal.signal(signal.SIGALRM, self._interrupt)
        self.start()

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self.join()
        if self._handled:
            signal.signal(signal.SIGALRM, self._handler_before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        # The call may have returned, and the next one begun, since the signal was sent.
        late = self.began and time.monotonic() - self.began >= self.seconds
        if late and self.called[2] == threading.get_ident():
            raise _TimeUp

    def run(self) -> None:
        try:
            while True:
                # Where compiled code keeps Python's lock, no thread of Python runs. faulthandler's does.
                faulthandler.dump_traceback_later(2 * self.seconds + LOCKED_SECONDS, exit=True, file=2)
                if self._over.wait(min(self.seconds / 4, 0.5)):
                    return
                began = self.began
                if not began or time.monotonic() - began < self.seconds:
                    continue
                if self._handled and self.called[2] == threading.main_thread().ident:
                    signal.pthread_kill(self.called[2], signal.SIGALRM)
                    if self._over.wait(GRACE_SECONDS):
                        return
                if self.began == began:
                    self._end_process()
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _end_process(self) -> None:
        name, what, _ = self.called
        words = f"{late(name, what, self.seconds)} and cannot be interrupted; {self._last_words()}"
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(2, f"rlopt: error: {words}\n".encode())
        os._exit(2)


_watch: _Watch | None = None


@contextlib.contextmanager
def time_limit(seconds: float | None, last_words: Callable[[], str] = lambda: "") -> Iterator[None]:
    """While it lasts, an environment whose step or reset takes longer ends with EnvFaultError; None sets no limit.

    In the main thread Python code, sleep and input are interrupted. What continues for :data:`GRACE_SECONDS` all the
    same, and what runs in another thread, ends the process with exit code 2; compiled code that lets no Python run
    does, with exit code 1, after :data:`LOCKED_SECONDS` and twice the limit. Within another limit, that one holds.

    :param seconds: of one call, > 0
    :param last_words: called before the process is ended, in another thread; what it returns is printed
    """
    global _watch
    if seconds is None or _watch is not None:
        yield
        return
    _watch = _Watch(seconds, last_words)
    try:
        with _watch:
            yield
    finally:
        _watch = None


def call(name: str, what: str, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
    """``function(*arguments, **keywords)``, which enters the environment ``name``.

    :param what: the function, for people: "step", "reset"
    :raises rlopt.errors.EnvFaultError: from what the environment raises, SystemExit included; or it took longer than
        :func:`time_limit`
    :raises rlopt.errors.RloptError: those of an environment of rlopt, as they are
    """
    watch = _watch
    try:
        if watch is not None:
            watch.called, watch.began = (name, what, threading.get_ident()), time.monotonic()
        return function(*arguments, **keywords)
    except RloptError:
        raise
    except _TimeUp as error:
        assert watch is not None
        raise EnvFaultError(late(name, what, watch.seconds)) from _outside(error)
    except (Exception, SystemExit) as error:
        raise EnvFaultError(f"{name} failed in {what}(): {described(error)}") from _outside(error)
    finally:
        if watch is not None:
            watch.began = 0.0


class NamedWorkers:
    """Context in which the end of a worker process of a ``SubprocVecEnv`` is an EnvFaultError that says how it ended.

    :param env: a VecEnv of any kind
    """

    def __init__(self, env: Any) -> None:
        self._env = env

    def __enter__(self) -> None:
        watch_workers(self._env)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # These are what a pipe to a dead process raises, and much else: the processes themselves are asked.
        if isinstance(error, (EOFError, OSError)) and (words := _dead_worker(self._env)):
            raise EnvFaultError(words) from error


def watch_workers(env: Any) -> None:
    """From now on a worker of a ``SubprocVecEnv`` that dies ends the wait for its answer, which raises EOFError.

    Workers that are forked hold copies of one another's pipes, so that the pipe of a dead one stays open.

    :param env: a VecEnv of any kind
    """
    base = _unwrapped(env)
    if len(getattr(base, "processes", ())) < 2 or getattr(base, "_watched_by_rlopt", False):
        return
    base._watched_by_rlopt = True
    workers = {process.sentinel: index for index, process in enumerate(base.processes)}
    arguments = (weakref.ref(base), workers)
    threading.Thread(target=_shut_pipes, args=arguments, name="rlopt-workers", daemon=True).start()


def _shut_pipes(env: weakref.ref[Any], workers: dict[int, int]) -> None:
    """Shuts the pipe of every worker that ends, until none is left; ``workers`` are indices by processes' sentinels."""
    while workers:
        for sentinel in connection.wait(list(workers)):
            index, base = workers.pop(sentinel), env()  # type: ignore[arg-type]
            if base is None:
                continue
            # A pipe is a pair of sockets, which a copy shuts as well. To close it would wake nobody who reads.
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(base.remotes[index].fileno())) as pair:
                pair.shutdown(socket.SHUT_RDWR)


def _unwrapped(env: Any) -> Any:
    while hasattr(env, "venv"):
        env = env.venv
    return env


def _dead_worker(env: Any) -> str:
    for index, process in enumerate(getattr(_unwrapped(env), "processes", ())):
        process.join(0.2)  # the pipe closes a moment before
        code = process.exitcode
        if code is not None:
            how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            own = "; what it raised is printed above" if code == 1 else ""
            return f"the process of environment {index} {how}{own}"
    return ""


def late(name: str, what: str, seconds: float) -> str:
    """What is said of an environment that does not answer."""
    return f"{name} has not returned from {what}() for {seconds:g} s (--env-timeout)"


def described(error: BaseException) -> str:
    """Type and message of an error, in one line."""
    # Gymnasium adds the arguments to what a constructor raises.
    message = one_line(error).partition(" was raised from the environment creator")[0]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _outside(error: BaseException) -> BaseException:
    """The error with the traceback that begins in the environment."""
    trace = error.__traceback__
    return error.with_traceback(trace.tb_next if trace is not None and trace.tb_next is not None else trace)
