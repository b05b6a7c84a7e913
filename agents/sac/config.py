"""Settings of soft actor-critic. Imports no torch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal

from rlopt.errors import require
from rlopt.settings.demonstrations import OptionalDemonstrations
from rlopt.settings.fields import OrPython, Range, Text
from rlopt.settings.optimizer import (
    PUBLISHED_WIDTHS,
    Activation,
    CompiledStepConfig,
    LearningRate,
    NetworkName,
    Widths,
    check_centring,
)

FORMER_SETTINGS: dict[str, Any] = {
    "kl_coef": 0.0,
    "kl_unit": "reward",
    "tsallis_q": 1.0,
    "old_policy_period": 1000,
    "analytic_kl": False,
    "value_network": False,
    "actor_q": "min",
    "deterministic_behaviour": False,
    "critic_log_prob_bound": None,
    "log_density_floor": None,
    "mean_penalty": 0.0,
    "log_std_penalty": 0.0,
}
"""Settings of off-policy MDPO that other agents on soft actor-critic had in version 0.1."""

FIRST_POLICY_WEIGHT = 100.0
"""Default of cloning_coef where a learner from demonstrations begins with another's policy."""


def _is_train_freq(value: Any) -> bool:
    """Whether it is a pair such as (1, "episode")."""
    return (
        isinstance(value, tuple | list)
        and len(value) == 2
        and type(value[0]) is int
        and value[0] >= 1
        and value[1] in ("step", "episode")
    )


def _is_auto(text: str) -> bool:
    """Whether it is "auto", or "auto_" and a number > 0."""
    number = math.nan
    with contextlib.suppress(ValueError):
        number = 1.0 if text == "auto" else float(text.removeprefix("auto_")) if text.startswith("auto_") else math.nan
    return 0 < number < math.inf


EntropyCoefficient = (
    Annotated[float, Range(ge=0)] | Annotated[str, Text(_is_auto, "auto, or auto_0.1 to start from 0.1")]
)
"""lambda, a number >= 0, or a text that says where one that is learned starts."""


@dataclass(frozen=True, kw_only=True)
class OffPolicyConfig(CompiledStepConfig):
    """Settings of every agent with a replay buffer.

    If no source is named, the default is Stable-Baselines3's for SAC.
    """

    learning_rate: LearningRate = 3e-4
    """The optimiser's step size for every network."""
    buffer_size: Annotated[int, Range(ge=1)] = 1_000_000
    """Size of the replay buffer in transitions, summed over all environments."""
    learning_starts: Annotated[int, Range(ge=0)] = 100
    """Environment steps of uniformly random actions before the first update."""
    batch_size: Annotated[int, Range(ge=1)] = 256
    """Transitions per gradient step."""
    gamma: Annotated[float, Range(ge=0, le=1)] = 0.99
    """Discount factor."""
    train_freq: Annotated[int, Range(ge=1), OrPython(_is_train_freq)] = 1
    """Steps of every environment between two updates."""
    gradient_steps: Annotated[int, Range(ge=-1)] = 1
    """Gradient steps per update; -1 takes as many as transitions were collected since the last update."""
    network: NetworkName = "mlp"
    """Kind of network: mlp; layer_norm has layer normalisation in the critics (RLPD, arXiv 2302.02948); simba has
    residual blocks on normalised observations (arXiv 2410.09754); crossq has batch renormalisation and no target
    networks (arXiv 1902.05605)."""
    net_arch: Widths | None = None
    """Width of each hidden layer of actor and critics, or of each residual block with simba. Default is 256 256. The
    exceptions follow the papers: simba has 128 for the actor and 512 512 for the critics, crossq 2048 2048 for the
    critics."""
    critic_net_arch: Widths | None = None
    """Width of each hidden layer of the critics alone; default is net_arch."""
    activation_fn: Activation = "relu"
    """Activation of the hidden layers."""

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The constructor arguments of the agent's class; names in place of classes."""
        arguments = {field.name: getattr(self, field.name) for field in fields(self)}
        policy = {name: arguments.pop(name) for name in ("net_arch", "activation_fn", "n_critics") if name in arguments}
        actor, critics = PUBLISHED_WIDTHS[self.network]
        actor = self.net_arch or actor
        critics = arguments.pop("critic_net_arch", None) or self.net_arch or critics
        policy["net_arch"] = list(actor) if actor == critics else {"pi": list(actor), "qf": list(critics)}
        return self.with_optimizer(arguments | {"policy_kwargs": policy})


@dataclass(frozen=True, kw_only=True)
class QLearningConfig(OffPolicyConfig):
    """Settings of the agents that have one Q network and no actor.

    If no source is named, the default is Stable-Baselines3's for DQN, or a choice of this package that was not tuned.
    """

    network: ClassVar[str] = "mlp"  # type: ignore[misc]  # no setting of these agents, as the one that follows
    critic_net_arch: ClassVar[Widths | None] = None  # type: ignore[misc]

    learning_rate: LearningRate = 3e-4
    """The optimiser's step size."""
    batch_size: Annotated[int, Range(ge=1)] = 64
    """Transitions per gradient step."""
    net_arch: Widths | None = None
    """Width of each hidden layer. Default is 64 64, and no hidden layer after an image encoder."""
    tau: Annotated[float, Range(ge=0, le=1)] = 0.005
    """Polyak coefficient of the target network's updates; 0 keeps it fixed."""
    target_update_interval: Annotated[int, Range(ge=1)] = 1
    """Gradient steps within an update between two updates of the target network."""

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The constructor arguments of the agent's class; names in place of classes."""
        arguments = {field.name: getattr(self, field.name) for field in fields(self)}
        widths = arguments.pop("net_arch")
        policy = {"net_arch": None if widths is None else list(widths), "activation_fn": arguments.pop("activation_fn")}
        return self.with_optimizer(arguments | {"policy_kwargs": policy})


