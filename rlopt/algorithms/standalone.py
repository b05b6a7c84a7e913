"""Callbacks and logger of agents that are not Stable-Baselines3 algorithms."""

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, ProgressBarCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import configure_logger


def callback_of(model: Any, callback: Any, progress_bar: bool) -> BaseCallback | None:
    """What ``learn`` was given as ``callback`` (one, a list, a function, None) as one that belongs to ``model``."""
    if callback is None and not progress_bar:
        return None
    if isinstance(callback, list):
        callback = CallbackList(callback)
    hook: BaseCallback = callback if isinstance(callback, BaseCallback) else ConvertCallback(callback)
    if progress_bar:
        hook = CallbackList([hook, ProgressBarCallback()])
    hook.init_callback(model)
    return hook


class OwnLogger:
    """The logger of such an agent, as callbacks and runs use it."""

    verbose: int
    tensorboard_log: str | None
    _logger: Logger | None = None
    _own_logger = False

    @property
    def logger(self) -> Logger:
        """Where rows of the log go."""
        assert self._logger is not None
        return self._logger

    def set_logger(self, logger: Logger) -> None:
        """Sends rows of the log to ``logger`` from now on; learn then makes none of its own."""
        self._logger, self._own_logger = logger, True

    def _begin_log(self, name: str | None, reset_num_timesteps: bool) -> None:
        """For ``learn``: makes a logger unless one was set; without a ``name`` that of the class."""
        if not self._own_logger:
            name = type(self).__name__ if name is None else name
            self._logger = configure_logger(self.verbose, self.tensorboard_log, name, reset_num_timesteps)
