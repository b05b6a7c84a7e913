"""Functions that the engine's tests run as jobs, each with a trace of every attempt on disk; their observer."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from rlopt.engine import Job, JobContext, JobResult, JobStopped, Observer
from rlopt.errors import ConfigError


def trace(folder: str, context: JobContext, what: str) -> None:
    """Appends a line to the job's trace; one write of a few bytes is whole."""
    path = Path(folder) / f"{context.name}.trace"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"{what} {os.getpid()}\n")


def traced(folder: Path, name: str) -> list[str]:
    """What the attempts of a job have left, in order."""
    path = folder / f"{name}.trace"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.is_file() else []


def square(context: JobContext, x: int) -> int:
    print("the square of", x)
    return x * x


def environment(context: JobContext, names: list[str]) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def process(context: JobContext) -> int:
    return os.getpid()


def kill_self(context: JobContext, folder: str, times: int, number: int = signal.SIGKILL) -> str:
    """Dies ``times`` times, then ends well."""
    trace(folder, context, "began")
    if len(traced(Path(folder), context.name)) <= times:
        os.kill(os.getpid(), number)
    return "survived"


def fork_and_die(context: JobContext, path: str) -> None:
    """Leaves a child behind that holds what the process had open, and its number."""
    child = os.fork()
    if child == 0:
        time.sleep(300)
        os._exit(0)
    Path(path).write_text(str(child))
    os.kill(os.getpid(), signal.SIGKILL)


def ask(context: JobContext) -> str:
    """Reads standard input, which is empty."""
    return sys.stdin.read() + os.read(0, 10).decode()


def leave(context: JobContext) -> None:
    os._exit(3)


def fail(context: JobContext, folder: str, times: int) -> int:
    """Raises ``times`` times, then returns the number of the attempt."""
    trace(folder, context, "began")
    if len(traced(Path(folder), context.name)) <= times:
        raise RuntimeError("the disk\nis on fire")
    return context.attempt


def misuse(context: JobContext, folder: str) -> None:
    trace(folder, context, "began")
    raise ConfigError("learning_rate = -1 is outside (0, inf)")


def unwritable(context: JobContext) -> Any:
    return {1, 2}


def count(context: JobContext, folder: str, to: int, seconds: float) -> int:
    """Counts to ``to``, one file a number, and goes on from the last one that it finds."""
    done = Path(folder) / context.name
    done.mkdir(parents=True, exist_ok=True)
    trace(folder, context, "began")
    for number in range(len(list(done.iterdir())), to):
        if context.stopping:
            trace(folder, context, "stopped")
            raise JobStopped
        time.sleep(seconds)
        (done / str(number)).touch(exist_ok=False)
        context.progress(number + 1, to)
        context.evaluated(number + 1, float(number + 1))
    trace(folder, context, "ended")
    return to


def meet(context: JobContext, folder: str, others: int, variable: str) -> str | None:
    """Waits until ``others`` jobs are here, so that they run at once, then says what its environment holds."""
    trace(folder, context, "here")
    until = time.monotonic() + 60
    while len(list(Path(folder).glob("*.trace"))) < others:
        if time.monotonic() > until:
            raise TimeoutError("nobody else came")
        time.sleep(0.02)
    return os.environ.get(variable)


def job(name: str, function: str, **arguments: Any) -> Job:
    return Job(name, f"engine_jobs:{function}", arguments)


class Recorder(Observer):
    def __init__(self) -> None:
        self.ends: list[JobResult] = []
        self.known_names: list[str] = []
        self.reasons: list[str] = []
        self.seen: list[tuple[str, int, int]] = []

    def known(self, result: JobResult) -> None:
        self.known_names.append(result.name)

    def progress(self, name: str, step: int, total: int, value: float | None) -> None:
        self.seen.append((name, step, total))

    def retried(self, job: Job, attempt: int, reason: str) -> None:
        self.reasons.append(reason)

    def ended(self, result: JobResult) -> None:
        self.ends.append(result)


def main(folder: str, jobs: int, to: int, address: str | None = None) -> int:
    """A command of its own, to be killed: maps ``count``, as its tests do."""
    from rlopt.engine import make_engine

    work = [
        Job(f"job{i}", "engine_jobs:count", {"folder": f"{folder}/work", "to": to, "seconds": 0.1}) for i in range(jobs)
    ]
    with make_engine("ray" if address else "local", workers=2, address=address) as engine:
        return engine.map(work, folder=Path(folder)).exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]))
