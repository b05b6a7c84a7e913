"""ReBRAC (Tarasov et al., arXiv 2305.09836)."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from rlopt.agents.offline import losses
from rlopt.agents.offline.config import OfflineConfig, ReBRACConfig
from rlopt.agents.offline.data import Batch
from rlopt.agents.offline.losses import Info
from rlopt.agents.offline.policy import Needs
from rlopt.agents.offline.td3_bc import DeterministicActorCritic
from rlopt.agents.offline.update import Parameters


class ReBRAC(DeterministicActorCritic):
    """TD3 with normalised critics and penalties for leaving the data, in the actor's loss and in the critics' target.

    :class:`~rlopt.agents.offline.base.OfflineAlgorithm` explains the settings of every offline learner; here batches
    have 1024 transitions and the learning rate is 1e-3. ``learn`` counts gradient steps until ``set_env`` gives the
    model an environment for fine-tuning. ``policy_kwargs`` set layer normalisation and depth; by default the critics
    are normalised and all networks have three layers of 256.
    """

    config_class: ClassVar[type[OfflineConfig]] = ReBRACConfig
    pessimistic: ClassVar[bool] = True
    coefficients: ClassVar[tuple[str, ...]] = (
        *DeterministicActorCritic.coefficients,
        "actor_bc_coef",
        "critic_bc_coef",
    )
    normalize_q: bool

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
