"""Captures and restores the state that a Stable-Baselines3 algorithm itself keeps between two rollouts.

These are its counters, last observations, episode statistics, action noise, pending log values, and the attributes that
its class lists in ``state_attributes``. Networks, buffers and environments have modules of their own.
"""

from collections import deque
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.noise import VectorizedActionNoise

from rlopt.checkpoint.buffers import capture_noise, restore_noise
from rlopt.errors import CheckpointError
from rlopt.state.envs import check_observations, copy_arrays, on_host
from rlopt.storage.tree import Tree

_COUNTERS = ("num_timesteps", "_total_timesteps", "_episode_num", "_n_updates", "_current_progress_remaining")
_OPTIONAL_COUNTERS = ("_n_calls", "exploration_rate")
_FLOATS = ("_total_timesteps", "_current_progress_remaining", "exploration_rate")
_SCALARS = (bool, int, float, str, np.generic)


def capture_training(model: Any) -> Tree:
    """Counters, last observations, episode statistics, action noise, plain attributes and pending log values."""
    state: dict[str, Tree] = {name: _plain(getattr(model, name)) for name in _COUNTERS}
    state |= {name: _plain(getattr(model, name)) for name in _OPTIONAL_COUNTERS if hasattr(model, name)}
    state["last_obs"] = copy_arrays(on_host(model._last_obs))
    state["last_original_obs"] = copy_arrays(model._last_original_obs)
    state["last_episode_starts"] = copy_arrays(model._last_episode_starts)
    for name in ("ep_info_buffer", "ep_success_buffer"):
        buffer = getattr(model, name)
        state[name] = None if buffer is None else [copy_arrays(entry) for entry in buffer]
    state["noise"] = capture_noise(model.action_noise)
    state["attributes"] = {name: copy_arrays(getattr(model, name)) for name in getattr(model, "state_attributes", ())}
    state["log"] = _capture_log(model)
    return state


def check_training(model: Any, state: Tree) -> None:
    """Raises CheckpointError unless ``state`` is of the types and shapes that ``model`` needs."""
    for name in (*_COUNTERS, *(name for name in _OPTIONAL_COUNTERS if hasattr(model, name))):
        floating = name in _FLOATS
        _require(type(state[name]) in ((float, int) if floating else (int,)), name, state[name])
        _require(name == "_current_progress_remaining" or 0 <= state[name] < 2**62, name, state[name])
    begun = state["num_timesteps"] > 0
    _check_last(model, state, "last_obs", begun)
    _check_last(model, state, "last_original_obs", begun and model._vec_normalize_env is not None)
    starts = state["last_episode_starts"]
    if starts is None:
        _require(not begun, "last_episode_starts", None)
    else:
        fits = isinstance(starts, np.ndarray) and starts.dtype == bool and starts.shape == (model.n_envs,)
        _require(fits, "last_episode_starts", starts)
    for name in ("ep_info_buffer", "ep_success_buffer"):
        entries = state[name]
        _require(isinstance(entries, list) or (entries is None and not begun), name, entries)
        for entry in entries or []:
            values = list(entry.values()) if name == "ep_info_buffer" else [entry]
            _require(len(values) > 0 and all(isinstance(value, _SCALARS) for value in values), name, entry)
    for name, value, count, excluded in state["log"]:
        _require(type(name) is str and isinstance(value, (*_SCALARS, np.ndarray, torch.Tensor)), "log", name)
        _require((count is None or type(count) is int) and _is_names(excluded), "log", name)
    expected, saved = set(getattr(model, "state_attributes", ())), set(state["attributes"])
    if not expected - set(getattr(model, "later_attributes", ())) <= saved <= expected:
        raise CheckpointError(f"the checkpoint has the attributes {sorted(saved)}, this model {sorted(expected)}")
    for name, value in state["attributes"].items():
        _check_like(name, getattr(model, name), value)


def _check_last(model: Any, state: Tree, name: str, needed: bool) -> None:
    """Checks that the last observations are of the model's space; normalisation may have made floats of them."""
    if state[name] is None:
        _require(not needed, name, None)
        return
    check_observations(state[name], model.observation_space, model.n_envs, name)


def _require(condition: bool, name: str, value: Any) -> None:
    if not condition:
        shown = " ".join(repr(value)[:60].split())
        raise CheckpointError(f"the checkpoint's {name} is {shown}: it is malformed")


def _is_names(names: Any) -> bool:
    return isinstance(names, list) and all(type(name) is str for name in names)


def restore_training(model: Any, state: Tree) -> None:
    """Puts ``model`` into a state that :func:`check_training` accepted."""
    model._last_obs = copy_arrays(state["last_obs"])
    model._last_original_obs = copy_arrays(state["last_original_obs"])
    model._last_episode_starts = copy_arrays(state["last_episode_starts"])
    noise = model.action_noise
    if noise is not None and model.n_envs > 1 and not isinstance(noise, VectorizedActionNoise):
        if state["noise"] is not None and "parts" in state["noise"]:
            # learn() wraps the noise for several environments. Done here already, so that each has its state.
            model.action_noise = VectorizedActionNoise(noise, model.n_envs)
            restore_noise(model.action_noise, state["noise"])
    else:
        restore_noise(noise, state["noise"])
    restore_counters(model, state)
    restore_log(model, state["log"])


def restore_counters(model: Any, state: Tree) -> None:
    """Restores the counters, plain attributes and episode statistics of a captured ``training`` state."""
    for name in _COUNTERS + tuple(name for name in _OPTIONAL_COUNTERS if hasattr(model, name)):
        setattr(model, name, state[name])
    for name, value in state["attributes"].items():
        own = getattr(model, name)
        setattr(model, name, value.to(own.device) if isinstance(own, torch.Tensor) else copy_arrays(value))
    for name in ("ep_info_buffer", "ep_success_buffer"):
        if state[name] is not None:
            entries = [copy_arrays(entry) for entry in state[name]]
            setattr(model, name, deque(entries, maxlen=model._stats_window_size))


def _capture_log(model: Any) -> Tree:
    """The values that are recorded in the logger and not written yet; pictures, videos and the like are left out."""
    logger = getattr(model, "_logger", None)
    if logger is None:
        return []
    entries = []
    for name, value in logger.name_to_value.items():
        plain = _plain(value)
        if isinstance(plain, (str, int, float, np.generic, np.ndarray, torch.Tensor)):
            excluded = list(logger.name_to_excluded.get(name) or ("",))
            entries.append([name, copy_arrays(plain), logger.name_to_count.get(name), excluded])
    return entries


def restore_log(model: Any, entries: Tree) -> None:
    """Puts back into the logger what :func:`_capture_log` took."""
    logger = getattr(model, "_logger", None)
    if logger is None:
        return
    for values in (logger.name_to_value, logger.name_to_count, logger.name_to_excluded):
        values.clear()
    for name, value, count, excluded in entries:
        logger.name_to_value[name] = copy_arrays(value)
        logger.name_to_excluded[name] = tuple(excluded)
        if count is not None:
            logger.name_to_count[name] = count


def _check_like(name: str, own: Any, saved: Any) -> None:
    if isinstance(own, (np.ndarray, torch.Tensor)):
        fits = type(saved) is type(own) and saved.shape == own.shape and saved.dtype == own.dtype
    else:
        fits = own is None or saved is None or type(saved) is type(own)
    if not fits:
        raise CheckpointError(f"the checkpoint's {name} is {type(saved).__name__}, this model's {type(own).__name__}")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) and value.dtype.kind == "b" else value
