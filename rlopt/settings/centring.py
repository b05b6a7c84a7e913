"""Reward centring as a setting: what on-policy and off-policy agents check alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlopt.errors import require


def check_centring(settings: Mapping[str, Any]) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for centred values that are not discounted."""
    require(
        not settings.get("reward_centring") or settings["gamma"] < 1,
        "reward_centring needs gamma < 1: without a discount take an agent of the average reward, such as apo, "
        "deep_loop or differential_dqn",
    )
