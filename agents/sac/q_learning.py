"""Q-learning with one network for finitely many actions: what the agents without an actor share."""

import copy
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.dqn.policies import DQNPolicy
from torch import Tensor

from rlopt.agents.sac.batch import Batch
from rlopt.agents.sac.config import QLearningConfig
from rlopt.agents.sac.losses import Info
from rlopt.agents.sac.off_policy import OffPolicy
from rlopt.algorithms.arguments import check_counted_from_zero, check_observation_space, checked
from rlopt.algorithms.resumable import named_policy_kwargs, training_env
from rlopt.errors import SpaceError
from rlopt.optim.compiled_step import CompileChoice, Precision
from rlopt.optim.descent import Network, Networks, Part, Scalar

_NOT_SETTINGS = ("self", "env", "further", "_init_setup_model", "__class__")


class QLearning(OffPolicy, stable_baselines3.DQN):
    """Base of the agents that learn from replay with the networks of DQN.

    The target network moves in the gradient step. A subclass says in :meth:`q_objective` what the Q network descends.

    :param further: arguments of :class:`stable_baselines3.DQN` that the subclass has as settings beside these
    :raises rlopt.errors.SpaceError: for spaces that cannot be used
    """

    acting_part: ClassVar[str] = "q_net"
    for_real_actions: ClassVar[str]
    """What takes continuous actions in the place of this learner, for people."""

    @checked
    def __init__(
        self,
        policy: str | type[DQNPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = QLearningConfig.learning_rate,
        buffer_size: int = QLearningConfig.buffer_size,
        learning_starts: int = QLearningConfig.learning_starts,
        batch_size: int = QLearningConfig.batch_size,
        tau: float = QLearningConfig.tau,
        train_freq: int | tuple[int, str] = QLearningConfig.train_freq,
        gradient_steps: int = QLearningConfig.gradient_steps,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        target_update_interval: int = QLearningConfig.target_update_interval,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        *,
        compile: CompileChoice = QLearningConfig.compile,
        precision: Precision = QLearningConfig.precision,
        _init_setup_model: bool = True,
        **further: Any,
    ) -> None:
        settings = {name: value for name, value in locals().items() if name not in _NOT_SETTINGS} | further
        settings |= {name: copy.deepcopy(settings[name]) for name in ("policy_kwargs", "replay_buffer_kwargs")}
        if env is not None:
            env = training_env(env, verbose)
            self._check_spaces(env.observation_space, env.action_space)
        self.compile, self.precision = compile, precision
        given = {name: value for name, value in settings.items() if name not in ("compile", "precision")} | {
            "train_freq": tuple(train_freq) if isinstance(train_freq, list) else train_freq,
            "replay_buffer_kwargs": copy.deepcopy(replay_buffer_kwargs),
            "policy_kwargs": named_policy_kwargs(policy_kwargs),
        }
        super().__init__(env=env, _init_setup_model=_init_setup_model, **given)  # type: ignore[arg-type]
        self.constructor_settings = settings

    def _setup_model(self) -> None:
        with warnings.catch_warnings():  # of copies of the network that are rarer than steps, which there are not
            warnings.filterwarnings("ignore", "The number of environments used")
            super()._setup_model()

    def _check_spaces(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        if not isinstance(action_space, spaces.Discrete):
            raise SpaceError(
                f"{type(self).__name__} needs a Discrete action space, not {action_space}: for continuous actions use "
                f"{self.for_real_actions}"
            )
        check_counted_from_zero(action_space, "the action space")
        check_observation_space(observation_space)

    # ---- the gradient step

    def networks(self) -> dict[str, Part]:
        """The Q network and its target network. A subclass adds its own."""
        return {
            "q_net": Part(self.q_net, self.policy.optimizer, max_grad_norm=self.max_grad_norm),
            "q_net_target": Part(self.q_net_target),
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
        if move_targets:
            networks.move("q_net_target", "q_net", scalars["tau"])
        return info

    def q_objective(self, q_net: Network, networks: Networks, batch: Batch) -> tuple[Tensor, Info]:
        """The loss of the Q network, a scalar, and statistics."""
        raise NotImplementedError

    def _on_step(self) -> None:
        """Nothing: targets move in the gradient step."""
