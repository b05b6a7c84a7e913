"""A callback for tasks that never end, where the statistics of episodes never appear."""

from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.callbacks import BaseCallback

from rlopt.errors import ConfigError


class RewardRateCallback(BaseCallback):
    """Keeps and logs the reward per step, for any Stable-Baselines3 model and for the agents of continuing tasks.

    Every ``every`` steps it records ``rollout/reward_rate``, the mean since the last record, and
    ``rollout/average_reward``, the mean since training began; for an agent with plans it also records discrepancy,
    threshold and planned gain. Rewards are those that the model sees: without ``VecNormalize``, the task's.

    :param every: environment steps, summed over copies, between two records
    """

    def __init__(self, every: int = 1000) -> None:
        super().__init__()
        if type(every) is not int or every < 1:
            raise ConfigError(f"every is {every!r}: give a whole number of at least 1")
        self.every = every
        self._steps: list[int] = []
        self._sums: list[float] = []
        self._traces: dict[str, list[float]] = {"discrepancy": [], "threshold": [], "gain": []}
        self._count, self._sum = 0, 0.0

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """[n] environment steps at the records."""
        return np.array(self._steps, np.int64)

    @property
    def reward_sums(self) -> npt.NDArray[np.float64]:
        """[n] rewards of all those steps."""
        return np.array(self._sums, np.float64)

    def trace(self, name: str) -> npt.NDArray[np.float64]:
        """[n] ``discrepancy``, ``threshold`` or ``gain`` of the agent at the records; NaN where it has none.

        :raises rlopt.errors.ConfigError: for another name
        """
        if name not in self._traces:
            raise ConfigError(f"there is no trace {name!r}: known are {', '.join(self._traces)}")
        return np.array(self._traces[name], np.float64)

    def _on_step(self) -> bool:
        rewards = np.asarray(self.locals["rewards"])
        before = self._count
        self._count += rewards.size
        self._sum += float(rewards.sum())
        if self._count // self.every > before // self.every:
            self._keep()
        return True

    def _keep(self) -> None:
        last_step, last_sum = (self._steps[-1], self._sums[-1]) if self._steps else (0, 0.0)
        self._steps.append(self._count)
        self._sums.append(self._sum)
        for name, trace in self._traces.items():
            value: Any = getattr(self.model, name, None)
            trace.append(float(value) if isinstance(value, int | float) else float("nan"))
        self.logger.record("rollout/reward_rate", (self._sum - last_sum) / (self._count - last_step))
        self.logger.record("rollout/average_reward", self._sum / self._count)
