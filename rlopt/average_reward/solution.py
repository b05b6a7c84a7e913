"""What every planner and the policy evaluation return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rlopt.average_reward.chains import limiting_matrix, recurrent_classes, stationary_distribution
from rlopt.errors import ModelError

if TYPE_CHECKING:
    from rlopt.average_reward.mdp import Array, FiniteMDP, Policy

TIE = 1e-9
"""Actions whose values differ by less, relative to the largest value, count as equally good: the first is taken."""


@dataclass(frozen=True, eq=False)
class AverageRewardSolution:
    """Gain and bias of an optimal or of a given policy: ``gain + bias = max_a r + P bias`` (or the policy's mean)."""

    gain: float
    """Long-run mean reward a step."""
    bias: Array
    """[S], shifted so that its mean under the stationary distribution is 0."""
    policy: np.ndarray
    """[S] actions, or the evaluated probabilities [S, A]."""
    stationary_distribution: Array
    """[S] of the policy; if that has several recurrent classes, of the one with state 0's long-run behaviour."""
    values: Array
    """[S, A] differential action values r + P bias - gain."""
    residual: float
    """Largest violation of the optimality (or evaluation) equation over the states, in units of reward."""
    gain_bracket: tuple[float, float]
    """Bounds of the gain: smallest and largest of (T bias - bias) over the states, T the right-hand side."""
    method: str
    iterations: int

    @property
    def span(self) -> float:
        """max bias - min bias."""
        return float(np.ptp(self.bias))

    @property
    def action_gaps(self) -> Array:
        """[S, A] how much worse each action is than the best of its state."""
        return self.values.max(axis=1, keepdims=True) - self.values


def evaluate_policy(mdp: FiniteMDP, policy: Policy) -> AverageRewardSolution:
    """The exact gain and bias of a stationary policy, from (I - P_pi + P*) h = r_pi - g (Puterman 1994, theorem 8.2.3).

    :param policy: actions [S] or probabilities [S, A]
    :raises ModelError: if the policy is malformed, or its gain depends on the first state because it has several
        recurrent classes
    """
    chain, rewards = mdp.chain(policy)
    try:
        distribution = stationary_distribution(chain)
    except ModelError as error:
        raise ModelError(f"the policy has no single gain: {error}") from None
    gain, bias = float(distribution @ rewards), chain_bias(chain, rewards, np.broadcast_to(distribution, chain.shape))
    backup = rewards + chain @ bias - bias
    return AverageRewardSolution(
        gain=gain,
        bias=bias - distribution @ bias,
        policy=np.array(policy),
        stationary_distribution=distribution,
        values=mdp.r + mdp.P @ bias - gain,
        residual=float(np.abs(backup - gain).max()),
        gain_bracket=(float(backup.min()), float(backup.max())),
        method="policy evaluation",
        iterations=1,
    )


def chain_bias(chain: Array, rewards: Array, limit: Array) -> Array:
    """[S] the bias of a chain whose limiting matrix is ``limit``; ``limit @ bias`` is 0."""
    return np.asarray(np.linalg.solve(np.eye(len(chain)) - chain + limit, rewards - limit @ rewards), np.float64)


def optimal_solution(mdp: FiniteMDP, gain: float, bias: Array, method: str, iterations: int) -> AverageRewardSolution:
    """Completes a planner's gain and bias [S, any shift] with the greedy policy, its distribution and the residual."""
    backup = mdp.r + mdp.P @ bias
    policy = first_best(backup)
    best = backup.max(axis=1) - bias
    chain, _ = mdp.chain(policy)
    distribution = stationary_distribution(chain) if len(recurrent_classes(chain)) == 1 else limiting_matrix(chain)[0]
    shift = float(distribution @ bias)
    return AverageRewardSolution(
        gain=float(gain),
        bias=bias - shift,
        policy=policy,
        stationary_distribution=distribution,
        values=backup - shift - gain,
        residual=float(np.abs(best - gain).max()),
        gain_bracket=(float(best.min()), float(best.max())),
        method=method,
        iterations=iterations,
    )


def first_best(values: Array) -> np.ndarray:
    """[S] the first action of each row of ``values`` [S, A] that is as good as the best up to rounding."""
    margin = TIE * max(1.0, float(np.abs(values).max()))
    return np.argmax(values >= values.max(axis=1, keepdims=True) - margin, axis=1)
