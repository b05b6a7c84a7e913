"""The warp backend: dm_control tasks of thousands of worlds, simulated on the device where the networks learn."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from torch import Tensor

from rlopt.envs.backends.batch import check_settings, guard_actions
from rlopt.envs.backends.warp_physics import KEPT, WarpPhysics, import_warp
from rlopt.envs.names import DM_CONTROL_PREFIX
from rlopt.envs.settings import EnvSettings
from rlopt.envs.suite.load import load_task
from rlopt.envs.suite.task import Draw
from rlopt.envs.tables import DM_CONTROL_EPISODE_STEPS
from rlopt.errors import ConfigError, StateUnavailableError
from rlopt.settings.device import check_device


class DeviceStep(NamedTuple):
    """What :meth:`WarpVecEnv.step_tensors` returns; nothing in it changes later."""

    observations: Tensor
    """(n, d), after the resets of worlds whose episode has ended."""
    rewards: Tensor
    """(n,)"""
    ended: np.ndarray
    """(n,) bool on the host: no task ends by itself, so a time limit cut every episode that ended."""
    last_observations: Tensor
    """(n, d), before those resets."""


class WarpVecEnv(VecEnv):
    """Worlds of one dm_control task on a device, as a Stable-Baselines3 ``VecEnv``.

    :meth:`reset_tensors` and :meth:`step_tensors` stay on the device; ``reset`` and ``step`` copy to numpy. The random
    numbers of all worlds come from one generator on the device: with another ``n_envs`` or device, episodes differ.

    :param settings: with backend ``warp`` and a task of :data:`rlopt.envs.suite.tasks.TASKS`
    :raises rlopt.errors.ConfigError: the task or the device cannot be used, or mujoco_warp is missing
    """

    def __init__(self, settings: EnvSettings) -> None:
        import_warp()
        check_device(settings.device)
        self.settings = settings
        self.device = get_device(settings.device)
        if self.device.type not in ("cpu", "cuda"):
            raise ConfigError(f"backend 'warp' cannot simulate on {self.device.type}: use device='cpu' or 'cuda'")
        loaded = load_task(settings.id.removeprefix(DM_CONTROL_PREFIX), self.device)
        count = settings.n_envs
        self.physics = WarpPhysics(loaded, count, self.device)
        self.task = loaded.task
        self.physics.refresh()
        width = self.task.observe(self.physics.worlds).shape[1]
        super().__init__(
            count,
            spaces.Box(-np.inf, np.inf, (width,), np.float32),
            spaces.Box(loaded.low, loaded.high, dtype=np.float32),
        )
        self._generator = torch.Generator(self.device)
        self._limit = settings.max_episode_steps or DM_CONTROL_EPISODE_STEPS
        self._elapsed = np.zeros(count, np.int64)
        self._pending_seed: int | None = settings.seed
        self._started = False
        self._actions = np.zeros((count, len(loaded.low)), np.float32)

    # ---- on the device

    def reset_tensors(self) -> Tensor:
        """Begins an episode in every world; their first observations (n, d)."""
        if self._pending_seed is not None:
            self._generator.manual_seed(self._pending_seed)
            self._pending_seed = None
        self._started = True
        self._begin(np.ones(self.num_envs, bool))
        return self._observe()

    def step_tensors(self, actions: Tensor) -> DeviceStep:
        """Takes a step in every world, and begins a new episode where one has ended.

        :param actions: (n, A) float32 on the device, within the bounds of the action space
        """
        rewards = torch.zeros(self.num_envs, device=self.device)
        last = rewards[:, None]
        for _ in range(self.settings.action_repeat):
            running = self._elapsed < self._limit
            if not running.any():
                break
            self.physics.step(actions)
            self._elapsed += running
            goes_on = torch.from_numpy(running).to(self.device)
            rewards = torch.where(goes_on, rewards + self.task.reward(self.physics.worlds), rewards)
            last = torch.where(goes_on[:, None], self._observe(), last)
        ended = self._elapsed >= self._limit
        if not ended.any():
            return DeviceStep(last, rewards, ended, last)
        self._begin(ended)
        return DeviceStep(self._observe(), rewards, ended, last)

    def _observe(self) -> Tensor:
        observations: Tensor = self.task.observe(self.physics.worlds)
        return observations

    def _begin(self, chosen: np.ndarray) -> None:
        self.physics.start(torch.from_numpy(chosen).to(self.device), Draw(self._generator, self.num_envs))
        self._elapsed[chosen] = 0

    # ---- as a VecEnv

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds all worlds at the next ``reset``."""
        self._pending_seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else int(seed)
        return [self._pending_seed] * self.num_envs

    def reset(self) -> VecEnvObs:
        self._reset_seeds()
        self._reset_options()
        return self.reset_tensors().cpu().numpy()

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = guard_actions(actions, self.action_space, self.num_envs)

    def step_wait(self) -> VecEnvStepReturn:
        step = self.step_tensors(torch.from_numpy(self._actions).to(self.device))
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": bool(ended)} for ended in step.ended]
        if step.ended.any():
            last = step.last_observations.cpu().numpy()
            for index in np.flatnonzero(step.ended).tolist():
                infos[index]["terminal_observation"] = last[index]
        return step.observations.cpu().numpy(), step.rewards.cpu().numpy(), step.ended, infos

    def get_state(self) -> dict[str, Any]:
        """Everything that the coming steps depend on."""
        arrays = {name: part.cpu().numpy().copy() for name, part in self.physics.kept.items()}
        return {
            "settings": self.settings.as_dict(),
            "device": self.device.type,
            "pending_seed": self._pending_seed,
            "started": self._started,
            "elapsed": self._elapsed.copy(),
            "generator": self._generator.get_state().numpy().copy(),
            "worlds": arrays,
            "goal": self.physics.goal.cpu().numpy().copy(),
            "observations": self._observe().cpu().numpy(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Brings the worlds to ``state``; on the CPU the next steps are bit for bit those that would have followed.

        :raises StateUnavailableError: when the state is of other settings or another kind of device, or does not give
            the saved observations
        """
        check_settings(state, self.settings)
        if state["device"] != self.device.type:
            raise StateUnavailableError(f"the state is of {state['device']}, this environment is on {self.device.type}")
        for name in KEPT:
            self.physics.kept[name].copy_(torch.from_numpy(state["worlds"][name]))
        self.physics.goal.copy_(torch.from_numpy(state["goal"]))
        self._generator.set_state(torch.from_numpy(state["generator"]))
        self._elapsed[:] = state["elapsed"]
        self._pending_seed, self._started = state["pending_seed"], state["started"]
        self.physics.refresh()
        if self._started and self._observe().cpu().numpy().tobytes() != state["observations"].tobytes():
            raise StateUnavailableError(
                "the restored worlds are observed otherwise (another version of mujoco_warp?): "
                "the episodes cannot be continued exactly"
            )

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute of this object, once per world: worlds are rows of tensors."""
        value = None if attr_name == "render_mode" else getattr(self, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        raise ConfigError(f"worlds on a device have no attribute {attr_name!r} to set: use backend='gymnasium'")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        raise ConfigError(f"worlds on a device have no method {method_name!r}: use backend='gymnasium'")

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]
