"""``rlopt demos convert IN OUT``"""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from rlopt.cli.data_convert import to_folder, to_minari
from rlopt.cli.demos_options import DEMOS_HELP, FORMATS, add_reading_options, reading_options
from rlopt.cli.parsing import OneLineParser
from rlopt.errors import ConfigError, DataError, unknown_name

if TYPE_CHECKING:
    from rlopt.data.demonstrations import Demonstrations


def main(argv: list[str]) -> int:
    """Converts demonstrations and prints where they were written; returns 0."""
    parser = OneLineParser(prog="rlopt demos convert", description="Write demonstrations in another format.")
    parser.add_argument("demos", metavar="IN", help=DEMOS_HELP)
    parser.add_argument("out", metavar="OUT", help="a folder, an .npz file, or minari:<id>")
    parser.add_argument("--to", metavar="FORMAT", help="imitation or valuedice (.npz), hf (a folder of HuggingFace's "
                        "datasets), minari, or rlopt (a folder); .npz is imitation by default")  # fmt: skip
    parser.add_argument("--reorder", action="store_true", help="put the parts of the observations in the order of the "
                        "environment, which dm_control's own is in rlopt")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace what is at OUT")
    add_reading_options(parser)
    arguments = parser.parse(argv)
    options = reading_options(arguments)
    form = format_of(arguments.out, arguments.to)

    from rlopt.data import load_demonstrations

    data = load_demonstrations(arguments.demos, **options)
    if arguments.reorder:
        from rlopt.data.metadata import UNKNOWN_ENV
        from rlopt.envs.settings import EnvSettings

        if data.metadata.env == UNKNOWN_ENV or (":" in data.metadata.env and arguments.env is None):
            # Reading a stranger's file must not run code, and an id with a colon imports a module.
            raise ConfigError(f"--reorder needs to make the environment {data.metadata.env!r}: give --env ID")
        data = data.reorder(EnvSettings(id=data.metadata.env))
    written = write(data, arguments.out, form, arguments.overwrite)
    print(f"{data.n_trajectories} trajectories, {len(data):,} transitions: {written}")
    return 0


_PLACES = {
    "hf": "a folder",
    "imitation": "an .npz file",
    "minari": "minari:<id>",
    "rlopt": "a folder",
    "valuedice": "an .npz file",
}


def format_of(out: str, given: str | None) -> str:
    """The format to write: the one that was given, else what the place looks like.

    :raises rlopt.errors.ConfigError: an unknown format, or a place that does not fit it
    """
    looks = "minari:<id>" if out.startswith("minari:") else "an .npz file" if out.endswith(".npz") else "a folder"
    if given is None:
        return {"minari:<id>": "minari", "an .npz file": "imitation", "a folder": "rlopt"}[looks]
    if given not in FORMATS:
        raise unknown_name("format", given, FORMATS)
    if _PLACES[given] != looks:
        raise ConfigError(f"the {given} format is written to {_PLACES[given]}: give another OUT than {out}")
    return given


def write(data: Demonstrations, out: str, form: str, overwrite: bool) -> Path:
    """Writes demonstrations; says on stderr what the format leaves out.

    :raises rlopt.errors.DataError: something is there and ``overwrite`` is not set, or the format cannot hold them
    """
    from rlopt.data.loading import MINARI_PREFIX

    if data.extras and form not in ("rlopt", "minari"):
        print(f"note: the {form} format has no place for {', '.join(data.extras)}", file=sys.stderr)
    if form == "minari":
        return to_minari(data, out.removeprefix(MINARI_PREFIX), overwrite)
    path = Path(out).expanduser()
    if form == "rlopt":
        return to_folder(data, path, overwrite)
    if os.path.lexists(path):
        if not overwrite:
            raise DataError(f"{path} exists: choose another OUT, or give --overwrite")
        if form != "hf" and not zipfile.is_zipfile(path):
            raise DataError(f"{path} is no .npz file and not overwritten: choose another OUT")
    return _foreign(data, path, form)


def _foreign(data: Demonstrations, path: Path, form: str) -> Path:
    if form == "hf":
        from rlopt.data.formats.huggingface import write_huggingface

        return write_huggingface(data, path)
    if form == "imitation":
        from rlopt.data.formats.imitation_files import write_imitation

        return write_imitation(data, path)
    from rlopt.data.formats.valuedice_files import write_valuedice

    return write_valuedice(data, path)
