"""SAC on rewards learned from preferences: return against the number of labels, beside the library imitation's.

A simulated teacher prefers the fragment with the higher return of the environment. Every cell is one training run of
the same number of environment steps; its last policy, acting deterministically, is evaluated on the environment's own
rewards. ``rlopt`` asks what its models disagree on most, ``random`` asks at random, ``true`` is SAC on the
environment's own rewards. ``imitation`` is that library's preference comparison with Stable-Baselines3's SAC, in an
interpreter of its own, since it needs older packages:

    python3 -m venv peer && peer/bin/pip install imitation 'numpy<2' 'mujoco<3.3'
    python scripts/reproduce_preferences.py run --peer-python peer/bin/python
    python scripts/reproduce_preferences.py table    # prints the table from the kept runs
    python scripts/reproduce_preferences.py write    # puts it into docs/results/preferences.md

A cell whose row is in the table is not run again. Without ``--peer-python`` the peer's cells wait.
"""

import argparse
import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduction import cell_text, script_parser, show, train, wanted

EPISODES = 10
SEEDS = (0, 1, 2)
LABELS = (10, 30, 100)
FRAGMENT, ROUNDS = 50, 5


@dataclass(frozen=True)
class Task:
    env: str
    peer_env: str | None
    """Its name in the Gymnasium that imitation needs; None where episodes are shorter than fragments, which it
    refuses."""
    steps: int


TASKS = {
    "Pendulum": Task("Pendulum-v1", "Pendulum-v1", 5_000),
    "Reacher": Task("Reacher-v5", "Reacher-v4", 5_000),
    "InvertedPendulum": Task("InvertedPendulum-v5", None, 5_000),
}
ARMS = {
    "rlopt": "rlopt, questions by disagreement",
    "random": "rlopt, questions at random",
    "imitation": "imitation's preference comparison",
}


def run_cell(name: str, arm: str, labels: int, seed: int, args: argparse.Namespace) -> None:
    if args.results.find(task=name, arm=arm, labels=labels, seed=seed):
        return
    key = {"task": name, "arm": arm, "labels": labels, "seed": seed}
    start = time.perf_counter()
    if arm == "imitation":
        task = TASKS[name]
        if args.peer_python is None or task.peer_env is None:
            return
        found = _peer(task, labels, seed, args.peer_python)
    else:
        found = {"mean_return": _ours(TASKS[name], arm, labels, seed, args.runs / f"{name}-{arm}-{labels}-seed{seed}")}
    args.results.add(key | found | {"seconds": round(time.perf_counter() - start, 1)})
    print(f"{name} {arm} {labels} labels seed {seed}: return {found['mean_return']:.1f}", flush=True)


def _ours(task: Task, arm: str, labels: int, seed: int, run: Path) -> float:
    import rlopt
    from rlopt.preferences import PreferenceConfig, save_preferences

    flags = ["--env", task.env, "--seed", str(seed), "--total-timesteps", str(task.steps), "--eval-every", "0",
             "--checkpoint-every", "1000"]  # fmt: skip
    if arm != "true":
        config = PreferenceConfig(
            labels=labels,
            fragment_length=FRAGMENT,
            query_every=task.steps // (ROUNDS + 2),
            labels_per_query=max(labels // ROUNDS, 1),
            candidates=1 if arm == "random" else PreferenceConfig.candidates,
        )
        flags += ["--reward", str(save_preferences(run.with_name(f"{run.name}-preferences"), config))]
    train("sac", run, *flags)
    policy = rlopt.load(run, device="cpu")
    return rlopt.evaluate(policy, task.env, n_episodes=EPISODES, seed=seed + 100_000, backend="gymnasium").mean


def _peer(task: Task, labels: int, seed: int, python: str) -> dict[str, Any]:
    script = Path(__file__).with_name("preference_peer.py")
    settings = {"env": task.peer_env, "steps": task.steps, "labels": labels, "seed": seed, "fragment": FRAGMENT,
                "rounds": ROUNDS, "episodes": EPISODES}  # fmt: skip
    done = subprocess.run([python, str(script), json.dumps(settings)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{script.name} failed in {python}: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_all(args: argparse.Namespace) -> None:
    """Seed by seed, so that what is stopped early has as many seeds of each."""
    for seed in SEEDS:
        for name in TASKS:
            for arm in ("true", *ARMS):
                for labels in (0,) if arm == "true" else LABELS:
                    if wanted(args, task=name, arm=arm, seed=seed):
                        run_cell(name, arm, labels, seed, args)


def table_text(args: argparse.Namespace) -> str:
    lines = [
        f"SAC, {TASKS['Pendulum'].steps:,} environment steps, a teacher without errors, fragments of {FRAGMENT} steps, "
        f"{ROUNDS} rounds of questions. Mean return of {EPISODES} deterministic episodes of the last policy on the "
        f"environment's own rewards: interquartile mean over {len(SEEDS)} seeds [95% bootstrap interval]. imitation "
        "runs Reacher-v4, which its Gymnasium has, and Stable-Baselines3's SAC; it refuses trajectories shorter than a "
        "fragment, as random ones of InvertedPendulum are. Nothing was tuned for either.",
        "",
    ]
    for name in TASKS:
        lines += [
            f"| {name} | {' | '.join(f'{labels} labels' for labels in LABELS)} |",
            "|---" * (len(LABELS) + 1) + "|",
        ]
        for arm, title in ARMS.items():
            if arm == "imitation" and TASKS[name].peer_env is None:
                continue
            cells = [cell_text(_returns(args, name, arm, labels), len(SEEDS)) for labels in LABELS]
            lines.append(f"| {title} | {' | '.join(cells)} |")
        true = cell_text(_returns(args, name, "true", 0), len(SEEDS))
        lines += ["", f"On the environment's own rewards: {true}.", ""]
    return "\n".join([*lines, "`python scripts/reproduce_preferences.py run --peer-python peer/bin/python`"])


def _returns(args: argparse.Namespace, name: str, arm: str, labels: int) -> list[float]:
    return [row["mean_return"] for row in args.results.find(task=name, arm=arm, labels=labels)]


def main() -> None:
    parser = script_parser(__doc__ or "", "preferences", ("task", "arm", "labels", "seed"))
    parser.add_argument("--peer-python", help="interpreter of an environment with the library imitation")
    parser.add_argument("--task", choices=sorted(TASKS), help="run only this task")
    parser.add_argument("--arm", choices=["true", *ARMS], help="run only this arm")
    parser.add_argument("--seed", type=int, choices=SEEDS, help="run only this seed")
    args = parser.parse_args()

    if args.action == "run":
        run_all(args)
    show(args, "results preferences", table_text(args))


if __name__ == "__main__":
    main()
