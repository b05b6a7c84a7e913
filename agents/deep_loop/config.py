"""Settings of DeepLOOP. Imports no torch.

If no source is named, the default is Stable-Baselines3's for SAC, or a choice of this package that was not tuned.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from rlopt.agents.sac.config import FORMER_SETTINGS, SACConfig
from rlopt.errors import ConfigError
from rlopt.settings.fields import Range, Text


@dataclass(frozen=True, kw_only=True)
class DeepLOOPConfig(SACConfig):
    """DeepLOOP, experimental; with bonus false and lazy false, its default, it is RVI-SAC."""

    former_settings: ClassVar[Mapping[str, Any]] = FORMER_SETTINGS
    gamma: ClassVar[float] = 1.0  # type: ignore[misc]  # no setting of DeepLOOP, as those that follow
    n_steps: ClassVar[int] = 1  # type: ignore[misc]
    use_sde: ClassVar[bool] = False  # type: ignore[misc]
    sde_sample_freq: ClassVar[int] = -1  # type: ignore[misc]
    reward_centring: ClassVar[bool] = False  # type: ignore[misc]
    centring_rate: ClassVar[float] = 1e-3  # type: ignore[misc]
    her: ClassVar[bool] = False  # type: ignore[misc]
    her_goals: ClassVar[int] = 4  # type: ignore[misc]
    other_names: ClassVar[Mapping[str, str]] = {}
    demos: ClassVar[str] = ""  # type: ignore[misc]
    n_demos: ClassVar[None] = None  # type: ignore[misc]
    subsample: ClassVar[int] = 1  # type: ignore[misc]
    demo_fraction: ClassVar[float] = 0.0  # type: ignore[misc]
    cloning_coef: ClassVar[float] = 0.0  # type: ignore[misc]
    cloning_steps: ClassVar[None] = None  # type: ignore[misc]

    learning_starts: Annotated[int, Range(ge=0)] = 10_000
    """Environment steps of uniformly random actions before the first update. RVI-SAC: 1e4."""
    gain_estimator: Literal["rvi", "td", "centring"] = "rvi"
    """How the gain is estimated: RVI-SAC's delayed f(Q), differential Q-learning, or the mean soft reward of the
    batches, which old data bias."""
    gain_rate: Annotated[float, Range(ge=0, le=1)] = 5e-3
    """kappa, the step size of the gain in a gradient step. RVI-SAC: 5e-3."""
    centring_coef: Annotated[float, Range(ge=0)] = 0.1
    """Weight of the squared mean of Q in the critics' loss, which keeps Q's constant near 0; not used with rvi. APO
    (arXiv 2106.03442) has 0.1 for its value function."""
    bonus: bool = True
    """Whether the elliptical bonus is added to rewards."""
    beta: Annotated[float, Range(gt=0)] = 10.0
    """Squared radius of the confidence set, in units of reward squared: the sum of squared bonuses over the data,
    and the unit of the switching rule."""
    max_bonus: Annotated[float, Range(gt=0)] = 1.0
    """Largest bonus, in units of reward."""
    n_features: Annotated[int, Range(ge=1, le=65536)] = 128
    """Random Fourier features of state and action."""
    length_scale: Annotated[float, Range(gt=0)] = 1.0
    """Length scale of the features' kernel, in standard deviations of the inputs."""
    ridge: Annotated[float, Range(gt=0)] = 1.0
    """Regularisation of the features' Gram matrix."""
    lazy: bool = False
    """Whether a frozen policy acts until its discrepancy on the data has grown."""
    switch_multiplier: Annotated[float, Range(gt=1)] = 4.0
    """Discrepancy, in multiples of beta, at which the frozen policy is replaced. LOOP: 4."""
    min_interval: Annotated[int, Range(ge=1)] = 1_000
    """Smallest number of transitions between two switches; a switch reads the whole replay buffer."""
    max_interval: Annotated[int, Range(ge=1)] = 10_000
    """Largest number of transitions between two switches."""
    on_termination: Literal["refuse", "reset"] = "refuse"
    """A true end of an episode is an error (refuse), or a transition to the next episode that costs reset_cost
    (reset)."""
    reset_cost: Annotated[float, Range(ge=0)] | Annotated[str, Text("auto".__eq__, "auto")] = "auto"
    """Cost of a reset in units of reward; auto raises it while resets are more frequent than allowed_resets
    (RVI-SAC)."""
    allowed_resets: Annotated[float, Range(ge=0, le=1)] = 1e-3
    """Target number of resets per step for reset_cost auto. RVI-SAC: 1e-3."""
    reset_cost_rate: Annotated[float, Range(ge=0)] = 0.1
    """Step size of reset_cost auto."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` for intervals in the wrong order."""
        super().check_together(settings)
        shortest, longest = settings["min_interval"], settings["max_interval"]
        if shortest > longest:
            raise ConfigError(f"min_interval {shortest} is above max_interval {longest}: exchange them")
