"""Training runs as jobs: begun, or continued from their newest checkpoint. Imports torch only when one runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlopt.console.output import Console, MeanReturn
from rlopt.console.progress import Progress, say
from rlopt.console.signals import StopRequest
from rlopt.engine.context import JobContext, JobStopped, opened_log
from rlopt.errors import RunError
from rlopt.registry import agent_spec, import_agent, resolve
from rlopt.run_folder import RunFolder
from rlopt.settings.fields import from_mapping
from rlopt.settings.run import RunConfig

TRAINING = "rlopt.sweeps.job:train_or_resume"
LOCK_SECONDS = 60.0
"""How long a run waits for the process of an earlier attempt, which may still write its last checkpoint."""


def train_or_resume(
    context: JobContext, *, agent: str, run: Mapping[str, Any], agent_config: Mapping[str, Any]
) -> dict[str, Any]:
    """Trains the run in ``run["run_dir"]`` to its end, from its newest checkpoint if it has one.

    :returns: ``step``, and ``return`` (mean of the last evaluation) and ``best_return``, None without evaluations
    :raises rlopt.engine.context.JobStopped: if it was asked to stop; a checkpoint is written
    :raises rlopt.errors.RloptError: as :func:`rlopt.runs.train.train` and :func:`rlopt.runs.train.resume`
    """
    import_agent(agent)  # the process that made the job was given its name
    settings = from_mapping(RunConfig, run, f"job {context.name}")
    if ":" in settings.env:  # and that of its environment
        from rlopt.envs.names import register

        register(settings.env)
    folder = RunFolder(Path(str(settings.run_dir)))
    _wait_for_lock(folder)

    from rlopt.runs import train as runs

    with _console(context) as console:
        if folder.config.is_file():
            result = runs.resume(folder.path, console=console)
        else:  # also after a kill before the first file
            config = from_mapping(resolve(agent_spec(agent).config), agent_config, f"job {context.name}")
            result = runs.train(agent, settings, config, console=console)
    if result.exit_code:
        raise JobStopped
    return {"step": result.step, "return": last_return(folder.path), "best_return": result.best_return}


def last_return(run: Path) -> float | None:
    """The mean return of the last evaluation of a run, None if it has none."""
    from rlopt.analysis.curves import EVALUATION, read_run_curve

    try:
        return float(read_run_curve(run, EVALUATION).y[-1])
    except RunError:
        return None


def _wait_for_lock(folder: RunFolder) -> None:
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            with folder.locked():
                return
        except RunError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


@contextmanager
def _console(context: JobContext) -> Iterator[_JobConsole]:
    if context.log is None:
        yield _JobConsole(context, say)
        return
    with opened_log(context.log) as write:
        yield _JobConsole(context, write)


class _JobConsole(Console):
    """A console that writes to the job's log, and tells the engine how far the run is."""

    alone = False

    def __init__(self, context: JobContext, write: Callable[[str], None]) -> None:
        self._context, self._write = context, write

    def say(self, line: str) -> None:
        self._write(line)

    @contextmanager
    def stop_signals(self) -> Iterator[StopRequest]:
        yield self._context.stop

    def progress(self, total: int, start: int, unit: str = "env steps") -> Progress:
        return _JobProgress(self._context, self._write, total, start, unit)


class _JobProgress(Progress):
    def __init__(self, context: JobContext, write: Callable[[str], None], total: int, start: int, unit: str) -> None:
        super().__init__(total, start, unit, drawn=False)
        self._context, self._write = context, write

    def update(self, step: int, mean_return: MeanReturn) -> None:
        self.step = step
        self._context.progress(step, self.total, mean_return)

    def evaluated(self, step: int, mean_return: float) -> None:
        self._context.evaluated(step, mean_return)

    def say(self, text: str) -> None:
        self._write(text)

    def finish(self, mean_return: float | None) -> None:
        self._write(self.line(mean_return))
