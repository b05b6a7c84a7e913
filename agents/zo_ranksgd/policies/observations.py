"""Observations as feature vectors, and their running normalisation, which is frozen during a round."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from rlopt.errors import SpaceError

FloatArray = npt.NDArray[np.float64]
CLIP = 10.0
"""Normalised features are clipped to plus and minus this, as Stable-Baselines3's VecNormalize does."""
CONSTANT = 1e-12
"""Variance below which a feature is taken as constant and only shifted."""


def feature_count(space: spaces.Space[Any]) -> int:
    """How many features an observation of ``space`` has; raises :class:`rlopt.errors.SpaceError` if it has none."""
    if isinstance(space, spaces.Dict):
        return sum(feature_count(part) for part in space.spaces.values())
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, (spaces.Box, spaces.MultiBinary)):
        return int(np.prod(space.shape or ()))
    raise SpaceError(f"observations of {space} are not vectors: encode them in the environment")


def features(space: spaces.Space[Any], observations: Any) -> FloatArray:
    """A batch of observations as vectors ``[n, features]``, the way Stable-Baselines3's networks see them.

    Arrays are flattened, numbers of finitely many become one-hot, images are divided by 255, the entries of a
    dictionary stand one behind the other in its order.
    """
    if isinstance(space, spaces.Dict):
        return np.concatenate([features(part, observations[key]) for key, part in space.spaces.items()], axis=1)
    batch = np.asarray(observations)
    count = len(batch)
    if isinstance(space, spaces.Discrete):
        return _one_hot(batch.reshape(count) - space.start, int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        columns = batch.reshape(count, -1) - np.ravel(space.start)
        parts = [_one_hot(columns[:, index], int(n)) for index, n in enumerate(np.ravel(space.nvec))]
        return np.concatenate(parts, axis=1)
    flat = batch.reshape(count, -1).astype(np.float64)
    return flat / 255.0 if is_image_space(space) else flat


def holds_images(space: spaces.Space[Any]) -> bool:
    """Whether an observation is an image, or has one among its entries."""
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    return any(isinstance(part, spaces.Box) and is_image_space(part) for part in parts)


def take(observations: Any, rows: npt.NDArray[np.intp]) -> Any:
    """The rows of a batch of observations, or of each entry of a dictionary of such."""
    if isinstance(observations, dict):
        return {key: values[rows] for key, values in observations.items()}
    return observations[rows]


def _one_hot(indices: npt.NDArray[Any], count: int) -> FloatArray:
    return np.asarray(indices[:, None] == np.arange(count), np.float64)


@dataclass
class Moments:
    """Sums over the observations of a round, relative to ``shift`` (``[features]``) so that they stay exact."""

    shift: FloatArray
    count: int
    total: FloatArray
    """``[features]``: sum of x - shift."""
    square: FloatArray
    """``[features]``: sum of (x - shift)^2."""


class Normalizer:
    """Running mean and variance of features; applied as they are, changed by :meth:`update` only.

    :param size: features of an observation; None where observations are left as they are
    """

    def __init__(self, size: int | None) -> None:
        self.size = size
        self.count = 0
        """Observations seen."""
        self.mean: FloatArray = np.zeros(size or 0)
        self.deviations: FloatArray = np.zeros(size or 0)
        """``[features]``: sum of squared deviations from the mean."""
        self._scale: FloatArray = np.ones(size or 0)

    @property
    def variance(self) -> FloatArray:
        """``[features]``; 1 before the first observation."""
        return self.deviations / self.count if self.count else np.ones_like(self.mean)

    def apply(self, values: FloatArray) -> FloatArray:
        """Normalised features ``[n, features]``, clipped to +-10."""
        if self.size is None or self.count == 0:
            return values
        # np.clip costs several times as much on a few numbers.
        return np.minimum(np.maximum((values - self.mean) * self._scale, -CLIP), CLIP)

    def update(self, moments: Moments) -> None:
        """Takes in the observations of a round (Chan, Golub and LeVeque 1979, equation 2.1)."""
        if self.size is None or moments.count == 0:
            return
        shift = moments.total / moments.count
        mean, deviations = moments.shift + shift, moments.square - moments.count * shift**2
        total = self.count + moments.count
        step = mean - self.mean
        self.deviations = self.deviations + np.maximum(deviations, 0.0)
        self.deviations += step**2 * (self.count * moments.count / total)
        self.mean = self.mean + step * (moments.count / total)
        self.count = total
        self._rescale()

    def _rescale(self) -> None:
        variance = self.variance
        self._scale = np.where(variance > CONSTANT, 1.0 / np.sqrt(np.maximum(variance, CONSTANT)), 1.0)

    def get_state(self) -> dict[str, Any]:
        """Count and arrays."""
        return {"count": self.count, "mean": self.mean.copy(), "deviations": self.deviations.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave; raises ValueError for what does not fit."""
        mean, deviations = (np.asarray(state[name], np.float64) for name in ("mean", "deviations"))
        count = state["count"]
        if type(count) is not int or count < 0 or mean.shape != self.mean.shape or deviations.shape != mean.shape:
            raise ValueError("the statistics of observations do not fit")
        if not (np.isfinite(mean).all() and np.isfinite(deviations).all() and (deviations >= 0).all()):
            raise ValueError("the statistics of observations are not finite")
        self.count, self.mean, self.deviations = count, mean.copy(), deviations.copy()
        self._rescale()
