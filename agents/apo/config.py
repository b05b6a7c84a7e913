"""Settings of APO. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from rlopt.agents.ppo.config import PPOConfig
from rlopt.settings.fields import Range


@dataclass(frozen=True, kw_only=True)
class APOConfig(PPOConfig):
    """Average-reward policy optimisation: PPO without a discount.

    Where no source is named, the default is Stable-Baselines3's for PPO.
    """

    gamma: ClassVar[float] = 1.0  # type: ignore[misc]  # no setting of APO, as those that follow
    reward_centring: ClassVar[bool] = False  # type: ignore[misc]
    centring_rate: ClassVar[float] = 0.1  # type: ignore[misc]

    gain_rate: Annotated[float, Range(gt=0, le=1)] = 0.1
    """How far the estimates of the average reward and the average value move at a rollout. Paper: 0.1."""
    value_constraint: Annotated[float, Range(ge=0, lt=1)] = 0.1
    """How strongly the targets of the value function are pulled towards an average of zero, which the average reward
    alone leaves free. Paper: 0.1."""
    on_termination: Literal["refuse", "reset"] = "refuse"
    """Whether an episode that truly ends is an error, or leads into the next one at a price."""
    reset_cost: Annotated[float, Range(ge=0)] = 0.0
    """That price, in units of reward."""
