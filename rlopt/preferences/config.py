"""Settings of learning a reward from preferences. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from rlopt.errors import ConfigError
from rlopt.settings.fields import AgentConfig, Range
from rlopt.settings.optimizer import Widths


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig(AgentConfig):
    """A reward model learned from preferences between fragments of episodes (Christiano et al., arXiv 1706.03741), and
    the questions that a run asks."""

    teacher: Literal["return", "noisy", "none"] = "return"
    """Who answers during a run: return prefers the fragment with the higher return of the environment, noisy errs as a
    person does, and none asks no further questions."""
    temperature: Annotated[float, Range(ge=0)] = 0.2
    """Scale of the noisy teacher's Gumbel noise (Plackett-Luce), in standard deviations of the returns of the fragments
    that could be asked about."""
    labels: Annotated[int, Range(ge=0)] = 200
    """Total number of answers, including existing ones."""
    query_every: Annotated[int, Range(ge=1)] = 1000
    """Environment steps between two rounds of questions; the model is fitted after each."""
    labels_per_query: Annotated[int, Range(ge=1)] = 20
    """Number of questions in a round."""
    compare: Annotated[int, Range(ge=2, le=16)] = 2
    """Number of fragments that a question asks to rank."""
    fragment_length: Annotated[int, Range(ge=1)] = 50
    """Steps of a fragment. A true end of the episode ends it sooner; the rewards after it are 0."""
    candidates: Annotated[int, Range(ge=1, le=1000)] = 10
    """Number of questions drawn for each one that is asked, the one on which the ensemble disagrees most; 1 asks at
    random."""
    recent_steps: Annotated[int, Range(ge=1)] = 20_000
    """Number of newest environment steps from which questions are drawn."""
    ensemble: Annotated[int, Range(ge=1, le=64)] = 3
    """Number of reward models, each fitted to its own random batches of answers; the reward is their mean."""
    reward_net_arch: Widths = (64, 64)
    """Width of each hidden layer of a reward model."""
    reward_learning_rate: Annotated[float, Range(gt=0)] = 1e-3
    """Learning rate of Adam."""
    reward_weight_decay: Annotated[float, Range(ge=0)] = 1e-4
    """Decoupled weight decay, in units of the learning rate."""
    fit_steps: Annotated[int, Range(ge=1)] = 200
    """Gradient steps of a fit, which continues from the previous fit."""
    fit_batch_size: Annotated[int, Range(ge=1)] = 64
    """Answers per gradient step."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` where no fragment can be had."""
        if settings["recent_steps"] < 2 * settings["fragment_length"]:
            raise ConfigError(
                f"recent_steps = {settings['recent_steps']} has no two fragments of {settings['fragment_length']} "
                "steps: give more, or a smaller fragment_length"
            )
