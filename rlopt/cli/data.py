"""``rlopt data SUBVERB``: everything about offline data. Imports nothing heavy before a subverb is at work."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rlopt.cli.flags import parse_settings
from rlopt.cli.parsing import Number, OneLineParser
from rlopt.cli.subverbs import run
from rlopt.collect.generators import GENERATORS, Generator, generate, generator
from rlopt.errors import ConfigError, DataError, unknown_name
from rlopt.settings.fields import Range, coerce, from_mapping

if TYPE_CHECKING:
    from rlopt.data.dataset import Dataset

DATASET_HELP = "a data set folder, an HDF5 file of the D4RL layout, a D4RL name (maze2d-umaze-v1), or minari:<id>"
FORMATS = ("d4rl", "minari", "rlopt")
_OPTIONS = ("name", "env", "conversion", "waypoints", "rewards", "after_goal", "reward_shift", "max_episode_steps")


def main(argv: list[str]) -> int:
    """Runs one subverb; returns its exit code."""
    return run("data", "Offline data sets: rlopt's own folders, D4RL files and names, Minari ids.", SUBVERBS, argv)


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--download`` and the options of :class:`rlopt.data.D4RLOptions`."""
    add = parser.add_argument
    add("--download", action="store_true", help="fetch a D4RL file or a Minari data set that is not here; shows size "
        "and SHA-256")  # fmt: skip
    group = parser.add_argument_group("for D4RL files")
    add = group.add_argument
    add("--name", metavar="NAME", help="the D4RL name of an HDF5 file, if its file name does not give it")
    add("--env", metavar="ID", help="id of the environment, for a file that is not D4RL's")
    add("--conversion", metavar="KIND", help="qlearning (default: transition-wise) or sequence (by whole episodes)")
    add("--waypoints", metavar="HOW", help="maze2d's timeouts, which mark reached waypoints: end (default: they end "
        "an episode), drop (as D4RL) or join")  # fmt: skip
    add("--rewards", metavar="HOW", help="auto (default: maze2d's off-by-one rewards are moved), recorded or next")
    add("--after-goal", metavar="HOW", help="antmaze's rows after the goal: keep (default) or drop")
    add("--reward-shift", action=Number, bounds=Range(ge=-1e9, le=1e9), kind=float, metavar="NUMBER", help="number "
        "added to every reward; -1 is usual for antmaze")  # fmt: skip
    add("--max-episode-steps", action=Number, bounds=Range(ge=1, le=10**9), metavar="STEPS", help="time limit for "
        "files without timeouts")  # fmt: skip
    add("--clip-actions", action="store_true", help="clip actions to their bounds instead of refusing the file")


def reading_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, as :func:`rlopt.data.load_dataset` takes them.

    :raises rlopt.errors.ConfigError: for a value that is no number or out of range
    """
    options: dict[str, Any] = {name: getattr(arguments, name) for name in _OPTIONS}
    options["clip_actions"] = arguments.clip_actions or None
    return {name: value for name, value in options.items() if value is not None}


def new_folder(text: str, overwrite: bool) -> Path:
    """The folder that a data set is about to be made for, looked at before the work.

    :raises rlopt.errors.ConfigError: no folder of rlopt's own format is meant, or one is there already
    :raises rlopt.errors.DataError: other files lie there
    """
    if not text or text.startswith("minari:") or text.endswith((".hdf5", ".h5")):
        raise ConfigError(f"{text!r} is no folder to write: name one, and convert it with rlopt data convert")
    from rlopt.data.folder import KIND, is_folder
    from rlopt.storage.checked_folder import check_place

    path = check_place(Path(text).expanduser(), KIND)
    if is_folder(path) and not overwrite:
        raise ConfigError(f"{path} exists: choose another folder, or give --overwrite")
    return path


def place_of(dataset: str) -> Path:
    """The file or folder in which a data set lies, for what is to be put next to it."""
    from rlopt.data.formats.minari_names import minari_folder
    from rlopt.data.loading import MINARI_PREFIX
    from rlopt.data.names import D4RL_NAMES, local_file

    if dataset.startswith(MINARI_PREFIX):
        return minari_folder(dataset.removeprefix(MINARI_PREFIX).rpartition("://")[2])
    path = Path(dataset).expanduser()
    if not path.exists() and dataset in D4RL_NAMES:
        return local_file(D4RL_NAMES[dataset])
    return path.absolute()


def augment(argv: list[str]) -> int:
    """Augments a data set and writes the result's folder; returns 0."""
    from rlopt.agents.guda.config import GuDAConfig

    prog = "rlopt data augment IN OUT"
    places, flags = _positional(argv)
    if any(token in ("-h", "--help") for token in flags):
        parse_settings(f"{prog} [--overwrite]", GuDAConfig, ["--help"])
    overwrite = "--overwrite" in flags
    flags = [token for token in flags if token != "--overwrite"]
    if len(places) != 2:
        raise ConfigError(f"{prog} takes a data set and the folder to write, got {len(places)} of the 2: see --help")
    config: GuDAConfig = parse_settings(prog, GuDAConfig, flags)
    place = new_folder(places[1], overwrite)

    from rlopt.agents.guda.tasks import make_augmented
    from rlopt.data import load_dataset

    source = load_dataset(places[0])
    start = time.perf_counter()
    made = make_augmented(source, config)
    seconds = time.perf_counter() - start
    folder = made.save(place)
    print(f"{len(source):,} transitions of {made.metadata.env} became {len(made):,} in {seconds:.2f} s: {folder}")
    print(f"mean reward {source.rewards.mean():.4f} before, {made.rewards.mean():.4f} now")
    return 0


