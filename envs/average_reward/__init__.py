"""Environments that never end, for average reward, registered with Gymnasium as ``rlopt/<name>-v0``."""

from rlopt.envs.average_reward.continuing import ContinuingWrapper
from rlopt.envs.average_reward.finite import FiniteEnv

__all__ = ["ContinuingWrapper", "FiniteEnv"]
