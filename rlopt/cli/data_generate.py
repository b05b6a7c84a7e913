"""``rlopt data generate NAME``"""

from __future__ import annotations

import time

from rlopt.cli.data_options import new_folder
from rlopt.cli.parsing import OneLineParser, number
from rlopt.collect.generators import GENERATORS, Generator, generator
from rlopt.errors import ConfigError
from rlopt.settings.fields import Range, coerce


def main(argv: list[str]) -> int:
    """Makes a data set and writes its folder; returns 0."""
    width = max(map(len, GENERATORS)) + 2
    names = "\n".join(f"  {name:<{width}}{spec.summary}" for name, spec in GENERATORS.items())
    if not argv or argv[0] in ("-h", "--help"):
        print(
            "usage: rlopt data generate NAME --n N --out DIR [--seed N] ...\n\n"
            "Make a data set here, where none can be downloaded. rlopt data generate NAME --help lists the settings of "
            f"one.\n\nnames:\n{names}"
        )
        return 0
    spec = generator(argv[0])
    arguments = vars(_parser(argv[0], spec).parse(argv[1:]))
    n = number("--n", arguments["n"], int, Range(ge=1, le=10**9))
    seed = number("--seed", arguments["seed"], int, Range(ge=0, lt=2**63))
    options = {}
    for name, option in spec.options.items():
        if arguments[name] is not None:
            options[name] = _read(name, arguments[name], option.kind)

    place = new_folder(arguments["out"], arguments["overwrite"])
    from rlopt.collect.generators import generate

    start = time.perf_counter()
    data = generate(argv[0], n, seed=seed, **options)
    folder = data.save(place)
    episodes = int(data.episode_ends.sum())
    print(f"{len(data):,} transitions in {episodes:,} episodes of {data.metadata.env}, "
          f"{time.perf_counter() - start:.1f} s: {folder}")  # fmt: skip
    return 0


def _parser(name: str, spec: Generator) -> OneLineParser:
    parser = OneLineParser(prog=f"rlopt data generate {name}", description=spec.summary)
    parser.add_argument("--n", metavar="N", required=True, help="transitions, 1e6 for a million")
    parser.add_argument("--seed", metavar="N", default="0", help="of everything that is drawn (default 0)")
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


def _read(name: str, text: object, kind: type) -> object:
    if kind in (bool, str):
        return text
    try:
        return coerce(text, kind)
    except ConfigError as error:
        raise ConfigError(f"--{name.replace('_', '-')}: {error}") from None
