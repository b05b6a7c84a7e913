"""Settings of PPO, and those that every on-policy agent has. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from rlopt.errors import ConfigError
from rlopt.settings.fields import OR_SCHEDULE, Range
from rlopt.settings.optimizer import Activation, LearningRate, OptimizerConfig, Widths, check_centring

ClipRange = Annotated[float, Range(gt=0), OR_SCHEDULE]
"""The largest change in one update; in Python also a function of the remaining progress."""


@dataclass(frozen=True, kw_only=True)
class OnPolicyConfig(OptimizerConfig):
    """Settings of every agent that learns from whole rollouts.

    If no source is named, the default is Stable-Baselines3's for PPO.
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
    """lambda of the generalised advantage estimate."""
    normalize_advantage: bool = True
    """Whether to standardise the advantages."""
    ent_coef: Annotated[float, Range(ge=0)] = 0.0
    """Weight of an entropy bonus."""
    max_grad_norm: Annotated[float, Range(gt=0, infinite=True)] = 0.5
    """Norm to which longer gradients are scaled down; inf for no bound."""
    reward_centring: bool = False
    """Whether the average reward is subtracted (arXiv 2405.09999), so that values lack the part that all states have in
    common, average / (1 - gamma). The best policy stays the same, even if episodes end."""
    centring_rate: Annotated[float, Range(gt=0, le=1)] = 0.1
    """Step size of that average towards the mean reward of a rollout; the first rollouts have equal weights."""
    use_sde: bool = False
    """Whether exploration is state-dependent (gSDE) instead of independent Gaussian noise."""
    sde_sample_freq: Annotated[int, Range(ge=-1)] = -1
    """Steps between new gSDE noise matrices; -1 draws one per rollout."""
    net_arch: Widths = (64, 64)
    """Width of each hidden layer of the policy network and of the value network."""
    activation_fn: Activation = "tanh"
    """Activation function of the hidden layers."""
    ortho_init: bool = True
    """Whether the weights are initialised orthogonally."""
    log_std_init: Annotated[float, Range()] = 0.0
    """Natural logarithm of the initial standard deviation of the actions."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether to compile each gradient step into one call (a CUDA graph on a GPU); auto compiles runs that are long
    enough to gain from it. If something cannot be compiled, steps run eagerly, and one line says why."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` for centred values that are not discounted."""
        super().check_together(settings)
        check_centring(settings)

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

    If no source is named, the default is Stable-Baselines3's.
    """

    batch_size: Annotated[int, Range(ge=1)] = 64
    """Rows per gradient step."""
    clip_range: ClipRange = 0.2
    """Clipping range of the ratio of new to old probability, on either side of 1."""
    clip_range_vf: ClipRange | None = None
    """Largest change of the value function in one update, in units of reward; default is no bound."""
    vf_coef: Annotated[float, Range(ge=0)] = 0.5
    """Weight of the value loss."""
    target_kl: Annotated[float, Range(gt=0)] | None = None
    """An update ends before a minibatch whose approximate KL divergence exceeds 1.5 times this, in nats; default is no
    limit."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` for advantages that are standardised one at a time."""
        super().check_together(settings)
        if settings["normalize_advantage"] and settings["batch_size"] == 1:
            raise ConfigError("batch_size = 1 leaves nothing to standardise: give normalize_advantage=False, or more")
