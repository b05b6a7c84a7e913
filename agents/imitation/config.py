"""Settings of the imitation learners SQIL, IQ-Learn, ValueDICE, DAgger, GAIL and AIRL. Imports no torch.

If no source is named, the default is Stable-Baselines3's for SAC.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from rlopt.agents.mdpo.config import MDPOConfig
from rlopt.agents.sac.config import FORMER_SETTINGS, EntropyCoefficient, OffPolicyConfig, QLearningConfig, SACConfig
from rlopt.errors import ConfigError
from rlopt.settings.demonstrations import DemonstrationConfig, OptionalDemonstrations
from rlopt.settings.fields import OrPython, Range
from rlopt.settings.optimizer import LearningRate

_OTHER_NAMES = {**DemonstrationConfig.other_names, "penalty_coef": "gradient_penalty"}
"""The second is that of version 0.1."""


def check_absorbing(settings: Mapping[str, Any]) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for an absorbing state whose value is infinite."""
    if settings["absorbing"] and settings["gamma"] == 1:
        raise ConfigError(
            "with gamma=1 an absorbing state has no finite value: give absorbing=False or a smaller gamma"
        )


def check_bounded_ends(settings: Mapping[str, Any]) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for an absorbing state of IQ-Learn whose value has no bound."""
    if settings["absorbing"] and not settings["regularize_policy"]:
        raise ConfigError(
            "absorbing needs regularize_policy, because a penalty on the expert's rows alone does not bound the "
            "value of the policy's ends: use the default of one of the two"
        )


@dataclass(frozen=True, kw_only=True)
class SQILConfig(DemonstrationConfig, SACConfig):
    """Soft Q imitation learning: reward 1 for demonstrations, 0 for everything else."""

    former_settings: ClassVar[Mapping[str, Any]] = FORMER_SETTINGS
    n_steps: ClassVar[int] = 1  # type: ignore[misc]  # no setting of these learners, as those that follow
    her: ClassVar[bool] = False  # type: ignore[misc]
    her_goals: ClassVar[int] = 4  # type: ignore[misc]
    demo_fraction: ClassVar[float] = 0.0  # type: ignore[misc]

    batch_size: Annotated[int, Range(ge=2)] = 256
    """Transitions per gradient step; half of them are the expert's."""
    absorbing: bool = True
    """Whether a true end leads to an absorbing state with reward 1 for the expert and 0 for the policy, received for
    ever; otherwise every end is worth 0."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` for an end without a finite value."""
        super().check_together(settings)
        check_absorbing(settings)


@dataclass(frozen=True, kw_only=True)
class IQLearnConfig(SQILConfig):
    """IQ-Learn: inverse soft-Q learning."""

    learning_starts: Annotated[int, Range(ge=0)] = 1280
    """Environment steps of uniformly random actions before the first update. Released code: 1280."""
    batch_size: Annotated[int, Range(ge=2)] = 512
    """Transitions per gradient step; half of them are the expert's. Released code: 256 of each."""
    actor_learning_rate: LearningRate | None = 3e-5
    """The step size of the actor; none takes learning_rate. Released scripts: 3e-5."""
    ent_coef: EntropyCoefficient = 0.01
    """Temperature: a number, or auto to learn it. Released code: 1e-2 on most tasks, 1 on Humanoid."""
    n_critics: Annotated[int, Range(ge=1)] = 1
    """Number of Q networks. Released scripts: 1 on MuJoCo."""
    chi_alpha: Annotated[float, Range(gt=0)] = 0.5
    """alpha of the chi-square regulariser E[r^2] / (4 alpha). Released code: 0.5."""
    value_term: Literal["value", "v0", "value_expert"] = "value"
    """States of the value term: those of both halves of the batch (value), the expert's as initial states (v0), or the
    expert's (value_expert). Released scripts: value or v0, depending on the task."""
    regularize_policy: bool = True
    """Whether the regulariser covers both halves of the batch (released code, online) or only the expert's."""
    use_target: bool = False
    """Whether V(s') comes from the target critics, without a gradient. Released code: no."""
    absorbing: bool = False
    """Whether a true end leads to an absorbing state, whose closed-form reward is received for ever; otherwise it is
    worth 0 (released code)."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` for an end whose value is not finite, or without a bound."""
        super().check_together(settings)
        if settings["use_target"] and settings["network"] == "crossq":
            raise ConfigError(
                "use_target has no effect with network crossq, which has no target networks: leave it out"
            )
        check_bounded_ends(settings)


