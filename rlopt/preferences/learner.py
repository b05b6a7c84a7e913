"""Learns a reward from answers about fragments of what a policy does: which to ask about, and when to fit."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlopt.errors import CheckpointError, ConfigError, DataError
from rlopt.feedback.oracles import Oracle, PlackettLuceOracle, ReturnOracle, spread
from rlopt.preferences.config import PreferenceConfig
from rlopt.preferences.fragments import Fragments, Preferences
from rlopt.preferences.reward_model import RewardEnsemble
from rlopt.preferences.trajectories import Trajectories
from rlopt.state.generator import capture, generator
from rlopt.state.generator import restore as restore_generator


class PreferenceLearner:
    """The answers so far, the reward model, and a teacher who gives further answers.

    :param config: the settings
    :param observation_space: as for :class:`RewardEnsemble`, and so is ``action_space``
    :param preferences: existing answers
    :param seed: seed of first weights, questions, the teacher's errors and the fits
    :param teacher: anything with the method of :class:`rlopt.feedback.oracles.Oracle`, in place of that of the settings
    :raises rlopt.errors.SpaceError: for other spaces
    :raises rlopt.errors.DataError: for answers about other observations or actions
    """

    def __init__(
        self,
        config: PreferenceConfig,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        preferences: Preferences | None = None,
        seed: int | None = 0,
        teacher: Oracle | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.teacher = config, teacher
        self._rng = generator(seed)
        self.model = RewardEnsemble(
            observation_space,
            action_space,
            ensemble=config.ensemble,
            net_arch=config.reward_net_arch,
            rng=self._rng,
            device=device,
        )
        no_actions = np.zeros((0, *(action_space.shape or ())), action_space.dtype)
        none = Preferences.none(self.model.observation_size, no_actions, config.fragment_length)
        self.preferences = none if preferences is None or not len(preferences) else preferences
        self._check(none.fragments, self.preferences.fragments)
        self.next_query = config.query_every
        """The environment step from which on questions are asked again."""
        self.log: dict[str, float] = {}
        """Of the last fit."""

    @staticmethod
    def _check(own: Fragments, given: Fragments) -> None:
        for name in ("observations", "actions"):
            shapes = [getattr(part, name).shape[2:] for part in (own, given)]
            if shapes[0] != shapes[1]:
                raise DataError(
                    f"the preferences are about {name} of shape {shapes[1]}, the environment has {shapes[0]}: use the "
                    "environment that they were collected in"
                )

    @property
    def asks(self) -> bool:
        """Whether there is a teacher, and more to ask."""
        return (self.teacher is not None or self.config.teacher != "none") and len(
            self.preferences
        ) < self.config.labels

    def learn(self, step: int, trajectories: Trajectories) -> bool:
        """Asks what is due before environment step ``step``, and fits the model to answers that it has not seen;
        returns whether it changed.

        :raises rlopt.errors.NonFiniteError: the model's loss is not finite
        """
        fit = len(self.preferences) > 0 and not self.model.fits
        if step >= self.next_query:
            self.next_query = step - step % self.config.query_every + self.config.query_every
            fit = (self.asks and self.ask(trajectories)) or fit
        if fit:
            self.fit()
        return fit

    def ask(self, trajectories: Trajectories) -> bool:
        """One round of questions, answered by the teacher; whether there were fragments for one."""
        config = self.config
        count = min(config.labels_per_query, config.labels - len(self.preferences))
        drawn = trajectories.draw(count * config.candidates * config.compare, config.fragment_length, self._rng)
        if drawn is None:
            return False
        returns = drawn.returns
        if not np.isfinite(returns).all():
            raise ConfigError("the environment's rewards are not finite, so that no teacher can answer")
        options = np.arange(len(returns)).reshape(-1, config.compare)
        chosen = options[self.informative(drawn, options)[:count]]
        teacher = self.teacher or self._teacher(spread(returns))
        answers = [teacher.rank(returns[row], config.compare, self._rng) for row in chosen]
        used = chosen.reshape(-1)
        questions = np.arange(len(used)).reshape(chosen.shape)
        self.preferences = self.preferences.more(Preferences.of(drawn.take(used), questions.tolist(), answers))
        return True

    def _teacher(self, unit: float) -> Oracle:
        if self.config.teacher == "noisy":
            return PlackettLuceOracle(self.config.temperature * unit, relative=False)
        return ReturnOracle()

    def informative(self, drawn: Fragments, options: np.ndarray) -> np.ndarray:
        """The rows of ``options`` (N, n), those first on which the models disagree most: the variance, over the models,
        of the probability that one fragment is better than another, in the mean over a question's pairs.
        """
        if not self.model.fits or self.config.ensemble < 2:
            return np.arange(len(options))
        scores = self.model.member_returns(drawn)[:, options].astype(np.float64)  # (E, N, n)
        first, second = np.triu_indices(options.shape[1], 1)
        preferred = 1 / (1 + np.exp(-np.clip(scores[:, :, first] - scores[:, :, second], -500, 500)))
        return np.argsort(-preferred.var(axis=0).mean(axis=1), kind="stable")

    def fit(self) -> None:
        """Fits the model to all answers."""
        config = self.config
        self.log = self.model.fit(
            self.preferences,
            steps=config.fit_steps,
            batch_size=config.fit_batch_size,
            learning_rate=config.reward_learning_rate,
            weight_decay=config.reward_weight_decay,
            rng=self._rng,
        )

    # ---- state

    def tree(self) -> dict[str, Any]:
        """All that learning depends on, for :mod:`rlopt.storage`."""
        return {
            "preferences": self.preferences.tree(),
            "model": self.model.tree(),
            "random": capture(self._rng),
            "next_query": self.next_query,
            "log": dict(self.log),
        }

    def restore(self, tree: Any) -> None:
        """Continues where :meth:`tree` was called.

        :raises rlopt.errors.CheckpointError: it is malformed, or of other settings
        """
        try:
            preferences = Preferences.from_tree(tree["preferences"])
            self._check(self.preferences.fragments, preferences.fragments)
            self.model.restore(tree["model"])
            restore_generator(self._rng, tree["random"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"the state of the preferences is malformed ({error})") from error
        self.preferences = preferences
        self.next_query, self.log = int(tree["next_query"]), dict(tree["log"])
