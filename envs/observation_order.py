"""The order in which the parts of an environment's observation lie in its flat vector."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from rlopt.envs.flat import FlatObservation

if TYPE_CHECKING:
    from rlopt.envs.settings import EnvSettings


def observation_keys(settings: EnvSettings) -> tuple[str, ...]:
    """Names of the parts, in their order; ``("pixels",)`` for images, empty where the environment names no parts.

    dm_control's own order is that of the task; a dictionary that Gymnasium flattens goes by the alphabet.
    """
    if settings.from_pixels:
        return ("pixels",)
    from rlopt.envs import names, rendering
    from rlopt.envs.make import make_single
    from rlopt.envs.snapshots import layers

    rendering.prepare_state()
    names.check_id(settings.id)
    env = make_single(dataclasses.replace(settings, render_mode=None, fast_render=False), settings.seed)
    try:
        for layer in layers(env):
            if isinstance(layer, FlatObservation):
                return layer.keys
            if hasattr(layer, "dm_env"):
                return tuple(layer.dm_env.observation_spec())
        return ()
    finally:
        env.close()
