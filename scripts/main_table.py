"""The README's main table: each method beside its peer, from the tables that the reproduce scripts keep.

python scripts/main_table.py table     # prints it
python scripts/main_table.py write     # puts it into README.md
"""

import argparse
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import loop_processes
import numpy as np
import reproduce_defaults
import reproduce_guda
import reproduce_mdpo
import study_loop
from evidence import Arm, check_headline
from reproduction import PAGES, ROOT, Results, interval_text, show

from rlopt.statistics.aggregates import iqm, mean, median


@dataclass(frozen=True)
class Side:
    """One contestant on one task: a number for each seed."""

    arm: Arm
    scores: list[float]
    seconds: list[float]


@dataclass(frozen=True)
class Row:
    task: str
    sides: list[Side]
    """Ours, the ablation, and every peer that was run; the table shows the best of those."""
    digits: int = 0


@dataclass(frozen=True)
class Group:
    """Rows that share their measure, budget and command."""

    method: str
    measure: str
    budget: str
    page: str
    command: str
    rows: Callable[[], Iterator[Row]]
    statistic: Callable[..., Any] = iqm
    sign: int = 1
    """-1 where less is better."""
    summary: Callable[[], str] | None = None
    """Says what many rows come to; they are then folded under it."""
    tasks: str = "small tasks"


def side(
    contestant: Arm, study: str, score: str, seconds: str = "wall_seconds", seeds: Any = None, **cell: Any
) -> Side:
    """Of all seeds, or of ``seeds``."""
    rows = Results(PAGES / f"{study}.jsonl").find(**cell)
    rows = [row for row in rows if seeds is None or row["seed"] in seeds]
    return Side(contestant, [row[score] for row in rows], [row[seconds] for row in rows])


def mdpo(name: str) -> Iterator[Row]:
    """Of the seeds on which no preset was chosen."""
    table = reproduce_mdpo.TABLES[name]
    table.declared.check()
    for env in table.presets:
        cell = {"env": env, "total_timesteps": table.steps, "seeds": table.seeds}
        sides = [side(column, "mdpo", "mean_return", agent=column.key, **cell) for column in table.columns]
        yield Row(env.removeprefix("dm_control/"), sides)


def defaults() -> Iterator[Row]:
    """Tasks on which every arm was run."""
    study = reproduce_defaults
    study.DECLARED.check()
    for task in study.TASKS:
        cell = {"task": task.name, "seeds": study.SEEDS}
        sides = [side(arm, "defaults", "mean_return", arm=arm.key, **cell) for arm in study.ARMS]
        if all(own.scores for own in sides):
            yield Row(task.name, sides, digits=1)


AILBOOST = (
    Arm("ailboost", "AILBoost", "ours"),
    Arm("dac", "DAC (no boosting)", "ablation"),
    Arm("bc", "BC", "peer"),
    Arm("iq_learn", "IQ-Learn", "peer"),
    Arm("dac_fifo", "DAC, published", "peer"),
)


def ailboost() -> Iterator[Row]:
    for task in ("walker-walk", "cheetah-run"):
        cell = {"task": task, "steps": 60_000}
        yield Row(task, [side(arm, "ailboost", "score", method=arm.key, **cell) for arm in AILBOOST])


def guda() -> Iterator[Row]:
    """Mazes on which every arm was run."""
    study = reproduce_guda
    study.DECLARED.check()
    for env in study.SIZES:
        cell = {"learner": "td3_bc_10", "env": env, "seeds": study.SEEDS}
        numbers = {arm.key: 0 if arm.key == "none" else study.MILLION for arm in study.ARMS}
        sides = [
            side(arm, "guda", "final_reach", arm=arm.key, augmented=numbers[arm.key], **cell) for arm in study.ARMS
        ]
        if all(own.scores for own in sides):
            yield Row(env.removeprefix("rlopt/").removesuffix("-v0"), sides)


