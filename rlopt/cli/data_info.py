"""``rlopt data info DATASET``"""

from __future__ import annotations

from pathlib import Path

from rlopt.cli.data_options import DATASET_HELP, add_reading_options, place_of, reading_options
from rlopt.cli.parsing import OneLineParser


def main(argv: list[str]) -> int:
    """Describes a data set and draws the states that it covers; returns 0."""
    parser = OneLineParser(
        prog="rlopt data info",
        description="Describe a data set: counts, returns, lengths, terminals, bounds, what was corrected in reading; "
        "and draw which states it covers.",
    )
    parser.add_argument("dataset", metavar="DATASET", help=DATASET_HELP)
    parser.add_argument("--out", metavar="FILE", type=Path, help="picture, .png or .svg (default next to the data set: "
                        "<DATASET>-coverage.png)")  # fmt: skip
    add_reading_options(parser)
    arguments = parser.parse(argv)
    options = reading_options(arguments)

    from rlopt.analysis.dataset_coverage import draw_coverage
    from rlopt.analysis.plotting import check_suffix, save_figure
    from rlopt.data import load_dataset
    from rlopt.data.description import describe

    if arguments.out is not None:
        check_suffix(arguments.out)
    data = load_dataset(arguments.dataset, download=arguments.download, **options)
    print(describe(data))
    place = place_of(arguments.dataset)
    out = arguments.out or place.with_name(f"{place.name}-coverage.png")
    save_figure(draw_coverage(data), out)
    print(f"picture          {out}")
    return 0
