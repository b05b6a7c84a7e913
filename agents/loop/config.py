"""Settings of the value-based LOOP agents. Imports no torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from rlopt.settings.fields import AgentConfig, Range


@dataclass(frozen=True, kw_only=True)
class ContinuingConfig(AgentConfig):
    """Settings of every agent that learns in a task that never ends."""

    reward_range: tuple[float, float] | None = None
    """Smallest and largest reward of a step; none takes them from the environment, which must know them."""


@dataclass(frozen=True, kw_only=True)
class OptimistConfig(ContinuingConfig):
    """Settings of every agent that plans with a confidence set."""

    span: Annotated[float, Range(gt=0)] | None = None
    """H, a bound on max - min of the optimal bias. With none, every plan begins with the range of rewards and doubles
    it until the value of no visited state reaches it. A value that is too small can exclude the best policy, and one
    that is too large widens the confidence set. LOOP's procedure anytime does not use it."""
    horizon: Annotated[int, Range(ge=1)] | None = None
    """T, the number of steps for which the confidence level holds; none takes that of the first call of learn. LOOP's
    procedure anytime does not use it."""
    delta: Annotated[float, Range(gt=0, lt=1)] = 0.05
    """Largest probability that the confidence set misses the true process, at beta_scale 1."""
    tolerance: Annotated[float, Range(gt=0)] = 1e-6
    """Largest change in the last sweep of a plan, in units of the span. With the procedure anytime, the largest error
    of the gain of a plan, in units of the range of rewards."""
    max_sweeps: Annotated[int, Range(ge=1)] = 10_000
    """Largest number of sweeps of a plan, which is then used as it is and certified as not converged."""


@dataclass(frozen=True, kw_only=True)
class PlannerConfig(OptimistConfig):
    """Settings of the paper's optimisation over the set of squared Bellman errors."""

    planner: Literal["bonus", "ellipsoid"] = "bonus"
    """Method that finds an optimistic member of the set of squared errors. ellipsoid finds a local optimum of the
    paper's optimisation, the gain over the exact set. bonus is value iteration with a bonus for few visits, which is
    fast and finds a member of the set but not the best one."""


@dataclass(frozen=True, kw_only=True)
class LOOPConfig(PlannerConfig):
    """LOOP on finitely many states and actions."""

    procedure: Literal["anytime", "paper"] = "anytime"
    """anytime needs neither span nor horizon, allows for noisy rewards, and drops a plan as soon as one pair refutes
    it. paper is algorithm 1, with squared errors over all data and a known number of steps; the paper also knows the
    span."""
    beta_scale: Annotated[float, Range(gt=0)] | None = None
    """Size of the confidence set relative to the theory's. None takes .003 with the procedure anytime, where 1 makes
    all plans optimistic with probability 1 - delta, and .001 with paper, where 1 explores for far longer than practical
    horizons."""
    switch_multiplier: Annotated[float, Range(gt=1)] | None = None
    """The agent replans once the discrepancy of the current plan reaches this multiple of the radius, which is that of
    one pair with the procedure anytime and that of the whole set with paper. None takes 1.5 with anytime and the
    paper's 4 with paper."""


@dataclass(frozen=True, kw_only=True)
class LinearLOOPConfig(PlannerConfig):
    """LOOP with values linear in features of state and action; finitely many actions."""

    beta_scale: Annotated[float, Range(gt=0)] = 1e-3
    """Size of the confidence set relative to the theory's. The value 1 explores for far longer than practical horizons;
    .0001 to .001 work for 1e5 steps, smaller values with more features."""
    switch_multiplier: Annotated[float, Range(gt=1)] = 4.0
    """The agent replans once the discrepancy of the current plan reaches this multiple of beta. Paper: 4."""
    ridge: Annotated[float, Range(gt=0)] | None = None
    """Regularisation of the regression; with none, the prior width of a feature vector of norm 1 is the span."""


@dataclass(frozen=True, kw_only=True)
class MLELOOPConfig(OptimistConfig):
    """Model-based LOOP (MLE-LOOP) on finitely many states and actions."""

    model: Literal["auto", "tabular", "mixture"] = "auto"
    """Class of possible processes: all of them (tabular), or mixtures of known kernels (mixture); auto takes mixture if
    the environment or the caller has kernels."""
    beta_scale: Annotated[float, Range(gt=0)] = 2e-2
    """Size of the likelihood set relative to the theory's: beta = beta_scale N log(T N / delta), where N is the number
    of pairs of state and action, or of kernels of a mixture. The value 1 explores for far longer than practical
    horizons."""
    switch_multiplier: Annotated[float, Range(gt=1)] = 3.0
    """The agent replans once the summed total variation reaches this multiple of sqrt(beta t). Paper: 3."""
