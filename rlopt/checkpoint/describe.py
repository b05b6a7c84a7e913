"""Describes a model as JSON, and builds a model from such a description.

A checkpoint may come from anybody, so that classes are looked up in tables here: nothing is unpickled, and nothing is
imported because a file names it.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import stable_baselines3.common.buffers as sb3_buffers
import stable_baselines3.common.noise as sb3_noise
import stable_baselines3.common.policies as sb3_policies
import stable_baselines3.common.torch_layers as sb3_layers
import stable_baselines3.dqn.policies as dqn_policies
import stable_baselines3.sac.policies as sac_policies
import stable_baselines3.td3.policies as td3_policies
import torch
from stable_baselines3.common.type_aliases import TrainFreq
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her.goal_selection_strategy import GoalSelectionStrategy
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from rlopt.algorithms.spaces_only_env import SpacesOnlyVecEnv
from rlopt.errors import CheckpointError, ConfigError, RloptError, UnknownNameError, one_line, resource_error
from rlopt.nn import encoders, policies
from rlopt.optim.optimizers import optimizer_by_name, optimizer_name
from rlopt.registry import agent_name, agent_spec, resolve
from rlopt.replay import buffers, n_step
from rlopt.replay import her as hindsight
from rlopt.settings.fields import without_former
from rlopt.settings.schedules import DecayingRate
from rlopt.storage.budget import Budget
from rlopt.storage.spaces import decode_array, decode_space, encode_array, encode_space

_ACTIVATIONS = [
    "CELU",
    "ELU",
    "GELU",
    "Hardswish",
    "Hardtanh",
    "Identity",
    "LeakyReLU",
    "Mish",
    "ReLU",
    "ReLU6",
    "SELU",
]
_ACTIVATIONS += ["SiLU", "Sigmoid", "Softplus", "Softsign", "Tanh"]
_MODULES: tuple[tuple[str, Any, list[str]], ...] = (
    ("torch.nn", torch.nn, _ACTIVATIONS),
    ("sb3", sb3_policies, ["ActorCriticPolicy", "ActorCriticCnnPolicy", "MultiInputActorCriticPolicy"]),
    ("sb3", sb3_layers, ["FlattenExtractor", "NatureCNN", "CombinedExtractor"]),
    (
        "sb3",
        sb3_buffers,
        ["ReplayBuffer", "DictReplayBuffer", "NStepReplayBuffer", "RolloutBuffer", "DictRolloutBuffer"],
    ),
    ("rlopt", buffers, ["DeviceReplayBuffer", "DeviceDictReplayBuffer"]),
    ("rlopt", encoders, ["DrQV2Encoder", "ImagePolicy"]),
    ("rlopt", policies, ["NetworkPolicy", "NetworkMultiInputPolicy", "NetworkImagePolicy"]),
    ("rlopt", n_step, ["DeviceNStepReplayBuffer"]),
    ("rlopt", hindsight, ["DeviceHerReplayBuffer"]),
    ("sb3.sac", sac_policies, ["SACPolicy", "CnnPolicy", "MultiInputPolicy"]),
    ("sb3.td3", td3_policies, ["TD3Policy", "CnnPolicy", "MultiInputPolicy"]),
    ("sb3.dqn", dqn_policies, ["DQNPolicy", "CnnPolicy", "MultiInputPolicy"]),
)
CLASSES: dict[str, type] = {
    f"{prefix}.{name}": getattr(module, name) for prefix, module, names in _MODULES for name in names
} | {"sb3.HerReplayBuffer": HerReplayBuffer}
"""The classes that a checkpoint may name."""
_CLASS_NAMES = {cls: name for name, cls in CLASSES.items()}
_NOT_SETTINGS = frozenset({"env", "device", "tensorboard_log", "_init_setup_model", "self"})
"""Arguments that depend on where a model runs: they are given anew, never taken from a file."""
_MAX_ENVS = 2**16
"""Some constructors take memory for each environment: a forged number must not take all of it."""
_LARGEST = 2**27
"""Bytes of the arrays of a description: the bounds of large images."""


def describe_spaces(model: Any) -> dict[str, Any]:
    """The agent's name, both spaces and the number of environments, as JSON."""
    try:
        name = agent_name(type(model))
    except UnknownNameError:
        name = f"{type(model).__module__}:{type(model).__qualname__}"
    return {
        "agent": name,
        "observation_space": encode_space(model.observation_space),
        "action_space": encode_space(model.action_space),
        "n_envs": int(model.n_envs),
    }


