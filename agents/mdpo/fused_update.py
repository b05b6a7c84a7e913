"""The gradient step of off-policy MDPO as one function of tensors, to be compiled or captured whole.

It computes what ``MirrorDescentSAC._gradient_step`` computes, from the same batch and noise, with the critics as one
batched network and Adam and the slow copies in the same call. Parameters and optimiser states are shared with the
model's networks, see :class:`rlopt.networks.StackedParameters`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, Actor, ContinuousCritic
from torch import Tensor, nn
from torch.func import grad

from rlopt.agents.mdpo import off_policy_losses as losses
from rlopt.agents.mdpo.off_policy_objectives import Objective
from rlopt.networks import Layer, StackedParameters, mlp, mlp_layers, plain_adam
from rlopt.update import ActingCopy, GradientStep, Mode

if TYPE_CHECKING:
    from rlopt.agents.mdpo.off_policy_update import MirrorDescentSAC

Parameters = Sequence[Tensor]


class FusedUpdate:
    """Holds the networks of ``model`` in stacked form and updates them; see :func:`obstacle` for what it takes."""

    def __init__(self, model: MirrorDescentSAC) -> None:
        reason = obstacle(model)
        if reason is not None:
            raise ValueError(f"the gradient step cannot be fused: {reason}")
        assert model.action_space.shape is not None
        self.action_shape: tuple[int, ...] = model.action_space.shape
        self._n_critics = len(model.critic.q_networks)
        self._actor_layers = _layers(model.actor.latent_pi)
        self._critic_layers = _layers(model.critic.q_networks[0])
        self.actor = _stack_actor(model.actor, model.actor.optimizer)
        self.old_actor = None if model.old_actor is None else _stack_actor(model.old_actor, None)
        self.critic = self._stack_critic(model.critic, model.critic.optimizer)
        self.critic_target = self._stack_critic(model.critic_target, None)
        self.log_ent_coef: StackedParameters | None = None
        if model.ent_coef_optimizer is None or model.log_ent_coef is None:
            self._fixed_ent_coef = model.ent_coef_tensor
        else:
            self.log_ent_coef = StackedParameters([[model.log_ent_coef]], (), model.ent_coef_optimizer)
        self.buffer: Any = model.replay_buffer
        self._version = getattr(model.replay_buffer, "storage_version", 0)
        self._optimizers = [model.actor.optimizer, model.critic.optimizer]
        self._optimizers += [] if model.ent_coef_optimizer is None else [model.ent_coef_optimizer]
        self._groups = [part.param_groups[0] for part in self._optimizers]

    def _stack_critic(self, critic: ContinuousCritic, optimizer: torch.optim.Optimizer | None) -> StackedParameters:
        members = [list(network.parameters()) for network in critic.q_networks]
        return StackedParameters(list(zip(*members, strict=True)), (self._n_critics,), optimizer)

    @property
    def parts(self) -> list[StackedParameters]:
        found = [self.actor, self.critic, self.critic_target, self.old_actor, self.log_ent_coef]
        return [part for part in found if part is not None]

    def attach(self) -> None:
        """To be called before a step: takes over parameters or moments that were replaced, as by loading."""
        for part in self.parts:
            part.attach()

    def reads(self, buffer: Any) -> bool:
        """Whether it was made for ``buffer`` with its rows where they are now."""
        return self.buffer is buffer and self._version == getattr(buffer, "storage_version", 0)

    def state(self) -> list[Tensor]:
        """Every tensor that a step may change."""
        return [tensor for part in self.parts for tensor in part.changed()]

    def scalars(self, model: MirrorDescentSAC) -> Tensor:
        """The numbers that may change from step to step, as a float64 tensor (6,), on the device."""
        rates = [float(group["lr"]) for group in self._groups]
        target_entropy = float(model.target_entropy)
        values = [*rates, *[0.0] * (3 - len(rates)), model.kl_coef, model.tau, target_entropy]
        return torch.tensor(values, dtype=torch.float64).to(model.device, non_blocking=True)

    def step_on_batch(
        self,
        observations: Tensor,
        actions: Tensor,
        next_observations: Tensor,
        dones: Tensor,
        rewards: Tensor,
        discounts: Tensor,
        *arguments: Tensor,
        **settings: Any,
    ) -> losses.Info:
        """:meth:`step` on a batch that was sampled before."""
        batch = ReplayBufferSamples(observations, actions, next_observations, dones, rewards, discounts)
        return self.step(batch, *arguments, **settings)

    def step_on_rows(self, rows: Tensor, *arguments: Tensor, **settings: Any) -> losses.Info:
        """:meth:`step` on rows (B,) of the replay buffer, gathered within the same call."""
        return self.step(self.buffer.gather(rows), *arguments, **settings)

    def step(
        self,
        batch: ReplayBufferSamples,
        noise: Tensor,
        next_noise: Tensor,
        scalars: Tensor,
        *,
        objective: Objective,
        gamma: float,
        move_targets: bool,
    ) -> losses.Info:
        """One update of every network, in place; where a loss is not finite, what it drives stays as it was.

        :param noise: (B, A) standard normal, for the actions at the states; ``next_noise`` at the next states
        :param scalars: from :meth:`scalars`
        :returns: the losses and statistics of the step, scalars by name
        """
        actor_lr, critic_lr, ent_lr, kl_coef, tau, target_entropy = scalars.unbind()
        observations, rewards = flat(batch.observations), batch.rewards
        discounts = (1 - batch.dones) * (gamma if batch.discounts is None else batch.discounts)
        ent_coef = self._fixed_ent_coef if self.log_ent_coef is None else self.log_ent_coef.tensors[0].exp()
        info: losses.Info = {"ent_coef": ent_coef.clone()}

        def critic_objective(critic: Parameters) -> tuple[Tensor, losses.Info]:
            with torch.no_grad():
                next_observations = flat(batch.next_observations)
                policy = self._policy(self.actor.tensors, next_observations, next_noise)
                next_q = self._q_values(self.critic_target.tensors, next_observations, policy.actions)
                next_values = objective.soft_value(next_q, policy, ent_coef)
                targets = losses.td_target(rewards, discounts, next_values)
            q_values = self._q_values(critic, observations, batch.actions)
            return objective.critic_loss(q_values.split(1, dim=1), targets)

        def actor_objective(actor: Parameters) -> tuple[Tensor, tuple[losses.Info, Tensor]]:
            policy = self._policy(actor, observations, noise)
            n_critics = self._n_critics if objective.actor_q == "min" else 1
            critic = [tensor[:n_critics] for tensor in self.critic.tensors]
            q_values = self._q_values(critic, observations, policy.actions)
            old = None if self.old_actor is None else self._old_policy(self.old_actor.tensors, observations)
            loss, actor_info = objective.actor_loss(
                policy, q_values, old, ent_coef=ent_coef, kl_coef=kl_coef.to(rewards.dtype)
            )
            return loss, (actor_info, losses.joint_log_prob(policy.log_density, policy.log_jacobian).detach())

        gradients, critic_info = grad(critic_objective, has_aux=True)(self.critic.tensors)
        keep = critic_info["critic_loss"].isfinite()
        self._adam(self.critic, 1, gradients, critic_lr, keep)
        gradients, (actor_info, log_prob) = grad(actor_objective, has_aux=True)(self.actor.tensors)
        keep = keep & actor_info["actor_loss"].isfinite()
        self._adam(self.actor, 0, gradients, actor_lr, keep)
        if self.log_ent_coef is not None:
            log_ent_coef = self.log_ent_coef.tensors[0]
            excess = (log_prob + target_entropy.to(rewards.dtype)).mean()
            info["ent_coef_loss"] = -(log_ent_coef * excess).reshape(())
            self._adam(self.log_ent_coef, 2, [-excess.expand_as(log_ent_coef)], ent_lr, keep)
        if move_targets:
            part = torch.where(keep, tau, 0.0).to(rewards.dtype)
            for slow, fast in zip(self.critic_target.tensors, self.critic.tensors, strict=True):
                slow.copy_(slow * (1 - part) + fast * part)
        return info | critic_info | actor_info

    def _adam(self, part: StackedParameters, index: int, gradients: Parameters, lr: Tensor, keep: Tensor) -> None:
        group = self._groups[index]
        part.adam(gradients, lr, keep, group["betas"], group["eps"])

    def actor_outputs(self, parameters: Parameters, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the standard deviation before tanh, each (B, A), from flat observations (B, O)."""
        features = mlp(self._actor_layers, parameters[:-4], observations)
        mean = nn.functional.linear(features, *parameters[-4:-2])
        return mean, nn.functional.linear(features, *parameters[-2:]).clamp(LOG_STD_MIN, LOG_STD_MAX)

    def _policy(self, parameters: Parameters, observations: Tensor, noise: Tensor) -> losses.PolicySample:
        return losses.sample_squashed_gaussian(*self.actor_outputs(parameters, observations), noise)

    @torch.no_grad()
    def _old_policy(self, parameters: Parameters, observations: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor_outputs(parameters, observations)
        return mean, log_std.exp()

    def _q_values(self, parameters: Parameters, observations: Tensor, actions: Tensor) -> Tensor:
        """(B, n) from n stacked critics."""
        x = torch.cat([observations, actions], dim=1)
        return mlp(self._critic_layers, parameters, x.expand(len(parameters[0]), *x.shape)).squeeze(2).T


class FusedStep:
    """Takes gradient steps of ``model`` in ``mode``: draws the batch and its noise, as SAC does, and makes one call.

    It also acts, without what Stable-Baselines3's ``predict`` does around the network. On an accelerator the policy
    that acts is one update old, so that the environment is stepped while the update runs.
    """

    def __init__(self, model: MirrorDescentSAC, mode: Mode) -> None:
        self.mode = mode
        self.update = FusedUpdate(model)
        self._acting = ActingCopy(self.update.actor.tensors)
        self._on_rows = GradientStep(self.update.step_on_rows, mode, self.update.state)
        self._on_batch = GradientStep(self.update.step_on_batch, mode, self.update.state)

    def take(self, model: MirrorDescentSAC, batch_size: int, move_targets: bool) -> losses.Info:
        """One gradient step; its statistics, which stay as they are."""
        buffer: Any = model.replay_buffer
        settings = {"objective": model.objective, "gamma": float(model.gamma), "move_targets": move_targets}
        if hasattr(buffer, "gather") and model.get_vec_normalize_env() is None:
            step, inputs = self._on_rows, (buffer.sample_rows(batch_size),)
        else:
            batch = buffer.sample(batch_size, env=model.get_vec_normalize_env())
            discounts = torch.full_like(batch.rewards, model.gamma) if batch.discounts is None else batch.discounts
            step, inputs = self._on_batch, (*batch[:5], discounts)
        shape = (batch_size, *self.update.action_shape)
        noise = [torch.randn(shape, device=model.device) for _ in range(2)]
        info = step(*inputs, *noise, self.update.scalars(model), **settings)
        values = torch.stack([value.reshape(()) for value in info.values()])
        if values.device.type == "cpu" and not bool(values.isfinite().all()):
            for name, value in info.items():
                model._check_loss(name.replace("_", " "), value)
        self._acting.follow()
        return dict(zip(info, values.unbind(), strict=True))

    @torch.no_grad()
    def act(self, observations: np.ndarray, deterministic: bool) -> np.ndarray:
        """Actions in [-1, 1] for a batch of observations: (N, A) from (N, ...)."""
        mean, log_std = self.update.actor_outputs(self._acting.parameters(), flat(torch.as_tensor(observations)))
        if not deterministic:
            mean = mean + torch.randn(mean.shape) * log_std.exp()
        return mean.tanh().numpy()


def flat(observations: Any) -> Tensor:
    """(B, O) float32 from (B, ...), as Stable-Baselines3 prepares flat observations."""
    return observations.float().flatten(1)


def obstacle(model: MirrorDescentSAC) -> str | None:
    """Why the step of ``model`` cannot be fused, in words; None if it can."""
    from rlopt.agents.mdpo.off_policy_update import MirrorDescentSAC as Base

    own = [name for name in ("_gradient_step", "_update_critic", "_draw_noise") if _overrides(model, Base, name)]
    if own:
        return f"{type(model).__name__} overrides {own[0]}"
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


def _stack_actor(actor: Actor, optimizer: torch.optim.Optimizer | None) -> StackedParameters:
    parts = [actor.latent_pi, actor.mu, actor.log_std]
    assert isinstance(actor.log_std, nn.Module)
    parameters = [parameter for part in parts for parameter in part.parameters()]
    return StackedParameters([[parameter] for parameter in parameters], (), optimizer)
