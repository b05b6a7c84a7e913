"""Callbacks of agents that are no Stable-Baselines3 algorithm."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, ProgressBarCallback


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
