"""Zeroth-order descent by values, and gradientless descent by comparisons."""

import math
from collections.abc import Sequence

import numpy as np

from rlopt.agents.zo_ranksgd.comparators.base import Peer, at_least, positive
from rlopt.agents.zo_ranksgd.query import read_only
from rlopt.errors import ConfigError


class ZOSGD(Peer):
    """Stochastic zeroth-order descent by values (Ghadimi and Lan 2013, arXiv 1309.5549): what values would buy.

    x <- x - eta / q sum_i D_i xi_i with D_i = [f(x + mu xi_i) - f(x)] / mu, or, if ``central``, [f(x + mu xi_i) -
    f(x - mu xi_i)] / (2 mu). A query has q + 1 candidates, or 2 q.

    :param directions: q
    :param smoothing: mu
    :param learning_rate: eta
    """

    takes_values = True

    def __init__(
        self,
        initial: Sequence[float] | np.ndarray,
        *,
        directions: int = 14,
        smoothing: float = 0.01,
        learning_rate: float = 0.01,
        central: bool = False,
        seed: int | None = 0,
    ) -> None:
        super().__init__(initial, seed=seed)
        at_least(1, directions=directions)
        positive(smoothing=smoothing, learning_rate=learning_rate)
        self.directions, self.smoothing, self.learning_rate = directions, smoothing, learning_rate
        self.central = central
        self._perturbations = np.zeros((directions, self.dimension))

    def _asked_for(self, m: int) -> tuple[int, int | None]:
        return m, None if self.central else m - 1

    def _propose(self) -> np.ndarray:
        self._perturbations = self._rng.standard_normal((self.directions, self.dimension))
        steps = self.smoothing * self._perturbations
        return np.concatenate([self.point + steps, self.point - steps if self.central else self.point[None]])

    def _update(self, candidates: np.ndarray, scores: np.ndarray) -> None:
        ahead, behind = scores[: self.directions], scores[self.directions :]
        slopes = (ahead - behind) / (self.smoothing * (2 if self.central else 1))
        self._point = read_only(self.point - self.learning_rate * (slopes @ self._perturbations / self.directions))


class GLD(Peer):
    """Gradientless descent with search over radii (Golovin et al. 2020, arXiv 1911.06317), by comparisons.

    One candidate uniform in each of the balls around x of radius 2^-i R, i = 0 .. log2(R / r), and x itself, which is
    last; x becomes the best of them.

    :param radius: R, of the largest ball
    :param smallest_radius: r, of the smallest
    """

    takes_values = False

    def __init__(
        self,
        initial: Sequence[float] | np.ndarray,
        *,
        radius: float = 10.0,
        smallest_radius: float = 0.01,
        seed: int | None = 0,
    ) -> None:
        super().__init__(initial, seed=seed)
        positive(radius=radius, smallest_radius=smallest_radius)
        if smallest_radius > radius:
            raise ConfigError(f"smallest_radius={smallest_radius} is more than radius={radius}")
        # A rounding error must not lose the smallest ball where R / r is a power of two.
        self.radii = radius * 0.5 ** np.arange(1 + math.floor(math.log2(radius / smallest_radius) + 1e-9))

    def _asked_for(self, m: int) -> tuple[int, int | None]:
        return 1, m - 1

    def _propose(self) -> np.ndarray:
        normal = self._rng.standard_normal((len(self.radii), self.dimension))
        length = self.radii * self._rng.uniform(size=len(self.radii)) ** (1 / self.dimension)
        steps = normal * (length / np.linalg.norm(normal, axis=1))[:, None]
        return np.concatenate([self.point + steps, self.point[None]])

    def _update(self, candidates: np.ndarray, scores: np.ndarray) -> None:
        if scores.min() < scores[-1]:
            self._point = read_only(candidates[int(np.argmin(scores))].copy())
