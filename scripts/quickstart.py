"""Trains on-policy MDPO on a MuJoCo task until it visibly works, evaluates it and says where everything lies.

`make quickstart` calls it. Other options of `rlopt train mdpo` can be added: `scripts/quickstart.py --seed 3`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from rlopt import evaluate, make_env
from rlopt.cli.main import main as rlopt
from rlopt.envs.rendering import available_gl
from rlopt.evaluation.evaluate import EvaluationResult, RandomPolicy

AGENT = "mdpo"
PRESET = "mujoco/half_cheetah"
TOTAL_TIMESTEPS = 500_000
EVALUATIONS = 5
EPISODES = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default=PRESET, help=f"settings to train with (default {PRESET})")
    parser.add_argument("--total-timesteps", type=int, default=TOTAL_TIMESTEPS, help="environment steps")
    parser.add_argument("--run-dir", type=Path, help="run folder (default runs/quickstart-<UTC time>)")
    parser.add_argument("--no-video", action="store_true", help="draw no video, even where a GL library is")
    options, further = parser.parse_known_args()
    run = options.run_dir or Path("runs") / f"quickstart-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"

    train = ["train", AGENT, "--preset", options.preset, "--total-timesteps", str(options.total_timesteps)]
    train += ["--eval-every", str(-(-options.total_timesteps // EVALUATIONS)), "--run-dir", str(run), *further]
    started = time.perf_counter()
    code = call(train)
    seconds = time.perf_counter() - started
    if code:
        return code
    video = available_gl() is not None and not options.no_video
    if not video:
        print("(no video: rlopt doctor names the packages that a headless OpenGL library comes in)")
    call(["evaluate", str(run), "--episodes", str(EPISODES), *(["--video"] if video else [])])
    call(["plot", str(run)])
    return report(run, seconds)


def call(arguments: list[str]) -> int:
    """Runs the `rlopt` command, showing it as one would type it."""
    print(f"\n$ rlopt {shlex.join(arguments)}", flush=True)
    return rlopt(arguments)


def report(run: Path, seconds: float) -> int:
    """Prints the summary; returns 1 if the trained policy is not clearly better than a random one."""
    trained: dict[str, Any] = json.loads((run / "evaluation.json").read_text())
    low, high = trained["interval"]
    chance = random_returns(trained["env_settings"])
    speed = trained["step"] / seconds
    print(f"\n{trained['agent']} on {trained['env']}, {trained['step']:,} steps in {seconds:.0f} s")
    print(f"  trained policy   return {trained['iqm']:8.1f}  [{low:.1f}, {high:.1f}]")
    print(f"  random policy    return {chance.iqm:8.1f}  [{chance.interval.low:.1f}, {chance.interval.high:.1f}]")
    print(f"                   interquartile mean of {EPISODES} episodes, 95% bootstrap interval")
    print(f"  speed            {speed:,.0f} env steps/s, training and its evaluations together")
    print(f"  run folder       {run}")
    for name, file in (("learning curve", "learning_curve.png"), ("video", "video.mp4")):
        if (run / file).is_file():
            print(f"  {name:<17}{run / file}")
    if low <= chance.interval.high:
        print("quickstart: the trained policy is not clearly better than a random one", file=sys.stderr)
        return 1
    return 0


def random_returns(settings: dict[str, Any]) -> EvaluationResult:
    """The returns of a random policy in the environment that was trained in."""
    probe = make_env(**{**settings, "n_envs": 1})
    policy = RandomPolicy(probe.action_space)
    probe.close()
    names = ("action_repeat", "frame_stack", "max_episode_steps", "env_kwargs")
    return evaluate(policy, settings["id"], EPISODES, **{name: settings[name] for name in names})


if __name__ == "__main__":
    sys.exit(main())
