"""Latent search with simulated rankers in the latents of a small diffusion model that is trained here, on the CPU.

Each search has 15 rounds (8 queries of 8 images of which the 3 best are ranked, 7 line searches of 5). Best-of-N
chooses from as many images by the same oracle; the random walk is the same search with random answers.

    python scripts/reproduce_latent_search.py            # trains, searches, writes docs/results/latent_search.md
    python scripts/reproduce_latent_search.py --seeds 3 --training-steps 50 --page page.md
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from reproduction import ROOT, replace_between

import rlopt
from rlopt.agents.zo_ranksgd.latents.search import ScoreOracle
from rlopt.feedback.ranking import Ranking
from rlopt.statistics.aggregates import bootstrap_interval, mean

sys.path.insert(0, str(ROOT / "tests" / "helpers"))
from tiny_diffusion import DDIM, SCORES, SIZE, Images, train_tiny_diffusion

PAGE = ROOT / "docs" / "results" / "latent_search.md"
SUBSPACE = 32
COLUMNS = ("start", "random walk", "best of N", "search", f"search, {SUBSPACE} directions")


def random_answers(seed: int) -> Callable[[Images, int], Ranking]:
    rng = np.random.default_rng(seed)
    return lambda images, k: Ranking.from_order(rng.permutation(len(images))[:k].tolist(), len(images))


def scores_of(decode: DDIM, preference: str, seed: int, rounds: int) -> tuple[dict[str, float], int]:
    """The final scores of one seed by column, and N."""
    score, shape = SCORES[preference], (1, SIZE, SIZE)
    whole = rlopt.LatentSearch(decode, shape, seed=seed).run(ScoreOracle(score), rounds)
    few = rlopt.LatentSearch(decode, shape, seed=seed, subspace=SUBSPACE)
    narrow = few.run(ScoreOracle(score), rounds, best_of_n=False)
    walk = rlopt.LatentSearch(decode, shape, seed=seed).run(random_answers(seed), rounds, best_of_n=False)
    found = whole.scores(score) | {"random walk": walk.scores(score)["search"]}
    return found | {COLUMNS[-1]: narrow.scores(score)["search"]}, whole.images


def with_interval(values: np.ndarray) -> str:
    low, high = bootstrap_interval(values, mean)
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


def table(found: dict[str, list[dict[str, float]]], n_images: int, rounds: int) -> str:
    seeds = len(next(iter(found.values())))
    lines = [
        f"Score of the final image after {rounds} rounds and N = {n_images} images; mean of {seeds} seeds [95% "
        "bootstrap interval]. The last two columns compare seed by seed: by how much the search is above best-of-N, "
        "and in how many.",
        "",
        f"| preference | {' | '.join(COLUMNS)} | search - best of N | better in |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for preference, rows in found.items():
        cells = [with_interval(np.array([row[name] for row in rows])) for name in COLUMNS]
        gain = np.array([row["search"] - row["best of N"] for row in rows])
        lines.append(f"| {preference} | {' | '.join(cells)} | {with_interval(gain)} | {(gain > 0).sum()} of {seeds} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--training-steps", type=int, default=300)
    parser.add_argument("--sampler-steps", type=int, default=10)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.process_time()
    model = train_tiny_diffusion(arguments.training_steps)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"trained {size:,} parameters in {time.process_time() - begin:.0f} CPU seconds", flush=True)
    decode = DDIM(model, arguments.sampler_steps)
    found: dict[str, list[dict[str, float]]] = {preference: [] for preference in SCORES}
    for seed in range(arguments.seeds):
        for preference, rows in found.items():
            row, n_images = scores_of(decode, preference, seed, arguments.rounds)
            rows.append(row)
            print(seed, preference, {name: round(value, 3) for name, value in row.items()}, flush=True)
    text = table(found, n_images, arguments.rounds)
    print(text)
    arguments.page.write_text(replace_between(arguments.page.read_text(), "results latent_search", text))


if __name__ == "__main__":
    main()
