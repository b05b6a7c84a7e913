"""Settings of AILBoost and of its off-policy baseline DAC. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from rlopt.agents.sac.config import FORMER_SETTINGS, SACConfig
from rlopt.errors import ConfigError
from rlopt.settings.demonstrations import DemonstrationConfig
from rlopt.settings.fields import Range
from rlopt.settings.optimizer import Widths


@dataclass(frozen=True, kw_only=True)
class AILBoostConfig(DemonstrationConfig, SACConfig):
    """Imitation by boosting: a discriminator between the expert and a mixture of policies rewards the next policy.

    The learner of each round is soft actor-critic, whose settings are included.
    """

    former_settings: ClassVar[Mapping[str, Any]] = FORMER_SETTINGS

    learning_starts: Annotated[int, Range(ge=0)] = 1000
    """Environment steps of uniformly random actions before the first round (released code: 5000)."""
    weighting: Literal["bias_corrected", "constant", "uniform", "recent"] = "bias_corrected"
    """Weights of the weak learners' transitions in the discriminator's batches: constant is the paper's rule, by which
    a new learner gets mixture_weight; bias_corrected gives it at least 1 / number of learners, so that the untrained
    first one does not outweigh the others for 60 rounds; uniform is replay without weights; recent is uniform over the
    last recent_size transitions."""
    mixture_weight: Annotated[float, Range(gt=0, le=1)] = 0.05
    """Weight of a new learner. Released code: 0.05."""
    truncated_mass: Annotated[float, Range(ge=0, lt=1)] = 1e-3
    """The oldest learners are dropped while their weights sum to at most this."""
    max_learners: Annotated[int, Range(ge=1)] = 128
    """Largest number of weak learners. Released code: the size of the replay buffer divided by learner_steps."""
    recent_size: Annotated[int, Range(ge=1)] = 20_000
    """Number of transitions that represent the policy with weighting recent."""
    learner_steps: Annotated[int, Range(ge=0)] = 1000
    """N, transitions that each weak learner collects without training, in whole episodes except the last. With 0, the
    transitions of the training before it represent the learner. Released code: 1000."""
    policy_steps: Annotated[int, Range(ge=1)] = 1000
    """M, environment steps of training between two weak learners. Released code: 1000."""
    discriminator_steps: Annotated[int, Range(ge=0)] = 100
    """K, gradient steps of the discriminator after each weak learner. Released code: 100."""
    discriminator_batch_size: Annotated[int, Range(ge=1)] = 512
    """Transitions of the expert, and as many of the learners, per step of the discriminator. Released code: 512."""
    discriminator_learning_rate: Annotated[float, Range(ge=0, le=1e6)] = 3e-4
    """Adam's step size for the discriminator. Released code: 1e-4."""
    discriminator_input: Literal["state_action", "state", "state_next_state"] = "state_action"
    """The part of a transition that the discriminator sees."""
    discriminator_net_arch: Widths = (64, 64)
    """Width of each hidden layer of the discriminator. Released code: 64 64."""
    discriminator_output: Literal["tanh", "clip", "none"] = "tanh"
    """Bound on the discriminator's output: tanh (released code), clip or none."""
    output_bound: Annotated[float, Range(gt=0)] = 1.0
    """Value of that bound. With the reverse KL it bounds the log density ratio, and so the reward."""
    divergence: Literal["reverse_kl", "js", "wasserstein"] = "reverse_kl"
    """What the discriminator estimates: the paper's reverse KL, Jensen-Shannon by cross-entropy, or Wasserstein."""
    reward_form: Literal["airl", "gail"] = "airl"
    """The reward is the discriminator's output (airl), or -log(1 - sigmoid) of it (gail, only with divergence js)."""
    normalize_inputs: bool = True
    """Whether the discriminator's inputs are normalised by the expert's mean and deviation (with a tenth of the
    learner's deviation added in quadrature), so that units do not matter and the gradient penalty bounds every
    component equally. Released code: no."""
    gradient_penalty: Annotated[float, Range(ge=0)] = 1.0
    """Weight of the two-sided gradient penalty. Released code: 10, with which D hardly tells the expert's actions from
    similar ones."""
    relabel: bool = True
    """Whether the newest discriminator computes rewards when a batch is drawn. Otherwise they are computed when a step
    is stored and grow stale."""
    absorbing: bool = True
    """Whether a true terminal leads to an absorbing state, whose reward from the discriminator is received for ever.
    Otherwise a terminal is worth 0, which favours short episodes if rewards are negative. Without terminals this has no
    effect."""

    demo_fraction: Annotated[float, Range(ge=0, lt=1)] = 0.0
    """Share of each batch of the policy that is drawn from the demonstrations, with the discriminator's rewards; 0 in
    the paper."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` for a reward or an absorbing state that has no value."""
        super().check_together(settings)
        if settings["reward_form"] == "gail" and settings["divergence"] != "js":
            raise ConfigError(f"reward_form gail needs divergence js, not {settings['divergence']}: use airl")
        if settings["absorbing"] and settings["gamma"] == 1:
            raise ConfigError("gamma is 1 and the absorbing state has no value then: give gamma < 1 or absorbing=False")
        if settings["demo_fraction"] and not settings["relabel"]:
            raise ConfigError(
                "demonstrations in the batches get their rewards when they are drawn: give relabel=True, or "
                "demo_fraction=0"
            )

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The constructor arguments of :class:`rlopt.AILBoost`."""
        arguments = super().algorithm_kwargs()
        arguments["discriminator_net_arch"] = list(self.discriminator_net_arch)
        return arguments


@dataclass(frozen=True, kw_only=True)
class DACConfig(AILBoostConfig):
    """Discriminator-actor-critic: AILBoost without weights and weak learners, on uniform replay."""

    weighting: Literal["bias_corrected", "constant", "uniform", "recent"] = "uniform"
    """Transitions that represent the policy: uniform, the whole replay buffer (paper), or recent, the last
    recent_size."""
    learner_steps: Annotated[int, Range(ge=0)] = 0
    """Transitions collected without training before the discriminator's steps; 0 as in the paper."""
    policy_steps: Annotated[int, Range(ge=1)] = 500
    """Environment steps between two trainings of the discriminator; an episode in the paper."""
    discriminator_steps: Annotated[int, Range(ge=0)] = 500
    """Gradient steps of the discriminator at a time; as many as environment steps in the paper."""
    discriminator_batch_size: Annotated[int, Range(ge=1)] = 256
    """Transitions of the expert, and as many of the replay buffer, per step of the discriminator. Paper's code: 100."""
    discriminator_learning_rate: Annotated[float, Range(ge=0, le=1e6)] = 1e-3
    """Adam's step size for the discriminator. Paper's code: 1e-3."""
    discriminator_net_arch: Widths = (256, 256)
    """Width of each hidden layer of the discriminator. Paper's code: 256 256."""
    discriminator_output: Literal["tanh", "clip", "none"] = "none"
    """Bound on the discriminator's output; none in the paper."""
    divergence: Literal["reverse_kl", "js", "wasserstein"] = "js"
    """What the discriminator estimates; cross-entropy in the paper."""
