"""Soft actor-critic as a Stable-Baselines3 algorithm, and the base of the off-policy agents."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim, is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, RolloutReturn, Schedule, TrainFreq
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, Actor, SACPolicy
from torch import Tensor

from rlopt.agents.sac import losses
from rlopt.agents.sac.batch import Batch, Drawn, Step, flat_parts, nested_parts
from rlopt.agents.sac.checks import (
    DISCRETE,
    check_random_shift,
    check_replay,
    check_spaces,
    fitting_replay_buffer,
    resolve_replay_buffer,
)
from rlopt.agents.sac.config import FIRST_POLICY_WEIGHT, SACConfig
from rlopt.agents.sac.losses import Info, PolicySample
from rlopt.agents.sac.off_policy import READ_EVERY, OffPolicy
from rlopt.algorithms.arguments import checked
from rlopt.algorithms.demonstrations import WithDemonstrations, check_n_demonstrations
from rlopt.algorithms.device_rollout import DeviceEpisodes, collect_transitions, collects_on_device, device_env
from rlopt.algorithms.initialization import CLONE_LOG_STD, ActorLayers, fill, linear_layers
from rlopt.algorithms.resumable import named_policy_kwargs, training_env
from rlopt.console.progress import say_once
from rlopt.data.demonstrations import Demonstrations
from rlopt.errors import ConfigError, DataError, require
from rlopt.nn.encoders import ImagePolicy
from rlopt.nn.networks import NormalizedExtractor
from rlopt.nn.policies import apart, policy_with
from rlopt.optim.compiled_step import CompileChoice, Precision
from rlopt.optim.descent import Network, Networks, Part, Scalar, loss_and_further
from rlopt.replay.normalization import normalize_observations
from rlopt.replay.rows import seed_buffer
from rlopt.settings.fields import check_arguments
from rlopt.settings.optimizer import PUBLISHED_POLICY_DELAY, NetworkName
from rlopt.storage.tree import Tree

MANY_WEIGHTS = 1_000_000
"""Of the critics, with which a gradient step takes tenths of a second on a core of a CPU."""


class SAC(WithDemonstrations, OffPolicy, stable_baselines3.SAC):
    """Soft actor-critic (Haarnoja et al., arXiv 1812.05905).

    Everything that works with :class:`stable_baselines3.SAC` works here. Uncompiled, the results equal that class's bit
    for bit with the same seeds. :class:`rlopt.agents.sac.config.SACConfig` declares and explains the settings; these
    arguments exist only in Python:

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a :class:`SACPolicy` class
    :param env: an environment, a VecEnv or a Gymnasium id, with a Box action space of finite bounds
    :param learning_rate: a number, or a function of the remaining progress
    :param train_freq: a number of steps, or a pair such as (1, "episode")
    :param replay_buffer_class: a class, or the name of one on the training device, "device", "device_n_step",
        "device_dict", "device_her", or of Stable-Baselines3's on the host, "replay", "n_step", "dict", "her"; None
        chooses one on the device by ``n_steps`` and the space
    :param policy_kwargs: as in Stable-Baselines3; ``activation_fn`` and ``optimizer_class`` may be names, "tanh" and
        "adabelief". ``features_extractor_class="drqv2"`` with "CnnPolicy" gives the networks of
        :class:`rlopt.nn.encoders.ImagePolicy`
    :param demonstrations: demonstrations of this environment, or their path or name, of which ``demo_fraction`` of each
        batch is drawn; see :meth:`set_demonstrations`
    :param n_demonstrations: number of episodes to use, the first ones; None for all
    :raises rlopt.errors.ConfigError: for a setting out of range
    :raises rlopt.errors.SpaceError: for actions or observations that cannot be used
    :raises rlopt.errors.NonFiniteError: from ``learn``, for a NaN or infinite observation, reward or loss. On the CPU
        it has not been used in an update; on an accelerator losses are checked every 64 gradient steps

    The gradient step is :meth:`gradient_step`. A subclass changes it by overriding one of the methods that it calls,
    such as :meth:`critic_objective` and :meth:`actor_objective`, and the change holds in every mode: with torch's
    optimisers, compiled, captured in a CUDA graph, or for several seeds at once. Such a method is compiled with the
    current values of the model's plain attributes (numbers, strings, booleans); if one changes, the step is recompiled.
    Values that change often belong in :meth:`scalars`, random numbers into :meth:`draw`.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        **stable_baselines3.SAC.policy_aliases,
        "CnnPolicy": ImagePolicy,
    }
    profiled_sections: ClassVar[dict[str, str]] = {
        "_sample_action": "act",
        "_store_transition": "store",
        "replay_buffer.sample": "sample",
        "replay_buffer.sample_rows": "sample",
    }
    made_from: ClassVar[dict[str, tuple[str, ...]]] = {
        "ent_coef": ("ent_coef_tensor", "log_ent_coef", "ent_coef_optimizer"),
        "reward_centring": ("average_reward",),
    }
    elsewhere: ClassVar[dict[str, str]] = {
        **dict.fromkeys(
            ("clip_range", "clip_range_vf", "gae_lambda", "n_epochs", "vf_coef", "target_kl", "normalize_advantage"),
            "it learns from replay and not from rollouts: that is an on-policy agent's, such as rlopt.MDPO",
        ),
        **dict.fromkeys(("target_policy_noise", "target_noise_clip"), "that is TD3's: its actor is stochastic"),
        **dict.fromkeys(("qf_learning_rate", "vf_learning_rate"), "learning_rate is that of every network"),
    }
    state_attributes: ClassVar[tuple[str, ...]] = ("begun_from_policy",)
    saved_modules: ClassVar[tuple[str, ...]] = ("first_actor",)
    saved_tensors: ClassVar[tuple[str, ...]] = ("average_reward",)
    unsaved: ClassVar[tuple[str, ...]] = ("_episodes", "shown")
    later_attributes: ClassVar[tuple[str, ...]] = ("data_fingerprint", "begun_from_policy")
    settled: ClassVar[tuple[str, ...]] = ("network",)
    for_discrete_actions: ClassVar[str] = DISCRETE
    """What takes discrete actions in the place of this learner, for people."""
    reads_no_rewards: ClassVar[bool] = False
    """Whether the rewards that environment and demonstrations give have no meaning to it."""
    begun_from_policy: bool = False
    """Whether it acts by its policy in the warm-up too, since :func:`rlopt.algorithms.initialization.begin_from`."""
    acts_on_mean: bool = False
    """Whether actions after the warm-up are the policy's mean while training."""
    network: NetworkName
    policy_delay: int | None
    actor_starts: int = 0
    random_shift: int
    demo_fraction: float
    cloning_coef: float | None
    cloning_steps: int | None
    first_actor: Actor | None = None
    """The policy that it began with, frozen, since :func:`rlopt.algorithms.initialization.begin_from`."""
    reward_centring: bool
    centring_rate: float
    average_reward: Tensor | None = None
    """The learned average, (1,), that values are counted from; None without ``reward_centring``."""

    @checked
    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = SACConfig.learning_rate,
        buffer_size: int = SACConfig.buffer_size,
        learning_starts: int = SACConfig.learning_starts,
        batch_size: int = SACConfig.batch_size,
        tau: float = SACConfig.tau,
        gamma: float = SACConfig.gamma,
        train_freq: int | tuple[int, str] = SACConfig.train_freq,
        gradient_steps: int = SACConfig.gradient_steps,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: str | type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = SACConfig.n_steps,
        ent_coef: str | float = SACConfig.ent_coef,
        target_update_interval: int = SACConfig.target_update_interval,
        target_entropy: str | float = SACConfig.target_entropy,
        use_sde: bool = SACConfig.use_sde,
        sde_sample_freq: int = SACConfig.sde_sample_freq,
        use_sde_at_warmup: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        *,
        network: NetworkName = SACConfig.network,
        policy_delay: int | None = SACConfig.policy_delay,
        actor_starts: int = SACConfig.actor_starts,
        random_shift: int = SACConfig.random_shift,
        demonstrations: Demonstrations | str | Path | None = None,
        n_demonstrations: int | None = None,
        demo_fraction: float = SACConfig.demo_fraction,
        cloning_coef: float | None = SACConfig.cloning_coef,
        cloning_steps: int | None = SACConfig.cloning_steps,
        reward_centring: bool = SACConfig.reward_centring,
        centring_rate: float = SACConfig.centring_rate,
        compile: CompileChoice = SACConfig.compile,
        precision: Precision = SACConfig.precision,
        _init_setup_model: bool = True,
    ) -> None:
        settings = {name: value for name, value in locals().items() if name not in _NOT_SETTINGS}
        settings["policy_kwargs"] = copy.deepcopy(policy_kwargs)
        settings["replay_buffer_kwargs"] = copy.deepcopy(replay_buffer_kwargs)
        check_arguments(SACConfig, settings)
        check_n_demonstrations(n_demonstrations)
        train_freq = tuple(train_freq) if isinstance(train_freq, list) else train_freq
        replay_buffer_class = resolve_replay_buffer(replay_buffer_class)
        if env is not None:
            env = training_env(env, verbose)
            check_spaces(env.observation_space, env.action_space, type(self).__name__, self.for_discrete_actions)
            check_random_shift(random_shift, env.observation_space)
            check_replay(
                env.observation_space,
                n_steps=n_steps,
                replay_buffer_class=replay_buffer_class,
                optimize_memory_usage=optimize_memory_usage,
            )
        self.network, self.policy_delay, self.actor_starts = network, policy_delay, actor_starts
        self.random_shift = random_shift
        self.n_demonstrations, self.demo_fraction = n_demonstrations, demo_fraction
        self.cloning_coef, self.cloning_steps = cloning_coef, cloning_steps
        self.reward_centring, self.centring_rate = reward_centring, centring_rate
        self.compile, self.precision = compile, precision
        chosen = {} if network == "mlp" else {"network": network}
        given = {name: value for name, value in settings.items() if name not in _BEYOND_SB3} | {
            "policy": policy_with(network, policy),
            "train_freq": train_freq,
            "replay_buffer_class": replay_buffer_class,
            "replay_buffer_kwargs": copy.deepcopy(replay_buffer_kwargs),
            "policy_kwargs": named_policy_kwargs(policy_kwargs) | chosen,
        }
        super().__init__(env=env, _init_setup_model=_init_setup_model, **given)  # type: ignore[arg-type]
        self.constructor_settings = settings
        if demonstrations is not None:
            self.set_demonstrations(demonstrations)

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.network == "crossq":
            self.critic_target = None  # type: ignore[assignment]
        self._episodes: DeviceEpisodes | None = None
        if self.reward_centring:
            self.average_reward = torch.zeros(1, device=self.device)

    def set_demonstrations(self, demonstrations: Demonstrations | str | Path) -> None:
        """As :meth:`WithDemonstrations.set_demonstrations`.

        :raises rlopt.errors.DataError: also for demonstrations without rewards, or with gaps between n-step returns
        """
        super().set_demonstrations(demonstrations)
        self.shown = None
        if self.demo_fraction and self.demonstrations is not None:
            self._check_shown(self.demonstrations)
            chosen = fitting_replay_buffer(self.observation_space, self.n_steps)
            further: dict[str, Any] = {"n_steps": self.n_steps, "gamma": self.gamma} if self.n_steps > 1 else {}
            spaces = self.observation_space, self.action_space
            self.shown = chosen(len(self.demonstrations), *spaces, device=self.device, **further)
            seed_buffer(self.shown, self.demonstrations)

    def _check_shown(self, demonstrations: Demonstrations) -> None:
        """Raises :class:`rlopt.errors.DataError` for demonstrations that batches cannot be drawn from."""
        metadata = demonstrations.metadata
        if not (self.reads_no_rewards or metadata.has_rewards):
            raise DataError(
                "the demonstrations have no rewards: give demo_fraction=0 to clone them alone, or learn their reward "
                "with rlopt.DAC or rlopt.AILBoost"
            )
        if self.n_steps > 1 and metadata.subsample_rate > 1:
            raise DataError("n_steps > 1 needs whole episodes: leave subsample out, or give n_steps=1")

    def at_boundary(self) -> bool:
        """As :meth:`WithDemonstrations.at_boundary`; what is to be cloned must be there."""
        if self.cloning_weight and self.first_actor is None:
            require(
                self.expert is not None,
                "cloning_coef needs demonstrations, or a policy to begin with (--init-from): give demonstrations=..., "
                "or call set_demonstrations",
            )
            require(
                not is_image_space(self.observation_space, check_channels=False),
                "demonstrations of images are not cloned beside learning: leave cloning_coef out, or begin with their "
                "clone (--init-from)",
            )
        return super().at_boundary()

    # ---- the gradient step

    def networks(self) -> dict[str, Part]:
        """The networks that a gradient step reads or changes, by name. A subclass adds its own, with or without an
        optimiser."""
        ent_coef = Part(tensors={"ent_coef": self.ent_coef_tensor} if self.log_ent_coef is None else {})
        if self.log_ent_coef is not None:
            ent_coef = Part(optimizer=self.ent_coef_optimizer, tensors={"log_ent_coef": self.log_ent_coef})
        critics = [f"qf{index}" for index in range(self.critic.n_critics)]
        has_target = self.critic_target is not None
        return {
            "critic": Part(self.critic, self.critic.optimizer, ensemble=critics),
            **({"critic_target": Part(self.critic_target, ensemble=critics)} if has_target else {}),
            "actor": Part(self.actor, self.actor.optimizer),
            "ent_coef": ent_coef,
            **({} if self.first_actor is None else {"first_actor": Part(self.first_actor)}),
            **({} if self.average_reward is None else {"average": Part(tensors={"reward": self.average_reward})}),
        }

    def scalars(self) -> dict[str, float]:
        """Numbers that may change from step to step without compiling the step anew."""
        scalars = {"tau": self.tau, "target_entropy": float(self.target_entropy)}
        if weight := self.cloning_weight:
            left = 1.0 if self.cloning_steps is None else max(1 - self.num_timesteps / self.cloning_steps, 0.0)
            scalars["cloning_coef"] = weight * left
        return scalars

    def draw(self, batch_size: int) -> Drawn:
        """Draws the random inputs of a gradient step, in Stable-Baselines3's order, as tensors by name.

        These are the batch, or the rows of the replay buffer that are one, and the noise of the actions. A subclass may
        add more. Names such as ``observations/goal`` are parts of Dict observations.
        """
        return self._draw_batch(batch_size) | self._draw_noise(batch_size) | self._draw_cloned(batch_size)

    def _draw_cloned(self, batch_size: int) -> Drawn:
        """As many states and actions of the demonstrations, where these are cloned."""
        if not self.cloning_weight or self.first_actor is not None:
            return {}
        assert self.expert is not None
        cloned = self.expert.gather(self.expert.sample_rows(batch_size))
        observations = normalize_observations(cloned.observations, self.get_vec_normalize_env())
        return {"cloned_actions": cloned.actions, **flat_parts("cloned_observations", observations)}

    def _draw_noise(self, batch_size: int) -> Drawn:
        """Standard normal: (B, A) for the actions at the states and at the next; with gSDE for one matrix for both."""
        if self.use_sde:
            distribution = self.actor.action_dist
            assert isinstance(distribution, StateDependentNoiseDistribution)
            log_std: Any = self.actor.log_std
            with torch.no_grad():
                std = distribution.get_std(log_std)
                noise, further = (
                    torch.randn(std.shape, device=self.device),
                    torch.randn((1, *std.shape), device=self.device),
                )
                # As reset_noise of the actor leaves them.
                distribution.exploration_mat, distribution.exploration_matrices = noise * std, further * std
            return {"noise": noise, "next_noise": noise}
        shape = (batch_size, get_action_dim(self.action_space))
        return {name: torch.randn(shape, device=self.device) for name in ("noise", "next_noise")}

    def gradient_step(
        self,
        networks: Networks,
        batch: Batch,
        drawn: Mapping[str, Tensor],
        scalars: Mapping[str, Scalar],
        move_targets: bool,
    ) -> Info:
        """One step of every network, from tensors alone: it must not read a value on the host, nor branch on one.

        :param move_targets: whether the target networks move too
        :returns: the losses and statistics of the step by name, scalars
        """
        ent_coef = self._ent_coef(networks)
        step = Step(networks, batch, batch, drawn, scalars, ent_coef)
        info = {"ent_coef": ent_coef.reshape(()).clone()}
        if self._convolves_once():
            critic_info, seen = networks.descend("critic", self._convolving_objective, step)
            step = dataclasses.replace(step, batch=batch._replace(**seen))
        else:
            critic_info = networks.descend("critic", self.critic_objective, step)
        if self.reward_centring:
            info |= self._move_average(networks, critic_info)
        info |= self.after_critics(step, critic_info)
        if self.actor_due:
            actor_info, policy = networks.descend("actor", self._actor_loss, step)
            info |= self.after_actor(step, actor_info)
            if self.ent_coef_optimizer is not None:
                info |= networks.descend("ent_coef", self.ent_coef_objective, step, policy)
            info |= self.further_step(step, policy)
        if move_targets:
            self.move_targets(step)
        return info

    def _ent_coef(self, networks: Networks) -> Tensor:
        if self.ent_coef_optimizer is None:
            return networks["ent_coef"]["ent_coef"]
        return torch.exp(networks["ent_coef"]["log_ent_coef"].detach())

    def _convolving_objective(self, critic: Network, step: Step) -> tuple[Tensor, tuple[Info, dict[str, Tensor]]]:
        """:meth:`critic_objective` on what convolutions that actor and critics share make of the images, and that.

        It is computed once for all: the actor's loss does not train what the critics' loss does.
        """
        observations = critic(step.batch.observations, method="convolve")
        with torch.no_grad():
            following = critic(step.batch.next_observations, method="convolve")
        batch = step.batch._replace(observations=observations, next_observations=following)
        outcome = self.critic_objective(critic, dataclasses.replace(step, batch=batch))
        loss, info = loss_and_further("critic", outcome)
        return loss, (info, {"observations": observations.detach(), "next_observations": following})

    def _convolves_once(self) -> bool:
        policy = getattr(self.policy, "_orig_mod", self.policy)  # what torch.compile may have wrapped
        return isinstance(policy, ImagePolicy) and policy.shares_convolutions

    def critic_objective(self, critic: Network, step: Step) -> tuple[Tensor, Info]:
        """The loss of the critics, a scalar, and statistics with ``critic_loss`` among them."""
        q_values, next_values = self.td_values(critic, step)
        rewards, discounts = step.batch.rewards, step.batch.discounts
        if not self.reward_centring:
            return losses.critic_loss(q_values, losses.td_target(rewards, discounts, next_values))
        rewards = losses.centred(rewards, discounts, step.networks["average"]["reward"], gamma=self.gamma)
        targets = losses.td_target(rewards, discounts, next_values)
        loss, info = losses.critic_loss(q_values, targets)
        return loss, info | {"td_error": (targets - torch.cat(q_values, dim=1).detach()).mean()}

    def _move_average(self, networks: Networks, info: Info) -> Info:
        average = networks["average"]["reward"] + self.centring_rate * info.pop("td_error")
        networks.put("average", reward=average)
        return {"average_reward": average.mean()}

    def td_values(self, critic: Network, step: Step) -> tuple[list[Tensor], Tensor]:
        """Q of the batch's pairs, n of (B, 1), with a gradient; and V at the next states, (B, 1), without."""
        if self.critic_target is None:
            q_values, next_q, policy = self.pairs_and_next(critic, step)
            return q_values, self.soft_value(next_q, policy, step.ent_coef)
        with torch.no_grad():
            next_values = self.next_values(step)
        return self.q_values(critic, step.batch.observations, step.batch.actions), next_values

    def next_values(self, step: Step) -> Tensor:
        """V at the next states, (B, 1), by the target critics at an action drawn from the current policy."""
        policy = self.policy_sample(step.networks["actor"], step.batch.next_observations, step.drawn["next_noise"])
        q_values = self.q_values(step.networks["critic_target"], step.batch.next_observations, policy.actions)
        return self.soft_value(torch.cat(q_values, dim=1), policy, step.ent_coef)

    def pairs_and_next(self, critic: Network, step: Step) -> tuple[list[Tensor], Tensor, PolicySample]:
        """Q of the batch's pairs, n of (B, 1); Q (B, n) at the next states, and the action there, without a gradient.

        The latter is that of the target critics, or where there are none, of the critics in the same pass.
        """
        batch = step.batch
        with torch.no_grad():
            policy = self.policy_sample(step.networks["actor"], batch.next_observations, step.drawn["next_noise"])
        pairs, following = (batch.observations, batch.actions), (batch.next_observations, policy.actions)
        if self.critic_target is None:
            q_values, next_q = self.joint_q_values(critic, [pairs, following])
            return q_values, torch.cat(next_q, dim=1).detach(), policy
        with torch.no_grad():
            next_q = self.q_values(step.networks["critic_target"], *following)
        return self.q_values(critic, *pairs), torch.cat(next_q, dim=1), policy

    def joint_q_values(self, critic: Network, pairs: Sequence[tuple[Any, Tensor]]) -> list[list[Tensor]]:
        """Q of several sets of observations and actions, each as of :meth:`q_values`.

        With network crossq all go through the critics as one batch, by whose statistics they are normalised.
        """
        if self.network != "crossq":
            return [self.q_values(critic, *each) for each in pairs]
        rows = [self._critic_inputs(critic, *each) for each in pairs]
        found = [values.split([len(each) for each in rows]) for values in critic.each_by_batch(torch.cat(rows))]
        return [list(each) for each in zip(*found, strict=True)]

    def _actor_loss(self, actor: Network, step: Step) -> tuple[Tensor, tuple[Info, PolicySample]]:
        policy = self.policy_sample(actor, step.batch.observations, step.drawn["noise"], by_batch=True)
        loss, info = loss_and_further("actor", self.actor_objective(actor, policy, step))
        if self.cloning_weight:
            distance = self.cloning_objective(actor, policy, step)
            loss = loss + step.scalars["cloning_coef"] * (1 + loss.detach().abs()) * distance
            info = {**info, "cloning_loss": distance.detach()}
        return loss, (info, PolicySample(*(tensor.detach() for tensor in policy)))

    def actor_objective(self, actor: Network, policy: PolicySample, step: Step) -> tuple[Tensor, Info]:
        """The loss of the actor, a scalar, and statistics with ``actor_loss`` among them.

        :param policy: an action of ``actor`` at each state of the batch, with a gradient
        """
        q_values = self.q_values(step.networks["critic"], step.batch.observations, policy.actions)
        smallest = torch.min(torch.cat(q_values, dim=1), dim=1, keepdim=True)[0]
        return losses.actor_loss(self.log_prob(policy), smallest, ent_coef=step.ent_coef)

    def cloning_objective(self, actor: Network, policy: PolicySample, step: Step) -> Tensor:
        """The mean squared distance of the actor's mean actions from those to clone, a scalar.

        Those are the actions of the policy that it began with, at the states of the batch; without one, the
        demonstrated ones at the states of the demonstrations.
        """
        if self.first_actor is not None:
            with torch.no_grad():
                first, _, _ = self.policy_outputs(step.networks["first_actor"], step.given.observations, by_batch=True)
            return (torch.tanh(policy.mean) - torch.tanh(first)).square().mean()
        mean, _, _ = self.policy_outputs(actor, nested_parts(step.drawn, "cloned_observations"))
        return (torch.tanh(mean) - step.drawn["cloned_actions"]).square().mean()

    def ent_coef_objective(self, ent_coef: Network, step: Step, policy: PolicySample) -> tuple[Tensor, Info]:
        """The loss of ln(lambda); ``policy`` is an action of the policy before the step."""
        log_prob = losses.joint_log_prob(policy.log_density, policy.log_jacobian)
        target_entropy = step.scalars["target_entropy"]
        return losses.ent_coef_loss(ent_coef["log_ent_coef"], log_prob, target_entropy=target_entropy)

    def after_critics(self, step: Step, info: Info) -> Info:
        """Hook for subclasses between the steps of critics and actor; returns statistics.

        :param info: the statistics of :meth:`critic_objective`
        """
        return info

    def after_actor(self, step: Step, info: Info) -> Info:
        """Hook for subclasses after the actor's step; returns statistics.

        :param info: the statistics of :meth:`actor_objective`
        """
        return info

    def further_step(self, step: Step, policy: PolicySample) -> Info:
        """Hook for subclasses that train new networks, after actor and critics in the actor's steps; returns
        statistics.

        :param policy: an action at each state of the batch, by the actor of before the step
        """
        return {}

    def move_targets(self, step: Step) -> None:
        """Moves the target networks."""
        if self.critic_target is not None:
            step.networks.move("critic_target", "critic", step.scalars["tau"])

    def policy_sample(
        self, actor: Network, observations: Any, noise: Tensor, *, by_batch: bool = False
    ) -> PolicySample:
        """An action of the policy for each observation, from standard normal ``noise`` (:meth:`draw`).

        :param by_batch: whether network crossq normalises by this batch, as where the actor is trained
        """
        mean, log_std, further = self.policy_outputs(actor, observations, by_batch=by_batch)
        if not self.use_sde:
            return losses.sample_squashed_gaussian(mean, log_std, noise)
        distribution = self.actor.action_dist
        assert isinstance(distribution, StateDependentNoiseDistribution)
        exploration, std = noise * distribution.get_std(log_std), distribution.get_std(log_std)
        return losses.sample_gsde(mean, further["latent_sde"], std, exploration, distribution.epsilon)

    def policy_outputs(
        self, actor: Network, observations: Any, *, by_batch: bool = False
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Mean and log standard deviation of the policy, as its ``get_action_dist_params`` gives them.

        :param by_batch: see :meth:`policy_sample`
        """
        if not by_batch or self.network != "crossq":
            found: tuple[Tensor, Tensor, dict[str, Tensor]] = actor(observations, method="get_action_dist_params")
            return found
        module: Any = actor.module
        features = actor(observations, module.features_extractor, method="extract_features")
        latent = actor.by_batch(features, "latent_pi")
        mean = actor(latent, method="mu")
        if self.use_sde:
            return mean, actor["log_std"], {"latent_sde": latent}
        return mean, actor(latent, method="log_std").clamp(LOG_STD_MIN, LOG_STD_MAX), {}

    def q_values(self, critic: Network, observations: Any, actions: Tensor, count: int | None = None) -> list[Tensor]:
        """The values of actions (B, A) by each critic, or by the first ``count``: n of (B, 1)."""
        if not critic.batched:
            return [critic(observations, actions, method="q1_forward")] if count == 1 else critic(observations, actions)
        return list(critic.each(self._critic_inputs(critic, observations, actions), count).unbind())

    def _critic_inputs(self, critic: Network, observations: Any, actions: Tensor) -> Tensor:
        """Features and actions side by side, (B, I)."""
        module: Any = critic.module
        features = critic(observations, module.features_extractor, method="extract_features")
        if module.share_features_extractor:
            features = features.detach()
        return torch.cat([features, actions], dim=1)

    def log_prob(self, policy: PolicySample) -> Tensor:
        """The entropy term's log pi, (B, 1)."""
        return losses.joint_log_prob(policy.log_density, policy.log_jacobian)

    def soft_value(self, q_values: Tensor, policy: PolicySample, ent_coef: Tensor) -> Tensor:
        """V(s), (B, 1), from Q at the action of ``policy``, (B, n)."""
        return losses.soft_value(q_values, self.log_prob(policy), ent_coef=ent_coef)

    # ---- taking steps

    def _is_actor_due(self) -> bool:
        delay = self.policy_delay or PUBLISHED_POLICY_DELAY.get(self.network, 1)
        return self.num_timesteps >= self.actor_starts and (self._n_updates + 1) % delay == 0

    def is_sac(self) -> bool:
        return type(self) is SAC and self._steps_as_sac()

    def _steps_as_sac(self) -> bool:
        """Whether every gradient step is one of the actor too, on replay alone, and there are target networks."""
        changed = self.actor_starts or self.reward_centring or self.cloning_weight or self.random_shift
        plain = self.network != "crossq" and self.policy_delay in (None, 1) and self.shown is None
        return plain and not changed and not self._convolves_once()

    # ---- acting and storing

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        learning_starts = 0 if self.begun_from_policy else learning_starts
        warming_up = self.num_timesteps < learning_starts and not (self.use_sde and self.use_sde_at_warmup)
        quick = self.update is not None and not self.use_sde and self._sees_flat_arrays()
        if warming_up or not (quick or self.acts_on_mean):
            return super()._sample_action(learning_starts, action_noise, n_envs)
        assert self._last_obs is not None
        if quick:
            assert self.update is not None and isinstance(self._last_obs, np.ndarray)
            acts = self.update.act(self, self._last_obs, self.acts_on_mean)
            unscaled = self.policy.unscale_action(acts.reshape(-1, *(self.action_space.shape or ())))
        else:
            unscaled = self.predict(self._last_obs, deterministic=True)[0]
        scaled = self.policy.scale_action(unscaled)
        if action_noise is not None:
            scaled = np.clip(scaled + action_noise(), -1, 1)
        return self.policy.unscale_action(scaled), scaled

    def _sees_flat_arrays(self) -> bool:
        extractor: Any = self.actor.features_extractor
        if isinstance(extractor, NormalizedExtractor):
            extractor = extractor.extractor
        return isinstance(self._last_obs, np.ndarray) and type(extractor) is FlattenExtractor

    def _count_observations(self) -> None:
        extractor = self.actor.features_extractor
        if isinstance(extractor, NormalizedExtractor):
            seen: Any = self._last_obs
            observations = seen if isinstance(seen, Tensor) else self.policy.obs_to_tensor(seen)[0]
            with torch.no_grad():
                extractor.statistics.update(self.actor.extract_features(observations, extractor.extractor))

    @property
    def cloning_weight(self) -> float:
        """``cloning_coef``, or its default."""
        if self.cloning_coef is not None:
            return self.cloning_coef
        return 0.0 if self.first_actor is None else FIRST_POLICY_WEIGHT

    def begin_as_now(self) -> None:
        """Takes the actor as it is now for the policy that training begins with, if that is to be cloned."""
        cloned = self.reads_no_rewards if self.cloning_coef is None else self.cloning_coef > 0
        if cloned:
            self._make_first_actor()

    def _make_first_actor(self) -> None:
        # The generator is put back, so that a seed gives the same exploration and batches with and without the copy.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            self.first_actor = apart(self.policy.make_actor())
        self.first_actor.requires_grad_(False)
        self.first_actor.set_training_mode(False)
        self.first_actor.load_state_dict(self.actor.state_dict())

    def fitted_parameters(self, parameters: dict[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """As :meth:`rlopt.algorithms.resumable.Resumable.fitted_parameters`."""
        if "first_actor" in parameters:
            self._make_first_actor()
        return parameters

    def fitted_networks(self, networks: Tree) -> Tree:
        """As :meth:`rlopt.algorithms.resumable.Resumable.fitted_networks`."""
        if "first_actor" in networks["modules"]:
            self._make_first_actor()
        return networks

    def actor_layers(self) -> ActorLayers | None:
        """The actor's layers, from which another agent can start
        (:func:`rlopt.algorithms.initialization.begin_from`)."""
        found = None if self.use_sde else linear_layers(self.actor.latent_pi, self.actor.mu)
        if found is None or type(self.actor.features_extractor) is not FlattenExtractor:
            return None
        layers = [(layer.weight.detach().clone(), layer.bias.detach().clone()) for layer in found[0]]
        return ActorLayers(layers, found[1], "squashed")

    def take_actor(self, given: ActorLayers) -> None:
        """Starts with another agent's actor; if that has one standard deviation for all states, or none, it holds
        everywhere.

        :raises rlopt.errors.ConfigError: the networks differ
        """
        found = None if self.use_sde else linear_layers(self.actor.latent_pi, self.actor.mu)
        if found is None or type(self.actor.features_extractor) is not FlattenExtractor:
            raise ConfigError("only a perceptron of flat observations, without gSDE, can begin from another's actor")
        fill(*found, given, "squashed")
        log_std = self.actor.log_std
        assert isinstance(log_std, torch.nn.Linear)
        with torch.no_grad():
            log_std.weight.zero_()
            log_std.bias.copy_(torch.full_like(log_std.bias, CLONE_LOG_STD) if given.log_std is None else given.log_std)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        self._episodes = None
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        weights = sum(parameter.numel() for parameter in self.critic.parameters())
        if self.device.type == "cpu" and self.network in ("simba", "crossq") and weights > MANY_WEIGHTS:
            say_once(
                f"network {self.network} has {weights / 1e6:.1f} million weights in the critics, which is much for a "
                "CPU: with --critic-net-arch 128 128 a gradient step takes a fraction of the time"
            )
        return result

    def _collect(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: ReplayBuffer,
        action_noise: ActionNoise | None,
        learning_starts: int,
        log_interval: int | None,
    ) -> RolloutReturn:
        if self._worlds(env, replay_buffer, action_noise):
            return self._collect_on_device(callback, train_freq, replay_buffer, learning_starts, log_interval)
        return super()._collect(env, callback, train_freq, replay_buffer, action_noise, learning_starts, log_interval)

    def _worlds(self, env: VecEnv, replay_buffer: ReplayBuffer, action_noise: ActionNoise | None) -> bool:
        """Whether transitions stay on the device, as the worlds of the warp backend do."""
        names = ("_sample_action", "_store_transition", "after_storing")
        own = all(getattr(type(self), name) is getattr(SAC, name) for name in names)
        worlds = device_env(self, env) if own and collects_on_device(self, replay_buffer, action_noise) else None
        if worlds is None:
            self._episodes = None
        elif self._episodes is None or self._episodes.worlds is not worlds:
            self._episodes = DeviceEpisodes(self, env, worlds)
        return worlds is not None

    def _collect_on_device(
        self,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: Any,
        learning_starts: int,
        log_interval: int | None,
    ) -> RolloutReturn:
        self.policy.set_training_mode(False)
        assert self._episodes is not None

        def sample(observations: Tensor) -> Tensor:
            self._count_observations()
            if self.num_timesteps < learning_starts and not self.begun_from_policy:
                return 2 * torch.rand(self.n_envs, get_action_dim(self.action_space), device=self.device) - 1
            actions: Tensor = self.actor(observations, deterministic=self.acts_on_mean)
            return actions

        steps = train_freq.frequency
        result = collect_transitions(self, sample, self._episodes, callback, replay_buffer, steps, log_interval)
        # On an accelerator the host would wait for the step.
        if self.device.type == "cpu" or self.num_timesteps // self.n_envs % READ_EVERY < steps:
            self._episodes.check()
        return result


_NOT_SETTINGS = ("self", "env", "demonstrations", "_init_setup_model", "__class__")
_BEYOND_SB3 = (
    "network", "policy_delay", "actor_starts", "random_shift", "reward_centring", "centring_rate", "compile",
    "precision", "n_demonstrations", "demo_fraction", "cloning_coef", "cloning_steps",
)  # fmt: skip
