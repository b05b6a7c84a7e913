"""Consensus-based optimisation: particles that drift to their weighted mean, by values."""

from collections.abc import Sequence

import numpy as np

from rlopt.agents.zo_ranksgd.comparators.base import Peer, at_least, positive
from rlopt.agents.zo_ranksgd.query import read_only
from rlopt.errors import ConfigError


class CBO(Peer):
    """Pinnau et al. 2017 (arXiv 1604.05648) with the noise by coordinates of Carrillo et al. 2021 (arXiv 1909.09249).

    Particles X_i move by -lambda (X_i - v) dt + sigma (X_i - v) * sqrt(dt) xi_i, with the product by coordinates (or by
    the norm |X_i - v| if not ``anisotropic``) and the consensus v = sum_i X_i exp(-alpha f(X_i)) / sum_i exp(-alpha
    f(X_i)), which is the current point. A query has all particles.

    :param particles: N, drawn around the first point
    :param spread: standard deviation of the first particles in each coordinate
    :param alpha: inverse temperature, in one over the unit of values
    :param drift: lambda
    :param noise: sigma
    :param step: dt; with drift times dt 1 particles jump to the consensus before noise
    """

    takes_values = True

    def __init__(
        self,
        initial: Sequence[float] | np.ndarray,
        *,
        particles: int = 30,
        spread: float = 1.0,
        alpha: float = 1.0,
        drift: float = 1.0,
        noise: float = 1.0,
        step: float = 0.1,
        anisotropic: bool = True,
        seed: int | None = 0,
    ) -> None:
        super().__init__(initial, seed=seed)
        at_least(2, particles=particles)
        positive(spread=spread, alpha=alpha, drift=drift, step=step)
        if not (np.isfinite(noise) and noise >= 0):
            raise ConfigError(f"noise={noise} must be at least 0 and finite")
        self.alpha, self.drift, self.noise, self.step = alpha, drift, noise, step
        self.anisotropic = anisotropic
        self.particles = self.point + spread * self._rng.standard_normal((particles, self.dimension))

    def _propose(self) -> np.ndarray:
        return self.particles

    def _update(self, candidates: np.ndarray, scores: np.ndarray) -> None:
        weights = np.exp(-self.alpha * (scores - scores.min()))
        consensus = weights @ candidates / weights.sum()
        apart = candidates - consensus
        scale = apart if self.anisotropic else np.linalg.norm(apart, axis=1, keepdims=True)
        drawn = self._rng.standard_normal(candidates.shape)
        self.particles = candidates - self.drift * self.step * apart + self.noise * np.sqrt(self.step) * scale * drawn
        self._point = read_only(consensus)