def loop() -> Iterator[Row]:
    """RVI Q learns the same relative values without optimism; every other agent that is not LOOP is a peer."""
    import reproduce_loop

    args = argparse.Namespace(results=Results(PAGES / "loop.jsonl"), steps=100_000, seeds=20, tuning_seeds=5)
    pairs = {"RiverSwim-6": "loop-ellipsoid", "AccessControl": "loop-ellipsoid", "AggregatedRiverSwim": "linear-bonus"}
    peers = ("ucrl2", "tsde", "fopo", "olsvi_fh", "optimistic_q", "differential_q")
    for task, name in pairs.items():
        sides = []
        for key in (name, "rvi_q", *peers):
            found = reproduce_loop.found(task, key, args)
            results = found[1] if found else []
            role = "ours" if key == name else "ablation" if key == "rvi_q" else "peer"
            arm = Arm(key, reproduce_loop.ALGORITHMS[key].title, role)  # type: ignore[arg-type]
            costs = [result["cost"] for result in results]
            sides.append(Side(arm, costs, [result["seconds"] for result in results]))
        yield Row(task, sides)


def loop_study() -> Iterator[Row]:
    """Processes of the study without an oracle; RVI Q learns the same relative values without optimism."""
    roles = {"loop": "ours", "rvi_q": "ablation"}
    for process in loop_processes.NAMES:
        sides = []
        for key, agent in study_loop.AGENTS.items():
            arm = Arm(key, agent.title, roles.get(key, "peer"))  # type: ignore[arg-type]
            seeds = range(study_loop.FIRST_TUNING_SEED)
            sides.append(side(arm, "loop_study", "cost", "seconds", seeds, process=process, agent=key, steps=30_000))
        yield Row(process, sides)


def loop_summary() -> str:
    ratios = []
    for row in loop_study():
        if not_run(row):
            continue
        costs = {own.arm.key: median(own.scores) for own in row.sides if own.scores}
        ratios.append(costs.pop("loop") / min(costs.values()))
    lowest, near = (sum(ratio <= limit for ratio in ratios) for limit in (1.0, 1.5))
    return (
        f"LOOP's median cost is the lowest of all agents in {lowest} of {len(ratios)} processes, and at most 1.5 times "
        f"the lowest in {near}; some peers have few seeds."
    )


ZO_RANKSGD = (
    Arm("ranksgd", "ZO-RankSGD", "ours"),
    Arm("ablation", "its ablation", "ablation"),  # which is to be chosen and run
    Arm("cmaes", "CMA-ES", "peer"),
    Arm("ars", "ARS", "peer"),
)


def zo_ranksgd() -> Iterator[Row]:
    for env, digits in (("Swimmer-v5", 0), ("HalfCheetah-v5", 0), ("Reacher-v5", 1)):
        sides = [side(arm, "zo_ranksgd_policies", "return", "seconds", task=env, method=arm.key) for arm in ZO_RANKSGD]
        yield Row(env, sides, digits=digits)


def defaults_summary() -> str:
    study = reproduce_defaults
    by_arm = {arm.key: study.scores(study.DECLARED.reported(Results(PAGES / "defaults.jsonl").find()), arm.key)
              for arm in study.ARMS}  # fmt: skip
    lines = [study.against(by_arm["mdpo"], by_arm[arm.key], arm.title) for arm in study.ARMS[1:]]
    return " ".join(line.removeprefix("- ") for found in lines for line in found)


GROUPS = (
    Group("MDPO at its defaults", "return", "20k steps", "defaults", "reproduce_defaults.py run", defaults,
          summary=defaults_summary),
    Group("MDPO, on-policy", "return", "1M steps", "mdpo", "reproduce_mdpo.py run --table on_policy",
          functools.partial(mdpo, "on_policy")),
    Group("MDPO, off-policy", "return", "60k steps", "mdpo", "reproduce_mdpo.py run --table off_policy",
          functools.partial(mdpo, "off_policy")),
    Group("AILBoost, one demonstration", "% of the expert's return", "60k steps", "ailboost",
          "reproduce_ailboost.py run --table methods", ailboost),
    Group("GuDA, TD3+BC", "% that reach the goal", f"{reproduce_guda.STEPS:,} gradient steps", "guda",
          "reproduce_guda.py run", guda),
    Group("LOOP", "cost with a known span, less is better", "100k steps", "loop",
          "reproduce_loop.py run", loop, mean, -1),
    Group("LOOP without an oracle", "cost, less is better", "30k steps", "loop", "study_loop.py run", loop_study,
          median, -1, loop_summary, "processes"),
    Group("ZO-RankSGD", "return", "240 episodes, Reacher 3,200", "zo_ranksgd_policies", "reproduce_zo_ranksgd.py run",
          zo_ranksgd),
)  # fmt: skip


