"""Collection from worlds that are simulated on a device: no step is copied to the host, and no loop runs over worlds.

It takes the place of the loops over a ``VecEnv`` where the environment is the warp backend's, bare or in a VecMonitor.
Callbacks are called as ever, once a step, and find tensors in the place of arrays and empty ``infos``.
Shapes: T steps, N worlds, A action dimensions.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import RolloutReturn, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from torch import Tensor

from rlopt.algorithms.finite import check_finite
from rlopt.algorithms.rollout import Actor, complete
from rlopt.replay.buffers import DeviceReplayBuffer
from rlopt.replay.n_step import DeviceNStepReplayBuffer

if TYPE_CHECKING:
    from rlopt.envs.backends.warp_vec import DeviceStep, WarpVecEnv


def device_env(model: BaseAlgorithm, env: VecEnv) -> WarpVecEnv | None:
    """The worlds under ``env`` that can be stepped without the host; None where something between needs arrays."""
    base = env.venv if type(env) is VecMonitor and not env.info_keywords and env.results_writer is None else env
    backend = sys.modules.get("rlopt.envs.backends.warp_vec")  # MuJoCo is not imported for nothing
    if backend is None or not isinstance(base, backend.WarpVecEnv) or base.device.type != model.device.type:
        return None
    worlds: WarpVecEnv = base
    return worlds


class DeviceEpisodes:
    """Steps the worlds of a model, counts its episodes as VecMonitor does, and looks for values that are not finite.

    :param worlds: of ``env``
    """

    def __init__(self, model: BaseAlgorithm, env: VecEnv, worlds: WarpVecEnv) -> None:
        self.worlds, self._model = worlds, model
        self._monitor = env if isinstance(env, VecMonitor) else None
        device, space = worlds.device, worlds.action_space
        assert isinstance(space, spaces.Box)
        self.low, self.high = (torch.as_tensor(bound, device=device) for bound in (space.low, space.high))
        last: Any = model._last_obs
        self.observations: Tensor = torch.as_tensor(last, device=device)
        self._infos: list[dict[str, Any]] = [{} for _ in range(worlds.num_envs)]
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        self._returns = torch.zeros(worlds.num_envs, device=device)
        if self._monitor is not None:
            self._returns = torch.as_tensor(self._monitor.episode_returns, device=device)

    def scaled(self, actions: Tensor) -> Tensor:
        """Actions within [-1, 1] as the environment takes them."""
        return self.low + 0.5 * (actions + 1.0) * (self.high - self.low)

    def step(self, actions: Tensor) -> DeviceStep:
        """Steps all worlds, whose observations are then the new ones."""
        step = self.worlds.step_tensors(actions)
        self._model.num_timesteps += self.worlds.num_envs
        self._finite &= step.last_observations.isfinite().all() & step.rewards.isfinite().all()
        if self._monitor is not None:
            self._returns = self._returns + step.rewards
            self._monitor.episode_lengths += 1
            if step.ended.any():
                self._finish(self._monitor, step.ended)
            self._monitor.episode_returns = self._returns  # type: ignore[assignment]
        self.observations = step.observations
        self._model._last_obs = step.observations  # type: ignore[assignment]
        self._model._last_episode_starts = step.ended
        return step

    def _finish(self, monitor: VecMonitor, ended: np.ndarray) -> None:
        returns, lengths, buffer = self._returns.cpu().numpy(), monitor.episode_lengths, self._model.ep_info_buffer
        assert buffer is not None
        seconds = round(time.time() - monitor.t_start, 6)
        rows = np.flatnonzero(ended)
        for index in rows[-(buffer.maxlen or len(rows)) :].tolist():
            buffer.append({"r": returns[index], "l": lengths[index], "t": seconds})
        monitor.episode_count += len(rows)
        lengths[ended] = 0
        self._returns = torch.where(torch.from_numpy(ended).to(self._returns.device), 0.0, self._returns)

    def seen(self, actions: Tensor, step: DeviceStep) -> dict[str, Any]:
        """What callbacks find of a step, under the names of Stable-Baselines3's loops."""
        seen = {"new_obs": step.observations, "rewards": step.rewards, "dones": step.ended, "infos": self._infos}
        return {"actions": actions, **seen}

    def check(self) -> None:
        """Raises :class:`rlopt.errors.NonFiniteOutcomeError` for a NaN or infinity so far; waits for the device."""
        if not bool(self._finite):
            check_finite("observation or reward", float("nan"), self._model.num_timesteps)


