"""``rlopt tune --agent ... --env ... --search learning_rate=log:1e-5..1e-3 --trials 50``"""

from pathlib import Path

from rlopt.cli.parsing import OneLineParser, add_engine_options, engine_options, import_named_envs
from rlopt.cli.sweep import divide, setting_values
from rlopt.errors import ConfigError
from rlopt.registry import agent_names, import_agent
from rlopt.settings.fields import Range


def main(argv: list[str]) -> int:
    """Searches; returns 0 when all trials have ended, 2 if none was done, 130 or 143 when a signal stopped it."""
    parser = _parser()
    own, others = divide(argv, parser)
    arguments = parser.parse(own)
    if arguments.agent is None:
        raise ConfigError(f"which agent? add --agent NAME, one of {', '.join(agent_names())}")
    import_agent(arguments.agent)
    import_named_envs([arguments.env] if arguments.env else [])
    settings = setting_values(others, [arguments.agent], parser)

    from rlopt.sweeps.spec import SweepSpec, group_name
    from rlopt.sweeps.tune_spec import TuneSpec

    given = {name: getattr(arguments, name) for name in ("trials", "sampler_seed", "pruner")}
    base = SweepSpec(
        (arguments.agent,),
        (arguments.env,) if arguments.env else (),
        (arguments.preset,) if arguments.preset else (),
        arguments.seeds,
        settings,
    )
    spec = TuneSpec(base, tuple(arguments.search or ()), **{k: v for k, v in given.items() if v is not None})

    from rlopt.sweeps.tune import run_tune

    path = arguments.tune_dir or Path("runs") / group_name(["tune", arguments.agent, spec.digest])
    return run_tune(spec, path, engine_options(arguments))


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="rlopt tune",
        description="Search for settings with Optuna's tree-structured Parzen estimator. A trial trains a run for each "
        "seed, and its value is the mean return of their last evaluations. Trials that fall behind others at an "
        "evaluation are pruned. Any option of rlopt train is a setting that all trials share. The same command "
        "continues a search that was stopped or killed.",
        epilog="example: rlopt tune --agent mdpo --env Hopper-v5 --total-timesteps 200000 --eval-every 20000 --search "
        "step_size=0.05..1 learning_rate=log:1e-5..1e-3 n_steps=64,128,256 --trials 50",
    )
    parser.add_argument("--agent", metavar="NAME", help="agent, as in rlopt train")
    parser.add_argument("--env", metavar="ID", help="task; default is that of the preset or the data set")
    parser.add_argument("--preset", metavar="NAME", help="preset that the trials start from")
    parser.add_argument(
        "--seeds", metavar="SEEDS", default="0", help="seeds of every trial: 0..2, or 0,3,5 (default 0)"
    )
    parser.add_argument("--search", metavar="NAME=SPAN", nargs="+", action="extend", help="a setting and its range: "
        "low..high, log:low..high, or choice,choice; integers if both ends are")  # fmt: skip
    parser.add_number("--trials", Range(ge=1, le=100_000), help="number of trials (default 50); give more to "
        "continue the search")  # fmt: skip
    parser.add_argument("--pruner", metavar="NAME", help="median (default), hyperband or none")
    parser.add_number("--sampler-seed", Range(ge=0, lt=2**31), help="seed of the search itself (default 0)")
    parser.add_argument("--tune-dir", metavar="DIR", type=Path, help="folder of the search (default runs/tune-..., the "
                        "same for the same search)")  # fmt: skip
    add_engine_options(parser)
    return parser
