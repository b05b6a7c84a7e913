"""Settings of the peers of LOOP. Imports no torch.

Every constant of the theory is a setting. If the paper's value is useless at practical horizons, the default differs,
and the docstring gives both.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from rlopt.agents.loop.config import ContinuingConfig, LinearLOOPConfig
from rlopt.settings.fields import Range


@dataclass(frozen=True, kw_only=True)
class UCRL2Config(ContinuingConfig):
    """UCRL2 (Jaksch, Ortner and Auer 2010)."""

    transition_scale: Annotated[float, Range(ge=0)] = 0.5
    """The L1 radius of a transition distribution is sqrt(transition_scale S log(2 A t / delta) / n). Paper: 14, which
    explores for far longer than practical horizons."""
    reward_scale: Annotated[float, Range(ge=0)] = 0.0
    """The width of a mean reward is its range times sqrt(reward_scale log(2 S A t / delta) / (2 n)). Paper: 7. With 0,
    a reward counts as known once seen, as in LOOP, which is correct for rewards without noise."""
    delta: Annotated[float, Range(gt=0, lt=1)] = 0.05
    """Largest probability that the confidence sets miss the true process, at the paper's scales."""
    max_sweeps: Annotated[int, Range(ge=1)] = 10_000
    """Largest number of sweeps of extended value iteration; the plan is then used as it is."""


@dataclass(frozen=True, kw_only=True)
class TSDEConfig(ContinuingConfig):
    """Posterior sampling with dynamic episodes, TSDE (Ouyang, Gagrani, Nayyar and Jain 2017)."""

    prior: Annotated[float, Range(gt=0)] | None = None
    """Parameter of the Dirichlet prior of each next state; none makes it 1 / S."""
    rewards: Literal["known", "noisy"] = "known"
    """known takes the observed mean reward, as LOOP does, which is correct for rewards without noise; noisy draws it
    from Beta(1 + n m, 1 + n (1 - m)), where m is the mean over n visits in units of the range of rewards."""
    tolerance: Annotated[float, Range(gt=0)] = 1e-6
    """Accuracy of the gain of the sampled process, in units of the range of rewards."""
    max_sweeps: Annotated[int, Range(ge=1)] = 2000
    """Largest number of rounds of policy iteration on the sampled process; the policy is then used as it is."""


@dataclass(frozen=True, kw_only=True)
class PSRLConfig(TSDEConfig):
    """Posterior sampling with the episodes of UCRL2 (Osband, Russo and Van Roy 2013)."""

    rewards: Literal["noisy"] = "noisy"
    """Mean rewards are drawn from their Beta posterior, even for pairs that were never visited."""


@dataclass(frozen=True, kw_only=True)
class IMEDRLConfig(ContinuingConfig):
    """IMED-RL (Pesquerel and Maillard 2022), which has no constants."""


@dataclass(frozen=True, kw_only=True)
class KLUCRLConfig(ContinuingConfig):
    """KL-UCRL (Filippi, Cappe and Garivier 2010)."""

    transition_scale: Annotated[float, Range(gt=0)] = 1.0
    """The divergence of a transition distribution is at most transition_scale C_P / n, with the paper's C_P. Paper:
    1."""
    reward_scale: Annotated[float, Range(ge=0)] = 1.0
    """The width of a mean reward is its range times reward_scale C_R / sqrt(n), with the paper's C_R. Paper: 1."""
    horizon: Annotated[int, Range(ge=1)] | None = None
    """T, the number of steps for which the confidence level holds; none takes that of the first call of learn."""
    delta: Annotated[float, Range(gt=0, lt=1)] = 0.05
    """Largest probability that the confidence sets miss the true process."""
    max_sweeps: Annotated[int, Range(ge=1)] = 2000
    """Largest number of rounds of optimistic policy iteration; the plan is then used as it is."""


@dataclass(frozen=True, kw_only=True)
class UCRL3Config(ContinuingConfig):
    """UCRL3 (Bourel, Maillard and Talebi 2020)."""

    delta: Annotated[float, Range(gt=0, lt=1)] = 0.05
    """Largest probability that the confidence sets miss the true process."""
    max_sweeps: Annotated[int, Range(ge=1)] = 200
    """Largest number of rounds of optimistic policy iteration; the plan is then used as it is."""


@dataclass(frozen=True, kw_only=True)
class PMEVIDTConfig(ContinuingConfig):
    """PMEVI-DT (Boone and Zhang 2024)."""

    horizon: Annotated[int, Range(ge=1)] | None = None
    """T, the number of steps for which the confidence level holds; none takes that of the first call of learn. The span
    is taken to be at most T^(1/5) times the range of rewards, as in the paper."""
    delta: Annotated[float, Range(gt=0, lt=1)] = 0.05
    """Largest probability that the confidence sets miss the true process."""
    max_sweeps: Annotated[int, Range(ge=1)] = 2000
    """Largest number of sweeps of projected mitigated extended value iteration; the plan is then used as it is."""


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
    """Initial value of all pairs, in units of reward; a large one leads to exploration."""


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
    """The bonus of the n-th visit is bonus_scale span sqrt(H / n log(2 T / delta)). Paper: 4, which leaves the values
    at their initial value for longer than practical horizons."""
    span: Annotated[float, Range(gt=0)] | None = None
    """Bound on max - min of the optimal bias; none takes the exact span from an environment that knows it."""
    horizon: Annotated[int, Range(ge=1)] | None = None
    """T, the number of steps for which the confidence level holds; none takes that of the first call of learn."""
    delta: Annotated[float, Range(gt=0, lt=1)] = 0.05
    """Largest probability that the values are not optimistic, at the paper's scale."""


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
    """beta is bonus_scale d H sqrt(log(2 d T / delta)). The paper's scale is of order 1, which is useless at practical
    horizons."""
    ridge: Annotated[float, Range(gt=0)] = 1.0
    """Regularisation of the Gram matrix. Paper: 1."""
    horizon: Annotated[int, Range(ge=1)] | None = None
    """T, the number of steps for which the confidence level holds; none takes that of the first call of learn."""
    delta: Annotated[float, Range(gt=0, lt=1)] = 0.05
    """Largest probability that the values are not optimistic, at the paper's scale."""
