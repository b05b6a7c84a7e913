"""Average reward of DeepLOOP, of its RVI-SAC setting and of SAC in tasks that go on for ever. Cell by cell.

Two comparisons. Swimmer, where a discount of .99 is too short: DeepLOOP, RVI-SAC, SAC with gamma .99 and .999. A sparse
dm_control task: DeepLOOP with and without its optimism. Training and evaluation have no time limit and no reset. Each
cell is one run of one seed; a cell whose result file exists is not run again, so the script can be stopped and called
again at any time. All policies are evaluated alike: the last one, deterministic, in one run of 20,000 steps from the
start state, of which the first 1,000 do not count. Numbers are the mean reward of a step times 1000.

    python scripts/reproduce_deep_loop.py run                     # 24 runs of 200,000 steps
    python scripts/reproduce_deep_loop.py run --table swimmer --method rvi_sac --seed 0
    python scripts/reproduce_deep_loop.py table                   # prints the tables from the result files
    python scripts/reproduce_deep_loop.py write                   # puts them into docs/results/deep_loop.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduction import cell_text, keep_result, script_parser, show, train, wanted

SEEDS = (0, 1, 2)
ENDLESS = 10**9
"""Steps before a time limit, more than any run has."""
EVALUATION_STEPS, BURN_IN = 20_000, 1_000
COMMON = ("--learning-starts", "10000", "--net-arch", "128", "128")
"""Of every method: 128-128 networks cost a quarter of the default ones on a CPU, and the tasks have 2 and 1 actions."""


@dataclass(frozen=True)
class Method:
    title: str
    agent: str
    flags: tuple[str, ...]


METHODS: dict[str, Method] = {
    "deep_loop": Method("DeepLOOP", "deep_loop", COMMON),
    "no_bonus": Method("DeepLOOP without bonus", "deep_loop", (*COMMON, "--bonus", "false")),
    "not_lazy": Method("DeepLOOP without laziness", "deep_loop", (*COMMON, "--lazy", "false")),
    "rvi_sac": Method("DeepLOOP as RVI-SAC (neither)", "deep_loop", (*COMMON, "--bonus", "false", "--lazy", "false")),
    "sac_99": Method("SAC, gamma .99", "off_policy_mdpo", (*COMMON, "--kl-coef", "0", "--gamma", "0.99")),
    "sac_999": Method("SAC, gamma .999", "off_policy_mdpo", (*COMMON, "--kl-coef", "0", "--gamma", "0.999")),
}
TABLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "swimmer": ("Swimmer-v5", ("deep_loop", "rvi_sac", "sac_99", "sac_999")),
    "sparse": ("dm_control/cartpole-swingup_sparse", ("deep_loop", "no_bonus", "not_lazy", "rvi_sac")),
}
"""Comparison -> environment and methods."""


@dataclass(frozen=True)
class Cell:
    table: str
    method: str
    seed: int

    @property
    def env(self) -> str:
        return TABLES[self.table][0]

    def name(self, steps: int) -> str:
        return f"{self.method}-{self.env.rpartition('/')[2]}-{steps}-seed{self.seed}"


def cells(args: argparse.Namespace) -> Iterator[Cell]:
    """Seed by seed, so that a run that is stopped early leaves whole comparisons."""
    for seed in SEEDS:
        for table, (_, methods) in TABLES.items():
            for method in methods:
                if wanted(args, table=table, method=method, seed=seed):
                    yield Cell(table, method, seed)


def run_cell(cell: Cell, args: argparse.Namespace) -> None:
    path = args.results / f"{cell.name(args.steps)}.json"
    if path.exists():
        return
    run, method = args.runs / path.stem, METHODS[cell.method]
    flags = ["--env", cell.env, "--seed", str(cell.seed), "--max-episode-steps", str(ENDLESS), "--eval-every", "0"]
    flags += ["--total-timesteps", str(args.steps), "--checkpoint-every", "50000", *method.flags]
    seconds = train(method.agent, run, *flags)
    keep_result(path, evaluated(cell, args, run) | {"wall_seconds": seconds}, run)


def evaluated(cell: Cell, args: argparse.Namespace, run: Path) -> dict[str, Any]:
    import rlopt
    from rlopt.average_reward.estimation import evaluate_average_reward

    model = rlopt.load(run, device="cpu")
    env = rlopt.make_env(cell.env, seed=cell.seed + 100_000, max_episode_steps=ENDLESS)
    estimate = evaluate_average_reward(model, env, args.evaluation_steps, BURN_IN, seed=cell.seed + 100_000)
    env.close()
    return {
        "method": cell.method,
        "env": cell.env,
        "seed": cell.seed,
        "steps": args.steps,
        "evaluation_steps": args.evaluation_steps,
        "average_reward": estimate.gain,
        "interval": [estimate.low, estimate.high],
        "mean_return": 1000 * estimate.gain,
        "switches": getattr(model, "n_switches", 0),
        "switches_by_interval": getattr(model, "n_switches_by_interval", 0),
        "plain_gain": getattr(model, "plain_gain", None),
    }


def table_text(args: argparse.Namespace) -> str:
    lines = [
        f"1000 times the average reward of the last policy after {args.steps:,} steps without reset, networks of "
        f"128-128; {len(SEEDS)} seeds: IQM over seeds [95% bootstrap interval]; evaluation over {args.evaluation_steps:,} steps. Switches of "
        "the behaviour are the mean over seeds, in brackets those that only the longest interval made:",
        "",
        "| task | method | average reward x 1000 | switches |",
        "|---|---|---|---|",
    ]
    for table, (env, methods) in TABLES.items():
        for method in methods:
            paths = [args.results / f"{Cell(table, method, seed).name(args.steps)}.json" for seed in SEEDS]
            found = [json.loads(path.read_text()) for path in paths if path.exists()]
            value = cell_text([result["mean_return"] for result in found], len(SEEDS))
            counts = [
                sum(result[name] for result in found) / max(len(found), 1)
                for name in ("switches", "switches_by_interval")
            ]
            switches = f"{counts[0]:.0f} ({counts[1]:.0f})" if counts[0] > 1 else "-"
            lines.append(f"| {env} | {METHODS[method].title} | {value} | {switches} |")
    return "\n".join([*lines, "", f"`python scripts/reproduce_deep_loop.py run --steps {args.steps}`"])


def main() -> None:
    parser = script_parser(__doc__, "deep_loop")
    parser.add_argument("--table", choices=sorted(TABLES), help="run only this comparison")
    parser.add_argument("--method", choices=sorted(METHODS), help="run only this method")
    parser.add_argument("--seed", type=int, help="run only this seed")
    parser.add_argument("--steps", type=int, default=200_000, help="environment steps of a run")
    parser.add_argument("--evaluation-steps", type=int, default=EVALUATION_STEPS, help="other numbers want other "
                        "--results")  # fmt: skip
    args = parser.parse_args()

    if args.action == "run":
        for cell in cells(args):
            run_cell(cell, args)
    show(args, "results deep_loop", table_text(args))


if __name__ == "__main__":
    main()
