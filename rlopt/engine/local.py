"""Jobs in processes of this machine. Imports no torch, unless GPUs are shared out."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlopt.engine.base import Engine
from rlopt.engine.jobs import Job
from rlopt.errors import ConfigError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_DEAD_SECONDS = 2.0
"""How long what a dead process has said is waited for: processes that it forked can keep the pipe open."""
_PATIENCE = 10.0
"""Seconds that an idle process may take to leave."""


def usable_cores() -> int:
    """The processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class LocalEngine(Engine):
    """Runs jobs in processes of their own, each of which takes one job after another.

    A process that dies, also by SIGKILL when memory runs out, fails the job that it ran and no other. When this process
    is gone, its workers let their jobs stop, with a checkpoint, and leave.

    :param workers: most jobs at once; default is as many as the usable cores and ``threads`` allow
    :param threads: threads that one worker's numerical libraries compute with, at least 1
    :param gpus_per_job: share of a GPU that a job may take, such as 0.25 for four jobs on each GPU; whole numbers above
        1 give each job that many; 0 leaves the devices to the jobs
    :raises rlopt.errors.ConfigError: for a number out of range, or if there are no GPUs to share out
    """

    def __init__(self, workers: int | None = None, threads: int = 1, gpus_per_job: float = 0.0) -> None:
        check_sizes(workers, threads, gpus_per_job)
        self.workers = workers or max(1, usable_cores() // threads)
        self.threads = threads
        self._devices: list[str] = []
        if gpus_per_job:
            self._devices = device_slots(visible_gpus(), gpus_per_job)
            self.workers = min(self.workers, len(self._devices))
        # No SimpleQueue: in Python 3.11 a signal at the end of its timeout makes it wait for ever.
        self._inbox: queue.Queue[tuple[_Process, dict[str, Any] | None]] = queue.Queue()
        self._processes: list[_Process] = []

    def capacity(self) -> int:
        return self.workers

    def describe(self) -> str:
        return f"{self.workers} {'worker' if self.workers == 1 else 'workers'}"

    def start(self, job: Job, attempt: int, log: Path | None) -> None:
        process = next((process for process in self._processes if process.job is None), None)
        if process is None:
            process = self._spawn()
        process.job = job.name
        process.send({"kind": "job", **job.message(attempt, log)})

    def messages(self, seconds: float) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        with suppress(queue.Empty):
            while True:
                process, message = self._inbox.get(timeout=0 if found else seconds)
                found += self._understand(process, message)
                if self._inbox.empty():
                    break
        for process in [process for process in self._processes if process.dead_for() > _DEAD_SECONDS]:
            found += self._lost(process)
        return found

    def stop(self, name: str) -> None:
        for process in self._processes:
            if process.job == name:
                process.send({"kind": "stop", "name": name})

    def kill(self) -> None:
        for process in self._processes:
            process.popen.kill()
        self.close()

    def close(self) -> None:
        for process in self._processes:
            with suppress(OSError):
                process.popen.stdin.close()  # type: ignore[union-attr]
        for process in self._processes:
            try:
                process.popen.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()
            process.reader.join(_DEAD_SECONDS)
            if not process.reader.is_alive():
                process.popen.stdout.close()  # type: ignore[union-attr]
        self._processes = []
        self._inbox = queue.Queue()

    def pids(self) -> dict[str, int]:
        """The process of each running job, by the job's name."""
        return {process.job: process.popen.pid for process in self._processes if process.job is not None}

    def _understand(self, process: _Process, message: dict[str, Any] | None) -> list[dict[str, Any]]:
        if message is None:
            return self._lost(process)
        if message["kind"] == "ready" or message["name"] != process.job:
            return []
        if message["kind"] == "ended":
            process.job = None
        return [message]

    def _lost(self, process: _Process) -> list[dict[str, Any]]:
        """A process is gone; if it ran a job, that attempt has failed."""
        if process not in self._processes:  # closed on purpose
            return []
        self._processes.remove(process)
        code, name = process.popen.wait(), process.job
        if not process.reader.is_alive():
            process.popen.stdout.close()  # type: ignore[union-attr]
        with suppress(OSError):
            process.popen.stdin.close()  # type: ignore[union-attr]
        return [] if name is None else [{"kind": "ended", "name": name, "status": "failed", "reason": _death(code)}]

    def _spawn(self) -> _Process:
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(self.threads))}
        slot = None
        if self._devices:
            taken = {process.slot for process in self._processes}
            slot = next(index for index in range(len(self._devices)) if index not in taken)
            environment["CUDA_VISIBLE_DEVICES"] = self._devices[slot]
        # The package must be found before sys.path is sent over.
        package = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        popen = subprocess.Popen(
            [sys.executable, "-m", "rlopt.engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        process = _Process(popen, threading.Thread(daemon=True), slot)
        process.reader = threading.Thread(target=_read, args=(process, self._inbox), daemon=True)
        process.reader.start()
        process.send({"path": sys.path})
        self._processes.append(process)
        return process


@dataclass(eq=False)
class _Process:
    popen: subprocess.Popen[str]
    reader: threading.Thread
    slot: int | None
    job: str | None = None
    died: float | None = None

    def dead_for(self) -> float:
        """Seconds since its death was seen, 0 while it lives."""
        if self.popen.poll() is None:
            return 0.0
        self.died = self.died or time.monotonic()
        return time.monotonic() - self.died

    def send(self, message: dict[str, Any]) -> None:
        assert self.popen.stdin is not None
        with suppress(OSError):  # it has died, which its reader says
            print(json.dumps(message), file=self.popen.stdin, flush=True)


def _read(process: _Process, inbox: queue.Queue[tuple[_Process, dict[str, Any] | None]]) -> None:
    assert process.popen.stdout is not None
    with suppress(ValueError, OSError):  # a line cut off by death; closed by close()
        for line in process.popen.stdout:
            inbox.put((process, json.loads(line)))
    inbox.put((process, None))


def _death(code: int) -> str:
    if code == -9:
        return "its process was killed (SIGKILL), as the system does when memory runs out: try fewer workers"
    if code < 0:
        with suppress(ValueError):
            return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"


def check_sizes(workers: int | None, threads: int, gpus_per_job: float) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for a number that no engine can keep to."""
    if threads < 1 or (workers is not None and workers < 1):
        raise ConfigError(f"workers and threads must be at least 1, not {workers} and {threads}")
    check_share(gpus_per_job)


def check_share(gpus_per_job: float) -> None:
    """Raises :class:`rlopt.errors.ConfigError` unless jobs can be given that many GPUs each."""
    whole = gpus_per_job > 1 and float(gpus_per_job).is_integer()
    if not (0 <= gpus_per_job <= 1 or whole):
        raise ConfigError(f"gpus_per_job must be a share in [0, 1] or a whole number, not {gpus_per_job:g}")


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def device_slots(gpus: list[str], gpus_per_job: float) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each job that runs at once, neighbours on different GPUs.

    :raises rlopt.errors.ConfigError: if there are not enough GPUs for one job
    """
    if gpus_per_job <= 1:
        # 1/3 written with a few decimals still means three jobs on a GPU.
        slots = gpus * int(1 / gpus_per_job + 1e-2)
    else:
        size = int(gpus_per_job)
        slots = [",".join(gpus[i : i + size]) for i in range(0, len(gpus) - size + 1, size)]
    if not slots:
        raise ConfigError(
            f"{gpus_per_job:g} GPUs for a job, but this machine shows {len(gpus)}: leave --gpus-per-job out"
        )
    return slots
