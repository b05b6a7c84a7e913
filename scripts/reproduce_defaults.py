"""On-policy agents at their defaults on small tasks, without a preset: MDPO, PPO and TRPO.

    python scripts/reproduce_defaults.py run       # seed by seed, so that what is there is always a whole comparison
    python scripts/reproduce_defaults.py table     # prints the table of the kept runs
    python scripts/reproduce_defaults.py write     # puts it into docs/results/defaults.md

Every run is ``AGENT("MlpPolicy", env, seed=seed).learn(20_000)`` in one environment; only the class differs. The last
policy is evaluated, acting deterministically, for ten episodes, on rewards as they are without ``scale``. MDPO's
defaults were chosen on tasks and seeds that are not reported (``DECLARED``). A cell whose row is in the table is not
run again, so the script can be stopped and called again at any time. It needs the packages sb3-contrib and box2d.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from evidence import Arm, Declared, check_all_shown, check_headline
from reproduction import Results, add_filters, cell_text, script_parser, show, wanted

STEPS, EPISODES = 20_000, 10
KEY = ("arm", "task", "seed")


@dataclass(frozen=True)
class Task:
    env: str
    scale: float = 1.0
    """Of the rewards that the agent sees."""

    @property
    def name(self) -> str:
        return self.env if self.scale == 1 else f"{self.env} x {self.scale:g}"


TUNING = (
    "CartPole-v1", "Pendulum-v1", "InvertedPendulum-v5", "Acrobot-v1", "HalfCheetah-v5", "Hopper-v5",
    "dm_control/walker-walk", "dm_control/cheetah-run",
)  # fmt: skip
TASKS = (
    Task("LunarLander-v3"),
    Task("InvertedDoublePendulum-v5"),
    Task("dm_control/point_mass-easy"),
    Task("Reacher-v5"),
    Task("LunarLander-v3", 0.01),
    Task("LunarLanderContinuous-v3"),
    Task("Swimmer-v5"),
    Task("InvertedDoublePendulum-v5", 100.0),
    Task("dm_control/walker-stand"),
    Task("MountainCarContinuous-v0"),
    Task("Pusher-v5"),
    Task("InvertedDoublePendulum-v5", 0.01),
    Task("dm_control/fish-upright"),
    Task("Reacher-v5", 100.0),
    Task("dm_control/finger-turn_easy"),
)
SEEDS = tuple(range(10))
DECLARED = Declared(
    tuning_tasks=frozenset(TUNING),
    tuning_seeds=frozenset({100, 101, 102}),
    test_tasks=frozenset(task.name for task in TASKS),
    test_seeds=frozenset(SEEDS),
)
ARMS = (
    Arm("mdpo", "MDPO", "ours"),
    Arm("mdpo_free", "MDPO without proximity", "ablation"),
    Arm("sb3_ppo", "SB3 PPO", "peer"),
    Arm("sb3_ppo_short", "SB3 PPO, MDPO's rollout and rate", "peer"),
    Arm("sb3_trpo", "sb3-contrib TRPO", "peer"),
)


def make_env(task: Task, seed: int, scaled: bool) -> Any:
    from peers import make_peer_env
    from stable_baselines3.common.vec_env import VecEnvWrapper, VecMonitor

    class Scaled(VecEnvWrapper):
        def reset(self) -> Any:
            return self.venv.reset()

        def step_wait(self) -> Any:
            observations, rewards, dones, infos = self.venv.step_wait()
            return observations, rewards * np.float32(task.scale), dones, infos

    env = VecMonitor(make_peer_env(task.env, seed))
    return Scaled(env) if scaled and task.scale != 1 else env


def build(arm: str, env: Any, seed: int) -> Any:
    if arm.startswith("sb3_ppo"):
        from stable_baselines3 import PPO

        from rlopt.agents.mdpo.config import DEFAULT_RATE

        # What MDPO's defaults owe to shorter rollouts and a higher, falling rate alone.
        short = {"n_steps": 512, "learning_rate": DEFAULT_RATE} if arm == "sb3_ppo_short" else {}
        return PPO("MlpPolicy", env, seed=seed, device="cpu", **short)
    if arm == "sb3_trpo":
        from sb3_contrib import TRPO

        return TRPO("MlpPolicy", env, seed=seed, device="cpu")
    import rlopt

    free = {"target_kl": None, "step_size": 1e6, "step_size_schedule": "constant"} if arm == "mdpo_free" else {}
    return rlopt.MDPO("MlpPolicy", env, seed=seed, device="cpu", **free)


def run_cell(arm: Arm, task: Task, seed: int, results: Results) -> None:
    import sb3_contrib
    import stable_baselines3
    import torch
    from stable_baselines3.common.evaluation import evaluate_policy

    if results.find(arm=arm.key, task=task.name, seed=seed):
        return
    torch.set_num_threads(1)
    model = build(arm.key, make_env(task, seed, scaled=True), seed)
    start = time.perf_counter()
    model.learn(STEPS)
    seconds = time.perf_counter() - start
    env = make_env(task, seed + 100_000, scaled=False)
    returns, _ = evaluate_policy(model, env, EPISODES, deterministic=True, return_episode_rewards=True)
    cell = {"arm": arm.key, "task": task.name, "seed": seed}
    row = {"returns": [float(value) for value in returns], "mean_return": float(np.mean(returns))}
    versions = {"torch": torch.__version__, "stable_baselines3": stable_baselines3.__version__}
    settings = {"steps": STEPS, "episodes": EPISODES, "versions": {**versions, "sb3_contrib": sb3_contrib.__version__}}
    results.add({**cell, **row, "wall_seconds": seconds}, settings)
    print(*cell.values(), f"{row['mean_return']:.1f}", f"{seconds:.0f} s", flush=True)


def cells() -> Iterator[tuple[Arm, Task, int]]:
    """Seed by seed."""
    for seed in SEEDS:
        for task in TASKS:
            for arm in ARMS:
                yield arm, task, seed


def scores(rows: list[Any], arm: str) -> dict[str, list[float]]:
    """Of each task that has runs."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["arm"] == arm:
            found.setdefault(row["task"], []).append(row["mean_return"])
    return found


