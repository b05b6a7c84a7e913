"""Imitation from one demonstration: AILBoost and its baselines, cell by cell.

Every cell is one run of one seed. A cell whose row is in the table is not run again, and a run that was stopped is
continued, so the script can be called again at any time. All runs of a table have as many environment steps (agent
steps, of two simulator steps each) and the same learner; BC takes as many gradient steps and none in the environment.
The last policy plays 20 deterministic episodes; of AILBoost and DAC the mixture too. Scores are percent of the return
of the expert that was recorded.

    python scripts/reproduce_ailboost.py run --table one_demo     # 6 runs: two tasks, three seeds
    python scripts/reproduce_ailboost.py run --table methods      # 30 runs: two tasks, five methods, three seeds
    python scripts/reproduce_ailboost.py run --table ablation     # 42 runs: one task, 14 variants, three seeds
    python scripts/reproduce_ailboost.py run --table weighting    # 12 runs: one task, four weightings, 100 rounds
    python scripts/reproduce_ailboost.py run --table benchmark    # 50 runs of 300,000 steps, the most telling first
    python scripts/reproduce_ailboost.py run --table one_demo --task ball_in_cup-catch --seed 0
    python scripts/reproduce_ailboost.py table                    # prints the tables from the kept runs
    python scripts/reproduce_ailboost.py write                    # puts them and the figure into docs/results
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduction import add_filters, cell_text, script_parser, show, train, wanted

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
    steps: int | None = None
    """Other than those of its table."""
    clone_first: bool = False
    """Whether it begins with the clone of its demonstrations."""


METHODS: dict[str, Method] = {
    "ailboost": Method("AILBoost", "ailboost", PRESET),
    "dac": Method("DAC", "dac", PRESET),
    "dac_fifo": Method("DAC + FIFO", "dac", (*PRESET, "--weighting", "recent")),
    "bc": Method("BC", "bc"),
    "iq_learn": Method("IQ-Learn", "iq_learn", ("--actor-learning-rate", "3e-4", "--value-term", "v0")),
}


def ablation() -> dict[str, Method]:
    """{uniform, FIFO, weighted} x {reverse KL, Jensen-Shannon} x {relabelled, stale}, with AILBoost's schedule.

    The FIFO has the last 10 learners, a quarter of all that there are at the end. The discriminator's output is bounded
    by 1, which no published method with Jensen-Shannon has; two more rows are without that bound.
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
    for divergence in ("reverse_kl", "js"):
        flags = (*PRESET, "--divergence", divergence, "--discriminator-output", "none")
        title = f"bias_corrected, {divergence}, relabelled, unbounded"
        variants[f"bias_corrected-{divergence}-unbounded"] = Method(title, "ailboost", flags)
    return variants


WEIGHTINGS = {
    name: Method(name, "ailboost", (*PRESET, "--weighting", name, "--recent-size", "5000"))
    for name in ("uniform", "recent", "constant", "bias_corrected")
}
"""The kind of replay varied alone; the FIFO has the last 10 of 100 learners."""
CLONE_STEPS = 20_000
BENCHMARK: dict[str, Method] = {
    "bc_20k": Method("BC, 20,000 gradient steps", "bc", steps=CLONE_STEPS),
    "ailboost_cloned": Method("AILBoost, clone first", "ailboost", PRESET, clone_first=True),
    "ailboost": METHODS["ailboost"],
    "dac": METHODS["dac"],
    "sac": Method("SAC, true reward", "sac"),
}


@dataclass(frozen=True)
class Table:
    title: str
    tasks: tuple[str, ...]
    methods: dict[str, Method]
    steps: int
    seeds: tuple[int, ...] = SEEDS


