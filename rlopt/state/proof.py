"""Shows whether environments continue exactly from their saved state: a copy restored from it repeats real steps.

The run's own environments are never touched. The steps that they make after a boundary are recorded; later a second
batch of environments, made alike, is restored from the boundary's state, is given the same actions, and must answer
with the same bits. The recording holds the random states of Python, numpy and torch before each step that drew from
them, because the policy draws from those too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv

from rlopt.envs.make import make_from_settings
from rlopt.envs.settings import EnvSettings
from rlopt.envs.state import objects
from rlopt.errors import StateUnavailableError, one_line
from rlopt.state.envs import split_chain
from rlopt.state.isolate import isolated
from rlopt.storage.tree import Tree

FEWEST_STEPS, MOST_STEPS = 50, 1000
"""Steps after which a recording ends if an environment played a whole episode after a reset, and if none did."""
FIRST_STEP = 50
"""Steps of one environment before the first recording: in the beginning nothing differs from a fresh environment."""
SPACING = 4
"""A recording begins when this many times the steps are done that were done at the beginning of the last one: what
counts over a run shows late, and the cost stays that of a few thousand steps."""
SHARE = 0.02
"""Of a run's time that comparisons may take."""
GRACE = 1.0
"""Seconds that they may take besides, so that short runs are compared too."""

EXACT, UNPROVED, INEXACT, FRESH = "exact", "unproved", "not exact", "fresh episodes"
_REBUILT = ("SwigPyObject", "MjModel", "MjData", "ALEInterface")
"""Simulators whose whole state is recreated when an episode begins, so that a replay leads back to it."""
_GENERATORS = ("python", "numpy", "torch")
_DIGEST = 8
_PARTS = ("observation", "reward", "end", "global random state")


@dataclass(frozen=True)
class Verdict:
    """How the environments of a run continue from a checkpoint."""

    kind: str
    """``exact``, ``unproved``, ``not exact``, or ``fresh episodes`` where the state cannot be restored at all."""
    reason: str = ""
    """In words, for all but ``exact``."""
    at_step: int = 0
    """The run's step at which the state was taken."""
    steps: int = 0
    """Steps that the restored environments repeated."""
    ends: int = 0
    """Ends of episodes, with their resets, among them."""

    def sentence(self) -> str:
        """For people: what a resume is."""
        if self.kind == EXACT:
            shown = f"{self.steps:,} steps and {self.ends} resets after step {self.at_step:,}"
            return f"exact: restored environments repeated {shown} bit for bit"
        compared = f" ({self.steps:,} steps compared)" if self.kind == UNPROVED and self.steps else ""
        return f"{self.kind}: {self.reason}{compared}"

    @classmethod
    def read(cls, content: Any) -> Verdict:
        """The verdict of a file; unproved for one that is damaged."""
        fields = {field.name: type(field.default) for field in dataclasses.fields(cls)} | {"kind": str}
        known = isinstance(content, dict) and all(type(content.get(name)) is kind for name, kind in fields.items())
        if not known or content["kind"] not in (EXACT, UNPROVED, INEXACT, FRESH):
            return cls(UNPROVED, "no step was compared yet")
        return cls(**{name: content[name] for name in fields})


@dataclass
class Steps:
    """What environments were given and answered."""

    held: dict[str, str]
    """What environments held at the beginning that give their own state."""
    actions: list[np.ndarray] = field(default_factory=list)
    generators: list[dict[str, Any]] = field(default_factory=list)
    """Per step, the states before it of the global generators that it drew from."""
    answers: list[tuple[bytes, ...]] = field(default_factory=list)
    """Per step, a checksum of each of observations, rewards, ends and the random states after it."""

    def as_tree(self) -> Tree:
        """The steps as a tree for :mod:`rlopt.storage`."""
        return {
            "held": self.held,
            "actions": np.stack(self.actions),
            "generators": [{name: _to_tree(state) for name, state in drawn.items()} for drawn in self.generators],
            "answers": np.frombuffer(b"".join(map(b"".join, self.answers)), np.uint8),
        }

    @classmethod
    def from_tree(cls, tree: Tree) -> Steps:
        """The inverse of :meth:`as_tree`; raises ValueError, KeyError or TypeError for a damaged tree."""
        answers = tree["answers"].reshape(len(tree["actions"]), len(_PARTS), _DIGEST).tolist()
        generators = [{name: _from_tree(name, state) for name, state in drawn.items()} for drawn in tree["generators"]]
        if len(generators) != len(answers):
            raise ValueError("the recorded steps are damaged")
        return cls(
            dict(tree["held"]), list(tree["actions"]), generators, [tuple(map(bytes, parts)) for parts in answers]
        )


