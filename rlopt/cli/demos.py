"""``rlopt demos SUBVERB``: demonstrations of an expert, for imitation learners. Heavy imports wait for the work."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlopt.cli.data import DATASET_HELP, FORMAT_HELP, OUT_HELP, add_reading_options, format_of, reading_options, write
from rlopt.cli.parsing import OneLineParser, add_agent, import_named_agent, json_object, run, say_reading
from rlopt.errors import ConfigError, DataError
from rlopt.settings.fields import JsonObject, Range

if TYPE_CHECKING:
    from rlopt.envs.settings import EnvSettings


def main(argv: list[str]) -> int:
    """Runs one subverb; returns its exit code."""
    return run("demos", "Demonstrations of an expert, which imitation learners take with --demos.", SUBVERBS, argv)


def convert(argv: list[str]) -> int:
    """Converts demonstrations and prints where they were written; returns 0."""
    parser = OneLineParser(prog="rlopt demos convert", description="Write demonstrations in another format.")
    parser.add_argument("demos", metavar="IN", help=DATASET_HELP)
    parser.add_argument("out", metavar="OUT", help=OUT_HELP)
    parser.add_argument("--to", metavar="FORMAT", help=FORMAT_HELP)
    parser.add_argument("--reorder", action="store_true", help="put the parts of the observations in the "
        "environment's order (in rlopt, dm_control's own)")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace what is at OUT")
    add_reading_options(parser)
    arguments = parser.parse(argv)
    options = reading_options(arguments)
    form = format_of(arguments.out, arguments.to)
    say_reading("demos convert")

    from rlopt.data import load_demonstrations

    data = load_demonstrations(arguments.demos, **options)
    if arguments.reorder:
        from rlopt.envs.settings import EnvSettings

        _refuse_unknown("--reorder", data.metadata.env, arguments.env)
        data = data.reorder(EnvSettings(id=data.metadata.env))
    written = write(data, arguments.out, form, arguments.overwrite)
    for note in data.metadata.notes:
        print(f"note: {note}")
    print(f"{data.n_trajectories} trajectories, {len(data):,} transitions: {written}")
    return 0


def _refuse_unknown(option: str, env: str, given: str | None) -> None:
    from rlopt.data.metadata import UNKNOWN_ENV

    if env == UNKNOWN_ENV or (":" in env and given is None):
        # Reading somebody else's file must not run code, and an id with a colon imports a module.
        raise ConfigError(f"{option} needs to make the environment {env!r}: give --env ID")


def info(argv: list[str]) -> int:
    """Describes demonstrations; returns 0."""
    parser = OneLineParser(prog="rlopt demos info", description="Describe demonstrations.")
    parser.add_argument("demos", metavar="IN", help=DATASET_HELP)
    add_reading_options(parser)
    arguments = parser.parse(argv)
    options = reading_options(arguments)
    say_reading("demos info")

    from rlopt.data import load_demonstrations
    from rlopt.data.description import describe

    print(describe(load_demonstrations(arguments.demos, **options)))
    return 0


def record(argv: list[str]) -> int:
    """Records demonstrations and writes them; returns 0."""
    arguments = _recording_parser().parse(argv)
    import_named_agent(arguments)
    form = format_of(arguments.out, arguments.to)
    if not arguments.out.startswith("minari:") and os.path.lexists(arguments.out) and not arguments.overwrite:
        raise DataError(f"{arguments.out} exists: choose another --out, or give --overwrite")

    from rlopt.collect import record_demonstrations
    from rlopt.envs.calls import time_limit

    model, settings, who = _expert(arguments)
    start = time.perf_counter()
    with time_limit(arguments.env_timeout):
        data = record_demonstrations(
            model,
            settings,
            arguments.n_trajectories,
            deterministic=not arguments.sampled,
            seed=arguments.seed,
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


def _recording_parser() -> OneLineParser:
    parser = OneLineParser(
        prog="rlopt demos record",
        description="Record whole episodes of a trained agent as demonstrations, one after the other.",
    )
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="run folder, checkpoint, or a zip file of Stable-Baselines3")
    add("--out", metavar="PATH", required=True, help="a folder, an .npz file (imitation's layout), or minari:<id>")
    add("--to", metavar="FORMAT", help="format, as in rlopt demos convert --to")
    number = parser.add_number
    number("--n-trajectories", Range(ge=1, le=10**6), default=10, help="whole episodes to record (default 10)")
    add("--sampled", action="store_true", help="sample actions instead of taking the mean (most likely) ones")
    add("--pixels", action="store_true", help="also record images of the same steps; needs a headless OpenGL library")
    number("--image-size", Range(ge=8, le=1024), help="height and width of the images (default 84)")
    number("--camera-id", Range(ge=-1, le=1000), help="MuJoCo camera of the images (default 0)")
    add("--fast-render", action="store_true", help="images without shadows and anti-aliasing: faster on a CPU, but not "
        "the benchmark's")  # fmt: skip
    number("--seed", Range(ge=0, lt=2**31), default=0, help="seed of the environment and of sampling (default 0)")
    add("--checkpoint", metavar="WHICH", help="best, latest, or a checkpoint's name (default best, if the run was "
        "evaluated, else latest)")  # fmt: skip
    add("--env", metavar="ID", help="environment; needed for a zip file, which does not name it")
    add("--env-kwargs", metavar="JSON", help=f"other arguments of the environment, such as '{JsonObject.example}'")
    number("--max-episode-steps", Range(ge=1, le=10**9), help="a different time limit of the episodes")
    number("--action-repeat", Range(ge=1, le=100), help="action repeat of a zip file's environment (default 1)")
    add("--vecnormalize", metavar="FILE", help="for a zip file: the file of VecNormalize.save with the statistics of "
        "its observations; none if it was trained on the environment's own observations")  # fmt: skip
    add("--device", metavar="DEVICE", default="cpu", help="torch device (default cpu)")
    limit = "seconds that a step or reset of the environment may take (default: no limit)"
    number("--env-timeout", Range(gt=0), float, help=limit)
    add_agent(parser)
    add("--overwrite", action="store_true", help="replace what is at --out")
    return parser


def _expert(arguments: Any) -> tuple[Any, EnvSettings, str]:
    """The model, its environment's settings and who it is, for people."""
    repeat, given = arguments.action_repeat, {name: getattr(arguments, name) for name in ("image_size", "camera_id")}
    env_kwargs, limit = json_object("--env-kwargs", arguments.env_kwargs), arguments.max_episode_steps
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if arguments.fast_render:
        changed["fast_render"] = True
    if changed and not arguments.pixels:
        raise ConfigError("--image-size, --camera-id and --fast-render need images: add --pixels")
    if arguments.run.suffix == ".zip" and arguments.run.is_file():
        if arguments.env is None:
            raise ConfigError(f"{arguments.run} does not say which environment it was trained in: add --env ID")
        own = {"env_kwargs": env_kwargs, "max_episode_steps": limit, "action_repeat": repeat or 1}
        model, settings = _from_zip(arguments.run, arguments.env, own, arguments.device, arguments.vecnormalize)
        return model, dataclasses.replace(settings, **changed), f"the policy in {arguments.run.name}"
    if repeat is not None:
        raise ConfigError("--action-repeat is for zip files: a run says its own")
    if arguments.vecnormalize is not None:
        raise ConfigError("--vecnormalize is for zip files: a run has its own statistics")

    from rlopt.checkpoint.choose import choose_checkpoint, environment_settings, run_folder_of
    from rlopt.checkpoint.load import load

    which = arguments.checkpoint or ("best" if (arguments.run / "best.json").is_file() else "latest")
    checkpoint = choose_checkpoint(arguments.run, which, lambda line: print(f"warning: {line}"))
    settings = environment_settings(checkpoint.metadata, arguments.env, env_kwargs, limit)
    agent = checkpoint.metadata.get("agent") or "an agent"
    who = f"{agent} after {checkpoint.step:,} steps, run {run_folder_of(checkpoint.path).resolve().name}"
    return load(checkpoint.path, device=arguments.device), dataclasses.replace(settings, **changed), who


def _from_zip(
    path: Path, env_id: str, own: dict[str, Any], device: str, vecnormalize: str | None
) -> tuple[Any, EnvSettings]:
    from rlopt.checkpoint.sb3_zip import read_policy
    from rlopt.envs.make import make_env
    from rlopt.envs.settings import EnvSettings
    from rlopt.settings.device import check_device

    check_device(device)
    settings = EnvSettings(id=env_id, backend="gymnasium", **own)
    env = make_env(**settings.as_dict())
    env.close()
    statistics: Any = Path(vecnormalize) if vecnormalize not in (None, "none") else vecnormalize
    return read_policy(path, env.observation_space, env.action_space, device, statistics), settings


SUBVERBS = {
    "convert": (convert, "write demonstrations in another format"),
    "info": (info, "describe demonstrations: environment, returns, observation order, origin"),
    "record": (record, "record whole episodes of a trained agent"),
}
"""Name -> function, one line of help."""
