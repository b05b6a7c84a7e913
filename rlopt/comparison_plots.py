"""The picture of a comparison: learning curves of each task and of all, and performance profiles."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rlopt.analysis.comparison import ALL_TASKS, Comparison
from rlopt.analysis.plotting import (
    Y_LABELS,
    check_suffix,
    count_of_runs,
    draw_group,
    dress_panel,
    line_style,
    save_figure,
)

_COLUMNS = 3


def plot_comparison(comparison: Comparison, out: str | Path) -> Path:
    """Draws the sample-efficiency curves and the profiles of a comparison, with their bands, and returns ``out``.

    Colours belong to groups: in the order of the table, the same in every panel.

    :param out: the picture, ``.png`` or ``.svg``, written whole or not at all
    :raises ConfigError: if the suffix is another or the file cannot be written
    """
    out = Path(out)
    check_suffix(out)
    save_figure(draw_comparison(comparison), out)
    return out


def draw_comparison(comparison: Comparison) -> Any:
    """The matplotlib figure of :func:`plot_comparison`."""
    from matplotlib.figure import Figure

    curves = comparison.curves()
    panels = list(dict.fromkeys(curve.env for curve in curves))
    count = len(panels) + 1
    columns = 2 if count == 4 else min(count, _COLUMNS)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(4.6 * columns, 3.6 * rows + 0.5), dpi=150, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[count:]:
        spare.set_visible(False)
    labels = [group.label for group in comparison.groups]
    logged = Y_LABELS.get(comparison.key, comparison.key)
    for panel, name in zip(axes, panels, strict=False):
        for curve in curves:
            if curve.env == name:
                draw_group(panel, curve, labels.index(curve.label))
        dress_panel(panel, name, comparison.step_unit, "normalised score" if name == ALL_TASKS else logged)
    _draw_profiles(axes[count - 1], comparison)
    handles, _ = axes[0].get_legend_handles_labels()
    seeds = [count_of_runs([len(runs) for runs in group.runs.values()]) for group in comparison.groups]
    each = " a task" if len(comparison.tasks) > 1 else ""
    figure.legend(
        handles,
        [f"{label} ({runs}{each})" for label, runs in zip(labels, seeds, strict=True)],
        loc="outside lower center",
        ncols=min(len(labels), 2 * columns, 4),
        frameon=False,
        handlelength=3,
        title=f"IQM and share of runs, {comparison.confidence:.0%} stratified bootstrap bands",
        title_fontsize=9,
    )
    return figure


def _draw_profiles(panel: Any, comparison: Comparison) -> None:
    from matplotlib.ticker import ScalarFormatter

    for index, group in enumerate(comparison.groups):
        profile, (color, dash) = group.profile, line_style(index)
        panel.fill_between(profile.thresholds, profile.low, profile.high, color=color, alpha=0.18, linewidth=0)
        panel.plot(profile.thresholds, profile.share, color=color, linestyle=dash, linewidth=1.8)
    normalised = comparison.scales is not None
    score = "normalised score" if normalised else Y_LABELS.get(comparison.key, comparison.key)
    dress_panel(panel, "performance profile, last scores", f"{score}, \N{GREEK SMALL LETTER TAU}",
                "share of runs above \N{GREEK SMALL LETTER TAU}")  # fmt: skip
    panel.xaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    panel.set_ylim(-0.02, 1.02)
