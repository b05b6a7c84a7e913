"""Spaces that on-policy agents cannot use."""

from __future__ import annotations

from gymnasium import spaces

from rlopt.algorithms.checks import check_counted_from_zero, check_observation_space, check_real_actions
from rlopt.errors import SpaceError

ACTION_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space, agent: str) -> None:
    """Raises :class:`rlopt.errors.SpaceError` unless ``agent``, an on-policy one, can use both spaces."""
    check_observation_space(observation_space)
    if not isinstance(action_space, ACTION_SPACES):
        raise SpaceError(
            f"{agent} cannot use the action space {action_space}: it takes Box, Discrete, MultiDiscrete or "
            "MultiBinary; flatten other spaces with gymnasium.wrappers"
        )
    if isinstance(action_space, spaces.Box):
        check_real_actions(action_space)
        if 0 in action_space.shape:
            raise SpaceError(f"the action space {action_space} has no dimensions: give the agent something to do")
    if isinstance(action_space, spaces.MultiBinary) and len(action_space.shape) != 1:
        raise SpaceError(f"the action space is {action_space}, which has more than one axis: give it in one row")
    check_counted_from_zero(action_space, "the action space")
