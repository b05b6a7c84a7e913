"""Settings of APO. Imports no torch."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from rlopt.agents.ppo.config import PPOConfig
from rlopt.settings.fields import Range


@dataclass(frozen=True, kw_only=True)
class APOConfig(PPOConfig):
    """Average-reward policy optimisation: PPO without a discount.

    If no source is named, the default is Stable-Baselines3's for PPO.
    """

    gamma: ClassVar[float] = 1.0  # type: ignore[misc]  # no setting of APO, as those that follow
    reward_centring: ClassVar[bool] = False  # type: ignore[misc]
    centring_rate: ClassVar[float] = 0.1  # type: ignore[misc]

    gain_rate: Annotated[float, Range(gt=0, le=1)] = 0.1
    """Step size of the estimates of the average reward and the average value, once per rollout. Paper: 0.1."""
    value_constraint: Annotated[float, Range(ge=0, lt=1)] = 0.1
    """Strength of the pull of the value function's targets towards an average of zero, which the average reward alone
    leaves undetermined. Paper: 0.1."""
    on_termination: Literal["refuse", "reset"] = "refuse"
    """A true end of an episode is an error (refuse), or a transition to the next episode that costs reset_cost
    (reset)."""
    reset_cost: Annotated[float, Range(ge=0)] = 0.0
    """Cost of a reset in units of reward."""
