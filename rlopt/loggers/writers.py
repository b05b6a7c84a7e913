"""Where numbers of a run go: CSV files that a resumed run continues exactly, TensorBoard, others."""

import csv
import errno
import io
import itertools
import numbers
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import numpy as np
import torch
from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat, filter_excluded_keys

from rlopt.errors import RunError, one_line
from rlopt.storage.csv_rows import csv_rows

TIME_COLUMNS = ("time/fps", "time/time_elapsed")
"""Columns of progress.csv that depend on the machine's speed; all others are reproducible."""


class CsvLog:
    """A CSV file that grows row by row and, when a new key appears, column by column.

    Its position is a number of rows and the columns, not a number of bytes: the width of a row depends on how fast the
    machine was, and a new column rewrites the rows before it.

    :param path: the file; rows beyond ``position`` are dropped
    :param columns: the first columns of a new file
    :param position: as :meth:`position` returned it, to continue a file; None starts a new one
    """

    def __init__(self, path: Path, columns: Sequence[str], position: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.columns = list(columns)
        self.rows = 0
        self.missing_rows = 0
        if position is None:
            self._rewrite([])
        else:
            self._continue(list(position["columns"]), int(position["rows"]))
        self._file = self._open()

    def _open(self) -> TextIO:
        return open(self.path, "a", newline="", encoding="utf-8")

    def _continue(self, columns: list[str], rows: int) -> None:
        kept: list[dict[str, str]] = []
        if self.path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self.path))
        if self.path.exists():
            found = csv_rows(self.path, None, None)
            try:
                names = next(found, [])
                kept = [dict(zip(names, row, strict=False)) for row in itertools.islice(found, rows)]
            except (ValueError, csv.Error) as error:
                raise RunError(f"{self.path} cannot be read ({one_line(error)}): move it away") from None
        self.columns, self.rows, self.missing_rows = columns, len(kept), rows - len(kept)
        self._rewrite([[row.get(column) or "" for column in columns] for row in kept])

    def _rewrite(self, rows: Sequence[Sequence[str]]) -> None:
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self.columns)
            writer.writerows(rows)
        os.replace(temporary, self.path)

    def append(self, values: Mapping[str, Any]) -> None:
        """Adds a row; keys without a column get one, in alphabetical order, empty in the rows before."""
        new = sorted(values.keys() - set(self.columns))
        if new:
            self._file.close()
            with open(self.path, newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))[1:]
            self.columns += new
            self._rewrite([row + [""] * len(new) for row in rows])
            self._file = self._open()
        line = io.StringIO()
        cells = [_cell(values.get(column)) for column in self.columns]
        csv.writer(line, lineterminator="\n").writerow(cells)
        self._file.write(line.getvalue())
        self.rows += 1

    def position(self) -> dict[str, Any]:
        """Where the file stands, for a checkpoint."""
        return {"rows": self.rows, "columns": list(self.columns)}

    def flush(self, *, to_disk: bool = False) -> None:
        """Hands the rows to the system, and with ``to_disk`` waits until they would survive a power cut."""
        self._file.flush()
        if to_disk:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Hands the last rows to the system and closes the file."""
        self._file.close()


def _cell(value: Any) -> str:
    # Numbers are written from Python's types, so that a value reads the same before and after a checkpoint.
    if value is None:
        return ""
    value = plain(value)
    return str(value) if isinstance(value, bool | str) else repr(value)


def plain(value: Any) -> bool | str | int | float:
    """A logged value, for which :func:`is_scalar` holds, as Python's own type."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        value = value.item()
    if isinstance(value, bool | str):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def is_scalar(value: Any) -> bool:
    """Whether a logged value is one number or text, and not a histogram, an image or a video."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return bool(value.size == 1) if isinstance(value, np.ndarray) else value.numel() == 1
    return isinstance(value, numbers.Real | str | np.generic)


class ProgressCsv(KVWriter):
    """Writes what the agent logs to progress.csv: the step, then the keys."""

    def __init__(self, path: Path, position: Mapping[str, Any] | None = None) -> None:
        self.log = CsvLog(path, ["step"], position)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Appends a row: the step, and of the logged values those that are one number or text."""
        values = filter_excluded_keys(key_values, key_excluded, "csv")
        self.log.append({"step": step} | {key: value for key, value in values.items() if is_scalar(value)})
        self.log.flush()

    def close(self) -> None:
        """Closes the file."""
        self.log.close()


