"""Learning-curve pictures, drawn with matplotlib's Agg and SVG canvases; pyplot's global state is not touched."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rlopt.analysis.comparison import Comparison
from rlopt.analysis.curves import EVALUATION, RATE, TRAINING, GroupCurve, group_curves, without_repeats
from rlopt.analysis.logs.read import read_curves
from rlopt.errors import ConfigError, unknown_name
from rlopt.statistics.aggregates import Statistic, iqm
from rlopt.storage.replacing import replacing

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's colour-blind-safe palette, without its yellow, which is pale on white."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
SUFFIXES = (".png", ".svg", ".pdf")
KINDS = ".png, .svg or .pdf"
WIDTHS = {
    "neurips": 5.5, "iclr": 5.5, "jmlr": 6.0, "icml": 6.75, "icml-column": 3.25, "ieee": 7.16, "ieee-column": 3.5,
}  # fmt: skip
"""Inches of a text, or of a column of it, in the styles of papers."""
_COLUMNS = 3
"""Columns of panels at most."""
_NARROWEST = 1.6
"""Inches of a panel in a picture of a given width."""
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
    env: str | None = None,
    width: str | float | None = None,
    statistic: Statistic = iqm,
    confidence: float = 0.95,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Draws learning curves, a panel for each environment, a line for each group of runs.

    Two or more runs of a group give the interquartile mean with its pointwise bootstrap band; one run gives its curve.

    :param runs: run folders, and logs of other libraries as in :func:`rlopt.analysis.logs.read.read_curves`
    :param out: the picture, ``.png``, ``.svg`` or ``.pdf``, written whole or not at all
    :param key: a column of progress.csv, or ``evaluation``; None takes :func:`rlopt.analysis.curves.default_key`
    :param x: ``steps`` or ``seconds``
    :param by: what tells lines apart: ``agent`` or a field of the settings
    :param env: the environment of other libraries' logs that do not name theirs
    :param width: width of the picture, as :func:`inches` takes it; None makes it as wide as its panels need
    :param confidence: confidence level of the bands, between 0 and 1
    :param report: told in one line what a reader of the picture should know
    :return: ``out``
    :raises RunError: if a folder is not a run or has no curve
    :raises ConfigError: if an argument is out of range, with the nearest valid name
    """
    out, wide = Path(out), inches(width)
    check_suffix(out)
    if not runs:
        raise ConfigError("no run folders given")
    key, curves = read_curves(runs, key, x, env, report)
    curves = [without_repeats(curve) for curve in curves] if key.startswith("rollout/") else curves
    groups = group_curves(curves, by=by, statistic=statistic, confidence=confidence, report=report)
    name = getattr(statistic, "__name__", "statistic")
    figure = draw(
        groups,
        x_label=X_LABELS[x],
        y_label=Y_LABELS.get(key, key),
        band=f"{'IQM' if name == 'iqm' else name} and {confidence:.0%} bootstrap band",
        width=wide,
    )
    save_figure(figure, out)
    return out


def inches(width: str | float | None) -> float | None:
    """A width as a number of inches.

    :param width: a name of :data:`WIDTHS`, or inches from 1 to 40, also as text
    :raises ConfigError: it is neither
    """
    if width is None or width in WIDTHS:
        return WIDTHS[str(width)] if width is not None else None
    try:
        found = float(width)
    except ValueError:
        raise unknown_name("width", str(width), WIDTHS, hint=f"{', '.join(WIDTHS)} or inches") from None
    if not 1 <= found <= 40:
        raise ConfigError(f"a width of {width} inches: give one from 1 to 40, or {', '.join(WIDTHS)}")
    return found


def _figure(count: int, columns: int, width: float | None, natural: tuple[float, float]) -> tuple[Any, Any, int]:
    """A figure with ``count`` panels in at most ``columns`` columns, the panels, and the columns that there are.

    :param width: inches; None makes each panel ``natural``, inches wide and high
    """
    from matplotlib.figure import Figure

    if width is not None:
        columns = max(1, min(columns, int(width / _NARROWEST)))
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    wide, high = natural if width is None else (width / columns, max(0.75 * width / columns, 1.3))
    size = (wide * columns, high * rows + (0.5 if width is None else 0.45))
    figure = Figure(figsize=size, dpi=150 if width is None else 300, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False), columns


def styled(width: float | None) -> Any:
    """A context for drawing and writing: the small type of a paper where a width is given, and embedded fonts."""
    from matplotlib import rc_context

    paper = {"font.size": 7, "axes.linewidth": 0.6, "axes.labelpad": 2, "xtick.major.size": 2, "ytick.major.size": 2}
    # A salt, without which the names within an SVG file are drawn by lot.
    settings: Any = {"pdf.fonttype": 42, "svg.hashsalt": "rlopt"} | ({} if width is None else paper)
    return rc_context(settings)


