"""``rlopt compare RUN...``"""

from pathlib import Path

from rlopt.analysis.compatibility import MIXES
from rlopt.cli.parsing import OneLineParser, add_foreign_logs, say_reading
from rlopt.errors import ConfigError
from rlopt.settings.fields import Range

SUFFIXES = (".png", ".svg", ".pdf", ".csv")


def main(argv: list[str]) -> int:
    """Compares groups of runs, prints a table, and draws or writes it; returns 0."""
    arguments = _parser().parse(argv)
    outs = [Path(out) for out in arguments.out or ["comparison.png"]]
    for out in outs:
        if out.suffix.lower() not in SUFFIXES:
            raise ConfigError(f"--out {out}: give a picture, .png, .svg or .pdf, or a table, .csv")
    say_reading("compare")

    from rlopt.analysis.comparison import compare_runs
    from rlopt.analysis.logs.read import named_logs
    from rlopt.analysis.plotting import inches, plot_comparison
    from rlopt.analysis.report import format_table, write_tables

    width = inches(arguments.width)
    comparison = compare_runs(
        named_logs(arguments.runs),
        by=arguments.by,
        reference=arguments.reference,
        key=arguments.key,
        normalise=arguments.normalise,
        mix={name for name in MIXES if getattr(arguments, f"mix_{name}")},
        env=arguments.env,
        confidence=arguments.confidence,
    )
    print(format_table(comparison), flush=True)
    for out in outs:
        if out.suffix.lower() == ".csv":
            print(f"tables: {', '.join(map(str, write_tables(comparison, out)))}")
        else:
            print(f"picture: {plot_comparison(comparison, out, width)}{'' if arguments.out else ' (or --out FILE)'}")
    return 0


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="rlopt compare",
        description="Compare groups of runs by the last score of each: interquartile mean (IQM) with a bootstrap "
        "interval over seeds, stratified by task, probability of improvement over a reference group, and the seeds "
        "that a claim would need. Draws learning curves and performance profiles.",
    )
    add_foreign_logs(parser)
    parser.add_argument(
        "--by", metavar="FIELD", default="agent", help="field that defines the groups: agent (default), a setting "
            "such as kl_coef, or several separated by commas"
    )  # fmt: skip
    parser.add_argument("--reference", metavar="GROUP", help="group to compare with (default that of the first run)")
    parser.add_argument(
        "--key", metavar="KEY", help="evaluation, the mean return of the last evaluation, or a column of progress.csv "
        "(default evaluation, as in rlopt plot; rollout/ep_rew_mean for runs without evaluations)"
    )  # fmt: skip
    parser.add_argument(
        "--normalise", "--normalize", metavar="SCALE", help="scale of the scores, needed for several tasks: min-max, "
        "dm_control (0 to 1000), or a JSON file with the returns of a random and an expert policy for each task"
    )  # fmt: skip
    for name, what in MIXES.items():
        parser.add_argument(f"--mix-{name}", action="store_true", help=f"allow {what}".replace("%", "%%"))
    probability = Range(gt=0, lt=1)
    parser.add_number("--confidence", probability, float, metavar="P", default=0.95, help="confidence level of all "
        "intervals (default 0.95)")  # fmt: skip
    parser.add_argument(
        "--out", metavar="FILE", action="append", help="picture, .png, .svg or .pdf, or tables, .csv; may be given "
        "several times (default comparison.png)"
    )  # fmt: skip
    return parser
