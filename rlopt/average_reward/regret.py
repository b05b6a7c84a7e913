"""Regret against the exact gain: curves with bands, the optimal policy's own noise, slopes and plan histories."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rlopt.average_reward.mdp import Array, FiniteMDP, Outcomes, Policy
from rlopt.average_reward.solution import evaluate_policy
from rlopt.errors import ConfigError, NonFiniteError
from rlopt.statistics.aggregates import bootstrap_band

MIN_POINTS = 3
"""Points that a slope is fitted to at least."""


@dataclass(frozen=True, eq=False)
class RegretCurve:
    """Regret of several seeds on common steps."""

    steps: npt.NDArray[np.int64]
    """[n]."""
    regret: Array
    """[seeds, n]: gain * steps less the rewards so far."""
    mean: Array
    """[n], over seeds."""
    low: Array
    """[n], lower edge of the bootstrap band of the mean; the curve itself for one seed."""
    high: Array
    """[n]."""
    noise: Array
    """[n]: a policy that is optimal from the start is within this of 0 in 95 % of runs."""
    slope: float
    """Slope of log mean regret over log steps; NaN where the regret is within the noise or not above 0."""

    @property
    def final(self) -> Array:
        """[seeds], at the last step."""
        return np.asarray(self.regret[:, -1], np.float64)


def regret_curve(mdp: FiniteMDP, steps: npt.ArrayLike, reward_sums: npt.ArrayLike, seed: int = 0) -> RegretCurve:
    """The regret of runs whose reward sums are known at ``steps``.

    :param steps: [n] increasing whole numbers of at least 1
    :param reward_sums: [seeds, n], or [n] of one run: rewards of the first ``steps`` steps
    :param seed: seed of the bootstrap
    :raises ConfigError: shapes that do not fit, or steps that do not increase
    :raises NonFiniteError: a NaN or an infinity
    """
    times, sums = np.asarray(steps), np.atleast_2d(np.asarray(reward_sums, np.float64))
    if times.ndim != 1 or times.dtype.kind not in "iu" or not len(times) or times[0] < 1 or np.any(np.diff(times) < 1):
        raise ConfigError("steps must be a row of increasing whole numbers of at least 1")
    if sums.ndim != 2 or sums.shape[1] != len(times) or not len(sums):
        raise ConfigError(f"reward_sums have shape {sums.shape}: give [seeds, {len(times)}]")
    if not np.all(np.isfinite(sums)):
        raise NonFiniteError("the reward sums hold a NaN or an infinity: find the run that gives it")
    regret = mdp.gain * times - sums
    mean = regret.mean(axis=0)
    low, high = bootstrap_band(regret, statistic=_mean, seed=seed) if len(regret) > 1 else (mean, mean)
    noise = noise_band(mdp, times)
    slope = log_log_slope(times, mean) if mean[-1] > noise[-1] / np.sqrt(len(regret)) else float("nan")
    return RegretCurve(times.astype(np.int64), regret, mean, low, high, noise, slope)


def _mean(values: Any, axis: Any = -1) -> Any:
    return np.mean(values, axis=axis)


def regret_variance(mdp: FiniteMDP, policy: Policy | None = None, outcomes: Outcomes | None = None) -> float:
    """Long-run variance per step of a policy's reward sum, from its bias h (Puterman 1994, section 8.2).

    sum (r - g) = h(s_0) - h(s_T) + sum [r_t + h(s_{t+1}) - E (r_t + h(s_{t+1}))], a martingale up to its ends, whose
    increments have the variance of r + h(s') under the stationary distribution.

    :param policy: actions [S] or probabilities [S, A]; None takes the optimal one
    :param outcomes: ``outcomes[state][action]``, what can happen, as (probability, next state, reward); None takes
        those of the environment of ``mdp``. Your own arrays have none, and every reward then counts as its mean, so the
        variance is too small if rewards are noisy
    """
    solution = mdp.solution if policy is None else evaluate_policy(mdp, policy)
    chosen = np.asarray(solution.policy)
    outcomes = mdp.outcomes if outcomes is None else outcomes
    if outcomes is not None:
        probabilities = np.eye(mdp.n_actions)[chosen] if chosen.ndim == 1 else chosen
        return _outcome_variance(probabilities, solution.stationary_distribution, solution.bias, outcomes)
    chain, rewards = mdp.chain(chosen)
    if chosen.ndim == 1:
        means = chain @ solution.bias
        increments = chain @ solution.bias**2 - means**2
    else:
        # A random action varies the reward and the distribution of the next state.
        next_values = mdp.r[:, :, None] + solution.bias
        means = rewards + chain @ solution.bias
        increments = np.einsum("sa,sat,sat->s", chosen, mdp.P, next_values**2) - means**2
    return max(float(solution.stationary_distribution @ increments), 0.0)


def _outcome_variance(probabilities: Array, shares: Array, bias: Array, outcomes: Outcomes) -> float:
    """The variance of r + h(s') by what can happen, the states in their stationary ``shares`` [S]."""
    found = 0.0
    for state in np.flatnonzero(shares > 0).tolist():
        weights, values = [], []
        for action in np.flatnonzero(probabilities[state] > 0).tolist():
            for probability, target, reward in outcomes[state][action]:
                weights.append(probability * probabilities[state, action])
                values.append(reward + bias[target])
        around = np.array(values) - np.dot(weights, values)
        found += float(shares[state] * np.dot(weights, around**2))
    return found


def noise_band(
    mdp: FiniteMDP, steps: npt.ArrayLike, policy: Policy | None = None, outcomes: Outcomes | None = None
) -> Array:
    """[n], a band that holds the regret of an optimal policy in 95 % of runs: 1.96 standard deviations.

    Arguments as :func:`regret_variance`'s.
    """
    variance = regret_variance(mdp, policy, outcomes)
    return np.asarray(1.96 * np.sqrt(variance * np.asarray(steps, np.float64)), np.float64)


def log_log_slope(steps: npt.ArrayLike, regret: npt.ArrayLike, from_share: float = 0.1) -> float:
    """Least-squares slope of log regret over log steps: 1 is linear, 1/2 the order of the bounds, 0 a flat curve.

    :param steps: [n] > 0
    :param regret: [n]; points at or below 0 have no logarithm and are left out
    :param from_share: steps before this share of the last one are left out, in [0, 1)
    :returns: NaN where fewer than three points are left
    :raises ConfigError: shapes or ``from_share`` that do not fit
    """
    times, values = np.asarray(steps, np.float64), np.asarray(regret, np.float64)
    if times.ndim != 1 or times.shape != values.shape or not 0 <= from_share < 1:
        raise ConfigError(
            f"steps {times.shape}, regret {values.shape}, from_share {from_share}: give [n], [n] and [0, 1)"
        )
    used = (values > 0) & (times >= from_share * times[-1])
    if used.sum() < MIN_POINTS:
        return float("nan")
    return float(np.polyfit(np.log(times[used]), np.log(values[used]), 1)[0])


def switch_times(agent: Any) -> npt.NDArray[np.int64]:
    """[n_switches] steps before each switch of an agent's policy, the first plan left out."""
    return np.array([plan.step for plan in agent.plans[1:]], np.int64)


def optimism_gaps(agent: Any, mdp: FiniteMDP) -> Array:
    """[plans], planned gain minus exact gain; a plan with a gap of at least 0 was optimistic."""
    return np.array([plan.gain - mdp.gain for plan in agent.plans], np.float64)


def optimistic_share(agents: Iterable[Any], mdp: FiniteMDP, tolerance: float = 1e-6) -> float:
    """Share of agents all of whose plans were optimistic up to ``tolerance``; NaN without agents."""
    found = [bool(np.all(optimism_gaps(agent, mdp) >= -tolerance)) for agent in agents]
    return float(np.mean(found)) if found else float("nan")
