"""Random streams of a batch of environments: independent within a run and between runs."""

from __future__ import annotations

import numpy as np


def derive_seeds(seed: int, n_envs: int, generation: int = 0) -> list[int]:
    """Returns one seed in [0, 2**31) per environment, all different.

    Every seed is drawn from its own child of ``SeedSequence(seed)``, so that the batches of seed 1 and seed 2 share
    nothing, where ``seed + i`` would share all streams but one. The first seeds do not depend on ``n_envs``.

    :param generation: how often the batch has been recreated; each generation has its own streams
    """
    seeds: list[int] = []
    taken: set[int] = set()
    for index in range(n_envs):
        # Two children may draw the same 31 bits: the second then takes its next draw.
        draws = np.random.SeedSequence(seed, spawn_key=(generation, index)).generate_state(8) >> 1
        chosen = next(int(draw) for draw in draws if int(draw) not in taken)
        taken.add(chosen)
        seeds.append(chosen)
    return seeds
