"""ReBRAC (Tarasov et al., arXiv 2305.09836)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Unpack

from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from rlopt.agents.offline import losses
from rlopt.agents.offline.checks import CommonSettings, common_settings
from rlopt.agents.offline.data import Batch
from rlopt.agents.offline.losses import Info
from rlopt.agents.offline.policy import Needs, OfflinePolicy
from rlopt.agents.offline.td3_bc import DeterministicActorCritic
from rlopt.agents.offline.update import Parameters
from rlopt.data.dataset import Dataset


class ReBRAC(DeterministicActorCritic):
    """TD3 with penalties on leaving the data, in the actor's loss and in the critics' target, and normalised critics.

    The settings that every offline learner has are those of
    :class:`~rlopt.agents.offline.base.OfflineAlgorithm`, with batches of 1024 and a learning rate of 1e-3; ``learn``
    counts gradient steps until ``set_env`` hands the model an environment to be fine-tuned in. Layer normalisation and
    depth are ``policy_kwargs``: by default the critics are normalised and all networks have three layers of 256.

    :param actor_bc_coef: beta_1 >= 0, weight of |pi(s) - a|^2 in the actor's loss
    :param critic_bc_coef: beta_2 >= 0, weight of |pi(s') - a'|^2 in the critics' target
    :param normalize_q: scale Q to mean size 1 in the actor's loss
    :param critic_learning_rate: None for ``learning_rate``
    :param gamma: discount factor, in [0, 1]
    :param tau: part of the way that the slow copies move at each step of the actor, in (0, 1]
    :param policy_delay: gradient steps between two of the actor and the slow copies
    :param target_policy_noise: deviation of the noise on target actions, in units of half the action range
    :param target_noise_clip: its largest size
    """

    coefficients: ClassVar[tuple[str, ...]] = (
        *DeterministicActorCritic.coefficients,
        "actor_bc_coef",
        "critic_bc_coef",
    )
    normalize_q: bool

    @common_settings(learning_rate=1e-3, batch_size=1024)
    def __init__(
        self,
        policy: str | type[OfflinePolicy],
        env: Dataset | GymEnv | str | None,
        *,
        actor_bc_coef: float = 0.01,
        critic_bc_coef: float = 0.01,
        normalize_q: bool = True,
        critic_learning_rate: float | Schedule | None = None,
        gamma: float = 0.99,
        tau: float = 0.005,
        policy_delay: int = 2,
        target_policy_noise: float = 0.2,
        target_noise_clip: float = 0.5,
        **common: Unpack[CommonSettings],
    ) -> None:
        own = {
            "actor_bc_coef": actor_bc_coef,
            "critic_bc_coef": critic_bc_coef,
            "normalize_q": normalize_q,
            "critic_learning_rate": critic_learning_rate,
            "gamma": gamma,
            "tau": tau,
            "policy_delay": policy_delay,
            "target_policy_noise": target_policy_noise,
            "target_noise_clip": target_noise_clip,
        }
        super().__init__(policy, env, own, **common)

    def needs(self) -> Needs:
        return dataclasses.replace(super().needs(), net_arch=(256, 256, 256), critic_layer_norm=True)

    def next_values(self, q_values: Tensor, actions: Tensor, batch: Batch, c: Mapping[str, Tensor]) -> Tensor:
        return losses.rebrac_next_values(
            q_values, actions, batch.next_actions, batch.next_known, bc_coef=c["critic_bc_coef"]
        )

    def actor_objective(self, actor: Parameters, batch: Batch, c: Mapping[str, Tensor]) -> tuple[Tensor, Info]:
        nets = self.networks
        assert nets.critics is not None
        actions = nets.actor_function.mean_action(actor, batch.observations)
        q_values = nets.q_values(nets.critics.tensors, batch.observations, actions)
        return losses.rebrac_actor_loss(
            q_values, actions, batch.actions, bc_coef=c["actor_bc_coef"], normalize_q=self.normalize_q
        )
