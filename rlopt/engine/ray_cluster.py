"""Jobs on the machines of a Ray cluster (extra ``ray``); Ray's scheduler places them. Imports no torch."""

import os
import queue
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import rlopt
from rlopt.console.signals import StopRequest
from rlopt.engine.base import Engine
from rlopt.engine.context import ask_to_stop, run_job
from rlopt.engine.jobs import Job
from rlopt.engine.local import THREAD_VARIABLES, check_share, check_sizes
from rlopt.errors import ConfigError, RunError, one_line

EXCHANGE_SECONDS = 0.5
"""How often a job sends its reports and asks whether it is to stop."""
_MOST_AHEAD = 64
ANSWER_SECONDS = 10.0
"""How long an address may take to answer."""


class RayEngine(Engine):
    """Runs each attempt as a Ray task. Retries are ours, so that they are counted and continue from checkpoints.

    When a machine is lost, its jobs have failed once and run again elsewhere; for that, what they keep on disk must be
    on storage that every machine sees at the same path.

    :param address: host:port, ray://host:port or auto; None is RAY_ADDRESS, or else Ray on this machine alone
    :param workers: most jobs at once; default is what the CPUs and GPUs of the cluster allow, as it grows and shrinks
    :param threads: CPUs that a job takes, and threads it computes with
    :param gpus_per_job: share of a GPU that a job takes, or a whole number of GPUs
    :raises rlopt.errors.ConfigError: if Ray is not installed, the address does not answer, or a number is out of range
    """

    def __init__(
        self, address: str | None = None, workers: int | None = None, threads: int = 1, gpus_per_job: float = 0.0
    ) -> None:
        check_sizes(workers, threads, gpus_per_job)
        self._ray = ray = _import_ray()
        self.workers, self.threads, self.gpus_per_job = workers, threads, gpus_per_job
        self._owns = not ray.is_initialized()
        if self._owns:
            _connect(ray, address or os.environ.get("RAY_ADDRESS"), workers, threads)
        self._task = ray.remote(max_retries=0, num_cpus=threads, num_gpus=gpus_per_job)(_run)
        self._mailbox = ray.remote(num_cpus=0, max_concurrency=1)(_Mailbox).options(**_on_this_node(ray)).remote()
        self._running: dict[Any, tuple[str, str]] = {}
        self._begun: set[str] = set()
        """Keys of the attempts that have left Ray's queue."""
        self._attempts = 0
        self._counted, self._capacity = -1e9, 0
        try:
            self._require_room()
        except BaseException:
            self.close()
            raise

    def capacity(self) -> int:
        now = time.monotonic()
        if now - self._counted > 1.0:
            self._counted, self._capacity = now, self._count()
        return self._capacity

    def _count(self) -> int:
        room = self.places()
        if self.workers is not None and room > self.workers:
            return self.workers  # Ray would run more of them
        # Ray places a job that waits in its queue without asking us, which saves a round trip a job.
        return room + min(room, _MOST_AHEAD) if self.ahead else room

    def describe(self) -> str:
        room = self.places()
        return f"{room if self.workers is None else min(room, self.workers)} places of a Ray cluster"

    def places(self) -> int:
        """How many jobs the cluster can run at once, now."""
        resources = self._ray.cluster_resources()
        room = int(resources.get("CPU", 0) / self.threads)
        if self.gpus_per_job:
            room = min(room, int(resources.get("GPU", 0) / self.gpus_per_job + 1e-2))
        return room

    def _require_room(self) -> None:
        if self.places() < 1:
            has = {name: self._ray.cluster_resources().get(name, 0) for name in ("CPU", "GPU")}
            raise ConfigError(
                f"a job takes {self.threads} CPUs and {self.gpus_per_job:g} GPUs, the cluster has {has['CPU']:g} and "
                f"{has['GPU']:g}: ask for less"
            )

    def start(self, job: Job, attempt: int, log: Path | None) -> None:
        self._attempts += 1
        # A task of an attempt that was given up may still send reports, under another key.
        key = f"{job.name}#{self._attempts}"
        message = {**job.message(attempt, log), "path": sys.path}
        reference = self._task.options(name=f"rlopt:{job.name}").remote(
            message, key, self._mailbox, self.threads, rlopt.__version__
        )
        self._running[reference] = (job.name, key)

    def messages(self, seconds: float) -> list[dict[str, Any]]:
        try:
            return self._messages(seconds)
        except self._ray.exceptions.RayError as error:
            reason = one_line(error)
            raise RunError(f"the Ray cluster is lost ({reason}): when it is back, run the same command") from error

    def _messages(self, seconds: float) -> list[dict[str, Any]]:
        ray = self._ray
        ready: list[Any] = []
        if self._running:
            ready, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        if not ready and self._running:
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=seconds)
        elif not self._running:
            time.sleep(seconds)
        keys = {key for _, key in self._running.values()}
        spoken = [(key, message) for key, message in ray.get(self._mailbox.take.remote()) if key in keys]
        self._begun |= {key for key, _ in spoken}
        found = [message for _, message in spoken if message["kind"] != "began"]
        for reference in ready:
            name, key = self._running.pop(reference)
            self._begun.discard(key)
            found.append({"kind": "ended", "name": name, **self._outcome(reference)})
        return found

    def _outcome(self, reference: Any) -> dict[str, Any]:
        try:
            outcome: dict[str, Any] = self._ray.get(reference)
        except self._ray.exceptions.TaskCancelledError:
            return {"status": "stopped"}
        except self._ray.exceptions.RayError as error:
            return {"status": "failed", "reason": _death(error)}
        return outcome

    def stop(self, name: str) -> None:
        for reference, (running, key) in self._running.items():
            if running == name:
                self._mailbox.stop.remote(key)
                if key not in self._begun:
                    self._ray.cancel(reference)

    def kill(self) -> None:
        for reference in self._running:
            with suppress(self._ray.exceptions.RayError):
                self._ray.cancel(reference, force=True)
        self._running = {}

    def close(self) -> None:
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._mailbox)
        if self._owns:
            self._ray.shutdown()


