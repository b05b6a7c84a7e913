"""Argument parser for the verbs with few options: a mistake is one line that names the nearest option."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NoReturn

from rlopt.errors import ConfigError, unknown_name
from rlopt.settings.fields import JsonObject, Range, coerce
from rlopt.storage.json import parse_json

_READING = (
    "--columns", "--ends", "--clip-actions", "--scale-actions", "--drop-nan", "--observation-keys", "--conversion",
    "--waypoints", "--after-goal", "--reward-shift",
)  # fmt: skip


def refuse_option(option: str, known: Sequence[str], prog: str) -> NoReturn:
    """Raises :class:`rlopt.errors.ConfigError` for an option that a command does not have, naming the cure."""
    takes = next((name for name in ("--dataset", "--demos", "--fqe") if name in known), None)
    if option in _READING and takes is not None:
        raise ConfigError(
            f"unknown option {option!r}: how a file is read is said once, with rlopt data convert IN OUT {option} ...; "
            f"then give {takes} OUT"
        )
    raise unknown_name("option", option, known, f"{prog} --help lists them")


class OneLineParser(argparse.ArgumentParser):
    """Raises :class:`rlopt.errors.ConfigError` where argparse prints its usage and exits; underscores are accepted."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parses ``argv``, naming the nearest option for one that does not exist."""
        known = [option for option in self._option_string_actions if option.startswith("--")]
        tokens: list[str] = []
        for token in argv:
            name, equals, value = token.partition("=")
            if token.startswith("--") and len(token) > 2:
                name = name.replace("_", "-")
                if name not in known:
                    refuse_option(name, known, self.prog)
            tokens.append(name + equals + value)
        return self.parse_args(tokens)

    def add_number(self, flag: str, bounds: Range, kind: type = int, **settings: Any) -> None:
        """Adds an option whose value is a number within ``bounds``."""
        self.add_argument(flag, action=Number, bounds=bounds, kind=kind, **settings)


def json_object(option: str, text: str | None) -> dict[str, Any] | None:
    """Reads the value of an option that is a JSON object, None if it was not given."""
    try:
        found = coerce(text, Annotated[str | None, JsonObject()])
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}") from None
    return None if found is None else parse_json(found)


def add_agent(parser: argparse.ArgumentParser) -> None:
    """Adds the option that names the class of a run's agent; :func:`import_named_agent` acts on it."""
    help_text = "class of a run that was trained with rlopt train MODULE:CLASS; it is imported"
    parser.add_argument("--agent", metavar="MODULE:CLASS", action="append", default=[], help=help_text)


def add_foreign_logs(parser: argparse.ArgumentParser) -> None:
    """Adds what names run folders and other libraries' logs, and how wide a picture of them is."""
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="run folders, as rlopt train printed them; folders of the runs of "
        "several seeds; patterns such as 'runs/mdpo-*'; logs of Stable-Baselines3, RL Zoo, CleanRL and d3rlpy, and CSV "
        "files that Weights & Biases exported"
    )  # fmt: skip
    parser.add_argument("--env", metavar="ID", help="the environment of logs that do not name theirs")
    parser.add_argument(
        "--width", metavar="WIDTH", help="width of the picture, with type for a paper: neurips, iclr, jmlr, icml, "
            "icml-column, ieee, ieee-column, or inches (default: by the number of panels)"
    )  # fmt: skip


def import_named_agent(arguments: argparse.Namespace) -> None:
    """Imports the classes that :func:`add_agent`'s option names."""
    from rlopt.registry import import_agent

    for name in arguments.agent:
        import_agent(name)


def import_named_envs(names: Sequence[str]) -> None:
    """Imports the modules of environments ``module:id`` that a command line names; other ids need no import."""
    for name in names:
        if ":" in name:
            from rlopt.envs.names import register

            register(name)


