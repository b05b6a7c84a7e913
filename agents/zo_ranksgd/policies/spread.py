"""The episodes of a round spread over processes or a Ray cluster, by an engine that stays up between rounds."""

from __future__ import annotations

import base64
import dataclasses
import json
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rlopt.agents.zo_ranksgd.config import ZORankSGDConfig
from rlopt.agents.zo_ranksgd.policies.candidates import (
    CandidateEvaluator,
    Episodes,
    Evaluation,
    RoundStopped,
    require_finite,
)
from rlopt.agents.zo_ranksgd.policies.observations import FloatArray, Normalizer
from rlopt.console.signals import hand_on
from rlopt.engine import Engine, Job, JobContext, JobStopped, make_engine
from rlopt.envs.settings import EnvSettings
from rlopt.errors import ConfigError, RunError

if TYPE_CHECKING:
    from rlopt.agents.zo_ranksgd.policies.search import RankedPolicySearch

PLAY = "rlopt.agents.zo_ranksgd.policies.spread:play"
_RETRIES = 3


class Spread:
    """Where the candidates of a search are played, if not in its own process.

    :param engine: whose processes play, and which is left open; None makes one of the settings when it is needed
    """

    def __init__(self, config: ZORankSGDConfig, engine: Engine | None = None) -> None:
        self.config, self._given = config, engine
        self._open: Engine | None = None

    @classmethod
    def of(cls, config: ZORankSGDConfig, engine: Engine | None) -> Spread | None:
        """None where the settings name no engine."""
        if engine is not None or config.engine is not None:
            return cls(config, engine)
        return None

    @contextmanager
    def opened(self) -> Iterator[Engine]:
        """The engine, kept open until the outermost of these contexts is left.

        :raises rlopt.errors.ConfigError: as :func:`rlopt.engine.make_engine`
        """
        if self._open is not None:
            yield self._open
            return
        config = self.config
        made = self._given or make_engine(
            config.engine or "local", workers=config.workers, gpus_per_job=config.gpus_per_job, address=config.address
        )
        ahead, made.ahead = made.ahead, False  # the next round depends on this one
        self._open = made
        try:
            yield made
        finally:
            self._open, made.ahead = None, ahead
            if made is not self._given:
                made.close()

    def evaluate(self, search: RankedPolicySearch, candidates: FloatArray, seeds: npt.NDArray[np.int64]) -> Evaluation:
        """As :meth:`CandidateEvaluator.evaluate` in the processes of the engine, a part of the episodes in each.

        Every episode is played by one attempt that ended well: of a process that dies, all is played again.

        :param candidates: ``[m, d]``, finite
        :param seeds: ``[m, episodes]``
        :raises rlopt.errors.RunError: a part failed again and again
        :raises RoundStopped: a signal asked to stop; it has been handed on
        """
        require_finite(candidates)
        m, episodes = seeds.shape
        owners, flat = np.repeat(np.arange(m), episodes), seeds.reshape(-1)
        with self.opened() as engine:
            parts = np.array_split(np.arange(len(flat)), min(max(engine.capacity(), 1), len(flat)))
            most = min(max(map(len, parts)), self.config.max_envs)
            common = {"actor": actor_of(search), "statistics": _packed_state(search.normalizer), "slots": most}
            jobs = []
            for part in parts:
                first, last = owners[part[0]], owners[part[-1]]
                arguments = {
                    "candidates": pack(candidates[first : last + 1]),
                    "owners": (owners[part] - first).tolist(),
                    "seeds": flat[part].tolist(),
                    **common,
                }
                jobs.append(Job(f"episodes{part[0]}-{part[-1]}", PLAY, arguments))
            ended = engine.map(jobs, retries=_RETRIES)
        if ended.exit_code:
            hand_on(signal.Signals(ended.exit_code - 128))
        values = ended.values()
        if len(values) < len(jobs) or any(value is None for value in values):
            failed = next((result for result in ended.results.values() if result.status == "failed"), None)
            if failed is None:
                raise RoundStopped
            raise RunError(f"the candidates' episodes failed {len(failed.failures)} times: {failed.reason}")
        played = Episodes.joined([Episodes(**{name: unpack(part) for name, part in value.items()}) for value in values])
        return played.evaluation(seeds, search.normalizer)


