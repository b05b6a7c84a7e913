"""Videos of a policy: H.264 (yuv420p, so that every browser plays it), drawn without a display."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from rlopt.envs.rendering import drawn_image
from rlopt.envs.settings import EnvSettings
from rlopt.errors import ConfigError
from rlopt.evaluation.evaluate import EvaluationResult, Predictor
from rlopt.evaluation.mp4 import write_mp4

MAX_FPS = 60.0


@dataclass(frozen=True)
class Video:
    """A video that was written."""

    path: Path
    frames: int
    fps: float
    """Frames per second of simulated time: the video plays at the speed of the simulation."""
    result: EvaluationResult
    """The episodes that it shows."""


def record_video(
    model: Predictor,
    settings: EnvSettings,
    path: str | Path,
    *,
    episodes: int = 1,
    deterministic: bool = True,
    seed: int = 0,
) -> Video:
    """Plays whole episodes and writes them, one after the other, as an MP4 that runs at the simulation's speed.

    MuJoCo is drawn without shadows and anti-aliasing, which takes a CPU a sixth of the time.

    :param model: as for :func:`rlopt.evaluate`
    :param settings: settings of the environment; one copy of it is made on the gymnasium backend
    :param path: the file, ``.mp4``, written whole or not at all
    :param episodes: at least 1
    :raises ConfigError: if there is no OpenGL library (with the packages to install), no ffmpeg, or nothing to draw
    :raises SpaceError: if the spaces of model and environment differ
    """
    settings = replace(settings, n_envs=1, seed=seed, backend="gymnasium", render_mode="rgb_array")
    env = make_to_draw(settings)
    try:
        fps = frame_rate(env) / settings.action_repeat
        return film(model, env, path, fps=fps, episodes=episodes, deterministic=deterministic, seed=seed)
    finally:
        env.close()


def film(
    model: Predictor,
    env: VecEnv,
    path: str | Path,
    *,
    fps: float,
    episodes: int = 1,
    deterministic: bool = True,
    seed: int = 0,
) -> Video:
    """As :func:`record_video`, in a VecEnv with one environment that draws images.

    :param fps: steps per second of simulated time; above 60, only every second (third, ...) step is shown
    :raises rlopt.errors.ConfigError: for a path that does not end in .mp4, or nothing to draw
    :raises rlopt.errors.EnvFaultError: an error of the environment's own ``render``
    """
    from rlopt.evaluation.evaluate import evaluate

    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise ConfigError(f"{path}: videos are written as .mp4")
    stride = max(1, math.ceil(fps / MAX_FPS))
    with write_mp4(path, fps / stride) as writer:
        filmed = _Filmed(env, writer, stride, episodes)
        result = evaluate(model, filmed, episodes, deterministic=deterministic, seed=seed)
    return Video(path, filmed.frames, fps / stride, result)


def make_to_draw(settings: EnvSettings) -> VecEnv:
    """MuJoCo without shadows, which on a CPU draws several times faster, unless the agent itself sees the images."""
    from rlopt.envs.make import make_env

    if settings.from_pixels:
        return make_env(**settings.as_dict())
    try:
        env = make_env(**replace(settings, fast_render=True).as_dict())
    except ConfigError:  # not MuJoCo
        return make_env(**settings.as_dict())
    # Gymnasium's own choice is a camera that stays behind when the body runs away; the tasks' first camera follows it.
    for single in env.get_attr("unwrapped"):
        renderer = getattr(single, "mujoco_renderer", None)
        if renderer is not None and single.model.ncam > settings.camera_id and renderer.camera_id == -1:
            renderer.camera_id = settings.camera_id
    return env


class _Filmed(VecEnvWrapper):
    """Hands every ``stride``-th image of a single environment to a writer, until ``episodes`` have ended.

    At the end of an episode the environment is already reset, so the image then is the first one of the next episode.
    """

    def __init__(self, env: VecEnv, writer: Any, stride: int, episodes: int) -> None:
        super().__init__(env)
        self.frames, self._writer, self._stride, self._left, self._step = 0, writer, stride, episodes, 0
        self._name = str(getattr(getattr(env, "settings", None), "id", "the environment"))

    def reset(self) -> Any:
        observation = self.venv.reset()
        self._film()
        return observation

    def step_wait(self) -> Any:
        observation, rewards, dones, infos = self.venv.step_wait()
        self._step = 0 if dones[0] else self._step + 1
        self._left -= int(dones[0])
        if self._left > 0 and self._step % self._stride == 0:
            self._film()
        return observation, rewards, dones, infos

    def _film(self) -> None:
        self._writer(drawn_image(self.venv, self._name))
        self.frames += 1


def frame_rate(env: VecEnv) -> float:
    """Environment steps per second of simulated time, 30 where the environment does not say."""
    metadata = env.get_attr("metadata")[0] or {}
    return float(metadata.get("render_fps") or 30)
