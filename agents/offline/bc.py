"""Behaviour cloning as supervised learning on the data's actions."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from rlopt.agents.offline import losses
from rlopt.agents.offline.base import OfflineAlgorithm
from rlopt.agents.offline.config import BCConfig, OfflineConfig
from rlopt.agents.offline.data import Batch
from rlopt.agents.offline.losses import Info
from rlopt.agents.offline.policy import Needs
from rlopt.agents.offline.update import Parameters


class BC(OfflineAlgorithm):
    """Behaviour cloning, without rewards and critics. It also takes images, alone or as parts of Dict observations.

    :class:`~rlopt.agents.offline.base.OfflineAlgorithm` explains the settings of every offline learner; here
    ``normalize_observations`` is on. ``learn`` always counts gradient steps on the data, because BC has nothing to
    fine-tune in an environment.
    """

    config_class: ClassVar[type[OfflineConfig]] = BCConfig
    discrete_actions: ClassVar[bool] = True
    several_choices: ClassVar[bool] = True
    sees_images: ClassVar[bool] = True
    fine_tunes: ClassVar[bool] = False
    stochastic: bool

    def needs(self) -> Needs:
        return Needs(self.actor_kind("gaussian" if self.stochastic else "deterministic"))

    def update(self, batch: Batch, noise: Sequence[Tensor], c: Mapping[str, Tensor], with_actor: bool) -> Info:
        nets = self.networks
        return nets.descend(nets.actor, "actor", lambda actor: self.actor_objective(actor, batch), c["learning_rate"])

    def actor_objective(self, actor: Parameters, batch: Batch) -> tuple[Tensor, Info]:
        """The loss that the actor's parameters descend."""
        function = self.networks.actor_function
        if function.kind == "deterministic":
            return losses.cloning_loss(function.mean_action(actor, batch.observations), batch.actions)
        return losses.likelihood_loss(function.log_prob(actor, batch.observations, batch.actions))

    def validate(self, batch: Batch, c: Mapping[str, Tensor]) -> Info:
        return self.actor_objective(self.networks.actor.tensors, batch)[1]
