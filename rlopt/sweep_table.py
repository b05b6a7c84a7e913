"""The summary of a sweep: a row for every setting, its interquartile mean over seeds with an interval. Needs numpy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlopt.engine.jobs import DONE, FAILED, JobResult
from rlopt.run_folder import write_json
from rlopt.statistics.aggregates import bootstrap_interval, iqm
from rlopt.sweeps.spec import SweepRun

if TYPE_CHECKING:
    from rlopt.sweeps.sweep import SweepFolder


@dataclass(frozen=True)
class SummaryRow:
    """The runs of one agent, task and setting."""

    agent: str
    env: str
    setting: str
    seeds: int
    """How many there are to be."""
    done: int
    failed: int
    steps: int | None
    """Environment steps of the shortest run that is done."""
    iqm: float | None
    """Interquartile mean over seeds of the mean return of the last evaluation; None without any."""
    low: float | None
    """Of its 95% bootstrap interval; None with fewer than two seeds."""
    high: float | None


def summarise(runs: Sequence[SweepRun], results: Mapping[str, JobResult]) -> list[SummaryRow]:
    """The rows of a sweep, in the order of its runs."""
    groups: dict[tuple[str, str, str], list[SweepRun]] = {}
    for run in runs:
        groups.setdefault((run.agent, run.env, run.setting), []).append(run)
    return [_row(*key, members, results) for key, members in groups.items()]


def _row(agent: str, env: str, setting: str, runs: Sequence[SweepRun], results: Mapping[str, JobResult]) -> SummaryRow:
    ended = [results[run.job.name] for run in runs if run.job.name in results]
    count = Counter(result.status for result in ended)
    values = [result.value for result in ended if result.status == DONE and isinstance(result.value, dict)]
    steps = [value["step"] for value in values if isinstance(value.get("step"), int)]
    returns = [float(value["return"]) for value in values if isinstance(value.get("return"), int | float)]
    low, high = bootstrap_interval(returns) if len(returns) > 1 else (None, None)
    return SummaryRow(
        agent,
        env,
        setting,
        len(runs),
        count[DONE],
        count[FAILED],
        min(steps, default=None),
        iqm(returns) if returns else None,
        low,
        high,
    )


def format_table(rows: Sequence[SummaryRow]) -> list[str]:
    """The rows as lines for people."""
    heads = ["agent", "env", "setting", "seeds", "steps", "IQM of the last evaluation [95%]"]
    cells = [heads]
    for row in rows:
        seeds = f"{row.done}/{row.seeds}" + (f", {row.failed} failed" if row.failed else "")
        cells.append(
            [row.agent, row.env, row.setting or "-", seeds, f"{row.steps:,}" if row.steps else "-", _score(row)]
        )
    if all(row.setting == "" for row in rows):
        cells = [[cell for index, cell in enumerate(line) if index != 2] for line in cells]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _score(row: SummaryRow) -> str:
    if row.iqm is None:
        return "-"
    return f"{row.iqm:.1f}" + ("" if row.low is None else f" [{row.low:.1f}, {row.high:.1f}]")


def print_summary(
    folder: SweepFolder, runs: Sequence[SweepRun], results: Mapping[str, JobResult], say: Callable[[str], Any]
) -> None:
    """Prints the table and writes summary.json."""
    rows = summarise(runs, results)
    write_json(folder.path / "summary.json", [vars(row) for row in rows], shared=True)
    for line in format_table(rows):
        say(line)