@dataclass(frozen=True, kw_only=True)
class SACConfig(OptionalDemonstrations, OffPolicyConfig):
    """Soft actor-critic.

    If no source is named, the default is Stable-Baselines3's.
    """

    tau: Annotated[float, Range(ge=0, le=1)] = 0.005
    """Polyak coefficient of the target networks' updates; 0 keeps them fixed."""
    n_steps: Annotated[int, Range(ge=1)] = 1
    """Rewards summed before bootstrapping (n-step return)."""
    ent_coef: EntropyCoefficient = "auto"
    """lambda, the weight of the entropy: a number, auto to learn it, or auto_0.1 to learn it starting from 0.1."""
    target_entropy: float | Annotated[str, Text("auto".__eq__, "auto")] = "auto"
    """Target entropy in nats of a learned ent_coef; auto is minus the number of action dimensions."""
    target_update_interval: Annotated[int, Range(ge=1)] = 1
    """Gradient steps within an update between two updates of the target networks."""
    policy_delay: Annotated[int, Range(ge=1)] | None = None
    """Gradient steps of the critics for each one of the actor and of ent_coef; default is 1, and 3 with crossq
    (paper)."""
    actor_starts: Annotated[int, Range(ge=0)] = 0
    """Environment steps before the actor and ent_coef take their first gradient step; the critics learn from
    learning_starts on. Use it if the policy starts as a clone (--init-from), so that it does not follow critics that do
    not know it yet."""
    use_sde: bool = False
    """Whether exploration is state-dependent (gSDE, arXiv 2005.05719)."""
    sde_sample_freq: Annotated[int, Range(ge=-1)] = -1
    """Steps between two exploration matrices of gSDE; -1 draws one per update."""
    her: bool = False
    """Whether transitions are relabelled with goals that were reached (hindsight experience replay); needs a task with
    achieved_goal and desired_goal observations."""
    her_goals: Annotated[int, Range(ge=1)] = 4
    """Relabelled goals for each real one; needs her."""
    reward_centring: bool = False
    """Whether a learned average reward is subtracted (arXiv 2405.09999), so that values lack the part that all states
    have in common, average / (1 - gamma), which is learned separately. The best policy stays the same, even if episodes
    end."""
    centring_rate: Annotated[float, Range(gt=0, le=1)] = 1e-3
    """Step size of that average in a gradient step, along the mean temporal-difference error."""
    n_critics: Annotated[int, Range(ge=1)] = 2
    """Number of Q networks."""
    encoder: Literal["nature", "drqv2"] = "nature"
    """Encoder of images: nature is Stable-Baselines3's network, separate for actor and critics; drqv2 is that of
    DrQ-v2, whose convolutions are shared and trained by the critics' loss only. Only for images."""
    random_shift: Annotated[int, Range(ge=0)] = 0
    """Largest random shift of images in pixels, drawn for each batch (DrQ-v2: 4); 0 for no shift. Only for images."""
    demo_fraction: Annotated[float, Range(ge=0, lt=1)] = 0.5
    """Share of each batch that is drawn from the demonstrations, with their rewards. Without demonstrations it has no
    effect. RLPD (arXiv 2302.02948, symmetric sampling): a half."""
    cloning_coef: Annotated[float, Range(ge=0)] | None = None
    """Weight of behaviour cloning in the actor's loss, relative to 1 + the size of the loss: the mean squared distance
    between the actor's mean action and that of the policy it began with (--init-from), at the states of the batch. If
    it began with none, the demonstrated actions are cloned instead, at the states of the demonstrations. Default is
    100 for learners from demonstrations with --init-from, whose learned reward may know less than the clone, and 0
    otherwise."""
    cloning_steps: Annotated[int, Range(ge=1)] | None = None
    """Environment steps over which that weight falls linearly to 0; none keeps it constant."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` for a setting of target networks where there are none."""
        super().check_together(settings)
        for name in ("tau", "target_update_interval"):
            require(
                settings["network"] != "crossq" or settings[name] == getattr(SACConfig, name),
                f"{name} has no effect with network crossq, which has no target networks: leave {name} out",
            )
        check_centring(settings)

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The constructor arguments of the agent's class; names in place of classes."""
        arguments = self.learner_kwargs(super().algorithm_kwargs())
        for name in ("her", "her_goals", "encoder"):
            arguments.pop(name, None)
        if self.encoder != "nature":
            arguments["policy_kwargs"]["features_extractor_class"] = self.encoder
        if self.her:
            arguments["replay_buffer_class"] = "device_her"
            arguments["replay_buffer_kwargs"] = {"n_sampled_goal": self.her_goals, "goal_selection_strategy": "future"}
        return arguments
