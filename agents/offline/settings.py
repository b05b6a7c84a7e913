"""Settings that every offline learner has, and their checks."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, TypeVar

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import Schedule

from rlopt.data.dataset import Dataset
from rlopt.errors import SpaceError
from rlopt.resumable import check_number, require
from rlopt.space_checks import check_counted_from_zero, check_observation_space
from rlopt.update import CompileChoice

F = TypeVar("F", bound=Callable[..., None])


class CommonSettings(TypedDict, total=False):
    """The keyword arguments of :class:`rlopt.agents.offline.base.OfflineAlgorithm`, which every learner takes."""

    learning_rate: float | Schedule
    batch_size: int
    dataset: Dataset | str | None
    normalize_observations: bool
    normalize_rewards: bool
    reward_scale: float
    reward_shift: float
    validation_fraction: float
    buffer_size: int
    train_freq: int
    gradient_steps: int
    exploration_noise: float
    compile: CompileChoice
    stats_window_size: int
    tensorboard_log: str | None
    policy_kwargs: dict[str, Any] | None
    verbose: int
    seed: int | None
    device: torch.device | str
    _init_setup_model: bool


def common_settings(**defaults: Any) -> Callable[[F], F]:
    """For a learner's constructor: its signature also lists the settings of the base class, with these ``defaults``."""

    def decorate(constructor: F) -> F:
        @functools.wraps(constructor)
        def with_defaults(self: Any, *args: Any, **settings: Any) -> None:
            constructor(self, *args, **{**defaults, **settings})

        from rlopt.agents.offline.base import OfflineAlgorithm

        own = inspect.signature(constructor)
        shared = inspect.signature(OfflineAlgorithm.__init__).parameters
        parameters = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        for name in CommonSettings.__annotations__:
            default = defaults.get(name, shared[name].default)
            parameters.append(shared[name].replace(kind=inspect.Parameter.KEYWORD_ONLY, default=default))
        with_defaults.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        return with_defaults  # type: ignore[return-value]

    return decorate


# name -> (smallest, largest, whether the smallest is allowed, whether it is a whole number)
RANGES: dict[str, tuple[float, float, bool, bool]] = {
    "learning_rate": (0, math.inf, True, False),
    "critic_learning_rate": (0, math.inf, True, False),
    "batch_size": (1, math.inf, True, True),
    "gamma": (0, 1, True, False),
    "tau": (0, 1, False, False),
    "reward_scale": (-math.inf, math.inf, False, False),
    "reward_shift": (-math.inf, math.inf, False, False),
    "validation_fraction": (0, 0.9, True, False),
    "buffer_size": (1, math.inf, True, True),
    "train_freq": (1, math.inf, True, True),
    "gradient_steps": (-1, math.inf, True, True),
    "exploration_noise": (0, math.inf, True, False),
    "best_fraction": (0, 1, False, False),
    "alpha": (0, math.inf, True, False),
    "policy_delay": (1, math.inf, True, True),
    "target_policy_noise": (0, math.inf, True, False),
    "target_noise_clip": (0, math.inf, True, False),
    "actor_bc_coef": (0, math.inf, True, False),
    "critic_bc_coef": (0, math.inf, True, False),
    "awac_lambda": (0, math.inf, False, False),
    "beta": (0, math.inf, True, False),
    "expectile": (0, 0.9999, False, False),
    "largest_weight": (0, math.inf, False, False),
    "cql_alpha": (0, math.inf, True, False),
    "cql_temperature": (0, math.inf, False, False),
    "n_actions": (1, 1000, True, True),
    "lagrange_gap": (-math.inf, math.inf, False, False),
}
_OPTIONAL = ("critic_learning_rate", "lagrange_gap")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for the first setting outside its range."""
    for name, bounds in RANGES.items():
        schedule = name.endswith("learning_rate") and callable(settings.get(name))
        if name in settings and not schedule and not (name in _OPTIONAL and settings[name] is None):
            check_number(name, settings[name], *bounds)
    require(settings["reward_scale"] != 0, "reward_scale is 0: every reward would be the same")
    require(
        settings.get("compile") in ("auto", "on", "off"),
        f'compile is {settings.get("compile")!r}: give "auto", "on" or "off"',
    )


def check_model_spaces(name: str, observation_space: spaces.Space, action_space: spaces.Space, discrete: bool) -> None:
    """Raises :class:`rlopt.errors.SpaceError` for spaces that the learner ``name`` cannot use.

    :param discrete: whether it can use Discrete actions
    """
    check_observation_space(observation_space)
    parts = observation_space.spaces.values() if isinstance(observation_space, spaces.Dict) else [observation_space]
    if any(is_image_space(part) for part in parts):
        raise SpaceError(
            "observations are images, which the offline learners do not encode: give them features instead"
        )
    if isinstance(action_space, spaces.Discrete):
        if not discrete:
            raise SpaceError(f"{name} needs continuous actions, not {action_space}: use BC, AWAC or IQL")
        check_counted_from_zero(action_space, "the action space")
        return
    if not isinstance(action_space, spaces.Box):
        kinds = "Box or Discrete" if discrete else "Box"
        raise SpaceError(f"{name} needs a {kinds} action space, not {type(action_space).__name__}")
    if len(action_space.shape) != 1:
        raise SpaceError(f"the action space has shape {action_space.shape}: flatten it to one axis")
    from rlopt.agents.sac.checks import check_spaces

    check_spaces(observation_space, action_space, name)
