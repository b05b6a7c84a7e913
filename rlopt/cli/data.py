"""``rlopt data SUBVERB``: offline data. Imports nothing heavy before a subverb runs."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rlopt.cli.flags import parse_settings
from rlopt.cli.parsing import Number, OneLineParser, run, say_reading
from rlopt.collect.generators import GENERATORS, Generator, generate, generator
from rlopt.errors import ConfigError, DataError, unknown_name
from rlopt.settings.fields import Range, coerce, from_mapping

if TYPE_CHECKING:
    from rlopt.data.dataset import Dataset

DATASET_HELP = (
    "a folder, an HDF5, npz, parquet, CSV or JSON lines file, a D4RL name (maze2d-umaze-v1), minari:<id>, or a set "
    "that comes with rlopt (dmc/walker-walk)"
)
_HDF5, _NPZ, _MINARI, _FOLDER = "an .hdf5 file", "an .npz file", "minari:<id>", "a folder"
PLACES = {"rlopt": _FOLDER, "d4rl": _HDF5, "minari": _MINARI, "imitation": _NPZ, "valuedice": _NPZ, "hf": _FOLDER}
"""Format -> where it is written; the first of each place is its default."""
OUT_HELP = f"{_FOLDER}, {_HDF5}, {_NPZ}, or {_MINARI}"
FORMAT_HELP = (
    "rlopt (a folder), d4rl (.hdf5), minari, imitation or valuedice (.npz), or hf (a folder of HuggingFace's "
    "datasets); default: by the form of OUT, imitation for .npz"
)
_OPTIONS = ("name", "env", "conversion", "waypoints", "rewards", "after_goal", "reward_shift", "max_episode_steps",
            "action_repeat", "ends")  # fmt: skip


def main(argv: list[str]) -> int:
    """Runs one subverb; returns its exit code."""
    return run("data", "Offline data sets: rlopt's own folders, D4RL files and names, Minari ids.", SUBVERBS, argv)


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--download`` and the options of :class:`rlopt.data.D4RLOptions`."""
    add = parser.add_argument
    add("--download", action="store_true", help="fetch a D4RL file or a Minari data set that is not here; shows size "
        "and SHA-256")  # fmt: skip
    add("--reward-shift", action=Number, bounds=Range(ge=-1e9, le=1e9), kind=float, metavar="NUMBER", help="number "
        "added to every reward; -1 is usual for antmaze")  # fmt: skip
    add("--max-episode-steps", action=Number, bounds=Range(ge=1, le=10**9), metavar="STEPS", help="time limit for "
        "files without timeouts")  # fmt: skip
    add("--clip-actions", action="store_true", help="clip actions to their bounds instead of refusing the file")
    add("--drop-nan", action="store_true", help="leave out episodes that hold NaN or infinity")
    add = parser.add_argument_group("for D4RL files").add_argument
    add("--name", metavar="NAME", help="the D4RL name of an HDF5 file, if its file name does not give it")
    add("--conversion", metavar="KIND", help="qlearning (default: transition-wise) or sequence (by whole episodes)")
    add("--waypoints", metavar="HOW", help="maze2d's timeouts, which mark reached waypoints: end (default: they end "
        "an episode), drop (as D4RL) or join")  # fmt: skip
    add("--rewards", metavar="HOW", help="auto (default: maze2d's off-by-one rewards are moved), recorded or next")
    add("--after-goal", metavar="HOW", help="antmaze's rows after the goal: keep (default) or drop")
    add = parser.add_argument_group("for files of other programs, which do not name their environment").add_argument
    add("--env", metavar="ID", help="environment of the file; made once, for its bounds and time limit")
    add("--action-repeat", action=Number, bounds=Range(ge=1, le=100), help="its action repeat (default 1)")
    add("--columns", metavar="KIND=KEY,...", help="columns that are not found by their names: "
        "observations=x+v,actions=u_*,rewards=score,terminals=dead")  # fmt: skip
    add("--observation-keys", metavar="A,B,...", help="parts of the flat observations, in their order; those of a file "
        "that has them apart are joined so")  # fmt: skip
    add("--scale-actions", action="store_true", help="the actions are in [-1, 1]: scale them to the bounds of --env")
    add("--ends", metavar="WHAT", help="auto (default: true terminals are the ends of episodes shorter than the time "
        "limit of --env), truncated or terminated")  # fmt: skip


