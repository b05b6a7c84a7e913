"""Conservative Q-learning (Kumar et al., arXiv 2006.04779) on soft actor-critic."""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from rlopt.agents.offline import losses
from rlopt.agents.offline.base import OfflineAlgorithm
from rlopt.agents.offline.config import CQLConfig, OfflineConfig
from rlopt.agents.offline.data import Batch
from rlopt.agents.offline.losses import Info
from rlopt.agents.offline.policy import Needs
from rlopt.agents.offline.update import Parameters
from rlopt.agents.sac import losses as soft


class CQL(OfflineAlgorithm):
    """Conservative Q-learning, CQL(H): critics that are low on actions outside the data, and SAC's actor.

    :class:`~rlopt.agents.offline.base.OfflineAlgorithm` explains the settings of every offline learner; here the
    learning rate is 3e-5 and ``normalize_observations`` is on. ``learn`` counts gradient steps until ``set_env`` gives
    the model an environment for fine-tuning. Without a ``net_arch`` in ``policy_kwargs`` all networks have three layers
    of 256.
    """

    config_class: ClassVar[type[OfflineConfig]] = CQLConfig
    pessimistic: ClassVar[bool] = True
    coefficients: ClassVar[tuple[str, ...]] = (
        *OfflineAlgorithm.coefficients,
        "critic_learning_rate",
        "gamma",
        "tau",
        "cql_alpha",
        "cql_temperature",
    )
    n_actions: int
    lagrange_gap: float | None
    entropy_in_target: bool

    @property
    def action_dim(self) -> int:
        """Dimensions of an action, A."""
        assert self.action_space.shape is not None
        return int(self.action_space.shape[0])

    def needs(self) -> Needs:
        learned = ("ent_coef",) if self.lagrange_gap is None else ("ent_coef", "multiplier")
        return Needs("squashed", n_critics=2, scalars=learned, net_arch=(256, 256, 256))

    def draw_noise(self, steps: int, batch_size: int) -> list[Tensor]:
        def normal(*shape: int) -> Tensor:
            return torch.randn(steps, batch_size, *shape, self.action_dim, device=self.device)

        uniform = torch.rand(steps, batch_size, self.n_actions, self.action_dim, device=self.device)
        return [normal(), normal(), normal(self.n_actions), normal(self.n_actions), uniform]

    def update(self, batch: Batch, noise: Sequence[Tensor], c: Mapping[str, Tensor], with_actor: bool) -> Info:
        nets = self.networks
        assert nets.scalars is not None
        at_state, at_next, many, many_next, uniform = noise
        log_ent_coef, *log_multiplier = nets.scalars.tensors
        ent_coef = log_ent_coef.exp()
        targets = self.targets(batch, at_next, ent_coef, c)
        actions, log_densities = self.compared_actions(batch, many, many_next, uniform)
        weight = c["cql_alpha"] if self.lagrange_gap is None else c["cql_alpha"] * log_multiplier[0].exp()

        def critic_objective(critics: Parameters) -> tuple[Tensor, Info]:
            data_q = nets.q_values(critics, batch.observations, batch.actions)
            loss, info = losses.critic_loss(data_q, targets)
            every = self.many_q_values(critics, batch.observations, actions)
            maxima = losses.soft_maximum(every, log_densities, temperature=c["cql_temperature"])
            gaps, gap_info = losses.conservative_gap(maxima, data_q)
            gap = gaps.sum() if self.lagrange_gap is None else (gaps - self.lagrange_gap).sum()
            total = loss + (weight * gap).reshape(())
            return total, {
                "critic_loss": total.detach(),
                "td_loss": info["critic_loss"],
                **gap_info,
                "q_value": info["q_value"],
            }

        info = nets.descend(nets.critics, "critics", critic_objective, c["critic_learning_rate"])
        actor_info = nets.descend(
            nets.actor,
            "actor",
            lambda actor: self.actor_objective(actor, batch, at_state, ent_coef),
            c["learning_rate"],
        )
        info = {**info, **actor_info, "ent_coef": ent_coef.reshape(())}
        self._move_scalars(info, c)
        nets.follow(nets.critics_target, nets.critics, c["tau"])
        return info

    def actor_objective(self, actor: Parameters, batch: Batch, noise: Tensor, ent_coef: Tensor) -> tuple[Tensor, Info]:
        """SAC's loss for the actor (arXiv 1812.05905, eq. 7)."""
        nets = self.networks
        assert nets.critics is not None
        drawn = nets.actor_function.sample(actor, batch.observations, noise)
        value = losses.smallest(nets.q_values(nets.critics.tensors, batch.observations, drawn.actions))
        loss, info = soft.actor_loss(drawn.log_prob, value, ent_coef=ent_coef)
        return loss, {**info, "log_prob": drawn.log_prob.detach().mean()}

    @torch.no_grad()
    def targets(self, batch: Batch, noise: Tensor, ent_coef: Tensor, c: Mapping[str, Tensor]) -> Tensor:
        """r + gamma (min Q'(s', a') [- ent_coef ln pi(a'|s')]), (B, 1)."""
        nets = self.networks
        assert nets.critics_target is not None
        drawn = nets.actor_function.sample(nets.actor.tensors, batch.next_observations, noise)
        next_q = nets.q_values(nets.critics_target.tensors, batch.next_observations, drawn.actions)
        next_values = losses.smallest(next_q)
        if self.entropy_in_target:
            next_values = soft.soft_value(next_q, drawn.log_prob, ent_coef=ent_coef)
        return losses.td_target(batch.rewards, c["gamma"] * batch.continues, next_values)

    @torch.no_grad()
    def compared_actions(self, batch: Batch, many: Tensor, many_next: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (B, 3M, A) from the uniform distribution, pi(.|s) and pi(.|s'), and their log-densities (B, 3M)."""
        nets, count = self.networks, self.n_actions
        found = [uniform * 2 - 1]
        densities = [torch.full_like(uniform[:, :, 0], -self.action_dim * math.log(2.0))]
        for observations, noise in ((batch.observations, many), (batch.next_observations, many_next)):
            repeated = observations.repeat_interleave(count, dim=0)
            drawn = nets.actor_function.sample(nets.actor.tensors, repeated, noise.flatten(0, 1))
            found.append(drawn.actions.unflatten(0, (-1, count)))
            densities.append(drawn.log_prob.view(-1, count))
        return torch.cat(found, dim=1), torch.cat(densities, dim=1)

    def many_q_values(self, critics: Parameters, observations: Tensor, actions: Tensor) -> Tensor:
        """Q_i(s, a_m) of actions (B, M, A): (n, B, M)."""
        samples = actions.shape[1]
        repeated = observations.unsqueeze(1).expand(-1, samples, -1)
        x = torch.cat([repeated, actions], dim=2).flatten(0, 1)
        return self.networks.stacked_q_values(critics, x).view(-1, len(actions), samples)

    def _move_scalars(self, info: Info, c: Mapping[str, Tensor]) -> None:
        """One step of the temperature towards entropy A nats, and of the multiplier where there is one."""
        nets = self.networks
        assert nets.scalars is not None
        excess = info["log_prob"] - self.action_dim
        gradients = [-excess.expand_as(nets.scalars.tensors[0])]
        if self.lagrange_gap is not None:
            loss, lagrange_info = losses.lagrange_loss(
                nets.scalars.tensors[1], info["conservative_gap"], target_gap=self.lagrange_gap
            )
            gradients.append(loss.expand_as(nets.scalars.tensors[1]))
            info |= lagrange_info
        nets.adam(nets.scalars, "scalars", gradients, c["learning_rate"])

    def validate(self, batch: Batch, c: Mapping[str, Tensor]) -> Info:
        nets = self.networks
        assert nets.critics is not None and nets.scalars is not None
        ent_coef, noise = nets.scalars.tensors[0].exp(), torch.zeros_like(batch.actions)
        q_values = nets.q_values(nets.critics.tensors, batch.observations, batch.actions)
        info = losses.critic_loss(q_values, self.targets(batch, noise, ent_coef, c))[1]
        return info | self.actor_objective(nets.actor.tensors, batch, noise, ent_coef)[1]
