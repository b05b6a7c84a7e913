"""Environments that never end, for average reward, registered with Gymnasium as ``rlopt/<name>-v0``."""

from rlopt.envs.average_reward.continuing import ContinuingWrapper
from rlopt.envs.average_reward.finite import FiniteEnv
from rlopt.envs.average_reward.gap_recorder import GapRecorder

__all__ = ["ContinuingWrapper", "FiniteEnv", "GapRecorder"]
