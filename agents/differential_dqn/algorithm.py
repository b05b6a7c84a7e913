"""Differential DQN as a Stable-Baselines3 algorithm."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.vec_env import unwrap_vec_normalize
from stable_baselines3.dqn.policies import DQNPolicy
from torch import Tensor

from rlopt.agents.differential_dqn import losses
from rlopt.agents.differential_dqn.config import DifferentialDQNConfig
from rlopt.agents.sac.differential import OnTermination, mark_resets, moved_gain
from rlopt.agents.sac.losses import Info
from rlopt.agents.sac.off_policy import OffPolicy
from rlopt.agents.sac.update import Batch
from rlopt.algorithms.arguments import checked
from rlopt.algorithms.checks import check_counted_from_zero, check_observation_space
from rlopt.algorithms.resumable import named_policy_kwargs, training_env
from rlopt.errors import ConfigError, SpaceError
from rlopt.optim.compiled_step import CompileChoice, Precision
from rlopt.optim.descent import Network, Networks, Part, Scalar
from rlopt.settings.fields import check_arguments

_NOT_SETTINGS = ("self", "env", "_init_setup_model", "__class__")


class DifferentialDQN(OffPolicy, stable_baselines3.DQN):
    """Deep Q-learning for the average reward: Q(s, a) = r - J + max Q(s', .), with the gain J learned beside.

    Tabular differential Q-learning (Wan, Naik and Sutton, arXiv 2006.16318) or relative value iteration, with the
    networks, replay and epsilon-greedy behaviour of DQN (Mnih et al., 2015). For processes that go on; learning
    bootstraps beyond time limits. Settings are declared and explained in
    :class:`rlopt.agents.differential_dqn.config.DifferentialDQNConfig`; what works with
    :class:`stable_baselines3.DQN` works here, but for ``gamma``, ``n_steps`` and copies of the whole network.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a :class:`DQNPolicy` class
    :param env: an environment, a VecEnv or an id, with a Discrete action space
    :param learning_rate: a number, or a function of the remaining progress
    :raises rlopt.errors.ConfigError: for a setting out of range, for VecNormalize with ``norm_reward``, and from
        ``learn`` for an episode that terminates with ``on_termination="refuse"``
    :raises rlopt.errors.SpaceError: for spaces that cannot be used
    :raises rlopt.errors.NonFiniteError: from ``learn``, for a NaN or infinite observation, reward or loss
    """

    acting_part: ClassVar[str] = "q_net"
    state_attributes: ClassVar[tuple[str, ...]] = ("exploration_rate",)
    elsewhere: ClassVar[Mapping[str, str]] = {
        "gamma": "nothing is discounted: stable_baselines3.DQN learns discounted values",
        "n_steps": "targets are of one step",
        "ent_coef": "it explores with exploration_final_eps; ent_coef is rlopt.SAC's",
    }
    gain: Tensor
    """J, (1,), in units of reward."""
    gain_estimator: Literal["rvi", "td"]
    gain_rate: float
    double_q: bool
    on_termination: OnTermination
    reset_cost: float

    @checked
    def __init__(
        self,
        policy: str | type[DQNPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = DifferentialDQNConfig.learning_rate,
        buffer_size: int = DifferentialDQNConfig.buffer_size,
        learning_starts: int = DifferentialDQNConfig.learning_starts,
        batch_size: int = DifferentialDQNConfig.batch_size,
        tau: float = DifferentialDQNConfig.tau,
        train_freq: int | tuple[int, str] = DifferentialDQNConfig.train_freq,
        gradient_steps: int = DifferentialDQNConfig.gradient_steps,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        target_update_interval: int = DifferentialDQNConfig.target_update_interval,
        exploration_fraction: float = DifferentialDQNConfig.exploration_fraction,
        exploration_initial_eps: float = DifferentialDQNConfig.exploration_initial_eps,
        exploration_final_eps: float = DifferentialDQNConfig.exploration_final_eps,
        max_grad_norm: float = DifferentialDQNConfig.max_grad_norm,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        *,
        double_q: bool = DifferentialDQNConfig.double_q,
        gain_estimator: Literal["rvi", "td"] = DifferentialDQNConfig.gain_estimator,
        gain_rate: float = DifferentialDQNConfig.gain_rate,
        on_termination: OnTermination = DifferentialDQNConfig.on_termination,
        reset_cost: float = DifferentialDQNConfig.reset_cost,
        compile: CompileChoice = DifferentialDQNConfig.compile,
        precision: Precision = DifferentialDQNConfig.precision,
        _init_setup_model: bool = True,
    ) -> None:
        settings = {name: value for name, value in locals().items() if name not in _NOT_SETTINGS}
        settings |= {name: copy.deepcopy(settings[name]) for name in ("policy_kwargs", "replay_buffer_kwargs")}
        check_arguments(DifferentialDQNConfig, settings)
        if env is not None:
            env = training_env(env, verbose)
            check_spaces(env.observation_space, env.action_space)
        own = ("double_q", "gain_estimator", "gain_rate", "on_termination", "reset_cost", "compile", "precision")
        for name in own:
            setattr(self, name, settings[name])
        given = {name: value for name, value in settings.items() if name not in own} | {
            "train_freq": tuple(train_freq) if isinstance(train_freq, list) else train_freq,
            "replay_buffer_kwargs": copy.deepcopy(replay_buffer_kwargs),
            "policy_kwargs": named_policy_kwargs(policy_kwargs),
        }
        super().__init__(env=env, gamma=DifferentialDQNConfig.gamma, _init_setup_model=_init_setup_model, **given)  # type: ignore[arg-type]
        self.constructor_settings = settings

    def _setup_model(self) -> None:
        check_rewards(self.env)
        with warnings.catch_warnings():  # of copies of the network that are rarer than steps, which there are not
            warnings.filterwarnings("ignore", "The number of environments used")
            super()._setup_model()
        self.gain = torch.zeros(1, device=self.device)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """As Stable-Baselines3's ``set_env``; normalised rewards are refused."""
        check_rewards(env)
        super().set_env(env, force_reset)

    # ---- the gradient step

    def networks(self) -> dict[str, Part]:
        """The Q network, its target network, and the gain."""
        return {
            "q_net": Part(self.q_net, self.policy.optimizer, max_grad_norm=self.max_grad_norm),
            "q_net_target": Part(self.q_net_target),
            "numbers": Part(tensors={"gain": self.gain}),
        }

    def scalars(self) -> dict[str, float]:
        return {"tau": self.tau}

    def gradient_step(
        self,
        networks: Networks,
        batch: Batch,
        drawn: Mapping[str, Tensor],
        scalars: Mapping[str, Scalar],
        move_targets: bool,
    ) -> Info:
        info: Info = dict(networks.descend("q_net", self.q_objective, networks, batch))
        gain = moved_gain(networks["numbers"]["gain"], info.pop("gain_estimate"), self.gain_rate)
        networks.put("numbers", gain=gain)
        if move_targets:
            networks.move("q_net_target", "q_net", scalars["tau"])
        return info | {"gain": gain.mean()}

    def q_objective(self, q_net: Network, networks: Networks, batch: Batch) -> tuple[Tensor, Info]:
        """The loss of the Q network, a scalar, and statistics with ``gain_estimate`` among them."""
        with torch.no_grad():
            next_target_q = networks["q_net_target"](batch.next_observations)
            next_online_q = q_net(batch.next_observations) if self.double_q else None
        return losses.differential_q_loss(
            q_net(batch.observations),
            batch.actions,
            batch.rewards - self.reset_cost * (1 - batch.discounts),  # a discount of 0 says that a reset was on the way
            next_target_q,
            next_online_q,
            networks["numbers"]["gain"],
            rvi=self.gain_estimator == "rvi",
        )

    # ---- acting and storing

    def _on_step(self) -> None:
        # Targets move in the gradient step.
        self.exploration_rate = self.exploration_schedule(self._current_progress_remaining)
        self.logger.record("rollout/exploration_rate", self.exploration_rate)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.num_timesteps < learning_starts:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        assert self._last_obs is not None
        actions, _ = self.policy.predict(self._last_obs, deterministic=True)
        for index in np.flatnonzero(np.random.rand(n_envs) < self.exploration_rate):
            actions[index] = self.action_space.sample()
        return actions, actions

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        resets, infos = mark_resets(dones, infos, self.on_termination, self.num_timesteps)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, resets, infos)
        self.logger.record_mean("rollout/average_reward", float(np.mean(reward)))

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "gain"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        return state_dicts, [*tensors, "gain"]


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """Raises :class:`rlopt.errors.SpaceError` unless actions are Discrete and the observations are usable."""
    if not isinstance(action_space, spaces.Discrete):
        raise SpaceError(
            f"DifferentialDQN needs a Discrete action space, not {action_space}: for continuous actions use "
            "rlopt.DeepLOOP or rlopt.APO"
        )
    check_counted_from_zero(action_space, "the action space")
    check_observation_space(observation_space)


def check_rewards(env: Any) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for rewards whose scale moves."""
    wrapper = None if env is None else unwrap_vec_normalize(env)
    if wrapper is not None and wrapper.norm_reward:
        raise ConfigError(
            "DifferentialDQN takes no VecNormalize with norm_reward: the gain is in units of the environment's reward; "
            "leave out normalize_rewards"
        )
