"""A comparison as a table for a terminal and as CSV files. No torch."""

import csv
import io
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.analysis.comparison import POWER, Comparison, Estimate, Group
from rlopt.analysis.curves import EVALUATION, TRAINING
from rlopt.errors import ConfigError
from rlopt.statistics.sample_size import MOST_SEEDS
from rlopt.storage.replacing import replacing

_LAST = {EVALUATION: "mean return of the last evaluation", TRAINING: f"last return while training ({TRAINING})"}
WIDTH = 110
"""Columns of the text below the table."""


def format_table(comparison: Comparison) -> str:
    """What was compared, a row for each group, what the columns mean, and the notes."""
    level = f"{100 * comparison.confidence:g}%"
    digits = _digits(comparison)
    interval = f"{level} interval"
    rows = [["", "IQM", interval, "P(better)", interval, "seeds", "steps", "seeds for a claim"]]
    rows += [[*_cells(group, digits), *_counts(group, comparison)] for group in comparison.groups]
    if len(comparison.groups) == 1:  # nothing to compare with
        rows = [[*row[:3], *row[5:7]] for row in rows]
    return "\n".join([*_heading(comparison), "", *_aligned(rows), "", *_legend(comparison)])


def _heading(comparison: Comparison) -> list[str]:
    tasks = ", ".join(comparison.tasks)
    last = _LAST.get(comparison.key, f"last value of {comparison.key}")
    lines = [f"{tasks}: {last} of each run, not of its best"]
    if comparison.scales is not None:
        lines.append(f"normalised: {comparison.scale_source}")
        lines += [f"  {task}: 0 is {scale.low:.6g}, 1 is {scale.high:.6g}" for task, scale in comparison.scales.items()]
    return lines


def _legend(comparison: Comparison) -> list[str]:
    over = "seeds and tasks, stratified by task" if len(comparison.tasks) > 1 else "seeds"
    lines = [f"IQM: interquartile mean; intervals: percentile bootstrap over {over}"]
    if len(comparison.groups) > 1:
        level = f"{1 - comparison.confidence:.2g}"
        each = "group and task" if len(comparison.tasks) > 1 else "group"
        lines += [
            f"P(better): probability that a run scores higher than one of {comparison.reference.label}; ties: one half",
            f"seeds for a claim: for each {each}, to find the difference in IQM seen here at level {level} with "
            f"probability {POWER:g}; a plan, as uncertain as the seeds at hand are few",
        ]
    lines += [f"note: {note}" for note in comparison.notes]
    return [part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="  ")]


def _digits(comparison: Comparison) -> int:
    values = [abs(edge) for group in comparison.groups for edge in group.aggregates["iqm"].interval]
    greatest = max(values)
    return 0 if greatest >= 1000 else 1 if greatest >= 10 else 3


def _cells(group: Group, digits: int) -> list[str]:
    improvement = ["", ""] if group.improvement is None else _estimate(group.improvement, 2)
    return [group.label, *_estimate(group.aggregates["iqm"], digits), *improvement]


def _estimate(estimate: Estimate, digits: int) -> list[str]:
    low, high = estimate.interval
    return [f"{estimate.value:.{digits}f}", f"[{low:.{digits}f}, {high:.{digits}f}]"]


def _counts(group: Group, comparison: Comparison) -> list[str]:
    seeds, steps = (_span(pair) for pair in (group.seeds, group.steps))
    if group.improvement is None:
        return [seeds, steps, "reference"]
    if group.seeds_needed is None:
        return [seeds, steps, "cannot be said"]
    have = min(group.seeds[0], comparison.reference.seeds[0])
    if group.seeds_needed <= have:
        return [seeds, steps, f"{group.seeds_needed}, enough"]
    more = "more than " if group.seeds_needed == MOST_SEEDS else ""
    return [seeds, steps, f"{more}{group.seeds_needed:,}"]


def _span(pair: Sequence[float]) -> str:
    low, high = (f"{value:,.0f}" for value in pair)
    return low if low == high else f"{low} to {high}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def write_tables(comparison: Comparison, out: Path) -> list[Path]:
    """Writes a comparison as CSV: the table to ``out``; scores, curves and profiles to files beside it.

    Of ``compare.csv`` these are ``compare-scores.csv``, ``compare-curves.csv`` and ``compare-profiles.csv``. Numbers
    are written in full, tasks and groups by name.

    :return: the files
    :raises ConfigError: if one cannot be written
    """
    tables: dict[str, Iterable[dict[str, Any]]] = {
        "": (_table_row(group, comparison) for group in comparison.groups),
        "-scores": _score_rows(comparison),
        "-curves": _curve_rows(comparison),
        "-profiles": _profile_rows(comparison),
    }
    return [_write(out.with_name(f"{out.stem}{suffix}{out.suffix}"), list(rows)) for suffix, rows in tables.items()]


def _table_row(group: Group, comparison: Comparison) -> dict[str, Any]:
    row: dict[str, Any] = {"group": group.label, "reference": comparison.reference.label}
    for name, estimate in group.aggregates.items():
        row |= {name: estimate.value, f"{name}_low": estimate.interval.low, f"{name}_high": estimate.interval.high}
    improvement = group.improvement
    edges = (None, None, None) if improvement is None else (improvement.value, *improvement.interval)
    row |= dict(zip([f"improvement{end}" for end in ("", "_low", "_high")], edges, strict=True))
    seeds, steps = group.seeds, group.steps
    return row | {
        "confidence": comparison.confidence,
        "tasks": len(comparison.tasks),
        "least_seeds": seeds[0],
        "most_seeds": seeds[1],
        "least_steps": int(steps[0]),
        "most_steps": int(steps[1]),
        "seeds_for_a_claim": group.seeds_needed,
    }


def _score_rows(comparison: Comparison) -> list[dict[str, Any]]:
    rows = []
    for group in comparison.groups:
        for task in comparison.tasks:
            for run, score in zip(group.runs[task], group.scores[task], strict=True):
                row: dict[str, Any] = {"group": group.label, "task": task, "seed": run.settings.get("seed")}
                row |= {"run": str(run.path), "step": int(run.x[-1]), "score": float(run.y[-1])}
                rows.append(row | ({} if comparison.scales is None else {"normalised": float(score)}))
    return rows


def _curve_rows(comparison: Comparison) -> list[dict[str, Any]]:
    rows = []
    for curve in comparison.curves():
        nothing = np.full(len(curve.x), np.nan)
        low, high = (nothing if edge is None else edge for edge in (curve.low, curve.high))
        for step, center, bottom, top in zip(curve.x, curve.center, low, high, strict=True):
            row = {"group": curve.label, "task": curve.env, "step": float(step), "iqm": float(center)}
            rows.append(row | {"low": _or_empty(bottom), "high": _or_empty(top)})
    return rows


def _or_empty(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _profile_rows(comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {"group": group.label, "threshold": float(tau), "share": float(share), "low": float(low), "high": float(high)}
        for group in comparison.groups
        for tau, share, low, high in zip(*vars(group.profile).values(), strict=True)
    ]


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path, ConfigError, "use another place") as place:
        place.write_text(text.getvalue(), encoding="utf-8", newline="")
    return path
