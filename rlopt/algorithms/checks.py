"""Spaces that cannot be used, refused with the cure."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from rlopt.errors import SpaceError, one_line

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
