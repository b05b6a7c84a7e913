"""A task that fails when it is told to, at a step of all its copies together."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import fault_plan
import gymnasium
import numpy as np
from gymnasium import spaces

ID = "faulty_env:Faulty-v0"
EPISODE = 10


def _loses_a_process() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, bufsize=0) as child:
        child.kill()
        child.wait()
        assert child.stdin is not None
        child.stdin.write(b"step\n")


def _raise(kind: type[BaseException], *arguments: Any) -> Callable[[], None]:
    def fail() -> None:
        raise kind(*arguments)

    return fail


def _spins() -> None:
    while True:
        pass


RAISES: dict[str, Callable[[], None]] = {
    "value": _raise(ValueError, "simulator\nlost its way"),
    "device": _raise(OSError, 5, "Input/output error", "/dev/robot0"),
    "access": _raise(PermissionError, 13, "Permission denied", "/dev/robot0"),
    "memory": _raise(MemoryError),
    "stop": _raise(StopIteration),
    "exit": _raise(SystemExit, 3),
    "child": _loses_a_process,
    "sleeps": lambda: time.sleep(1000),
    "spins": _spins,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segv": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "leaves": lambda: os._exit(7),
}
OUTCOMES: dict[str, Callable[[Any, float, Any, bool, Any], Any]] = {
    "nan observation": lambda o, r, te, tr, i: (o * np.nan, r, te, tr, i),
    "infinite reward": lambda o, r, te, tr, i: (o, float("inf"), te, tr, i),
    "short observation": lambda o, r, te, tr, i: (o[:1], r, te, tr, i),
    "long observation": lambda o, r, te, tr, i: (np.zeros(3, np.float32), r, te, tr, i),
    "text observation": lambda o, r, te, tr, i: (np.array(["a", "b"]), r, te, tr, i),
    "no observation": lambda o, r, te, tr, i: (None, r, te, tr, i),
    "dictionary": lambda o, r, te, tr, i: ({"x": o}, r, te, tr, i),
    "no reward": lambda o, r, te, tr, i: (o, None, te, tr, i),
    "text reward": lambda o, r, te, tr, i: (o, "1.5", te, tr, i),
    "two rewards": lambda o, r, te, tr, i: (o, np.array([r, r]), te, tr, i),
    "complex reward": lambda o, r, te, tr, i: (o, 1 + 2j, te, tr, i),
    "no end": lambda o, r, te, tr, i: (o, r, None, tr, i),
    "two ends": lambda o, r, te, tr, i: (o, r, np.array([True, False]), tr, i),
    "no info": lambda o, r, te, tr, i: (o, r, te, tr, None),
    "reserved info": lambda o, r, te, tr, i: (o, r, te, tr, {"episode": "x"}),
    "four values": lambda o, r, te, tr, i: (o, r, te or tr, i),
    # these are what they should be
    "numpy reward": lambda o, r, te, tr, i: (o, np.float64(r), te, tr, i),
    "array reward": lambda o, r, te, tr, i: (o, np.array([r]), te, tr, i),
    "list": lambda o, r, te, tr, i: (o.tolist(), r, te, tr, i),
    "double": lambda o, r, te, tr, i: (o.astype(np.float64), r, te, tr, i),
    "numpy ends": lambda o, r, te, tr, i: (o, r, np.bool_(te), np.array([tr]), i),
}


class Faulty(gymnasium.Env[Any, Any]):
    """Push a point to zero; episodes of ten steps. All that it is comes from its np_random and its episode."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.t = float(self.np_random.uniform(-1, 1)), 0
        return self._observation(), {}

    def _observation(self) -> Any:
        return np.array([self.x, self.t / 10], np.float32)

    def step(self, action: Any) -> Any:
        self.t += 1
        self.x += 0.1 * float(action[0]) + 0.01 * float(self.np_random.normal())
        outcome = self._observation(), -abs(self.x), False, self.t >= EPISODE, {}
        plan = fault_plan.plan
        if plan is None:
            return outcome
        plan.steps += 1
        if plan.steps < plan.at:
            return outcome
        if plan.kind == "delete":
            assert plan.folder is not None
            shutil.rmtree(plan.folder, ignore_errors=True)
            return outcome
        if plan.kind in RAISES:
            RAISES[plan.kind]()
        return OUTCOMES[plan.kind](*outcome)


gymnasium.register("Faulty-v0", Faulty, order_enforce=False)
