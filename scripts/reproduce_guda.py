"""The paper's comparison on point mazes: which augmentation makes a small data set enough? Cell by cell.

At most 1500, 3000 and 4000 recorded transitions of UMaze, Medium and Large, with at least one that reaches the goal;
augmented by nothing, at random, guided, or by learned dynamics, to a million; learned from by TD3+BC, AWAC and BC, each
with one configuration for all arms and mazes. Each cell is one run of one seed, whose data set has the same seed. A
cell whose row is in the table is not run again, so the script can be stopped and called again at any time. All policies
are evaluated alike: the last one, 50 deterministic episodes. Scores are 100 (R - random) / (expert - random) with the
environment's reference returns.

    python scripts/reproduce_guda.py run                     # 108 runs, a few minutes each on one core
    python scripts/reproduce_guda.py run --learner td3_bc --env rlopt/PointMaze_UMaze-v0 --seed 0
    python scripts/reproduce_guda.py table                   # prints the tables from the kept runs
    python scripts/reproduce_guda.py write                   # puts them into docs/results/guda.md
    python scripts/reproduce_guda.py references              # measures the reference returns
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from reproduction import cell_text, script_parser, show, train, wanted

EPISODES = 50
AUGMENTED = 1_000_000
SEEDS = (0, 1, 2)
SIZES = {"rlopt/PointMaze_UMaze-v0": 1500, "rlopt/PointMaze_Medium-v0": 3000, "rlopt/PointMaze_Large-v0": 4000}
"""Environment -> recorded transitions (the paper's Table I)."""
ARMS: dict[str, tuple[str, ...]] = {
    "none": (),
    "random": ("--augment", "guda", "--guide", "random"),
    "guided": ("--augment", "guda", "--guide", "shortest-path"),
    "learned": ("--augment", "learned-dynamics"),
}
"""Arm -> flags of the augmentation, whose seed is that of the run."""
NETWORKS = ("--net-arch", "64", "64", "--learning-rate", "1e-3")
COMMON = (*NETWORKS, "--batch-size", "256", "--normalize-observations", "true")
CRITICS = ("--critic-layer-norm", "true")
LEARNERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "td3_bc": ("TD3+BC", ("--alpha", "40", *CRITICS, *COMMON)),
    "awac": ("AWAC", (*CRITICS, *COMMON)),
    "bc": ("BC", COMMON),
}
"""Agent -> title and flags: the same for every arm, maze and seed. Chosen for TD3+BC on Medium with a seed of its own
(10), among alpha 2.5, 10 and 40. Without layer normalisation Q grew near its bound and the guided arm did not learn."""


@dataclass(frozen=True)
class Cell:
    learner: str
    env: str
    arm: str
    seed: int

    def key(self, steps: int) -> dict[str, Any]:
        return {
            "agent": self.learner,
            "env": self.env,
            "arm": self.arm,
            "gradient_steps": steps,
            "seed": self.seed,
        }


def cells(args: argparse.Namespace) -> Iterator[Cell]:
    """Seed by seed and maze by maze, so that a run that is stopped early leaves whole comparisons."""
    for seed in SEEDS:
        for env in SIZES:
            for learner in LEARNERS:
                for arm in ARMS:
                    if wanted(args, learner=learner, env=env, arm=arm, seed=seed):
                        yield Cell(learner, env, arm, seed)


def recorded(env: str, seed: int, folder: Path) -> Path:
    """The small data set: the first of the seeds 1000 seed, 1000 seed + 1, ... with a transition at the goal."""
    from rlopt.collect.generators import generate

    path = folder / f"{env.partition('/')[2]}-seed{seed}"
    name = f"pointmaze-{env.partition('_')[2].partition('-')[0].lower()}"
    attempt = 0
    while not path.exists():
        # One simulator on one backend, so that the data do not depend on what is installed. D4RL's maze2d has no noise.
        data = generate(name, SIZES[env], seed=1000 * seed + attempt, n_envs=1, backend="gymnasium", noise=0.0)
        if data.rewards.any():
            data.save(path)
        attempt += 1
    return path


