"""``rlopt demos record RUN``"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlopt.cli.parsing import OneLineParser, add_agent, import_named_agent, number
from rlopt.config import Range
from rlopt.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rlopt.envs.settings import EnvSettings


def main(argv: list[str]) -> int:
    """Records demonstrations and writes them; returns 0."""
    from rlopt.cli.demos_convert import format_of, write

    arguments = _parser().parse(argv)
    import_named_agent(arguments)
    count = number("--n-trajectories", arguments.n_trajectories, int, Range(ge=1, le=10**6))
    seed = number("--seed", arguments.seed, int, Range(ge=0, lt=2**31))
    form = format_of(arguments.out, arguments.to)
    if not arguments.out.startswith("minari:") and os.path.lexists(arguments.out) and not arguments.overwrite:
        raise DataError(f"{arguments.out} exists: choose another --out, or give --overwrite")

    from rlopt.data import record_demonstrations

    model, settings, who = _expert(arguments)
    start = time.perf_counter()
    data = record_demonstrations(
        model,
        settings,
        count,
        deterministic=not arguments.sampled,
        seed=seed,
        pixels=arguments.pixels,
        generator=who,
    )
    seconds = time.perf_counter() - start
    written = write(data, arguments.out, form, arguments.overwrite)
    print(
        f"{data.n_trajectories} trajectories, {len(data):,} transitions of {settings.id}, action repeat "
        f"{settings.action_repeat}, mean return {data.metadata.expert_return:.1f}, {seconds:.1f} s: {written}"
    )
    return 0


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="rlopt demos record",
        description="Record whole episodes of a trained agent as demonstrations, one after the other.",
    )
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="run folder, checkpoint, or a zip file of Stable-Baselines3")
    add("--out", metavar="PATH", required=True, help="a folder, an .npz file (imitation's layout), or minari:<id>")
    add("--to", metavar="FORMAT", help="as rlopt demos convert --to")
    add("--n-trajectories", metavar="N", default="10", help="whole episodes to record (default 10)")
    add("--sampled", action="store_true", help="sample actions instead of taking the mean (most likely) ones")
    add(
        "--pixels", action="store_true", help="record images of the same steps besides; needs a headless OpenGL library"
    )
    add("--image-size", metavar="N", help="height and width of the images (default 84)")
    add("--camera-id", metavar="N", help="MuJoCo camera of the images (default 0)")
    add("--fast-render", action="store_true", help="images without shadows and anti-aliasing: faster on a CPU, but not "
        "the benchmark's")  # fmt: skip
    add("--seed", metavar="N", default="0", help="of the environment and of sampling (default 0)")
    add("--checkpoint", metavar="WHICH", help="best, latest, or a checkpoint's name (default best, if the run was "
        "evaluated, else latest)")  # fmt: skip
    add("--env", metavar="ID", help="environment; needed for a zip file, which does not say it")
    add("--action-repeat", metavar="N", help="of the environment of a zip file (default 1)")
    add("--device", metavar="DEVICE", default="cpu", help="torch device (default cpu)")
    add_agent(parser)
    add("--overwrite", action="store_true", help="replace what is at --out")
    return parser


def _expert(arguments: Any) -> tuple[Any, EnvSettings, str]:
    """The model, its environment's settings and who it is, for people."""
    import dataclasses

    repeat = number("--action-repeat", arguments.action_repeat, int, Range(ge=1, le=100))
    size = number("--image-size", arguments.image_size, int, Range(ge=8, le=1024))
    camera = number("--camera-id", arguments.camera_id, int, Range(ge=-1, le=1000))
    given = {"image_size": size, "camera_id": camera}
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if arguments.fast_render:
        changed["fast_render"] = True
    if changed and not arguments.pixels:
        raise ConfigError("--image-size, --camera-id and --fast-render are of the images: add --pixels")
    if arguments.run.suffix == ".zip" and arguments.run.is_file():
        model, settings = _from_zip(arguments.run, arguments.env, repeat or 1, arguments.device)
        return model, dataclasses.replace(settings, **changed), f"the policy in {arguments.run.name}"
    if repeat is not None:
        raise ConfigError("--action-repeat is for zip files: a run says its own")

    from rlopt.checkpoint_choice import choose_checkpoint, environment_settings, run_folder_of
    from rlopt.loading import load

    which = arguments.checkpoint or ("best" if (arguments.run / "best.json").is_file() else "latest")
    checkpoint = choose_checkpoint(arguments.run, which, lambda line: print(f"warning: {line}"))
    settings = environment_settings(checkpoint.metadata, arguments.env)
    agent = checkpoint.metadata.get("agent") or "an agent"
    who = f"{agent} after {checkpoint.step:,} steps, run {run_folder_of(checkpoint.path).resolve().name}"
    return load(checkpoint.path, device=arguments.device), dataclasses.replace(settings, **changed), who


def _from_zip(path: Path, env_id: str | None, repeat: int, device: str) -> tuple[Any, EnvSettings]:
    if env_id is None:
        raise ConfigError(f"{path} does not say which environment it was trained in: add --env ID")
    from rlopt.devices import check_device
    from rlopt.envs.make import make_env
    from rlopt.envs.settings import EnvSettings
    from rlopt.sb3_zip import read_policy

    check_device(device)
    settings = EnvSettings(id=env_id, action_repeat=repeat, backend="gymnasium")
    env = make_env(**settings.as_dict())
    env.close()
    return read_policy(path, env.observation_space, env.action_space, device), settings