TABLES: dict[str, Table] = {
    "one_demo": Table(
        "One demonstration, simple tasks",
        ("ball_in_cup-catch", "cartpole-swingup"),
        {"ailboost": METHODS["ailboost"]},
        100_000,
    ),
    "methods": Table("One demonstration, all methods", ("walker-walk", "cheetah-run"), METHODS, 60_000),
    "ablation": Table("What matters in AILBoost", ("cartpole-swingup",), ablation(), 40_000),
    "weighting": Table("Weighting alone, 100 rounds", ("walker-walk",), WEIGHTINGS, 101_000, (20, 21, 22)),
    "benchmark": Table(
        "One demonstration, long runs", ("cheetah-run", "walker-walk"), BENCHMARK, 300_000, (20, 21, 22, 23, 24)
    ),
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
    for seed in table.seeds:
        for task in table.tasks:
            for name, method in table.methods.items():
                if wanted(args, task=task, method=name, seed=seed):
                    yield method, Cell(name, task, seed, steps_of(table, method, args))


def steps_of(table: Table, method: Method, args: argparse.Namespace) -> int:
    return method.steps or args.steps or table.steps


def clone(cell: Cell, args: argparse.Namespace) -> Path:
    """The clone that a learner begins with, as the row of BC of its seed has it."""
    run: Path = args.runs / f"clone-{cell.task}-seed{cell.seed}"
    steps = ("--total-timesteps", str(CLONE_STEPS), "--seed", str(cell.seed), "--eval-every", "0")
    train("bc", run, "--demos", f"dmc/{cell.task}", "--n-demos", "1", *steps)
    return run


def run_cell(method: Method, cell: Cell, args: argparse.Namespace) -> None:
    if args.results.find(**vars(cell)):
        return
    run = args.runs / cell.name
    steps = ("--total-timesteps", str(cell.steps), "--seed", str(cell.seed))
    demos = ("--demos", f"dmc/{cell.task}", "--n-demos", "1")
    if method.agent == "sac":
        demos = ("--env", f"dm_control/{cell.task}", "--action-repeat", "2")
    kept = ("--checkpoint-every", "0" if method.agent == "bc" else "50000")
    begin = ("--init-from", str(clone(cell, args))) if method.clone_first and not run.exists() else ()
    flags = (*method.flags, *demos, *begin, "--eval-every", str(EVERY), *kept, *steps)
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
    spec = TABLES[table]
    steps = steps_of(spec, spec.methods[method], args)
    return [row for seed in spec.seeds for row in args.results.find(**vars(Cell(method, task, seed, steps)))]


def table_text(name: str, args: argparse.Namespace) -> str:
    """The scores of a table, and for the simple tasks in how many seeds they reach 90."""
    table = TABLES[name]
    steps = args.steps or table.steps
    lines = [
        f"**{table.title}.** Percent of the expert's return after {steps:,} environment steps (action repeat 2), "
        f"{len(table.seeds)} seeds: IQM over seeds of the mean of {EPISODES} deterministic episodes of the last policy "
        "[95% bootstrap interval]; in parentheses that of the mixture. Over the run: the same for the mean of the "
        f"evaluations after every {EVERY:,} steps.",
        "",
        "| method | " + " | ".join(f"{task} | over the run" for task in table.tasks) + " |",
        "|---" * (1 + 2 * len(table.tasks)) + "|",
    ]
    for method, spec in table.methods.items():
        n_seeds = len(table.seeds)
        texts = [text for task in table.tasks for text in score_texts(found(name, task, method, args), n_seeds)]
        lines.append(f"| {spec.title} | " + " | ".join(texts) + " |")
    if name == "one_demo":
        lines += ["", *(reached_text(task, args) for task in table.tasks)]
    if name == "benchmark" and (lowest := [text for task in table.tasks if (text := lowest_text(task, args))]):
        lines += ["", *lowest]
    return "\n".join([*lines, "", f"`python scripts/reproduce_ailboost.py run --table {name}{flag_text(args)}`"])


def flag_text(args: argparse.Namespace) -> str:
    return f" --steps {args.steps}" if args.steps else ""


def score_texts(results: list[dict[str, Any]], n_seeds: int) -> tuple[str, str]:
    """The score of the last policy, with that of the mixture, and the mean score over the run."""
    text = cell_text([result["score"] for result in results], n_seeds)
    mixtures = [result["mixture_score"] for result in results if "mixture_score" in result]
    if mixtures:
        text += f" ({sum(mixtures) / len(mixtures):.0f})"
    means = [sum(result["curve"]["return"]) / len(result["curve"]["return"]) for result in results]
    over_run = [100 * mean / result["expert_return"] for mean, result in zip(means, results, strict=True)]
    return text, cell_text(over_run, n_seeds)


def reached_text(task: str, args: argparse.Namespace) -> str:
    results = found("one_demo", task, "ailboost", args)
    reached = sum(result["score"] >= 90 for result in results)
    return f"{task}: the last policy has at least 90% of the expert's return in {reached} of {len(results)} seeds."


def lowest_text(task: str, args: argparse.Namespace) -> str:
    """Whether the learner that begins with the clone ever falls below it, as its evaluations tell."""
    cloned = {row["seed"]: row for row in found("benchmark", task, "bc_20k", args)}
    pairs = [(cloned[row["seed"]], row) for row in found("benchmark", task, "ailboost_cloned", args)
             if row["seed"] in cloned]  # fmt: skip
    shares = [f"{100 * min(row['curve']['return']) / clone['mean_return']:.0f}" for clone, row in pairs]
    if not shares:
        return ""
    return (
        f"{task}: the lowest evaluation of AILBoost that begins with the clone is {', '.join(shares)} percent of the "
        "clone's return (one number a seed)."
    )


def draw(args: argparse.Namespace, path: Path) -> None:
    """Learning curves of the table ``methods``: mean over seeds, and each seed."""
    import matplotlib.pyplot as plt
    import numpy as np

    from rlopt.analysis.plotting import save_figure

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
    save_figure(figure, path)


def main() -> None:
    parser = script_parser(__doc__, "ailboost", ("method", "task", "steps", "seed"))
    parser.add_argument("--table", choices=sorted(TABLES), help="run: which table; default one_demo")
    add_filters(parser, task=str, method=str, seed=int)
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
