"""Off-policy mirror descent policy optimisation (Tomar et al., arXiv 2005.09814) as a Stable-Baselines3 algorithm."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import (
    GymEnv,
    MaybeCallback,
    RolloutReturn,
    Schedule,
    TrainFreq,
)
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.sac.sac import SAC

from rlopt.agents.mdpo.off_policy_checks import (
    check_random_shift,
    check_replay,
    check_settings,
    check_spaces,
    resolve_replay_buffer,
)
from rlopt.agents.mdpo.off_policy_update import MirrorDescentSAC
from rlopt.algorithms.resumable import Resumable, named_policy_kwargs, training_env
from rlopt.nn.encoders import ImagePolicy
from rlopt.optim.compiled_step import CompileChoice
from rlopt.validation import check_finite


class OffPolicyMDPO(Resumable, MirrorDescentSAC):
    """Soft actor-critic with a proximity term: the actor stays near a copy of itself, renewed every so often.

    Everything that works with :class:`stable_baselines3.SAC` works here, and ``kl_coef=0`` *is* that class, bit for bit
    with the same seeds. The parameters that SAC has mean what they mean there; the others are:

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a :class:`SACPolicy` class
    :param env: an environment, a VecEnv or a Gymnasium id, with a Box action space of finite bounds
    :param replay_buffer_class: a class, or the name of one on the training device, "device", "device_n_step",
        "device_dict", "device_her", or of Stable-Baselines3's on the host, "replay", "n_step", "dict", "her"; None
        chooses one on the device by ``n_steps`` and the space
    :param ent_coef: lambda, the weight of the entropy, >= 0 ("auto" learns it); the paper has 0.2
    :param policy_kwargs: as in SAC; ``activation_fn`` and ``optimizer_class`` may be names, "tanh" and "adabelief".
        ``features_extractor_class="drqv2"`` with "CnnPolicy": the networks of :class:`rlopt.nn.encoders.ImagePolicy`
    :param kl_coef: c - lambda >= 0, the weight of the divergence from the old policy, in units of reward. The paper's
        Bregman step size c is ``kl_coef + ent_coef``
    :param kl_unit: "reward", or "ent_coef" to give ``kl_coef`` as a multiple of ``ent_coef``, which keeps the two in
        proportion where ``ent_coef`` is learned: c is then ``(1 + kl_coef) ent_coef``
    :param tsallis_q: q in [1, 2] of the Tsallis entropy and divergence; 1 is Shannon and KL. "auto" still adjusts
        lambda to the Shannon entropy
    :param old_policy_period: gradient steps between two copies of the old policy, >= 1 (paper, section 5.1: 1000). One
        gradient step an environment step, as there, makes this a number of environment steps
    :param value_network: learn V and a slow copy of it and take Q's target from that (the paper), instead of sampling
        an action at the next state for the slow copy of Q (SAC since 2018, the default)
    :param actor_q: which Q the actor climbs: "min" of all critics (default) or the "first" (released code)
    :param deterministic_behaviour: act with the mean action after warm-up (released code) instead of sampling;
        ``action_noise`` is added either way
    :param critic_log_prob_bound: clips the log-density in the critic's target to [-bound, bound], in nats (MDAC,
        arXiv 2502.03854); None for no bound
    :param log_density_floor: lowest log-density of an action dimension, in nats; the gradient is zero below it. The
        released code has ln 1e-6 = -13.8; None for no floor
    :param mean_penalty: weight of the mean square of the actor's means (released code: 1e-3)
    :param log_std_penalty: weight of the mean square of the actor's log standard deviations (released code: 1e-3)
    :param analytic_kl: use the closed form of the KL divergence in the actor's loss instead of the one-sample estimate:
        the same expectation without the sampling noise; only with ``tsallis_q=1``
    :param random_shift: pixels by which images are shifted at random, at most, whenever a batch is drawn, see
        :func:`rlopt.nn.encoders.random_shift`; 0 for not at all. Rewards are those of the images as they were stored
    :param compile: take each gradient step by one compiled call (on a GPU, a captured CUDA graph): "on", "off" or
        "auto" for runs that are long enough to earn the compilation back. gSDE, value networks, image and Dict
        observations, and optimisers other than Adam are never compiled
    :raises rlopt.errors.ConfigError: for a setting out of range
    :raises rlopt.errors.SpaceError: for actions or observations that cannot be used
    :raises rlopt.errors.NonFiniteError: from ``learn``, for a NaN or infinite observation, reward or loss. On the CPU
        nothing has been updated with it then; on an accelerator losses are looked at every 64 gradient steps
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {**SAC.policy_aliases, "CnnPolicy": ImagePolicy}
    profiled_sections: ClassVar[dict[str, str]] = {
        "_sample_action": "act",
        "_store_transition": "store",
        "replay_buffer.sample": "sample",
        "replay_buffer.sample_rows": "sample",
    }

    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: str | type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        ent_coef: str | float = "auto",
        target_update_interval: int = 1,
        target_entropy: str | float = "auto",
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        use_sde_at_warmup: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        *,
        kl_coef: float = 0.1,
        kl_unit: Literal["reward", "ent_coef"] = "reward",
        tsallis_q: float = 1.0,
        old_policy_period: int = 1000,
        value_network: bool = False,
        actor_q: Literal["min", "first"] = "min",
        deterministic_behaviour: bool = False,
        critic_log_prob_bound: float | None = None,
        log_density_floor: float | None = None,
        mean_penalty: float = 0.0,
        log_std_penalty: float = 0.0,
        analytic_kl: bool = False,
        random_shift: int = 0,
        compile: CompileChoice = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        not_settings = ("self", "env", "_init_setup_model", "not_settings", "__class__")
        settings = {name: value for name, value in locals().items() if name not in not_settings}
        settings["policy_kwargs"] = copy.deepcopy(policy_kwargs)
        settings["replay_buffer_kwargs"] = copy.deepcopy(replay_buffer_kwargs)
        train_freq = tuple(train_freq) if isinstance(train_freq, list) else train_freq
        check_settings({**settings, "train_freq": train_freq})
        replay_buffer_class = resolve_replay_buffer(replay_buffer_class)
        if env is not None:
            env = training_env(env, verbose)
            check_spaces(env.observation_space, env.action_space, type(self).__name__)
            check_random_shift(random_shift, env.observation_space)
            check_replay(
                env.observation_space,
                n_steps=n_steps,
                replay_buffer_class=replay_buffer_class,
                optimize_memory_usage=optimize_memory_usage,
            )
        self.kl_coef = float(kl_coef)
        self.kl_unit = kl_unit
        self.tsallis_q = float(tsallis_q)
        self.old_policy_period = old_policy_period
        self.value_network = value_network
        self.actor_q = actor_q
        self.deterministic_behaviour = deterministic_behaviour
        self.critic_log_prob_bound = critic_log_prob_bound
        self.log_density_floor = log_density_floor
        self.mean_penalty = float(mean_penalty)
        self.log_std_penalty = float(log_std_penalty)
        self.analytic_kl = analytic_kl
        self.random_shift = random_shift
        self.compile = compile
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            action_noise,
            replay_buffer_class,
            copy.deepcopy(replay_buffer_kwargs),
            optimize_memory_usage,
            n_steps,
            ent_coef,
            target_update_interval,
            target_entropy,
            use_sde,
            sde_sample_freq,
            use_sde_at_warmup,
            stats_window_size,
            tensorboard_log,
            named_policy_kwargs(policy_kwargs),
            verbose,
            seed,
            device,
            _init_setup_model,
        )
        self.constructor_settings = settings

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        warming_up = self.num_timesteps < learning_starts and not (self.use_sde and self.use_sde_at_warmup)
        if warming_up or (self.fused is None and not self.deterministic_behaviour):
            return super()._sample_action(learning_starts, action_noise, n_envs)
        assert self._last_obs is not None
        if self.fused is not None and isinstance(self._last_obs, np.ndarray):
            unscaled = self.policy.unscale_action(self.fused.act(self, self._last_obs, self.deterministic_behaviour))
        else:
            unscaled = self.predict(self._last_obs, deterministic=True)[0]
        scaled = self.policy.scale_action(unscaled)
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
        check_finite("reward", reward, self.num_timesteps)
        check_finite("observation", new_obs, self.num_timesteps)
        if self._vec_normalize_env is not None:
            # Clipping can hide an infinity in the normalised values; these are the ones that are stored.
            check_finite("reward", self._vec_normalize_env.get_original_reward(), self.num_timesteps)
            check_finite("observation", self._vec_normalize_env.get_original_obs(), self.num_timesteps)
        for done, info in zip(dones, infos, strict=True):
            if done and info.get("terminal_observation") is not None:
                check_finite("terminal observation", info["terminal_observation"], self.num_timesteps)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        check_finite("observation", self._last_obs, self.num_timesteps)
        return result

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: ReplayBuffer,
        action_noise: ActionNoise | None = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        if not self.at_boundary():
            return RolloutReturn(0, 0, continue_training=False)
        return super().collect_rollouts(
            env, callback, train_freq, replay_buffer, action_noise, learning_starts, log_interval
        )

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """As Stable-Baselines3's ``learn``; ``tb_log_name`` is by default the name of the class."""
        name = tb_log_name or type(self).__name__
        return super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        ours = ["old_actor", "value_net", "value_net_target", "boundary_hook", "fused", "_unread"]
        return [*super()._excluded_save_params(), *ours]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        if self.old_actor is not None:
            state_dicts = [*state_dicts, "old_actor"]
        if self.value_net is not None:
            state_dicts = [*state_dicts, "value_net", "value_net_target", "value_net.optimizer"]
        return state_dicts, tensors
