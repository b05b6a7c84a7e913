"""CMA-ES through the package ``cma``, given ranks only: the peer with equal information."""

from collections.abc import Sequence

import numpy as np

from rlopt.agents.zo_ranksgd.comparators.base import Peer, at_least, positive
from rlopt.agents.zo_ranksgd.query import read_only
from rlopt.errors import ConfigError


class CMAES(Peer):
    """Hansen's ``cma.CMAEvolutionStrategy`` with mean ranks as fitness. The mean of its normal is the current point.

    Needs ``pip install cma`` (the extra ``test`` has it). O(d^2) memory.

    :param population: candidates of a query; None for its default 4 + 3 log d
    :param smoothing: the first standard deviation
    """

    takes_values = False

    def __init__(
        self,
        initial: Sequence[float] | np.ndarray,
        *,
        population: int | None = None,
        smoothing: float = 1.0,
        seed: int | None = 0,
    ) -> None:
        super().__init__(initial, seed=seed)
        positive(smoothing=smoothing)
        try:
            import cma
        except ModuleNotFoundError:
            raise ConfigError("CMA-ES needs the package cma: pip install cma") from None
        # cma takes 0 for a seed from the clock, and seeds numpy's global stream unless it is given a generator.
        options = {"verbose": -9, "seed": np.nan, "randn": self._standard_normal}
        if population is not None:
            at_least(3, population=population)
            options["popsize"] = population
        self._strategy = cma.CMAEvolutionStrategy(self.point.copy(), smoothing, options)

    def _standard_normal(self, *shape: int) -> np.ndarray:
        return self._rng.standard_normal(shape)

    def _propose(self) -> np.ndarray:
        return np.array(self._strategy.ask())

    def _update(self, candidates: np.ndarray, scores: np.ndarray) -> None:
        self._strategy.tell(list(candidates), scores.tolist())
        self._point = read_only(np.array(self._strategy.mean, np.float64))
