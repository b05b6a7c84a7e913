"""Settings of the two MDPO agents. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from rlopt.agents.sac.config import EntropyCoefficient, SACConfig
from rlopt.errors import ConfigError
from rlopt.settings.fields import Range
from rlopt.settings.optimizer import Activation, LearningRate, OptimizerConfig, Widths


@dataclass(frozen=True, kw_only=True)
class MDPOConfig(OptimizerConfig):
    """On-policy mirror descent policy optimisation."""

    learning_rate: LearningRate = 3e-4
    """Step size of the policy phase. Paper and released code: 3e-4."""
    value_learning_rate: LearningRate | None = None
    """Step size of the value phase; default is learning_rate."""
    n_steps: Annotated[int, Range(ge=1)] = 2048
    """Steps per environment and rollout; the batch is n_steps * n_envs. Paper: 2048 in one environment."""
    n_epochs: Annotated[int, Range(ge=1)] = 10
    """m, gradient steps on the full batch per rollout (passes, with minibatches). Paper: 10."""
    batch_size: Annotated[int, Range(ge=1)] | None = None
    """Rows per gradient step of the policy phase; default is the full batch, as in the paper."""
    n_value_epochs: Annotated[int, Range(ge=1)] = 5
    """Passes over the rollout in the value phase. Released code: 5."""
    value_batch_size: Annotated[int, Range(ge=1)] | None = 128
    """Rows per gradient step of the value phase; none is the full batch. Released code: 128."""
    gamma: Annotated[float, Range(ge=0, le=1)] = 0.99
    """Discount factor."""
    gae_lambda: Annotated[float, Range(ge=0, le=1)] = 0.95
    """Trace of the generalised advantage estimate."""
    step_size: Annotated[float, Range(gt=0)] = 1.0
    """t_0, weight of the standardised advantages against the divergence. Paper: 1."""
    step_size_schedule: Literal["linear", "constant"] = "linear"
    """linear is the paper's t_k = t_0 (1 - k/K), which ends at t_0 / K."""
    tsallis_q: Annotated[float, Range(ge=1, le=2)] = 1.0
    """1 is the KL divergence; up to 2, the Tsallis divergence."""
    normalize_advantage: bool = True
    """Standardise the advantages of each rollout."""
    ent_coef: Annotated[float, Range(ge=0)] = 0.0
    """Weight of an entropy bonus. Paper: 0."""
    clip_range_vf: Annotated[float, Range(gt=0)] | None = None
    """Largest change of the value function in one update; default is no bound."""
    max_grad_norm: Annotated[float, Range(gt=0, infinite=True)] = 0.5
    """Gradients are scaled down to this norm, in each phase; inf for no bound. Released code: 0.5."""
    use_sde: bool = False
    """State-dependent exploration (gSDE) in place of independent Gaussian noise."""
    sde_sample_freq: Annotated[int, Range(ge=-1)] = -1
    """Steps between new gSDE noise matrices; -1 for one a rollout."""
    net_arch: Widths = (64, 64)
    """Hidden layers of the policy network and of the value network."""
    activation_fn: Activation = "tanh"
    """Activation function of the hidden layers."""
    ortho_init: bool = True
    """Orthogonal initialisation."""
    log_std_init: Annotated[float, Range()] = 0.0
    """Natural logarithm of the initial standard deviation of the actions."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether each gradient step is one compiled call (a CUDA graph on a GPU); auto compiles runs that are long enough
    to earn the compilation back. What cannot be compiled runs eagerly, which is said once with the reason."""

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The constructor arguments of :class:`rlopt.MDPO`."""
        kwargs = {field.name: getattr(self, field.name) for field in fields(self)}
        layers = list(kwargs.pop("net_arch"))
        kwargs["policy_kwargs"] = {
            "net_arch": {"pi": layers, "vf": layers},
            "activation_fn": kwargs.pop("activation_fn"),
            "ortho_init": kwargs.pop("ortho_init"),
            "log_std_init": kwargs.pop("log_std_init"),
        }
        return self.with_optimizer(kwargs)


@dataclass(frozen=True, kw_only=True)
class OffPolicyMDPOConfig(SACConfig):
    """Off-policy mirror descent policy optimisation; with kl_coef 0 it is SAC.

    Where no source is named, the default is Stable-Baselines3's for SAC.
    """

    kl_coef: EntropyCoefficient = 0.0
    """c - lambda, the weight of the divergence from the old policy; 0 is SAC. auto follows target_kl, in units of the
    standard deviation of Q in the batch, so that the scale of the rewards does not matter; auto_0.01 starts from 0.01.
    A number is kept; the paper's c is kl_coef + ent_coef: 0.3 on HalfCheetah with lambda 0.2, so 0.1."""
    target_kl: Annotated[float, Range(gt=0)] = 10.0
    """Divergence of the policy from the old one, in nats, above which kl_coef auto rises and below which it falls."""
    kl_unit: Literal["reward", "ent_coef"] = "reward"
    """Unit of a kl_coef that is a number: that of the reward, or a multiple of ent_coef, which keeps the two in
    proportion where ent_coef is learned. The paper's 0.1 beside lambda 0.2 is 0.5 ent_coef."""
    tsallis_q: Annotated[float, Range(ge=1, le=2)] = 1.0
    """q of the Tsallis entropy and divergence; 1 is Shannon and KL."""
    old_policy_period: Annotated[int, Range(ge=1)] = 1000
    """Gradient steps between two copies of the old policy (paper, section 5.1: 1000)."""
    analytic_kl: bool = False
    """Whether the KL divergence is taken in closed form instead of from one sampled action; only with tsallis_q 1."""
    value_network: bool = False
    """Whether Q's target comes from a value network (paper) instead of an action sampled at the next state (SAC)."""
    actor_q: Literal["min", "first"] = "min"
    """Which Q the actor climbs: the smallest of all critics, or the first (released code)."""
    deterministic_behaviour: bool = False
    """Whether the mean action is taken while training (released code) instead of a sampled one."""
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
        if settings["value_network"] and (settings["network"] == "crossq" or settings["policy_delay"] not in (None, 1)):
            raise ConfigError(
                "value_network has a target network and learns with the actor in every step: leave it out with network "
                "crossq or a policy_delay"
            )
        if settings["analytic_kl"] and (settings["tsallis_q"] != 1.0 or settings["log_density_floor"] is not None):
            raise ConfigError(
                "analytic_kl needs tsallis_q=1 and no log_density_floor: it is the closed form of the KL divergence"
            )
