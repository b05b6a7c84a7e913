"""``python -m rlopt.cli.render CHECKPOINT --out FILE.mp4``: a video, drawn in a separate process.

The OpenGL library has to be chosen before MuJoCo is imported.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

from rlopt.errors import ConfigError, RloptError, environment_traceback
from rlopt.evaluation.video import record_video


def render_in_process(checkpoint: Path, out: Path, *options: str) -> str:
    """Runs ``python -m rlopt.cli.render`` on a checkpoint and returns what it printed.

    :param options: further flags of that command
    :raises ConfigError: with its one-line reason, such as the packages that a missing OpenGL library comes in
    """
    command = [sys.executable, "-m", "rlopt.cli.render", str(checkpoint), "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
        marked = [line for line in lines if line.startswith(_MARK)]
        if lines[0].startswith("Traceback") and marked:  # what the environment raised
            print("\n".join(lines[: lines.index(marked[-1])]), file=sys.stderr)
        raise ConfigError("no video: " + (marked or lines)[-1].removeprefix(_MARK))
    return done.stdout.strip()


_MARK = "rlopt.cli.render: error: "


def main(argv: list[str]) -> int:
    """Draws episodes of a checkpoint; prints the path of the video."""
    from rlopt.cli.parsing import OneLineParser, add_agent, import_named_agent, json_object
    from rlopt.settings.fields import JsonObject, Range

    parser = OneLineParser(prog="python -m rlopt.cli.render", description="Draw episodes of a checkpoint as an MP4.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="checkpoint folder")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the video, .mp4")
    parser.add_argument("--env", metavar="ID", help="a different environment from the checkpoint's")
    parser.add_argument(
        "--env-kwargs", metavar="JSON", help=f"other arguments of the environment, such as '{JsonObject.example}'"
    )
    parser.add_number("--max-episode-steps", Range(ge=1, le=10**9), help="a different time limit of the episodes")
    parser.add_number("--episodes", Range(ge=1), default=1, help="episodes to draw (default 1)")
    parser.add_number("--seed", Range(ge=0, lt=2**31), default=0, help="seed of the environment (default 0)")
    parser.add_argument("--stochastic", action="store_true", help="sample actions instead of taking the most likely")
    parser.add_argument("--device", metavar="DEVICE", default="cpu", help="torch device (default cpu)")
    add_agent(parser)
    arguments = parser.parse(argv)
    import_named_agent(arguments)

    from rlopt.checkpoint.choose import environment_settings
    from rlopt.checkpoint.files import read_checkpoint
    from rlopt.checkpoint.load import load

    metadata = read_checkpoint(arguments.checkpoint, only=()).metadata
    env_kwargs = json_object("--env-kwargs", arguments.env_kwargs)
    settings = environment_settings(metadata, arguments.env, env_kwargs, arguments.max_episode_steps)
    model: Any = load(arguments.checkpoint, device=arguments.device)
    episodes, seed, mean = arguments.episodes, arguments.seed, not arguments.stochastic
    video = record_video(model, settings, arguments.out, episodes=episodes, seed=seed, deterministic=mean)
    returns = ", ".join(f"{value:.1f}" for value in video.result.returns)
    print(f"{video.path} ({video.frames} frames, {video.fps:g} per second, return {returns})")
    return 0


def _run(argv: list[str]) -> int:
    try:
        return main(argv)
    except RloptError as error:
        if trace := environment_traceback(error):
            print(trace, file=sys.stderr)
        print(f"{_MARK}{' '.join(str(error).split())}", file=sys.stderr)
    except Exception as error:  # a GL library that is there but does not work fails in many places
        from rlopt.envs.rendering import lack_of_drawing

        if not (lack := lack_of_drawing(error)):
            raise
        print(f"{_MARK}{lack}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(_run(sys.argv[1:]))
