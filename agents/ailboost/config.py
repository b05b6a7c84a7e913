"""Settings of AILBoost and of its off-policy baseline DAC. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal

from rlopt.agents.imitation.config import DemonstrationConfig
from rlopt.agents.sac.config import FORMER_SETTINGS, SACConfig
from rlopt.errors import ConfigError
from rlopt.settings.fields import Range
from rlopt.settings.optimizer import Widths


@dataclass(frozen=True, kw_only=True)
class AILBoostConfig(DemonstrationConfig, SACConfig):
    """Imitation by boosting: a discriminator tells the expert from a mixture of policies, whose next member is learned.

    The learner of each round is soft actor-critic; its settings are here too.
    """

    former_settings: ClassVar[Mapping[str, Any]] = FORMER_SETTINGS

    learning_starts: Annotated[int, Range(ge=0)] = 1000
    """Environment steps of uniformly random actions before the first round (released code: 5000)."""
    weighting: Literal["bias_corrected", "constant", "uniform", "recent"] = "bias_corrected"
    """How the weak learners' transitions weigh for the discriminator: constant is the paper's rule, a new learner gets
    mixture_weight; bias_corrected gives it at least 1 / number of learners, so that the untrained first one does not
    outweigh the others for 60 rounds; uniform is replay without weights; recent is uniform over recent_size rows."""
    mixture_weight: Annotated[float, Range(gt=0, le=1)] = 0.05
    """Weight of a new learner. Released code: 0.05."""
    truncated_mass: Annotated[float, Range(ge=0, lt=1)] = 1e-3
    """Old learners are dropped as long as their weights sum to no more than this."""
    max_learners: Annotated[int, Range(ge=1)] = 128
    """Weak learners kept at most. Released code: the size of the replay over learner_steps."""
    recent_size: Annotated[int, Range(ge=1)] = 20_000
    """Transitions that stand for the policy with weighting recent."""
    learner_steps: Annotated[int, Range(ge=0)] = 1000
    """N, transitions that each weak learner collects while nothing is trained, from whole episodes up to the last one.
    0: none, the transitions of the training before stand for the learner. Released code: 1000."""
    policy_steps: Annotated[int, Range(ge=1)] = 1000
    """M, environment steps of training between two weak learners. Released code: 1000."""
    discriminator_steps: Annotated[int, Range(ge=0)] = 100
    """K, gradient steps of the discriminator after each weak learner. Released code: 100."""
    discriminator_batch_size: Annotated[int, Range(ge=1)] = 512
    """Rows of the expert, and as many of the learners, in such a step. Released code: 512."""
    discriminator_learning_rate: Annotated[float, Range(ge=0, le=1e6)] = 3e-4
    """Adam's step size for the discriminator. Released code: 1e-4."""
    discriminator_input: Literal["state_action", "state", "state_next_state"] = "state_action"
    """What of a transition the discriminator sees."""
    discriminator_net_arch: Widths = (64, 64)
    """Hidden layers of the discriminator. Released code: 64 64."""
    discriminator_output: Literal["tanh", "clip", "none"] = "tanh"
    """How its last layer is bounded: tanh (released code), clip or none."""
    output_bound: Annotated[float, Range(gt=0)] = 1.0
    """The bound of tanh and clip: with the reverse KL of the log density ratio, and so of the reward."""
    divergence: Literal["reverse_kl", "js", "wasserstein"] = "reverse_kl"
    """What the discriminator estimates: the paper's reverse KL, Jensen-Shannon by cross-entropy, or Wasserstein."""
    reward_form: Literal["airl", "gail"] = "airl"
    """airl: the discriminator's output is the reward; gail: -log(1 - sigmoid) of it, only with divergence js."""
    normalize_inputs: bool = True
    """The discriminator sees observations less the expert's mean, over its deviation and a tenth of the learner's, so
    that their units do not matter and the gradient penalty bounds every part of them alike. Released code: no."""
    gradient_penalty: Annotated[float, Range(ge=0)] = 1.0
    """Weight of the two-sided gradient penalty. Released code: 10, at which D hardly tells what the expert does from
    what is a little beside it."""
    relabel: bool = True
    """Rewards are computed when a batch is drawn, by the newest discriminator; otherwise when a step is stored, and
    then grow stale."""
    absorbing: bool = True
    """What follows a true terminal is a state of its own to the discriminator, whose reward is received for ever after.
    Otherwise a terminal is worth 0, which favours short episodes where rewards are negative. Without terminals it makes
    no difference."""

    cloning_coef: Annotated[float, Range(ge=0)] = 0.0
    """Weight of behaviour cloning in the actor's loss, in units of 1 + the loss's own size: the mean squared distance
    of its mean action from the expert's at the expert's states. For a policy that begins as a clone (--init-from)."""
    cloning_steps: Annotated[int, Range(ge=1)] | None = None
    """Environment steps in which that weight falls to 0, linearly; none for never."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` for a reward or an absorbing state that has no value."""
        super().check_together(settings)
        if settings["reward_form"] == "gail" and settings["divergence"] != "js":
            raise ConfigError(f"reward_form gail needs divergence js, not {settings['divergence']}: use airl")
        if settings["absorbing"] and settings["gamma"] == 1:
            raise ConfigError("gamma is 1 and the absorbing state has no value then: give gamma < 1 or absorbing=False")

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The constructor arguments of :class:`rlopt.AILBoost`."""
        arguments = super().algorithm_kwargs()
        del arguments["demos"], arguments["subsample"]
        arguments["n_demonstrations"] = arguments.pop("n_demos")
        arguments["discriminator_net_arch"] = list(self.discriminator_net_arch)
        return arguments


@dataclass(frozen=True, kw_only=True)
class DACConfig(AILBoostConfig):
    """Discriminator-actor-critic: AILBoost without weights and rounds of its own, on uniform replay."""

    weighting: Literal["bias_corrected", "constant", "uniform", "recent"] = "uniform"
    """Which transitions stand for the policy: uniform, the whole replay (paper), or recent, the last recent_size."""
    learner_steps: Annotated[int, Range(ge=0)] = 0
    """Transitions collected without training before the discriminator's steps; 0 as in the paper."""
    policy_steps: Annotated[int, Range(ge=1)] = 500
    """Environment steps of training between two trainings of the discriminator; an episode in the paper."""
    discriminator_steps: Annotated[int, Range(ge=0)] = 500
    """Gradient steps of the discriminator at a time; as many as environment steps in the paper."""
    discriminator_batch_size: Annotated[int, Range(ge=1)] = 256
    """Rows of the expert, and as many of the replay, in such a step. Paper's code: 100."""
    discriminator_learning_rate: Annotated[float, Range(ge=0, le=1e6)] = 1e-3
    """Adam's step size for the discriminator. Paper's code: 1e-3."""
    discriminator_net_arch: Widths = (256, 256)
    """Hidden layers of the discriminator. Paper's code: 256 256."""
    discriminator_output: Literal["tanh", "clip", "none"] = "none"
    """How its last layer is bounded; not at all in the paper."""
    divergence: Literal["reverse_kl", "js", "wasserstein"] = "js"
    """What the discriminator estimates; cross-entropy in the paper."""


def own_names() -> list[str]:
    """Settings of AILBoost that neither soft actor-critic nor the choice of demonstrations has."""
    shared = {field.name for config in (SACConfig, DemonstrationConfig) for field in fields(config)}
    return [field.name for field in fields(AILBoostConfig) if field.name not in shared]
