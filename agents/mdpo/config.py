"""Settings of the two MDPO agents. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from rlopt.agents.ppo.config import OnPolicyConfig
from rlopt.agents.sac.config import EntropyCoefficient, SACConfig
from rlopt.errors import ConfigError
from rlopt.settings.fields import Range
from rlopt.settings.optimizer import LearningRate
from rlopt.settings.schedules import DecayingRate


@dataclass(frozen=True, kw_only=True)
class MDPOConfig(OnPolicyConfig):
    """On-policy mirror descent policy optimisation."""

    later_settings: ClassVar[Mapping[str, Any]] = {"target_kl": None, "normalize_value": False}

    n_steps: Annotated[int, Range(ge=1)] = 512
    """Steps per environment and rollout; the batch is n_steps * n_envs. Paper: 2048 in one environment."""
    learning_rate: LearningRate = 1e-3
    """Step size of the policy phase at the start of the run. Paper and released code: 3e-4."""
    learning_rate_schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Schedule of the networks' learning rates over the run: constant, falling linearly, or falling along half a
    cosine. In Python, a number given as learning_rate stays constant, and only the default follows this schedule."""
    learning_rate_floor: Annotated[float, Range(ge=0, le=1)] = 0.1
    """Final value of the schedules linear and cosine, as a share of the rate."""
    value_learning_rate: LearningRate | None = None
    """Step size of the value phase; default is learning_rate."""
    n_epochs: Annotated[int, Range(ge=1)] = 10
    """m, passes over a rollout in the policy phase; with the full batch, its gradient steps. Paper: 10."""
    batch_size: Annotated[int, Range(ge=1)] | None = 64
    """Rows per gradient step of the policy phase; none is the full batch, as in the paper."""
    n_value_epochs: Annotated[int, Range(ge=1)] = 10
    """Passes over the rollout in the value phase. Released code: 5."""
    value_batch_size: Annotated[int, Range(ge=1)] | None = 64
    """Rows per gradient step of the value phase; none is the full batch. Released code: 128."""
    target_kl: Annotated[float, Range(gt=0)] | None = 0.02
    """Target of E[B_q(pi || pi_k)] after an update, in nats if q is 1. t_k starts at step_size and is adapted to reach
    it. With none, t_k follows step_size_schedule, as in the paper."""
    step_size: Annotated[float, Range(gt=0)] = 1.0
    """t_0, weight of the standardised advantages against the divergence. Paper: 1."""
    step_size_schedule: Literal["linear", "constant"] = "linear"
    """Schedule of t_k without target_kl: linear is the paper's t_0 (1 - k/K), which ends at t_0 / K."""
    tsallis_q: Annotated[float, Range(ge=1, le=2)] = 1.0
    """q of the divergence: 1 is the KL divergence, values up to 2 are Tsallis divergences."""
    normalize_advantage: bool = True
    """Whether to standardise the advantages of each rollout, so that t_k has no unit."""
    normalize_value: bool = True
    """Whether the value phase divides by the scale of the returns, so that learning does not depend on the scale of the
    rewards. The value function stays in units of reward and starts at 0."""
    clip_range_vf: Annotated[float, Range(gt=0)] | None = None
    """Largest change of the value function in one update, in units of the returns' scale with normalize_value; default
    is no bound."""


DEFAULT_RATE = DecayingRate(
    MDPOConfig.learning_rate, MDPOConfig.learning_rate_schedule, floor=MDPOConfig.learning_rate_floor
)
"""What MDPOConfig makes of its defaults."""


@dataclass(frozen=True, kw_only=True)
class OffPolicyMDPOConfig(SACConfig):
    """Off-policy mirror descent policy optimisation; with kl_coef 0 it is SAC.

    If no source is named, the default is Stable-Baselines3's for SAC.
    """

    kl_coef: EntropyCoefficient = 0.0
    """c - lambda, the weight of the divergence from the old policy; 0 is SAC. auto adapts it to target_kl, in units of
    the standard deviation of Q in the batch, so that the scale of the rewards does not matter; auto_0.01 starts from
    0.01. A number stays constant. The paper's c is kl_coef + ent_coef: 0.3 on HalfCheetah with lambda 0.2, so kl_coef
    is 0.1."""
    target_kl: Annotated[float, Range(gt=0)] = 10.0
    """Divergence of the policy from the old one, in nats, above which kl_coef auto rises and below which it falls."""
    kl_unit: Literal["reward", "ent_coef"] = "reward"
    """Unit of a kl_coef that is a number: the unit of reward, or ent_coef, which keeps the two in proportion if
    ent_coef is learned. The paper's 0.1 with lambda 0.2 is 0.5 in units of ent_coef."""
    tsallis_q: Annotated[float, Range(ge=1, le=2)] = 1.0
    """q of the Tsallis entropy and divergence; 1 is Shannon and KL."""
    old_policy_period: Annotated[int, Range(ge=1)] = 1000
    """Gradient steps between two copies of the old policy (paper, section 5.1: 1000)."""
    analytic_kl: bool = False
    """Whether the KL divergence is taken in closed form instead of from one sampled action; only with tsallis_q 1."""
    value_network: bool = False
    """Whether Q's target comes from a value network (paper) instead of an action sampled at the next state (SAC)."""
    actor_q: Literal["min", "first"] = "min"
    """Which Q the actor maximises: the smallest of all critics, or the first (released code)."""
    deterministic_behaviour: bool = False
    """Whether the policy acts with its mean during training (released code) instead of sampling."""
    critic_log_prob_bound: Annotated[float, Range(gt=0)] | None = None
    """Bound in nats on the log-density in the critic's target (MDAC, arXiv 2502.03854); none for no bound."""
    log_density_floor: float | None = None
    """Lowest log-density of an action dimension in nats, without gradient below (released code: -13.8); none for no
    floor."""
    mean_penalty: Annotated[float, Range(ge=0)] = 0.0
    """Weight of the mean square of the actor's means (released code: 1e-3)."""
    log_std_penalty: Annotated[float, Range(ge=0)] = 0.0
    """Weight of the mean square of the actor's log standard deviations (released code: 1e-3)."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` for settings that contradict each other."""
        super().check_together(settings)
        delayed = settings["policy_delay"] not in (None, 1) or settings["actor_starts"]
        if settings["value_network"] and (settings["network"] == "crossq" or delayed):
            raise ConfigError(
                "value_network has a target network and learns with the actor in every step: leave it out with network "
                "crossq, a policy_delay or actor_starts"
            )
        if settings["analytic_kl"] and (settings["tsallis_q"] != 1.0 or settings["log_density_floor"] is not None):
            raise ConfigError(
                "analytic_kl needs tsallis_q=1 and no log_density_floor: it is the closed form of the KL divergence"
            )
