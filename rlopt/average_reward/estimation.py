"""The gain of a policy from one long run: batch means, whose interval knows that rewards are correlated."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rlopt.errors import ConfigError, NonFiniteError

MIN_BATCHES = 20
"""Fewer batches give a Student factor that is worth nothing; more than this are kept while batches are correlated."""


@dataclass(frozen=True)
class GainEstimate:
    """The mean reward of one long run with an interval."""

    gain: float
    low: float
    high: float
    n_steps: int
    """Rewards in the estimate, of all chains together."""
    n_batches: int
    batch_size: int
    batch_correlation: float
    """Lag-1 correlation of the batch means: near 0 where batches are long beside the memory of the chain."""
    reliable: bool
    """False if the batches were still correlated when they became too few: take more steps."""


def estimate_gain(rewards: npt.ArrayLike, confidence: float = 0.95) -> GainEstimate:
    """The long-run mean reward with a Student interval from non-overlapping batch means.

    Batches are doubled from a length of 1 until their means have a lag-1 correlation that is not above what
    uncorrelated means would show by chance (one-sided 5 %), and then twice more, because a test that does not reject
    leaves correlation behind; 20 batches are kept in any case (Alexopoulos and Fishman 1996 give the theory).

    :param rewards: [n] of one run, or [chains, n] of independent runs, burn-in removed
    :param confidence: confidence level of the interval, in (0, 1)
    :raises ConfigError: for fewer than 20 rewards, another shape, or ``confidence`` out of range
    :raises NonFiniteError: for a NaN or an infinity
    """
    values = np.asarray(rewards, np.float64)
    if values.ndim not in (1, 2) or values.size < MIN_BATCHES:
        raise ConfigError(f"rewards have shape {values.shape}: give [n] or [chains, n], at least {MIN_BATCHES} numbers")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence is {confidence}: give a number in (0, 1), such as 0.95")
    if not np.all(np.isfinite(values)):
        raise NonFiniteError("the rewards hold a NaN or an infinity: find the step of the environment that gives it")
    chains = np.atleast_2d(values)
    size, settled = 1, False
    largest = max(1, chains.size // MIN_BATCHES)
    largest = min(largest, chains.shape[1])
    while True:
        correlation, threshold = _lag_one(_batches(chains, size))
        settled = correlation <= threshold
        if settled or 2 * size > largest:
            break
        size *= 2
    size = min(4 * size, largest) if settled and size > 1 else size
    means = _batches(chains, size).reshape(-1)
    correlation, threshold = _lag_one(_batches(chains, size))
    error = float(means.std(ddof=1) / np.sqrt(len(means)))
    from scipy import stats  # half a second to import, so not for those who only plan

    half = float(stats.t.ppf((1 + confidence) / 2, len(means) - 1)) * error
    gain = float(means.mean())
    return GainEstimate(
        gain=gain,
        low=gain - half,
        high=gain + half,
        n_steps=len(means) * size,
        n_batches=len(means),
        batch_size=size,
        batch_correlation=correlation,
        reliable=bool(settled and correlation <= max(threshold, 0.3)),
    )


def _batches(chains: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """[chains, batches] means of consecutive runs of ``size`` rewards; a rest at the start is left out."""
    count = chains.shape[1] // size
    return chains[:, chains.shape[1] - count * size :].reshape(len(chains), count, size).mean(axis=2)


def _lag_one(means: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The lag-1 correlation of batch means, pooled over chains, and what chance alone exceeds in 5 % of runs."""
    deviations = means - means.mean()
    variance = float(np.sum(deviations**2))
    pairs = deviations[:, 1:].size
    if variance == 0 or pairs < 2:
        return 0.0, 0.0
    return float(np.sum(deviations[:, 1:] * deviations[:, :-1])) / variance, 1.645 / np.sqrt(pairs)