class Recording:
    """What ``env`` is given and answers from now on. Ends with :meth:`stop`.

    :param env: a VecEnv under all wrappers; its methods are replaced on the instance, so that it runs as it did
    """

    def __init__(self, env: VecEnv) -> None:
        self.steps = Steps(env.own_contents() if hasattr(env, "own_contents") else {})
        self.seconds = 0.0
        self.broken = False
        """Whether the environments were reset from outside, which is not repeated."""
        self._ends = np.zeros(env.num_envs, np.int64)
        self._env: Any = env
        self._methods = {name: getattr(env, name) for name in ("step_async", "step_wait", "reset")}
        for name in self._methods:
            setattr(env, name, getattr(self, f"_{name}"))

    @property
    def ends(self) -> int:
        """Ends of episodes so far."""
        return int(self._ends.sum())

    @property
    def complete(self) -> bool:
        """Whether an environment played a whole episode after a reset, or the most steps were made."""
        return len(self.steps.answers) >= (FEWEST_STEPS if self._ends.max() >= 2 else MOST_STEPS)

    def stop(self) -> None:
        """Gives the environment its methods back."""
        for name in self._methods:
            vars(self._env).pop(name, None)

    def _step_async(self, actions: Any) -> None:
        self.steps.actions.append(np.array(actions))
        self._methods["step_async"](actions)

    def _step_wait(self) -> Any:
        before, started = _global_states(), time.perf_counter()
        result = self._methods["step_wait"]()
        self.seconds += time.perf_counter() - started
        after = _global_states()
        drawn = [name for name in _GENERATORS if not _equal(before[name], after[name])]
        observations, rewards, dones, infos = result
        ends = [(info.get("terminal_observation"), info.get("TimeLimit.truncated")) for info in infos]
        parts = (observations, rewards, [dones, ends], {name: after[name] for name in drawn})
        self.steps.generators.append({name: before[name] for name in drawn})
        self.steps.answers.append(tuple(map(_checksum, parts)))
        self._ends += dones
        if self.complete:
            self.stop()
        return result

    def _reset(self) -> Any:
        self.broken = True
        self.stop()
        return self._methods["reset"]()


def prove(env: Any, state: Tree, steps: Steps, at_step: int, allowance: float) -> Verdict:
    """Compares recorded steps with those of environments that are made like ``env`` and restored from ``state``.

    :param env: of :func:`rlopt.make_env`; what its classes and modules hold is put back afterwards
    :param state: the state before the first step
    :param steps: of ``env``, or of one like it in another process
    :param at_step: the run's step then
    :param allowance: seconds after which no further step is compared
    """
    with isolated(None):
        shared = env.shared_state() if hasattr(env, "shared_state") else None
        copy: Any = None
        try:
            try:
                copy = make_from_settings(env.settings)
            except Exception as error:
                return Verdict(UNPROVED, f"no second environment can be made ({one_line(error)})", at_step)
            if shared is not None and (common := copy.shares_with(env)) is not None:
                return Verdict(UNPROVED, f"every environment that is made shares {common}", at_step)
            try:
                copy.set_state(state)
            except StateUnavailableError as error:
                return Verdict(FRESH, str(error), at_step)
            return _compare(copy, steps, at_step, allowance, env)
        except Exception as error:
            return Verdict(INEXACT, f"a restored environment fails ({one_line(error)})", at_step)
        finally:
            if copy is not None:
                copy.close()
            if shared is not None:
                objects.put_back(*shared)


def _compare(copy: Any, steps: Steps, at_step: int, allowance: float, env: Any) -> Verdict:
    repeated, started = Recording(copy), time.perf_counter()
    for index, expected in enumerate(steps.answers):
        _set_global_states(steps.generators[index])
        copy.step(steps.actions[index])
        differing = [part for part, own, other in zip(_PARTS, expected, repeated.steps.answers[index], strict=True)
                     if own != other]  # fmt: skip
        if differing:
            missing = _unread(env) or "a clock, a file or another process"
            reason = f"the {differing[0]} differs in step {index + 1} after a restore, which depends on {missing}"
            return Verdict(INEXACT, reason, at_step, index + 1, repeated.ends)
        if time.perf_counter() - started > allowance:
            break
    count, ends = len(repeated.steps.answers), repeated.ends
    if not ends and count < MOST_STEPS:
        return Verdict(UNPROVED, "no episode ended", at_step, count, ends)
    left = [path.partition(".")[2] for path, value in steps.held.items() if repeated.steps.held.get(path) != value]
    if left:
        names = ", ".join(list(dict.fromkeys(left))[:3])
        reason = f"get_state() and set_state() leave out {names}, though nothing differed"
        return Verdict(UNPROVED, reason, at_step, count, ends)
    if unread := _unread(env):
        return Verdict(UNPROVED, f"Python cannot read {unread}, though nothing differed", at_step, count, ends)
    return Verdict(EXACT, "", at_step, count, ends)


def _unread(env: Any) -> str:
    """What of the environments is in no state, as path and type."""
    found: dict[str, str] = env.opaque() if hasattr(env, "opaque") else {}
    return ", ".join([f"{path} ({kind})" for path, kind in found.items() if kind not in _REBUILT][:3])


