"""The options of every verb that can run jobs on an engine."""

from __future__ import annotations

import argparse
from typing import Any

from rlopt.cli.parsing import OneLineParser, number
from rlopt.settings.fields import Range


def add_engine_options(parser: OneLineParser) -> None:
    """The options of a verb whose runs are jobs."""
    _add_where(parser, "local", "(default)", "run")
    parser.add_argument("--retries", metavar="N", help="further attempts of a run that failed, each from its newest "
                        "checkpoint (default 2)")  # fmt: skip


def add_optional_engine(parser: OneLineParser) -> None:
    """The options of a verb that works in its own process unless an engine is named."""
    _add_where(parser, None, "(default: this process alone)", "job")


def engine_options(arguments: argparse.Namespace) -> Any:
    """The options of :func:`add_engine_options` as :class:`rlopt.sweeps.sweep.EngineOptions`."""
    from rlopt.sweeps.sweep import EngineOptions

    given = {**_numbers(arguments), "retries": number("--retries", arguments.retries, int, Range(ge=0, le=100))}
    given = {name: value for name, value in given.items() if value is not None}
    return EngineOptions(engine=arguments.engine, address=arguments.address, **given)


def optional_engine(arguments: argparse.Namespace) -> Any:
    """The engine of :func:`add_optional_engine`, not opened yet; None where none is named.

    :raises rlopt.errors.ConfigError: options of an engine without one, or what the engine refuses
    """
    from rlopt.engine.choice import check_engine, needs_engine
    from rlopt.sweeps.sweep import EngineOptions

    given = {name: value for name, value in _numbers(arguments).items() if value is not None}
    given |= {"address": arguments.address} if arguments.address is not None else {}
    if arguments.engine is None:
        if given:
            raise needs_engine(next(iter(given)))
        return None
    check_engine(arguments.engine, **given)
    return EngineOptions(engine=arguments.engine, **given)


def _add_where(parser: OneLineParser, default: str | None, note: str, job: str) -> None:
    parser.add_argument("--engine", metavar="NAME", default=default, help="local: processes of this machine; ray: a "
                        f"Ray cluster, Linux only {note}")  # fmt: skip
    parser.add_argument("--address", metavar="ADDRESS", help="of the Ray cluster: host:port, ray://host:port or auto; "
                        "without one Ray runs on this machine alone")  # fmt: skip
    parser.add_argument(
        "--workers", metavar="N", help=f"most {job}s at once (default what the cores or the cluster allow)"
    )
    parser.add_argument("--gpus-per-job", metavar="X", help=f"share of a GPU for each {job}, such as 0.25 for four on "
                        "each, or a whole number")  # fmt: skip


def _numbers(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "workers": number("--workers", arguments.workers, int, Range(ge=1, le=100_000)),
        "gpus_per_job": number("--gpus-per-job", arguments.gpus_per_job, float, Range(ge=0, le=64)),
    }
