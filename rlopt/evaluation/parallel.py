"""Evaluations as jobs: whole episodes of one policy, played by many processes or machines."""

from __future__ import annotations

import dataclasses
import hashlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlopt.console.signals import Stopped
from rlopt.engine.base import Engine, Observer
from rlopt.engine.context import JobContext
from rlopt.engine.jobs import DONE, FAILED, Job, JobResult
from rlopt.errors import ConfigError, RunError
from rlopt.registry import AGENTS, import_agent

if TYPE_CHECKING:
    from rlopt.envs.settings import EnvSettings
    from rlopt.evaluation.evaluate import EvaluationResult

PLAY = "rlopt.evaluation.parallel:play"
ENVS_PER_JOB = 4
"""Environments side by side in a job, unless told otherwise: enough for EnvPool, few enough to spread the work."""


def evaluate_on_engine(
    engine: Engine,
    run: str | Path,
    n_episodes: int = 100,
    *,
    env: str | EnvSettings | None = None,
    policy: str = "last",
    deterministic: bool = True,
    seed: int = 0,
    n_envs: int = ENVS_PER_JOB,
    device: str = "cpu",
    confidence: float = 0.95,
    retries: int = 2,
    on_episode: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """As :func:`rlopt.evaluate`, with the episodes played by the jobs of an engine, ``n_envs`` of them in each.

    The episodes depend on ``seed`` and ``n_envs``, not on the number of workers or on workers that die: every job has
    its own random numbers and counts once. They differ from those of :func:`rlopt.evaluate` with the same seed.

    :param run: a run folder (its newest checkpoint is taken) or a checkpoint; the machines of a cluster must all see it
    :param n_episodes: at least 1
    :param env: an id or settings; default is the environment that the policy was trained in
    :param policy: last, or another one that the model holds, such as mixture of AILBoost
    :param n_envs: environments side by side in a job, [1, 4096]
    :param device: that each job computes on
    :param retries: further attempts of a job whose process died
    :param on_episode: called with (episodes finished, ``n_episodes``), a few times a second
    :returns: the episodes in order of jobs, then of environments; ``seconds`` is the wall time of all, the start of the
        processes included
    :raises rlopt.errors.RunError: a job failed, with the reason
    :raises rlopt.errors.ConfigError: an argument is out of range
    :raises rlopt.errors.SpaceError: the spaces of policy and environment differ
    :raises rlopt.console.signals.Stopped: Ctrl-C (it is a KeyboardInterrupt), SIGTERM or SIGHUP
    """
    from rlopt.checkpoint.choose import choose_checkpoint, environment_settings
    from rlopt.envs.settings import EnvSettings, derive_seeds
    from rlopt.evaluation.evaluate import check_arguments

    check_arguments(n_episodes, confidence)
    checkpoint = choose_checkpoint(Path(run))
    settings = env if isinstance(env, EnvSettings) else environment_settings(checkpoint.metadata, env)
    # a job is one process: EnvPool's threads would compete with the other workers
    settings = dataclasses.replace(settings, n_envs=min(n_envs, n_episodes), num_threads=1)
    _check_here(checkpoint.path, policy, settings)  # before many processes are started to find the same
    sizes = [min(n_envs, n_episodes - first) for first in range(0, n_episodes, n_envs)]
    common = {
        "checkpoint": str(checkpoint.path.resolve()),
        "fingerprint": _fingerprint(checkpoint.path),
        "policy": policy,
        "env": settings.as_dict(),
        "deterministic": deterministic,
        "device": device,
        "agents": [name for name in AGENTS if ":" in name],
    }
    jobs = [
        Job(f"episodes{index * n_envs}", PLAY, {"n_episodes": size, "seed": drawn, **common})
        for index, (size, drawn) in enumerate(zip(sizes, derive_seeds(seed, len(sizes)), strict=True))
    ]
    started = time.perf_counter()
    count = _Count(n_episodes, on_episode)
    given = takewhile(lambda job: not count.failure, jobs)
    ended = engine.map(given, retries=retries, observer=count, patient=False)
    seconds = time.perf_counter() - started
    if ended.exit_code:
        raise Stopped(signal.Signals(ended.exit_code - 128))
    if count.failure:
        raise RunError(f"the episodes could not be run: {count.failure}")
    return joined(ended.values(), deterministic, seed, settings.n_envs, confidence, seconds)


def play(
    context: JobContext,
    *,
    checkpoint: str,
    fingerprint: str,
    policy: str,
    env: Mapping[str, Any],
    n_episodes: int,
    seed: int,
    deterministic: bool,
    device: str,
    agents: Sequence[str] = (),
) -> dict[str, Any]:
    """Plays some episodes in a process of an engine; they are those of :func:`rlopt.evaluate`, as its ``as_dict``.

    :param agents: the classes that the command was given by name, see :func:`rlopt.registry.import_agent`
    :raises rlopt.errors.ConfigError: another checkpoint lies at this path here
    """
    from rlopt.envs.settings import EnvSettings
    from rlopt.evaluation.evaluate import evaluate

    for name in agents:
        import_agent(name)
    settings = dataclasses.replace(EnvSettings(**env), n_envs=n_episodes)
    return evaluate(
        _model(checkpoint, fingerprint, policy, device),
        settings,
        n_episodes,
        n_envs=n_episodes,
        seed=seed,
        deterministic=deterministic,
        on_episode=context.progress,
    ).as_dict()


@lru_cache(maxsize=1)
def _model(checkpoint: str, fingerprint: str, policy: str, device: str) -> Any:
    """The policy in this process, kept from job to job."""
    from rlopt.checkpoint.load import load
    from rlopt.evaluation.evaluate import named_policy

    if _fingerprint(Path(checkpoint)) != fingerprint:
        raise ConfigError(
            f"{checkpoint} differs from the checkpoint where the command runs: put the run on storage that all "
            "machines see"
        )
    return named_policy(load(checkpoint, device=device), policy)


def _check_here(checkpoint: Path, policy: str, settings: EnvSettings) -> None:
    from rlopt.checkpoint.load import load
    from rlopt.envs.make import make_from_settings
    from rlopt.evaluation.envs import observed_as_trained
    from rlopt.evaluation.evaluate import named_policy

    env = make_from_settings(dataclasses.replace(settings, n_envs=1))
    try:
        with observed_as_trained(named_policy(load(checkpoint, device="cpu"), policy), env):
            pass
    finally:
        env.close()


def _fingerprint(checkpoint: Path) -> str:
    """A hash of a checkpoint's manifest, which has the hash of each file."""
    from rlopt.checkpoint.files import MANIFEST

    try:
        return hashlib.sha256((checkpoint / MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(
            f"{checkpoint} cannot be read where the job runs ({error.strerror}): put the run on storage that all "
            "machines see"
        ) from None


class _Count(Observer):
    """Adds up the episodes of all jobs."""

    def __init__(self, total: int, tell: Callable[[int, int], None] | None) -> None:
        self._total, self._tell = total, tell
        self._done: dict[str, int] = {}
        self.failure = ""

    def progress(self, name: str, step: int, total: int, value: float | None) -> None:
        self._set(name, step)

    def retried(self, job: Job, attempt: int, reason: str) -> None:
        self._set(job.name, 0)

    def ended(self, result: JobResult) -> None:
        self._set(result.name, result.value["episodes"] if result.status == DONE else 0)
        self.failure = self.failure or (result.reason if result.status == FAILED else "")

    def _set(self, name: str, done: int) -> None:
        self._done[name] = done
        if self._tell is not None:
            self._tell(sum(self._done.values()), self._total)


def joined(
    parts: Sequence[dict[str, Any]], deterministic: bool, seed: int, n_envs: int, confidence: float, seconds: float
) -> EvaluationResult:
    """The parts, as :func:`play` returns them, as one evaluation."""
    import numpy as np

    from rlopt.evaluation.evaluate import EvaluationResult
    from rlopt.statistics.aggregates import bootstrap_interval

    columns = {name: np.concatenate([part[name] for part in parts]) for name in ("returns", "lengths", "truncated")}
    shares = [part["success_rate"] for part in parts]
    known = all(share is not None for share in shares)
    successes = [round(share * part["episodes"]) for share, part in zip(shares, parts, strict=True)] if known else []
    return EvaluationResult(
        returns=columns["returns"].astype(np.float64),
        lengths=columns["lengths"].astype(np.int64),
        truncated=columns["truncated"].astype(np.bool_),
        success_rate=sum(successes) / len(columns["returns"]) if known else None,
        interval=bootstrap_interval(columns["returns"], confidence=confidence),
        confidence=confidence,
        deterministic=deterministic,
        seed=seed,
        n_envs=n_envs,
        env_steps=sum(part["env_steps"] for part in parts),
        seconds=seconds,
    )
