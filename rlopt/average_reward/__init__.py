"""Average reward: finite processes, exact planners, and the gain of a policy exactly or from a long run."""

from rlopt.average_reward.chain_structure import Structure, structure
from rlopt.average_reward.chains import limiting_matrix, recurrent_classes, stationary_distribution
from rlopt.average_reward.estimation import GainEstimate, estimate_gain
from rlopt.average_reward.linear_models import LinearMDP, LinearMixtureMDP
from rlopt.average_reward.linear_program import linear_program
from rlopt.average_reward.mdp import DecisionProcess, FiniteMDP
from rlopt.average_reward.policy_iteration import policy_iteration
from rlopt.average_reward.regret import (
    RegretCurve,
    log_log_slope,
    noise_band,
    optimism_gaps,
    optimistic_share,
    regret_curve,
    regret_variance,
    switch_times,
)
from rlopt.average_reward.solution import AverageRewardSolution, evaluate_policy
from rlopt.average_reward.sparse import SparseMDP
from rlopt.average_reward.value_iteration import relative_value_iteration

__all__ = [
    "AverageRewardSolution",
    "DecisionProcess",
    "FiniteMDP",
    "GainEstimate",
    "LinearMDP",
    "LinearMixtureMDP",
    "RegretCurve",
    "SparseMDP",
    "Structure",
    "estimate_gain",
    "evaluate_policy",
    "limiting_matrix",
    "linear_program",
    "log_log_slope",
    "noise_band",
    "optimism_gaps",
    "optimistic_share",
    "policy_iteration",
    "recurrent_classes",
    "regret_curve",
    "regret_variance",
    "relative_value_iteration",
    "stationary_distribution",
    "structure",
    "switch_times",
]
