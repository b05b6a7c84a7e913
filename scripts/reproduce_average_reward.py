"""APO and differential DQN beside discounted PPO and DQN in six tasks without an end, cell by cell.

Each cell is one seed of one method in one task, with the method's defaults. A cell whose row is in the table is not run
again, so the script can be stopped and called again at any time. The last policy is evaluated, deterministic, in one
run of 20,000 steps, of which the first 1,000 do not count; the number is its mean reward of a step. ``best`` is the
exact optimum where the process is finite.

    python scripts/reproduce_average_reward.py run
    python scripts/reproduce_average_reward.py table               # prints the table from the kept runs
    python scripts/reproduce_average_reward.py write               # puts it into docs/results/average_reward.md
"""

import argparse
import functools
import time
from typing import Any, NamedTuple

from reproduction import add_filters, cell_text, script_parser, show, wanted

SEEDS = (0, 1, 2)
TASKS = ("TwoChoiceLoop", "AccessControl", "ServerAllocation", "RiverSwim", "Catcher", "PuckWorld")
EVALUATION_STEPS, BURN_IN = 20_000, 1_000


class Method(NamedTuple):
    title: str
    peer: str
    """The class, in rlopt or, after a colon, in Stable-Baselines3."""
    settings: dict[str, Any]


METHODS = {
    "apo": Method("APO", "APO", {"n_steps": 512}),
    "ppo": Method("PPO, gamma .99", "PPO", {"n_steps": 512}),
    "ppo_centred": Method("PPO, gamma .99, centred", "PPO", {"n_steps": 512, "reward_centring": True}),
    "differential_dqn": Method("differential DQN", "DifferentialDQN", {}),
    "dqn": Method(
        "DQN, gamma .99, Stable-Baselines3",
        ":DQN",
        {"learning_rate": 3e-4, "batch_size": 64, "train_freq": 1, "tau": 0.005, "target_update_interval": 1},
    ),
}
"""DQN learns at the pace of differential DQN."""


def play(task: str, method: Method, seed: int, steps: int) -> dict[str, Any]:
    """One run and its evaluation."""
    import stable_baselines3

    import rlopt
    from rlopt.evaluation.gain import evaluate_average_reward

    package: Any = stable_baselines3 if method.peer.startswith(":") else rlopt
    env = rlopt.make_env(f"rlopt/{task}-v0", seed=seed)
    model = getattr(package, method.peer.removeprefix(":"))(
        "MlpPolicy", env, seed=seed, device="cpu", **method.settings
    )
    start = time.perf_counter()
    model.learn(steps)
    seconds = time.perf_counter() - start
    estimate = evaluate_average_reward(model, f"rlopt/{task}-v0", EVALUATION_STEPS, BURN_IN, seed=seed + 100_000)
    return {"average_reward": estimate.gain, "interval": [estimate.low, estimate.high], "wall_seconds": seconds}


@functools.cache
def best(task: str) -> str:
    """The optimal gain, if the process is finite."""
    import gymnasium

    import rlopt.envs.tasks.own_tasks  # noqa: F401 registers them

    mdp = getattr(gymnasium.make(f"rlopt/{task}-v0").unwrapped, "mdp", None)
    return "-" if mdp is None else f"{mdp.gain:.3f}"


def table_text(args: argparse.Namespace) -> str:
    titles = " | ".join(method.title for method in METHODS.values())
    lines = [
        f"Reward per step of the last policy after {args.steps:,} steps; {len(SEEDS)} seeds: IQM over seeds [95% "
        f"bootstrap interval].",
        "",
        f"| task | best | {titles} |",
        "|---" * (len(METHODS) + 2) + "|",
    ]
    for task in TASKS:
        cells = []
        for name in METHODS:
            rows = args.results.find(task=task, method=name, steps=args.steps)
            cells.append(cell_text([row["average_reward"] for row in rows if row["seed"] in SEEDS], len(SEEDS), 3))
        lines.append(f"| {task} | {best(task)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"`python scripts/reproduce_average_reward.py run --steps {args.steps}`"])


def main() -> None:
    parser = script_parser(__doc__, "average_reward", ("task", "method", "steps", "seed"), runs=False)
    add_filters(parser, task=TASKS, method=sorted(METHODS), seed=int)
    parser.add_argument("--steps", type=int, default=20_000, help="environment steps of a run")
    args = parser.parse_args()

    if args.action == "run":
        for seed in SEEDS:
            for task in TASKS:
                for name, method in METHODS.items():
                    cell = {"task": task, "method": name, "steps": args.steps, "seed": seed}
                    if not wanted(args, task=task, method=name, seed=seed) or args.results.find(**cell):
                        continue
                    row = cell | play(task, method, seed, args.steps)
                    args.results.add(row, {"config": {"settings": method.settings}, "versions": versions()})
                    print(task, name, seed, f"{row['average_reward']:.3f}", flush=True)
    show(args, "results average_reward", table_text(args))


def versions() -> dict[str, str]:
    import stable_baselines3

    from rlopt import __version__

    return {"rlopt": __version__, "stable_baselines3": stable_baselines3.__version__}


if __name__ == "__main__":
    main()
