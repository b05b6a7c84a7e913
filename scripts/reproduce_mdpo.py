"""MDPO against Stable-Baselines3, cell by cell: train, evaluate, and print the tables of docs/results/mdpo.md.

Every cell is one training run of one seed. A cell whose row is in the table is not run again, so the
script can be stopped and called again at any time. Our agents are trained through the command line, with presets; the
peers by scripts/peers.py. All are evaluated alike: the last policy, acting deterministically, 20 episodes, gymnasium
backend.

    python scripts/reproduce_mdpo.py run --table on_policy     # about two hours a seed on one core, PPO's runs mostly
    python scripts/reproduce_mdpo.py run --table off_policy
    python scripts/reproduce_mdpo.py table                     # prints the tables from the kept runs
    python scripts/reproduce_mdpo.py write                     # puts them into docs/results/mdpo.md
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduction import ROOT, Results, cell_text, script_parser, show, train, wanted

EPISODES = 20
KEY = ("agent", "env", "total_timesteps", "seed")


@dataclass(frozen=True)
class Column:
    """One contestant: ``key`` names its rows, ``flags`` are added to ``rlopt train``; a peer has no agent."""

    key: str
    title: str
    agent: str | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    title: str
    steps: int
    seeds: tuple[int, ...]
    presets: dict[str, str]
    """Environment id -> preset."""
    columns: tuple[Column, ...]


SAC_LIKE = ("--learning-starts", "100", "--eval-every", "0", "--checkpoint-every", "200000")
TABLES = {
    "on_policy": Table(
        title="On-policy MDPO and Stable-Baselines3's PPO with rl-zoo's tuned settings, 1M steps",
        steps=1_000_000,
        seeds=(0, 1, 2),
        presets={
            "HalfCheetah-v5": "mujoco/half_cheetah",
            "Hopper-v5": "mujoco/hopper",
            "Walker2d-v5": "mujoco/walker2d",
        },
        columns=(
            Column("sb3_ppo", "SB3 PPO"),
            Column("mdpo", "MDPO", "mdpo", ("--eval-every", "0", "--checkpoint-every", "200000")),
        ),
    ),
    "off_policy": Table(
        title="Off-policy MDPO and Stable-Baselines3's SAC, equal networks and settings, 60k steps",
        steps=60_000,
        seeds=(0, 1, 2),
        presets={
            "dm_control/cartpole-swingup": "dmc/cartpole-swingup",
            "dm_control/walker-walk": "dmc/walker-walk",
        },
        columns=(
            Column("sb3_sac", "SB3 SAC"),
            Column("off_policy_mdpo_kl0", "MDPO, kl_coef 0", "off_policy_mdpo", (*SAC_LIKE, "--kl-coef", "0")),
            Column("off_policy_mdpo", "MDPO, preset", "off_policy_mdpo", SAC_LIKE),
        ),
    ),
}


def cells(table: Table) -> Iterator[tuple[Column, str, int]]:
    """Seed by seed, so that a run that is stopped early leaves whole comparisons."""
    for seed in table.seeds:
        for env in table.presets:
            for column in table.columns:
                yield column, env, seed


def run_cell(table: Table, column: Column, env: str, seed: int, args: argparse.Namespace) -> None:
    if args.results.find(agent=column.key, env=env, total_timesteps=table.steps, seed=seed):
        return
    common = ["--seed", str(seed), "--total-timesteps", str(table.steps)]
    if column.agent is None:
        peer = [sys.executable, str(ROOT / "scripts" / "peers.py"), "--agent", column.key, "--env", env, *common]
        subprocess.run([*peer, "--episodes", str(EPISODES), "--out", str(args.results.path)], check=True)
        return
    run = args.runs / f"{column.key}-{env.replace('/', '_')}-{table.steps}-seed{seed}"
    seconds = train(column.agent, run, "--preset", table.presets[env], *common, *column.flags)
    args.results.add_run(evaluated(column, env, seed, table.steps, run) | {"wall_seconds": seconds}, run)


def evaluated(column: Column, env: str, seed: int, steps: int, run: Path) -> dict[str, Any]:
    import rlopt

    model = rlopt.load(run, device="cpu")
    evaluation = rlopt.evaluate(model, env, n_episodes=EPISODES, seed=seed + 100_000, backend="gymnasium")
    return {
        "agent": column.key,
        "env": env,
        "seed": seed,
        "total_timesteps": steps,
        "returns": evaluation.returns.tolist(),
        "mean_return": evaluation.mean,
    }


def scores(results: Results, table: Table, column: Column, env: str) -> list[float]:
    rows = results.find(agent=column.key, env=env, total_timesteps=table.steps)
    return [row["mean_return"] for row in rows if row["seed"] in table.seeds]


def table_text(name: str, results: Results) -> str:
    table = TABLES[name]
    lines = [
        f"{table.title}; {len(table.seeds)} seeds, action repeat 1, IQM over seeds of the mean of {EPISODES} "
        "deterministic episodes of the last policy [95% bootstrap interval]:",
        "",
        "| task | " + " | ".join(column.title for column in table.columns) + " |",
        "|---" * (1 + len(table.columns)) + "|",
    ]
    for env in table.presets:
        texts = [cell_text(scores(results, table, column, env), len(table.seeds)) for column in table.columns]
        lines.append(f"| {env} | " + " | ".join(texts) + " |")
    return "\n".join([*lines, "", f"`python scripts/reproduce_mdpo.py run --table {name}`"])


def main() -> None:
    parser = script_parser(__doc__, "mdpo", KEY)
    parser.add_argument("--table", choices=sorted(TABLES), help="default: both")
    parser.add_argument("--only", help="run only the contestant of this key, such as mdpo or sb3_ppo")
    parser.add_argument("--env", help="run only this task")
    parser.add_argument("--seed", type=int, help="run only this seed")
    args = parser.parse_args()

    names = [args.table] if args.table else sorted(TABLES)
    for name in names:
        if args.action == "run":
            for column, env, seed in cells(TABLES[name]):
                if wanted(args, only=column.key, env=env, seed=seed):
                    run_cell(TABLES[name], column, env, seed, args)
        show(args, f"results {name}", table_text(name, args.results))


if __name__ == "__main__":
    main()