@dataclass(frozen=True, kw_only=True)
class DiscreteSQILConfig(DemonstrationConfig, QLearningConfig):
    """Soft Q imitation learning for Discrete actions: reward 1 for demonstrations, 0 for everything else.

    If no source is named, the default is a choice of this package.
    """

    batch_size: Annotated[int, Range(ge=2)] = 256
    """Transitions per gradient step; half of them are the expert's."""
    ent_coef: Annotated[float, Range(gt=0)] = 0.1
    """Temperature: an action's probability is proportional to exp(Q / ent_coef)."""
    absorbing: bool = True
    """Whether a true end leads to an absorbing state with reward 1 for the expert and 0 for the policy, received for
    ever; otherwise every end is worth 0."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` for an end without a finite value."""
        super().check_together(settings)
        check_absorbing(settings)

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The constructor arguments of the learner's class, without the demonstrations; names in place of classes."""
        return self.learner_kwargs(super().algorithm_kwargs())


@dataclass(frozen=True, kw_only=True)
class DiscreteIQLearnConfig(DiscreteSQILConfig):
    """IQ-Learn for Discrete actions.

    If no source is named, the default is a choice of this package.
    """

    ent_coef: Annotated[float, Range(gt=0)] = 0.01
    """Temperature: an action's probability is proportional to exp(Q / ent_coef)."""
    chi_alpha: Annotated[float, Range(gt=0)] = 0.5
    """alpha of the chi-square regulariser E[r^2] / (4 alpha). Released code: 0.5."""
    value_term: Literal["value", "v0", "value_expert"] = "value"
    """States of the value term: those of both halves of the batch (value), the expert's as initial states (v0), or the
    expert's (value_expert)."""
    regularize_policy: bool = True
    """Whether the regulariser covers both halves of the batch (released code, online) or only the expert's."""
    use_target: bool = False
    """Whether V(s') comes from the target network, without a gradient. Released code: no."""
    absorbing: bool = False
    """Whether a true end leads to an absorbing state, whose closed-form reward is received for ever; otherwise it is
    worth 0 (released code)."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` for an end whose value is not finite, or without a bound."""
        super().check_together(settings)
        check_bounded_ends(settings)


@dataclass(frozen=True, kw_only=True)
class ValueDICEConfig(DemonstrationConfig, OffPolicyConfig):
    """ValueDICE: imitation by the Donsker-Varadhan form of the KL divergence."""

    former_settings: ClassVar[Mapping[str, Any]] = {"random_shift": 0}
    normalizes_itself: ClassVar[bool] = True
    other_names: ClassVar[Mapping[str, str]] = _OTHER_NAMES

    network: Literal["mlp", "layer_norm", "simba"] = "mlp"
    """Kind of network: mlp; layer_norm has layer normalisation in nu (RLPD, arXiv 2302.02948); simba has residual
    blocks (arXiv 2410.09754)."""
    learning_rate: LearningRate = 1e-3
    """The step size of nu. Released code: 1e-3."""
    actor_learning_rate: LearningRate = 1e-5
    """The step size of the actor. Released code: 1e-5."""
    learning_starts: Annotated[int, Range(ge=0)] = 2000
    """Environment steps of uniformly random actions before the first update. Released code: 2000, updates from 1000."""
    batch_size: Annotated[int, Range(ge=1)] = 256
    """Transitions of the replay buffer, and as many of the expert, per gradient step. Released code: 256."""
    gamma: Annotated[float, Range(gt=0, le=1)] = 0.99
    """Discount factor."""
    gradient_steps: Annotated[int, Range(ge=-1)] = 5
    """Gradient steps per update; -1 takes as many as transitions were collected since the last update. Released code:
    5."""
    replay_weight: Annotated[float, Range(ge=0, lt=1)] = 0.1
    """alpha, the share of the replay buffer in both occupancies. Released script: 0.1."""
    gradient_penalty: Annotated[float, Range(ge=0)] = 10.0
    """Weight of the two-sided gradient penalty on nu. Released code: 10."""
    orthogonal_coef: Annotated[float, Range(ge=0)] = 1e-4
    """Weight of the orthogonal penalty on the actor's layers. Released code: 1e-4."""
    exploration_noise: Annotated[float, Range(ge=0)] = 0.1
    """Standard deviation of the noise on the mean action, in units of half the action range. Released code: 0.1."""
    absorbing: bool = True
    """Whether a true end leads to an absorbing state with its own feature (released code); otherwise the episode is
    treated as if it had continued."""

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The constructor arguments of the learner's class, without the demonstrations; names in place of classes."""
        return self.learner_kwargs(super().algorithm_kwargs())


