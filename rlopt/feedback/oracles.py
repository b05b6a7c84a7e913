"""Oracles that rank the candidates of a question, exactly by returns or as a person might. Uses numpy only.

Noise is composed by wrapping: ``AbstainingOracle(LazyOracle(PlackettLuceOracle(0.2)), 0.1)``. An oracle keeps no state:
all randomness comes from the generator it is given, one of its own for each round.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from rlopt.errors import ConfigError, unknown_name
from rlopt.feedback.ranking import Ranking

FloatArray = npt.NDArray[np.float64]


class Oracle(Protocol):
    """Ranks returns, the highest best."""

    def rank(self, returns: FloatArray, k: int, rng: np.random.Generator) -> Ranking:
        """The ``k`` best of ``returns`` ``[m]``; returns that are not finite are the worst."""
        ...


def spread(returns: FloatArray) -> float:
    """Standard deviation of the finite returns of a round, 0 for fewer than two: the unit of a person's noise."""
    finite = returns[np.isfinite(returns)]
    return float(finite.std()) if len(finite) > 1 else 0.0


def shortened(ranking: Ranking, k: int) -> Ranking:
    """The answer with its first ``k`` candidates ranked; a tie across the k-th place is kept whole."""
    tiers: list[tuple[int, ...]] = []
    rest: list[int] = []
    for tier in ranking.tiers:
        if sum(map(len, tiers)) < k:
            tiers.append(tier)
        else:
            rest.extend(tier)
    return Ranking(tuple(tiers), (*rest, *ranking.unranked))


@dataclass(frozen=True)
class ReturnOracle:
    """The exact ranking; returns that differ by at most ``tie_tolerance`` tie."""

    tie_tolerance: float = 0.0
    """In the unit of returns, >= 0."""

    def __post_init__(self) -> None:
        _check("tie_tolerance", self.tie_tolerance, 0, math.inf)

    def rank(self, returns: FloatArray, k: int, rng: np.random.Generator) -> Ranking:
        """The ``k`` best of ``returns`` ``[m]``; draws nothing from ``rng``."""
        return Ranking.from_values(returns, k, maximize=True, tie_tolerance=self.tie_tolerance)


@dataclass(frozen=True)
class PlackettLuceOracle:
    """Draws the best with probability proportional to exp(return / scale), then the best of the rest, and so on.

    The order of returns with standard Gumbel noise times the scale has this distribution (Yellott 1977).
    """

    temperature: float = 0.2
    """Temperature of the choice, >= 0, in standard deviations of the round's returns; 0 is exact."""
    relative: bool = True
    """False: the scale is the temperature itself, in the unit of returns."""

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0, math.inf)

    def rank(self, returns: FloatArray, k: int, rng: np.random.Generator) -> Ranking:
        """The ``k`` best of ``returns`` ``[m]`` with noise: m Gumbel numbers of ``rng``."""
        scale = self.temperature * (spread(returns) if self.relative else 1.0)
        noise = rng.gumbel(size=len(returns))
        return Ranking.from_values(returns + scale * noise, k, maximize=True)


@dataclass(frozen=True)
class NearTieOracle:
    """Exchanges neighbours of a full ranking whose returns are close, each pair with a probability, from the top down.

    A candidate is exchanged once at most.
    """

    inner: Oracle = dataclasses.field(default_factory=ReturnOracle)
    """Ranks first."""
    closeness: float = 0.2
    """Returns are close within this times the standard deviation of the round's returns, >= 0."""
    probability: float = 0.5
    """Probability of an exchange, in [0, 1]."""

    def __post_init__(self) -> None:
        _check("closeness", self.closeness, 0, math.inf)
        _check("probability", self.probability, 0, 1)

    def rank(self, returns: FloatArray, k: int, rng: np.random.Generator) -> Ranking:
        """The ``k`` best of ``returns`` ``[m]``, after the exchanges; ``rng`` draws one number for each close pair."""
        answer = self.inner.rank(returns, len(returns), rng)
        tiers, limit = list(answer.tiers), self.closeness * spread(returns)
        place = 0
        while place + 1 < len(tiers):
            above, below = tiers[place], tiers[place + 1]
            close = len(above) == len(below) == 1 and abs(returns[above[0]] - returns[below[0]]) <= limit
            if close and rng.random() < self.probability:
                tiers[place], tiers[place + 1] = below, above
                place += 1
            place += 1
        return shortened(Ranking(tuple(tiers), answer.unranked, answer.abstain), k) if tiers else answer