def actor_of(search: RankedPolicySearch) -> dict[str, Any]:
    """What another process needs to play the candidates of ``search``, as JSON.

    :raises rlopt.errors.ConfigError: its policy or its environment is an object of this process
    """
    settings = getattr(search.env, "settings", None)
    if not isinstance(settings, EnvSettings):
        raise ConfigError("an engine makes the environments itself: give an id or EnvSettings, or leave engine out")
    if not isinstance(search._given_policy, str):
        raise ConfigError("an engine makes the policy itself: name it, such as MlpPolicy, or leave engine out")
    actor = {
        "env": settings.as_dict(),
        "policy": search._given_policy,
        "policy_kwargs": search._policy_kwargs_used,
        "bias": search.config.bias,
        "seed": search.seed,
        "device": str(search.device),
    }
    try:
        json.dumps(actor)
    except (TypeError, ValueError):
        raise ConfigError(
            "policy_kwargs hold an object that cannot be sent to another process: name it, such as "
            "activation_fn='tanh', or leave "
            "engine out"
        ) from None
    return actor


def play(
    context: JobContext,
    *,
    actor: Mapping[str, Any],
    statistics: Mapping[str, Any] | None,
    slots: int,
    candidates: Mapping[str, Any],
    owners: list[int],
    seeds: list[int],
) -> dict[str, Any]:
    """Plays episodes in a process of an engine; they are those of :meth:`CandidateEvaluator.play`.

    :param actor: of :func:`actor_of`
    :param statistics: of observations, frozen; None where they are left as they are
    :param slots: environments side by side
    :param candidates: parameters, packed
    :param owners: the candidate of each episode
    :param seeds: of each episode
    """
    description = json.dumps(actor, sort_keys=True)
    try:
        evaluator = _evaluator(description, slots)
        evaluator.stopping = lambda: context.stopping
        normalizer = Normalizer(None)
        if statistics is not None:
            mean = unpack(statistics["mean"])
            normalizer = Normalizer(len(mean))
            deviations = unpack(statistics["deviations"])
            normalizer.set_state({"count": statistics["count"], "mean": mean, "deviations": deviations})
        played = evaluator.play(unpack(candidates), np.array(owners), np.array(seeds, np.int64), normalizer)
    except RoundStopped:
        raise JobStopped from None  # every round begins with a reset
    except BaseException:
        _evaluator.cache_clear()  # an environment may be in the middle of a step
        raise
    return {field.name: pack(getattr(played, field.name)) for field in dataclasses.fields(played)}


@lru_cache(maxsize=2)
def _evaluator(description: str, slots: int) -> CandidateEvaluator:
    """Environments and policy of this process, kept from round to round: one of gradients, one of line searches."""
    from rlopt.agents.zo_ranksgd.policies.sb3_policy import make_policy
    from rlopt.envs.make import make_from_settings
    from rlopt.settings.device import check_device

    actor = json.loads(description)
    check_device(actor["device"])
    settings = EnvSettings(**actor["env"])
    threads = settings.num_threads or 1
    env = make_from_settings(dataclasses.replace(settings, n_envs=slots, num_threads=threads))
    _, vector = make_policy(
        actor["policy"],
        env.observation_space,
        env.action_space,
        bias=actor["bias"],
        policy_kwargs=actor["policy_kwargs"],
        seed=actor["seed"],
        device=actor["device"],
    )
    return CandidateEvaluator(env, vector)


def pack(array: npt.NDArray[Any]) -> dict[str, Any]:
    """An array of numbers as JSON, every bit of it."""
    whole = np.ascontiguousarray(array)
    kind = whole.dtype.newbyteorder("<")
    return {
        "type": kind.str,
        "shape": list(whole.shape),
        "data": base64.b64encode(whole.astype(kind).tobytes()).decode(),
    }


def unpack(packed: Mapping[str, Any]) -> npt.NDArray[Any]:
    """The array of :func:`pack`."""
    values = np.frombuffer(base64.b64decode(packed["data"]), np.dtype(packed["type"])).reshape(packed["shape"])
    return values.astype(values.dtype.newbyteorder("="))


def _packed_state(normalizer: Normalizer) -> dict[str, Any] | None:
    if normalizer.size is None:
        return None
    state = normalizer.get_state()
    return {"count": state["count"], "mean": pack(state["mean"]), "deviations": pack(state["deviations"])}
