"""``rlopt plot RUN...``"""

from __future__ import annotations

from pathlib import Path

from rlopt.cli.parsing import OneLineParser
from rlopt.run_folder import named_runs


def main(argv: list[str]) -> int:
    """Draws the learning curves of runs and prints the path of the picture; returns 0."""
    parser = OneLineParser(
        prog="rlopt plot",
        description="Draw learning curves: a panel for each environment, a line for each agent. Runs that differ in "
        "their seed become one line, their interquartile mean (IQM), with a 95% bootstrap band.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run folders, as rlopt train printed "
                        "them; folders of the runs of several seeds; patterns such as 'runs/mdpo-*'")  # fmt: skip
    parser.add_argument("--out", metavar="FILE", type=Path, help="picture, .png or .svg (default learning_curve.png in "
                        "the run folder of a single run, else here)")  # fmt: skip
    parser.add_argument("--x", metavar="AXIS", default="steps", help="steps (default) or seconds of training")
    parser.add_argument("--key", metavar="KEY", help="evaluation, or a column of progress.csv (default evaluation, "
                        "as in rlopt compare; of runs without, and over seconds, rollout/ep_rew_mean)")  # fmt: skip
    parser.add_argument("--by", metavar="FIELD", default="agent", help="setting that tells lines apart (default agent) "
                        "or several, with commas between")  # fmt: skip
    arguments = parser.parse(argv)
    out = arguments.out
    if out is None:
        out = Path(arguments.runs[0] if len(arguments.runs) == 1 else ".") / "learning_curve.png"

    from rlopt.analysis.plotting import plot_runs

    print(plot_runs(named_runs(arguments.runs), out, key=arguments.key, x=arguments.x, by=arguments.by, report=_note))
    return 0


def _note(line: str) -> None:
    print(f"note: {line}")
