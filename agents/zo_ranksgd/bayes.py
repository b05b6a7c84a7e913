"""Bayesian optimisation from preferences, for few dimensions: a Gaussian process of what people like, by ask and tell.

Needs ``pip install 'rlopt[bayes]'``, which brings botorch; its imports wait until a model is fitted.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from rlopt.agents.zo_ranksgd.evolution import EvolutionStrategy
from rlopt.agents.zo_ranksgd.query import Query
from rlopt.errors import ConfigError
from rlopt.feedback.ranking import Ranking

MOST_DIMENSIONS = 20
"""Beyond, the model learns too little from the answers that it can hold."""
MOST_POINTS = 240
"""Points that the model holds; a fit takes the cube of their number. The oldest queries are left out."""
REACH = 10.0
"""Half the width of the box that is searched around the start, in units of ``smoothing``."""
PROPOSALS = 500
"""Points among which a sample of the utility is maximised."""


class PreferentialBO(EvolutionStrategy):
    """Thompson sampling on a Gaussian process of preferences (Chu and Ghahramani 2005; botorch's ``PairwiseGP``).

    A query shows m - 1 new points and, last, the best point so far. In the first query the new points are drawn around
    the start; later each maximises a sample of the utility, over points of the whole box and near the best. Every pair
    of candidates that an answer orders is a comparison; those of several annotators all count, even if they contradict
    each other. The current point is the one shown so far with the largest mean utility.

    :raises rlopt.errors.ConfigError: from the constructor, for more than :data:`MOST_DIMENSIONS` searched dimensions
        and where botorch is not installed
    """

    method = "bayes"
    least = 2

    def __init__(self, initial: Sequence[float] | np.ndarray, **settings: Any) -> None:
        super().__init__(initial, **settings)
        if self.searched > MOST_DIMENSIONS:
            raise ConfigError(
                f"bayes searches at most {MOST_DIMENSIONS} dimensions, not {self.searched}: choose another search, or "
                f"a subspace of {MOST_DIMENSIONS} or fewer"
            )
        try:
            import botorch  # noqa: F401 - here, so that its lack is told before anybody answers
        except ImportError as error:
            raise ConfigError(f"bayes needs botorch ({error}): pip install 'rlopt[bayes]'") from None
        kept = max(1, MOST_POINTS // self.m)
        self._shown = np.zeros((kept, self.m, self.searched))
        self._wins = np.zeros((kept, self.m, self.m))
        self._told = 0
        self._fitted: tuple[int, Any] | None = None
        self._here = np.zeros(self.searched)

    def _drawn(self) -> np.ndarray:
        count = self.m - 1
        if not self._told:
            others = self._here + self._rng.standard_normal((count, self.searched)) * REACH / 4
            others = np.clip(others, -REACH, REACH)
        else:
            others = self._sampled_best(count)
        return np.concatenate([others, self._here[None]]) - self._here

    def _current(self) -> int | None:
        return self.m - 1

    def _update(self, query: Query, answers: list[Ranking], weights: np.ndarray) -> np.ndarray:
        assert self._steps is not None
        row = self._told % len(self._shown)
        self._shown[row], self._wins[row] = self._here + self._steps, sum(map(_wins_of, answers))
        self._told += 1
        shown = self._shown[: min(self._told, len(self._shown))].reshape(-1, self.searched)
        with _quiet():
            utility = self._model().posterior(self._unit(shown)).mean.detach().numpy().reshape(-1)
        before, self._here = self._here, shown[int(np.argmax(utility))].copy()
        return np.asarray(self.smoothing * (self._here - before))

    def _sampled_best(self, count: int) -> np.ndarray:
        """(count, s): different maximisers of samples of the utility."""
        import torch

        wide = self._rng.uniform(-REACH, REACH, (PROPOSALS // 2, self.searched))
        scales = 10.0 ** self._rng.uniform(-1.5, 0.5, (PROPOSALS // 2, 1))
        near = self._here + scales * self._rng.standard_normal((PROPOSALS // 2, self.searched))
        options = np.clip(np.concatenate([wide, near]), -REACH, REACH)
        seed, model = int(self._rng.integers(2**31)), self._model()
        with torch.no_grad(), torch.random.fork_rng(), _quiet():
            torch.manual_seed(seed)
            samples = model.posterior(self._unit(options)).rsample(torch.Size([count]))[..., 0].numpy()
        chosen: list[int] = []
        for sample in samples:
            sample[chosen] = -np.inf
            chosen.append(int(np.argmax(sample)))
        return np.asarray(options[chosen])

    def _model(self) -> Any:
        """The Gaussian process of all answers that are held, of largest marginal likelihood."""
        import torch
        from botorch.fit import fit_gpytorch_mll
        from botorch.models.pairwise_gp import PairwiseGP, PairwiseLaplaceMarginalLogLikelihood

        if self._fitted is not None and self._fitted[0] == self._told:
            return self._fitted[1]
        held = min(self._told, len(self._shown))
        rounds, better, worse = np.nonzero(self._wins[:held])
        times = self._wins[rounds, better, worse].astype(int)
        pairs = np.stack([rounds * self.m + better, rounds * self.m + worse], axis=1).repeat(times, axis=0)
        points = self._unit(self._shown[:held].reshape(-1, self.searched))
        with torch.random.fork_rng(), _quiet():
            torch.manual_seed(0)
            model = PairwiseGP(points, torch.from_numpy(pairs))
            fit_gpytorch_mll(PairwiseLaplaceMarginalLogLikelihood(model.likelihood, model))
        self._fitted = self._told, model.eval()
        return self._fitted[1]

    @staticmethod
    def _unit(points: np.ndarray) -> Any:
        """The box as the unit cube, as a tensor of float64."""
        import torch

        return torch.from_numpy(np.ascontiguousarray((points + REACH) / (2 * REACH)))

    # ---- state

    def _numbers(self) -> dict[str, float]:
        return {**super()._numbers(), "told": float(self._told)}

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"shown": self._shown, "wins": self._wins, "here": self._here}

    def _put(self, numbers: dict[str, float], arrays: dict[str, np.ndarray]) -> None:
        super()._put(numbers, arrays)
        self._told, self._fitted = int(numbers["told"]), None
        self._shown, self._wins, self._here = arrays["shown"], arrays["wins"], arrays["here"]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what botorch says of jitter and of inputs that are not standardised."""
    from botorch.exceptions.warnings import BotorchWarning
    from linear_operator.utils.warnings import NumericalWarning

    with warnings.catch_warnings():
        for kind in (BotorchWarning, NumericalWarning):
            warnings.simplefilter("ignore", kind)
        yield


def _wins_of(answer: Ranking) -> np.ndarray:
    """[m, m]: 1 where the answer says that the first is better than the second."""
    m = sum(map(len, answer.tiers)) + len(answer.unranked)
    places = np.full(m, len(answer.tiers))
    for place, tier in enumerate(answer.tiers):
        places[list(tier)] = place
    return np.asarray(places[:, None] < places[None, :], np.float64)
