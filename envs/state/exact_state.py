"""Saves and restores one Gymnasium environment exactly.

The first of three ways that the environment allows is taken: its own ``get_state`` and ``set_state``; a snapshot of
MuJoCo (:mod:`rlopt.envs.state.snapshots`); or a replay of the running episode's actions, from the random state that
the environment had before the episode's reset.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from rlopt.envs.calls import call
from rlopt.envs.outcomes import name_of
from rlopt.envs.state import snapshots
from rlopt.errors import StateUnavailableError

WRONG_REPLAY = (
    "replaying the episode did not lead back to the same state, so the environment keeps something outside its "
    "np_random and its episode: give it get_state() and set_state(state)"
)


class EpisodeStart:
    """Records what the running episode began with, so that the same episode can begin again."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self._env = env
        self.record: dict[str, Any] = {}

    def before_reset(self, seed: int | None, options: dict[str, Any] | None) -> None:
        """Notes the seed, or without one the state of the environment's random generators."""
        self.record = {"seed": seed, "random": {}}
        if options:
            self.record["options"] = dict(options)
        if seed is None:
            self.record["random"] = random_states(self._env)

    def repeat(self, record: dict[str, Any]) -> Any:
        """Begins the recorded episode in this environment; returns its first observation.

        :raises rlopt.errors.StateUnavailableError: for a damaged record
        """
        options = {name: value for name, value in record.items() if name not in ("seed", "random")}
        known = set(record) <= {"seed", "random", "options"} and {"seed", "random"} <= set(record)
        if not known or not is_seed(record["seed"]) or not all(isinstance(value, dict) for value in options.values()):
            raise StateUnavailableError("the record of how the episode began is damaged")
        self.record = record
        if record["seed"] is None:
            # Some environments create their generators in reset: the first one makes them, the second one uses them.
            call(name_of(self._env), "reset", self._env.reset, seed=0)
            set_random_states(self._env, record["random"])
        return call(name_of(self._env), "reset", self._env.reset, seed=record["seed"], **options)[0]


def is_seed(value: Any) -> bool:
    """Whether ``value`` can be the seed of a reset: an integer in [0, 2^64), or None."""
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64)


def method_of(env: gymnasium.Env[Any, Any]) -> str:
    """How the state of ``env`` is saved: ``own``, ``snapshot`` or ``replay``."""
    base = env.unwrapped
    if callable(getattr(base, "get_state", None)) and callable(getattr(base, "set_state", None)):
        return "own"
    return "snapshot" if snapshots.has_snapshot(env) else "replay"


def random_states(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    """The states of all numpy generators that are attributes of the environment or of its wrappers."""
    states: dict[str, Any] = {}
    for depth, layer in enumerate(snapshots.layers(env)):
        for name, value in vars(layer).items():
            if isinstance(value, np.random.Generator):
                states[f"{depth}.{name}"] = dict(value.bit_generator.state)
            elif isinstance(value, np.random.RandomState):
                states[f"{depth}.{name}"] = dict(value.get_state(legacy=False))
    return states


def set_random_states(env: gymnasium.Env[Any, Any], states: dict[str, Any]) -> None:
    """Sets the generators that :func:`random_states` named; raises StateUnavailableError when one is missing."""
    stack = list(snapshots.layers(env))
    for key, state in states.items():
        depth, _, name = key.partition(".")
        layer = stack[int(depth)] if int(depth) < len(stack) else None
        generator = vars(layer).get(name) if layer is not None else None
        try:
            if isinstance(generator, np.random.Generator):
                generator.bit_generator.state = state
                continue
            if isinstance(generator, np.random.RandomState):
                generator.set_state(state)
                continue
        except (ValueError, TypeError) as error:
            raise StateUnavailableError(
                f"the random generator {name!r} does not take its saved state: {error}"
            ) from None
        raise StateUnavailableError(f"the environment has no random generator {name!r}: make it as it was made before")


def elapsed_steps(env: gymnasium.Env[Any, Any]) -> list[int]:
    """The step counts of the environment's time limits, from the outside in."""
    limits = [layer for layer in snapshots.layers(env) if isinstance(layer, gymnasium.wrappers.TimeLimit)]
    return [int(layer._elapsed_steps or 0) for layer in limits]


def take_own(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    """The state by the environment's own ``get_state``, with its time limits and random generators."""
    return {
        "own": env.unwrapped.get_state(),  # type: ignore[attr-defined]
        "elapsed": elapsed_steps(env),
        "random": random_states(env),
    }


def put_own(env: gymnasium.Env[Any, Any], state: dict[str, Any]) -> None:
    """Gives the environment the state that :func:`take_own` took."""
    # Wrappers refuse steps before a reset, and generators may not exist before one.
    call(name_of(env), "reset", env.reset, seed=0)
    env.unwrapped.set_state(state["own"])  # type: ignore[attr-defined]
    set_random_states(env, state["random"])
    limits = [layer for layer in snapshots.layers(env) if isinstance(layer, gymnasium.wrappers.TimeLimit)]
    for layer, elapsed in zip(limits, state["elapsed"], strict=True):
        layer._elapsed_steps = elapsed


def check_replay(env: gymnasium.Env[Any, Any], total: float, state: dict[str, Any]) -> None:
    """Raises StateUnavailableError unless a replay led to the saved sum of rewards, step counts and random states.

    :param total: the sum of the episode's rewards in the replay
    """
    # Compared as bytes: a reward may be NaN, and must then be the same NaN.
    same = (
        np.float64(total).tobytes() == np.float64(state["total"]).tobytes()
        and elapsed_steps(env) == list(state["elapsed"])
        and _equal(random_states(env), state["random"])
    )
    if not same:
        raise StateUnavailableError(WRONG_REPLAY)


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    return bool(np.array_equal(left, right))
