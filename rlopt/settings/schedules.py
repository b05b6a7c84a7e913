"""Learning rates over a run, as Stable-Baselines3 calls them: functions of the remaining progress. No torch."""

import math
from dataclasses import dataclass

from rlopt.errors import ConfigError, unknown_name

SHAPES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class DecayingRate:
    """A rate that first rises linearly (warm-up) and then falls to a share of its highest value.

    With t in [0, 1] the share of the decay that is done: linear is 1 - (1 - floor) t, cosine is
    floor + (1 - floor) (1 + cos pi t) / 2 (Loshchilov and Hutter, arXiv 1608.03983, eq. 5), constant is 1, each times
    ``value``.

    :param value: the highest rate, >= 0
    :param shape: "constant", "linear" or "cosine"
    :param warmup: share of the run in which the rate rises from 0, in [0, 1)
    :param floor: final rate as a share of ``value``, in [0, 1]
    :raises rlopt.errors.ConfigError: one of them is something else
    """

    value: float
    shape: str = "cosine"
    warmup: float = 0.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise unknown_name("shape of a schedule", str(self.shape), SHAPES)
        inside = self.value >= 0 and math.isfinite(self.value) and 0 <= self.warmup < 1 and 0 <= self.floor <= 1
        if not inside:
            raise ConfigError(f"{self}: give a finite value >= 0, warmup in [0, 1) and floor in [0, 1]")

    def __call__(self, progress_remaining: float) -> float:
        """The rate where ``progress_remaining`` of the run is to come: 1 at its start, 0 at its end."""
        done = min(max(1.0 - progress_remaining, 0.0), 1.0)
        if done < self.warmup:
            return self.value * done / self.warmup
        t = (done - self.warmup) / (1 - self.warmup)
        if self.shape == "linear":
            return self.value * (1 - (1 - self.floor) * t)
        if self.shape == "cosine":
            return self.value * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * t)))
        return self.value