def table_text(results: Results) -> str:
    """The table; refuses what :mod:`evidence` refuses."""
    from rlopt.statistics.aggregates import iqm

    rows = DECLARED.reported(results.find())
    check_all_shown(rows, ARMS)
    by_arm = {arm.key: scores(rows, arm.key) for arm in ARMS}
    lines = [
        f"Defaults, {STEPS:,} steps in one environment; up to {len(SEEDS)} seeds, IQM over seeds of the mean of "
        f"{EPISODES} deterministic episodes of the last policy [95% bootstrap interval]. MDPO's defaults were chosen "
        f"on {', '.join(TUNING)} with seeds {', '.join(map(str, sorted(DECLARED.tuning_seeds)))}. MDPO without "
        "proximity has `target_kl=None, step_size=1e6`.",
        "",
        "| task | " + " | ".join(arm.title for arm in ARMS) + " |",
        "|---" * (1 + len(ARMS)) + "|",
    ]
    complete = 0
    not_below = dict.fromkeys(("PPO and TRPO at their defaults", "all peers"), 0)
    for task in TASKS:
        own = {arm.key: by_arm[arm.key].get(task.name, []) for arm in ARMS}
        if all(own.values()):
            check_headline(own, ARMS, own, iqm, task.name)
            complete += 1
            peers = {arm.key: iqm(own[arm.key]) for arm in ARMS if arm.role == "peer"}
            defaults = [value for key, value in peers.items() if key != "sb3_ppo_short"]
            for name, found in zip(not_below, (defaults, peers.values()), strict=True):
                not_below[name] += iqm(own["mdpo"]) >= max(found)
        texts = [cell_text(own[arm.key], len(SEEDS), decimals=1) for arm in ARMS]
        lines.append(f"| {task.name} | " + " | ".join(texts) + " |")
    lines.append("")
    for arm in ARMS[1:]:
        lines += against(by_arm["mdpo"], by_arm[arm.key], arm.title)
    lines += [
        f"- MDPO's IQM is not below that of the best of {name} on {count} of {complete} tasks."
        for name, count in not_below.items()
    ]
    return "\n".join([*lines, "", "`python scripts/reproduce_defaults.py run`"])


def against(ours: dict[str, list[float]], theirs: dict[str, list[float]], title: str) -> list[str]:
    """A line with P(better) over the tasks that both have."""
    from rlopt.statistics.aggregates import improvement_interval, probability_of_improvement

    both = [task for task in ours if task in theirs]
    if not both:
        return []
    pair = ({task: ours[task] for task in both}, {task: theirs[task] for task in both})
    low, high = improvement_interval(*pair, seed=0)
    return [
        f"- P(MDPO better than {title}) = {probability_of_improvement(*pair):.2f} [{low:.2f}, {high:.2f}], "
        f"{len(both)} tasks."
    ]


def main() -> None:
    parser: argparse.ArgumentParser = script_parser(__doc__ or "", "defaults", KEY, runs=False)
    parser.add_argument("--only", help="run only the arm of this key")
    add_filters(parser, task=str, seed=int)
    args = parser.parse_args()
    if args.action == "run":
        DECLARED.check()
        for arm, task, seed in cells():
            if wanted(args, only=arm.key, task=task.name, seed=seed):
                run_cell(arm, task, seed, args.results)
    show(args, "results defaults", table_text(args.results))


if __name__ == "__main__":
    main()
