"""A model from a zip of Stable-Baselines3's ``save``: one of its own class, or of the Stable-Baselines3 class below it.

The model is made by its constructor, from the settings in the file and those that are given anew, so that a setting
holds, or is refused, as it is there. Networks, optimisers and counters of the file are then put into it.
"""

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.save_util import load_from_zip_file, recursive_getattr
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import ConstantSchedule, check_for_correct_spaces
from stable_baselines3.common.vec_env.patch_gym import _convert_space
from torch import nn

from rlopt.algorithms.arguments import refuse_unknown
from rlopt.algorithms.spaces_only_env import SpacesOnlyVecEnv
from rlopt.errors import CheckpointError, ConfigError, UnknownNameError, one_line
from rlopt.registry import agent_name, agent_spec, resolve
from rlopt.settings.device import check_device
from rlopt.settings.fields import AgentConfig, without_former

_PROGRESS = (
    "num_timesteps",
    "_total_timesteps",
    "_num_timesteps_at_start",
    "_episode_num",
    "_n_updates",
    "_n_rollouts",
    "_current_progress_remaining",
    "start_time",
    "ep_info_buffer",
    "ep_success_buffer",
    "_last_obs",
    "_last_original_obs",
    "_last_episode_starts",
)
_NOT_SETTINGS = ("self", "policy", "env", "device", "demonstrations", "dataset", "_init_setup_model")
_AS_GIVEN = ("policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs")
"""Settings whose attributes are what the constructor made of them."""


def load_zip(
    cls: Any,
    path: Any,
    env: Any,
    device: torch.device | str,
    custom_objects: dict[str, Any] | None,
    print_system_info: bool,
    force_reset: bool,
    given: dict[str, Any],
) -> Any:
    """See :meth:`rlopt.algorithms.resumable.Resumable.load`; ``given`` are the settings given anew."""
    signature = inspect.signature(cls.__init__)
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
        # A subclass of the user's own, which does not say what it takes: attributes are put in place, as they were.
        check_device(device)
        of_sb3: Any = BaseAlgorithm.load
        return of_sb3.__func__(cls, path, env, device, custom_objects, print_system_info, force_reset, **given)
    refuse_unknown(cls, given, signature)
    check_device(device)
    data, parameters, tensors = load_from_zip_file(
        path, device=device, custom_objects=custom_objects, print_system_info=print_system_info
    )
    if data is None or "policy_class" not in data or "observation_space" not in data:
        raise CheckpointError(f"{one_line(path)} holds no model of Stable-Baselines3's save")
    writer = data.pop("saved_by", "")
    if writer and writer not in (base.__name__ for base in cls.__mro__):  # one of a class above begins a model
        raise CheckpointError(f"{one_line(path)} was written by {writer}: load it with {writer}.load")
    policy = data["policy_class"]
    if not any(issubclass(policy, own) or issubclass(own, policy) for own in cls.policy_aliases.values()):
        raise CheckpointError(
            f"{one_line(path)} has the policy {policy.__name__}, which {cls.__name__} cannot act with: load it with "
            "the class that wrote it"
        )
    settings = _settings(cls, data, signature, one_line(path))
    if "policy_kwargs" in given and not _same_networks(data, settings, given["policy_kwargs"]):
        raise ConfigError("policy_kwargs are not those of the saved networks: leave them out")
    spaces = [_convert_space(data[name]) for name in ("observation_space", "action_space")]
    begins = env is None
    if begins:
        env = SpacesOnlyVecEnv(data["n_envs"], *spaces)
    else:
        env = cls._wrap_env(env, data.get("verbose", 0))
        check_for_correct_spaces(env, *spaces)
    model = cls(policy=policy, env=env, device=device, **{**settings, **given})
    for name in cls.settled:
        if name in given and given[name] != settings.get(name):
            raise ConfigError(f"{name} is part of what was trained: leave it out, or begin a new model with it")
    if begins:
        model.env = None
    _take_progress(model, data, given, begins or not force_reset)
    _take_networks(model, data, dict(parameters or {}), dict(tensors or {}), given, str(path))
    if model.use_sde:
        model.policy.reset_noise()
    return model


def agent_class(cls: type) -> type:
    """The agent of rlopt that ``cls`` is or is made of."""
    return next((base for base in cls.__mro__ if base.__module__.startswith("rlopt.agents.")), cls)