def collect_on_device(
    model: OnPolicyAlgorithm,
    actor: Actor,
    env: VecEnv,
    worlds: WarpVecEnv,
    callback: BaseCallback,
    buffer: RolloutBuffer,
    n_steps: int,
) -> bool:
    """Fills ``buffer`` with ``n_steps`` of every world; False if the callback stopped before.

    The buffer's arrays become tensors on the device, of the same shapes.

    :raises rlopt.errors.NonFiniteOutcomeError: an observation or reward of the rollout is NaN or infinite
    """
    policy, device, count = model.policy, worlds.device, worlds.num_envs
    policy.set_training_mode(False)
    episodes = DeviceEpisodes(model, env, worlds)
    shape = (n_steps, count)
    observations = torch.empty(*shape, *episodes.observations.shape[1:], device=device)
    taken = torch.empty(*shape, *episodes.low.shape, device=device)
    rewards, starts = torch.empty(shape, device=device), torch.empty(shape, device=device)
    if model.use_sde:
        policy.reset_noise(count)
    callback.on_rollout_start()
    constant = {"self": model, "env": env, "callback": callback, "rollout_buffer": buffer, "n_rollout_steps": n_steps}
    cut: list[tuple[Sequence[int], Sequence[int], Tensor]] = []
    for step in range(n_steps):
        if model.use_sde and model.sde_sample_freq > 0 and step % model.sde_sample_freq == 0:
            policy.reset_noise(count)
        observations[step] = episodes.observations
        starts[step] = torch.from_numpy(np.asarray(model._last_episode_starts, np.float32)).to(device)
        with torch.no_grad():
            actions = actor.sample(episodes.observations)
        given = episodes.scaled(actions) if policy.squash_output else actions.clamp(episodes.low, episodes.high)
        outcome = episodes.step(given)
        taken[step], rewards[step] = actions, outcome.rewards
        if (ended := np.flatnonzero(outcome.ended)).size:
            cut.append(
                ([step] * len(ended), ended.tolist(), outcome.last_observations[torch.from_numpy(ended).to(device)])
            )
        callback.update_locals(
            {**constant, "n_steps": step, "clipped_actions": given, **episodes.seen(actions, outcome)}
        )
        if not callback.on_step():
            episodes.check()
            return False
    episodes.check()
    numbers = {"values": torch.zeros_like(rewards), "log_probs": torch.zeros_like(rewards)}
    columns = {"observations": observations, "actions": taken, "rewards": rewards, "episode_starts": starts, **numbers}
    for name, column in columns.items():
        setattr(buffer, name, column)
    buffer.pos, buffer.full = n_steps, True
    complete(model, actor, buffer, episodes.observations, cut)
    callback.update_locals({"n_steps": n_steps})
    callback.on_rollout_end()
    return True


def collects_on_device(model: OffPolicyAlgorithm, buffer: ReplayBuffer, action_noise: ActionNoise | None) -> bool:
    """Whether :func:`collect_transitions` stores what Stable-Baselines3's loop would."""
    plain = type(buffer) in (DeviceReplayBuffer, DeviceNStepReplayBuffer)
    steps = isinstance(model.train_freq, TrainFreq) and model.train_freq.unit is TrainFrequencyUnit.STEP
    return plain and steps and action_noise is None and not model.use_sde


def collect_transitions(
    model: OffPolicyAlgorithm,
    sample: Callable[[Tensor], Tensor],
    episodes: DeviceEpisodes,
    callback: BaseCallback,
    buffer: DeviceReplayBuffer,
    n_steps: int,
    log_interval: int | None,
) -> RolloutReturn:
    """Stores ``n_steps`` transitions of every world.

    :param sample: observations (N, d) -> actions (N, A) within [-1, 1]
    """
    count, finished = model.n_envs, 0
    callback.on_rollout_start()
    constant = {"self": model, "callback": callback, "replay_buffer": buffer, "train_freq": model.train_freq}
    for step in range(n_steps):
        observations = episodes.observations
        with torch.no_grad():
            actions = sample(observations)
        outcome = episodes.step(episodes.scaled(actions))
        ended = torch.from_numpy(outcome.ended).to(observations.device)
        buffer.store(observations, outcome.last_observations, actions, outcome.rewards, ended, ended)
        model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
        model._on_step()
        done = int(outcome.ended.sum())
        before, model._episode_num = model._episode_num, model._episode_num + done
        finished += done
        if log_interval is not None and before // log_interval != model._episode_num // log_interval:
            model.dump_logs()
        callback.update_locals({**constant, "num_collected_steps": step + 1, **episodes.seen(actions, outcome)})
        if not callback.on_step():
            return RolloutReturn((step + 1) * count, finished, continue_training=False)
    callback.on_rollout_end()
    return RolloutReturn(n_steps * count, finished, continue_training=True)
