"""Settings of the peers of LOOP. Imports no torch.

Every constant that theory gives is exposed. Where theory's own is useless at practical horizons the default is another
one, and the docstring says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from rlopt.agents.loop.config import ContinuingConfig, LinearLOOPConfig
from rlopt.settings.fields import Range


@dataclass(frozen=True, kw_only=True)
class UCRL2Config(ContinuingConfig):
    """UCRL2 (Jaksch, Ortner and Auer 2010)."""

    transition_scale: Annotated[float, Range(ge=0)] = 0.5
    """The L1 radius of a transition distribution is sqrt(this S log(2 A t / delta) / n). Paper: 14, which explores for
    far longer than practical horizons last."""
    reward_scale: Annotated[float, Range(ge=0)] = 0.0
    """The width of a mean reward is its range times sqrt(this log(2 S A t / delta) / (2 n)). Paper: 7; 0 takes
    rewards as known once seen, as LOOP does, right where they have no noise of their own."""
    delta: Annotated[float, Range(gt=0, lt=1)] = 0.05
    """Probability that the confidence sets may miss the truth, at the paper's scales."""
    max_sweeps: Annotated[int, Range(ge=1)] = 10_000
    """Sweeps of extended value iteration after which a plan is taken as it is."""


@dataclass(frozen=True, kw_only=True)
class TSDEConfig(ContinuingConfig):
    """Posterior sampling with dynamic episodes, TSDE (Ouyang, Gagrani, Nayyar and Jain 2017)."""

    prior: Annotated[float, Range(gt=0)] | None = None
    """Parameter of the Dirichlet prior of each next state; none makes it 1 / S."""
    rewards: Literal["known", "noisy"] = "known"
    """known takes the mean reward seen, as LOOP does, right where rewards have no noise of their own; noisy draws it
    from Beta(1 + n m, 1 + n (1 - m)), m the mean over n visits in units of the range of rewards."""
    tolerance: Annotated[float, Range(gt=0)] = 1e-6
    """Accuracy of the gain of the sampled process, in units of the range of rewards."""
    max_sweeps: Annotated[int, Range(ge=1)] = 2000
    """Rounds of policy iteration after which the policy of the sampled process is taken as it is."""


@dataclass(frozen=True, kw_only=True)
class PSRLConfig(TSDEConfig):
    """Posterior sampling with the episodes of UCRL2 (Osband, Russo and Van Roy 2013)."""

    rewards: Literal["noisy"] = "noisy"
    """Mean rewards are drawn from their Beta posterior, also where a pair was never visited."""


@dataclass(frozen=True, kw_only=True)
class IMEDRLConfig(ContinuingConfig):
    """IMED-RL (Pesquerel and Maillard 2022), which has no constants."""


@dataclass(frozen=True, kw_only=True)
class KLUCRLConfig(ContinuingConfig):
    """KL-UCRL (Filippi, Cappe and Garivier 2010)."""

    transition_scale: Annotated[float, Range(gt=0)] = 1.0
    """The divergence of a transition distribution is at most this C_P / n, C_P as in the paper. Paper: 1."""
    reward_scale: Annotated[float, Range(ge=0)] = 1.0
    """The width of a mean reward is its range times this C_R / sqrt(n), C_R as in the paper. Paper: 1."""
    horizon: Annotated[int, Range(ge=1)] | None = None
    """T, the steps that the confidence level is meant for; none takes those of the first call of learn."""
    delta: Annotated[float, Range(gt=0, lt=1)] = 0.05
    """Probability that the confidence sets may miss the truth."""
    max_sweeps: Annotated[int, Range(ge=1)] = 2000
    """Rounds of the optimistic plan after which it is taken as it is."""


@dataclass(frozen=True, kw_only=True)
class UCRL3Config(ContinuingConfig):
    """UCRL3 (Bourel, Maillard and Talebi 2020)."""

    delta: Annotated[float, Range(gt=0, lt=1)] = 0.05
    """Probability that the confidence sets may miss the truth."""
    max_sweeps: Annotated[int, Range(ge=1)] = 200
    """Rounds of optimistic policy iteration after which a plan is taken as it is."""