@dataclass(frozen=True, kw_only=True)
class DAggerConfig(OptionalDemonstrations, OffPolicyConfig):
    """DAgger: cloning of an expert who is asked in the states that the learner reaches."""

    gamma: ClassVar[float] = 0.99  # type: ignore[misc]  # no setting of DAgger, as the one that follows
    critic_net_arch: ClassVar[None] = None  # type: ignore[misc]

    expert: Annotated[str, OrPython(lambda value: not isinstance(value, str | float))] = ""
    """The expert: a run folder of rlopt, or a zip of Stable-Baselines3. Required."""
    network: Literal["mlp", "simba"] = "mlp"
    """Kind of network: mlp; simba has residual blocks on normalised observations (arXiv 2410.09754)."""
    learning_rate: LearningRate = 1e-3
    """The optimiser's step size."""
    beta_steps: Annotated[int, Range(ge=0)] = 10_000
    """Environment steps over which the probability that the expert acts falls linearly from 1 to 0."""
    demo_fraction: Annotated[float, Range(ge=0, lt=1)] = 0.5
    """Share of each batch that is drawn from the demonstrations, if there are any."""

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The constructor arguments of :class:`rlopt.DAgger`, without the expert; names in place of classes."""
        arguments = self.learner_kwargs(super().algorithm_kwargs())
        del arguments["expert"]
        return arguments


@dataclass(frozen=True, kw_only=True)
class GAILConfig(DemonstrationConfig, MDPOConfig):
    """Generative adversarial imitation learning with on-policy MDPO.

    If no source is named, the default is the paper's for MDPO.
    """

    other_names: ClassVar[Mapping[str, str]] = _OTHER_NAMES

    n_steps: Annotated[int, Range(ge=1)] = 2048
    """Steps per environment and rollout; the batch is n_steps * n_envs."""
    target_kl: Annotated[float, Range(gt=0)] | None = None
    """Target of E[B_q(pi || pi_k)] after an update, in nats if q is 1; by default t_k follows step_size_schedule."""
    normalize_value: bool = False
    """Whether the value phase divides by the scale of the returns."""
    learning_rate: LearningRate = 1e-3
    """Step size of the policy phase, chosen so that 20,000 steps are enough for CartPole-v1."""
    learning_rate_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Schedule of the networks' learning rates over the run: constant, falling linearly, or falling along half a
    cosine."""
    batch_size: Annotated[int, Range(ge=1)] | None = 64
    """Rows per gradient step of the policy phase; none is the full batch. Stable-Baselines3's PPO: 64."""
    n_epochs: Annotated[int, Range(ge=1)] = 20
    """m, passes over the rollout in the policy phase (gradient steps on the full batch, without minibatches)."""
    n_value_epochs: Annotated[int, Range(ge=1)] = 10
    """Passes over the rollout in the value phase, whose rewards change with every rollout. PPO: 10."""
    value_batch_size: Annotated[int, Range(ge=1)] | None = 64
    """Rows per gradient step of the value phase; none is the full batch. Stable-Baselines3's PPO: 64."""
    reward_form: Literal["gail", "airl"] = "gail"
    """Reward from the discriminator's logit D: gail is -ln(1 - sigma(D)), airl is D."""
    discriminator_input: Literal["state_action", "state", "state_next_state"] = "state_action"
    """The part of a transition that the discriminator sees."""
    discriminator_net_arch: tuple[Annotated[int, Range(ge=1, le=65536)], ...] = (256, 256)
    """Width of each hidden layer of the discriminator. DAC: 256 256."""
    discriminator_activation: Literal["relu", "tanh", "elu", "silu"] = "tanh"
    """Activation of the discriminator's hidden layers. DAC: tanh."""
    discriminator_learning_rate: Annotated[float, Range(ge=0, le=1e6)] = 1e-3
    """Adam's step size for the discriminator. DAC: 1e-3."""
    discriminator_batch_size: Annotated[int, Range(ge=1)] = 256
    """Transitions of the rollout, and as many of the demonstrations, per step of the discriminator."""
    discriminator_steps: Annotated[int, Range(ge=1)] = 100
    """Gradient steps of the discriminator per rollout. AILBoost: 100 for 1000 environment steps."""
    gradient_penalty: Annotated[float, Range(ge=0)] = 10.0
    """Weight of the two-sided gradient penalty. DAC: 10."""
    absorbing: bool = True
    """Whether a true end leads to an absorbing state that the discriminator sees, whose reward is received for ever;
    otherwise every end is worth 0, which favours long episodes if rewards are positive."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` for an end without a finite value."""
        check_absorbing(settings)

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The constructor arguments of :class:`rlopt.agents.imitation.gail.GAIL`, without the demonstrations."""
        return self.learner_kwargs(super().algorithm_kwargs())


@dataclass(frozen=True, kw_only=True)
class AIRLConfig(GAILConfig):
    """Adversarial inverse reinforcement learning with on-policy MDPO."""

    reward_form: ClassVar[str] = "airl"  # type: ignore[misc]  # no setting of AIRL
    discriminator_input: Literal["state_action", "state"] = "state_action"
    """Input of g. With state (paper), g is the reward itself up to a constant if transitions are deterministic."""
    discriminator_net_arch: tuple[Annotated[int, Range(ge=1, le=65536)], ...] = (64, 64)
    """Width of each hidden layer of g and of h."""
    gradient_penalty: Annotated[float, Range(ge=0)] = 1.0
    """Weight of the two-sided gradient penalty on g + gamma h' - h; none in the paper."""
