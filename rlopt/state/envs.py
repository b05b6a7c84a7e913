"""Saves and restores vectorised environments: Stable-Baselines3's wrappers, and the environments below them.

A wrapper of a known class is captured here. What is below the wrappers knows its own state (``get_state`` and
``set_state``, as the backends in :mod:`rlopt.envs` do), or the run continues with fresh episodes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from rlopt.envs.vec_normalize import Normalize
from rlopt.errors import CheckpointError, StateUnavailableError
from rlopt.storage.tree import Tree

_NORMALIZE_SETTINGS: dict[str, tuple[type, ...]] = {
    "training": (bool,),
    "norm_obs": (bool,),
    "norm_reward": (bool,),
    "clip_obs": (float, int),
    "clip_reward": (float, int),
    "gamma": (float, int),
    "epsilon": (float, int),
}
"""VecNormalize's settings in a checkpoint, and the types that each may have."""
_STATELESS = (VecTransposeImage, VecCheckNan, VecExtractDictObs)


def split_chain(env: VecEnv) -> tuple[list[VecEnvWrapper], VecEnv]:
    """The SB3 wrappers of ``env``, outermost first, and what is below them.

    A wrapper with a ``get_state`` of its own answers for everything below it, and counts as the environment.
    """
    wrappers = []
    while isinstance(env, VecEnvWrapper) and not hasattr(type(env), "get_state"):
        wrappers.append(env)
        env = env.venv
    return wrappers, env


def capture_env(env: VecEnv) -> Tree:
    """The state of ``env``: ``{"available", "reason", "base", "wrappers", "statistics"}``.

    ``available`` is False, with the reason in words, where the state of the environments or of a wrapper cannot be
    had. The other wrappers are captured even then: their statistics are part of the trained model.
    """
    wrappers, base = split_chain(env)
    reason, base_state = None, None
    for wrapper in wrappers:
        if _kind(wrapper) is None:
            reason = f"the wrapper {type(wrapper).__name__} has no get_state() and set_state(state)"
    if not hasattr(type(base), "get_state"):
        reason = f"{type(base).__name__} has no get_state() and set_state(state)"
    elif reason is None:
        try:
            base_state = base.get_state()  # type: ignore[attr-defined]
        except StateUnavailableError as error:
            reason = str(error)
    available = reason is None
    states, statistics = capture_wrappers(env), wrapper_statistics(env)
    return {"available": available, "reason": reason, "base": base_state, "wrappers": states, "statistics": statistics}


def wrapper_statistics(env: VecEnv) -> list[Tree]:
    """What Gymnasium's normalising wrappers have counted in each environment below ``env``; [] where there are none."""
    base: Any = split_chain(env)[1]
    found: list[Tree] = base.statistics() if hasattr(base, "statistics") else []
    return found if any(found) else []


def give_wrapper_statistics(env: VecEnv, statistics: Tree) -> None:
    """Lets Gymnasium's normalising wrappers below ``env`` continue from ``statistics``, if they are alike."""
    base: Any = split_chain(env)[1]
    if statistics and hasattr(base, "set_statistics"):
        base.set_statistics(statistics, counting=True)


def capture_wrappers(env: VecEnv) -> list[Tree]:
    """The states of the wrappers of ``env``, outermost first, as :func:`capture_env` has them."""
    kinds = [(wrapper, _kind(wrapper)) for wrapper in split_chain(env)[0]]
    return [{"kind": kind or "unknown", "state": _captured(kind, wrapper)} for wrapper, kind in kinds]


def _captured(kind: str | None, wrapper: Any) -> Tree:
    if kind is None:
        return None
    return _CAPTURE[kind](wrapper) if kind in _CAPTURE else wrapper.get_wrapper_state()


def restore_env(env: VecEnv, state: Tree) -> str | None:
    """Puts ``env``, fresh and of equal settings, into ``state``.

    Returns None, or the reason in words why the environments could not be put there: the caller then resets them.
    """
    restore_wrappers(env, state)
    if not state["available"]:
        return str(state["reason"])
    _, base = split_chain(env)
    if not hasattr(type(base), "set_state"):
        return f"{type(base).__name__} has no get_state() and set_state(state)"
    try:
        base.set_state(state["base"])  # type: ignore[attr-defined]
    except StateUnavailableError as error:
        return str(error)
    return None


def check_wrappers(env: VecEnv, state: Tree) -> None:
    """Raises CheckpointError, naming both, unless ``env`` has the wrappers that ``state`` was taken from."""
    kinds = [_kind(wrapper) or "unknown" for wrapper in split_chain(env)[0]]
    saved = [str(entry["kind"]) for entry in state["wrappers"]]
    if kinds != saved:
        raise CheckpointError(
            f"the checkpoint's environment has the wrappers [{', '.join(saved)}], this one [{', '.join(kinds)}]: "
            "wrap it alike"
        )


