"""``rlopt data augment IN OUT``"""

from __future__ import annotations

import time

from rlopt.cli.data_options import new_folder
from rlopt.cli.flags import parse_settings
from rlopt.errors import ConfigError

PROG = "rlopt data augment IN OUT"
OVERWRITE = "--overwrite"


def main(argv: list[str]) -> int:
    """Augments a data set and writes the result's folder; returns 0."""
    from rlopt.agents.guda.config import GuDAConfig

    places, flags = positional(argv)
    if any(token in ("-h", "--help") for token in flags):
        parse_settings(f"{PROG} [--overwrite]", GuDAConfig, ["--help"])
    overwrite = OVERWRITE in flags
    flags = [token for token in flags if token != OVERWRITE]
    if len(places) != 2:
        raise ConfigError(f"{PROG} takes a data set and the folder to write, got {len(places)} of the 2: see --help")
    config: GuDAConfig = parse_settings(PROG, GuDAConfig, flags)
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


def positional(argv: list[str]) -> tuple[list[str], list[str]]:
    """The arguments before the first option, and the rest."""
    first = next((index for index, token in enumerate(argv) if token.startswith("-")), len(argv))
    return argv[:first], argv[first:]
