"""Settings of DeepLOOP. Imports no torch.

Where no source is named, the default is Stable-Baselines3's for SAC, or a choice of this package that nobody tuned.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from rlopt.settings.fields import Range
from rlopt.settings.optimizer import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class DeepLOOPConfig(OptimizerConfig):
    """DeepLOOP, experimental; with bonus false and lazy false it is RVI-SAC."""

    learning_rate: Annotated[float, Range(ge=0, le=1e6)] = 3e-4
    """The optimiser's step size for every network, >= 0. RVI-SAC: 3e-4."""
    buffer_size: Annotated[int, Range(ge=1)] = 1_000_000
    """Transitions that the replay buffer holds, over all environments. RVI-SAC: 1e6."""
    learning_starts: Annotated[int, Range(ge=0)] = 10_000
    """Environment steps of uniformly random actions before the first update. RVI-SAC: 1e4."""
    batch_size: Annotated[int, Range(ge=1)] = 256
    """Transitions of one gradient step. RVI-SAC: 256."""
    tau: Annotated[float, Range(gt=0, le=1)] = 0.005
    """Part of the way that the slow copy of the critics moves at each gradient step, in (0, 1]. RVI-SAC: 0.005."""
    train_freq: Annotated[int, Range(ge=1)] = 1
    """Steps of every environment between two updates."""
    gradient_steps: Annotated[int, Range(ge=-1)] = 1
    """Gradient steps an update; -1 takes as many as transitions were collected since the last."""
    ent_coef: Annotated[float, Range(ge=0)] | str = "auto"
    """Temperature, the weight of the entropy: a number >= 0, auto to learn it, auto_0.1 to start from 0.1."""
    target_entropy: float | str = "auto"
    """Entropy in nats that a learned ent_coef aims at; auto is minus the number of action dimensions."""
    gain_estimator: Literal["rvi", "td", "centring"] = "rvi"
    """How the gain is estimated: RVI-SAC's delayed f(Q), differential Q-learning, or the mean soft reward of the
    batches, which old data bias."""
    gain_rate: Annotated[float, Range(ge=0, le=1)] = 5e-3
    """How far the gain moves at a gradient step, in [0, 1]. RVI-SAC: 5e-3."""
    centring_coef: Annotated[float, Range(ge=0)] = 0.1
    """Weight of the squared mean of Q, which holds its constant, >= 0; not used with rvi. APO (arXiv 2106.03442) has
    0.1 for its value function."""
    bonus: bool = True
    """Whether rewards have the elliptical bonus."""
    beta: Annotated[float, Range(gt=0)] = 10.0
    """Squared radius of the confidence set, > 0, in units of reward squared: the sum of squared bonuses over the data,
    and the unit of the switching rule."""
    max_bonus: Annotated[float, Range(gt=0)] = 1.0
    """Largest bonus, > 0, in units of reward."""
    n_features: Annotated[int, Range(ge=1, le=65536)] = 128
    """Random Fourier features of state and action."""
    length_scale: Annotated[float, Range(gt=0)] = 1.0
    """Of their kernel, > 0, in standard deviations of the inputs."""
    ridge: Annotated[float, Range(gt=0)] = 1.0
    """Of the features' Gram matrix, > 0."""
    lazy: bool = True
    """Whether the behaviour is a frozen policy until its discrepancy on the data has grown."""
    switch_multiplier: Annotated[float, Range(gt=1)] = 4.0
    """Discrepancy in multiples of beta at which it is given up, > 1. LOOP: 4."""
    min_interval: Annotated[int, Range(ge=1)] = 1_000
    """Transitions between two switches at least; a switch reads the whole replay buffer."""
    max_interval: Annotated[int, Range(ge=1)] = 10_000
    """Transitions after which it switches in any case."""
    on_termination: Literal["refuse", "reset"] = "refuse"
    """Whether an episode that truly ends is an error, or a reset that is a transition with a price."""
    reset_cost: Annotated[float, Range(ge=0)] | str = "auto"
    """That price in units of reward, >= 0; auto raises it while resets come more often than allowed (RVI-SAC)."""
    allowed_resets: Annotated[float, Range(ge=0, le=1)] = 1e-3
    """Resets a step that auto aims at, in [0, 1]. RVI-SAC: 1e-3."""
    reset_cost_rate: Annotated[float, Range(ge=0)] = 0.1
    """Step size of auto, >= 0."""
    net_arch: tuple[Annotated[int, Range(ge=1, le=65536)], ...] = (256, 256)
    """Width of each hidden layer of actor and critics. RVI-SAC: 256 256."""
    activation_fn: Literal["tanh", "relu", "elu", "gelu", "silu", "leaky_relu"] = "relu"
    """Activation of the hidden layers."""
    n_critics: Annotated[int, Range(ge=1)] = 2
    """Number of Q networks."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether each gradient step is one compiled call (a CUDA graph on a GPU), but for a learned reset cost; auto
    compiles runs that are long enough to earn the compilation back."""

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The constructor arguments of :class:`rlopt.DeepLOOP`; names in place of classes."""
        own = ("net_arch", "activation_fn", "n_critics")
        arguments = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in own}
        policy = {"net_arch": list(self.net_arch), "activation_fn": self.activation_fn, "n_critics": self.n_critics}
        return self.with_optimizer(arguments | {"policy_kwargs": policy})
