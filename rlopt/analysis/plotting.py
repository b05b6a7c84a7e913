"""Learning-curve pictures, drawn with matplotlib's Agg and SVG canvases; pyplot's global state is not touched."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlopt.analysis.curves import EVALUATION, RATE, TRAINING, GroupCurve, default_key, group_curves, read_run_curve
from rlopt.errors import ConfigError
from rlopt.statistics.aggregates import Statistic, iqm
from rlopt.storage.replacing import replacing

if TYPE_CHECKING:
    from rlopt.analysis.comparison import Comparison

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's colour-blind-safe palette, without its yellow, which is pale on white."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
SUFFIXES = (".png", ".svg")
_COLUMNS = 3
"""Columns of panels at most."""
Y_LABELS = {
    TRAINING: "episode return (training)",
    "rollout/ep_len_mean": "episode length (steps)",
    RATE: "reward a step (training)",
    "rollout/success_rate": "success rate",
    EVALUATION: "episode return (evaluation)",
}
X_LABELS = {"steps": "environment steps", "seconds": "training time (s)"}


def plot_runs(
    runs: Sequence[str | Path],
    out: str | Path = "learning_curve.png",
    *,
    key: str | None = None,
    x: str = "steps",
    by: str = "agent",
    statistic: Statistic = iqm,
    confidence: float = 0.95,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Draws learning curves of run folders, a panel for each environment, a line for each group of runs.

    Two or more runs of a group give the interquartile mean with its pointwise bootstrap band; one run gives its curve.

    :param runs: run folders
    :param out: the picture, ``.png`` or ``.svg``, written whole or not at all
    :param key: a column of progress.csv, or ``evaluation``; None takes :func:`rlopt.analysis.curves.default_key`
    :param x: ``steps`` or ``seconds``
    :param by: what tells lines apart: ``agent`` or a field of the settings
    :param confidence: of the bands, between 0 and 1
    :param report: told in one line what a reader of the picture should know
    :return: ``out``
    :raises RunError: if a folder is no run or has no curve
    :raises ConfigError: if an argument is out of range, with the nearest valid name
    """
    out = Path(out)
    check_suffix(out)
    if not runs:
        raise ConfigError("no run folders given")
    key = default_key(runs, x, report) if key is None else key
    curves = [read_run_curve(Path(run), key, x) for run in runs]
    groups = group_curves(curves, by=by, statistic=statistic, confidence=confidence, report=report)
    name = getattr(statistic, "__name__", "statistic")
    figure = draw(
        groups,
        x_label=X_LABELS[x],
        y_label=Y_LABELS.get(key, key),
        band=f"{'IQM' if name == 'iqm' else name} and {confidence:.0%} bootstrap band",
    )
    save_figure(figure, out)
    return out


def draw(groups: Iterable[GroupCurve], *, x_label: str, y_label: str, band: str) -> Any:
    """A matplotlib figure with a panel for each environment; colours belong to labels, in all panels alike.

    :param band: what line and band show, for the legend's title
    """
    from matplotlib.figure import Figure

    groups = list(groups)
    envs = sorted({group.env for group in groups})
    labels = sorted({group.label for group in groups})
    columns = min(len(envs), 3)
    rows = math.ceil(len(envs) / columns)
    figure = Figure(figsize=(max(6.4, 4.6 * columns), 4.2 * rows), dpi=150, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for index, panel in enumerate(panels.flat):
        if index >= len(envs):
            panel.set_visible(False)
            continue
        here = [group for group in groups if group.env == envs[index]]
        for group in here:
            draw_group(panel, group, labels.index(group.label))
        dress_panel(panel, envs[index], x_label, y_label if index % columns == 0 else "")
    handles: dict[str, Any] = {}
    for panel in panels.flat[: len(envs)]:
        for handle in panel.get_lines():
            if not handle.get_label().startswith("_"):
                handles.setdefault(handle.get_label(), handle)
    counts = {label: [len(group.runs) for group in groups if group.label == label] for label in labels}
    names = [f"{label} ({count_of_runs(counts[label])})" for label in labels]
    title = band if any(group.low is not None for group in groups) else None
    _add_legend(figure, [handles[label] for label in labels], names, 2 * columns, title)
    return figure


def _add_legend(figure: Any, handles: list[Any], names: list[str], columns: int, title: str | None) -> None:
    columns = min(len(names), columns)
    place = {"loc": "outside lower center", "ncols": columns, "frameon": False, "handlelength": 3}
    figure.legend(handles, names, title=title, title_fontsize=9, **place)


def line_style(index: int) -> tuple[str, Any]:
    """Colour and dashes of the line number ``index``; the first 28 differ."""
    color = COLORS[index % len(COLORS)]
    dash = DASHES[(index // len(COLORS)) % len(DASHES)] if index >= len(COLORS) else DASHES[index % len(DASHES)]
    return color, dash


def draw_group(panel: Any, group: GroupCurve, index: int) -> None:
    """Draws the line of a group, its band and, if they are few, its runs, into a panel.

    :param index: of its colour and dashes
    """
    color, dash = line_style(index)
    seeds = len(group.runs)
    if group.low is not None and group.high is not None:
        panel.fill_between(group.x, group.low, group.high, color=color, alpha=0.18, linewidth=0, zorder=2)
        if seeds <= 5:
            for run in group.runs:
                panel.plot(run.x, run.y, color=color, alpha=0.35, linewidth=0.7, zorder=3)
    marker = "o" if len(group.x) <= 25 and seeds == 1 else None
    line = {"color": color, "linestyle": dash, "linewidth": 1.8, "marker": marker, "ms": 4, "zorder": 4}
    panel.plot(group.x, group.center, label=group.label, **line)


def count_of_runs(runs: Sequence[int]) -> str:
    """Numbers of runs in words: "3 runs", "2 to 3 runs"."""
    low, high = min(runs), max(runs)
    return f"{low} to {high} runs" if low != high else "one run" if low == 1 else f"{low} runs"


def dress_panel(panel: Any, title: str, x_label: str, y_label: str) -> None:
    """Title, labels, grid and frame of a panel."""
    from matplotlib.ticker import EngFormatter

    panel.set_title(title, fontsize=11, loc="left")
    panel.set_xlabel(x_label)
    panel.set_ylabel(y_label)
    panel.xaxis.set_major_formatter(EngFormatter(sep="", places=None))
    panel.margins(x=0.01)
    panel.grid(True, color="#e3e3e3", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Any, out: Path) -> None:
    """Writes a figure as its suffix says, whole or not at all; missing folders are made.

    :raises ConfigError: if the suffix is neither .png nor .svg, or the file cannot be written
    """
    check_suffix(out)
    kind = out.suffix.lower().removeprefix(".")
    # no creation date, so that equal curves give equal files
    metadata = {"Date": None} if kind == "svg" else {"Software": "rlopt"}
    with replacing(out, ConfigError, "use another place") as place:
        figure.savefig(place, format=kind, metadata=metadata)


def check_suffix(out: Path) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for a picture that is neither .png nor .svg."""
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{out}: pictures are written as .png or .svg")


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

    from rlopt.analysis.comparison import ALL_TASKS

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
    names = [f"{label} ({runs}{each})" for label, runs in zip(labels, seeds, strict=True)]
    title = f"IQM and share of runs, {comparison.confidence:.0%} stratified bootstrap bands"
    _add_legend(figure, handles, names, min(2 * columns, 4), title)
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