@dataclass(frozen=True, kw_only=True)
class PMEVIDTConfig(ContinuingConfig):
    """PMEVI-DT (Boone and Zhang 2024)."""

    horizon: Annotated[int, Range(ge=1)] | None = None
    """T, the steps that the confidence level is meant for; none takes those of the first call of learn. The span is
    taken to be at most T^(1/5) times the range of rewards, as in the paper."""
    delta: Annotated[float, Range(gt=0, lt=1)] = 0.05
    """Probability that the confidence sets may miss the truth."""
    max_sweeps: Annotated[int, Range(ge=1)] = 2000
    """Sweeps of projected mitigated extended value iteration after which a plan is taken as it is."""


@dataclass(frozen=True, kw_only=True)
class DifferentialQConfig(ContinuingConfig):
    """Differential Q-learning (Wan, Naik and Sutton 2021), epsilon-greedy."""

    learning_rate: Annotated[float, Range(gt=0, le=1)] = 0.1
    """Step size alpha of the action values."""
    gain_rate: Annotated[float, Range(gt=0)] = 0.1
    """eta: the gain moves by eta alpha times the temporal difference."""
    epsilon: Annotated[float, Range(ge=0, le=1)] = 0.1
    """Probability of a uniform action."""
    decay: Annotated[float, Range(ge=0, le=1)] = 0.0
    """The step size is alpha / n^decay at the n-th visit of a pair; convergence needs more than a half."""
    initial_value: float = 0.0
    """Of all action values, in units of reward; a large one explores."""


@dataclass(frozen=True, kw_only=True)
class RVIQConfig(DifferentialQConfig):
    """RVI Q-learning (Abounadi, Bertsekas and Borkar 2001), epsilon-greedy."""

    reference: Literal["pair", "state", "mean"] = "mean"
    """f(Q), whose limit is the gain: the value of the pair (0, 0), the largest of state 0, or the mean of all."""


@dataclass(frozen=True, kw_only=True)
class OptimisticQConfig(ContinuingConfig):
    """Optimistic Q-learning (Wei, Jafarnia-Jahromi, Luo, Sharma and Jain 2020, algorithm 1)."""

    effective_horizon: Annotated[float, Range(ge=2)] | None = None
    """H: learns with the discount 1 - 1/H; none takes the paper's min(sqrt(span T / (S A)), (T / (S A))^(1/3)), at
    least 2."""
    bonus_scale: Annotated[float, Range(ge=0)] = 0.02
    """The bonus of the n-th visit is this * span * sqrt(H / n log(2 T / delta)). Paper: 4, which leaves the
    values at their first one for longer than practical horizons last."""
    span: Annotated[float, Range(gt=0)] | None = None
    """Bound of max - min of the optimal bias; none takes the exact one of an environment that knows it."""
    horizon: Annotated[int, Range(ge=1)] | None = None
    """T, the steps that the confidence level is meant for; none takes those of the first call of learn."""
    delta: Annotated[float, Range(gt=0, lt=1)] = 0.05
    """Probability that the values may not be optimistic, at the paper's scale."""


@dataclass(frozen=True, kw_only=True)
class FOPOConfig(LinearLOOPConfig):
    """FOPO (Wei, Jafarnia-Jahromi, Luo and Jain 2021): the set of linear LOOP, replanned by the determinant."""

    determinant_factor: Annotated[float, Range(gt=1)] = 2.0
    """A new plan is made once the determinant of the Gram matrix, ridge included, has grown by this
    factor. Paper: 2."""


@dataclass(frozen=True, kw_only=True)
class OLSVIFHConfig(ContinuingConfig):
    """OLSVI.FH (Wei, Jafarnia-Jahromi, Luo and Jain 2021): optimistic least squares over a fixed horizon."""

    episode_length: Annotated[int, Range(ge=1)] = 50
    """H, steps of a finite-horizon episode. Paper: of the order sqrt(span) T^(1/4) / d^(3/4)."""
    bonus_scale: Annotated[float, Range(ge=0)] = 1e-3
    """beta is this * d H sqrt(log(2 d T / delta)). The paper's is of order 1, of no use at practical horizons."""
    ridge: Annotated[float, Range(gt=0)] = 1.0
    """Added to the Gram matrix. Paper: 1."""
    horizon: Annotated[int, Range(ge=1)] | None = None
    """T, the steps that the confidence level is meant for; none takes those of the first call of learn."""
    delta: Annotated[float, Range(gt=0, lt=1)] = 0.05
    """Probability that the values may not be optimistic, at the paper's scale."""