def restore_wrappers(env: VecEnv, state: Tree) -> None:
    """Puts the wrappers of ``env``, not the environments, into ``state``, which :func:`check_wrappers` accepted."""
    for wrapper, entry in zip(split_chain(env)[0], state["wrappers"], strict=True):
        kind = _kind(wrapper)
        if kind in _RESTORE:
            _RESTORE[kind](wrapper, entry["state"])
        elif kind is not None:
            wrapper.set_wrapper_state(entry["state"])


def find_normalization(state: Tree) -> Tree | None:
    """The state of the VecNormalize within a captured env state; None if there was none."""
    for entry in state.get("wrappers", []):
        if entry["kind"] == "VecNormalize":
            return entry["state"]
    return None


def restore_normalization(wrapper: VecNormalize, state: Tree, statistics_only: bool = False) -> None:
    """Puts a VecNormalize into ``state``; CheckpointError if the shapes of the statistics differ.

    :param statistics_only: True leaves ``training`` and what belongs to the running episodes as they are
    """
    if state["norm_obs"] is not wrapper.norm_obs or state["norm_obs_keys"] != wrapper.norm_obs_keys:
        raise CheckpointError(
            f"the checkpoint normalises observations: {state['norm_obs']} (keys {state['norm_obs_keys']}), this "
            f"VecNormalize: {wrapper.norm_obs} (keys {wrapper.norm_obs_keys}): set it up alike"
        )
    # vars(), because a wrapper passes on attributes that it lacks to the one below: that may be a VecNormalize too.
    own = vars(wrapper).get("obs_rms")
    if isinstance(own, dict):
        if set(own) != set(state["obs_rms"]):
            raise CheckpointError("the checkpoint normalises other keys of the observation: set up VecNormalize alike")
        for key, statistics in own.items():
            _restore_mean_std(statistics, state["obs_rms"][key], f"observation[{key}]")
    elif own is not None:
        _restore_mean_std(own, state["obs_rms"], "observation")
    _restore_mean_std(wrapper.ret_rms, state["ret_rms"], "return")
    for name, types in _NORMALIZE_SETTINGS.items():
        if type(state[name]) not in types:
            raise CheckpointError(f"the checkpoint's VecNormalize has {name}={state[name]!r}: it is malformed")
        if name != "training" or not statistics_only:
            setattr(wrapper, name, state[name])
    if not statistics_only:
        wrapper.returns = _like(wrapper.returns, state["returns"], "VecNormalize.returns")
        if state["old_reward"].shape not in ((0,), (wrapper.num_envs,)):
            raise CheckpointError("the checkpoint's VecNormalize has another number of rewards: use the same n_envs")
        wrapper.old_reward = state["old_reward"].copy()
        if state["old_obs"] is not None:
            check_observations(state["old_obs"], wrapper.venv.observation_space, wrapper.num_envs, "observation")
            wrapper.old_obs = copy_arrays(state["old_obs"])