def describe_model(model: Any) -> dict[str, Any]:
    """All that :func:`rebuild_model` needs, as JSON: agent, spaces, number of environments, constructor settings.

    :raises rlopt.errors.ConfigError: a setting is an object or class that cannot be written safely; it is named
    """
    settings = {
        name: encode_setting(name, value)
        for name, value in model.constructor_settings.items()
        if name not in _NOT_SETTINGS
    }
    return describe_spaces(model) | {"settings": settings}


def rebuild_model(
    description: Any, env: VecEnv | None = None, device: str = "auto", budget: Budget | None = None
) -> Any:
    """Builds the described model, untrained, on ``env``, or on an environment of the described spaces alone if None.

    Its constructor seeds the global random generators if the settings have a seed.

    :param budget: of what the description's arrays may take
    :raises rlopt.errors.CheckpointError: the description is malformed, names what is not in the tables, or has other
        spaces than ``env``
    """
    budget = budget or Budget(_LARGEST)
    try:
        spec = agent_spec(description["agent"])
        cls = resolve(spec.algorithm)
        settings = {name: decode_setting(value, budget) for name, value in description["settings"].items()}
        settings = without_former(resolve(spec.config), settings, "the checkpoint")
        observation_space = decode_space(description["observation_space"], budget)
        action_space = decode_space(description["action_space"], budget)
        n_envs = description["n_envs"]
        if type(n_envs) is not int or not 1 <= n_envs <= _MAX_ENVS:
            raise ValueError(f"n_envs is {n_envs!r}")
        for name, saved, own in (
            ("observation", observation_space, getattr(env, "observation_space", observation_space)),
            ("action", action_space, getattr(env, "action_space", action_space)),
        ):
            if saved != own:
                raise CheckpointError(
                    f"the checkpoint has {name} space {saved}, the environment {own}: use its own one"
                )
        unknown = set(settings) & _NOT_SETTINGS | set(settings) - set(inspect.signature(cls).parameters)
        if unknown:
            raise ValueError(f"{cls.__name__} has no setting {min(unknown)!r}")
        env = SpacesOnlyVecEnv(n_envs, observation_space, action_space) if env is None else env
        return cls(env=env, device=device, **settings)
    except UnknownNameError as error:
        raise CheckpointError(f"the checkpoint's agent cannot be built: {error}") from error
    except CheckpointError:
        raise
    except (RloptError, Exception) as error:
        if (lack := resource_error(error, "the checkpoint's model cannot be built")) is not None:
            raise lack from error
        raise CheckpointError(
            f"the checkpoint's model cannot be built ({type(error).__name__}: {one_line(error)}): it is malformed or "
            "of another version"
        ) from error


