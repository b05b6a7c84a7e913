"""IQ-Learn: a soft Q-function that is its own reward, with the networks of soft actor-critic."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from rlopt.agents.mdpo.fused_update import Batch, FusedUpdate, Parameters
from rlopt.agents.mdpo.off_policy_objectives import Objective
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import GymEnv, ReplayBufferSamples, Schedule
from stable_baselines3.common.utils import FloatSchedule, update_learning_rate
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor

from rlopt.agents.imitation.base import check_n_demonstrations
from rlopt.agents.imitation.losses import ValueTerm, absorbing_reward, check_value_term, iq_loss
from rlopt.agents.imitation.mixed_replay import NOT_TAKEN, FromMixedBatches, check_mixing
from rlopt.agents.mdpo.off_policy import OffPolicyMDPO
from rlopt.agents.sac import losses
from rlopt.algorithms.resumable import with_settings_of
from rlopt.optim.optimizers import descend
from rlopt.validation import check_number, check_rate, require

if TYPE_CHECKING:
    from rlopt.data.demonstrations import Demonstrations

_NOT_TAKEN = (*NOT_TAKEN, "value_network")


@dataclass(frozen=True)
class IQObjective(Objective):
    """The choices of :class:`IQLearn` that shape its losses; see there."""

    gamma: float = 0.99
    chi_alpha: float = 0.5
    value_term: ValueTerm = "value"
    regularize_policy: bool = True
    use_target: bool = False

    def implicit_loss(
        self, q_values: Tensor, values: Tensor, next_values: Tensor, end_values: Tensor, discounts: Tensor
    ) -> tuple[Tensor, losses.Info]:
        """The critics' loss on a mixed batch, ``q_values`` (B, n) and columns (B, 1); see :func:`losses.iq_loss`."""
        count = len(values)
        is_expert = (torch.arange(count, device=values.device) >= count - count // 2).to(values.dtype).unsqueeze(1)
        return iq_loss(
            q_values.split(1, dim=1),
            values,
            next_values,
            end_values,
            discounts,
            is_expert,
            gamma=self.gamma,
            chi_alpha=self.chi_alpha,
            value_term=self.value_term,
            regularize_policy=self.regularize_policy,
        )


class FusedIQUpdate(FusedUpdate):
    """The gradient step as one function of tensors, with IQ-Learn's critics."""

    objective_class = IQObjective

    def critic_objective(
        self,
        critic: Parameters,
        batch: Batch,
        noise: Tensor,
        next_noise: Tensor,
        ent_coef: Tensor,
        objective: Objective,
    ) -> tuple[Tensor, losses.Info]:
        assert isinstance(objective, IQObjective)
        observations, actions, next_observations, end_values, discounts = batch
        _, values = self._soft_values(critic, observations, noise, ent_coef, objective)
        next_critic = self.critic_target.tensors if objective.use_target else critic
        _, next_values = self._soft_values(next_critic, next_observations, next_noise, ent_coef, objective)
        q_values = self._q_values(critic, observations, actions)
        found, info = self._each(objective.implicit_loss)(q_values, values, next_values, end_values, discounts)
        return found.sum(), info


class IQLearn(FromMixedBatches):
    """Inverse soft-Q learning (Garg et al., arXiv 2106.12142), online, with the chi-square regulariser.

    Half of every batch is demonstrations, half is replay; the environment's rewards are never read. The actor and the
    temperature are those of soft actor-critic. The settings of :class:`rlopt.OffPolicyMDPO` are taken but for
    ``replay_buffer_class``, ``n_steps`` and ``value_network``; ``ent_coef="auto"`` learns the temperature.

    :param demonstrations: of this environment, or a path or name of some; see :meth:`set_demonstrations`
    :param n_demonstrations: learn from the first so many episodes; None for all
    :param learning_rate: of the critics, and of a learned temperature
    :param actor_learning_rate: of the actor, >= 0; None for ``learning_rate``. Released scripts: 3e-5
    :param batch_size: rows of a batch, half the expert's. Released code: 256 of either
    :param chi_alpha: alpha > 0: rewards are penalised by E[r^2] / (4 alpha)
    :param value_term: "value" over both halves, "v0" over the expert's states as initial ones, "value_expert" over the
        expert's half
    :param regularize_policy: whether the penalty is over both halves (online) or the expert's
    :param use_target: take V(s') from the slow copy of the critics, without a gradient. Released code: no
    :param absorbing: an episode that truly ends goes on for ever in an absorbing state whose reward is the closed form
        of :func:`rlopt.agents.imitation.losses.absorbing_reward`, from the shares of true ends in the demonstrations
        and in all steps collected so far. False gives every end the value 0, as the released code does
    :raises rlopt.errors.ConfigError: for a setting out of range, or from ``learn`` without demonstrations
    :raises rlopt.errors.DataError: for demonstrations that do not fit, or fewer than asked for
    """

    fused_update: ClassVar[type[FusedUpdate]] = FusedIQUpdate
    state_attributes: ClassVar[tuple[str, ...]] = ("n_collected", "n_true_ends")
    n_collected = 0
    """Transitions collected in training."""
    n_true_ends = 0
    """How many of those ended their episode, by a terminal and not by a time limit."""

    @with_settings_of(OffPolicyMDPO, *_NOT_TAKEN, kl_coef=0.0, ent_coef=0.01, batch_size=512, learning_starts=1280)
    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str | None,
        demonstrations: Demonstrations | str | Path | None = None,
        *,
        n_demonstrations: int | None = None,
        actor_learning_rate: float | Schedule | None = 3e-5,
        chi_alpha: float = 0.5,
        value_term: ValueTerm = "value",
        regularize_policy: bool = True,
        use_target: bool = False,
        absorbing: bool = False,
        **settings: Any,
    ) -> None:
        own = {
            "actor_learning_rate": actor_learning_rate,
            "chi_alpha": chi_alpha,
            "value_term": value_term,
            "regularize_policy": regularize_policy,
            "use_target": use_target,
            "absorbing": absorbing,
        }
        check_n_demonstrations(n_demonstrations)
        check_mixing(settings, absorbing)
        check_value_term(value_term)
        check_number("chi_alpha", chi_alpha, 0, float("inf"), closed=False, whole=False)
        if actor_learning_rate is not None:
            check_rate("actor_learning_rate", actor_learning_rate)
        for name in ("regularize_policy", "use_target"):
            require(type(own[name]) is bool, f"{name} is {own[name]!r}: give True or False")
        require(
            regularize_policy or not absorbing,
            "absorbing needs regularize_policy: a penalty on the expert's rows alone leaves the worth of the policy's "
            "ends without a bound; leave one of the two as it is by default",
        )
        self.n_demonstrations = n_demonstrations
        for name, value in own.items():
            setattr(self, name, value)
        super().__init__(policy, env, **settings)
        self._begin(demonstrations, own | {"n_demonstrations": n_demonstrations}, without=_NOT_TAKEN)

    actor_learning_rate: float | Schedule | None
    chi_alpha: float
    value_term: ValueTerm
    regularize_policy: bool
    use_target: bool
    absorbing: bool

    @property
    def objective(self) -> IQObjective:
        """The losses with the present settings. A subclass that returns another one changes them."""
        return IQObjective(**{field.name: getattr(self, field.name) for field in dataclasses.fields(IQObjective)})

    def end_bonus(self) -> tuple[float, float]:
        """gamma times the value of the absorbing state, at the policy's and at the expert's true ends."""
        if not self.absorbing:
            return 0.0, 0.0
        assert self.demonstrations is not None
        expert_ends = float(np.mean(self.demonstrations.discounts == 0))
        policy_ends = self.n_true_ends / max(self.n_collected, 1)
        reward = absorbing_reward(expert_ends, policy_ends, chi_alpha=self.chi_alpha, value_term=self.value_term)
        return (self.gamma * reward / (1 - self.gamma),) * 2

    def _update_learning_rate(self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer) -> None:
        super()._update_learning_rate(optimizers)
        if self.actor_learning_rate is not None:
            rate = FloatSchedule(self.actor_learning_rate)(self._current_progress_remaining)
            update_learning_rate(self.actor.optimizer, rate)

    def _update_critic(
        self,
        batch: ReplayBufferSamples,
        next_noise: Tensor | None,
        ent_coef: Tensor,
        policy: losses.PolicySample | None = None,
    ) -> losses.Info:
        assert policy is not None
        objective = self.objective
        policy = losses.PolicySample(*(part.detach() for part in policy))
        with torch.no_grad():
            following = self._sample_policy(batch.next_observations, next_noise)
        values = objective.soft_value(
            torch.cat(self.critic(batch.observations, policy.actions), dim=1), policy, ent_coef
        )
        with torch.set_grad_enabled(not self.use_target):
            next_critic = self.critic_target if self.use_target else self.critic
            next_q = torch.cat(next_critic(batch.next_observations, following.actions), dim=1)
            next_values = objective.soft_value(next_q, following, ent_coef)
        q_values = torch.cat(self.critic(batch.observations, batch.actions), dim=1)
        discounts = (1 - batch.dones) * self.gamma
        loss, info = objective.implicit_loss(q_values, values, next_values, batch.rewards, discounts)
        self._check_loss("critic loss", loss)
        descend(self.critic.optimizer, loss)
        return info

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        cut = [bool(info.get("TimeLimit.truncated", False)) for info in infos]
        self.n_collected += len(dones)
        self.n_true_ends += int(np.sum(np.asarray(dones, bool) & ~np.array(cut)))
