"""The README's main table: each method beside its peer, from the tables that the reproduce scripts keep.

python scripts/main_table.py table     # prints it
python scripts/main_table.py write     # puts it into README.md
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from reproduction import PAGES, ROOT, Results, interval_text, show

from rlopt.statistics.aggregates import iqm, mean


@dataclass(frozen=True)
class Side:
    """One contestant on one task: a number for each seed."""

    title: str
    scores: list[float]
    seconds: list[float]


@dataclass(frozen=True)
class Row:
    task: str
    ours: Side
    peer: Side
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


def side(title: str, study: str, score: str, seconds: str = "wall_seconds", **cell: Any) -> Side:
    rows = Results(PAGES / f"{study}.jsonl").find(**cell)
    return Side(title, [row[score] for row in rows], [row[seconds] for row in rows])


def on_policy() -> Iterator[Row]:
    for env in ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"):
        cell = {"env": env, "total_timesteps": 1_000_000}
        ours = side("MDPO", "mdpo", "mean_return", agent="mdpo", **cell)
        yield Row(env, ours, side("SB3 PPO", "mdpo", "mean_return", agent="sb3_ppo", **cell))


def off_policy() -> Iterator[Row]:
    for task in ("cartpole-swingup", "walker-walk"):
        cell = {"env": f"dm_control/{task}", "total_timesteps": 60_000}
        ours = side("MDPO", "mdpo", "mean_return", agent="off_policy_mdpo", **cell)
        yield Row(task, ours, side("SB3 SAC", "mdpo", "mean_return", agent="sb3_sac", **cell))


def ailboost() -> Iterator[Row]:
    for task in ("walker-walk", "cheetah-run"):
        ours, peer = (
            side(title, "ailboost", "score", method=method, task=task, steps=60_000)
            for title, method in (("AILBoost", "ailboost"), ("DAC", "dac"))
        )
        yield Row(task, ours, peer)


def guda() -> Iterator[Row]:
    for maze in ("UMaze", "Medium", "Large"):
        cell = {"agent": "td3_bc", "env": f"rlopt/PointMaze_{maze}-v0", "gradient_steps": 50_000}
        ours, peer = (side(f"{arm} augmentation", "guda", "score", arm=arm, **cell) for arm in ("guided", "random"))
        yield Row(f"PointMaze {maze}", ours, peer)


def loop() -> Iterator[Row]:
    import reproduce_loop

    args = argparse.Namespace(results=Results(PAGES / "loop.jsonl"), steps=100_000, seeds=20, tuning_seeds=5)
    pairs = {"RiverSwim-6": "loop-ellipsoid", "AccessControl": "loop-ellipsoid", "AggregatedRiverSwim": "linear-bonus"}
    for task, name in pairs.items():
        sides = []
        for algorithm in (name, "ucrl2"):
            found = reproduce_loop.found(task, algorithm, args)
            results = found[1] if found else []
            title = reproduce_loop.ALGORITHMS[algorithm].title
            costs = [result["cost"] for result in results]
            sides.append(Side(title, costs, [result["seconds"] for result in results]))
        yield Row(task, *sides)


def zo_ranksgd() -> Iterator[Row]:
    for env, digits in (("Swimmer-v5", 0), ("HalfCheetah-v5", 0), ("Reacher-v5", 1)):
        ours, peer = (
            side(title, "zo_ranksgd_policies", "return", "seconds", task=env, method=method)
            for title, method in (("ZO-RankSGD", "ranksgd"), ("CMA-ES", "cmaes"))
        )
        yield Row(env, ours, peer, digits=digits)


GROUPS = (
    Group("MDPO, on-policy", "return", "1M steps", "mdpo", "reproduce_mdpo.py run --table on_policy", on_policy),
    Group("MDPO, off-policy", "return", "60k steps", "mdpo", "reproduce_mdpo.py run --table off_policy", off_policy),
    Group("AILBoost, one demonstration", "% of the expert's return", "60k steps", "ailboost",
          "reproduce_ailboost.py run --table methods", ailboost),
    Group("GuDA, TD3+BC", "normalised score", "50k gradient steps", "guda", "reproduce_guda.py run", guda),
    Group("LOOP", "cost with a known span, less is better", "100k steps", "loop", "reproduce_loop.py run", loop, mean),
    Group("ZO-RankSGD", "return", "240 episodes, Reacher 3,200", "zo_ranksgd_policies", "reproduce_zo_ranksgd.py run",
          zo_ranksgd),
)  # fmt: skip


def table_text() -> str:
    lines = [
        "IQM over seeds (LOOP: mean) [95% bootstrap interval]; time: wall time of a run, median over seeds, on two CPU "
        "cores that were busy with other runs too. Every peer, also those that win, is on the page of its method.",
        "",
        "| method | task | ours | peer | seeds | budget of a run | time, ours and peer | `python scripts/...` |",
        "|---" * 8 + "|",
    ]
    for group in GROUPS:
        for row in group.rows():
            if not row.ours.scores or not row.peer.scores:
                lines.append(f"| {group.method} | {row.task} | not run | | | | | `{group.command}` |")
                continue
            method = f"[{group.method}](docs/results/{group.page}.md): {group.measure}"
            texts = [
                f"{contestant.title} {interval_text(contestant.scores, group.statistic, row.digits)}"
                for contestant in (row.ours, row.peer)
            ]
            seeds = sorted({len(row.ours.scores), len(row.peer.scores)})
            times = ", ".join(time_text(contestant) for contestant in (row.ours, row.peer))
            lines.append(
                f"| {method} | {row.task} | {texts[0]} | {texts[1]} | {', '.join(map(str, seeds))} | {group.budget} | "
                f"{times} | `{group.command}` |"
            )
    return "\n".join([*lines, "", "`python scripts/main_table.py write`"])


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
