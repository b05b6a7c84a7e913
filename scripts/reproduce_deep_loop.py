"""Average reward of DeepLOOP, of its RVI-SAC setting and of SAC in tasks without an end. Cell by cell.

Two comparisons of DeepLOOP with and without its bonus and its lazy switching, of which it has neither as RVI-SAC:
Swimmer, where a discount of .99 is too short, beside SAC with gamma .99 and .999, and a sparse dm_control task. As in
RVI-SAC's publication the state is reset every 1,000 steps and every learner's value continues behind that;
``--never-reset`` trains in one endless run instead. Each cell is one run of one seed; a cell whose row is in the table
is not run again, and an interrupted run continues from its last checkpoint, so the script can be stopped and called
again at any time. All policies are evaluated alike: the last one, deterministic, in 20 runs of 1,000 steps from the
start state, and in one run of 20,000 steps, of which the first 1,000 do not count. Numbers are the mean reward of a
step times 1000.

    python scripts/reproduce_deep_loop.py run                     # 30 runs
    python scripts/reproduce_deep_loop.py run --table swimmer --method rvi_sac --seed 0
    python scripts/reproduce_deep_loop.py table                   # prints the tables from the kept runs
    python scripts/reproduce_deep_loop.py write                   # puts them into docs/results/deep_loop.md
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduction import add_filters, cell_text, script_parser, show, train, wanted

SEEDS = (0, 1, 2)
RESET_EVERY = 1_000
"""Steps between two resets in training, and of a short evaluation."""
ENDLESS = 10**9
"""More steps than any run has."""
NEVER_RESET_STEPS = 200_000
"""Of a run without resets, by default."""
EPISODES = 20
EVALUATION_STEPS, BURN_IN = 20_000, 1_000
COMMON = ("--learning-starts", "10000", "--net-arch", "128", "128")
"""Of every method: 128-128 networks cost a quarter of the default ones on a CPU, and the tasks have 2 and 1 actions."""


@dataclass(frozen=True)
class Method:
    title: str
    agent: str
    flags: tuple[str, ...]


METHODS: dict[str, Method] = {
    "deep_loop": Method("DeepLOOP, bonus and lazy", "deep_loop", (*COMMON, "--lazy", "true")),
    "bonus": Method("DeepLOOP (bonus)", "deep_loop", COMMON),
    "no_bonus": Method("DeepLOOP, lazy alone", "deep_loop", (*COMMON, "--bonus", "false", "--lazy", "true")),
    "rvi_sac": Method("DeepLOOP as RVI-SAC (neither)", "deep_loop", (*COMMON, "--bonus", "false")),
    "sac_99": Method("SAC, gamma .99", "sac", (*COMMON, "--gamma", "0.99")),
    "sac_999": Method("SAC, gamma .999", "sac", (*COMMON, "--gamma", "0.999")),
}
TWO_BY_TWO = ("deep_loop", "bonus", "no_bonus", "rvi_sac")
TABLES: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "swimmer": ("Swimmer-v5", 200_000, (*TWO_BY_TWO, "sac_99", "sac_999")),
    "sparse": ("dm_control/cartpole-swingup_sparse", 200_000, TWO_BY_TWO),
}
"""Comparison -> environment, steps of a run, methods."""


@dataclass(frozen=True)
class Cell:
    table: str
    method: str
    seed: int

    @property
    def env(self) -> str:
        return TABLES[self.table][0]

    def steps(self, args: argparse.Namespace, endless: bool) -> int:
        return args.steps or (NEVER_RESET_STEPS if endless else TABLES[self.table][1])

    def key(self, args: argparse.Namespace, endless: bool) -> dict[str, Any]:
        steps = self.steps(args, endless)
        return {"method": self.method, "env": self.env, "steps": steps, "endless": endless, "seed": self.seed}


def cells(args: argparse.Namespace) -> Iterator[Cell]:
    """Seed by seed, so that a run that is stopped early leaves whole comparisons."""
    for seed in SEEDS:
        for table, (_, _, methods) in TABLES.items():
            for method in methods:
                if wanted(args, table=table, method=method, seed=seed):
                    yield Cell(table, method, seed)


def run_cell(cell: Cell, args: argparse.Namespace) -> None:
    key = cell.key(args, args.never_reset)
    if args.results.find(**key):
        return
    name = "-".join(str(part).rpartition("/")[2] for part in key.values())
    run, method = args.runs / name, METHODS[cell.method]
    limit = ENDLESS if args.never_reset else RESET_EVERY
    flags = ["--env", cell.env, "--seed", str(cell.seed), "--max-episode-steps", str(limit), "--eval-every", "0"]
    flags += ["--total-timesteps", str(key["steps"]), "--checkpoint-every", "50000", *method.flags]
    seconds = train(method.agent, run, *flags)
    args.results.add_run(key | evaluated(cell, args, run) | {"wall_seconds": seconds}, run)


def evaluated(cell: Cell, args: argparse.Namespace, run: Path) -> dict[str, Any]:
    import rlopt
    from rlopt.evaluation.gain import evaluate_average_reward

    model, seed = rlopt.load(run, device="cpu"), cell.seed + 100_000
    episodes = rlopt.evaluate(
        model, cell.env, EPISODES, seed=seed, n_envs=1, backend="gymnasium", max_episode_steps=RESET_EVERY
    )
    env = rlopt.make_env(cell.env, seed=seed, max_episode_steps=ENDLESS)
    estimate = evaluate_average_reward(model, env, args.evaluation_steps, BURN_IN, seed=seed)
    env.close()
    return {
        "returns": episodes.returns.tolist(),
        "mean_return": episodes.mean,
        "evaluation_steps": args.evaluation_steps,
        "average_reward": estimate.gain,
        "interval": [estimate.low, estimate.high],
        "switches": getattr(model, "n_switches", 0),
        "switches_by_interval": getattr(model, "n_switches_by_interval", 0),
    }


def table_text(args: argparse.Namespace) -> str:
    return "\n".join(
        [
            f"1000 times the average reward of the last policy, trained with a reset every {RESET_EVERY:,} steps, "
            f"networks of 128-128; {len(SEEDS)} seeds: IQM over seeds [95% bootstrap interval]. Short: {EPISODES} runs "
            f"of {RESET_EVERY:,} steps from the start state. Long: one run of {args.evaluation_steps:,} steps without "
            f"reset, the first {BURN_IN:,} left out. Switches are the mean over seeds, in brackets those that the "
            "longest interval forced:",
            "",
            *rows(args, endless=False),
            "",
            "`python scripts/reproduce_deep_loop.py run`",
            "",
            "Trained in one run that is never reset:",
            "",
            *rows(args, endless=True),
            "",
            "`python scripts/reproduce_deep_loop.py run --never-reset`",
        ]
    )


def rows(args: argparse.Namespace, endless: bool) -> list[str]:
    """A table; without resets only of what has been run, and in the long evaluation."""
    columns = ["task", "steps", "method", *([] if endless else ["short"]), "long", "switches"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for table, (env, _, methods) in TABLES.items():
        for method in methods:
            every = [Cell(table, method, seed) for seed in SEEDS]
            found = [row for cell in every for row in args.results.find(**cell.key(args, endless))]
            if endless and not found:
                continue
            short = cell_text([result["mean_return"] for result in found], len(SEEDS))
            long = cell_text([1000 * result["average_reward"] for result in found], len(SEEDS))
            words = [env, f"{every[0].steps(args, endless):,}", METHODS[method].title, *([] if endless else [short])]
            lines.append("| " + " | ".join([*words, long, switches_text(found)]) + " |")
    return lines


def switches_text(found: list[dict]) -> str:
    names = ("switches", "switches_by_interval")
    every, by_interval = (sum(result[name] for result in found) / max(len(found), 1) for name in names)
    return f"{every:.0f} ({by_interval:.0f})" if every > 1 else "-"


def main() -> None:
    parser = script_parser(__doc__, "deep_loop", ("method", "env", "steps", "endless", "seed"))
    add_filters(parser, table=sorted(TABLES), method=sorted(METHODS), seed=int)
    parser.add_argument("--steps", type=int, help="environment steps of a run; default: the table's own")
    parser.add_argument("--never-reset", action="store_true", help="train in one run without end")
    parser.add_argument("--evaluation-steps", type=int, default=EVALUATION_STEPS, help="other numbers want other "
                        "--results")  # fmt: skip
    args = parser.parse_args()

    if args.action == "run":
        for cell in cells(args):
            run_cell(cell, args)
    show(args, "results deep_loop", table_text(args))


if __name__ == "__main__":
    main()
