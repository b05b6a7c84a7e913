"""Offline learners on data of our own agents: train the experts, make the data, learn from them, print the table.

Per task one run of on-policy MDPO with a checkpoint every 20,000 steps is the source; the data sets are its medium
checkpoint (a third of the way from random to best return) and equal shares of all checkpoints up to that. Scores are
100 (R - random) / (expert - random) with the two returns that are written in the data set. Each cell is one run of one
learner with one configuration for all data sets; a cell whose row is in the table is not run again, so the script can
be stopped and called again at any time. All policies are evaluated alike: the last one, 20 deterministic episodes.

    python scripts/reproduce_offline.py run                      # 48 runs of 50,000 gradient steps
    python scripts/reproduce_offline.py run --learner td3_bc --env Hopper-v5 --level medium --seed 0
    python scripts/reproduce_offline.py table                    # prints the table from the kept runs
    python scripts/reproduce_offline.py write                    # puts it into docs/results/offline.md
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from reproduction import add_filters, cell_text, script_parser, show, train, wanted

EPISODES = 20
SEEDS = (0, 1, 2)
SOURCES = {"HalfCheetah-v5": ("halfcheetah", "mujoco/half_cheetah"), "Hopper-v5": ("hopper", "mujoco/hopper")}
"""Environment -> name of its generators, preset of the source run."""
LEVELS = ("medium", "medium-replay")
COMMON = ("--eval-every", "0", "--checkpoint-every", "50000")
LEARNERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "bc": ("BC", COMMON),
    "td3_bc": ("TD3+BC", ("--preset", "d4rl/locomotion", *COMMON)),
    "iql": ("IQL", ("--preset", "d4rl/locomotion", *COMMON)),
    "rebrac": ("ReBRAC", ("--batch-size", "256", "--learning-rate", "3e-4", *COMMON)),
}
"""Agent -> title and flags: the same for every data set and seed."""


@dataclass(frozen=True)
class Cell:
    learner: str
    env: str
    level: str
    seed: int

    def key(self, args: argparse.Namespace) -> dict[str, Any]:
        sizes = {"transitions": args.transitions, "gradient_steps": args.steps}
        return {"agent": self.learner, "env": self.env, "level": self.level, **sizes, "seed": self.seed}


def cells(args: argparse.Namespace) -> Iterator[Cell]:
    """Seed by seed and data set by data set, so that a run that is stopped early leaves whole comparisons."""
    for seed in SEEDS:
        for env in SOURCES:
            for level in LEVELS:
                for learner in LEARNERS:
                    if wanted(args, learner=learner, env=env, level=level, seed=seed):
                        yield Cell(learner, env, level, seed)


def call(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "rlopt.cli.main", *words], check=True)


def source_run(env: str, args: argparse.Namespace) -> Path:
    """The run whose checkpoints are the experts, trained here unless it is complete."""
    folder = Path(args.runs) / f"source-{env}-{args.source_steps}"
    if folder.exists():
        call("resume", str(folder))
        return folder
    flags = ["--preset", SOURCES[env][1], "--total-timesteps", str(args.source_steps), "--run-dir", str(folder)]
    call("train", "mdpo", *flags, "--checkpoint-every", "20000", "--keep-checkpoints", "1000", "--eval-every", "0")
    return folder


def prepare(cell: Cell, args: argparse.Namespace) -> Path:
    """The data set of a cell, made unless it is there; all learners and seeds learn from the same one."""
    path = Path(args.runs) / f"data-{cell.env}-{cell.level}-{args.transitions}-{args.source_steps}"
    if not path.exists():
        name = f"mujoco-{SOURCES[cell.env][0]}-{cell.level}"
        run = str(source_run(cell.env, args))
        call("data", "generate", name, "--n", str(args.transitions), "--out", str(path), "--run", run)
    return path


def run_cell(cell: Cell, args: argparse.Namespace) -> None:
    key = cell.key(args)
    if args.results.find(**key):
        return
    data, run = prepare(cell, args), Path(args.runs) / "-".join(map(str, key.values()))
    flags = ["--dataset", str(data), "--seed", str(cell.seed), "--total-timesteps", str(args.steps)]
    seconds = train(cell.learner, run, *flags, *LEARNERS[cell.learner][1])
    args.results.add_run(key | evaluated(cell, run, data) | {"wall_seconds": seconds}, run)


def evaluated(cell: Cell, run: Path, data: Path) -> dict[str, Any]:
    import rlopt
    from rlopt.data import load_dataset

    dataset, model = load_dataset(data), rlopt.load(run, device="cpu")
    evaluation = rlopt.evaluate(model, cell.env, n_episodes=EPISODES, seed=cell.seed + 100_000, backend="gymnasium")
    assert dataset.metadata.reference_returns is not None
    worst, best = dataset.metadata.reference_returns
    return {
        "data_return": float(dataset.episode_returns().mean()),
        "reference_returns": [worst, best],
        "returns": evaluation.returns.tolist(),
        "mean_return": evaluation.mean,
        "score": 100 * (evaluation.mean - worst) / (best - worst),
        "generator": dataset.metadata.generator,
    }


def results(env: str, level: str, learner: str, args: argparse.Namespace) -> list[dict]:
    return [row for seed in SEEDS for row in args.results.find(**Cell(learner, env, level, seed).key(args))]


def data_text(found: list[dict]) -> str:
    """The score of the data themselves: the mean over their episodes."""
    if not found:
        return "not made"
    worst, best = found[0]["reference_returns"]
    return f"{100 * (found[0]['data_return'] - worst) / (best - worst):.0f}"


def table_text(args: argparse.Namespace) -> str:
    lines = [
        f"Normalised scores (random actions 0, best checkpoint of the source run 100) after {args.steps:,} gradient "
        f"steps on {args.transitions:,} transitions; {len(SEEDS)} seeds, IQM over seeds of the mean of {EPISODES} "
        "deterministic episodes of the last policy [95% bootstrap interval]. One configuration of each learner:",
        "",
        "| task | data | their episodes | " + " | ".join(title for title, _ in LEARNERS.values()) + " |",
        "|---" * (3 + len(LEARNERS)) + "|",
    ]
    for env in SOURCES:
        for level in LEVELS:
            found = {learner: results(env, level, learner, args) for learner in LEARNERS}
            texts = [cell_text([result["score"] for result in found[learner]], len(SEEDS)) for learner in LEARNERS]
            data = data_text([result for every in found.values() for result in every])
            lines.append(f"| {env} | {level} | {data} | " + " | ".join(texts) + " |")
    command = f"`python scripts/reproduce_offline.py run --steps {args.steps} --transitions {args.transitions}`"
    lines += ["", order_text(args), "", command]
    return "\n".join(lines)


def order_text(args: argparse.Namespace) -> str:
    """Says for how many data sets BC < TD3+BC and IQL <= ReBRAC holds in the table."""
    from rlopt.statistics.aggregates import iqm

    seen, complete = 0, 0
    for env in SOURCES:
        for level in LEVELS:
            scores = [[result["score"] for result in results(env, level, learner, args)] for learner in LEARNERS]
            if any(len(values) < len(SEEDS) for values in scores):
                continue
            bc, td3_bc, iql, rebrac = (float(iqm(np.array(values))) for values in scores)
            complete += 1
            seen += bc < min(td3_bc, iql) and max(td3_bc, iql) <= rebrac
    return f"The order BC < TD3+BC, IQL <= ReBRAC is seen in {seen} of {complete} data sets with all their runs."


def main() -> None:
    parser = script_parser(__doc__, "offline", ("agent", "env", "level", "transitions", "gradient_steps", "seed"))
    add_filters(parser, learner=sorted(LEARNERS), env=sorted(SOURCES), level=LEVELS, seed=int)
    parser.add_argument("--steps", type=int, default=50_000, help="gradient steps of a run")
    parser.add_argument("--transitions", type=int, default=200_000, help="size of each data set")
    parser.add_argument("--source-steps", type=int, default=1_000_000, help="environment steps of the source runs")
    args = parser.parse_args()

    if args.action == "run":
        for cell in cells(args):
            run_cell(cell, args)
    show(args, "results offline", table_text(args))


if __name__ == "__main__":
    main()
