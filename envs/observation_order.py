"""The order in which the parts of an environment's observation lie in its flat vector."""

import dataclasses
import math
from typing import Any

from rlopt.envs.flat import FlatObservation
from rlopt.envs.settings import EnvSettings


def observation_keys(settings: EnvSettings) -> tuple[str, ...]:
    """Names of the parts, in their order; ``("pixels",)`` for images, empty where the environment names no parts.

    dm_control's own order is that of the task; a dictionary that Gymnasium flattens goes by the alphabet.
    """
    return ("pixels",) if settings.from_pixels else tuple(observation_sizes(settings))


def observation_sizes(settings: EnvSettings) -> dict[str, int]:
    """How many numbers each part of the state takes, in their order; empty where the environment names no parts."""
    from rlopt.envs import names, rendering
    from rlopt.envs.make import make_single
    from rlopt.envs.state.snapshots import layers

    rendering.prepare_state()
    names.check_id(settings.id)
    state = dataclasses.replace(settings, render_mode=None, fast_render=False, from_pixels=False)
    env = make_single(state, settings.seed)
    try:
        for layer in layers(env):
            if isinstance(layer, FlatObservation):
                parts: Any = layer.env.observation_space
                return {key: math.prod(parts[key].shape) for key in layer.keys}
            if hasattr(layer, "dm_env"):
                return {key: math.prod(spec.shape) for key, spec in layer.dm_env.observation_spec().items()}
        return {}
    finally:
        env.close()