class TensorBoardLog(TensorBoardOutputFormat):
    """Stable-Baselines3's TensorBoard writer, which can continue a run.

    :param folder: where the event files lie
    :param resumed_at: step of the checkpoint; events of later steps, written before the run was killed, are hidden
    """

    def __init__(self, folder: Path, resumed_at: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        try:
            with _event_file_after(folder):
                self.writer = SummaryWriter(
                    log_dir=str(folder), purge_step=None if resumed_at is None else resumed_at + 1, flush_secs=30
                )
        except OSError as error:
            raise RunError(f"cannot write TensorBoard events to {folder}: {error.strerror}") from None
        self._is_closed = False


@contextmanager
def _event_file_after(folder: Path) -> Iterator[None]:
    """Has an event file that is made now named after those in ``folder``.

    TensorBoard reads them in the order of their names, which begin with the second in which they were made: after the
    clock was set back, or within the same second, a continued run would be read before what it continues.
    """
    from tensorboard.summary.writer import event_file_writer

    made = [match for path in folder.glob("*") if (match := re.match(r"events\.out\.tfevents\.(\d{10})\.", path.name))]
    newest = max((int(match[1]) for match in made), default=0)
    if newest < int(time.time()):
        yield
        return
    # Only the name, which asks first: the thread that flushes the file goes by the clock.
    clock = itertools.chain([newest + 1], iter(time.time, None))
    with _CLOCK:
        event_file_writer.time = SimpleNamespace(time=clock.__next__)
        try:
            yield
        finally:
            event_file_writer.time = time


_CLOCK = threading.Lock()
"""Held while the package that names event files has another clock."""


class RunLogs:
    """All the files of one run that rows are added to.

    :param folder: the run folder
    :param position: as :meth:`position` returned it when the checkpoint was written; None starts new files
    :param resumed_at: step of the checkpoint, None for a new run
    """

    def __init__(self, folder: Path, position: Mapping[str, Any] | None = None, resumed_at: int | None = None) -> None:
        at = position or {}
        self.progress = ProgressCsv(folder / "progress.csv", at.get("progress"))
        self.episodes = CsvLog(folder / "episodes.csv", ["step", "return", "length"], at.get("episodes"))
        self.evaluations = CsvLog(
            folder / "evaluations.csv", ["step", "episode", "return", "length"], at.get("evaluations")
        )
        self.logger = Logger(str(folder), [self.progress, TensorBoardLog(folder / "tb", resumed_at)])

    def add(self, writer: KVWriter | None) -> None:
        """A further writer of what the agent logs; with None, nothing."""
        if writer is not None:
            self.logger.output_formats.append(writer)

    @property
    def files(self) -> tuple[CsvLog, ...]:
        """The three CSV files: progress, episodes, evaluations."""
        return (self.progress.log, self.episodes, self.evaluations)

    def position(self) -> dict[str, Any]:
        """Where every file stands, for a checkpoint."""
        return {log.path.stem: log.position() for log in self.files}

    def flush(self, *, to_disk: bool = False) -> None:
        """Hands the rows of all of them to the system; ``to_disk`` as for :meth:`CsvLog.flush`."""
        for log in self.files:
            log.flush(to_disk=to_disk)

    def close(self, exit_code: int = 0) -> None:
        """Closes all of them.

        :param exit_code: exit code of the run, for writers that tell how it ended
        """
        for writer in self.logger.output_formats:
            if hasattr(writer, "exit_code"):
                writer.exit_code = exit_code
        self.logger.close()
        self.episodes.close()
        self.evaluations.close()