@dataclass(frozen=True)
class LazyOracle:
    """Sometimes ranks fewer than k candidates: 1 to k - 1 of the best, each number with equal probability."""

    inner: Oracle = dataclasses.field(default_factory=ReturnOracle)
    """Ranks."""
    probability: float = 0.3
    """Probability of fewer, in [0, 1]."""

    def __post_init__(self) -> None:
        _check("probability", self.probability, 0, 1)

    def rank(self, returns: FloatArray, k: int, rng: np.random.Generator) -> Ranking:
        """The ``k`` best of ``returns`` ``[m]``, or fewer."""
        if k > 1 and rng.random() < self.probability:
            k = int(rng.integers(1, k))
        return self.inner.rank(returns, k, rng)


@dataclass(frozen=True)
class AbstainingOracle:
    """Sometimes has no opinion."""

    inner: Oracle = dataclasses.field(default_factory=ReturnOracle)
    """Ranks otherwise."""
    probability: float = 0.05
    """Probability of no opinion, in [0, 1]."""

    def __post_init__(self) -> None:
        _check("probability", self.probability, 0, 1)

    def rank(self, returns: FloatArray, k: int, rng: np.random.Generator) -> Ranking:
        """The ``k`` best of ``returns`` ``[m]``, or an answer without opinion."""
        if rng.random() < self.probability:
            return Ranking((), abstain=True)
        return self.inner.rank(returns, k, rng)


def person(
    temperature: float = 0.2,
    closeness: float = 0.2,
    flip_probability: float = 0.3,
    lazy_probability: float = 0.2,
    abstain_probability: float = 0.05,
) -> AbstainingOracle:
    """A simulated person: all the noise of this module, one within the other."""
    near = NearTieOracle(PlackettLuceOracle(temperature), closeness, flip_probability)
    return AbstainingOracle(LazyOracle(near, lazy_probability), abstain_probability)


class OracleFiles:
    """Oracles of this module as plain JSON."""

    KINDS: ClassVar[dict[str, Any]] = {
        kind.__name__: kind for kind in (ReturnOracle, PlackettLuceOracle, NearTieOracle, LazyOracle, AbstainingOracle)
    }

    @classmethod
    def encode(cls, oracle: Any) -> dict[str, Any] | None:
        """A description; None for an oracle that is not of this module, or wraps one that is not."""
        if cls.KINDS.get(type(oracle).__name__) is not type(oracle):
            return None
        values = {field.name: getattr(oracle, field.name) for field in dataclasses.fields(oracle)}
        if "inner" in values:
            values["inner"] = cls.encode(values["inner"])
            if values["inner"] is None:
                return None
        return {"oracle": type(oracle).__name__, **values}

    @classmethod
    def decode(cls, description: Any) -> Oracle:
        """The oracle of :meth:`encode`; raises ConfigError, TypeError or ValueError for anything else."""
        values = dict(description)
        name = values.pop("oracle")
        if name not in cls.KINDS:
            raise unknown_name("oracle", str(name), cls.KINDS)
        if "inner" in values:
            values["inner"] = cls.decode(values["inner"])
        oracle: Oracle = cls.KINDS[name](**values)
        return oracle


def _check(name: str, value: float, low: float, high: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not (number and low <= value <= high):
        end = f"{high:g}]" if math.isfinite(high) else "inf)"
        raise ConfigError(f"{name} is {value!r}: give a number in [{low:g}, {end}")