def copy_arrays(tree: Tree) -> Tree:
    """A copy of an array or tensor, or of a dict, list or tuple of those and plain values."""
    if isinstance(tree, np.ndarray):
        return tree.copy()
    if isinstance(tree, torch.Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: copy_arrays(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(copy_arrays(value) for value in tree)
    return tree


def on_host(values: Any) -> Any:
    """A tensor, such as of worlds on a device, as an array; other values as they are."""
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else values


def check_observations(observations: Tree, space: spaces.Space[Any], n_envs: int, name: str) -> None:
    """Raises CheckpointError unless ``observations`` are ``n_envs`` of ``space``: [n_envs, ...] or a dict of such."""
    parts: dict[str | None, spaces.Space[Any]] = {None: space}
    if isinstance(space, spaces.Dict):
        parts = dict(space.spaces.items())
    for key, part in parts.items():
        saved = observations if key is None else observations.get(key) if isinstance(observations, dict) else None
        expected = (n_envs, *(part.shape or ()))
        # Normalisation may have made floats of integers; floats that became integers, or text, are damage.
        kinds = "f" if part.dtype is not None and part.dtype.kind == "f" else "fiub"
        if not isinstance(saved, np.ndarray) or saved.shape != expected or saved.dtype.kind not in kinds:
            found = getattr(saved, "dtype", type(saved).__name__)
            what = name if key is None else f"{name}[{key}]"
            raise CheckpointError(
                f"the checkpoint's {what} is {found} {getattr(saved, 'shape', '')}, this environment's {part.dtype} "
                f"{expected}: use the environment it was trained on"
            )


def _kind(wrapper: VecEnvWrapper) -> str | None:
    """The name under which a wrapper's state is kept; None for a class that is not known.

    A class with ``get_wrapper_state()`` and ``set_wrapper_state(state)`` gives its own, without what is below it.
    """
    if type(wrapper) is Normalize:  # our faster one has the same state
        return VecNormalize.__name__
    known = type(wrapper) in (VecNormalize, VecMonitor, VecFrameStack, *_STATELESS)
    return type(wrapper).__name__ if known or hasattr(type(wrapper), "get_wrapper_state") else None


def capture_normalization(wrapper: VecNormalize) -> Tree:
    """The statistics, settings and last values of a VecNormalize."""
    own = vars(wrapper)
    obs_rms = own.get("obs_rms")
    state: dict[str, Tree] = {name: getattr(wrapper, name) for name in _NORMALIZE_SETTINGS}
    state["norm_obs_keys"] = wrapper.norm_obs_keys
    state["obs_rms"] = (
        {key: _mean_std(statistics) for key, statistics in obs_rms.items()}
        if isinstance(obs_rms, dict)
        else None
        if obs_rms is None
        else _mean_std(obs_rms)
    )
    state["ret_rms"] = _mean_std(wrapper.ret_rms)
    state["returns"] = wrapper.returns.copy()
    state["old_obs"] = copy_arrays(own.get("old_obs"))
    state["old_reward"] = wrapper.old_reward.copy()
    return state


def _mean_std(statistics: RunningMeanStd) -> Tree:
    return {"mean": copy_arrays(statistics.mean), "var": copy_arrays(statistics.var), "count": statistics.count}


def _restore_mean_std(statistics: RunningMeanStd, state: Tree, name: str) -> None:
    # Stable-Baselines3 begins with a 0-d array, which becomes a numpy scalar at the first update: both are right.
    for part in ("mean", "var"):
        saved, own = state[part], getattr(statistics, part)
        if not isinstance(saved, (np.ndarray, np.float64)) or saved.dtype != np.float64 or saved.shape != own.shape:
            raise CheckpointError(
                f"the checkpoint's {name} statistics have shape {getattr(saved, 'shape', '?')}, this environment's "
                f"{own.shape}: use the environment it was trained on"
            )
    if not isinstance(state["count"], (float, int)) or isinstance(state["count"], bool):
        raise CheckpointError(f"the checkpoint's {name} statistics are malformed")
    statistics.mean, statistics.var = copy_arrays(state["mean"]), copy_arrays(state["var"])
    statistics.count = state["count"]


def _like(own: np.ndarray, saved: Tree, name: str) -> np.ndarray:
    """A copy of ``saved``, which must have the shape and kind of ``own``."""
    if not isinstance(saved, np.ndarray) or saved.shape != own.shape or saved.dtype.kind != own.dtype.kind:
        raise CheckpointError(f"{name} of the checkpoint has not the shape {own.shape} of this environment's")
    return saved.copy()


def _capture_monitor(wrapper: VecMonitor) -> Tree:
    return {
        "episode_returns": on_host(wrapper.episode_returns).copy(),
        "episode_lengths": wrapper.episode_lengths.copy(),
        "episode_count": wrapper.episode_count,
    }


def _restore_monitor(wrapper: VecMonitor, state: Tree) -> None:
    for name in ("episode_returns", "episode_lengths"):
        setattr(wrapper, name, _like(getattr(wrapper, name), state[name], f"VecMonitor.{name}"))
    wrapper.episode_count = int(state["episode_count"])


def _capture_stack(stacked: StackedObservations[Any]) -> Tree:
    if hasattr(stacked, "sub_stacked_observations"):
        return {key: _capture_stack(part) for key, part in stacked.sub_stacked_observations.items()}
    return stacked.stacked_obs.copy()


def _restore_stack(stacked: StackedObservations[Any], state: Tree) -> None:
    if hasattr(stacked, "sub_stacked_observations"):
        for key, part in stacked.sub_stacked_observations.items():
            _restore_stack(part, state[key])
    else:
        stacked.stacked_obs = _like(stacked.stacked_obs, state, "VecFrameStack")


def _capture_nothing(wrapper: Any) -> Tree:
    return None


def _restore_nothing(wrapper: Any, state: Tree) -> None:
    pass


_CAPTURE: dict[str, Callable[[Any], Tree]] = {
    "VecNormalize": capture_normalization,
    "VecMonitor": _capture_monitor,
    "VecFrameStack": lambda wrapper: _capture_stack(wrapper.stacked_obs),
    **{cls.__name__: _capture_nothing for cls in _STATELESS},
}
_RESTORE: dict[str, Callable[[Any, Tree], None]] = {
    "VecNormalize": restore_normalization,
    "VecMonitor": _restore_monitor,
    "VecFrameStack": lambda wrapper, state: _restore_stack(wrapper.stacked_obs, state),
    **{cls.__name__: _restore_nothing for cls in _STATELESS},
}