def encode_setting(name: str, value: Any) -> Any:
    """The JSON of a constructor setting. Errors call it by ``name``, such as ``policy_kwargs['net_arch']``.

    :raises rlopt.errors.ConfigError: it cannot be written safely
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return encode_setting(name, value.item())
    if isinstance(value, TrainFreq):
        return {"type": "tuple", "items": [value.frequency, value.unit.value]}
    if isinstance(value, (list, tuple)):
        items = [encode_setting(f"{name}[{index}]", item) for index, item in enumerate(value)]
        return {"type": "tuple", "items": items} if isinstance(value, tuple) else items
    if isinstance(value, Mapping) and all(type(key) is str for key in value):
        return {"type": "dict", "items": {key: encode_setting(f"{name}[{key!r}]", item) for key, item in value.items()}}
    if isinstance(value, np.ndarray):
        return {"type": "array", "value": encode_array(value)}
    if isinstance(value, type) and value in _CLASS_NAMES:
        return {"type": "class", "name": _CLASS_NAMES[value]}
    if isinstance(value, type) and (optimizer := optimizer_name(value)) is not None:
        return {"type": "optimizer", "name": optimizer}
    if isinstance(value, GoalSelectionStrategy):
        return {"type": "goal", "name": value.name}
    known = _encode_object(name, value)
    if known is not None:
        return known
    what = f"the class {value.__qualname__}" if isinstance(value, type) else f"a {type(value).__qualname__}"
    raise ConfigError(
        f"the setting {name} is {what}, which a checkpoint cannot hold safely: use a name, a number or a class of "
        f"torch or Stable-Baselines3 (for schedules LinearSchedule), or use model.save(), whose zip is a pickle"
    )


def decode_setting(encoded: Any, budget: Budget | None = None) -> Any:
    """The inverse of :func:`encode_setting`; ``ValueError``, ``KeyError`` or ``TypeError`` for malformed JSON."""
    budget = budget or Budget(_LARGEST)
    if encoded is None or isinstance(encoded, (bool, int, float, str)):
        return encoded
    if isinstance(encoded, list):
        return [decode_setting(item, budget) for item in encoded]
    kind = encoded["type"]
    if kind == "tuple":
        return tuple(decode_setting(item, budget) for item in encoded["items"])
    if kind == "dict":
        return {key: decode_setting(item, budget) for key, item in encoded["items"].items()}
    if kind == "array":
        return decode_array(encoded["value"], budget)
    if kind == "class":
        name = encoded["name"]
        # Older checkpoints name optimisers among the classes.
        return optimizer_by_name(name[len("torch.optim.") :]) if name.startswith("torch.optim.") else CLASSES[name]
    if kind == "optimizer":
        return optimizer_by_name(str(encoded["name"]))
    if kind == "goal":
        return GoalSelectionStrategy[encoded["name"]]
    if kind in _OBJECTS:
        cls, names = _OBJECTS[kind]
        arguments = {name: decode_setting(encoded[name], budget) for name in names}
        if arguments.get("n_envs", 1) > _MAX_ENVS:
            raise ValueError(f"n_envs is {arguments['n_envs']}")
        if "dtype" in arguments:
            arguments["dtype"] = np.dtype({"float32": "f4", "float64": "f8"}[arguments["dtype"]]).type
        return cls(**arguments)
    raise ValueError(f"unknown setting {str(kind)[:40]!r}")


_OBJECTS: dict[str, tuple[type, tuple[str, ...]]] = {
    "ConstantSchedule": (ConstantSchedule, ("val",)),
    "LinearSchedule": (LinearSchedule, ("start", "end", "end_fraction")),
    "FloatSchedule": (FloatSchedule, ("value_schedule",)),
    "DecayingRate": (DecayingRate, ("value", "shape", "warmup", "floor")),
    "NormalActionNoise": (sb3_noise.NormalActionNoise, ("mean", "sigma", "dtype")),
    "OrnsteinUhlenbeckActionNoise": (
        sb3_noise.OrnsteinUhlenbeckActionNoise,
        ("mean", "sigma", "theta", "dt", "initial_noise", "dtype"),
    ),
    "VectorizedActionNoise": (sb3_noise.VectorizedActionNoise, ("base_noise", "n_envs")),
}
"""Objects that a setting may be: their class and the arguments that make an equal one."""
_ATTRIBUTES = {"mean": "_mu", "sigma": "_sigma", "theta": "_theta", "dt": "_dt", "dtype": "_dtype"}


def _encode_object(name: str, value: Any) -> dict[str, Any] | None:
    """The JSON of an object of ``_OBJECTS``; None for any other."""
    kind = type(value).__name__
    if kind not in _OBJECTS or type(value) is not _OBJECTS[kind][0]:
        return None
    encoded: dict[str, Any] = {"type": kind}
    for argument in _OBJECTS[kind][1]:
        part = getattr(value, _ATTRIBUTES.get(argument, argument))
        part = np.dtype(part).name if argument == "dtype" else part
        encoded[argument] = encode_setting(f"{name}.{argument}", part)
    return encoded
