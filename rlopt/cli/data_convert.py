"""``rlopt data convert IN OUT``"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rlopt.cli.data_options import DATASET_HELP, add_reading_options, reading_options
from rlopt.cli.parsing import OneLineParser
from rlopt.errors import DataError, unknown_name

if TYPE_CHECKING:
    from rlopt.data.dataset import Dataset

FORMATS = ("d4rl", "minari", "rlopt")


def main(argv: list[str]) -> int:
    """Converts a data set and prints where it was written; returns 0."""
    parser = OneLineParser(prog="rlopt data convert", description="Convert a data set between formats.")
    parser.add_argument("dataset", metavar="IN", help=DATASET_HELP)
    parser.add_argument("out", metavar="OUT", help="a folder, a .hdf5 file, or minari:<id>")
    parser.add_argument("--format", metavar="FORMAT", help="d4rl, minari or rlopt (default as OUT looks: .hdf5 is "
                        "d4rl, minari:<id> is minari, a folder is rlopt)")  # fmt: skip
    parser.add_argument("--pointmaze", metavar="GOAL", help="map a maze2d data set into PointMaze-v3, with the task's "
                        "fixed goal (task) or the planner's goals (recorded)")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace a data set at OUT")
    add_reading_options(parser)
    arguments = parser.parse(argv)
    options = reading_options(arguments)
    form = _format(arguments.out, arguments.format)

    from rlopt.data import load_dataset, to_pointmaze
    from rlopt.data.loading import MINARI_PREFIX

    data = load_dataset(arguments.dataset, download=arguments.download, **options)
    if arguments.pointmaze is not None:
        data = to_pointmaze(data, arguments.pointmaze)
    if form == "minari":
        written = to_minari(data, arguments.out.removeprefix(MINARI_PREFIX), arguments.overwrite)
    else:
        write = _to_file if form == "d4rl" else to_folder
        written = write(data, Path(arguments.out).expanduser(), arguments.overwrite)
    print(f"{len(data)} transitions, {len(data.episodes())} episodes: {written}")
    return 0


def _format(out: str, given: str | None) -> str:
    if given is not None:
        if given not in FORMATS:
            raise unknown_name("format", given, FORMATS)
        return given
    if out.startswith("minari:"):
        return "minari"
    return "d4rl" if out.endswith((".hdf5", ".h5")) else "rlopt"


def _to_file(data: Dataset, path: Path, overwrite: bool) -> Path:
    from rlopt.data import write_d4rl
    from rlopt.data.formats.hdf5 import open_hdf5

    if os.path.lexists(path):
        if not overwrite:
            raise DataError(f"{path} exists: choose another OUT, or give --overwrite")
        with open_hdf5(path):
            pass  # what is no HDF5 file is not overwritten
    return write_d4rl(data, path)


def to_folder(data: Dataset, path: Path, overwrite: bool) -> Path:
    """Writes rlopt's folder; what is there stays unless ``overwrite`` is set."""
    if os.path.lexists(path) and not overwrite:
        raise DataError(f"{path} exists: choose another OUT, or give --overwrite")
    return data.save(path)


def to_minari(data: Dataset, dataset_id: str, overwrite: bool) -> Path:
    """Writes a Minari data set; what is there stays unless ``overwrite`` is set and the new one is whole."""
    from rlopt.data import write_minari
    from rlopt.data.formats.minari_names import minari_folder

    folder = minari_folder(dataset_id)
    aside = folder.with_name(f".replaced-{folder.name}")
    moved = overwrite and (folder / "data" / "metadata.json").is_file()
    if moved:
        os.rename(folder, aside)
    try:
        written = write_minari(data, dataset_id, lambda line: print(f"note: {line}", file=sys.stderr))
    except BaseException:
        if moved:
            os.rename(aside, folder)
        raise
    if moved:
        shutil.rmtree(aside)
    return written