HEAD = (
    "| method | task | ours | ablation | best peer | seeds | budget of a run | time, ours and peer "
    "| `python scripts/...` |",
    "|---" * 9 + "|",
)


def table_text() -> str:
    """The table; refuses what :mod:`evidence` refuses."""
    lines = [
        "Scores are the IQM over seeds (LOOP: the mean or, without an oracle, the median) [95% bootstrap interval]. "
        "The ablation is the method without its own contribution. The best peer is the best of all that were run; the "
        "page of the method shows them all. Time is the wall time of a run, median over seeds, on two CPU cores that "
        "were also busy with other runs.",
        "",
        *HEAD,
    ]
    incomplete, folded = [], []
    for group in GROUPS:
        rows = list(group.rows())
        incomplete += [f"{group.method} on {row.task} ({', '.join(not_run(row))})" for row in rows if not_run(row)]
        texts = [row_text(group, row) for row in rows if not not_run(row)]
        if group.summary and texts:
            title = f"{group.method} on {len(texts)} {group.tasks}"
            folded += ["", f"**{title}.** {group.summary()}", ""]
            folded += ["<details markdown>", f"<summary>{title}</summary>", "", *HEAD, *texts, "", "</details>"]
        else:
            lines += texts
    if incomplete:
        lines += ["", "These rows are not shown because a contestant has not been run: " + "; ".join(incomplete) + "."]
    lines += folded
    return "\n".join([*lines, "", "`python scripts/main_table.py write`"])


def not_run(row: Row) -> list[str]:
    """The contestants without which a row says nothing and that have no runs."""
    roles = {role: [own for own in row.sides if own.arm.role == role] for role in ("ours", "ablation", "peer")}
    lacking = [own.arm.title for role in ("ours", "ablation") for own in roles[role] if not own.scores]
    return lacking if any(own.scores for own in roles["peer"]) else [*lacking, "a peer"]


def row_text(group: Group, row: Row) -> str:
    """One line: ours, the ablation, and the best peer."""

    def merit(values: Any) -> float:
        return group.sign * float(group.statistic(np.array(values)))

    peers = [own for own in row.sides if own.arm.role == "peer" and own.scores]
    ours, ablation = (next(own for own in row.sides if own.arm.role == role) for role in ("ours", "ablation"))
    shown = [ours, ablation, max(peers, key=lambda own: merit(own.scores))]
    scores = {own.arm.key: own.scores for own in row.sides}
    check_headline(scores, [own.arm for own in row.sides], [own.arm.key for own in shown], merit, row.task)
    method = f"[{group.method}](docs/results/{group.page}.md): {group.measure}"
    texts = [f"{own.arm.title} " + interval_text(own.scores, group.statistic, row.digits) for own in shown]
    seeds = ", ".join(map(str, sorted({len(own.scores) for own in shown})))
    times = ", ".join(time_text(own) for own in (shown[0], shown[2]))
    return f"| {method} | {row.task} | {' | '.join(texts)} | {seeds} | {group.budget} | {times} | `{group.command}` |"


def time_text(contestant: Side) -> str:
    seconds = float(np.median(contestant.seconds))
    return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{seconds:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["table", "write"])
    parser.add_argument("--page", type=Path, default=ROOT / "README.md", help="what write fills in")
    args = parser.parse_args()
    show(args, "results main", table_text())


if __name__ == "__main__":
    main()
