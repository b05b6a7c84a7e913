"""What an engine runs, and how it ended. Imports no torch."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlopt.errors import ConfigError, RunError
from rlopt.run_folder import read_json, write_json

DONE, FAILED, PRUNED, STOPPED = "done", "failed", "pruned", "stopped"
"""How a job can end; one that was stopped is open, and continues when it is given again."""

_NAME = re.compile(r"(?!\.)[A-Za-z0-9._=+,-]{1,150}(/(?!\.)[A-Za-z0-9._=+,-]{1,150})*", re.ASCII)
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class Job:
    """One piece of work: a function by name, and its arguments.

    The function must be safe to repeat: after a crash it is called again and continues from what it left on disk.
    """

    name: str
    """No other job has the same; letters, digits and ``._=+,-``, in parts divided by ``/``."""
    function: str
    """``module:name`` of a function that takes a :class:`rlopt.engine.context.JobContext` and the arguments by name,
    and returns what JSON can hold. It is imported where the job runs; it is never read from a file."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What JSON can hold."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"{self.name[:80]!r} is not a job's name: use letters, digits and ._=+,- between slashes")
        if not _FUNCTION.fullmatch(self.function):
            raise ConfigError(f"{self.function[:80]!r} names no function: write module:name")
        try:
            json.dumps(self.arguments)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"job {self.name}: its arguments cannot be written as JSON ({error})") from None

    def message(self, attempt: int, log: Path | None) -> dict[str, Any]:
        """An attempt as JSON, for the process that runs it."""
        job = {"name": self.name, "function": self.function, "arguments": dict(self.arguments), "attempt": attempt}
        return {**job, "log": str(log.absolute()) if log else None}


@dataclass(frozen=True)
class JobResult:
    """How a job ended, the same in memory and in its file."""

    name: str
    status: str
    """One of done, failed, pruned and stopped."""
    value: Any = None
    """What the function returned; of a job that was pruned, what it reported last."""
    seconds: float = 0.0
    """Wall time of the last attempt."""
    failures: tuple[str, ...] = ()
    """Why each attempt that failed did, in one line."""

    @property
    def reason(self) -> str:
        """Why the last attempt failed."""
        return self.failures[-1] if self.failures else ""


class ResultFolder:
    """The results of jobs on disk, a JSON file each, written whole or not at all.

    :param path: made when the first result is written; None keeps nothing
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def file(self, name: str) -> Path:
        """Where the result of job ``name`` lies or will lie."""
        assert self.path is not None
        return self.path / f"{name}.json"

    def read(self, name: str) -> JobResult | None:
        """The result of job ``name``, None if it has not ended.

        :raises rlopt.errors.RunError: if its file is damaged
        """
        if self.path is None or not self.file(name).is_file():
            return None
        cure = "remove it to run the job again"
        content = read_json(self.file(name), cure)
        known = isinstance(content, dict) and content.get("name") == name
        if not known or content.get("status") not in (DONE, FAILED, PRUNED):
            raise RunError(f"{self.file(name)} is damaged: it holds no result of {name}; {cure}")
        failures, seconds = content.get("failures"), content.get("seconds")
        return JobResult(
            name,
            content["status"],
            content.get("value"),
            float(seconds) if isinstance(seconds, int | float) else 0.0,
            tuple(str(reason) for reason in failures) if isinstance(failures, list) else (),
        )

    def write(self, result: JobResult) -> None:
        """Keeps ``result`` for good, unless its job is open."""
        if self.path is not None and result.status != STOPPED:
            self.file(result.name).parent.mkdir(parents=True, exist_ok=True)
            write_json(self.file(result.name), asdict(result))

    def forget(self, name: str) -> None:
        """Makes job ``name`` open again."""
        if self.path is not None:
            self.file(name).unlink(missing_ok=True)