def _global_states() -> dict[str, Any]:
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}


def _set_global_states(states: dict[str, Any]) -> None:
    setters: dict[str, Any] = {"python": random.setstate, "numpy": np.random.set_state, "torch": torch.set_rng_state}
    for name, state in states.items():
        setters[name](state)


def _to_tree(state: Any) -> Tree:
    if isinstance(state, torch.Tensor):
        return state
    # Python's state is 625 words in a tuple in a tuple, numpy's an array in one.
    return [np.array(part, np.uint32) if isinstance(part, (tuple, np.ndarray)) else part for part in state]


def _from_tree(name: str, tree: Tree) -> Any:
    if name == "torch":
        return tree
    if name == "python":
        version, words, gauss = tree
        return version, tuple(int(word) for word in words), gauss
    if name == "numpy" and type(tree[2]) is int and 0 <= tree[2] <= 624:  # numpy takes any position
        return tuple(tree)
    raise ValueError("a recorded random state is damaged")


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first[1], np.ndarray):
        return first[2:] == second[2:] and np.array_equal(first[1], second[1])
    return bool(first == second)


def _checksum(value: Any) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST)

    def add(part: Any) -> None:
        if isinstance(part, dict):
            for name in sorted(part):
                digest.update(str(name).encode())
                add(part[name])
        elif isinstance(part, (list, tuple)):
            digest.update(b"[")
            for inner in part:
                add(inner)
        elif part is None or isinstance(part, (str, int)):
            digest.update(repr(part).encode())
        else:
            array = part.numpy() if isinstance(part, torch.Tensor) else np.asarray(part)
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())

    add(value)
    return digest.digest()


def _comparable(env: VecEnv | None) -> Any:
    """The environments of :func:`rlopt.make_env` under the wrappers of ``env``; None for others."""
    base: Any = None if env is None else split_chain(env)[1]
    return base if base is not None and isinstance(vars(base).get("settings"), EnvSettings) else None


class Prover:
    """Records and compares at some of a run's boundaries, first soon, then rarely.

    :param env: the run's environments, with wrappers or without
    """

    def __init__(self, env: VecEnv | None) -> None:
        self.verdict: Verdict | None = None
        """The newest; None before the first."""
        self.shown: dict[str, Tree] = {}
        """The state and the steps that it rests on."""
        self._env = _comparable(env)
        self._pending: tuple[Recording, Tree, int] | None = None
        self._begin = time.perf_counter()
        self._next, self._spent, self._last = FIRST_STEP, 0.0, 0.0

    @staticmethod
    def can_compare(env: VecEnv | None) -> bool:
        """Whether a second batch like ``env`` can be made from its settings."""
        return _comparable(env) is not None

    def at_boundary(self, step: int, last: bool = False) -> Verdict | None:
        """Compares what is recorded, or begins to record; returns a new verdict, if there is one.

        :param step: environment steps of the run
        :param last: whether no further boundary will come: what is recorded so far must do
        """
        if self._env is None:
            return None
        steps = step // self._env.num_envs
        if self._pending is None:
            if steps >= self._next and not last and self._affordable(SPACING * self._last):
                self._next = SPACING * steps
                self._start(step)
            return None
        recording, state, at_step = self._pending
        if recording.broken:
            self._pending = None
            return None
        making = getattr(self._env, "seconds_to_make", 0.0)
        expected = max(making + 2 * recording.seconds, SPACING * self._last)
        early = not recording.complete or not self._affordable(expected)
        if early and not (last and self.verdict is None):
            return None
        recording.stop()
        self._pending = None
        if not recording.steps.actions:  # the run ends where the recording began
            return None
        started = time.perf_counter()
        try:
            shown = {"env": state, "steps": recording.steps.as_tree()}
            verdict = prove(self._env, state, recording.steps, at_step, max(1.0, SHARE * (started - self._begin)))
        except Exception as error:  # a comparison must not end a run
            verdict, shown = Verdict(UNPROVED, f"the comparison failed ({one_line(error)})", at_step), {}
        self._last = time.perf_counter() - started
        self._spent += self._last
        self.verdict, self.shown = verdict, shown
        return verdict

    def interrupt(self) -> None:
        """To be called when other environments were stepped in this process: theirs may be the same classes."""
        if self._pending is not None and (self._pending[1].get("objects") or {}).get("shared"):
            self._pending[0].stop()
            self._pending, self._next = None, 0

    def _affordable(self, seconds: float) -> bool:
        return self._spent + seconds <= GRACE + SHARE * (time.perf_counter() - self._begin)

    def _start(self, step: int) -> None:
        try:
            state = self._env.get_state()
        except StateUnavailableError:
            return  # every checkpoint says so
        self._pending = Recording(self._env), state, step
