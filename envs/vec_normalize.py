"""Stable-Baselines3's VecNormalize, bit for bit, with less work per step."""

from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize


class Normalize(VecNormalize):
    """``VecNormalize`` for many environments of few numbers each; takes the same arguments.

    A checkpoint does not tell the two apart, and either takes the statistics of the other.
    """

    def __init__(self, venv: VecEnv, **options: Any) -> None:
        super().__init__(venv, **options)
        own = vars(self)
        if isinstance(own.get("obs_rms"), dict):
            self.obs_rms = {key: MeanStd(shape=part.mean.shape) for key, part in own["obs_rms"].items()}
        elif "obs_rms" in own:
            self.obs_rms = MeanStd(shape=own["obs_rms"].mean.shape)  # type: ignore[assignment]
        self.ret_rms = MeanStd(shape=())

    def normalize_obs(self, obs: np.ndarray | dict[str, np.ndarray]) -> np.ndarray | dict[str, np.ndarray]:
        """[n_envs, ...] or a dict of such, shifted, scaled and clipped; float32."""
        if isinstance(obs, dict) or not self.norm_obs:
            return super().normalize_obs(obs)
        return self._normalize_obs(obs, self.obs_rms).astype(np.float32)  # type: ignore[arg-type]

    def _normalize_obs(self, obs: np.ndarray, obs_rms: RunningMeanStd) -> np.ndarray:
        scaled = (obs - obs_rms.mean) / np.sqrt(obs_rms.var + self.epsilon)
        return np.minimum(np.maximum(scaled, -self.clip_obs), self.clip_obs)


class MeanStd(RunningMeanStd):
    """``RunningMeanStd`` whose moments of a batch share the mean."""

    def update(self, arr: np.ndarray) -> None:
        """Takes a batch [B, ...] into the statistics."""
        if arr.dtype not in (np.float32, np.float64):
            super().update(arr)
            return
        count = arr.shape[0]
        mean = np.add.reduce(arr, axis=0) / arr.dtype.type(count)
        deviation = arr - mean
        deviation *= deviation
        self.update_from_moments(mean, np.add.reduce(deviation, axis=0) / arr.dtype.type(count), count)
