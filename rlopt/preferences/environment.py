"""Environments whose rewards are those of a model that learns them from preferences while a policy trains."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from rlopt.console.progress import say
from rlopt.envs.flat import flat_rows
from rlopt.errors import ConfigError
from rlopt.preferences.learner import PreferenceLearner
from rlopt.preferences.trajectories import Trajectories
from rlopt.replay.buffers import DeviceReplayBuffer
from rlopt.replay.her import DeviceHerReplayBuffer
from rlopt.state.envs import on_host

RELABELLED_ROWS = 8192
"""Rows of the replay that get new rewards at once."""


class LearnedReward(VecEnvWrapper):
    """Gives the model's rewards in place of the environment's, and records the steps.

    ``infos`` keep the returns of a monitor below, which are the environment's. Put a VecNormalize around it, not below.
    Only a simulated teacher reads the environment's own rewards.

    :param venv: the environments
    :param learner: of their spaces
    """

    def __init__(self, venv: VecEnv, learner: PreferenceLearner) -> None:
        super().__init__(venv)
        self.learner = learner
        action = np.zeros((self.num_envs, *(self.action_space.shape or ())), self.action_space.dtype)
        steps = max(learner.config.recent_steps // self.num_envs, 2 * learner.config.fragment_length)
        size = learner.model.observation_size
        self.trajectories = Trajectories(steps, self.num_envs, size, action)
        self._here = np.zeros((self.num_envs, size), np.float32)

    def reset(self) -> VecEnvObs:
        observations = self.venv.reset()
        self._here = self._flat(observations)
        self.trajectories.cut()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = np.array(actions).reshape(self.num_envs, *(self.action_space.shape or ()))
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        here, following = self._here, self._flat(observations)
        self._here, last = following, following.copy()
        for index in np.flatnonzero(dones).tolist():
            terminal = infos[index].get("terminal_observation")
            if terminal is not None:
                last[index] = self._flat(batch_of_one(terminal))[0]
        cut = np.array([bool(info.get("TimeLimit.truncated", False)) for info in infos])
        ended = np.asarray(dones, bool) & ~cut
        self.trajectories.add(here, self._actions, last, np.asarray(rewards), np.asarray(dones, bool), ended)
        model = self.learner.model
        learned = model.rewards(torch.from_numpy(here).to(model.device), model.encoded(self._actions))
        return observations, learned.cpu().numpy(), dones, infos

    def _flat(self, observations: Any) -> np.ndarray:
        return flat_rows(observations, self.observation_space)

    def learn(self, step: int, model: Any = None) -> bool:
        """Asks and fits what is due before environment step ``step``; whether the reward changed.

        :param model: whose replay buffer gets the new rewards
        """
        changed = self.learner.learn(step, self.trajectories)
        buffer = getattr(model, "replay_buffer", None)
        if changed and buffer is not None:
            self.relabel(buffer)
        return changed

    def relabel(self, buffer: Any) -> None:
        """Gives every transition of a replay buffer the reward that the model gives now.

        :raises rlopt.errors.ConfigError: it is not one of rlopt's, or its rewards are those of goals
        """
        check_replay(buffer)
        model, space = self.learner.model, self.observation_space
        count = buffer.size() * buffer.n_envs
        for rows in torch.arange(count, device=buffer.device).split(RELABELLED_ROWS):
            batch = buffer.transitions(rows)
            seen = batch.observations
            host = {key: on_host(part) for key, part in seen.items()} if isinstance(seen, dict) else on_host(seen)
            observations = torch.from_numpy(flat_rows(host, space)).to(model.device)
            actions = batch.actions.to(model.device).float().flatten(1)
            buffer.set_rewards(rows, model.rewards(observations, actions))

    def get_wrapper_state(self) -> dict[str, Any]:
        """All that :class:`LearnedReward` adds to the state of the environments, for a checkpoint."""
        return {
            "config": dataclasses.asdict(self.learner.config),
            "learner": self.learner.tree(),
            "trajectories": self.trajectories.tree(),
            "here": self._here.copy(),
        }

    def set_wrapper_state(self, state: Any) -> None:
        """Takes what :meth:`get_wrapper_state` gave; raises CheckpointError for what does not fit."""
        self.learner.restore(state["learner"])
        self.trajectories.restore(state["trajectories"])
        self._here = np.array(state["here"], np.float32).reshape(self._here.shape)

    def callback(self) -> PreferenceCallback:
        """What lets it learn during ``learn`` of an agent that trains in it."""
        return PreferenceCallback(self)


class PreferenceCallback(BaseCallback):
    """Before each rollout, lets a :class:`LearnedReward` ask, fit, and relabel the agent's replay.

    :param rewards: the environments; None finds them in those of the agent
    """

    def __init__(self, rewards: LearnedReward | None = None) -> None:
        super().__init__()
        self.rewards = rewards

    def _on_training_start(self) -> None:
        if self.rewards is None:
            self.rewards = find_learned_reward(self.training_env)
        if self.rewards is None:
            raise ConfigError("the agent's environment has no LearnedReward around it: wrap it in one")
        buffer = getattr(self.model, "replay_buffer", None)
        if buffer is not None:
            check_replay(buffer)

    def _on_rollout_start(self) -> None:
        assert self.rewards is not None
        learner = self.rewards.learner
        self.rewards.learn(self.num_timesteps, self.model)
        self.logger.record("reward/labels", len(learner.preferences))
        for name, value in learner.log.items():
            self.logger.record(f"reward/{name}", value)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        assert self.rewards is not None
        if not self.rewards.learner.model.fits:
            say(
                "nothing was asked, so every reward was 0: questions come between rollouts, every "
                f"{self.rewards.learner.config.query_every} steps; train longer, or lower query_every or n_steps"
            )


def find_learned_reward(env: Any) -> LearnedReward | None:
    """The :class:`LearnedReward` among the wrappers of ``env``."""
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, LearnedReward):
            return env
        env = env.venv
    return None


def check_replay(buffer: Any) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for a replay buffer whose rewards cannot be those of a model."""
    if isinstance(buffer, DeviceHerReplayBuffer):
        raise ConfigError(
            "hindsight goals are rewarded by the environment, not by a reward model: train with her=False"
        )
    if not isinstance(buffer, DeviceReplayBuffer):
        raise ConfigError(f"a {type(buffer).__name__} cannot be relabelled: leave replay_buffer_class to the agent")


def batch_of_one(observation: Any) -> Any:
    """An observation, or a dict of its parts, with an axis in front."""
    if isinstance(observation, dict):
        return {key: np.asarray(part)[None] for key, part in observation.items()}
    return np.asarray(observation)[None]