def reading_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, as :func:`rlopt.data.load_dataset` takes them.

    :raises rlopt.errors.ConfigError: for a value that is not a number or out of range
    """
    options: dict[str, Any] = {name: getattr(arguments, name) for name in _OPTIONS}
    options |= {name: getattr(arguments, name) or None for name in ("clip_actions", "download", "drop_nan",
                "scale_actions")}  # fmt: skip
    if arguments.observation_keys is not None:
        options["observation_keys"] = tuple(
            part.strip() for part in arguments.observation_keys.split(",") if part.strip()
        )
    if arguments.columns is not None:
        pairs = [part.partition("=") for part in arguments.columns.split(",") if part.strip()]
        if not pairs or not all(kind.strip() and key.strip() for kind, _, key in pairs):
            raise ConfigError(f"--columns {arguments.columns}: write observations=KEY,actions=KEY")
        options["columns"] = {kind.strip(): key.strip() for kind, _, key in pairs}
    return {name: value for name, value in options.items() if value is not None}


def new_folder(text: str, overwrite: bool) -> Path:
    """The folder that a data set is about to be made for, looked at before the work.

    :raises rlopt.errors.ConfigError: no folder of rlopt's own format is meant, or one is there already
    :raises rlopt.errors.DataError: other files lie there
    """
    if not text or text.startswith("minari:") or text.endswith((".hdf5", ".h5")):
        raise ConfigError(f"{text!r} is not a folder to write: name one, and convert it with rlopt data convert")
    from rlopt.data.folder import KIND, is_folder
    from rlopt.storage.checked_folder import check_place

    path = check_place(Path(text).expanduser(), KIND)
    if is_folder(path) and not overwrite:
        raise ConfigError(f"{path} exists: choose another folder, or give --overwrite")
    return path


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
    say_reading("data augment")

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
    """Replay augmented transitions of a data set in the simulator, and report the share of an evaluation's states that
    lie outside the data, before and after augmentation. Exit code 1 if transitions differ from the simulator's.
    """

    domain: str = "auto"
    """Task whose symmetries are used, as in rlopt data augment; auto takes the task of the data set's environment."""
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
    say_reading("data check")

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
    from rlopt.data.checks import share_outside
    from rlopt.data.environment import settings_of
    from rlopt.errors import RloptError
    from rlopt.evaluation.envs import start_states, visited_states

    flat = setup.augmentation.domain.flat
    try:
        env = settings_of(setup.dataset.metadata)
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
    parser.add_argument("out", metavar="OUT", help=OUT_HELP)
    parser.add_argument("--format", metavar="FORMAT", help=FORMAT_HELP)
    parser.add_argument("--pointmaze", metavar="GOAL", help="map a maze2d data set into PointMaze-v3, with the task's "
                        "fixed goal (task) or the planner's goals (recorded)")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace a data set at OUT")
    add_reading_options(parser)
    arguments = parser.parse(argv)
    options = reading_options(arguments)
    form = format_of(arguments.out, arguments.format)
    say_reading("data convert")

    from rlopt.data import load_dataset, to_pointmaze

    data = load_dataset(arguments.dataset, **options)
    if arguments.pointmaze is not None:
        data = to_pointmaze(data, arguments.pointmaze)
    written = write(data, arguments.out, form, arguments.overwrite)
    for note in data.metadata.notes:
        print(f"note: {note}")
    print(f"{len(data)} transitions, {len(data.episodes())} episodes: {written}")
    return 0


def filter_data(argv: list[str]) -> int:
    """Writes chosen episodes of a data set; returns 0."""
    parser = OneLineParser(
        prog="rlopt data filter", description="Write the episodes of a data set that meet all given conditions."
    )
    parser.add_argument("dataset", metavar="IN", help=DATASET_HELP)
    parser.add_argument("out", metavar="OUT", help=OUT_HELP)
    parser.add_argument("--format", metavar="FORMAT", help=FORMAT_HELP)
    number = parser.add_number
    for side, name in (("least", "min"), ("largest", "max")):
        number(f"--{name}-return", Range(), float, help=f"{side} undiscounted return of an episode")
        number(f"--{name}-length", Range(ge=1), help=f"{side} number of transitions of an episode")
    number("--best", Range(gt=0, le=1), float, help="share of the episodes, those with the highest returns")
    number("--episodes", Range(ge=1), help="largest number of episodes: the first ones, or drawn with --seed")
    number("--seed", Range(ge=0, lt=2**63), help="seed of the draw")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set at OUT")
    add_reading_options(parser)
    arguments = parser.parse(argv)
    options = reading_options(arguments)
    form = format_of(arguments.out, arguments.format)
    names = ("min_return", "max_return", "min_length", "max_length", "best", "episodes", "seed")
    conditions = {name: getattr(arguments, name) for name in names}
    if not arguments.drop_nan and all(value is None for value in conditions.values()):
        raise ConfigError("no condition given: add --drop-nan, --min-return, --best or another, see --help")
    say_reading("data filter")

    from rlopt.data import load_dataset
    from rlopt.data.filtering import filter_episodes

    data = filter_episodes(load_dataset(arguments.dataset, **options), **conditions)
    written = write(data, arguments.out, form, arguments.overwrite)
    for note in data.metadata.notes:
        print(f"note: {note}")
    print(f"{len(data.episodes()):,} episodes, {len(data):,} transitions: {written}")
    return 0


