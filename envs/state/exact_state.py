"""Saves and restores one Gymnasium environment exactly.

The first of four ways that the environment allows is taken: its own ``get_state`` and ``set_state``; a snapshot of
MuJoCo (:mod:`rlopt.envs.state.snapshots`); the values of its attributes (:mod:`rlopt.envs.state.objects`); or, where a
part of it is opaque to Python, a replay of the running episode's actions from what the environment held before the
episode's reset, its attributes set after that. Wrappers are always saved by their attributes.
"""

from typing import Any

import gymnasium
import numpy as np

from rlopt.envs.calls import call
from rlopt.envs.outcomes import name_of
from rlopt.envs.state import objects, snapshots
from rlopt.envs.state.shared import Baseline
from rlopt.errors import StateUnavailableError

WRONG_REPLAY = "replaying the episode did not lead back to the same state"


class EpisodeStart:
    """Records what the running episode began with, so that the same episode can begin again."""

    def __init__(self, env: gymnasium.Env[Any, Any], baseline: Baseline) -> None:
        self._env, self._baseline = env, baseline
        self.record: dict[str, Any] = {}

    def before_reset(self, seed: int | None, options: dict[str, Any] | None) -> None:
        """Notes the seed, and what the environment and its wrappers hold."""
        self.record = {"seed": seed, "objects": objects.capture(named_layers(self._env), (), self._baseline)}
        if options:
            self.record["options"] = dict(options)

    def repeat(self, record: dict[str, Any]) -> Any:
        """Begins the recorded episode in this environment; returns its first observation.

        :raises rlopt.errors.StateUnavailableError: for a damaged record
        """
        options = {name: value for name, value in record.items() if name not in ("seed", "objects")}
        known = set(record) <= {"seed", "objects", "options"} and {"seed", "objects"} <= set(record)
        if not known or not is_seed(record["seed"]) or not all(isinstance(value, dict) for value in options.values()):
            raise StateUnavailableError("the record of how the episode began is damaged")
        self.record = record
        if record["seed"] is None:
            call(name_of(self._env), "reset", self._env.reset, seed=0)  # some attributes exist only after a reset
        objects.restore(named_layers(self._env), record["objects"])
        return call(name_of(self._env), "reset", self._env.reset, seed=record["seed"], **options)[0]


def named_layers(env: gymnasium.Env[Any, Any]) -> list[tuple[str, Any]]:
    """The wrappers of an environment and itself, each with what the paths of its attributes begin with."""
    *wrappers, base = snapshots.layers(env)
    return [("", base), *((type(wrapper).__name__, wrapper) for wrapper in wrappers)]


def is_seed(value: Any) -> bool:
    """Whether ``value`` can be the seed of a reset: an integer in [0, 2^64), or None."""
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64)


def method_of(env: gymnasium.Env[Any, Any]) -> str:
    """How the state of ``env``, which was just made, is saved: ``own``, ``snapshot``, ``objects`` or ``replay``."""
    base = env.unwrapped
    if callable(getattr(base, "get_state", None)) and callable(getattr(base, "set_state", None)):
        return "own"
    if snapshots.has_snapshot(env):
        return "snapshot"
    return "replay" if objects.capture(named_layers(env))["opaque"] else "objects"


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
    """The state by the environment's own ``get_state``, with its random generators."""
    return {"own": env.unwrapped.get_state(), "random": random_states(env.unwrapped)}  # type: ignore[attr-defined]


def put_own(env: gymnasium.Env[Any, Any], state: dict[str, Any]) -> None:
    """Gives the environment the state that :func:`take_own` took."""
    # Wrappers refuse steps before a reset, and generators may not exist before one.
    call(name_of(env), "reset", env.reset, seed=0)
    env.unwrapped.set_state(state["own"])  # type: ignore[attr-defined]
    set_random_states(env.unwrapped, state["random"])


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
