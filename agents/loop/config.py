"""Settings of the value-based LOOP agents. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from rlopt.settings.fields import AgentConfig, Range


@dataclass(frozen=True, kw_only=True)
class ContinuingConfig(AgentConfig):
    """What all that learn in one task that never ends have in common."""

    reward_range: tuple[float, float] | None = None
    """Smallest and largest reward of a step; none takes it from an environment that knows it."""


@dataclass(frozen=True, kw_only=True)
class OptimistConfig(ContinuingConfig):
    """What all that plan with a confidence set have in common."""

    span: Annotated[float, Range(gt=0)] | None = None
    """H, a bound of max - min of the optimal bias; none takes the exact one of an environment that knows it, which
    no agent could know. Too small can keep the best policy out; too large widens the confidence set. Not used by LOOP's
    procedure anytime."""
    horizon: Annotated[int, Range(ge=1)] | None = None
    """T, the steps that the confidence level is meant for; none takes those of the first call of learn. Not used by
    LOOP's procedure anytime."""
    delta: Annotated[float, Range(gt=0, lt=1)] = 0.05
    """Probability that the confidence set may miss the truth, at beta_scale 1."""
    tolerance: Annotated[float, Range(gt=0)] = 1e-6
    """Largest change in the last sweep of a plan, in units of the span; of the procedure anytime, how far the gain of
    a plan may be off, in units of the range of rewards."""
    max_sweeps: Annotated[int, Range(ge=1)] = 10_000
    """Sweeps after which a plan is taken as it is, and certified as not converged."""


@dataclass(frozen=True, kw_only=True)
class PlannerConfig(OptimistConfig):
    """How the paper's optimisation over the set of squared Bellman errors is solved."""

    planner: Literal["bonus", "ellipsoid"] = "bonus"
    """How an optimistic member of the set of squared errors is found. ellipsoid climbs to a local optimum of the
    paper's optimisation, the gain over the exact set; bonus adds a width of the visits to each pair and iterates, which
    is quick and inside the set but not its optimum."""


@dataclass(frozen=True, kw_only=True)
class LOOPConfig(PlannerConfig):
    """LOOP on finitely many states and actions."""

    procedure: Literal["anytime", "paper"] = "anytime"
    """anytime needs neither span nor horizon, allows for noisy rewards and gives a plan up as soon as one pair refutes
    it; paper is algorithm 1 with a known span, squared errors over all data and the steps it is meant for."""
    beta_scale: Annotated[float, Range(gt=0)] | None = None
    """Size of the confidence set in units of what theory suggests. None takes .1 with the procedure anytime, where 1
    makes all plans optimistic with probability 1 - delta, and .001 with paper, where theory's 1 explores for far longer
    than practical horizons last."""
    switch_multiplier: Annotated[float, Range(gt=1)] | None = None
    """A new plan is made once the discrepancy of the present one reaches this many times the radius: of one pair with
    the procedure anytime, of the whole set with paper. None takes 2 with anytime and the paper's 4 with paper."""


@dataclass(frozen=True, kw_only=True)
class LinearLOOPConfig(PlannerConfig):
    """LOOP with values linear in features of state and action; finitely many actions."""

    beta_scale: Annotated[float, Range(gt=0)] = 1e-3
    """Size of the confidence set in units of what theory suggests. Theory's 1 explores for far longer than
    practical horizons last: .0001 to .001 work for 1e5 steps, smaller where there are more features."""
    switch_multiplier: Annotated[float, Range(gt=1)] = 4.0
    """A new plan is made once the discrepancy of the present one reaches this many times beta. Paper: 4."""
    ridge: Annotated[float, Range(gt=0)] | None = None
    """Regularisation of the regression; none makes the prior width of a feature vector of norm 1 the span."""


@dataclass(frozen=True, kw_only=True)
class MLELOOPConfig(OptimistConfig):
    """Model-based LOOP (MLE-LOOP) on finitely many states and actions."""

    model: Literal["auto", "tabular", "mixture"] = "auto"
    """Which processes are thought possible: tabular, all of them; mixture, the mixtures of known kernels; auto, mixture
    where the environment or the caller has kernels."""
    beta_scale: Annotated[float, Range(gt=0)] = 2e-2
    """Size of the likelihood set in units of what theory suggests: beta = beta_scale N log(T N / delta), N the
    pairs of state and action, or the kernels of a mixture. Theory's 1 explores for far longer than practical horizons
    last."""
    switch_multiplier: Annotated[float, Range(gt=1)] = 3.0
    """A new plan is made once the summed total variation reaches this many times sqrt(beta t). Paper: 3."""
