"""Acting: a placeholder environment while learning from data, and fine-tuning in a real one."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, RolloutReturn
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from rlopt.agents.offline.data import ReplayRows
from rlopt.agents.offline.policy import OfflinePolicy
from rlopt.agents.offline.update import Source
from rlopt.agents.sac.checks import fitting_replay_buffer
from rlopt.algorithms.finite import check_step
from rlopt.algorithms.resumable import Resumable
from rlopt.algorithms.rollout import finish_step
from rlopt.algorithms.spaces_only_env import SpacesOnlyVecEnv
from rlopt.data.dataset import Dataset
from rlopt.envs.calls import NamedWorkers
from rlopt.errors import ConfigError
from rlopt.replay.rows import seed_buffer


class OfflineVecEnv(SpacesOnlyVecEnv):
    """Stands where an algorithm expects an environment while it trains from data; it has no state."""

    def reset(self) -> Any:
        """Zeros of the observation space."""
        space = self.observation_space
        parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
        zeros = {key: np.zeros((self.num_envs, *(part.shape or ())), part.dtype) for key, part in parts.items()}
        return zeros if isinstance(space, spaces.Dict) else zeros[""]

    def step_async(self, actions: Any) -> Any:
        raise ConfigError("this model trains from data and has no environment: hand it one with model.set_env(env)")

    def get_state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Does nothing."""


class FineTuning(Resumable, OffPolicyAlgorithm):
    """The part of an offline learner that acts in an environment, once it has been handed one."""

    fine_tunes: ClassVar[bool] = True
    """Whether it can continue learning in an environment."""

    policy: OfflinePolicy
    dataset: Dataset | None
    exploration_noise: float
    online: bool
    """Whether ``learn`` acts in the environment."""
    _rows: ReplayRows | None

    def _gradient_steps(self, source: Source, steps: int, planned: int, after: Any) -> bool:
        raise NotImplementedError

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Acts and learns in ``env`` from now on, in any number of environments; the data set is its first experience.

        BC takes note of the environment and continues with the data.

        :raises rlopt.errors.ConfigError: a VecNormalize, or another number of environments than collected before
        """
        wrapped = self._wrap_env(env, self.verbose)
        if unwrap_vec_normalize(wrapped) is not None:
            raise ConfigError(
                "an offline learner normalises observations itself: hand it the environment without VecNormalize"
            )
        if self.replay_buffer is not None and self.replay_buffer.n_envs != wrapped.num_envs:
            raise ConfigError(
                f"the replay buffer holds steps of {self.replay_buffer.n_envs} environments, the new one has "
                f"{wrapped.num_envs}: set one with as many"
            )
        n_envs = self.n_envs
        self.n_envs = wrapped.num_envs
        try:
            super().set_env(wrapped, force_reset)
        except BaseException:
            self.n_envs = n_envs
            raise
        self.online = self.fine_tunes
        if self.online and self.dataset is not None:
            self._begin_online()

    def _begin_online(self) -> None:
        """Makes what collecting needs, where it is not there yet: a replay buffer with the data set, and noise."""
        assert self.dataset is not None
        if self.replay_buffer is None:
            buffer_class = fitting_replay_buffer(self.observation_space, 1)
            size = self.buffer_size + len(self.dataset)
            self.replay_buffer = buffer_class(
                size, self.observation_space, self.action_space, device=self.device, n_envs=self.n_envs
            )
            seed_buffer(self.replay_buffer, self.dataset)
        if self.policy.needs.actor == "deterministic" and self.action_noise is None and self.exploration_noise > 0:
            assert self.action_space.shape is not None
            mean = np.zeros(self.action_space.shape)
            self.action_noise = NormalActionNoise(mean, np.full_like(mean, self.exploration_noise))

    def collect_rollouts(self, env: VecEnv, callback: BaseCallback, *args: Any, **kwargs: Any) -> RolloutReturn:
        if not self.at_boundary():
            return RolloutReturn(0, 0, continue_training=False)
        with NamedWorkers(env):
            result = super().collect_rollouts(env, callback, *args, **kwargs)
            if not result.continue_training:
                finish_step(self, callback)
        return result

    def _store_transition(
        self, replay_buffer: Any, buffer_action: Any, new_obs: Any, reward: Any, dones: Any, infos: Any
    ) -> None:
        check_step(new_obs, reward, dones, infos, self.num_timesteps, self.observation_space, self.n_envs)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """Takes ``gradient_steps`` gradient steps on the replay buffer, the data set among it."""
        if self._rows is None or self._rows.buffer is not self.replay_buffer:
            self._rows = ReplayRows(self.replay_buffer, self.policy)
        self._gradient_steps(self._rows, gradient_steps, self._total_timesteps, lambda: True)