def format_of(out: str, given: str | None) -> str:
    """The format to write: the one that was given, else what the place looks like.

    :raises rlopt.errors.ConfigError: an unknown format, or a place that does not fit it
    """
    suffix = Path(out).suffix
    looks = {".hdf5": _HDF5, ".h5": _HDF5, ".npz": _NPZ}.get(suffix, _FOLDER)
    if out.startswith("minari:"):
        looks = _MINARI
    elif suffix in (".csv", ".parquet", ".json", ".jsonl", ".pkl", ".pt", ".safetensors", ".npy"):
        raise ConfigError(f"no {suffix} files are written: give {OUT_HELP}")
    if given is None:
        return next(form for form, place in PLACES.items() if place == looks)
    if given not in PLACES:
        raise unknown_name("format", given, PLACES)
    if PLACES[given] != looks and (given, looks) != ("d4rl", _FOLDER):  # a file may have any name
        raise ConfigError(f"the {given} format is written to {PLACES[given]}: give another OUT than {out}")
    return given


def write(data: Dataset, out: str, form: str, overwrite: bool) -> Path:
    """Writes a data set in a format; says on stderr what the format leaves out.

    :raises rlopt.errors.DataError: something is there and ``overwrite`` is not set, or the format cannot hold it
    """
    if form == "minari":
        return _to_minari(data, out.removeprefix("minari:"), overwrite)
    path = Path(out).expanduser()
    taken = is_taken(path, overwrite)
    if form == "rlopt":
        return data.save(path)
    if form == "d4rl":
        from rlopt.data import write_d4rl
        from rlopt.data.formats.hdf5 import open_hdf5

        if taken:
            with open_hdf5(path):
                pass  # what is not an HDF5 file is not overwritten
        return write_d4rl(data, path)
    if taken and form != "hf" and not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not a .npz file and not overwritten: choose another OUT")
    if form == "hf":
        from rlopt.data.formats.huggingface import write_huggingface as write_file
    elif form == "imitation":
        from rlopt.data.formats.imitation_files import write_imitation as write_file
    else:
        from rlopt.data.formats.imitation_files import write_valuedice as write_file
    written = write_file(data, path)
    if data.extras:
        print(f"note: the {form} format has no place for {', '.join(data.extras)}", file=sys.stderr)
    return written


def is_taken(path: Path, overwrite: bool) -> bool:
    """Whether something lies at ``path``; raises :class:`rlopt.errors.DataError` unless it may be overwritten."""
    taken = os.path.lexists(path)
    if taken and not overwrite:
        raise DataError(f"{path} exists: choose another OUT, or give --overwrite")
    return taken


def _to_minari(data: Dataset, dataset_id: str, overwrite: bool) -> Path:
    """Writes a Minari data set; what is there stays unless ``overwrite`` is set and the new one is whole."""
    from rlopt.data import write_minari
    from rlopt.data.formats.minari_spaces import minari_folder

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
        description="Describe a data set: counts, returns, lengths, terminals, bounds, corrections made in reading.",
    )
    parser.add_argument("dataset", metavar="DATASET", help=DATASET_HELP)
    parser.add_argument(
        "--picture", metavar="FILE", type=Path, help="also draw the states that it covers, .png or .svg"
    )
    add_reading_options(parser)
    arguments = parser.parse(argv)
    options = reading_options(arguments)
    say_reading("data info")

    from rlopt.data import load_dataset
    from rlopt.data.description import describe

    if arguments.picture is not None:
        from rlopt.analysis.plotting import check_suffix

        check_suffix(arguments.picture)
    data = load_dataset(arguments.dataset, **options)
    print(describe(data))
    if arguments.picture is not None:
        from rlopt.analysis.dataset_coverage import draw_coverage
        from rlopt.analysis.plotting import save_figure

        save_figure(draw_coverage(data), arguments.picture)
        print(f"picture          {arguments.picture}")
    return 0


SUBVERBS = {
    "augment": (augment, "enlarge a small data set by guided augmentation"),
    "check": (check, "replay augmented transitions in the simulator"),
    "convert": (convert, "write a data set in another format, or a maze2d file in PointMaze's frame"),
    "filter": (filter_data, "write selected episodes: without NaN, by return, by length, the best"),
    "generate": (generate_data, "make a data set: point mazes, snapshots of trained agents"),
    "info": (info, "describe a data set: counts, returns, lengths, ends; --picture draws its states"),
}
"""Name -> function, one line of help."""
