"""Lists of seeds as people write them. Imports no torch."""

from __future__ import annotations

import re

from rlopt.errors import ConfigError

MOST_SEEDS = 1024
_SEED = re.compile(r"(\d{1,10})(?:\.\.(\d{1,10}))?", re.ASCII)


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds that ``text`` names: "0..7" is 0 to 7, "0,3,5" and "0..3,8" are lists.

    :raises rlopt.errors.ConfigError: for anything else, a seed outside [0, 2^31), one named twice, or more than 1024
    """
    seeds: list[int] = []
    for part in re.split(r"[,\s]+", text.strip()):
        span = _SEED.fullmatch(part)
        low, high = (int(span[1]), int(span[2] or span[1])) if span else (1, 0)
        if high < low:
            raise ConfigError(f"--seeds: {part[:40]!r} is not a seed: write 0..7 for the seeds 0 to 7, or 0,3,5")
        if high >= 2**31 or high - low >= MOST_SEEDS:
            raise ConfigError(f"--seeds: {part!r}: give at most {MOST_SEEDS} seeds below 2^31")
        seeds += range(low, high + 1)
    repeated = [seed for seed in seeds if seeds.count(seed) > 1]
    if repeated:
        raise ConfigError(f"--seeds: seed {repeated[0]} is named twice")
    if len(seeds) > MOST_SEEDS:
        raise ConfigError(f"--seeds: {len(seeds)} seeds: give at most {MOST_SEEDS}")
    return tuple(seeds)
