"""DeepLOOP: average-reward soft actor-critic with optimism and lazy switching, inspired by LOOP; experimental."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from rlopt.agents.mdpo.fused_update import FusedUpdate
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, ReplayBufferSamples
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor

from rlopt.agents.deep_loop import losses
from rlopt.agents.deep_loop.bonus import Evidence, FourierFeatures
from rlopt.agents.deep_loop.checks import (
    check_not_normalised,
    check_observations,
    check_own_settings,
    refuse_termination,
)
from rlopt.agents.deep_loop.fused_update import FusedDifferentialUpdate
from rlopt.agents.deep_loop.objective import DifferentialObjective, GainEstimator
from rlopt.agents.deep_loop.switching import LazySwitching
from rlopt.agents.mdpo.off_policy import OffPolicyMDPO
from rlopt.agents.sac import losses as sac_losses
from rlopt.optimizers import descend
from rlopt.resumable import with_settings_of
from rlopt.update import Mode

_NOT_TAKEN = (
    "gamma",
    "n_steps",
    "value_network",
    "replay_buffer_class",
    "use_sde",
    "sde_sample_freq",
    "use_sde_at_warmup",
)
_OWN = (
    "gain_estimator",
    "gain_rate",
    "centring_coef",
    "bonus",
    "beta",
    "max_bonus",
    "n_features",
    "length_scale",
    "ridge",
    "lazy",
    "switch_multiplier",
    "min_interval",
    "max_interval",
    "on_termination",
    "reset_cost",
    "allowed_resets",
    "reset_cost_rate",
)


class DeepLOOP(LazySwitching, OffPolicyMDPO):
    """Soft actor-critic for the average reward, with an optimistic bonus and a behaviour that switches lazily.

    Inspired by LOOP (He, Zhong and Yang, arXiv 2404.12648), whose guarantees do not cover it. With ``bonus=False`` and
    ``lazy=False`` it is RVI-SAC (Hisaki and Ono, arXiv 2408.01972). Nothing is discounted: critics learn differential
    values, Q = r + bonus - J + V(s'), beside the gain J. Settings of :class:`rlopt.OffPolicyMDPO` mean what they mean
    there; ``gamma``, ``n_steps``, ``value_network``, ``replay_buffer_class`` and gSDE are not taken.

    A time limit is passed over: the value goes on behind it, as in every off-policy learner here.

    :param gain_estimator: "rvi" (RVI-SAC's delayed f(Q)), "td" (differential Q-learning) or "centring" (mean soft
        reward of the batches, biased by old data)
    :param gain_rate: kappa in [0, 1], how far J moves at a gradient step; 0 keeps J = 0. RVI-SAC: 5e-3
    :param centring_coef: weight of (mean Q)^2 of the batch, which holds the constant of Q; not with "rvi", which does
    :param bonus: whether rewards have the elliptical bonus. Values and gain are then optimistic; the log's
        ``rollout/average_reward`` is the plain reward
    :param beta: squared radius of the confidence set, > 0, in units of reward squared: the sum of squared bonuses over
        the data, and the unit of the switching rule. Constants from theory are far too large in practice
    :param max_bonus: largest bonus, > 0, in units of reward
    :param n_features: d, random Fourier features of (s, a)
    :param length_scale: of their kernel, > 0, in standard deviations of the inputs
    :param ridge: > 0, of the features' Gram matrix
    :param lazy: whether the behaviour is a frozen hypothesis that is given up when its discrepancy on the data has
        grown to ``switch_multiplier`` beta, or by 3/4 of that if it began outside the set
    :param switch_multiplier: > 1; LOOP: 4
    :param min_interval: transitions between two switches at least. A switch reads the whole replay buffer
    :param max_interval: transitions after which it switches in any case
    :param on_termination: "refuse" an episode that truly ends, or take its "reset" as a transition into the state after
        it, for ``reset_cost``. An info ``reset`` of ``ContinuingWrapper`` has the same price
    :param reset_cost: in units of reward, >= 0, or "auto": raised while resets come more often than allowed
    :param allowed_resets: resets a step that "auto" aims at. RVI-SAC: 1e-3
    :param reset_cost_rate: step size of "auto", >= 0
    :raises rlopt.errors.ConfigError: for a setting out of range, for VecNormalize, and from ``learn`` for an episode
        that terminates with ``on_termination="refuse"``
    :raises rlopt.errors.SpaceError: for spaces that cannot be used
    """

    fused_update: ClassVar[type[FusedUpdate]] = FusedDifferentialUpdate
    gain: Tensor
    """J, (1,), in units of reward; entropy and bonus count."""
    reset_price: Tensor
    """The present reset cost, (1,)."""
    gain_estimator: GainEstimator
    gain_rate: float
    centring_coef: float
    on_termination: Literal["refuse", "reset"]
    reset_cost: float | Literal["auto"]
    allowed_resets: float
    reset_cost_rate: float

    @with_settings_of(OffPolicyMDPO, *_NOT_TAKEN, kl_coef=0.0, learning_starts=10_000)
    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str | None,
        *,
        gain_estimator: GainEstimator = "rvi",
        gain_rate: float = 5e-3,
        centring_coef: float = 0.1,
        bonus: bool = True,
        beta: float = 10.0,
        max_bonus: float = 1.0,
        n_features: int = 128,
        length_scale: float = 1.0,
        ridge: float = 1.0,
        lazy: bool = True,
        switch_multiplier: float = 4.0,
        min_interval: int = 1_000,
        max_interval: int = 10_000,
        on_termination: Literal["refuse", "reset"] = "refuse",
        reset_cost: float | Literal["auto"] = "auto",
        allowed_resets: float = 1e-3,
        reset_cost_rate: float = 0.1,
        **settings: Any,
    ) -> None:
        given = dict(locals())
        own = {name: given[name] for name in _OWN}
        check_own_settings(own)
        for name, value in own.items():
            setattr(self, name, float(value) if name == "reset_cost" and value != "auto" else value)
        super().__init__(policy, env, gamma=1.0, **settings)
        kept = {name: value for name, value in self.constructor_settings.items() if name not in _NOT_TAKEN}
        self.constructor_settings = kept | own

    def _setup_model(self) -> None:
        check_not_normalised(self.env)
        check_observations(self.observation_space, self.bonus, self.lazy)
        super()._setup_model()
        self.gain = torch.zeros(1, device=self.device)
        first_price = 0.0 if self.reset_cost == "auto" else float(self.reset_cost)
        self.reset_price = torch.tensor([first_price], device=self.device)
        # As in the base class: a seed gives the same networks, exploration and batches with and without these.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            learns_cost = self.on_termination == "reset" and self.reset_cost == "auto"
            self.reset_critic = self._make_reset_critic() if learns_cost else None
            self._setup_switching()

    @property
    def objective(self) -> DifferentialObjective:
        """The losses with the present settings. A subclass that returns another one changes them."""
        names = [field.name for field in dataclasses.fields(DifferentialObjective)]
        return DifferentialObjective(**{name: getattr(self, name) for name in names})

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """As Stable-Baselines3's ``set_env``; VecNormalize is refused."""
        check_not_normalised(env)
        super().set_env(env, force_reset)

    # ---- the gradient step

    def _fused_mode(self) -> Mode | None:
        # What the fused step does not know: the critic of the resets, and parts of one's own.
        known = not self.bonus or (type(self.features), type(self.evidence)) == (FourierFeatures, Evidence)
        if self.reset_critic is not None or not known:
            return None
        return super()._fused_mode()

    def _update_critic(
        self,
        batch: ReplayBufferSamples,
        next_noise: Tensor | None,
        ent_coef: Tensor,
        policy: sac_losses.PolicySample | None = None,
    ) -> sac_losses.Info:
        objective = self.objective
        with torch.no_grad():
            following = self._sample_policy(batch.next_observations, next_noise)
            next_q = torch.cat(self.critic_target(batch.next_observations, following.actions), dim=1)
            next_values = objective.soft_value(next_q, following, ent_coef)
            plain_rewards = batch.rewards - self.reset_price * batch.dones
            rewards = plain_rewards + self.bonus_of(batch) if self.bonus else plain_rewards
        q_values = self.critic(batch.observations, batch.actions)
        loss, info = objective.differential_loss(q_values, rewards, next_q, next_values, self.gain)
        self._check_loss("critic loss", loss)
        descend(self.critic.optimizer, loss)
        self.gain.copy_(losses.moved_gain(self.gain, info.pop("gain_estimate"), self.gain_rate))
        if self.bonus:
            info["bonus"] = (rewards - plain_rewards).mean()
        return info | {"gain": self.gain.mean()} | self._update_reset_critic(batch, following)

    def _update_reset_critic(self, batch: ReplayBufferSamples, following: sac_losses.PolicySample) -> sac_losses.Info:
        if self.reset_critic is None:
            return {}
        pairs, next_pairs = (batch.observations, batch.actions), (batch.next_observations, following.actions)
        loss = self.reset_critic.update(pairs, batch.dones, next_pairs, self.gain_rate)
        self._check_loss("reset critic loss", loss)
        rate = self.reset_critic.gain
        self.reset_price.copy_(losses.dual_step(self.reset_price, rate, self.allowed_resets, self.reset_cost_rate))
        return {"reset_critic_loss": loss, "reset_rate": rate.clone(), "reset_cost": self.reset_price.mean()}

    def _update_targets(self) -> None:
        super()._update_targets()
        if self.reset_critic is not None:
            self.reset_critic.move_target(self.tau)

    def _update_learning_rate(self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer) -> None:
        given = optimizers if isinstance(optimizers, list) else [optimizers]
        own = [] if self.reset_critic is None else [self.reset_critic.optimizer]
        super()._update_learning_rate([*given, *own])

    # ---- acting and storing

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.plan is None or self.n_switches == 0 or self.num_timesteps < learning_starts:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        assert self._last_obs is not None
        observations, _ = self.policy.obs_to_tensor(self._last_obs)
        scaled = self.plan.act(observations, self.deterministic_behaviour).cpu().numpy()
        if action_noise is not None:
            scaled = np.clip(scaled + action_noise(), -1, 1)
        return self.policy.unscale_action(scaled), scaled

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        resets = np.array(dones, bool)
        infos = list(infos)
        for index, info in enumerate(infos):
            cut = bool(info.get("TimeLimit.truncated", False))
            if resets[index] and not cut and self.on_termination == "refuse":
                refuse_termination(self.num_timesteps)
            restarted = self.on_termination == "reset" and info.get("reset") is True and "reset_cost" in info
            if (resets[index] and not cut) or restarted:
                # The buffer then keeps the state after the reset, and its done says that a reset was on the way.
                resets[index] = True
                infos[index] = {key: value for key, value in info.items() if key != "terminal_observation"}
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, resets, infos)
        self.n_collected += len(resets)
        self.logger.record_mean("rollout/average_reward", float(np.mean(reward)))

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "DeepLOOP",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
