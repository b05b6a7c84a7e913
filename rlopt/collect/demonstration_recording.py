"""Demonstrations of an acting policy: whole episodes, states and images of the same steps."""

import dataclasses
from collections.abc import Callable
from importlib import metadata as installed
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from rlopt.data.dataset import Observations
from rlopt.data.demonstrations import Demonstrations
from rlopt.data.environment import recorded
from rlopt.data.metadata import UNKNOWN_ENV, DemonstrationMetadata
from rlopt.envs.make import make_env, make_state_and_pixels
from rlopt.envs.observation_order import observation_keys
from rlopt.envs.settings import EnvSettings
from rlopt.errors import ConfigError
from rlopt.evaluation.evaluate import Predictor, evaluate

_PACKAGES = ("rlopt", "stable-baselines3", "gymnasium", "mujoco", "dm-control", "numpy", "torch")


class Controller:
    """A function of one observation as a model: ``predict`` takes a batch.

    :param act: from an observation, as the environment gives it, to an action of its space
    """

    def __init__(self, act: Callable[[Any], Any]) -> None:
        self.act = act

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """The actions (N, ...) for N observations, and no state."""
        count = len(next(iter(observation.values())) if isinstance(observation, dict) else observation)
        rows = [_row(observation, index) for index in range(count)]
        return np.stack([np.asarray(self.act(row)) for row in rows]), None


def record_demonstrations(
    model: Predictor | Callable[[Any], Any],
    env: EnvSettings | str | gymnasium.Env[Any, Any] | VecEnv,
    n_trajectories: int,
    *,
    deterministic: bool = True,
    seed: int = 0,
    pixels: bool = False,
    generator: str = "",
) -> Demonstrations:
    """``n_trajectories`` whole episodes of ``model``, one after the other.

    The model acts as in training, with its observation normalisation and gSDE. The record holds raw observations and
    rewards, and actions within their bounds. The model and the global random states are left as they were. The same
    seed gives the same episodes, with and without images.

    :param model: any Stable-Baselines3 model, what :func:`rlopt.load` returns, anything with their ``predict``, or a
        function from one observation to one action
    :param env: settings or id of the environment, of which one copy is made on the gymnasium backend; or an existing
        environment (a VecEnv of one), which is left open
    :param deterministic: the mean (most likely) actions instead of sampled ones
    :param seed: seed of the environment and of sampling
    :param pixels: also record what the environment with ``from_pixels`` would show: columns ``pixels`` and
        ``next_pixels`` uint8 (N, 3, image_size, image_size) among the extras; slower, about 42 kB a step at 84 pixels
    :param generator: who acted, for people
    :raises rlopt.errors.ConfigError: rendering is impossible (names the packages to install), pixels are requested for
        a model that sees pixels or a dictionary, or a number is below 1
    :raises rlopt.errors.SpaceError: the spaces of model and environment differ
    :raises rlopt.errors.NonFiniteError: the model's action, an observation or a reward is NaN or infinite
    """
    name = getattr(model, "__name__", type(model).__name__)
    if not hasattr(model, "predict"):
        if not callable(model):
            raise ConfigError(
                f"{name} has no predict and is not a function: give a model, or a function of observations"
            )
        model = Controller(model)
    if n_trajectories < 1:
        raise ConfigError(f"{n_trajectories} trajectories: give at least 1")
    given = isinstance(env, gymnasium.Env | VecEnv)
    if given and pixels:
        raise ConfigError("pixels need an environment id or EnvSettings, which are recreated with a camera")
    settings = _settings(env)
    if pixels and settings.from_pixels:
        raise ConfigError("this model observes pixels, which are recorded as its observations: leave --pixels out")
    settings = dataclasses.replace(settings, n_envs=1, seed=seed, backend="gymnasium", render_mode=None)
    if given:
        played: VecEnv = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])  # type: ignore[list-item,return-value]
        if played.num_envs != 1:
            raise ConfigError(
                f"{played.num_envs} environments are too many, because episodes are recorded one after "
                f"the other: give one"
            )
    else:
        played = make_state_and_pixels(settings) if pixels else make_env(**settings.as_dict())
    try:
        recorder = _Recorder(played, n_trajectories, pixels)
        result = evaluate(model, recorder, n_trajectories, deterministic=deterministic, seed=seed)
    finally:
        if not given:
            played.close()
    metadata = DemonstrationMetadata(
        **recorded(settings, recorder.observation_space, recorder.action_space),
        generator=generator or name,
        seed=seed,
        versions=_versions(),
        observation_keys=() if settings.id == UNKNOWN_ENV else observation_keys(settings),
        deterministic=deterministic,
        expert_return=result.mean,
        notes=("images drawn without shadows and anti-aliasing",) if pixels and settings.fast_render else (),
    )
    return recorder.demonstrations(metadata)


