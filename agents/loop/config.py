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
    """H, a bound of max - min of the optimal bias; none takes the exact one of an environment that knows it. Too
    small can keep the best policy out; too large widens the confidence set."""
    horizon: Annotated[int, Range(ge=1)] | None = None
    """T, the steps that the confidence level is meant for; none takes those of the first call of learn."""
    delta: Annotated[float, Range(gt=0, lt=1)] = 0.05
    """Probability that the confidence set may miss the truth, at beta_scale 1."""
    tolerance: Annotated[float, Range(gt=0)] = 1e-6
    """Largest change in the last sweep of a plan, in units of the span."""
    max_sweeps: Annotated[int, Range(ge=1)] = 10_000
    """Sweeps after which a plan is taken as it is, and certified as not converged."""


@dataclass(frozen=True, kw_only=True)
class LOOPConfig(OptimistConfig):
    """LOOP on finitely many states and actions."""

    planner: Literal["bonus", "ellipsoid"] = "bonus"
    """How an optimistic member of the confidence set is found: bonus adds a width to each pair, quickly and surely;
    ellipsoid climbs to a local optimum of the gain over the exact set."""
    beta_scale: Annotated[float, Range(gt=0)] = 1e-3
    """Size of the confidence set in units of what theory suggests. Theory's 1 explores for far longer than
    practical horizons last: .0001 to .001 work for 1e5 steps, smaller where there are more pairs or features."""
    switch_multiplier: Annotated[float, Range(gt=1)] = 4.0
    """A new plan is made once the discrepancy of the present one reaches this many times beta. Paper: 4."""


@dataclass(frozen=True, kw_only=True)
class LinearLOOPConfig(LOOPConfig):
    """LOOP with values linear in features of state and action; finitely many actions."""

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
