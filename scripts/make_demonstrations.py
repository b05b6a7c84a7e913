"""Make the demonstrations that come with rlopt: train the experts, then record each one's best checkpoint.

Each is ten episodes of mean actions, seed 0, of an expert that ``rlopt train off_policy_mdpo --preset experts/<task>``
trained, in rlopt/data/demonstration_sets/dmc/<task>.npz. A run that is there already is not trained again.

    python scripts/make_demonstrations.py --runs runs/experts
    python scripts/make_demonstrations.py --runs runs/experts walker-walk
"""

import argparse
import sys
from pathlib import Path

from rlopt.cli.main import main as rlopt
from rlopt.data.loading import SETS

TASKS = ("ball_in_cup-catch", "cartpole-swingup", "walker-walk", "cheetah-run")
LARGEST_TOTAL = 2 * 10**6
"""Bytes that all the sets may take together, as they are in the package."""


def make(task: str, runs: Path, trajectories: int) -> int:
    """Trains the expert of ``task`` unless its run is there, and records it; returns an exit code."""
    run = runs / task
    if not run.exists():
        code = rlopt(["train", "off_policy_mdpo", "--preset", f"experts/{task}", "--run-dir", str(run)])
        if code:
            return code
    out = SETS / "dmc" / f"{task}.npz"
    return rlopt(["demos", "record", str(run), "--n-trajectories", str(trajectories), "--out", str(out), "--overwrite"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"default: {' '.join(TASKS)}")
    parser.add_argument("--runs", type=Path, required=True, help="folder with a run folder for each task")
    parser.add_argument("--n-trajectories", type=int, default=10)
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.tasks) - set(TASKS)):
        parser.error(f"{unknown[0]}: known are {', '.join(TASKS)}")
    for task in arguments.tasks or TASKS:
        if code := make(task, arguments.runs, arguments.n_trajectories):
            return code
    sizes = {path.stem: path.stat().st_size for path in sorted(SETS.glob("*/*.npz"))}
    print(*(f"{size:>10,} bytes  {name}" for name, size in sizes.items()), sep="\n")
    print(f"{sum(sizes.values()):>10,} bytes in all, {LARGEST_TOTAL:,} allowed")
    return 0 if sum(sizes.values()) <= LARGEST_TOTAL else 1


if __name__ == "__main__":
    sys.exit(main())