def _settings(env: Any) -> EnvSettings:
    """Those of an environment that :func:`rlopt.make_env` made; of any other its id, or that it has none."""
    if isinstance(env, EnvSettings):
        return env
    if isinstance(env, str):
        return EnvSettings(id=env)
    found = getattr(env, "settings", None)
    if isinstance(found, EnvSettings):
        return found
    spec = env.get_attr("spec")[0] if isinstance(env, VecEnv) and env.has_attr("spec") else getattr(env, "spec", None)
    return EnvSettings(id=UNKNOWN_ENV if spec is None else spec.id)


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = installed.version(name)
        except installed.PackageNotFoundError:
            continue
    return found


class _Recorder(VecEnvWrapper):
    """Keeps every step of a single environment until ``episodes`` have ended; shows the state where there are images.

    :param env: raw, made by :func:`rlopt.make_env`
    """

    def __init__(self, env: VecEnv, episodes: int, pixels: bool) -> None:
        space = env.observation_space
        seen = space["state"] if pixels and isinstance(space, spaces.Dict) else space
        super().__init__(env, observation_space=seen)
        self._pixels, self._left = pixels, episodes
        self._here: Any = None
        self._action: Any = None
        self._steps: list[tuple[Any, Any, np.ndarray, float, bool, bool]] = []

    def reset(self) -> Any:
        self._here = _row(self.venv.reset())
        return self._shown(self._here)

    def step_async(self, actions: np.ndarray) -> None:
        self._action = np.array(actions[0])
        super().step_async(actions)

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        following = _row(observations)
        if self._left > 0:
            done = bool(dones[0])
            successor = infos[0]["terminal_observation"] if done else following
            terminal = done and not infos[0].get("TimeLimit.truncated", False)
            self._steps.append((self._here, _copied(successor), self._action, float(rewards[0]), done, terminal))
            self._left -= int(done)
        self._here = following
        if self._pixels:
            infos = [
                {**info, "terminal_observation": info["terminal_observation"]["state"]} if done else info
                for info, done in zip(infos, dones, strict=True)
            ]
        return self._shown(following), rewards, dones, infos

    def _shown(self, row: Any) -> Any:
        """The batch of one that the model sees."""
        if self._pixels:
            return row["state"][None]
        return {key: part[None] for key, part in row.items()} if isinstance(row, dict) else row[None]

    def demonstrations(self, metadata: DemonstrationMetadata) -> Demonstrations:
        """What was kept."""
        here, following, actions, rewards, ends, terminals = zip(*self._steps, strict=True)
        observations, successors = _column(here), _column(following)
        extras: dict[str, np.ndarray] = {}
        if self._pixels and isinstance(observations, dict) and isinstance(successors, dict):
            # Of a stack of frames, oldest first, the last image is that of the step.
            extras = {"pixels": observations["pixels"][:, -3:], "next_pixels": successors["pixels"][:, -3:]}
            extras = {name: np.ascontiguousarray(column) for name, column in extras.items()}
            observations, successors = observations["state"], successors["state"]
        return Demonstrations(
            observations=observations,
            actions=_actions(np.stack(actions), self.action_space),
            rewards=np.array(rewards, np.float32),
            next_observations=successors,
            discounts=1 - np.array(terminals, np.float32),
            episode_ends=np.array(ends, bool),
            metadata=metadata,
            extras=extras,
        )


def _row(observations: Any, index: int = 0) -> Any:
    """The observation of one environment, by default the only one, copied."""
    if isinstance(observations, dict):
        return {key: np.array(part[index]) for key, part in observations.items()}
    return np.array(observations[index])


def _copied(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {key: np.array(part) for key, part in observation.items()}
    return np.array(observation)


def _column(rows: tuple[Any, ...]) -> Observations:
    if isinstance(rows[0], dict):
        return {key: _stacked([row[key] for row in rows]) for key in rows[0]}
    return _stacked(list(rows))


def _stacked(rows: list[np.ndarray]) -> np.ndarray:
    column = np.stack(rows)
    return column if column.dtype == np.uint8 else column.astype(np.int64 if column.dtype.kind in "iub" else np.float32)


def _actions(actions: np.ndarray, space: spaces.Space) -> np.ndarray:
    if isinstance(space, spaces.Box):
        return np.clip(actions, space.low, space.high).reshape(len(actions), -1).astype(np.float32)
    several = isinstance(space, spaces.MultiDiscrete)
    return (actions.reshape(len(actions), -1) if several else actions.reshape(len(actions))).astype(np.int64)
