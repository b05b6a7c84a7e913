"""The gradient step of off-policy MDPO as one function of tensors, to be compiled or captured whole.

It computes what ``MirrorDescentSAC._gradient_step`` computes, from the same batch and noise, with the critics as one
batched network and Adam and the slow copies in the same call. Parameters and optimiser states are shared with the
models' networks, see :class:`rlopt.nn.stacked.StackedParameters`. Several models of equal settings, such as those of
several seeds, take their steps together: every tensor then has an axis S in front.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, Actor, ContinuousCritic
from torch import Tensor, nn
from torch.func import grad, vmap

from rlopt.agents.mdpo import off_policy_losses as losses
from rlopt.agents.mdpo.off_policy_objectives import Objective, OldPolicy
from rlopt.nn.stacked import Layer, StackedParameters, mlp, mlp_layers, over, plain_adam

if TYPE_CHECKING:
    from rlopt.agents.mdpo.off_policy_update import MirrorDescentSAC

Parameters = Sequence[Tensor]
Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Observations (B, O), actions (B, A), next observations (B, O), rewards (B, 1), discounts (B, 1), in float32."""


class FusedUpdate:
    """Holds the networks of ``models`` in stacked form and updates them; see :func:`obstacle` for what it takes.

    :param models: one, or several whose networks and settings are alike
    """

    objective_class: ClassVar[type[Objective]] = Objective
    """Whose losses it computes."""
    replaced: ClassVar[tuple[str, ...]] = (
        "_gradient_step",
        "_update_critic",
        "_draw_noise",
        "_sample_policy",
        "_old_policy",
        "_update_ent_coef",
        "_update_targets",
    )
    """The model's methods whose work it does: a class that overrides one takes its steps part by part."""

    def __init__(self, models: Sequence[MirrorDescentSAC]) -> None:
        for model in models:
            reason = obstacle(model)
            if reason is not None:
                raise ValueError(f"the gradient step cannot be fused: {reason}")
        self.models = list(models)
        first = models[0]
        assert first.action_space.shape is not None
        self.action_shape: tuple[int, ...] = first.action_space.shape
        self._shape = (len(models),) if len(models) > 1 else ()
        self._n_critics = len(first.critic.q_networks)
        self._actor_layers = _layers(first.actor.latent_pi)
        self._critic_layers = _layers(first.critic.q_networks[0])
        self.actor = self._stack_actors([model.actor for model in models], trained=True)
        old = [model.old_actor for model in models if model.old_actor is not None]
        self.old_actor = self._stack_actors(old, trained=False) if old else None
        self.critic = self._stack_critics([m.critic for m in models], [m.critic.optimizer for m in models])
        self.critic_target = self._stack_critics([model.critic_target for model in models])
        self.log_ent_coef: StackedParameters | None = None
        if first.ent_coef_optimizer is None or first.log_ent_coef is None:
            self._fixed_ent_coef = self.stacked([model.ent_coef_tensor for model in models])
        else:
            coefficients: Any = [model.log_ent_coef for model in models]
            owners: Any = [model.ent_coef_optimizer for model in models]
            self.log_ent_coef = StackedParameters([coefficients], self._shape, owners)
        self._buffers: list[Any] = [model.replay_buffer for model in models]
        self._versions = [getattr(buffer, "storage_version", 0) for buffer in self._buffers]
        self._optimizers = [
            [part for part in (model.actor.optimizer, model.critic.optimizer, model.ent_coef_optimizer) if part]
            for model in models
        ]
        self._groups = [part.param_groups[0] for part in self._optimizers[0]]

    def stacked(self, values: Sequence[Tensor]) -> Tensor:
        """One tensor of each model as one tensor, (S, ...); that of a single model as it is."""
        return torch.stack(list(values)) if self._shape else values[0]

    def _each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` of one model's tensors, for all models."""
        return vmap(function) if self._shape else function

    def _stack_actors(self, actors: Sequence[Actor], trained: bool) -> StackedParameters:
        members: list[list[Tensor]] = []
        for actor in actors:
            assert isinstance(actor.log_std, nn.Module)
            parts = [actor.latent_pi, actor.mu, actor.log_std]
            members.append([parameter for part in parts for parameter in part.parameters()])
        owners = [actor.optimizer for actor in actors] if trained else []
        return StackedParameters(list(zip(*members, strict=True)), self._shape, owners)

    def _stack_critics(
        self, critics: Sequence[ContinuousCritic], optimizers: Sequence[torch.optim.Optimizer] = ()
    ) -> StackedParameters:
        members = [list(network.parameters()) for critic in critics for network in critic.q_networks]
        owners = [optimizer for optimizer in optimizers for _ in range(self._n_critics)]
        return StackedParameters(list(zip(*members, strict=True)), (*self._shape, self._n_critics), owners)

    @property
    def parts(self) -> list[StackedParameters]:
        """All parameters that a step reads or moves, with their moments."""
        found = [self.actor, self.critic, self.critic_target, self.old_actor, self.log_ent_coef]
        return [part for part in found if part is not None]

    def attach(self) -> None:
        """To be called before a step: takes over parameters or moments that were replaced, as by loading."""
        for part in self.parts:
            part.attach()

    def belongs_to(self, models: Sequence[MirrorDescentSAC]) -> bool:
        """Whether it was made for these models with the rows of their replay buffers where they are now."""
        return len(models) == len(self.models) and all(
            own is model and buffer is model.replay_buffer and version == getattr(buffer, "storage_version", 0)
            for own, model, buffer, version in zip(self.models, models, self._buffers, self._versions, strict=True)
        )

    def state(self) -> list[Tensor]:
        """Every tensor that a step may change."""
        return [tensor for part in self.parts for tensor in part.changed()]

    def scalars(self) -> Tensor:
        """The numbers that may change from step to step, as a float64 tensor (6,) or (S, 6), on the device."""
        table = []
        for model, optimizers in zip(self.models, self._optimizers, strict=True):
            rates = [float(part.param_groups[0]["lr"]) for part in optimizers]
            target_entropy = float(model.target_entropy)
            table.append([*rates, *[0.0] * (3 - len(rates)), model.kl_coef, model.tau, target_entropy])
        values = torch.tensor(table if self._shape else table[0], dtype=torch.float64)
        return values.to(self.models[0].device, non_blocking=True)

    def step_on_batch(
        self,
        observations: Tensor,
        actions: Tensor,
        next_observations: Tensor,
        dones: Tensor,
        rewards: Tensor,
        discounts: Tensor,
        *arguments: Tensor,
        gamma: float,
        **settings: Any,
    ) -> losses.Info:
        """:meth:`step` on a batch that was sampled before; ``discounts`` are those of rows that are not terminal."""
        first = len(self._shape) + 1  # the first axis that belongs to an observation
        batch = (observations.float().flatten(first), actions, next_observations.float().flatten(first))
        return self.step((*batch, rewards, (1 - dones) * discounts), *arguments, **settings)

    def step_on_rows(self, rows: Tensor, *arguments: Tensor, gamma: float, **settings: Any) -> losses.Info:
        """:meth:`step` on rows (B,) or (S, B) of the replay buffers, gathered within the same call."""
        batches = []
        for buffer, own in zip(self._buffers, rows.unbind() if self._shape else [rows], strict=True):
            sample = buffer.gather(own)
            discounts = (1 - sample.dones) * (gamma if sample.discounts is None else sample.discounts)
            observations = flat(sample.observations), sample.actions, flat(sample.next_observations)
            batches.append((*observations, sample.rewards, discounts))
        columns = [self.stacked(column) for column in zip(*batches, strict=True)]
        return self.step(tuple(columns), *arguments, **settings)  # type: ignore[arg-type]

    def step(
        self,
        batch: Batch,
        noise: Tensor,
        next_noise: Tensor,
        scalars: Tensor,
        *,
        objective: Objective,
        move_targets: bool,
    ) -> losses.Info:
        """One update of every network, in place; where a loss is not finite, what it drives stays as it was.

        :param noise: (B, A) standard normal, for the actions at the states; ``next_noise`` at the next states
        :param scalars: from :meth:`scalars`
        :returns: the losses and statistics of the step by name, scalars or (S,)
        """
        actor_lr, critic_lr, ent_lr, kl_coef, tau, target_entropy = scalars.unbind(-1)
        observations, rewards = batch[0], batch[3]
        kl_coef = kl_coef.to(rewards.dtype)
        ent_coef = self._ent_coef()
        info: losses.Info = {"ent_coef": ent_coef.reshape(self._shape).clone()}

        def actor_objective(actor: Parameters) -> tuple[Tensor, tuple[losses.Info, Tensor]]:
            def loss(
                policy: losses.PolicySample, q_values: Tensor, old: OldPolicy | None, ent_coef: Tensor, kl_coef: Tensor
            ) -> tuple[Tensor, losses.Info]:
                return objective.actor_loss(policy, q_values, old, ent_coef=ent_coef, kl_coef=kl_coef)

            policy = self._policy(actor, observations, noise)
            n_critics = self._n_critics if objective.actor_q == "min" else 1
            critic = [tensor.narrow(len(self._shape), 0, n_critics) for tensor in self.critic.tensors]
            q_values = self._q_values(critic, observations, policy.actions)
            old = None if self.old_actor is None else self._old_policy(self.old_actor.tensors, observations)
            if self._shape:
                in_dims = (0, 0, None if old is None else 0, 0, 0)
                losses_, actor_info = vmap(loss, in_dims=in_dims)(policy, q_values, old, ent_coef, kl_coef)
            else:
                losses_, actor_info = loss(policy, q_values, old, ent_coef, kl_coef)
            log_prob = self._each(losses.joint_log_prob)(policy.log_density, policy.log_jacobian)
            return losses_.sum(), (actor_info, log_prob.detach())

        gradients, critic_info = grad(self.critic_objective, has_aux=True)(
            self.critic.tensors, batch, noise, next_noise, ent_coef, objective
        )
        keep = critic_info["critic_loss"].isfinite()
        self._adam(self.critic, 1, gradients, critic_lr, keep)
        gradients, (actor_info, log_prob) = grad(actor_objective, has_aux=True)(self.actor.tensors)
        keep = keep & actor_info["actor_loss"].isfinite()
        self._adam(self.actor, 0, gradients, actor_lr, keep)
        if self.log_ent_coef is not None:
            log_ent_coef = self.log_ent_coef.tensors[0]
            excess = log_prob.mean(dim=(-2, -1)) + target_entropy.to(rewards.dtype)
            info["ent_coef_loss"] = -(log_ent_coef.reshape(self._shape) * excess)
            self._adam(self.log_ent_coef, 2, [-over(excess, log_ent_coef).expand_as(log_ent_coef)], ent_lr, keep)
        if move_targets:
            move_slow_copy(self.critic_target, self.critic, torch.where(keep, tau, 0.0).to(rewards.dtype))
        return info | critic_info | actor_info

    def critic_objective(
        self,
        critic: Parameters,
        batch: Batch,
        noise: Tensor,
        next_noise: Tensor,
        ent_coef: Tensor,
        objective: Objective,
    ) -> tuple[Tensor, losses.Info]:
        """What the critics' parameters descend, summed over the models, and its statistics, among them ``critic_loss``.

        A subclass may put another loss here, and its model names the subclass in ``fused_update``. Arguments as those
        of :meth:`step`.
        """
        observations, actions, next_observations, rewards, discounts = batch

        def loss(q_values: Tensor, targets: Tensor) -> tuple[Tensor, losses.Info]:
            return objective.critic_loss(q_values.split(1, dim=1), targets)

        with torch.no_grad():
            slow = self.critic_target.tensors
            _, next_values = self._soft_values(slow, next_observations, next_noise, ent_coef, objective)
            targets = self._each(losses.td_target)(rewards, discounts, next_values)
        losses_, critic_info = self._each(loss)(self._q_values(critic, observations, actions), targets)
        return losses_.sum(), critic_info

    def _ent_coef(self) -> Tensor:
        """lambda, as it is before the step."""
        return self._fixed_ent_coef if self.log_ent_coef is None else self.log_ent_coef.tensors[0].exp()

    def _soft_values(
        self, critic: Parameters, observations: Tensor, noise: Tensor, ent_coef: Tensor, objective: Objective
    ) -> tuple[Tensor, Tensor]:
        """Q (B, n) at an action that the present policy draws in each state, and V (B, 1) from it."""
        with torch.no_grad():
            policy = self._policy(self.actor.tensors, observations, noise)
        q_values = self._q_values(critic, observations, policy.actions)
        return q_values, self._each(objective.soft_value)(q_values, policy, ent_coef)

    def _adam(self, part: StackedParameters, index: int, gradients: Parameters, lr: Tensor, keep: Tensor) -> None:
        group = self._groups[index]
        part.adam(gradients, lr, keep, group["betas"], group["eps"])

    def actor_outputs(self, parameters: Parameters, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the standard deviation before tanh, each (B, A), from flat observations (B, O)."""
        features = mlp(self._actor_layers, parameters[:-4], observations)
        mean = mlp(_LINEAR, parameters[-4:-2], features)
        return mean, mlp(_LINEAR, parameters[-2:], features).clamp(LOG_STD_MIN, LOG_STD_MAX)

    def _policy(self, parameters: Parameters, observations: Tensor, noise: Tensor) -> losses.PolicySample:
        mean, log_std = self.actor_outputs(parameters, observations)
        sample: losses.PolicySample = self._each(losses.sample_squashed_gaussian)(mean, log_std, noise)
        return sample

    @torch.no_grad()
    def _old_policy(self, parameters: Parameters, observations: Tensor) -> OldPolicy:
        mean, log_std = self.actor_outputs(parameters, observations)
        return mean, log_std.exp()

    def _q_values(self, parameters: Parameters, observations: Tensor, actions: Tensor) -> Tensor:
        """(B, n) from n stacked critics."""
        x = torch.cat([observations, actions], dim=-1).unsqueeze(-3)
        n_critics = parameters[0].shape[-3]
        x = x.expand(*self._shape, n_critics, *x.shape[-2:])
        return mlp(self._critic_layers, parameters, x).squeeze(-1).mT


def move_slow_copy(slow: StackedParameters, fast: StackedParameters, part: Tensor) -> None:
    """Moves the slow copy by ``part`` of the way, () or (S,)."""
    for target, source in zip(slow.tensors, fast.tensors, strict=True):
        target.copy_(target * (1 - over(part, target)) + source * over(part, source))


_LINEAR: Sequence[Layer] = (None,)


def flat(observations: Any) -> Tensor:
    """(B, O) float32 from (B, ...), as Stable-Baselines3 prepares flat observations."""
    return observations.float().flatten(1)


def obstacle(model: MirrorDescentSAC) -> str | None:
    """Why the step of ``model`` cannot be fused, in words; None if it can."""
    # A class that overrides a part of the step may bring the fused form of it with it.
    Base = next(cls for cls in type(model).__mro__ if "fused_update" in vars(cls))
    own = [name for name in model.fused_update.replaced if _overrides(model, Base, name)]
    if own:
        return f"{type(model).__name__} overrides {own[0]}"
    if model.compile != "on" and type(model.objective) is not model.fused_update.objective_class:
        # What its methods read besides their arguments would be kept as it was at the first step.
        return "the objective is one's own, and compile is not 'on'"
    if model.use_sde:
        return "use_sde is set"
    if model.value_network:
        return "value_network is set"
    extractors = [model.actor.features_extractor, model.critic.features_extractor]
    if not isinstance(model.observation_space, spaces.Box) or any(type(e) is not FlattenExtractor for e in extractors):
        return "observations are not flat arrays"
    networks = [model.actor.latent_pi, *model.critic.q_networks]
    if any(mlp_layers(network) is None for network in networks):
        return "the networks are more than linear layers with activations"
    if not all(map(plain_adam, [model.actor.optimizer, model.critic.optimizer])):
        return "the optimiser is not plain Adam"
    return None


def _overrides(model: Any, base: type, name: str) -> bool:
    return getattr(type(model), name) is not getattr(base, name) or name in vars(model)


def _layers(network: nn.Module) -> list[Layer]:
    layers = mlp_layers(network)
    assert layers is not None
    return layers
