"""MDPO against Stable-Baselines3, cell by cell: train, evaluate, and print the tables of docs/results/mdpo.md.

Every cell is one training run of one seed. A cell whose row is in the table is not run again, so the
script can be stopped and called again at any time. Our agents are trained through the command line, with presets; the
peers by scripts/peers.py. All are evaluated alike: the last policy, acting deterministically, 20 episodes, gymnasium
backend.

Presets were chosen on the seeds ``tuning_seeds``, which are not reported.

    python scripts/reproduce_mdpo.py run --table on_policy     # about two hours a seed on one core, PPO's runs mostly
    python scripts/reproduce_mdpo.py run --table off_policy
    python scripts/reproduce_mdpo.py table                     # prints the tables from the kept runs
    python scripts/reproduce_mdpo.py write                     # puts them into docs/results/mdpo.md
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence import Arm, Declared, check_all_shown
from reproduction import ROOT, Results, add_filters, cell_text, script_parser, show, train, wanted

EPISODES = 20
KEY = ("agent", "env", "total_timesteps", "seed")


@dataclass(frozen=True)
class Column(Arm):
    """One contestant; ``flags`` are added to ``rlopt train``, and an agent of another library has no ``agent``."""

    agent: str | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    title: str
    steps: int
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    """On which the presets were chosen."""
    presets: dict[str, str]
    """Environment id -> preset."""
    columns: tuple[Column, ...]

    @property
    def declared(self) -> Declared:
        """A preset is chosen for its task, so that seeds alone must differ."""
        tasks = frozenset(self.presets)
        return Declared(tasks, frozenset(self.tuning_seeds), tasks, frozenset(self.seeds), tasks_too=False)


TEST_SEEDS = tuple(range(2, 12))
ON_POLICY = ("--eval-every", "0", "--checkpoint-every", "200000")
SAC_LIKE = ("--learning-starts", "100", "--eval-every", "0", "--checkpoint-every", "200000")
TABLES = {
    "on_policy": Table(
        title="On-policy MDPO, and PPO and TRPO of Stable-Baselines3 with rl-zoo's tuned settings, 1M steps",
        steps=1_000_000,
        seeds=TEST_SEEDS,
        tuning_seeds=(0, 1),
        presets={
            "HalfCheetah-v5": "mujoco/half_cheetah",
            "Hopper-v5": "mujoco/hopper",
            "Walker2d-v5": "mujoco/walker2d",
        },
        columns=(
            Column("sb3_ppo", "SB3 PPO", "peer"),
            Column("sb3_trpo", "sb3-contrib TRPO", "peer"),
            Column(
                "mdpo_free",
                "MDPO without proximity",
                "ablation",
                "mdpo",
                (*ON_POLICY, "--step-size", "1e6", "--step-size-schedule", "constant"),
            ),
            Column("mdpo", "MDPO", "ours", "mdpo", ON_POLICY),
        ),
    ),
    "off_policy": Table(
        title="Off-policy MDPO and Stable-Baselines3's SAC, equal networks and settings, 60k steps",
        steps=60_000,
        seeds=TEST_SEEDS,
        tuning_seeds=(0, 1),
        presets={"dm_control/cartpole-swingup": "dmc/cartpole-swingup", "dm_control/walker-walk": "dmc/walker-walk"},
        columns=(
            Column("sb3_sac", "SB3 SAC", "peer"),
            Column(
                "off_policy_mdpo_kl0", "MDPO, kl_coef 0", "ablation", "off_policy_mdpo", (*SAC_LIKE, "--kl-coef", "0")
            ),
            Column("off_policy_mdpo", "MDPO, preset", "ours", "off_policy_mdpo", SAC_LIKE),
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
    rows = table.declared.reported(results.find(agent=column.key, env=env, total_timesteps=table.steps), task="env")
    return [row["mean_return"] for row in rows]


def table_text(name: str, results: Results) -> str:
    """The table; refuses what :mod:`evidence` refuses."""
    table = TABLES[name]
    rows = [row for env in table.presets for row in results.find(env=env, total_timesteps=table.steps)]
    check_all_shown(rows, table.columns, key="agent")
    lines = [
        f"{table.title}; seeds {table.seeds[0]} to {table.seeds[-1]}, action repeat 1, IQM over seeds of the mean of "
        f"{EPISODES} deterministic episodes of the last policy [95% bootstrap interval]. Presets were chosen on seeds "
        f"{' and '.join(map(str, table.tuning_seeds))}, which are not shown:",
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
    add_filters(parser, env=str, seed=int)
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
