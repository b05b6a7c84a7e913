"""VecNormalize's arithmetic on tensors, where they are."""

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor


def normalize_observations(observations: Any, env: VecNormalize | None) -> Any:
    """What ``env.normalize_obs`` makes of a tensor (B, ...) or a dict of those; without ``env`` what they were."""
    if env is None or not env.norm_obs:
        return observations
    if isinstance(observations, dict):
        assert isinstance(env.obs_rms, dict) and env.norm_obs_keys is not None
        normalized = {key: _observation(observations[key], env.obs_rms[key], env) for key in env.norm_obs_keys}
        return observations | normalized
    assert isinstance(env.obs_rms, RunningMeanStd)
    return _observation(observations, env.obs_rms, env)


def normalize_rewards(rewards: Tensor, env: VecNormalize | None) -> Tensor:
    """What ``env.normalize_reward`` makes of float32 rewards; without ``env`` what they were."""
    if env is None or not env.norm_reward:
        return rewards
    return _scaled(rewards, 0.0, env.ret_rms.var + env.epsilon, env.clip_reward)


def _observation(values: Tensor, statistics: RunningMeanStd, env: VecNormalize) -> Tensor:
    return _scaled(values, statistics.mean, statistics.var + env.epsilon, env.clip_obs)


def _scaled(values: Tensor, mean: Any, variance: Any, clip: float) -> Tensor:
    # In float64, as numpy does it: with the same roundings the result is the same. Apple's GPUs have no float64.
    wide = torch.float32 if values.device.type == "mps" else torch.float64
    shift, scale = (torch.as_tensor(x).to(values.device, wide) for x in (mean, np.sqrt(variance)))
    return ((values.to(wide) - shift) / scale).clamp(-clip, clip).float()
