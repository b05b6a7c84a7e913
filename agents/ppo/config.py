"""Settings of PPO, and those that every on-policy agent has. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from rlopt.errors import ConfigError
from rlopt.settings.fields import OR_SCHEDULE, Range
from rlopt.settings.optimizer import Activation, LearningRate, OptimizerConfig, Widths

ClipRange = Annotated[float, Range(gt=0), OR_SCHEDULE]
"""How far something may move in one update; in Python also a function of the remaining progress."""


@dataclass(frozen=True, kw_only=True)
class OnPolicyConfig(OptimizerConfig):
    """What every agent has that learns from whole rollouts.

    Where no source is named, the default is Stable-Baselines3's for PPO.
    """

    learning_rate: LearningRate = 3e-4
    """The optimiser's step size."""
    n_steps: Annotated[int, Range(ge=1)] = 2048
    """Steps per environment and rollout; a rollout has n_steps * n_envs rows."""
    n_epochs: Annotated[int, Range(ge=1)] = 10
    """Passes over a rollout."""
    gamma: Annotated[float, Range(ge=0, le=1)] = 0.99
    """Discount factor."""
    gae_lambda: Annotated[float, Range(ge=0, le=1)] = 0.95
    """Trace of the generalised advantage estimate."""
    normalize_advantage: bool = True
    """Standardise the advantages."""
    ent_coef: Annotated[float, Range(ge=0)] = 0.0
    """Weight of an entropy bonus."""
    max_grad_norm: Annotated[float, Range(gt=0, infinite=True)] = 0.5
    """Gradients are scaled down to this norm; inf for no bound."""
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
        """The constructor arguments of the agent's class; names in place of classes."""
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
class PPOConfig(OnPolicyConfig):
    """Proximal policy optimisation with a clipped objective.

    Where no source is named, the default is Stable-Baselines3's.
    """

    batch_size: Annotated[int, Range(ge=1)] = 64
    """Rows per gradient step."""
    clip_range: ClipRange = 0.2
    """How far the ratio of new and old probability may be from 1 before its gradient ends."""
    clip_range_vf: ClipRange | None = None
    """Largest change of the value function in one update, in units of reward; default is no bound."""
    vf_coef: Annotated[float, Range(ge=0)] = 0.5
    """Weight of the value loss beside the policy's."""
    target_kl: Annotated[float, Range(gt=0)] | None = None
    """An update ends where a minibatch shows one and a half times this approximate KL divergence, in nats; default is
    never."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` for advantages that are standardised one at a time."""
        if settings["normalize_advantage"] and settings["batch_size"] == 1:
            raise ConfigError("batch_size = 1 leaves nothing to standardise: give normalize_advantage=False, or more")