def _positional(argv: list[str]) -> tuple[list[str], list[str]]:
    """The arguments before the first option, and the rest."""
    first = next((index for index, token in enumerate(argv) if token.startswith("-")), len(argv))
    return argv[:first], argv[first:]


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Replay augmented transitions of a data set in the simulator, and tell which share of the states of an evaluation
    the data say nothing of, before and after augmentation. Exit code 1 if transitions are not what the simulator does.
    """

    domain: str = "auto"
    """The task whose symmetries are used, as in rlopt data augment; auto goes by the environment of the data set."""
    guide: str = "random"
    """random, or a guide of rlopt data augment."""
    rotate: Literal["default", "none", "quarter", "any"] = "default"
    """Rotations, as in rlopt data augment."""
    reflect: bool = False
    """Mirror, as in rlopt data augment."""
    goal_cell: tuple[int, ...] | None = None
    """Row and column of the goal in a maze; default is that of the environment."""
    simulated: Annotated[float, Range(ge=0, le=1)] | None = None
    """Share of simulated transitions in what the support is measured of, as in rlopt data augment."""
    env: str = ""
    """Environment of the data set, as in rlopt data augment."""
    run: str = ""
    """Run folder whose policy visits the states of the evaluation; default is the states in which episodes start."""
    n: Annotated[int, Range(ge=1)] = 1000
    """Transitions to replay."""
    seed: Annotated[int, Range(ge=0, lt=2**63)] = 0
    """Seed of everything that is drawn."""
    tolerance: Annotated[float, Range(gt=0)] = 1e-6
    """Differences up to this count as rounding, in units of the observation."""
    recorded: bool = False
    """Compare with the recorded successors, float32 rounding included, instead of the simulator's own."""


def check(argv: list[str]) -> int:
    """Checks an augmentation of a data set; returns 0 if it is exact and 1 if not."""
    prog = "rlopt data check IN"
    places, flags = _positional(argv)
    if any(token in ("-h", "--help") for token in flags):
        parse_settings(prog, CheckConfig, ["--help"])
    if len(places) != 1:
        raise ConfigError(f"{prog} takes one data set, got {len(places)}: see --help")
    config: CheckConfig = parse_settings(prog, CheckConfig, flags)

    from rlopt.agents.guda.config import GuDAConfig
    from rlopt.agents.guda.dynamics_check import check_dynamics
    from rlopt.agents.guda.tasks import set_up
    from rlopt.data import load_dataset

    shared = {
        name: getattr(config, name)
        for name in ("domain", "guide", "rotate", "reflect", "goal_cell", "simulated", "env")
    }
    dataset = load_dataset(places[0])
    setup = set_up(dataset, from_mapping(GuDAConfig, shared, prog))
    report = check_dynamics(
        setup.augmentation,
        None,
        setup.dataset,
        guide=setup.guide,
        n=config.n,
        seed=config.seed,
        tolerance=config.tolerance,
        resimulate=not config.recorded,
        progress=True,
    )
    print(f"{setup.augmentation}, {setup.guide or 'uniform parameters'}\n{report}")
    print(_support(setup, config))
    return 0 if report.exact else 1


def _support(setup: Any, config: CheckConfig) -> str:
    """The share of evaluation states outside the support of the data, recorded and augmented, as a line."""
    from rlopt.data.support import share_outside
    from rlopt.errors import RloptError
    from rlopt.evaluation.states import start_states, visited_states

    env, flat = setup.dataset.metadata.env, setup.augmentation.domain.flat
    try:
        states = (
            visited_states(config.run, env, seed=config.seed) if config.run else start_states(env, seed=config.seed)
        )
    except RloptError as error:
        return f"  outside the support  not known: {error}"
    made = setup.augment(20_000, config.seed)
    recorded, augmented, states = (flat(part) for part in (setup.dataset.observations, made.observations, states))
    spread = recorded.std(axis=0)
    before, after = (100 * share_outside(data, states, spread, config.seed) for data in (recorded, augmented))
    what = f"states of {config.run}" if config.run else "states in which episodes start"
    return f"  outside the support  {before:.0f} % of {what}; {after:.0f} % after augmentation"


