"""Hindsight experience replay (Andrychowicz et al., arXiv 1707.01495) with the transitions on the training device."""

import copy
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.her.goal_selection_strategy import KEY_TO_GOAL_STRATEGY, GoalSelectionStrategy
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from torch import Tensor

from rlopt.errors import ConfigError, unknown_name
from rlopt.replay.buffers import DeviceDictReplayBuffer
from rlopt.replay.normalization import normalize_observations, normalize_rewards


class DeviceHerReplayBuffer(DeviceDictReplayBuffer, HerReplayBuffer):
    """As :class:`stable_baselines3.HerReplayBuffer`, with the transitions on the device.

    Batches are equal to Stable-Baselines3's, bit for bit, with the same seed of ``numpy.random``, on every device:
    which episodes are complete is known on the host, where rows and goals are drawn and the environment computes the
    rewards. So only :meth:`sample` relabels, and it waits for the device; :meth:`gather` gives transitions as they
    were stored.

    :param env: the training environment, whose ``compute_reward(achieved, desired, infos)`` takes arrays (B, ...)
    :param n_sampled_goal: relabelled transitions for each one as it was, >= 0
    :param goal_selection_strategy: "future", "final" or "episode": which achieved goals of an episode are taken
    :param copy_info_dict: keep the infos and hand them to ``compute_reward``, which else gets empty ones
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Dict,
        action_space: spaces.Space,
        env: VecEnv,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        n_sampled_goal: int = 4,
        goal_selection_strategy: GoalSelectionStrategy | str = "future",
        copy_info_dict: bool = False,
    ) -> None:
        if isinstance(goal_selection_strategy, str):
            if goal_selection_strategy.lower() not in KEY_TO_GOAL_STRATEGY:
                raise unknown_name("goal_selection_strategy", goal_selection_strategy, KEY_TO_GOAL_STRATEGY)
            goal_selection_strategy = KEY_TO_GOAL_STRATEGY[goal_selection_strategy.lower()]
        if n_sampled_goal < 0:
            raise ConfigError(f"n_sampled_goal is {n_sampled_goal}: give a whole number >= 0")
        DeviceDictReplayBuffer.__init__(
            self,
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs,
            optimize_memory_usage,
            handle_timeout_termination,
        )
        self.env = env
        self.goal_selection_strategy = goal_selection_strategy
        self.n_sampled_goal = n_sampled_goal
        self.her_ratio = 1 - (1.0 / (n_sampled_goal + 1))
        self.copy_info_dict = copy_info_dict
        self.infos = np.empty((self.buffer_size if copy_info_dict else 0, self.n_envs), object)
        self.ep_start = np.zeros((self.buffer_size, self.n_envs), dtype=np.int64)
        self.ep_length = np.zeros((self.buffer_size, self.n_envs), dtype=np.int64)
        self._current_ep_start = np.zeros(self.n_envs, dtype=np.int64)

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """As :meth:`DeviceReplayBuffer.add`; an episode whose first transition is replaced is not sampled any more."""
        for index in np.flatnonzero(self.ep_length[self.pos]):
            end = self.ep_start[self.pos, index] + self.ep_length[self.pos, index]
            self.ep_length[np.arange(self.pos, end) % self.buffer_size, index] = 0
        self.ep_start[self.pos] = self._current_ep_start
        if self.copy_info_dict:
            self.infos[self.pos] = infos
        super().add(obs, next_obs, action, reward, done, infos)
        for index in np.flatnonzero(done):
            self._compute_episode_length(int(index))

    def sample_rows(self, batch_size: int) -> Tensor:
        """Rows (B,) int64, on the device, drawn uniformly with replacement from complete episodes.

        :raises rlopt.errors.ConfigError: no episode is complete yet
        """
        return torch.from_numpy(self._draw(batch_size)).to(self.device)

    def _draw(self, batch_size: int) -> np.ndarray:
        complete = np.flatnonzero(self.ep_length > 0)
        if not complete.size:
            raise ConfigError(
                "no episode is complete, so there is no goal to take in hindsight: set learning_starts above the "
                "number of steps of an episode times the number of environments"
            )
        return np.random.choice(complete, size=batch_size, replace=True)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """A batch: transitions as they were stored, then ``n_sampled_goal`` times as many with another goal."""
        drawn = self._draw(batch_size)
        n_virtual = int(self.her_ratio * batch_size)
        virtual, real = drawn[:n_virtual], drawn[n_virtual:]
        rows = torch.from_numpy(np.concatenate([real, virtual])).to(self.device)
        batch = self.gather(rows)
        goal_rows = torch.from_numpy(self._goal_rows(virtual)).to(self.device)
        goals = self._at(self._stored["next_observations"]["achieved_goal"], goal_rows)
        reached = batch.next_observations["achieved_goal"][len(real) :]
        rewards = torch.cat([batch.rewards[: len(real)], self._rewards(reached, goals, virtual)])
        observations, next_observations = (
            self._with_goals(part, goals) for part in (batch.observations, batch.next_observations)
        )
        return batch._replace(
            observations=normalize_observations(observations, env),
            next_observations=normalize_observations(next_observations, env),
            rewards=normalize_rewards(rewards, env),
        )

    def _goal_rows(self, rows: np.ndarray) -> np.ndarray:
        """The rows after whose transitions the new goals were reached, one for each of ``rows`` (V,)."""
        positions, envs = np.unravel_index(rows, self.ep_length.shape)
        start, length = self.ep_start[positions, envs], self.ep_length[positions, envs]
        if self.goal_selection_strategy == GoalSelectionStrategy.FINAL:
            chosen = length - 1
        elif self.goal_selection_strategy == GoalSelectionStrategy.FUTURE:
            chosen = np.random.randint((positions - start) % self.buffer_size, length)
        else:
            chosen = np.random.randint(0, length)
        return (chosen + start) % self.buffer_size * self.n_envs + envs

    def _rewards(self, reached: Tensor, goals: Tensor, rows: np.ndarray) -> Tensor:
        """(V, 1) from the environment's own function, which is the same for all environments."""
        if self.env is None:
            raise ConfigError("hindsight replay has no environment to compute rewards: call set_env first")
        infos: Any = [{} for _ in rows]
        if self.copy_info_dict:
            infos = copy.deepcopy(self.infos.reshape(-1)[rows])
        arrays = (reached.cpu().numpy(), goals.cpu().numpy())
        [rewards] = self.env.env_method("compute_reward", *arrays, infos, indices=[0])
        return torch.from_numpy(rewards.astype(np.float32).reshape(-1, 1)).to(self.device)

    def _with_goals(self, observations: dict[str, Tensor], goals: Tensor) -> dict[str, Tensor]:
        asked = observations["desired_goal"]
        return observations | {"desired_goal": torch.cat([asked[: len(asked) - len(goals)], goals])}

    def __getstate__(self) -> dict[str, Any]:
        state = DeviceDictReplayBuffer.__getstate__(self)
        del state["env"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.env = None
        DeviceDictReplayBuffer.__setstate__(self, state)
