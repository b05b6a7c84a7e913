"""``rlopt sweep SWEEP.yaml`` or ``rlopt sweep --agent ... --seeds ... --set ...``"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlopt.cli.parsing import OneLineParser, add_engine_options, engine_options, import_named_envs
from rlopt.errors import ConfigError, unknown_name
from rlopt.registry import agent_spec, import_agent, resolve
from rlopt.settings.fields import field_types
from rlopt.settings.run import RunConfig


def divide(argv: Sequence[str], parser: OneLineParser) -> tuple[list[str], list[str]]:
    """The tokens of the verb's own options, and those that are settings of the runs."""
    from rlopt.cli.flags import is_flag

    own_options = {option for option in parser._option_string_actions if option.startswith("-")}
    own: list[str] = []
    settings: list[str] = []
    current = own
    for token in argv:
        if is_flag(token):
            name = token.partition("=")[0]
            name = name.replace("_", "-") if name.startswith("--") else name
            current = own if name in own_options else settings
        current.append(token)
    return own, settings


def setting_values(tokens: Sequence[str], agents: Sequence[str], parser: OneLineParser) -> dict[str, Any]:
    """Settings from flags, by name.

    :raises rlopt.errors.ConfigError: for an option that neither the verb nor a run has, with the nearest one
    """
    from rlopt.cli.flags import read_flags

    annotations = dict(field_types(RunConfig))
    for agent in agents:
        annotations |= field_types(resolve(agent_spec(agent).config))
    own = [option for option in parser._option_string_actions if option.startswith("--")]
    for token in tokens:
        name = token[2:].partition("=")[0].replace("-", "_")
        if token.startswith("--") and name.removeprefix("no_") not in annotations and name not in annotations:
            known = [*own, *(f"--{each}".replace("_", "-") for each in annotations)]
            if name == "set":
                raise ConfigError(f"{parser.prog} has no --set: give a setting as an option, such as --n-steps 256")
            raise unknown_name("option", f"--{name}".replace("_", "-"), known, f"{parser.prog} --help lists them")
    return read_flags(tokens, annotations, parser.prog)


def main(argv: list[str]) -> int:
    """Runs a sweep; returns 0 when all is done, 2 if a run failed, 130 or 143 when a signal stopped it."""
    parser = _parser()
    own, others = divide(argv, parser)
    arguments = parser.parse(own)
    from rlopt.sweeps.spec import parse_grid, read_spec, spec_from

    for name in arguments.agent or ():
        import_agent(name)
    import_named_envs(arguments.env or ())
    values: dict[str, Any] = {}
    if arguments.file is not None:
        if arguments.file.is_dir():
            from rlopt.sweeps.sweep import SweepFolder

            again = SweepFolder(arguments.file).command
            raise ConfigError(f"{arguments.file} is a folder: continue a sweep with {again}")
        values = read_spec(arguments.file)
    where = str(arguments.file or "sweep")
    values |= {
        key: given for key in ("agent", "env", "preset", "seeds") if (given := getattr(arguments, key)) is not None
    }
    agents = spec_from(values, where).agent if values else ()
    flags = setting_values(others, agents, parser)
    grid = parse_grid(arguments.set or ())
    # A flag wins over the file, whichever of the two kinds a setting has there.
    for kind, given in (("settings", flags), ("set", grid)):
        kept = values.get(kind) or {}
        if isinstance(kept, dict):
            values[kind] = {name: each for name, each in kept.items() if name not in flags and name not in grid} | given
    spec = spec_from(values, where)

    from rlopt.sweeps.sweep import check_shard, default_sweep_folder, run_sweep

    shard = check_shard(arguments.shard) if arguments.shard is not None else None
    path = arguments.sweep_dir or default_sweep_folder(spec, arguments.file.stem if arguments.file else "")
    if arguments.dry_run:
        return _list(spec, path, shard)
    return run_sweep(spec, path, engine_options(arguments), shard).exit_code


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="rlopt sweep",
        description="Train every combination of agents, tasks, settings and seeds, each in its own run folder. Any "
        "option of rlopt train is a setting that all runs share; --set gives one several values. The same "
        "command continues a sweep that was stopped or killed, and retries failed runs.",
        epilog="example: rlopt sweep --agent mdpo --env HalfCheetah-v5 Hopper-v5 --seeds 0..9 --set "
        "step_size=0.1,0.3 --total-timesteps 1000000",
    )
    parser.add_argument("file", metavar="SWEEP.yaml", nargs="?", type=Path, help="file with agent:, env:, preset:, "
                        "seeds:, settings:, set:; flags override it")  # fmt: skip
    parser.add_argument("--agent", metavar="NAME", nargs="+", help="agents, as in rlopt train")
    parser.add_argument("--env", metavar="ID", nargs="+", help="tasks; default is that of the preset or the data set")
    parser.add_argument("--preset", metavar="NAME", nargs="+", help="presets, one after another")
    parser.add_argument("--seeds", metavar="SEEDS", help="0..9, or 0,3,5 (default 0)")
    parser.add_argument("--set", metavar="NAME=V,V", nargs="+", action="extend", help="a setting and its values, such "
                        "as learning_rate=1e-4,3e-4; several make a grid")  # fmt: skip
    parser.add_argument("--sweep-dir", metavar="DIR", type=Path, help="folder of the sweep (default runs/sweep-..., "
                        "the same for the same sweep)")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="list the runs and their states, and run nothing")
    parser.add_argument("--shard", metavar="I/N", help="every N-th run from the I-th on, I from 0; other processes "
                        "take the others, such as the tasks of a Slurm array")  # fmt: skip
    add_engine_options(parser)
    return parser


def _list(spec: Any, path: Path, shard: tuple[int, int] | None) -> int:
    from collections import Counter

    from rlopt.sweeps.spec import expand
    from rlopt.sweeps.sweep import SweepFolder, job_states

    runs = expand(spec, path)
    states = job_states(SweepFolder(path), runs[shard[0] :: shard[1]] if shard else runs)
    for name, state in states.items():
        print(f"{state:<7} {name}")
    counts = ", ".join(f"{count} {state}" for state, count in Counter(states.values()).items())
    print(f"{len(states)} runs in {path}: {counts or 'none'}")
    return 0
