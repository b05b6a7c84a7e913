"""Evolution strategies: OpenAI's, by ranks, and augmented random search, by values."""

from collections.abc import Sequence

import numpy as np

from rlopt.agents.zo_ranksgd.comparators.base import Peer, at_least, positive
from rlopt.agents.zo_ranksgd.query import read_only
from rlopt.errors import ConfigError


class OpenAIES(Peer):
    """Salimans et al. 2017 (arXiv 1703.03864) with centred ranks: x <- x + eta / (n sigma) sum_i c_i xi_i.

    c is .5 for the best candidate and -.5 for the worst, equally spaced. With Adam the sum is its gradient.

    :param population: n, candidates of a query
    :param smoothing: sigma
    :param learning_rate: eta
    :param antithetic: whether perturbations come in pairs xi, -xi
    :param adam: whether steps are Adam's (.9, .999, 1e-8), as in the paper's code, or plain
    """

    takes_values = False

    def __init__(
        self,
        initial: Sequence[float] | np.ndarray,
        *,
        population: int = 30,
        smoothing: float = 0.1,
        learning_rate: float = 0.01,
        antithetic: bool = True,
        adam: bool = True,
        seed: int | None = 0,
    ) -> None:
        super().__init__(initial, seed=seed)
        at_least(2, population=population)
        positive(smoothing=smoothing, learning_rate=learning_rate)
        if antithetic and population % 2:
            raise ConfigError(f"population={population} must be even, for pairs of perturbations")
        self.population, self.smoothing, self.learning_rate = population, smoothing, learning_rate
        self.antithetic, self.adam = antithetic, adam
        self._perturbations = np.zeros((population, self.dimension))
        self._mean, self._mean_square = np.zeros(self.dimension), np.zeros(self.dimension)

    def _propose(self) -> np.ndarray:
        drawn = self._rng.standard_normal((self.population // (2 if self.antithetic else 1), self.dimension))
        self._perturbations = np.concatenate([drawn, -drawn]) if self.antithetic else drawn
        return self.point + self.smoothing * self._perturbations

    def _update(self, candidates: np.ndarray, scores: np.ndarray) -> None:
        centred = 0.5 - scores / (self.population - 1)
        ascent = centred @ self._perturbations / (self.population * self.smoothing)
        if self.adam:
            steps = self.iteration + 1
            self._mean = 0.9 * self._mean + 0.1 * ascent
            self._mean_square = 0.999 * self._mean_square + 0.001 * ascent**2
            ascent = (self._mean / (1 - 0.9**steps)) / (np.sqrt(self._mean_square / (1 - 0.999**steps)) + 1e-8)
        self._point = read_only(self.point + self.learning_rate * ascent)


class ARS(Peer):
    """Augmented random search V1-t (Mania et al. 2018, arXiv 1803.07055), by values.

    x <- x - eta / (b s) sum over the b best pairs of [f(x + nu xi) - f(x - nu xi)] xi, where s is the standard
    deviation of the 2 b values used; pairs are ordered by their better value.

    :param directions: N; a query has 2 N candidates
    :param top: b, pairs that are used
    :param smoothing: nu
    :param learning_rate: eta
    """

    takes_values = True

    def __init__(
        self,
        initial: Sequence[float] | np.ndarray,
        *,
        directions: int = 8,
        top: int = 4,
        smoothing: float = 0.01,
        learning_rate: float = 0.02,
        seed: int | None = 0,
    ) -> None:
        super().__init__(initial, seed=seed)
        at_least(1, directions=directions, top=top)
        positive(smoothing=smoothing, learning_rate=learning_rate)
        if top > directions:
            raise ConfigError(f"top={top} is more than directions={directions}: at most all pairs are used")
        self.directions, self.top = directions, top
        self.smoothing, self.learning_rate = smoothing, learning_rate
        self._perturbations = np.zeros((directions, self.dimension))

    def _propose(self) -> np.ndarray:
        self._perturbations = self._rng.standard_normal((self.directions, self.dimension))
        return np.concatenate(
            [self.point + self.smoothing * self._perturbations, self.point - self.smoothing * self._perturbations]
        )

    def _update(self, candidates: np.ndarray, scores: np.ndarray) -> None:
        plus, minus = scores.reshape(2, self.directions)
        used = np.argsort(np.minimum(plus, minus), kind="stable")[: self.top]
        spread = float(np.std(np.concatenate([plus[used], minus[used]])))
        if spread == 0:
            return
        slope = (plus[used] - minus[used]) @ self._perturbations[used] / (self.top * spread)
        self._point = read_only(self.point - self.learning_rate * slope)
