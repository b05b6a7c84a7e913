"""The options of every verb that can run jobs on an engine."""

from __future__ import annotations

import argparse
from typing import Any

from rlopt.cli.parsing import OneLineParser
from rlopt.settings.fields import Range


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
