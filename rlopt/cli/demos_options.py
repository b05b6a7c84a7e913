"""Options of the commands that read demonstrations, and how a place to read or write is named."""

from __future__ import annotations

import argparse
from typing import Any

from rlopt.cli.parsing import number
from rlopt.settings.fields import Range

DEMOS_HELP = "a set that comes with rlopt (dmc/walker-walk), a folder, an .npz file, or minari:<id>"
FORMATS = ("hf", "imitation", "minari", "rlopt", "valuedice")


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options for files of other libraries, which do not say what their demonstrations are of."""
    add = parser.add_argument_group("files of other libraries").add_argument
    add("--env", metavar="ID", help="environment of the demonstrations")
    add("--action-repeat", metavar="N", help="its action repeat (default 1)")
    add("--observation-keys", metavar="A,B,...", help="parts of its flat observations, in their order")
    add("--ends", metavar="WHAT", default="auto", help="auto (default: true terminals are the ends of episodes shorter "
        "than the time limit of --env), truncated or terminated")  # fmt: skip


def reading_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options as :func:`rlopt.data.load_demonstrations` takes them.

    :raises rlopt.errors.ConfigError: for a value that is no number or out of range
    """
    keys = arguments.observation_keys
    return {
        "env": arguments.env,
        "action_repeat": number("--action-repeat", arguments.action_repeat, int, Range(ge=1, le=100)),
        "observation_keys": None if keys is None else tuple(part.strip() for part in keys.split(",") if part.strip()),
        "ends": arguments.ends,
    }
