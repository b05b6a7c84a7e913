"""``rlopt plot RUN...``"""

from pathlib import Path

from rlopt.cli.parsing import OneLineParser, add_foreign_logs, say_reading


def main(argv: list[str]) -> int:
    """Draws the learning curves of runs and prints the path of the picture; returns 0."""
    parser = OneLineParser(
        prog="rlopt plot",
        description="Draw learning curves: a panel for each environment, a line for each agent. Runs that differ in "
        "their seed become one line, their interquartile mean (IQM), with a 95% bootstrap band.",
    )
    add_foreign_logs(parser)
    parser.add_argument("--out", metavar="FILE", type=Path, help="picture, .png, .svg or .pdf (default "
                        "learning_curve.png in the run folder of a single run, else here)")  # fmt: skip
    parser.add_argument("--x", metavar="AXIS", default="steps", help="steps (default) or seconds of training")
    parser.add_argument("--key", metavar="KEY", help="evaluation, or a column of progress.csv (default evaluation, "
        "as in rlopt compare; rollout/ep_rew_mean for runs without evaluations, and over seconds)")  # fmt: skip
    parser.add_argument("--by", metavar="FIELD", default="agent", help="field that defines the lines: agent "
        "(default), a setting, or several separated by commas")  # fmt: skip
    arguments = parser.parse(argv)
    say_reading("plot")
    out = arguments.out
    if out is None:
        alone = Path(arguments.runs[0])
        out = (alone if len(arguments.runs) == 1 and not alone.is_file() else Path()) / "learning_curve.png"

    from rlopt.analysis.logs.read import named_logs
    from rlopt.analysis.plotting import plot_runs

    settings = {name: getattr(arguments, name) for name in ("key", "x", "by", "env", "width")}
    print(plot_runs(named_logs(arguments.runs), out, **settings, report=_note))
    return 0


def _note(line: str) -> None:
    print(f"note: {line}")