def convert(argv: list[str]) -> int:
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

    if is_taken(path, overwrite):
        with open_hdf5(path):
            pass  # what is no HDF5 file is not overwritten
    return write_d4rl(data, path)


def is_taken(path: Path, overwrite: bool) -> bool:
    """Whether something lies at ``path``; raises :class:`rlopt.errors.DataError` unless it may be overwritten."""
    taken = os.path.lexists(path)
    if taken and not overwrite:
        raise DataError(f"{path} exists: choose another OUT, or give --overwrite")
    return taken


def to_folder(data: Dataset, path: Path, overwrite: bool) -> Path:
    """Writes rlopt's folder; what is there stays unless ``overwrite`` is set."""
    is_taken(path, overwrite)
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


def generate_data(argv: list[str]) -> int:
    """Makes a data set and writes its folder; returns 0."""
    width = max(map(len, GENERATORS)) + 2
    names = "\n".join(f"  {name:<{width}}{spec.summary}" for name, spec in GENERATORS.items())
    if not argv or argv[0] in ("-h", "--help"):
        print(
            "usage: rlopt data generate NAME --n N --out DIR [--seed N] ...\n\n"
            "Make a data set on this machine. rlopt data generate NAME --help lists the settings of "
            f"one.\n\nnames:\n{names}"
        )
        return 0
    spec = generator(argv[0])
    arguments = vars(_generator_parser(argv[0], spec).parse(argv[1:]))
    options = {}
    for name, option in spec.options.items():
        if arguments[name] is not None:
            options[name] = _read_option(name, arguments[name], option.kind)

    place = new_folder(arguments["out"], arguments["overwrite"])
    start = time.perf_counter()
    data = generate(argv[0], arguments["n"], seed=arguments["seed"], **options)
    folder = data.save(place)
    episodes = int(data.episode_ends.sum())
    print(f"{len(data):,} transitions in {episodes:,} episodes of {data.metadata.env}, "
          f"{time.perf_counter() - start:.1f} s: {folder}")  # fmt: skip
    return 0


def _generator_parser(name: str, spec: Generator) -> OneLineParser:
    parser = OneLineParser(prog=f"rlopt data generate {name}", description=spec.summary)
    parser.add_number("--n", Range(ge=1, le=10**9), required=True, help="number of transitions, such as 1e6")
    parser.add_number("--seed", Range(ge=0, lt=2**63), default=0, help="seed of all random draws (default 0)")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set at DIR")
    for option_name, option in spec.options.items():
        flag = "--" + option_name.replace("_", "-")
        shown = "" if option.default is None or option.kind is bool else f" (default {option.default})"
        if option.kind is bool:
            parser.add_argument(flag, action="store_true", default=None, help=option.help + shown)
        else:
            parser.add_argument(flag, metavar=option.kind.__name__.upper(), help=option.help + shown)
    return parser


def _read_option(name: str, text: object, kind: type) -> object:
    if kind in (bool, str):
        return text
    try:
        return coerce(text, kind)
    except ConfigError as error:
        raise ConfigError(f"--{name.replace('_', '-')}: {error}") from None


def info(argv: list[str]) -> int:
    """Describes a data set and draws the states that it covers; returns 0."""
    parser = OneLineParser(
        prog="rlopt data info",
        description="Describe a data set (counts, returns, lengths, terminals, bounds, corrections made in reading) "
        "and draw the states that it covers.",
    )
    parser.add_argument("dataset", metavar="DATASET", help=DATASET_HELP)
    parser.add_argument("--out", metavar="FILE", type=Path, help="picture, .png or .svg (default next to the data set: "
                        "<DATASET>-coverage.png)")  # fmt: skip
    add_reading_options(parser)
    arguments = parser.parse(argv)
    options = reading_options(arguments)

    from rlopt.analysis.dataset_coverage import draw_coverage
    from rlopt.analysis.plotting import check_suffix, save_figure
    from rlopt.data import load_dataset
    from rlopt.data.description import describe

    if arguments.out is not None:
        check_suffix(arguments.out)
    data = load_dataset(arguments.dataset, download=arguments.download, **options)
    print(describe(data))
    place = place_of(arguments.dataset)
    out = arguments.out or place.with_name(f"{place.name}-coverage.png")
    save_figure(draw_coverage(data), out)
    print(f"picture          {out}")
    return 0


SUBVERBS = {
    "augment": (augment, "enlarge a small data set by guided augmentation"),
    "check": (check, "replay augmented transitions in the simulator"),
    "convert": (convert, "write a data set in another format, or a maze2d file in PointMaze's frame"),
    "generate": (generate_data, "make a data set: point mazes, snapshots of trained agents"),
    "info": (info, "describe a data set: counts, returns, lengths, and a picture of its states"),
}
"""Name -> function, one line of help."""
