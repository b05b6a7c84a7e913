"""``rlopt resume RUN``"""

from pathlib import Path

from rlopt.cli.parsing import OneLineParser, add_agent, import_named_agent, import_named_envs
from rlopt.console.progress import say
from rlopt.errors import ConfigError, ImportRefusedError, one_line
from rlopt.run_folder import GROUP_FILE, SWEEP_FILE, TUNE_FILE, RunFolder, cluster_of, run_folders, shell_quote
from rlopt.settings.fields import Range


def main(argv: list[str]) -> int:
    """Continues a run; returns 0 when done or already complete, 130 or 143 when a signal stopped it."""
    parser = OneLineParser(
        prog="rlopt resume",
        description="Continue a run from its newest undamaged checkpoint. On the CPU the result equals that of an "
        "uninterrupted run bit for bit, if the environment's state can be restored.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder, as rlopt train printed it; "
                        "or the folder of several seeds or of a sweep, whose runs continue together")  # fmt: skip
    parser.add_number(
        "--total-timesteps",
        Range(ge=1),
        help="train up to this many environment steps instead of the number the run was started with",
    )
    parser.add_argument(
        "--data", metavar="PATH", help="new path of the run's data set or demonstrations, if they were moved"
    )
    parser.add_argument(
        "--env",
        metavar="MODULE:ID",
        action="append",
        default=[],
        help="environment of a run that was trained with MODULE:ID; the module is imported",
    )
    parser.add_argument("--address", metavar="ADDRESS", help="address of the Ray cluster on which the runs started")
    parser.add_number(
        "--env-timeout",
        Range(gt=0),
        float,
        help="seconds that a step or reset of an environment may take from now on (default: as before)",
    )
    add_agent(parser)
    arguments = parser.parse(argv)
    if other := next((name for name in arguments.env if ":" not in name), None):
        raise ConfigError(f"--env {other}: a run continues in its own environment: leave out --env")
    import_named_agent(arguments)
    import_named_envs(arguments.env)
    total, timeout = arguments.total_timesteps, arguments.env_timeout

    if not any((arguments.run / name).is_file() for name in ("config.json", GROUP_FILE, SWEEP_FILE, TUNE_FILE)):
        RunFolder(arguments.run).read_config()  # raises, before torch is imported
    say(f"resuming {arguments.run}")
    _refuse_cluster(arguments.run, arguments.address)
    whole = next((name for name in (SWEEP_FILE, TUNE_FILE) if (arguments.run / name).is_file()), None)
    if whole is not None:
        if total is not None or arguments.data is not None or timeout is not None:
            raise ConfigError(
                "a sweep continues with the settings it started with: leave out --total-timesteps, "
                "--data and --env-timeout"
            )
        return _resume_jobs(arguments.run, whole)

    if (arguments.run / GROUP_FILE).is_file():
        from rlopt.runs.multi_seed import resume_seeds

        return resume_seeds(arguments.run, total_timesteps=total, data=arguments.data, env_timeout=timeout).exit_code

    from rlopt.runs.train import resume

    return resume(arguments.run, total_timesteps=total, data=arguments.data, env_timeout=timeout).exit_code


def _refuse_cluster(path: Path, address: str | None) -> None:
    """Refuses to join a cluster because a file says so: what a cluster sends back is run here."""
    files = [path / name for name in ("config.json", GROUP_FILE, SWEEP_FILE, TUNE_FILE)]
    files += [run / "config.json" for run in run_folders(path)]
    for file in files:
        named = cluster_of(file) if file.exists() else None
        if named not in (None, address):
            raise ImportRefusedError(
                f"{file} names the Ray cluster at {one_line(named)}, which could run programs here: add "
                f"--address {shell_quote(str(named))} if you trust it"
            )


def _resume_jobs(path: Path, kind: str) -> int:
    """Continues a sweep, or a search."""
    if kind == SWEEP_FILE:
        from rlopt.sweeps.sweep import SweepFolder, run_sweep

        sweep, options = SweepFolder(path).read_spec()
        return run_sweep(sweep, path, options).exit_code

    from rlopt.sweeps.tune import run_tune
    from rlopt.sweeps.tune_spec import TuneFolder

    spec, options = TuneFolder(path).read_spec()
    return run_tune(spec, path, options)