class Number(argparse.Action):
    """An option whose value is a number of ``kind`` within ``bounds``."""

    def __init__(self, *, bounds: Range, kind: type = int, metavar: str = "N", **settings: Any) -> None:
        super().__init__(metavar=metavar, **settings)
        self.kind, self.bounds = kind, bounds

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, number(self.option_strings[0], values, self.kind, self.bounds))


def number(option: str, text: str, kind: type, bounds: Range) -> Any:
    """Reads the value of a numeric option; understands 1e6 where a whole number is wanted."""
    try:
        return coerce(text, Annotated[kind, bounds])
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}") from None


def run(
    verb: str, description: str, subverbs: Mapping[str, tuple[Callable[[list[str]], int], str]], argv: list[str]
) -> int:
    """Runs one subverb; returns its exit code.

    :param subverbs: name -> function of its arguments, one line of help
    :raises rlopt.errors.UnknownNameError: for another subverb, with the nearest one
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        lines = "\n".join(f"  {name:<10}{summary}" for name, (_, summary) in subverbs.items())
        print(
            f"usage: rlopt {verb} SUBVERB ...\n\n{description}\n\nsubverbs:\n{lines}\n\n"
            f"rlopt {verb} SUBVERB --help explains a subverb."
        )
        return 0
    if argv[0] not in subverbs:
        raise unknown_name(f"subverb of rlopt {verb}", argv[0], subverbs)
    return subverbs[argv[0]][0](argv[1:])


def say_reading(command: str) -> None:
    """Tells a person at a terminal what takes a while, before the libraries that read files are loaded."""
    if sys.stderr.isatty():
        print(f"rlopt {command}: reading ...", file=sys.stderr)


def add_engine_options(parser: OneLineParser) -> None:
    """The options of a verb whose runs are jobs."""
    _add_where(parser, "local", "(default)", "run")
    parser.add_number("--retries", Range(ge=0, le=100), help="retries of a failed run, each from its newest "
        "checkpoint (default 2)")  # fmt: skip


def add_optional_engine(parser: OneLineParser) -> None:
    """The options of a verb that works in its own process unless an engine is named."""
    _add_where(parser, None, "(default: this process alone)", "job")


def engine_options(arguments: argparse.Namespace) -> Any:
    """The options of :func:`add_engine_options` as :class:`rlopt.sweeps.sweep.EngineOptions`."""
    from rlopt.sweeps.sweep import EngineOptions

    return EngineOptions(engine=arguments.engine, **_given(arguments, "workers", "gpus_per_job", "address", "retries"))


def optional_engine(arguments: argparse.Namespace) -> Any:
    """The engine of :func:`add_optional_engine`, not opened yet; None where none is named.

    :raises rlopt.errors.ConfigError: options of an engine without one, or what the engine refuses
    """
    from rlopt.engine.choice import check_engine, needs_engine
    from rlopt.sweeps.sweep import EngineOptions

    given = _given(arguments, "workers", "gpus_per_job", "address")
    if arguments.engine is None:
        if given:
            raise needs_engine(next(iter(given)))
        return None
    check_engine(arguments.engine, **given)
    return EngineOptions(engine=arguments.engine, **given)


def _add_where(parser: OneLineParser, default: str | None, note: str, job: str) -> None:
    parser.add_argument("--engine", metavar="NAME", default=default, help="local: processes of this machine; ray: a "
                        f"Ray cluster, Linux only {note}")  # fmt: skip
    parser.add_argument("--address", metavar="ADDRESS", help="address of the Ray cluster: host:port, ray://host:port "
        "or auto; without one, Ray runs on this machine alone")  # fmt: skip
    parser.add_number("--workers", Range(ge=1, le=100_000), help=f"largest number of {job}s at once (default: what "
        "the cores or the cluster allow)")  # fmt: skip
    parser.add_number("--gpus-per-job", Range(ge=0, le=64), float, metavar="X", help=f"share of a GPU for each {job}, "
                      "such as 0.25 for four on each, or a whole number")  # fmt: skip


def _given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
