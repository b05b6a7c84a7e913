"""The spaces that an offline learner cannot use."""

from __future__ import annotations

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from rlopt.algorithms.checks import check_counted_from_zero, check_observation_space
from rlopt.errors import SpaceError

SMALLEST_SIDE = 36
"""Height and width from which Stable-Baselines3's NatureCNN has an output."""


def check_model_spaces(
    name: str,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    *,
    discrete: bool,
    several: bool = False,
    images: bool = False,
) -> None:
    """Raises :class:`rlopt.errors.SpaceError` for spaces that the learner ``name`` cannot use.

    :param observation_space: images have their channels first
    :param discrete: whether it can use Discrete actions
    :param several: whether it can use MultiDiscrete ones, of one axis and counted from 0
    :param images: whether it can see images
    """
    check_observation_space(observation_space)
    parts = observation_space.spaces.values() if isinstance(observation_space, spaces.Dict) else [observation_space]
    for shape in [part.shape or () for part in parts if is_image_space(part)]:
        if not images:
            raise SpaceError(
                f"observations are images, which {name} does not encode: give them features instead, or learn from "
                "demonstrations with rlopt.BC, rlopt.DAC or rlopt.AILBoost"
            )
        if min(shape[1:]) < SMALLEST_SIDE:
            raise SpaceError(
                f"images of {shape[1]} x {shape[2]} pixels are too small for the encoder: make them {SMALLEST_SIDE} x "
                f"{SMALLEST_SIDE} or larger"
            )
    if isinstance(action_space, spaces.Discrete):
        if not discrete:
            raise SpaceError(f"{name} needs continuous actions, not {action_space}: use BC, AWAC or IQL")
        check_counted_from_zero(action_space, "the action space")
        return
    if several and isinstance(action_space, spaces.MultiDiscrete):
        if action_space.nvec.ndim != 1 or action_space.start.any():
            raise SpaceError(f"the action space {action_space} is not of one axis and counted from 0: make it so")
        return
    if not isinstance(action_space, spaces.Box):
        kinds = "Box or Discrete" if discrete else "Box"
        raise SpaceError(f"{name} needs a {kinds} action space, not {type(action_space).__name__}")
    if len(action_space.shape) != 1:
        raise SpaceError(f"the action space has shape {action_space.shape}: flatten it to one axis")
    from rlopt.agents.sac.checks import check_spaces

    check_spaces(observation_space, action_space, name)
