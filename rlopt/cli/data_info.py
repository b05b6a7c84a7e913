"""``rlopt data info DATASET``"""

from __future__ import annotations

from rlopt.cli.parsing import OneLineParser


def main(argv: list[str]) -> int:
    """Describes a data set; returns 0."""
    parser = OneLineParser(prog="rlopt data info", description="Describe a data set.")
    parser.add_argument("dataset", metavar="DATASET", help="a data set folder")
    arguments = parser.parse(argv)

    from rlopt.data import Dataset

    data = Dataset.load(arguments.dataset)
    print(f"{len(data)} transitions in {len(data.episodes())} episodes of {data.metadata.env}")
    return 0
