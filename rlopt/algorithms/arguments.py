"""Constructor arguments that are not declared as settings: their names, the policy, the device."""

import functools
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from rlopt.errors import ConfigError, SpaceError, UnknownNameError, one_line, unknown_name
from rlopt.settings.device import check_device

F = TypeVar("F", bound=Callable[..., None])

_ELSEWHERE = {
    "lr": "its name is learning_rate",
    "alpha": "its name is ent_coef",
    "total_timesteps": "give it to learn",
    "callback": "give it to learn",
    **dict.fromkeys(("n_envs", "num_envs"), "make the environment with rlopt.make_env(id, n_envs=...)"),
}
"""What people look for in every constructor, and where it is."""


def checked(constructor: F) -> F:
    """A constructor that refuses, in one line, names it does not have, a policy that is none, and an absent device."""
    signature = inspect.signature(constructor)

    @functools.wraps(constructor)
    def complete(self: Any, *args: Any, **settings: Any) -> None:
        refuse_unknown(type(self), settings, signature)
        given = signature.bind(self, *args, **settings).arguments
        check_device(given.get("device", "auto"))
        _check_policy(type(self), given.get("policy"), given.get("policy_kwargs"))
        constructor(self, *args, **settings)

    return complete  # type: ignore[return-value]


def refuse_unknown(cls: type, names: Iterable[str], signature: inspect.Signature) -> None:
    """Raises :class:`rlopt.errors.UnknownNameError` for a name that the constructor of ``cls`` does not take.

    What the class has in its place is said where :attr:`rlopt.algorithms.resumable.Resumable.elsewhere` tells.
    """
    known = signature.parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for name in names:
        if name not in known:
            raise _unknown(cls, name, [own for own in known if own != "self" and own[0] != "_"])


def _unknown(cls: Any, name: str, known: list[str]) -> UnknownNameError:
    advice = {**_ELSEWHERE, **getattr(cls, "elsewhere", {})}.get(name)
    if advice is None and name in _policy_settings(cls.policy_aliases["MlpPolicy"]):
        advice = f"give it in policy_kwargs, policy_kwargs={{{name!r}: ...}}"
    if advice is None:
        return unknown_name("setting", name, known, f"{cls.__name__} has {', '.join(known)}")
    return UnknownNameError(f"{cls.__name__} has no setting {name!r}: {advice}")


def _check_policy(cls: Any, policy: Any, policy_kwargs: Mapping[str, Any] | None) -> None:
    if isinstance(policy, str) and policy not in cls.policy_aliases:
        raise unknown_name("policy", policy, cls.policy_aliases)
    if not isinstance(policy, str | type):
        raise ConfigError(
            f"the policy is a {type(policy).__name__}: give a name or a class first and then the environment, "
            f"{cls.__name__}('MlpPolicy', env)"
        )
    kind = cls.policy_aliases.get(policy, policy)
    if kind in cls.policy_aliases.values():  # a policy class of the user's own may take what it likes
        for name in policy_kwargs or {}:
            if name not in (known := _policy_settings(kind)):
                raise unknown_name("setting of policy_kwargs", name, known)


def check_observations(model: Any) -> None:
    """Raises :class:`rlopt.errors.SpaceError` for a named policy with observations that its layers cannot take."""
    options, space, named = model.policy_kwargs, model.observation_space, model.policy_aliases
    of_dicts = named.get("MultiInputPolicy")
    if of_dicts is not named.get("MlpPolicy") and model.policy_class is of_dicts and not isinstance(space, spaces.Dict):
        cure = "CnnPolicy" if len(space.shape or ()) == 3 else "MlpPolicy"
        raise SpaceError(f"MultiInputPolicy takes dictionaries, not {space}: take {cure}")
    if model.policy_class is not named.get("CnnPolicy") or "features_extractor_class" in options:
        return
    if is_image_space(space, check_channels=False, normalized_image=not options.get("normalize_images", True)):
        return
    cure = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    if len(space.shape or ()) == 3:
        cure += ", or make them uint8 from 0 to 255; for floats, give policy_kwargs={'normalize_images': False}"
    raise SpaceError(f"CnnPolicy takes images, not {space}: take {cure}")


def check_learning(total_timesteps: Any, progress_bar: bool) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for a number of steps that is none, or a bar that cannot be drawn."""
    if isinstance(total_timesteps, bool) or not isinstance(total_timesteps, Real) or not float(total_timesteps) >= 0:
        raise ConfigError(f"total_timesteps = {total_timesteps!r} is not a number of steps")
    for package in ("rich", "tqdm") if progress_bar else ():
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"progress_bar needs {package}: pip install {package}")


def _policy_settings(policy: type) -> set[str]:
    """What a policy class of Stable-Baselines3 or rlopt takes, itself or through its bases."""
    found = {name for base in policy.__mro__ for name in inspect.signature(base.__init__).parameters}  # type: ignore[misc]
    return found - {"self", "args", "kwargs", "observation_space", "action_space", "lr_schedule"}


OBSERVATION_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def check_observation_space(space: spaces.Space) -> None:
    """Raises :class:`rlopt.errors.SpaceError` unless observations of ``space`` can be given to a network."""
    if isinstance(space, spaces.Dict) and not space.spaces:
        raise SpaceError("the observation space is an empty Dict: give the agent something to see")
    parts = space.spaces if isinstance(space, spaces.Dict) else {"observation": space}
    for name, part in parts.items():
        if not isinstance(part, OBSERVATION_SPACES):
            raise SpaceError(
                f"observation {name!r} is a {type(part).__name__} space, which Stable-Baselines3 cannot read: flatten "
                "it with gymnasium.wrappers.FlattenObservation"
            )
        if isinstance(part, spaces.Box) and (not part.shape or 0 in part.shape):
            raise SpaceError(
                f"observation {name!r} has shape {part.shape}: make it an array with at least one number, such as (1,)"
            )
        check_counted_from_zero(part, f"observation {name!r}")


def check_counted_from_zero(space: spaces.Space, what: str) -> None:
    """Raises :class:`rlopt.errors.SpaceError` for a Discrete or MultiDiscrete ``space`` that starts elsewhere.

    Stable-Baselines3 takes every such space to count from 0 in one row: it would act outside the space without a word.

    :param what: the space in words, for the message
    """
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and np.any(space.start):
        raise SpaceError(
            f"{what} is {one_line(space)}, which does not count from 0: shift it by its start in the environment"
        )
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim != 1:
        raise SpaceError(f"{what} is {one_line(space)}, which has more than one axis: give its numbers in one row")


def check_real_actions(space: spaces.Box) -> None:
    """Raises :class:`rlopt.errors.SpaceError` for a Box of whole numbers: the agents act in real ones."""
    if space.dtype is not None and space.dtype.kind != "f":
        raise SpaceError(
            f"the action space {one_line(space)} takes {space.dtype} only, the agent's actions are real numbers: make "
            "it a float Box and round in the environment, or MultiDiscrete for an agent that takes that"
        )
