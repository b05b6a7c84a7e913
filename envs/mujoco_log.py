"""MuJoCo's warnings as Python log records, instead of a MUJOCO_LOG.TXT in whatever folder the user stands in."""

from __future__ import annotations

import logging

_LOGGER = logging.getLogger("rlopt.mujoco")


def route_warnings() -> None:
    """Sends MuJoCo's warnings to the logger ``rlopt.mujoco``; notes on deprecated model syntax only at level debug.

    Call after dm_control is imported, which sends them elsewhere. EnvPool's own MuJoCo cannot be reached this way: it
    warns of NaN actions alone, and those are refused before they get there.
    """
    import mujoco

    mujoco.set_mju_user_warning(_log)


def _log(message: str) -> None:
    level = logging.DEBUG if "deprecated" in message else logging.WARNING
    _LOGGER.log(level, message.strip())