def draw(groups: Iterable[GroupCurve], *, x_label: str, y_label: str, band: str, width: float | None = None) -> Any:
    """A matplotlib figure with a panel for each environment; colours belong to labels, in all panels alike.

    :param band: what line and band show, for the legend's title
    :param width: width of the figure in inches, whose type is then that of a paper
    """
    with styled(width):
        return _draw(list(groups), x_label, y_label, band, width)


def _draw(groups: list[GroupCurve], x_label: str, y_label: str, band: str, width: float | None) -> Any:
    envs = sorted({group.env for group in groups})
    labels = sorted({group.label for group in groups})
    natural = (6.4 if len(envs) == 1 else 4.6, 3.7)
    figure, panels, columns = _figure(len(envs), _COLUMNS, width, natural)
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
    figure.legend(handles, names, title=title, title_fontsize="small", **place)


def _line_width() -> float:
    from matplotlib import rcParams

    return 0.18 * float(rcParams["font.size"])


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
    line = {"color": color, "linestyle": dash, "linewidth": _line_width(), "marker": marker, "ms": 4, "zorder": 4}
    panel.plot(group.x, group.center, label=group.label, **line)


def count_of_runs(runs: Sequence[int]) -> str:
    """Numbers of runs in words: "3 runs", "2 to 3 runs"."""
    low, high = min(runs), max(runs)
    return f"{low} to {high} runs" if low != high else "one run" if low == 1 else f"{low} runs"


def dress_panel(panel: Any, title: str, x_label: str, y_label: str) -> None:
    """Title, labels, grid and frame of a panel."""
    from matplotlib.ticker import EngFormatter

    panel.set_title(title, fontsize="medium", loc="left")
    panel.set_xlabel(x_label)
    panel.set_ylabel(y_label)
    panel.xaxis.set_major_formatter(EngFormatter(sep="", places=None))
    panel.margins(x=0.01)
    panel.grid(True, color="#e3e3e3", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Any, out: Path) -> None:
    """Writes a figure as its suffix says, whole or not at all; missing folders are made.

    :raises ConfigError: if the suffix is none of :data:`SUFFIXES`, or the file cannot be written
    """
    check_suffix(out)
    kind = out.suffix.lower().removeprefix(".")
    # no creation date, so that equal curves give equal files
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": "rlopt"}}[kind]
    with replacing(out, ConfigError, "use another place") as place, styled(None):
        figure.savefig(place, format=kind, metadata=metadata)


def check_suffix(out: Path) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for a picture that is none of these."""
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{out}: pictures are written as {KINDS}")


def plot_comparison(comparison: Comparison, out: str | Path, width: str | float | None = None) -> Path:
    """Draws the sample-efficiency curves and the profiles of a comparison, with their bands, and returns ``out``.

    Colours belong to groups: in the order of the table, the same in every panel.

    :param out: the picture, ``.png``, ``.svg`` or ``.pdf``, written whole or not at all
    :param width: as in :func:`plot_runs`
    :raises ConfigError: if the suffix is another or the file cannot be written
    """
    out = Path(out)
    check_suffix(out)
    save_figure(draw_comparison(comparison, inches(width)), out)
    return out


def draw_comparison(comparison: Comparison, width: float | None = None) -> Any:
    """The matplotlib figure of :func:`plot_comparison`; ``width`` in inches."""
    with styled(width):
        return _draw_comparison(comparison, width)


def _draw_comparison(comparison: Comparison, width: float | None) -> Any:
    from rlopt.analysis.comparison import ALL_TASKS

    curves = comparison.curves()
    panels = list(dict.fromkeys(curve.env for curve in curves))
    count = len(panels) + 1
    figure, grid, columns = _figure(count, 2 if count == 4 else _COLUMNS, width, (4.6, 3.6))
    axes = list(grid.flat)
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
        panel.plot(profile.thresholds, profile.share, color=color, linestyle=dash, linewidth=_line_width())
    normalised = comparison.scales is not None
    score = "normalised score" if normalised else Y_LABELS.get(comparison.key, comparison.key)
    dress_panel(panel, "performance profile, last scores", f"{score}, \N{GREEK SMALL LETTER TAU}",
                "share of runs above \N{GREEK SMALL LETTER TAU}")  # fmt: skip
    panel.xaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    panel.set_ylim(-0.02, 1.02)