def _settings(cls: Any, data: Mapping[str, Any], signature: inspect.Signature, where: str) -> dict[str, Any]:
    """The constructor's arguments that the file has: what the attributes were, or what the constructor was given."""
    own = data.get("constructor_settings", {})
    if own:
        own = without_former(_declaration(cls), own, where)
    found: dict[str, Any] = {}
    for name in signature.parameters.keys() - {*_NOT_SETTINGS, *(() if own else cls.of_its_own)}:
        attribute = name if name in data else f"_{name}"
        if name in own and (name in _AS_GIVEN or attribute not in data):
            found[name] = own[name]
        elif attribute in data:
            found[name] = _argument(data[attribute], signature.parameters[name].default)
    # Stable-Baselines3 chooses these itself, for the host.
    if "replay_buffer_class" in found and not own:
        kind = found["replay_buffer_class"]
        if kind in (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer):
            found["replay_buffer_class"] = None
            kept = dict(found.get("replay_buffer_kwargs") or {})
            found["replay_buffer_kwargs"] = {key: kept[key] for key in kept.keys() - {"n_steps", "gamma"}} or None
    return found


def _declaration(cls: type) -> type:
    """The settings of the nearest agent that ``cls`` is, or has above it."""
    for base in cls.__mro__:
        with contextlib.suppress(UnknownNameError):
            found: type = resolve(agent_spec(agent_name(base)).config)
            return found
    return AgentConfig


def _argument(value: Any, default: Any) -> Any:
    """What a constructor takes, from what it has made of that and JSON has kept."""
    if isinstance(value, TrainFreq):
        by_step = value.unit is TrainFrequencyUnit.STEP
        return value.frequency if by_step else (value.frequency, value.unit.value)
    if isinstance(value, list) and isinstance(default, tuple):
        return tuple(value)
    inner = getattr(value, "value_schedule", None)
    return inner.val if isinstance(inner, ConstantSchedule) else value


def _same_networks(data: Mapping[str, Any], settings: Mapping[str, Any], given: Any) -> bool:
    return given == data.get("policy_kwargs") or (given or {}) == (settings.get("policy_kwargs") or {})


def _take_progress(model: Any, data: Mapping[str, Any], given: Mapping[str, Any], with_last: bool) -> None:
    """Counters, what the class calls its training state, and attributes that a user has added."""
    kept = {name for name in data if not hasattr(model, name)} if "constructor_settings" in data else set()
    anew = _begun_anew(model, given)
    for name in (*_PROGRESS, *kept, *model.state_attributes):
        if name in data and name not in anew and (with_last or name != "_last_obs"):
            setattr(model, name, data[name])


def _begun_anew(model: Any, given: Mapping[str, Any]) -> set[str]:
    """What begins as settings say that are given anew."""
    return {part for name in given for part in model.made_from.get(name, ())}


def _take_networks(
    model: Any,
    data: Mapping[str, Any],
    parameters: dict[str, Any],
    tensors: dict[str, Any],
    given: Mapping[str, Any],
    path: str,
) -> None:
    anew = _begun_anew(model, given)
    foreign = "constructor_settings" not in data
    parameters = model.fitted_parameters(parameters, data)
    own = model.get_parameters()
    chosen = {name: part for name, part in parameters.items() if name in own and name not in anew}
    missing = own.keys() - chosen.keys()
    if missing and not (foreign or given):
        raise CheckpointError(f"{path} has no {min(missing)}: it was written by another class or version")
    for name, part in chosen.items():
        if isinstance(recursive_getattr(model, name, None), nn.Module) and part.keys() != own[name].keys():
            raise CheckpointError(
                f"{path} holds networks that differ from those of these settings ({name}): leave out the setting "
                f"that changes "
                f"them, or load it with the class that wrote it"
            )
    rates = {name: _rates(model, name) for name in chosen}
    try:
        model.set_parameters(chosen, exact_match=not missing, device=model.device)
    except (RuntimeError, ValueError) as error:
        cure = "leave them out" if given else "load it with the class that wrote it"
        raise CheckpointError(f"{path} does not fit these settings ({one_line(error)}): {cure}") from error
    if any("learning_rate" in name for name in given):
        for name, found in rates.items():
            for group, rate in zip(_groups(model, name), found, strict=True):
                group["lr"] = rate
    for name in model._get_torch_save_params()[1]:
        if tensors.get(name) is not None and name not in anew:
            recursive_getattr(model, name).data = tensors[name].data


def _rates(model: Any, name: str) -> list[Any]:
    return [group["lr"] for group in _groups(model, name)]


def _groups(model: Any, name: str) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = getattr(recursive_getattr(model, name, None), "param_groups", [])
    return groups