class _Mailbox:
    """An actor beside the process that gives the jobs: reports in, requests to stop out."""

    def __init__(self) -> None:
        self._reports: list[tuple[str, dict[str, Any]]] = []
        self._stopped: set[str] = set()

    def exchange(self, key: str, reports: list[dict[str, Any]]) -> bool:
        self._reports += [(key, report) for report in reports]
        return key in self._stopped

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        taken, self._reports = self._reports, []
        return taken

    def stop(self, key: str) -> None:
        self._stopped.add(key)


def _run(job: dict[str, Any], key: str, mailbox: Any, threads: int, version: str) -> dict[str, Any]:
    """One attempt, in a process of the cluster."""
    import ray

    if rlopt.__version__ != version:
        where = f"{socket.gethostname()} has rlopt {rlopt.__version__}, the command {version}"
        return {"status": "failed", "reason": f"{where}: install the same on every machine", "final": True}
    sys.path += [folder for folder in job["path"] if folder not in sys.path and os.path.isdir(folder)]
    os.environ |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    stop, reports, over = StopRequest(), queue.Queue[dict[str, Any]](), threading.Event()
    mailbox.exchange.remote(key, [{"kind": "began", "name": job["name"]}])

    def exchange() -> None:
        while True:
            last = over.wait(EXCHANGE_SECONDS)
            waiting = [reports.get() for _ in range(reports.qsize())]
            if last and not waiting:
                return
            try:
                if ray.get(mailbox.exchange.remote(key, waiting)):
                    ask_to_stop(stop)
            except ray.exceptions.RayError:  # the command is gone
                ask_to_stop(stop)
                return
            if last:
                return

    talker = threading.Thread(target=exchange, daemon=True)
    talker.start()
    try:
        return run_job(job, stop, lambda report: reports.put({**report, "name": job["name"]}))
    finally:
        over.set()
        talker.join(ANSWER_SECONDS)


def _import_ray() -> Any:
    if sys.platform != "linux":
        raise ConfigError("the engine ray is for Linux: use --engine local on this system")
    try:
        import ray
    except ImportError:
        raise ConfigError("the engine ray needs Ray: pip install 'rlopt[ray]', or use --engine local") from None
    return ray


def check_cluster(address: str | None, gpus_per_job: float) -> None:
    """Raises :class:`rlopt.errors.ConfigError` if Ray is missing or nothing listens at ``address``; starts nothing."""
    check_share(gpus_per_job)
    _import_ray()
    if address is not None and address not in ("local", "auto"):
        try:
            _require_answer(address)
        except OSError as error:
            raise _no_answer(address, error) from None


def _connect(ray: Any, address: str | None, workers: int | None, threads: int) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    # Neither the folder of the command nor its files are sent anywhere: storage is shared, see docs/scale_out.md.
    try:
        if address is None or address == "local":
            cpus = None if workers is None else workers * threads
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
            return
        if address != "auto":
            _require_answer(address)
        ray.init(address=address, **quiet)
    except ConfigError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # a name that is not known is an OSError, too
        raise _no_answer(address, error) from None


def _no_answer(address: str | None, error: Exception) -> ConfigError:
    return ConfigError(
        f"no Ray cluster answers at {address or 'this machine'} ({one_line(error)}): start one with ray start "
        "--head, or give its --address"
    )


def _require_answer(address: str) -> None:
    """Ray itself waits for a minute and prints a page."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not host or not port.isdigit():
        raise ConfigError(f"--address {address[:80]!r} is not an address: write host:port (10.0.0.1:6379), or auto")
    with socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS):
        pass


def _on_this_node(ray: Any) -> dict[str, Any]:
    """Options that keep an actor on the machine of the command, which outlives the others."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id=node, soft=False)}


def _death(error: Exception) -> str:
    """Why a task has no outcome, in one line."""
    kind = type(error).__name__
    known = {
        "OutOfMemoryError": "Ray killed its process because memory ran out",
        "WorkerCrashedError": "its process died",
        "NodeDiedError": "its machine was lost",
        "LocalRayletDiedError": "its machine was lost",
    }
    return known.get(kind) or f"{kind}: {one_line(error)}"
