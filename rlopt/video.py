"""Videos of a policy: H.264 (yuv420p, so that every browser plays it), drawn without a display.

``python -m rlopt.video CHECKPOINT --out FILE.mp4`` renders in a process of its own, because the OpenGL library has to
be chosen before MuJoCo is imported.
"""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from rlopt.errors import ConfigError, RloptError
from rlopt.mp4 import write_mp4

if TYPE_CHECKING:
    from rlopt.envs.settings import EnvSettings
    from rlopt.evaluation import EvaluationResult, Predictor

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
    :param settings: of the environment; one copy of it is made on the gymnasium backend
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
    :raises rlopt.errors.ConfigError: for a path that does not end in .mp4
    """
    from rlopt.evaluation import evaluate

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
        image = self.venv.get_images()[0]
        if image is None:
            raise ConfigError("the environment draws no images: it has no render mode rgb_array")
        self._writer(np.ascontiguousarray(image, dtype=np.uint8))
        self.frames += 1


def frame_rate(env: VecEnv) -> float:
    """Environment steps per second of simulated time, 30 where the environment does not say."""
    metadata = env.get_attr("metadata")[0] or {}
    return float(metadata.get("render_fps") or 30)


def render_in_process(checkpoint: Path, out: Path, *options: str) -> str:
    """Runs ``python -m rlopt.video`` on a checkpoint and returns what it printed.

    :param options: further flags of that command
    :raises ConfigError: with its one-line reason, such as the packages that a missing OpenGL library comes in
    """
    command = [sys.executable, "-m", "rlopt.video", str(checkpoint), "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
        marked = [line for line in lines if line.startswith(_MARK)]
        raise ConfigError("no video: " + (marked or lines)[-1].removeprefix(_MARK))
    return done.stdout.strip()


_MARK = "rlopt.video: error: "


def main(argv: list[str]) -> int:
    """Draws episodes of a checkpoint; prints the path of the video."""
    from rlopt.cli.parsing import OneLineParser, add_agent, import_named_agent, json_object, number
    from rlopt.config import JsonObject, Range

    parser = OneLineParser(prog="python -m rlopt.video", description="Draw episodes of a checkpoint as an MP4.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="checkpoint folder")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the video, .mp4")
    parser.add_argument("--env", metavar="ID", help="another environment than the checkpoint's")
    parser.add_argument(
        "--env-kwargs", metavar="JSON", help=f"other arguments of the environment, such as '{JsonObject.example}'"
    )
    parser.add_argument("--episodes", metavar="N", default="1", help="episodes to draw (default 1)")
    parser.add_argument("--seed", metavar="N", default="0", help="of the environment (default 0)")
    parser.add_argument("--stochastic", action="store_true", help="sample actions instead of taking the most likely")
    parser.add_argument("--device", metavar="DEVICE", default="cpu", help="torch device (default cpu)")
    add_agent(parser)
    arguments = parser.parse(argv)
    import_named_agent(arguments)
    episodes = number("--episodes", arguments.episodes, int, Range(ge=1))
    seed = number("--seed", arguments.seed, int, Range(ge=0, lt=2**31))

    from rlopt.checkpoint import read_checkpoint
    from rlopt.checkpoint_choice import environment_settings
    from rlopt.loading import load

    metadata = read_checkpoint(arguments.checkpoint, only=()).metadata
    env_kwargs = json_object("--env-kwargs", arguments.env_kwargs)
    settings = environment_settings(metadata, arguments.env, env_kwargs)
    model: Any = load(arguments.checkpoint, device=arguments.device)
    video = record_video(
        model, settings, arguments.out, episodes=episodes, seed=seed, deterministic=not arguments.stochastic
    )
    returns = ", ".join(f"{value:.1f}" for value in video.result.returns)
    print(f"{video.path} ({video.frames} frames, {video.fps:g} per second, return {returns})")
    return 0


def _run(argv: list[str]) -> int:
    try:
        return main(argv)
    except RloptError as error:
        print(f"{_MARK}{' '.join(str(error).split())}", file=sys.stderr)
    except NotImplementedError:
        print(f"{_MARK}the environment cannot be drawn: give it a render() for rgb_array", file=sys.stderr)
    except Exception as error:  # drawing fails in many ways where a GL library is there but does not work
        from gymnasium.error import DependencyNotInstalled

        from rlopt.envs.rendering import APT_EGL, APT_OSMESA

        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        # A package that Gymnasium misses, such as pygame, is named by the error itself.
        cure = "" if isinstance(error, DependencyNotInstalled) else f"; apt-get install {APT_EGL}, or {APT_OSMESA}"
        print(f"{_MARK}drawing failed ({reason}){cure}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(_run(sys.argv[1:]))
