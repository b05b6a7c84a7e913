"""Imitation from one demonstration: AILBoost and its baselines, cell by cell.

Every cell is one run of one seed. A cell whose row is in the table is not run again, and a run that was stopped is
continued, so the script can be called again at any time. All runs of a table have as many environment steps (agent
steps, of two simulator steps each) and the same learner; BC takes as many gradient steps and none in the environment.
The last policy plays 20 deterministic episodes; of AILBoost and DAC the mixture too. Scores are percent of the return
of the expert that was recorded.

    python scripts/reproduce_ailboost.py run --table one_demo     # 6 runs: two tasks, three seeds
    python scripts/reproduce_ailboost.py run --table methods      # 30 runs: two tasks, five methods, three seeds
    python scripts/reproduce_ailboost.py run --table ablation     # 36 runs: one task, twelve variants, three seeds
    python scripts/reproduce_ailboost.py run --table one_demo --task ball_in_cup-catch --seed 0
    python scripts/reproduce_ailboost.py table                    # prints the tables from the kept runs
    python scripts/reproduce_ailboost.py write                    # puts them and the figure into docs/results
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduction import cell_text, script_parser, show, train, wanted

EPISODES = 20
SEEDS = (0, 1, 2)
EVERY = 10_000
"""Environment steps between the evaluations of a learning curve."""
PRESET = ("--preset", "dmc/one-demo")


@dataclass(frozen=True)
class Method:
    title: str
    agent: str
    flags: tuple[str, ...] = ()


METHODS: dict[str, Method] = {
    "ailboost": Method("AILBoost", "ailboost", PRESET),
    "dac": Method("DAC", "dac", PRESET),
    "dac_fifo": Method("DAC + FIFO", "dac", (*PRESET, "--weighting", "recent")),
    "bc": Method("BC", "bc"),
    "iq_learn": Method("IQ-Learn", "iq_learn", ("--actor-learning-rate", "3e-4", "--value-term", "v0")),
}


def ablation() -> dict[str, Method]:
    """{uniform, FIFO, weighted} x {reverse KL, Jensen-Shannon} x {relabelled, stale}, with AILBoost's schedule.

    The FIFO has the last 10 learners, a quarter of all that there are at the end.
    """
    variants = {}
    for weighting in ("uniform", "recent", "bias_corrected"):
        for divergence in ("reverse_kl", "js"):
            for relabel in (True, False):
                rewards = "relabelled" if relabel else "stale"
                flags = ("--weighting", weighting, "--recent-size", "5000", "--divergence", divergence)
                flags = flags if relabel else (*flags, "--no-relabel")
                name = f"{weighting}-{divergence}-{rewards}"
                variants[name] = Method(f"{weighting}, {divergence}, {rewards}", "ailboost", (*PRESET, *flags))
    return variants


@dataclass(frozen=True)
class Table:
    title: str
    tasks: tuple[str, ...]
    methods: dict[str, Method]
    steps: int


TABLES: dict[str, Table] = {
    "one_demo": Table(
        "One demonstration, simple tasks",
        ("ball_in_cup-catch", "cartpole-swingup"),
        {"ailboost": METHODS["ailboost"]},
        100_000,
    ),
    "methods": Table("One demonstration, all methods", ("walker-walk", "cheetah-run"), METHODS, 60_000),
    "ablation": Table("What matters in AILBoost", ("cartpole-swingup",), ablation(), 40_000),
}


@dataclass(frozen=True)
class Cell:
    method: str
    task: str
    seed: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.method}-{self.task}-{self.steps}-seed{self.seed}"


def cells(args: argparse.Namespace) -> Iterator[tuple[Method, Cell]]:
    """Seed by seed and task by task, so that a run that is stopped early leaves whole comparisons."""
    table = TABLES[args.table]
    steps = args.steps or table.steps
    for seed in SEEDS:
        for task in table.tasks:
            for name, method in table.methods.items():
                if wanted(args, task=task, method=name, seed=seed):
                    yield method, Cell(name, task, seed, steps)


def run_cell(method: Method, cell: Cell, args: argparse.Namespace) -> None:
    if args.results.find(**vars(cell)):
        return
    run = args.runs / cell.name
    steps = ("--total-timesteps", str(cell.steps), "--seed", str(cell.seed))
    clones = method.agent == "bc"
    demos = ("--dataset" if clones else "--demos", f"dmc/{cell.task}", "--n-demos", "1")
    kept = ("--checkpoint-every", "0" if clones else "50000")
    flags = (*method.flags, *demos, "--eval-every", str(EVERY), *kept, *steps)
    seconds = train(method.agent, run, *flags)
    args.results.add_run(evaluated(method, cell, run) | {"wall_seconds": seconds}, run)


def evaluated(method: Method, cell: Cell, run: Path) -> dict[str, Any]:
    import rlopt
    from rlopt.analysis.curves import EVALUATION, read_run_curve
    from rlopt.data import load_demonstrations

    model = rlopt.load(run, device="cpu")
    metadata = load_demonstrations(f"dmc/{cell.task}").metadata
    settings = {"seed": cell.seed + 100_000, "action_repeat": metadata.action_repeat}
    last = rlopt.evaluate(model, metadata.env, EPISODES, **settings)
    curve = read_run_curve(run, EVALUATION)
    result = {
        **vars(cell),
        "expert_return": metadata.expert_return,
        "returns": last.returns.tolist(),
        "mean_return": last.mean,
        "score": 100 * last.mean / metadata.expert_return,
        "curve": {"step": curve.x.tolist(), "return": curve.y.tolist()},
    }
    for name, policy in getattr(model, "further_policies", dict)().items():
        other = rlopt.evaluate(policy, metadata.env, EPISODES, **settings)
        result |= {f"{name}_return": other.mean, f"{name}_score": 100 * other.mean / metadata.expert_return}
    return result


def found(table: str, task: str, method: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    steps = args.steps or TABLES[table].steps
    return [row for seed in SEEDS for row in args.results.find(**vars(Cell(method, task, seed, steps)))]


def table_text(name: str, args: argparse.Namespace) -> str:
    """The scores of a table, and for the simple tasks in how many seeds they reach 90."""
    table = TABLES[name]
    steps = args.steps or table.steps
    lines = [
        f"**{table.title}.** Percent of the expert's return after {steps:,} environment steps (action repeat 2), "
        f"{len(SEEDS)} seeds: IQM over seeds of the mean of {EPISODES} deterministic episodes of the last policy [95% "
        "bootstrap interval]; in parentheses that of the mixture. Over the run: the same for the mean of the "
        f"evaluations after every {EVERY:,} steps.",
        "",
        "| method | " + " | ".join(f"{task} | over the run" for task in table.tasks) + " |",
        "|---" * (1 + 2 * len(table.tasks)) + "|",
    ]
    for method, spec in table.methods.items():
        texts = [text for task in table.tasks for text in score_texts(found(name, task, method, args))]
        lines.append(f"| {spec.title} | " + " | ".join(texts) + " |")
    if name == "one_demo":
        lines += ["", *(reached_text(task, args) for task in table.tasks)]
    return "\n".join([*lines, "", f"`python scripts/reproduce_ailboost.py run --table {name}{flag_text(args)}`"])


def flag_text(args: argparse.Namespace) -> str:
    return f" --steps {args.steps}" if args.steps else ""


def score_texts(results: list[dict[str, Any]]) -> tuple[str, str]:
    """The score of the last policy, with that of the mixture, and the mean score over the run."""
    text = cell_text([result["score"] for result in results], len(SEEDS))
    mixtures = [result["mixture_score"] for result in results if "mixture_score" in result]
    if mixtures:
        text += f" ({sum(mixtures) / len(mixtures):.0f})"
    means = [sum(result["curve"]["return"]) / len(result["curve"]["return"]) for result in results]
    over_run = [100 * mean / result["expert_return"] for mean, result in zip(means, results, strict=True)]
    return text, cell_text(over_run, len(SEEDS))


def reached_text(task: str, args: argparse.Namespace) -> str:
    results = found("one_demo", task, "ailboost", args)
    reached = sum(result["score"] >= 90 for result in results)
    return f"{task}: the last policy has at least 90% of the expert's return in {reached} of {len(results)} seeds."


def draw(args: argparse.Namespace, path: Path) -> None:
    """Learning curves of the table ``methods``: mean over seeds, and each seed."""
    import matplotlib.pyplot as plt
    import numpy as np

    table = TABLES["methods"]
    figure, axes = plt.subplots(1, len(table.tasks), figsize=(5 * len(table.tasks), 3.5), squeeze=False)
    for axis, task in zip(axes[0], table.tasks, strict=True):
        for index, (method, spec) in enumerate(table.methods.items()):
            curves = [result["curve"] for result in found("methods", task, method, args)]
            for curve in curves:
                axis.plot(curve["step"], curve["return"], color=f"C{index}", alpha=0.3, linewidth=0.8)
            if curves:
                mean = np.mean([curve["return"] for curve in curves], axis=0)
                axis.plot(curves[0]["step"], mean, color=f"C{index}", label=spec.title)
        axis.set(title=task, xlabel="environment steps (BC: gradient steps)", ylabel="return")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = script_parser(__doc__, "ailboost", ("method", "task", "steps", "seed"))
    parser.add_argument("--table", choices=sorted(TABLES), help="run: which table; default one_demo")
    parser.add_argument("--task", help="run only this task")
    parser.add_argument("--method", help="run only this method")
    parser.add_argument("--seed", type=int, help="run only this seed")
    parser.add_argument("--steps", type=int, help="environment steps of a run instead of the table's own")
    args = parser.parse_args()

    if args.action == "run":
        args.table = args.table or "one_demo"
        for method, cell in cells(args):
            run_cell(method, cell, args)
    show(args, "results ailboost", "\n\n".join(table_text(name, args) for name in TABLES))
    if args.action == "write" and args.results.find(task="walker-walk"):
        draw(args, args.page.with_suffix(".svg"))


if __name__ == "__main__":
    main()
