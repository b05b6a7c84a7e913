"""Evolution strategies that need rankings only, in the ask and tell form of ZO-RankSGD. Numpy only.

Both keep their whole state as numbers and arrays, so that a study continues bit for bit; the package ``cma`` keeps its
state as a pickle, which rlopt does not write.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from rlopt.agents.zo_ranksgd import saving
from rlopt.agents.zo_ranksgd.checks import check_size
from rlopt.agents.zo_ranksgd.line_search import winner
from rlopt.agents.zo_ranksgd.query import NO_EDGES, POPULATION, Outcome, Query, Search, make_basis, read_only
from rlopt.errors import AnswerError, CheckpointError, NonFiniteError, one_line
from rlopt.feedback.ranking import Ranking, total_weights
from rlopt.settings.fields import Range, check_setting
from rlopt.state.generator import capture
from rlopt.state.generator import restore as restore_generator

FULL_COVARIANCE = 100
"""Dimensions up to which CMA-ES learns a whole covariance; above, its diagonal (Ros and Hansen 2008)."""
_COMMON = {"format", "version", "method", "settings", "iteration", "oracle_points", "asked", "random", "numbers"}
FORMAT, VERSION = "rlopt-ranked-evolution", 1


class EvolutionStrategy(Search):
    """A search whose queries are generations: points drawn around the current one, of which the best are ranked.

    :param initial: [d], the first point, finite
    :param m: candidates of a query
    :param k: how many best of them are ranked, 1 to m
    :param smoothing: the first standard deviation, in the unit of the point
    :param subspace: as :class:`rlopt.ZORankSGD`'s
    :param seed: seed of the random numbers; None for new ones each time
    :raises rlopt.errors.ConfigError: a setting is out of its range
    :raises rlopt.errors.NonFiniteError: the first point or the basis is not finite
    """

    method: str
    least: int
    """Candidates of a query at least."""

    def __init__(
        self,
        initial: Sequence[float] | np.ndarray,
        *,
        m: int = 10,
        k: int | None = None,
        smoothing: float = 0.1,
        subspace: int | np.ndarray | None = None,
        seed: int | None = 0,
    ) -> None:
        super().__init__(initial, seed)
        self.m: int = check_setting("m", m, Annotated[int, Range(ge=self.least)])
        self.k: int = check_setting("k", self.m if k is None else k, Annotated[int, Range(ge=1, le=self.m)])
        self.smoothing: float = check_setting("smoothing", smoothing, Annotated[float, Range(gt=0)])
        check_size("m", self.m, self.dimension)
        self._basis = make_basis(subspace, self.dimension, self._rng)
        self.searched = self.dimension if self._basis is None else self._basis.shape[1]
        """Dimensions that are searched."""
        self._sigma = self.smoothing
        self._steps: np.ndarray | None = None

    def ask(self) -> Query:
        """The query to be ranked now; the same one until it is told."""
        if self._query is None:
            self._steps = self._drawn()
            candidates = read_only(self._point + self._in_full(self._sigma * self._steps))
            self._query = self._query_of(candidates)
        return self._query

    def tell(self, answer: Ranking | Sequence[Ranking]) -> Outcome:
        """Takes the answer to the query that was asked, or one of each of several annotators.

        :raises rlopt.errors.AnswerError: nothing was asked, or an answer does not fit the query; nothing changes then
        :raises rlopt.errors.NonFiniteError: the step leaves the range of numbers
        """
        query = self._query
        if query is None:
            raise AnswerError("nothing was asked: call ask() first, and tell its answer once")
        weights, edges = total_weights(answer, len(query.candidates))
        answers = [answer] if isinstance(answer, Ranking) else list(answer)
        said = [each for each in answers if each.edge_weights(len(query.candidates))[1]]
        moved, norm, message = False, 0.0, "no update: " + ("the answers cancel" if edges else NO_EDGES)
        if weights.any():
            before = self.point
            centre = self._point + self._in_full(self._update(query, said, weights))
            if not np.isfinite(centre).all():
                raise NonFiniteError(f"the step leaves the range of numbers: lower smoothing={self.smoothing}")
            if (centre != self._point).any():
                self._point = read_only(centre)
            norm = float(np.linalg.norm(self.point - before))
            moved = norm > 0
            message = f"moved by {norm:.3g}" if moved else "the current point is the best"
        self._iteration += 1
        self._oracle_points += len(query.candidates)
        self._query = self._steps = None
        return Outcome(POPULATION, moved, edges, norm, message)

    def _drawn(self) -> np.ndarray:
        """Steps [m, s] in units of sigma."""
        raise NotImplementedError

    def _current(self) -> int | None:
        """Index of the current point among the candidates."""
        return None

    def _update(self, query: Query, answers: list[Ranking], weights: np.ndarray) -> np.ndarray:
        """Learns from answers of which each prefers something; returns the step [s] of the point.

        :param weights: [m], summed over the answers; the lowest is the best candidate
        """
        raise NotImplementedError

    def _numbers(self) -> dict[str, float]:
        """What the search has learned, by name, besides :meth:`_arrays`."""
        return {"sigma": self._sigma}

    def _arrays(self) -> dict[str, np.ndarray]:
        """What it has learned as arrays of float64."""
        return {}

    def _query_of(self, candidates: np.ndarray) -> Query:
        return Query(POPULATION, self._iteration, candidates, self.k, self._current())

    def _in_full(self, coefficients: np.ndarray) -> np.ndarray:
        """[.., s] in the subspace to [.., d]."""
        return coefficients if self._basis is None else coefficients @ self._basis.T

    # ---- state

    def settings(self) -> dict[str, Any]:
        """What the search was made with, for JSON."""
        subspace = None if self._basis is None else self.searched
        own = {"m": self.m, "k": self.k, "smoothing": self.smoothing}
        return {"dimension": self.dimension, "subspace": subspace, **own}

    def state_dict(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(values for JSON, arrays): all that the search depends on, also between ask and tell. Copies."""
        state = {
            "format": FORMAT,
            "version": VERSION,
            "method": self.method,
            "settings": self.settings(),
            "iteration": self._iteration,
            "oracle_points": self._oracle_points,
            "asked": self._query is not None,
            "random": capture(self._rng),
            "numbers": self._numbers(),
        }
        arrays = {"point": self._point, **self._arrays()}
        if self._basis is not None:
            arrays["basis"] = self._basis
        if self._query is not None and self._steps is not None:
            arrays |= {"candidates": self._query.candidates, "steps": self._steps}
        return state, {name: array.copy() for name, array in arrays.items()}

    def load_state_dict(self, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Continues bit for bit where :meth:`state_dict` was called.

        :raises rlopt.errors.CheckpointError: it is malformed, or of a search with other settings; nothing changes then
        """
        name = type(self).__name__
        if not isinstance(state, dict) or (state.get("format"), state.get("method")) != (FORMAT, self.method):
            raise CheckpointError(f"this is no state of {name}")
        if state.get("version") != VERSION:
            what = one_line(repr(state.get("version")))
            raise CheckpointError(f"the state has version {what}, rlopt reads {VERSION}")
        if set(state) != _COMMON:
            raise CheckpointError(f"the state of {name} is malformed: {sorted(_COMMON ^ set(state), key=str)[0]}")
        saving.check_settings(name, self.settings(), state["settings"])
        counters = [state["iteration"], state["oracle_points"]]
        if not all(type(value) is int and value >= 0 for value in counters) or type(state["asked"]) is not bool:
            raise CheckpointError(f"the state of {name} is malformed: a counter is not a whole number")
        numbers, own = state["numbers"], self._numbers()
        if not isinstance(numbers, dict) or set(numbers) != set(own):
            raise CheckpointError(f"the state of {name} is malformed: numbers")
        if not all(type(value) is float and math.isfinite(value) and value >= 0 for value in numbers.values()):
            raise CheckpointError(f"the state of {name} is malformed: a number is none, or not finite")
        shapes = {"point": self._point.shape, **{key: array.shape for key, array in self._arrays().items()}}
        if self._basis is not None:
            shapes["basis"] = self._basis.shape
        if state["asked"]:
            shapes |= {"candidates": (self.m, self.dimension), "steps": (self.m, self.searched)}
        found = saving.checked_arrays(name, arrays, shapes)
        rng = np.random.Generator(np.random.PCG64(0))
        try:
            restore_generator(rng, state["random"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"the state of {name} is malformed: {one_line(error)}") from None
        self._rng = rng
        self._iteration, self._oracle_points = counters
        self._point, self._basis = read_only(found["point"]), found.get("basis")
        self._put(numbers, found)
        self._steps, self._query = found.get("steps"), None
        if state["asked"]:
            self._query = self._query_of(read_only(found["candidates"]))

    def _put(self, numbers: dict[str, float], arrays: dict[str, np.ndarray]) -> None:
        """Takes what :meth:`_numbers` and :meth:`_arrays` gave."""
        self._sigma = numbers["sigma"]

    def digest(self) -> str:
        """SHA-256 of the whole state, in hexadecimal digits."""
        return saving.digest(*self.state_dict())


class RankedCMAES(EvolutionStrategy):
    """CMA-ES (Hansen, *The CMA Evolution Strategy: A Tutorial*, arXiv 1604.00772, with negative weights).

    The mean of the normal distribution is the current point. A candidate has the weight of its rank; tied or unranked
    candidates share the mean weight of their places, and the weights of several annotators are averaged. Above
    :data:`FULL_COVARIANCE` dimensions only the diagonal of the covariance is learned.
    """

    method = "cmaes"
    least = 3
    _axes: np.ndarray | None

    def __init__(self, initial: Sequence[float] | np.ndarray, **settings: Any) -> None:
        super().__init__(initial, **settings)
        n = self.searched
        self.diagonal = n > FULL_COVARIANCE
        self.spread_over(1)
        self._chi = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))  # E |N(0, I)|
        self._path_sigma, self._path_c = np.zeros(n), np.zeros(n)
        self._covariance = np.ones(n) if self.diagonal else np.eye(n)
        self._decompose()

    def spread_over(self, groups: int) -> None:
        """Sets the constants for updates by ``groups`` queries at once, which weigh as one with as many candidates."""
        n, m = self.searched, self.m
        raw = math.log((m + 1) / 2) - np.log(np.arange(1, m + 1))  # (49)
        positive, negative = np.maximum(raw, 0.0), np.minimum(raw, 0.0)
        self._positive = positive / positive.sum()
        mu_eff = groups / float((self._positive**2).sum())
        self._c_sigma = (mu_eff + 2) / (n + mu_eff + 5)  # (55)
        self._damping = 1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (n + 1)) - 1) + self._c_sigma
        self._c_c = (4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n)  # (56)
        faster = (n + 2) / 3 if self.diagonal else 1.0
        self._c_1 = min(0.5, faster * 2 / ((n + 1.3) ** 2 + mu_eff))  # (57)
        rate = 2 * (0.25 + mu_eff + 1 / mu_eff - 2) / ((n + 2) ** 2 + mu_eff)
        self._c_mu = min(1 - self._c_1, faster * rate)  # (58)
        mu_eff_negative = groups * float(negative.sum()) ** 2 / float((negative**2).sum())
        alpha = min(
            1 + self._c_1 / self._c_mu,
            1 + 2 * mu_eff_negative / (mu_eff + 2),
            (1 - self._c_1 - self._c_mu) / (n * self._c_mu),
        )  # (50) to (53)
        self._negative = alpha * negative / -negative.sum()

    def _decompose(self) -> None:
        """C = B D^2 B', of which B and D are kept."""
        if self.diagonal:
            self._scales, self._axes = np.sqrt(self._covariance), None
            return
        values, self._axes = np.linalg.eigh(self._covariance)
        self._scales = np.sqrt(np.maximum(values, 1e-20 * max(float(values[-1]), 1e-300)))

    def _drawn(self) -> np.ndarray:
        return self._shaped(self._rng.standard_normal((self.m, self.searched)))

    def _shaped(self, normal: np.ndarray) -> np.ndarray:
        """C^(1/2) z of z [.., s]."""
        return normal * self._scales if self._axes is None else normal * self._scales @ self._axes.T

    def _whitened(self, steps: np.ndarray) -> np.ndarray:
        """C^(-1/2) y of y [.., s]."""
        if self._axes is None:
            return np.asarray(steps / self._scales)
        return np.asarray((steps @ self._axes / self._scales) @ self._axes.T)

    def _update(self, query: Query, answers: list[Ranking], weights: np.ndarray) -> np.ndarray:
        assert self._steps is not None
        positive, negative = (np.mean(found, axis=0) for found in self.weights_of(answers))
        return self.learn(self._steps, positive, negative)

    def weights_of(self, answers: Sequence[Ranking]) -> tuple[np.ndarray, np.ndarray]:
        """[r, m] each: the positive and the negative weights that ``r`` answers give the candidates of a query."""
        return (
            np.stack([by_rank(answer, self._positive) for answer in answers]),
            np.stack([by_rank(answer, self._negative) for answer in answers]),
        )

    def learn(self, steps: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
        """Takes weighted steps [c, s] in units of sigma, the positive weights summing to 1; the mean's step [s]."""
        n = self.searched
        mu_eff = 1 / float((positive**2).sum())  # of the weights as ties have left them
        move = positive @ steps  # (41)
        rate = self._c_sigma
        self._path_sigma = (1 - rate) * self._path_sigma + math.sqrt(rate * (2 - rate) * mu_eff) * self._whitened(move)
        length = float(np.linalg.norm(self._path_sigma))
        settled = math.sqrt(1 - (1 - rate) ** (2 * (self._iteration + 1)))
        goes_on = length / settled < (1.4 + 2 / (n + 1)) * self._chi
        rate = self._c_c
        self._path_c = (1 - rate) * self._path_c + goes_on * math.sqrt(rate * (2 - rate) * mu_eff) * move  # (45)
        squares = (self._whitened(steps) ** 2).sum(axis=1)
        scaled = positive + negative * n / np.maximum(squares, 1e-300)  # (46), which keeps C positive definite
        total = float(positive.sum() + negative.sum())
        kept = 1 + self._c_1 * (not goes_on) * self._c_c * (2 - self._c_c) - self._c_1 - self._c_mu * total
        if self.diagonal:
            learned = self._c_1 * self._path_c**2 + self._c_mu * (scaled @ steps**2)
        else:
            learned = self._c_1 * np.outer(self._path_c, self._path_c) + self._c_mu * (steps.T * scaled) @ steps
        former = self._sigma
        self._covariance = kept * self._covariance + learned  # (47)
        self._sigma *= math.exp(min(1.0, self._c_sigma / self._damping * (length / self._chi - 1)))  # (44)
        self._decompose()
        return np.asarray(former * move)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"path_sigma": self._path_sigma, "path_c": self._path_c, "covariance": self._covariance}

    def _put(self, numbers: dict[str, float], arrays: dict[str, np.ndarray]) -> None:
        super()._put(numbers, arrays)
        self._path_sigma, self._path_c = arrays["path_sigma"], arrays["path_c"]
        self._covariance = arrays["covariance"]
        self._decompose()


class MirroredCMAES(RankedCMAES):
    """CMA-ES whose candidates are pairs on opposite sides of the mean (Brockhoff et al. 2010, PPSN XI).

    The worse of a pair has no positive weight (pairwise selection, Auger, Brockhoff, Hansen 2011, GECCO), because the
    sum of opposite steps would say nothing. An odd candidate stands alone.
    """

    method = "mirrored_cmaes"

    def _incumbents(self) -> np.ndarray:
        """Steps [i, s] of candidates that are shown again, before the pairs."""
        return np.zeros((0, self.searched))

    def _drawn(self) -> np.ndarray:
        again = self._incumbents()
        pairs, odd = divmod(self.m - len(again), 2)
        steps = self._shaped(self._rng.standard_normal((pairs + odd, self.searched)))
        return np.concatenate([again, steps[:pairs], -steps[:pairs], steps[pairs:]])

    def weights_of(self, answers: Sequence[Ranking]) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`RankedCMAES.weights_of`; the worse of a pair has no positive weight, in a tie both have."""
        positive, negative = super().weights_of(answers)
        first = len(self._incumbents())
        pairs = (self.m - first) // 2
        one, other = positive[:, first : first + pairs], positive[:, first + pairs : first + 2 * pairs]
        better, worse = one >= other, one <= other
        one *= better
        other *= worse
        return positive / positive.sum(axis=1, keepdims=True), negative


class ElitistCMAES(MirroredCMAES):
    """Mirrored CMA-ES whose queries also hold the mean and the best candidate of the query before, the elite.

    Both take part in its learning, the elite as an injected solution (Hansen, arXiv 1110.4181). The current point is
    the one of them that has been ranked better more often lately: the elite where candidates differ much between
    neighbours, the mean where the best of a query was only lucky. For exact rankings, one query at a time.
    """

    method = "elitist_cmaes"
    least = 4

    def __init__(self, initial: Sequence[float] | np.ndarray, **settings: Any) -> None:
        super().__init__(initial, **settings)
        self._elite = np.zeros(self.searched)
        """[s], from the mean; zeros where they are the same."""
        self._won = self._lost = 0.0
        """Comparisons of the elite with the mean, the latest weighing most; a tie is half of each."""

    @property
    def point(self) -> np.ndarray:
        """The current point, [d] float64, read-only."""
        return read_only(self._point + self._in_full(self._elite)) if self._won > self._lost else self._point

    def _incumbents(self) -> np.ndarray:
        both = np.stack([np.zeros(self.searched), self._elite / self._sigma])
        return both if self._elite.any() else both[:1]

    def _current(self) -> int | None:
        return int(self._won > self._lost and bool(self._elite.any()))

    def _update(self, query: Query, answers: list[Ranking], weights: np.ndarray) -> np.ndarray:
        assert self._steps is not None
        former, steps, best = self._sigma, self._steps.copy(), int(np.argmin(weights))
        elite = former * steps[best]
        if self._elite.any():
            won = float(1 + np.sign(weights[0] - weights[1])) / 2
            self._won, self._lost = 0.7 * self._won + won, 0.7 * self._lost + 1 - won
            if weights[1] == weights[best]:
                elite = self._elite
            longest = math.sqrt(self.searched) + 2 * self.searched / (self.searched + 2)
            steps[1] *= min(1.0, longest / max(float(np.linalg.norm(self._whitened(steps[1]))), 1e-300))
        positive, negative = (np.mean(found, axis=0) for found in self.weights_of(answers))
        move = self.learn(steps, positive, negative)
        self._elite = elite - move
        return move

    def _numbers(self) -> dict[str, float]:
        return {**super()._numbers(), "won": self._won, "lost": self._lost}

    def _arrays(self) -> dict[str, np.ndarray]:
        return {**super()._arrays(), "elite": self._elite}

    def _put(self, numbers: dict[str, float], arrays: dict[str, np.ndarray]) -> None:
        super()._put(numbers, arrays)
        self._won, self._lost, self._elite = numbers["won"], numbers["lost"], arrays["elite"]


class OnePlusLambda(EvolutionStrategy):
    """The elitist (1 + lambda)-ES: m - 1 points around the current one, which is the last candidate itself.

    The current point is ranked again in every query, with its offspring, so that a lucky answer does not last. The step
    follows the share p of offspring that were ranked better (Igel, Hansen, Roth 2007, section 2, with their constants):
    sigma <- sigma exp((p' - p*) / (D (1 - p*))), with p' a running mean of p.
    """

    method = "one_plus_lambda"
    least = 2

    def __init__(self, initial: Sequence[float] | np.ndarray, **settings: Any) -> None:
        super().__init__(initial, **settings)
        offspring = self.m - 1
        self._target = 1 / (5 + math.sqrt(offspring) / 2)
        self._damping = 1 + self.searched / (2 * offspring)
        self._rate = self._target * offspring / (2 + self._target * offspring)
        self._success = self._target

    def _drawn(self) -> np.ndarray:
        drawn = self._rng.standard_normal((self.m - 1, self.searched))
        return np.concatenate([drawn, np.zeros((1, self.searched))])

    def _current(self) -> int | None:
        return self.m - 1

    def _update(self, query: Query, answers: list[Ranking], weights: np.ndarray) -> np.ndarray:
        assert self._steps is not None
        last = self.m - 1
        better = np.mean([share_better(answer, last) for answer in answers]) / last
        former = self._sigma
        self._success = float((1 - self._rate) * self._success + self._rate * better)
        excess = (self._success - self._target) / (1 - self._target)
        self._sigma *= math.exp(excess / self._damping)
        return np.asarray(former * self._steps[winner(weights, last)])

    def _numbers(self) -> dict[str, float]:
        return {**super()._numbers(), "success": self._success}

    def _put(self, numbers: dict[str, float], arrays: dict[str, np.ndarray]) -> None:
        super()._put(numbers, arrays)
        self._success = numbers["success"]


def by_rank(answer: Ranking, weights: np.ndarray) -> np.ndarray:
    """[m] the weight of each candidate's rank; those of a tier, and the unranked, share the mean of their places'.

    :param weights: [m], of the best place first
    """
    found = np.full(len(weights), weights.mean())
    before = 0
    for tier in (*answer.tiers, answer.unranked):
        if tier:
            found[list(tier)] = weights[before : before + len(tier)].mean()
            before += len(tier)
    return found


def share_better(answer: Ranking, index: int) -> int:
    """How many candidates an answer says to be better than that of ``index``."""
    before = 0
    for tier in answer.tiers:
        if index in tier:
            return before
        before += len(tier)
    return before
