"""The gradient step of off-policy MDPO: a function of a batch and its noise, on top of SAC's networks."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any, ClassVar, Literal

import torch
from stable_baselines3.common.distributions import StateDependentNoiseDistribution, TanhBijector
from stable_baselines3.common.type_aliases import ReplayBufferSamples, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import get_parameters_by_name
from stable_baselines3.sac.policies import Actor
from stable_baselines3.sac.sac import SAC
from torch import Tensor

from rlopt.agents.mdpo import off_policy_losses as losses
from rlopt.agents.mdpo.fused_step import FusedStep, Request, take_steps
from rlopt.agents.mdpo.fused_update import FusedUpdate, obstacle
from rlopt.agents.mdpo.off_policy_checks import fitting_replay_buffer
from rlopt.agents.mdpo.off_policy_objectives import Objective, OldPolicy
from rlopt.agents.mdpo.value_network import ValueNetwork, make_value_network
from rlopt.errors import NonFiniteError
from rlopt.nn.encoders import ImagePolicy, shift_batch
from rlopt.optim.compiled_step import CompileChoice, Mode, choose_mode
from rlopt.optim.lockstep import company_size, together
from rlopt.optim.optimizers import descend

READ_EVERY = 64
"""Gradient steps on an accelerator between two looks at their losses."""


class MirrorDescentSAC(SAC):
    """SAC's networks with the old policy, the value network and the update of MDPO; see :class:`rlopt.OffPolicyMDPO`.

    Random numbers are drawn in the order in which SAC draws them, and with ``kl_coef=0`` every tensor is computed by
    the same operations in the same order, so that the parameters stay equal to SAC's bit for bit.
    """

    fused_update: ClassVar[type[FusedUpdate]] = FusedUpdate
    """The same step as one function of tensors; a class that overrides a part of the step may name its own."""

    kl_coef: float
    kl_unit: Literal["reward", "ent_coef"]
    tsallis_q: float
    old_policy_period: int
    value_network: bool
    actor_q: Literal["min", "first"]
    critic_log_prob_bound: float | None
    log_density_floor: float | None
    mean_penalty: float
    log_std_penalty: float
    analytic_kl: bool
    random_shift: int
    old_actor: Actor | None
    """pi_k; None when ``kl_coef`` is 0."""
    value_net: ValueNetwork | None
    value_net_target: ValueNetwork | None
    compile: CompileChoice
    fused: FusedStep | None
    """The compiled step, once one was taken."""

    def _setup_model(self) -> None:
        chosen = None
        if self.replay_buffer_class is None and self.replay_buffer is None:
            chosen = fitting_replay_buffer(self.observation_space, self.n_steps)
            if self.n_steps > 1:
                self.replay_buffer_kwargs.update({"n_steps": self.n_steps, "gamma": self.gamma})
            self.replay_buffer = chosen(
                self.buffer_size,
                self.observation_space,
                self.action_space,
                device=self.device,
                n_envs=self.n_envs,
                optimize_memory_usage=self.optimize_memory_usage,
                **self.replay_buffer_kwargs,
            )
        super()._setup_model()
        # Environments of one class often share one space object, and with it the generator of the warm-up's actions.
        self.action_space = copy.deepcopy(self.action_space)
        # Not before: Stable-Baselines3 warns that a class which it did not choose itself ignores n_steps.
        self.replay_buffer_class = chosen or self.replay_buffer_class
        self.fused = None
        self._unread: list[losses.Info] = []
        self.old_actor = self.value_net = self.value_net_target = None
        # The generator is put back, so that a seed gives the same networks, exploration and batches with and without
        # these copies: SAC and every variant can be compared seed by seed.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            if self.kl_coef > 0:
                self.old_actor = self.policy.make_actor()
                self.old_actor.requires_grad_(False)
                self.old_actor.set_training_mode(False)
                self._copy_old_policy()
            if self.value_network:
                self.value_net, self.value_net_target = (make_value_network(self.policy) for _ in range(2))
                self.value_net_target.load_state_dict(self.value_net.state_dict())
                self.value_net_target.requires_grad_(False)
                self.value_net_target.set_training_mode(False)
                make_optimizer: Any = self.policy.optimizer_class
                self.value_net.optimizer = make_optimizer(
                    self.value_net.parameters(), lr=self.lr_schedule(1), **self.policy.optimizer_kwargs
                )

    @property
    def objective(self) -> Objective:
        """The losses with the present settings. A subclass that returns another Objective changes them."""
        names = [field.name for field in dataclasses.fields(Objective)]
        return Objective(**{name: getattr(self, name) for name in names})

    def _copy_old_policy(self) -> None:
        assert self.old_actor is not None
        self.old_actor.load_state_dict(self.actor.state_dict())

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Takes ``gradient_steps`` gradient steps on batches of ``batch_size`` transitions from the replay buffer."""
        mode = self._fused_mode()
        if mode is None and not self.policy.training:  # what can be fused has no layer that differs in training
            self.policy.set_training_mode(True)
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers.append(self.ent_coef_optimizer)
        if self.value_net is not None:
            self.value_net.set_training_mode(True)
            optimizers.append(self.value_net.optimizer)
        self._update_learning_rate(optimizers)

        assert self.replay_buffer is not None
        statistics: list[losses.Info] = []
        for gradient_step in range(gradient_steps):
            move_targets = gradient_step % self.target_update_interval == 0
            if mode is not None:
                request = Request.draw(self, mode, batch_size, move_targets)
                statistics.append(self._checked(together(take_steps, request)))
            else:
                batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
                if self.random_shift:
                    batch = shift_batch(batch, self.random_shift)
                statistics.append(self._gradient_step(batch, *self._draw_noise(batch)))
                if move_targets:
                    self._update_targets()
            self._n_updates += 1
            if self.old_actor is not None and self._n_updates % self.old_policy_period == 0:
                self._copy_old_policy()
        self._unread += statistics
        # Reading a value waits for the device: an accelerator is asked once in a while, the CPU at once.
        if len(self._unread) >= (1 if self.device.type == "cpu" else READ_EVERY):
            self._record(self._unread)
            self._unread = []

    def _fused_mode(self) -> Mode | None:
        """How the step is taken in one call; None to take it part by part, which a short run does."""
        # What is compiled for one of several runs serves all.
        mode = choose_mode(self.compile, self.device, self._planned_gradient_steps() * company_size())
        if mode == "eager" or (self.fused is None and obstacle(self) is not None):
            self.fused = None
            return None
        return mode

    def _checked(self, info: losses.Info) -> losses.Info:
        if self.device.type == "cpu" and not bool(torch.stack(list(info.values())).isfinite().all()):
            for name, value in info.items():
                self._check_loss(name.replace("_", " "), value)
        return info

    def _planned_gradient_steps(self) -> int:
        assert isinstance(self.train_freq, TrainFreq)
        if self.gradient_steps < 0 or self.train_freq.unit is not TrainFrequencyUnit.STEP:
            return self._total_timesteps
        return self._total_timesteps // (self.train_freq.frequency * self.n_envs) * self.gradient_steps

    def _draw_noise(self, batch: ReplayBufferSamples) -> tuple[Tensor | None, Tensor | None]:
        """Standard normal noise (B, A) for the actions at the states and at the next states, in SAC's order."""
        if self.use_sde:
            self.actor.reset_noise()
            return None, None
        noise = torch.randn(batch.actions.shape, device=self.device)
        return noise, None if self.value_network else torch.randn(batch.actions.shape, device=self.device)

    def _gradient_step(
        self, batch: ReplayBufferSamples, noise: Tensor | None, next_noise: Tensor | None
    ) -> losses.Info:
        """One update of every network from one batch; returns detached scalars by name."""
        given, batch = batch, self._convolved(batch)
        # The actor's loss does not train what the critics' loss does.
        observations = batch.observations if batch is given else batch.observations.detach()
        policy = self._sample_policy(observations, noise)
        joint = losses.joint_log_prob(policy.log_density, policy.log_jacobian)
        ent_coef, info = self._update_ent_coef(joint)
        info |= self._update_critic(batch, next_noise, ent_coef, policy)

        if self.actor_q == "first":
            q_values = self.critic.q1_forward(observations, policy.actions)
        else:
            q_values = torch.cat(self.critic(observations, policy.actions), dim=1)
        loss, actor_info = self.objective.actor_loss(
            policy, q_values, self._old_policy(given.observations), ent_coef=ent_coef, kl_coef=self.kl_coef
        )
        if self.value_net is not None:
            info |= self._update_value(self.value_net, batch, policy, q_values, ent_coef)
        self._check_loss("actor loss", loss)
        # Gradients of the critic's weights would be thrown away.
        descend(self.actor.optimizer, loss, only_own=True)
        return info | actor_info

    def _convolved(self, batch: ReplayBufferSamples) -> ReplayBufferSamples:
        """What convolutions that actor and critics share make of the images of ``batch``, computed once for all.

        Where there are none, or something else reads the batch too, it is ``batch`` itself.
        """
        policy: Any = self.policy
        plain = self.value_net is None and type(self)._update_critic is MirrorDescentSAC._update_critic
        if not (isinstance(policy, ImagePolicy) and policy.shares_convolutions and plain):
            return batch
        with torch.no_grad():
            following = policy.convolve(batch.next_observations)
        return batch._replace(observations=policy.convolve(batch.observations), next_observations=following)

    def _sample_policy(self, observations: Any, noise: Tensor | None) -> losses.PolicySample:
        """An action of the current policy for each observation: from ``noise``, or from gSDE's exploration matrix."""
        mean, log_std, extra = self.actor.get_action_dist_params(observations)
        if noise is not None:
            return losses.sample_squashed_gaussian(mean, log_std, noise)
        distribution = self.actor.action_dist
        assert isinstance(distribution, StateDependentNoiseDistribution)
        actions = distribution.actions_from_params(mean, log_std, extra["latent_sde"])
        pre_tanh = TanhBijector.inverse(actions)
        std = distribution.distribution.scale
        log_density = losses.gaussian_log_density(pre_tanh, mean, std)
        return losses.PolicySample(actions, pre_tanh, mean, std, log_density, losses.log_jacobian(torch.tanh(pre_tanh)))

    @torch.no_grad()
    def _old_policy(self, observations: Any) -> OldPolicy | None:
        if self.old_actor is None:
            return None
        mean, log_std, extra = self.old_actor.get_action_dist_params(observations)
        if self.use_sde:
            old = self.old_actor.action_dist.proba_distribution(mean, log_std, **extra)
            return mean, old.distribution.scale
        return mean, log_std.exp()

    def _update_ent_coef(self, log_prob: Tensor) -> tuple[Tensor, losses.Info]:
        """Adjusts lambda if it is learned; returns its value from before, which this gradient step uses."""
        if self.ent_coef_optimizer is None or self.log_ent_coef is None:
            return self.ent_coef_tensor, {"ent_coef": self.ent_coef_tensor}
        assert isinstance(self.target_entropy, float)
        ent_coef = torch.exp(self.log_ent_coef.detach())
        loss, info = losses.ent_coef_loss(self.log_ent_coef, log_prob, target_entropy=self.target_entropy)
        self._check_loss("entropy coefficient loss", loss)
        descend(self.ent_coef_optimizer, loss)
        return ent_coef, {"ent_coef": ent_coef, **info}

    def _update_critic(
        self,
        batch: ReplayBufferSamples,
        next_noise: Tensor | None,
        ent_coef: Tensor,
        policy: losses.PolicySample | None = None,
    ) -> losses.Info:
        """One step of the critics.

        :param policy: actions at the states, for a loss that needs some; this one does not
        """
        with torch.no_grad():
            if self.value_net_target is not None:
                next_values = self.value_net_target(batch.next_observations)
            else:
                following = self._sample_policy(batch.next_observations, next_noise)
                next_q = torch.cat(self.critic_target(batch.next_observations, following.actions), dim=1)
                next_values = self.objective.soft_value(next_q, following, ent_coef)
            discounts = (1 - batch.dones) * (self.gamma if batch.discounts is None else batch.discounts)
            targets = losses.td_target(batch.rewards, discounts, next_values)
        loss, info = self.objective.critic_loss(self.critic(batch.observations, batch.actions), targets)
        self._check_loss("critic loss", loss)
        descend(self.critic.optimizer, loss)
        return info

    def _update_value(
        self,
        value_net: ValueNetwork,
        batch: ReplayBufferSamples,
        policy: losses.PolicySample,
        q_values: Tensor,
        ent_coef: Tensor,
    ) -> losses.Info:
        with torch.no_grad():
            if self.actor_q == "first":
                q_values = torch.cat(self.critic(batch.observations, policy.actions), dim=1)
            targets = self.objective.soft_value(q_values, policy, ent_coef)
        loss, info = losses.value_loss(value_net(batch.observations), targets)
        self._check_loss("value loss", loss)
        descend(value_net.optimizer, loss)
        return info

    @torch.no_grad()
    def _update_targets(self) -> None:
        """Moves the slow copies by ``tau``: two calls for all tensors, the arithmetic of SB3's ``polyak_update``."""
        source: torch.nn.Module = self.critic
        target: torch.nn.Module = self.critic_target
        statistics, target_statistics = self.batch_norm_stats, self.batch_norm_stats_target
        if self.value_net is not None and self.value_net_target is not None:
            source, target = self.value_net, self.value_net_target
            statistics, target_statistics = (get_parameters_by_name(net, ["running_"]) for net in (source, target))
        pairs = zip(target.parameters(), source.parameters(), strict=True)
        # An encoder of DrQ-v2 has no slow copy.
        moved: list[tuple[Tensor, Tensor]] = [(slow, fast) for slow, fast in pairs if slow is not fast]
        targets = [slow for slow, _ in moved]
        torch._foreach_mul_(targets, 1 - self.tau)
        torch._foreach_add_(targets, [fast for _, fast in moved], alpha=self.tau)
        if target_statistics:
            torch._foreach_copy_(target_statistics, statistics)

    def _check_loss(self, name: str, loss: Tensor) -> None:
        # Reading a value costs nothing on the CPU; on an accelerator it would wait for the device, so there the losses
        # are looked at in _record.
        if loss.device.type == "cpu":
            self._require_finite(name, loss.item())

    def _require_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise NonFiniteError(
                f"{name} is NaN or infinite at step {self.num_timesteps} (gradient step {self._n_updates}): lower the "
                "learning rate or the reward scale and continue from the last good checkpoint"
            )

    def _record(self, statistics: list[losses.Info]) -> None:
        """Brings the statistics of gradient steps to the host in one transfer, checks them and logs their means."""
        names = list(statistics[0])
        table = torch.stack([torch.stack([info[name].reshape(()) for name in names]) for info in statistics])
        for name, mean in zip(names, table.double().mean(dim=0).tolist(), strict=True):
            self._require_finite(name.replace("_", " "), mean)
            self.logger.record(f"train/{name}", mean)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
