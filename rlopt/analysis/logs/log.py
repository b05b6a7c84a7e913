"""What the readers of other libraries' logs give: named series of numbers and what is known of the run. No torch."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlopt.analysis.curves import Floats, RunCurve, sorted_points
from rlopt.errors import ConfigError, RunError, unknown_name

EPISODES = 100
"""Episodes of the moving mean that stands for training returns, as in Stable-Baselines3's rollout/ep_rew_mean."""
_NUMBERED = re.compile(r"(?P<name>.*?)(?:^|[_-]+)(?:seed|run)?[_-]*(?P<number>\d+)")


class Series(NamedTuple):
    """One logged quantity; all ``[points]``, in the order of the file."""

    steps: Floats
    values: Floats
    seconds: Floats | None = None
    """Since the first point of the log; None where the log does not say."""


@dataclass(frozen=True)
class Log:
    """A run of another library."""

    path: Path
    agent: str
    library: str
    series: Mapping[str, Series]
    """By key: :data:`rlopt.analysis.curves.EVALUATION`, ``TRAINING`` and the names that the log itself uses."""
    env: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "environment steps"

    def curve(self, key: str, x: str = "steps", env: str | None = None) -> RunCurve:
        """One series as a learning curve.

        :param x: ``steps`` or ``seconds``
        :param env: the environment's id, for a log that does not say
        :raises RunError: the log has no finite value of it, no seconds, or names no environment and ``env`` is None
        :raises UnknownNameError: there is no such series, with the nearest name
        """
        task = self.env or env
        if task is None:
            budget = "" if "total_timesteps" in self.settings else " (to compare, --mix-budgets too: it has no budget)"
            raise ConfigError(f"{self.path} does not say its environment: add --env ID{budget}")
        if key not in self.series:
            raise unknown_name(f"key of {self.path}", key, self.series, hint=f"it has {', '.join(self.series)}")
        steps, values, seconds = self.series[key]
        if x == "seconds":
            if seconds is None:
                raise RunError(f"{self.path} does not say the time of {key}: plot it with --x steps")
            steps = seconds
        xs, ys = sorted_points(steps, values)
        if not len(xs):
            raise RunError(f"{self.path} holds no finite value of {key}: plot another --key")
        agent = f"{self.agent} ({self.library})"
        number = split_name(self.path)[1]
        settings = {"seed": self.path.name if number is None else number, **self.settings}
        return RunCurve(self.path, agent, task, settings, xs, ys, self.unit)


def split_name(path: Path) -> tuple[str, int | None]:
    """What a log is called without the number of the run: ``PPO_1`` gives PPO and 1, ``sac-seed3`` sac and 3.

    A name that is a number alone, such as ``seed0``, has its folder's name.
    """
    found = _NUMBERED.fullmatch(path.name)
    if found is None:
        return path.stem if path.is_file() else path.name, None
    return found["name"] or path.resolve().parent.name, int(found["number"])


def moving_mean(values: Floats, window: int = EPISODES) -> Floats:
    """The mean of the last ``window`` values at each place, of fewer at the beginning. ``[points]`` each."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def plain_settings(values: Mapping[str, Any], leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """Those of the settings that are numbers, texts or booleans."""
    kinds = (str, int, float, bool, type(None))
    return {name: value for name, value in values.items() if isinstance(value, kinds) and name not in leave_out}
