"""Settings of differential DQN. Imports no torch."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from rlopt.agents.sac.config import QLearningConfig
from rlopt.settings.fields import Range


@dataclass(frozen=True, kw_only=True)
class DifferentialDQNConfig(QLearningConfig):
    """Deep Q-learning for the average reward.

    If no source is named, the default is Stable-Baselines3's for DQN, or a choice of this package that was not tuned.
    """

    gamma: ClassVar[float] = 1.0  # type: ignore[misc]  # no setting of this agent

    exploration_initial_eps: Annotated[float, Range(ge=0, le=1)] = 1.0
    """Probability of a random action at the beginning."""
    exploration_final_eps: Annotated[float, Range(ge=0, le=1)] = 0.05
    """Probability of a random action at the end."""
    exploration_fraction: Annotated[float, Range(gt=0, le=1)] = 0.1
    """Share of the run in which that probability falls from its initial to its final value."""
    max_grad_norm: Annotated[float, Range(gt=0)] = 10.0
    """Norm to which longer gradients are scaled down."""
    double_q: bool = True
    """Whether the online network chooses the next action that the target network values (arXiv 1509.06461)."""
    gain_estimator: Literal["rvi", "td"] = "rvi"
    """How the gain is estimated: rvi moves it to the mean value of the next states (relative value iteration, the
    delayed f(Q) of arXiv 2408.01972), td by the mean temporal-difference error (differential Q-learning, arXiv
    2006.16318)."""
    gain_rate: Annotated[float, Range(gt=0, le=1)] = 5e-3
    """Step size of the gain in a gradient step. RVI-SAC: 5e-3."""
    on_termination: Literal["refuse", "reset"] = "refuse"
    """A true end of an episode is an error (refuse), or a transition to the next episode that costs reset_cost
    (reset)."""
    reset_cost: Annotated[float, Range(ge=0)] = 0.0
    """Cost of a reset in units of reward."""
