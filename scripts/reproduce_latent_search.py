"""Latent search with simulated rankers in the latents of a small diffusion model that is trained here, on the CPU.

Each search has 15 rounds (8 queries of 8 images of which the 3 best are ranked, 7 line searches of 5). Best-of-N
chooses from as many images by the same oracle; the random walk is the same search with random answers.

A search whose row is in the table is not run again, so the script can be stopped and called again at any time.

    python scripts/reproduce_latent_search.py run        # trains the model, searches
    python scripts/reproduce_latent_search.py table      # prints the table from the kept searches
    python scripts/reproduce_latent_search.py write      # puts it into docs/results/latent_search.md
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from reproduction import ROOT, script_parser, show

import rlopt
from rlopt.agents.zo_ranksgd.latents.search import ScoreOracle
from rlopt.feedback.ranking import Ranking
from rlopt.statistics.aggregates import bootstrap_interval, mean

sys.path.insert(0, str(ROOT / "tests" / "helpers"))
from tiny_diffusion import DDIM, SCORES, SIZE, Images, train_tiny_diffusion

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


def run_all(args: argparse.Namespace) -> None:
    """Trains the model, and runs what is missing, seed by seed."""
    torch.set_num_threads(1)
    begin = time.process_time()
    model = train_tiny_diffusion(args.training_steps)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"trained {size:,} parameters in {time.process_time() - begin:.0f} CPU seconds", flush=True)
    decode = DDIM(model, args.sampler_steps)
    for seed in range(args.seeds):
        for preference in SCORES:
            cell = {"preference": preference, **settings(args), "seed": seed}
            if not args.results.find(**cell):
                scores, n_images = scores_of(decode, preference, seed, args.rounds)
                args.results.add(
                    {**cell, "images": n_images, "scores": scores}, {"versions": {"torch": torch.__version__}}
                )
                print(seed, preference, {name: round(value, 3) for name, value in scores.items()}, flush=True)


def settings(args: argparse.Namespace) -> dict[str, int]:
    """What tells a search from others of its preference and seed."""
    return {name: getattr(args, name) for name in ("rounds", "training_steps", "sampler_steps")}


def table_text(args: argparse.Namespace) -> str:
    found = {preference: args.results.find(preference=preference, **settings(args)) for preference in SCORES}
    found = {preference: [row for row in rows if row["seed"] < args.seeds] for preference, rows in found.items()}
    if not all(found.values()):
        return "not run"
    rows = next(iter(found.values()))
    lines = [
        f"Score of the final image after {args.rounds} rounds and N = {rows[0]['images']} images; mean of {len(rows)} "
        "seeds [95% bootstrap interval]. The last two columns compare seed by seed: the mean lead of the search over "
        "best-of-N, and the number of seeds in which it is better.",
        "",
        f"| preference | {' | '.join(COLUMNS)} | search - best of N | better in |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for preference, rows in found.items():
        scores = {name: np.array([row["scores"][name] for row in rows]) for name in COLUMNS}
        gain = scores["search"] - scores["best of N"]
        cells = [with_interval(scores[name]) for name in COLUMNS]
        better = f"{(gain > 0).sum()} of {len(rows)}"
        lines.append(f"| {preference} | {' | '.join(cells)} | {with_interval(gain)} | {better} |")
    return "\n".join(lines)


def main() -> None:
    key = ("preference", "rounds", "training_steps", "sampler_steps", "seed")
    parser = script_parser(__doc__, "latent_search", key, runs=False)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--training-steps", type=int, default=300)
    parser.add_argument("--sampler-steps", type=int, default=10)
    args = parser.parse_args()

    if args.action == "run":
        run_all(args)
    show(args, "results latent_search", table_text(args))


if __name__ == "__main__":
    main()
