"""Videos: frames, speed, format; drawing MuJoCo where a GL library is."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled
from stable_baselines3.common.vec_env import DummyVecEnv

import rlopt.cli.render
import rlopt.evaluation.video
from rlopt.envs.rendering import available_gl
from rlopt.envs.settings import EnvSettings
from rlopt.errors import ConfigError, EnvFaultError
from rlopt.evaluation.evaluate import RandomPolicy
from rlopt.evaluation.video import film, record_video


class Painted(gym.Env):
    """Draws its episode in red and its step in green."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)
    render_mode = "rgb_array"

    def __init__(self, length: int = 4) -> None:
        self.length, self.episode, self.count = length, -1, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.count = self.episode + 1, 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return np.zeros(1, np.float32), 1.0, self.count >= self.length, False, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        image = np.zeros((64, 48, 3), np.uint8)
        image[:, :, 0], image[:, :, 1] = 50 * self.episode, 10 * (self.count % 25)
        return image


def read(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """The video's description and its frames [n, H, W, 3]."""
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    width, height = about["size"]
    return about, np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


def test_each_step_of_each_episode_is_a_frame(tmp_path: Path) -> None:
    video = film(RandomPolicy(Painted.action_space), DummyVecEnv([Painted]), tmp_path / "v.mp4", fps=20, episodes=2)
    about, frames = read(video.path)
    # first observation and three steps of each episode: after the fourth step the next episode is drawn instead
    assert video.frames == len(frames) == 8
    assert about["codec"] == "h264"
    assert about["pix_fmt"].startswith("yuv420p")
    assert about["fps"] == video.fps == 20
    assert about["size"] == (48, 64)
    assert video.result.returns.tolist() == [4.0, 4.0]
    red, green = frames[:, 32, 24, 0].astype(int), frames[:, 32, 24, 1].astype(int)
    assert np.abs(red - [0, 0, 0, 0, 50, 50, 50, 50]).max() < 12  # compression and colour conversion
    assert np.abs(green - [0, 10, 20, 30, 0, 10, 20, 30]).max() < 12
    assert [entry.name for entry in tmp_path.iterdir()] == ["v.mp4"]


def test_fast_simulations_are_thinned_and_keep_their_speed(tmp_path: Path) -> None:
    env = DummyVecEnv([lambda: Painted(length=125)])
    video = film(RandomPolicy(Painted.action_space), env, tmp_path / "v.mp4", fps=125)
    assert video.fps == pytest.approx(125 / 3)
    assert video.frames == 42  # steps 0, 3, ..., 123
    about, frames = read(video.path)
    assert about["duration"] == pytest.approx(1.0, abs=0.05)
    assert len(frames) == 42


def test_odd_sizes_can_be_played(tmp_path: Path) -> None:
    class Odd(Painted):
        def render(self) -> np.ndarray:  # type: ignore[override]
            return np.zeros((33, 51, 3), np.uint8)

    video = film(RandomPolicy(Painted.action_space), DummyVecEnv([Odd]), tmp_path / "v.mp4", fps=30)
    about, _ = read(video.path)
    assert all(side % 2 == 0 for side in about["size"])


def test_nothing_is_left_when_drawing_fails(tmp_path: Path) -> None:
    class Blind(Painted):
        def render(self) -> None:  # type: ignore[override]
            return None

    class Broken(Painted):
        def render(self) -> np.ndarray:  # type: ignore[override]
            if self.count == 2:
                raise ValueError("lens cap")
            return super().render()

    with pytest.raises(ConfigError, match="rgb_array"):
        film(RandomPolicy(Painted.action_space), DummyVecEnv([Blind]), tmp_path / "v.mp4", fps=30)
    with pytest.raises(EnvFaultError, match=r"the environment failed in render\(\): ValueError: lens cap"):
        film(RandomPolicy(Painted.action_space), DummyVecEnv([Broken]), tmp_path / "v.mp4", fps=30)
    with pytest.raises(ConfigError, match=r"\.mp4"):
        film(RandomPolicy(Painted.action_space), DummyVecEnv([Painted]), tmp_path / "v.gif", fps=30)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        film(RandomPolicy(Painted.action_space), DummyVecEnv([Painted]), tmp_path / "file" / "v.mp4", fps=30)


DRAW = """
import sys
from rlopt.envs.settings import EnvSettings
from rlopt.envs.make import make_env
from rlopt.evaluation.evaluate import RandomPolicy
from rlopt.evaluation.video import record_video
settings = EnvSettings(sys.argv[1], max_episode_steps=6, action_repeat=int(sys.argv[3]))
policy = RandomPolicy(make_env(sys.argv[1]).action_space)
video = record_video(policy, settings, sys.argv[2])
print(video.frames, video.fps)
"""


@pytest.mark.gl
@pytest.mark.skipif(available_gl() is None, reason="no headless OpenGL library (libegl1 libopengl0 libgl1-mesa-dri)")
@pytest.mark.parametrize(
    ("env_id", "repeat", "frames", "fps"),
    [
        ("HalfCheetah-v5", 1, 6, 20.0),  # dt 0.05 s
        ("Hopper-v5", 1, 2, 125 / 3),  # dt 0.008 s, every third step
        ("dm_control/cheetah-run", 2, 3, 50.0),  # 0.01 s, two to an action
    ],
)
def test_mujoco_is_drawn_at_the_simulations_speed(
    tmp_path: Path, env_id: str, repeat: int, frames: int, fps: float
) -> None:
    command = [sys.executable, "-c", DRAW, env_id, str(tmp_path / "v.mp4"), str(repeat)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(frames), str(fps)]
    _, images = read(tmp_path / "v.mp4")
    assert images.std() > 10  # something is in the picture


FOLLOW = """
from rlopt.envs.settings import EnvSettings
from rlopt.evaluation.video import make_to_draw
env = make_to_draw(EnvSettings("HalfCheetah-v5", render_mode="rgb_array"))
env.reset()
for x in (0.0, 30.0):
    body = env.envs[0].unwrapped
    position = body.data.qpos.copy()
    position[0] = x
    body.set_state(position, body.data.qvel.copy())
    image = env.get_images()[0].astype(int)
    print(int((image[..., 0] - image[..., 2] > 40).sum()))
"""


@pytest.mark.gl
@pytest.mark.skipif(available_gl() is None, reason="no headless OpenGL library (libegl1 libopengl0 libgl1-mesa-dri)")
def test_the_camera_follows_a_body_that_runs_away() -> None:
    done = subprocess.run([sys.executable, "-c", FOLLOW], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    at_start, far_away = map(int, done.stdout.split())  # pixels of skin: the floor is grey
    assert at_start > 1000
    assert far_away > 0.7 * at_start


def without_context() -> NoReturn:
    """As PyOpenGL fails where no driver is."""
    exec("def current():\n    raise RuntimeError('no context')\ncurrent()", {"__name__": "OpenGL.platform"})


def without_package() -> NoReturn:
    raise DependencyNotInstalled("pygame is not installed, run `pip install pygame`")


@pytest.mark.parametrize(
    ("render", "error", "said", "packages"),
    [
        (without_package, ConfigError, r"drawing failed .* `pip install pygame`", False),
        (lambda: gym.Env.render(Painted()), ConfigError, r"cannot be drawn: give it a render\(\) for", False),
        (without_context, ConfigError, r"drawing failed \(RuntimeError: no context\)", True),
        (
            lambda: Path("/no/texture.png").read_bytes(),
            EnvFaultError,
            r"failed in render\(\): FileNotFoundError: .*texture.png",
            False,
        ),
        (lambda: np.zeros((8, 8, 3)), EnvFaultError, r"image of float64 .* in render\(\): make it uint8", False),
        (lambda: np.zeros((8, 8), np.uint8), EnvFaultError, r"shape \(8, 8\) in render\(\)", False),
    ],
)
def test_gl_is_named_only_where_it_is_to_blame(
    tmp_path: Path, render: Any, error: type[Exception], said: str, packages: bool
) -> None:
    class Drawing(Painted):
        def render(self) -> Any:  # type: ignore[override]
            return render()

    with pytest.raises(error, match=said) as caught:
        film(RandomPolicy(Painted.action_space), DummyVecEnv([Drawing]), tmp_path / "v.mp4", fps=30)
    assert ("apt-get" in str(caught.value)) is packages and "\n" not in str(caught.value)


def test_errors_of_the_drawing_process_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that fails while the environment is made; what the environment raised has its traceback above."""

    def fail(argv: list[str]) -> NoReturn:
        if argv:
            raise EnvFaultError("Own-v0 failed in render(): KeyError: 'cape'") from KeyError("cape")
        without_context()

    monkeypatch.setattr(rlopt.cli.render, "main", fail)
    assert rlopt.cli.render._run([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "drawing failed (RuntimeError: no context); apt-get" in line
    assert rlopt.cli.render._run(["x"]) == 2
    *trace, line = capsys.readouterr().err.splitlines()
    assert line.endswith("Own-v0 failed in render(): KeyError: 'cape'") and trace == ["KeyError: 'cape'"]


def test_without_a_gl_library_the_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rlopt.envs import rendering

    monkeypatch.setattr(rendering, "available_gl", lambda: None)
    monkeypatch.setenv("MUJOCO_GL", "disable")
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(ConfigError) as caught:
        record_video(RandomPolicy(spaces.Box(-1, 1, (6,))), EnvSettings("HalfCheetah-v5"), tmp_path / "v.mp4")
    assert re.search("apt-get install libegl1 libopengl0 libgl1-mesa-dri .*libosmesa6", str(caught.value))
    assert "\n" not in str(caught.value)