def run_cell(cell: Cell, args: argparse.Namespace) -> None:
    key = cell.key(args.steps)
    if args.results.find(**key):
        return
    name = "-".join(str(part).rpartition("/")[2] for part in key.values())
    data, run = recorded(cell.env, cell.seed, args.runs / "data"), args.runs / name
    flags = ["--env", cell.env, "--dataset", str(data), "--seed", str(cell.seed), "--eval-every", "0"]
    flags += ["--total-timesteps", str(args.steps), "--checkpoint-every", "50000", *LEARNERS[cell.learner][1]]
    flags += [*ARMS[cell.arm], *(("--n-augmented", str(args.augmented)) if ARMS[cell.arm] else ())]
    seconds = train(cell.learner, run, *flags)
    args.results.add_run(key | evaluated(cell, args, run) | {"wall_seconds": seconds}, run)


def evaluated(cell: Cell, args: argparse.Namespace, run: Path) -> dict[str, Any]:
    import rlopt

    model = rlopt.load(run, device="cpu")
    evaluation = rlopt.evaluate(
        model, cell.env, n_episodes=args.episodes, seed=cell.seed + 100_000, backend="gymnasium"
    )
    return {
        "recorded_transitions": SIZES[cell.env],
        "augmented_transitions": args.augmented if ARMS[cell.arm] else 0,
        "returns": evaluation.returns.tolist(),
        "mean_return": evaluation.mean,
        "score": float(score(evaluation.mean, cell.env)),
    }


def score(mean_return: float, env: str) -> float:
    from rlopt.envs.tasks.own_tasks import FIXED_GOAL_MAZES

    random, expert = FIXED_GOAL_MAZES[env].reference_returns
    return 100 * (mean_return - random) / (expert - random)


def table_text(args: argparse.Namespace) -> str:
    lines = [
        f"Normalised scores (random 0, planner with PD controller 100) after {args.steps:,} gradient steps; "
        f"{len(SEEDS)} seeds, each with a data set of its own; IQM over seeds of the mean of {EPISODES} deterministic "
        "episodes of the last policy [95% bootstrap interval]. One configuration of each learner for all arms:",
        "",
        "| maze, recorded transitions | learner | " + " | ".join(ARMS) + " |",
        "|---" * (2 + len(ARMS)) + "|",
    ]
    for env, size in SIZES.items():
        for learner, (title, _) in LEARNERS.items():
            texts = []
            for arm in ARMS:
                keys = [Cell(learner, env, arm, seed).key(args.steps) for seed in SEEDS]
                scores = [row["score"] for key in keys for row in args.results.find(**key)]
                texts.append(cell_text(scores, len(SEEDS)))
            lines.append(f"| {env}, {size} | {title} | " + " | ".join(texts) + " |")
    return "\n".join([*lines, "", f"`python scripts/reproduce_guda.py run --steps {args.steps}`"])


def references(episodes: int) -> None:
    """Prints the mean returns of random actions and of the controller, with standard errors."""
    import rlopt
    from rlopt.collect.point_maze import GoalController

    for env_id in SIZES:
        for kind in ("random", "controller"):
            env = rlopt.make_env(env_id, n_envs=20, seed=12345)
            generator, controller = np.random.default_rng(0), GoalController(env_id)
            observations = env.reset()
            totals, returns = np.zeros(20), []
            while len(returns) < episodes:
                uniform = generator.uniform(-1, 1, (20, 2)).astype(np.float32)
                observations, rewards, dones, _ = env.step(uniform if kind == "random" else controller(observations))
                totals += rewards
                returns += totals[dones].tolist()
                totals[dones] = 0
            error = np.std(returns) / np.sqrt(len(returns))
            print(f"{env_id} {kind}: {np.mean(returns):.1f} +- {error:.1f} ({len(returns)} episodes)", flush=True)


def main() -> None:
    parser = script_parser(__doc__, "guda", ("agent", "env", "arm", "gradient_steps", "seed"), "references")
    parser.add_argument("--learner", choices=sorted(LEARNERS), help="run only this learner")
    parser.add_argument("--env", choices=sorted(SIZES), help="run only this maze")
    parser.add_argument("--arm", choices=sorted(ARMS), help="run only this arm")
    parser.add_argument("--seed", type=int, help="run only this seed")
    parser.add_argument("--steps", type=int, default=50_000, help="gradient steps of a run")
    parser.add_argument("--augmented", type=int, default=AUGMENTED, help="augmented transitions; other numbers "
                        "want other --results and --runs")  # fmt: skip
    parser.add_argument("--episodes", type=int, default=EPISODES, help="evaluation episodes; the same holds")
    args = parser.parse_args()

    if args.action == "references":
        references(200)
        return
    if args.action == "run":
        for cell in cells(args):
            run_cell(cell, args)
    show(args, "results guda", table_text(args))


if __name__ == "__main__":
    main()
