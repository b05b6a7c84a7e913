"""AILBoost, and DAC on the same parts, as Stable-Baselines3 algorithms."""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor

from rlopt.agents.ailboost.boosting import Mixture, WeakLearners, arrays_of, draw_learners, tensors_of
from rlopt.agents.ailboost.config import AILBoostConfig, DACConfig
from rlopt.agents.ailboost.rounds import Rounds
from rlopt.agents.imitation.adversary import SAVED, Adversary, AdversarySettings, ImageFeatures, with_own_adversary
from rlopt.agents.sac.algorithm import SAC
from rlopt.algorithms.demonstrations import NOT_CENTRED, FromDemonstrations
from rlopt.algorithms.resumable import with_settings_of
from rlopt.data.demonstrations import Demonstrations
from rlopt.errors import ConfigError, SpaceError, unknown_name
from rlopt.optim.compiled_step import choose_mode
from rlopt.storage.tree import Tree


class AILBoost(FromDemonstrations, SAC):
    """Adversarial imitation learning via boosting (Chang et al., arXiv 2404.08513, algorithm 2).

    A discriminator estimates the log ratio between the expert's occupancy and that of a weighted mixture of policies,
    the weak learners. This ratio is the reward of the next learner, a soft actor-critic that continues from the last
    one. A round consists of N = ``learner_steps`` transitions of the current policy, which becomes a weak learner; K =
    ``discriminator_steps`` steps of the discriminator; and M = ``policy_steps`` transitions of training. All
    transitions train the policy, and every batch gets its rewards when it is drawn. The environment's rewards are never
    used. :class:`rlopt.agents.ailboost.config.AILBoostConfig` declares and explains the settings, including those of
    :class:`rlopt.SAC`.

    With images, the discriminator's input is the features of the critics' encoder, frozen at the discriminator's last
    training (:class:`rlopt.agents.imitation.adversary.ImageFeatures`), without random shifts.

    :param demonstrations: demonstrations of this environment, or their path or name; see :meth:`set_demonstrations`
    :param n_demonstrations: number of episodes to learn from, the first ones; None for all
    :raises rlopt.errors.ConfigError: for a setting out of range, or from ``learn`` without demonstrations
    :raises rlopt.errors.DataError: for demonstrations that do not fit, or fewer than asked for
    :raises rlopt.errors.SpaceError: for actions or observations that cannot be used
    :raises rlopt.errors.NonFiniteError: from ``learn``, as in SAC, and when the discriminator diverges
    """

    state_attributes: ClassVar[tuple[str, ...]] = ("boosting_state",)
    saved_modules: ClassVar[tuple[str, ...]] = (*SAVED, "adversary.features")
    unsaved: ClassVar[tuple[str, ...]] = ("learners", "rounds")
    settled: ClassVar[tuple[str, ...]] = (*SAC.settled, "weighting")
    made_with: ClassVar[tuple[str, ...]] = (
        "divergence", "reward_form", "discriminator_input", "discriminator_net_arch", "discriminator_output",
        "output_bound", "discriminator_learning_rate", "gradient_penalty", "normalize_inputs", "absorbing", "weighting",
        "mixture_weight", "truncated_mass", "max_learners", "recent_size", "learner_steps", "policy_steps",
    )  # fmt: skip
    profiled_sections: ClassVar[dict[str, str]] = {**SAC.profiled_sections, "_train_discriminator": "discriminator"}

    discriminator_steps: int
    discriminator_batch_size: int
    relabel: bool
    absorbing: bool
    reads_no_rewards: ClassVar[bool] = True

    @with_settings_of(SAC, *NOT_CENTRED, config=AILBoostConfig)
    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str | None,
        demonstrations: Demonstrations | str | Path | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(policy, env, demonstrations=demonstrations, **settings)

    def _setup_model(self) -> None:
        super()._setup_model()
        check_model(self)
        settings = {name: getattr(self, name) for name in AdversarySettings.__dataclass_fields__ if hasattr(self, name)}
        observation_size, action_size = (
            int(np.prod(space.shape or ())) for space in (self.observation_space, self.action_space)
        )
        features = ImageFeatures.of(self.critic)
        self.adversary = Adversary(AdversarySettings(**settings), observation_size, action_size, self.device, features)
        self.learners = WeakLearners()
        self.rounds = Rounds.of(self)

    def set_demonstrations(self, demonstrations: Demonstrations | str | Path) -> None:
        """As :meth:`FromDemonstrations.set_demonstrations`; the discriminator takes the expert's statistics."""
        super().set_demonstrations(demonstrations)
        assert self.expert is not None
        if self.adversary.features is None:  # those of images are compared when the discriminator looks again
            self.adversary.compare_with(self.expert.observations)
        if bool((self.expert.discounts == 0).any()):
            self.adversary.see_ends()

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        check_model(self)
        if reset_num_timesteps or self._last_obs is None:
            self.rounds.begin_episodes()
        buffer: Any = self.replay_buffer
        # Not in _setup_model: load_replay_buffer brings another buffer.
        buffer.relabel = self.adversary.reward if self.relabel else None
        if self.shown is not None:
            self.shown.relabel = self.adversary.reward
        if not buffer.full:  # the learners of a model that was loaded without its replay have no rows any more
            self.rounds.keep_below(buffer.pos * buffer.n_envs)
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)

    def after_storing(self, position: int, was_full: bool, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """Gives the transitions their rewards, without ``relabel``, and continues with the round."""
        if not self.relabel:
            self._write_reward(self.replay_buffer, position)
        self.rounds.stored(position, was_full, dones, self.num_timesteps - self.n_envs < self.learning_starts)

    def _write_reward(self, replay_buffer: Any, position: int) -> None:
        rows = torch.arange(self.n_envs, device=self.device) + position * self.n_envs
        rewards = self.adversary.reward(replay_buffer.transitions(rows))
        replay_buffer.stored("rewards")[position].copy_(rewards.reshape(-1))

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Takes ``gradient_steps`` gradient steps of the policy, but none while a weak learner collects transitions.

        At the end of a phase, adds the weak learner and trains the discriminator if the round requires it.
        """
        rounds = self.rounds
        if rounds.begun and rounds.phase == "improvement":
            super().train(gradient_steps, batch_size)
        if rounds.due() and rounds.next_phase():
            learner = rounds.add_learner()
            self.learners.add(learner, self.actor)
            self.learners.keep(rounds.rows.learner_ids)
            self._train_discriminator()

    def _train_discriminator(self) -> None:
        assert self.expert is not None and self.demonstrations is not None
        expert, size = self.adversary.look_again(self.critic, self.expert), self.discriminator_batch_size
        buffer: Any = self.replay_buffer
        self.adversary.see_learner(buffer.transitions(self.rounds.sample(size)).observations)
        if self.absorbing and not self.adversary.knows_ends and _has_true_ends(buffer):
            self.adversary.see_ends()
        # True terminals survive subsampling of demonstrations, so each stands for fewer.
        weight = 1 / self.demonstrations.metadata.subsample_rate

        def draw() -> tuple[Any, Tensor, Any]:
            shown = expert.gather(expert.sample_rows(size))
            return shown, weight * (1 - shown.discounts), buffer.transitions(self.rounds.sample(size))

        round_length = self.rounds.learner_steps + self.rounds.policy_steps
        planned = self._total_timesteps // round_length * self.discriminator_steps
        mode = choose_mode(self.compile, self.device, planned)
        trained = self.adversary.train(self.discriminator_steps, mode, draw, len(expert), self.num_timesteps)
        for name, value in trained.items():
            self.logger.record(f"discriminator/{name.removeprefix('discriminator_')}", float(value))
        self.logger.record("boosting/rounds", self.rounds.n_rounds)
        self.logger.record("boosting/learners", len(self.learners))
        self.logger.record("boosting/dropped_mass", self.rounds.rows.dropped_mass)

    @property
    def mixture(self) -> Mixture:
        """The boosted policy, as :func:`rlopt.evaluate` takes it."""
        return Mixture(self)

    def further_policies(self) -> dict[str, Any]:
        """Policies that a run evaluates besides the last one, by name."""
        return {"mixture": self.mixture} if len(self.learners) else {}

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        policy: Literal["last", "mixture"] = "last",
    ) -> tuple[np.ndarray, Any]:
        """Actions of the last policy, or of the mixture of the weak learners.

        :param state: for the mixture, what the last call returned: who acts. None draws a learner by weight, from
            numpy's global generator
        :param episode_start: (n_envs,), for the mixture: where an episode begins, and a learner is drawn again; None if
            nowhere, so that who acts continues
        :raises rlopt.errors.ConfigError: for another policy, or for the mixture while there is no learner
        """
        if policy == "last":
            actions: tuple[np.ndarray, Any] = super().predict(observation, state, episode_start, deterministic)
            return actions
        if policy != "mixture":
            raise unknown_name("policy", str(policy), ["last", "mixture"])
        ids, weights = self.rounds.rows.learner_ids, self.rounds.rows.weights
        if not ids:
            raise ConfigError("there is no weak learner yet: train for a round first, or use policy='last'")
        self.policy.set_training_mode(False)
        inputs, vectorised = self.policy.obs_to_tensor(observation)
        assert isinstance(inputs, Tensor)
        starts = np.zeros(len(inputs), bool) if episode_start is None else np.asarray(episode_start, bool).reshape(-1)
        running = draw_learners(ids, weights, None if state is None else state[0], starts)
        acts = np.zeros((len(inputs), *(self.action_space.shape or ())), np.float32)
        for learner in np.unique(running):
            rows = np.flatnonzero(running == learner)
            chosen = self.learners.act(int(learner), self.actor, inputs[rows], deterministic)
            acts[rows] = chosen.cpu().numpy().reshape(len(rows), *acts.shape[1:])
        acts = self.policy.unscale_action(acts)
        return acts if vectorised else acts.squeeze(axis=0), (running,)

    @property
    def boosting_state(self) -> dict[str, Tree]:
        """Rounds, rows and weak learners, for checkpoints."""
        return {"rounds": self.rounds.get_state(), "learners": self.learners.get_state()}

    @boosting_state.setter
    def boosting_state(self, state: dict[str, Tree]) -> None:
        rounds, learners = state["rounds"], state["learners"]
        self.rounds.check_state(rounds)
        self.learners.check_state(learners, rounds["rows"]["learner_ids"].tolist(), self.actor)
        self.rounds.set_state(rounds)
        self.learners.set_state(learners)

    def get_parameters(self) -> dict[str, Any]:
        """As Stable-Baselines3's, with the weak learners, so that a zip holds the mixture too."""
        return {**super().get_parameters(), "boosting": tensors_of(self.boosting_state)}

    def set_parameters(
        self, load_path_or_dict: str | dict[str, Any], exact_match: bool = True, device: torch.device | str = "auto"
    ) -> None:
        """As Stable-Baselines3's.

        :raises rlopt.errors.ConfigError: with ``exact_match``, for parameters without the weak learners
        :raises rlopt.errors.CheckpointError: the weak learners are not of this model
        """
        given = load_path_or_dict
        if not isinstance(given, dict):
            _, given, _ = load_from_zip_file(given, device=device, load_data=False)
        boosting = given.get("boosting")
        if boosting is None and exact_match:
            raise ConfigError(
                "these parameters hold no weak learners, without which the mixture is lost: save the model anew, or "
                "give exact_match=False for the last policy alone"
            )
        others = {name: part for name, part in given.items() if name != "boosting"}
        own = self.boosting_state if boosting is None else arrays_of(boosting)
        super().set_parameters(others, exact_match, device)
        self.boosting_state = own

    def fitted_networks(self, networks: Tree) -> Tree:
        """As :meth:`rlopt.algorithms.resumable.Resumable.fitted_networks`."""
        return with_own_adversary(self, super().fitted_networks(networks))


def _has_true_ends(buffer: Any) -> bool:
    rows = slice(0, buffer.size())
    return bool(((buffer.stored("dones")[rows] > 0) & (buffer.stored("timeouts")[rows] == 0)).any())


class DAC(AILBoost):
    """Discriminator-actor-critic (Kostrikov et al., arXiv 1809.02925): :class:`AILBoost` without boosting.

    The discriminator's policy batch is drawn uniformly from the whole replay buffer, or with ``weighting="recent"``
    from the last ``recent_size`` transitions. The discriminator's loss is cross-entropy, and its output is not bounded.
    Rewards are computed when a batch is drawn. With AILBoost's settings, DAC is AILBoost with ``weighting="uniform"``
    and ``learner_steps=0``.
    """

    @with_settings_of(AILBoost, config=DACConfig)
    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str | None,
        demonstrations: Demonstrations | str | Path | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(policy, env, demonstrations, **settings)


def check_model(model: Any) -> None:
    """Raises unless the observations and the replay buffer of ``model`` can be learned from with a discriminator.

    :raises rlopt.errors.SpaceError: Dict observations
    :raises rlopt.errors.ConfigError: a replay buffer off the device, normalised observations or rewards, hindsight
    """
    name = type(model).__name__
    if not isinstance(model.observation_space, spaces.Box):
        raise SpaceError(
            f"{name} takes flat observations or images, not {model.observation_space}: flatten them first "
            "(gymnasium.wrappers.FlattenObservation)"
        )
    if not hasattr(model.replay_buffer, "relabel"):
        raise ConfigError(
            f"{name} computes rewards when a batch is drawn: leave replay_buffer_class out, or give 'device' or "
            "'device_n_step'"
        )
    if model.get_vec_normalize_env() is not None:
        raise ConfigError(
            f"{name} compares observations with those of the demonstrations: switch normalize_observations and "
            "normalize_rewards off"
        )
