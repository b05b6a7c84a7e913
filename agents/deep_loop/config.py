"""Settings of DeepLOOP. Imports no torch.

Where no source is named, the default is Stable-Baselines3's for SAC, or a choice of this package that nobody tuned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from rlopt.agents.sac.config import FORMER_SETTINGS, SACConfig
from rlopt.errors import ConfigError
from rlopt.settings.fields import Range, Text


@dataclass(frozen=True, kw_only=True)
class DeepLOOPConfig(SACConfig):
    """DeepLOOP, experimental; with bonus false and lazy false it is RVI-SAC."""

    former_settings: ClassVar[Mapping[str, Any]] = FORMER_SETTINGS
    gamma: ClassVar[float] = 1.0  # type: ignore[misc]  # no setting of DeepLOOP, as those that follow
    n_steps: ClassVar[int] = 1  # type: ignore[misc]
    use_sde: ClassVar[bool] = False  # type: ignore[misc]
    sde_sample_freq: ClassVar[int] = -1  # type: ignore[misc]
    her: ClassVar[bool] = False  # type: ignore[misc]
    her_goals: ClassVar[int] = 4  # type: ignore[misc]

    learning_starts: Annotated[int, Range(ge=0)] = 10_000
    """Environment steps of uniformly random actions before the first update. RVI-SAC: 1e4."""
    gain_estimator: Literal["rvi", "td", "centring"] = "rvi"
    """How the gain is estimated: RVI-SAC's delayed f(Q), differential Q-learning, or the mean soft reward of the
    batches, which old data bias."""
    gain_rate: Annotated[float, Range(ge=0, le=1)] = 5e-3
    """How far the gain moves at a gradient step. RVI-SAC: 5e-3."""
    centring_coef: Annotated[float, Range(ge=0)] = 0.1
    """Weight of the squared mean of Q, which holds its constant; not used with rvi. APO (arXiv 2106.03442) has
    0.1 for its value function."""
    bonus: bool = True
    """Whether rewards have the elliptical bonus."""
    beta: Annotated[float, Range(gt=0)] = 10.0
    """Squared radius of the confidence set, in units of reward squared: the sum of squared bonuses over the data,
    and the unit of the switching rule."""
    max_bonus: Annotated[float, Range(gt=0)] = 1.0
    """Largest bonus, in units of reward."""
    n_features: Annotated[int, Range(ge=1, le=65536)] = 128
    """Random Fourier features of state and action."""
    length_scale: Annotated[float, Range(gt=0)] = 1.0
    """Of their kernel, in standard deviations of the inputs."""
    ridge: Annotated[float, Range(gt=0)] = 1.0
    """Of the features' Gram matrix."""
    lazy: bool = True
    """Whether the behaviour is a frozen policy until its discrepancy on the data has grown."""
    switch_multiplier: Annotated[float, Range(gt=1)] = 4.0
    """Discrepancy in multiples of beta at which it is given up. LOOP: 4."""
    min_interval: Annotated[int, Range(ge=1)] = 1_000
    """Transitions between two switches at least; a switch reads the whole replay buffer."""
    max_interval: Annotated[int, Range(ge=1)] = 10_000
    """Transitions after which it switches in any case."""
    on_termination: Literal["refuse", "reset"] = "refuse"
    """Whether an episode that truly ends is an error, or a reset that is a transition with a price."""
    reset_cost: Annotated[float, Range(ge=0)] | Annotated[str, Text("auto".__eq__, "auto")] = "auto"
    """That price in units of reward; auto raises it while resets come more often than allowed (RVI-SAC)."""
    allowed_resets: Annotated[float, Range(ge=0, le=1)] = 1e-3
    """Resets a step that auto aims at. RVI-SAC: 1e-3."""
    reset_cost_rate: Annotated[float, Range(ge=0)] = 0.1
    """Step size of auto."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` for intervals in the wrong order."""
        super().check_together(settings)
        shortest, longest = settings["min_interval"], settings["max_interval"]
        if shortest > longest:
            raise ConfigError(f"min_interval {shortest} is above max_interval {longest}: exchange them")
