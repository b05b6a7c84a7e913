"""IQ-Learn: a soft Q-function that is its own reward, with the networks of soft actor-critic."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule, update_learning_rate
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor

from rlopt.agents.imitation.config import IQLearnConfig
from rlopt.agents.imitation.losses import ValueTerm, absorbing_reward, iq_loss
from rlopt.agents.imitation.mixed_replay import NOT_TAKEN, FromMixedBatches
from rlopt.agents.sac.algorithm import SAC
from rlopt.agents.sac.batch import Batch, Step
from rlopt.agents.sac.losses import Info
from rlopt.algorithms.demonstrations import NOT_CENTRED
from rlopt.algorithms.resumable import with_settings_of
from rlopt.data.demonstrations import Demonstrations
from rlopt.optim.descent import Network


class ImplicitRewards(FromMixedBatches):
    """Rewards that are what Q leaves of itself after its own discounted successor."""

    chi_alpha: float
    value_term: ValueTerm
    regularize_policy: bool
    use_target: bool

    def absorbing_reward(self, expert_ends: float, policy_ends: float) -> float:
        """That of :func:`rlopt.agents.imitation.losses.absorbing_reward`."""
        return absorbing_reward(expert_ends, policy_ends, chi_alpha=self.chi_alpha, value_term=self.value_term)

    def implicit_loss(
        self, q_values: Sequence[Tensor], values: Tensor, next_values: Tensor, batch: Batch
    ) -> tuple[Tensor, Info]:
        """:func:`rlopt.agents.imitation.losses.iq_loss` of a mixed batch.

        Its rewards are the values of absorbing states at true ends.
        """
        count = len(values)
        is_expert = (torch.arange(count, device=values.device) >= count - count // 2).to(values.dtype).unsqueeze(1)
        return iq_loss(
            q_values,
            values,
            next_values,
            batch.rewards,
            batch.discounts,
            is_expert,
            gamma=self.gamma,
            chi_alpha=self.chi_alpha,
            value_term=self.value_term,
            regularize_policy=self.regularize_policy,
        )


class IQLearn(ImplicitRewards, SAC):
    """Inverse soft-Q learning (Garg et al., arXiv 2106.12142), online, with the chi-square regulariser.

    Half of every batch comes from the demonstrations, half from the replay buffer; the environment's rewards are never
    used. The actor and the temperature are those of :class:`rlopt.SAC`, with the same settings except
    ``replay_buffer_class`` and ``n_steps``. :class:`rlopt.agents.imitation.config.IQLearnConfig` declares and explains
    them.

    :param demonstrations: demonstrations of this environment, or their path or name; see :meth:`set_demonstrations`
    :param n_demonstrations: number of episodes to learn from, the first ones; None for all
    :param absorbing: whether an episode that truly ends stays for ever in an absorbing state. Its reward is the closed
        form of :func:`rlopt.agents.imitation.losses.absorbing_reward`, from the shares of true ends in the
        demonstrations and in all steps collected so far
        (:class:`~rlopt.agents.imitation.mixed_replay.FromMixedBatches`). False gives every end the value 0, as in the
        released code
    :raises rlopt.errors.ConfigError: for a setting out of range, or from ``learn`` without demonstrations
    :raises rlopt.errors.DataError: for demonstrations that do not fit, or fewer than asked for
    """

    for_discrete_actions: ClassVar[str] = "rlopt.DiscreteIQLearn"
    actor_learning_rate: float | Schedule | None

    @with_settings_of(SAC, *NOT_TAKEN, *NOT_CENTRED, config=IQLearnConfig)
    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str | None,
        demonstrations: Demonstrations | str | Path | None = None,
        **settings: Any,
    ) -> None:
        settings["policy_kwargs"] = {"n_critics": IQLearnConfig.n_critics, **(settings.get("policy_kwargs") or {})}
        super().__init__(policy, env, demonstrations=demonstrations, demo_fraction=0.0, **settings)

    def _update_learning_rate(self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer) -> None:
        super()._update_learning_rate(optimizers)
        if self.actor_learning_rate is not None:
            rate = FloatSchedule(self.actor_learning_rate)(self._current_progress_remaining)
            update_learning_rate(self.actor.optimizer, rate)

    def critic_objective(self, critic: Network, step: Step) -> tuple[Tensor, Info]:
        """IQ-Learn's loss on the mixed batch."""
        batch = step.batch
        with torch.no_grad():
            policy, next_policy = (
                self.policy_sample(step.networks["actor"], observations, step.drawn[noise])
                for observations, noise in ((batch.observations, "noise"), (batch.next_observations, "next_noise"))
            )
        pairs, here = (batch.observations, batch.actions), (batch.observations, policy.actions)
        following = (batch.next_observations, next_policy.actions)
        if self.use_target:
            policy_q, q_values = self.joint_q_values(critic, [here, pairs])
            with torch.no_grad():
                next_q = self.q_values(step.networks["critic_target"], *following)
        else:
            policy_q, next_q, q_values = self.joint_q_values(critic, [here, following, pairs])
        values = self.soft_value(torch.cat(policy_q, dim=1), policy, step.ent_coef)
        next_values = self.soft_value(torch.cat(next_q, dim=1), next_policy, step.ent_coef)
        return self.implicit_loss(q_values, values, next_values, batch)
