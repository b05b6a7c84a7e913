"""Settings of the two MDPO agents. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from rlopt.config import Range


@dataclass(frozen=True, kw_only=True)
class MDPOConfig:
    """On-policy mirror descent policy optimisation."""

    learning_rate: Annotated[float, Range(gt=0)] = 3e-4
    """Adam step size of the policy phase, > 0. Paper and released code: 3e-4."""
    value_learning_rate: Annotated[float, Range(gt=0)] | None = None
    """Adam step size of the value phase, > 0; default is learning_rate."""
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """linear anneals both learning rates to zero over the run."""
    n_steps: Annotated[int, Range(ge=1)] = 2048
    """Steps per environment and rollout, >= 1; the batch is n_steps * n_envs. Paper: 2048 in one environment."""
    n_epochs: Annotated[int, Range(ge=1)] = 10
    """m, gradient steps on the full batch per rollout (passes, with minibatches), >= 1. Paper: 10."""
    batch_size: Annotated[int, Range(ge=1)] | None = None
    """Rows per gradient step of the policy phase, >= 1; default is the full batch, as in the paper."""
    n_value_epochs: Annotated[int, Range(ge=1)] = 5
    """Passes over the rollout in the value phase, >= 1. Released code: 5."""
    value_batch_size: Annotated[int, Range(ge=1)] | None = 128
    """Rows per gradient step of the value phase, >= 1; none is the full batch. Released code: 128."""
    gamma: Annotated[float, Range(ge=0, le=1)] = 0.99
    """Discount factor, in [0, 1]."""
    gae_lambda: Annotated[float, Range(ge=0, le=1)] = 0.95
    """Trace of the generalised advantage estimate, in [0, 1]."""
    step_size: Annotated[float, Range(gt=0)] = 1.0
    """t_0, weight of the standardised advantages against the divergence, > 0. Paper: 1."""
    step_size_schedule: Literal["linear", "constant"] = "linear"
    """linear is the paper's t_k = t_0 (1 - k/K), which ends at t_0 / K."""
    tsallis_q: Annotated[float, Range(ge=1, le=2)] = 1.0
    """1 is the KL divergence; up to 2, the Tsallis divergence, in [1, 2]."""
    normalize_advantage: bool = True
    """Standardise the advantages of each rollout."""
    ent_coef: Annotated[float, Range(ge=0)] = 0.0
    """Weight of an entropy bonus, >= 0. Paper: 0."""
    clip_range_vf: Annotated[float, Range(gt=0)] | None = None
    """Largest change of the value function in one update, > 0; default is no bound."""
    max_grad_norm: Annotated[float, Range(gt=0)] = 0.5
    """Gradients are scaled down to this norm, in each phase, > 0. Released code: 0.5."""
    use_sde: bool = False
    """State-dependent exploration (gSDE) in place of independent Gaussian noise."""
    sde_sample_freq: Annotated[int, Range(ge=-1)] = -1
    """Steps between new gSDE noise matrices; -1 for one a rollout."""
    net_arch: tuple[int, ...] = (64, 64)
    """Hidden layers of the policy network and of the value network."""
    activation: Literal["tanh", "relu", "elu", "gelu", "silu", "leaky_relu"] = "tanh"
    """Activation function of the hidden layers."""
    ortho_init: bool = True
    """Orthogonal initialisation."""
    log_std_init: float = 0.0
    """Natural logarithm of the initial standard deviation of the actions."""

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The constructor arguments of :class:`rlopt.MDPO`."""
        kwargs = {field.name: getattr(self, field.name) for field in fields(self)}
        layers = list(kwargs.pop("net_arch"))
        kwargs["policy_kwargs"] = {
            "net_arch": {"pi": layers, "vf": layers},
            "activation_fn": kwargs.pop("activation"),
            "ortho_init": kwargs.pop("ortho_init"),
            "log_std_init": kwargs.pop("log_std_init"),
        }
        if kwargs.pop("learning_rate_schedule") == "linear":
            from stable_baselines3.common.utils import LinearSchedule  # here, to keep --help free of torch

            for name in ("learning_rate", "value_learning_rate"):
                if kwargs[name] is not None:
                    kwargs[name] = LinearSchedule(kwargs[name], 0.0, 1.0)
        return kwargs


@dataclass(frozen=True, kw_only=True)
class OffPolicyMDPOConfig:
    """Off-policy mirror descent policy optimisation."""

    gamma: Annotated[float, Range(ge=0, le=1)] = 0.99
    """Discount factor, in [0, 1]."""

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The constructor arguments of :class:`rlopt.OffPolicyMDPO`."""
        return {"gamma": self.gamma}
