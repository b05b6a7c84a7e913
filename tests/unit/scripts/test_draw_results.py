"""Pictures of the tables of results show what the tables say."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))

import draw_results
from draw_results import Dot, panels_of, write

TABLE = """Some words:

| task | data | their episodes | BC | IQL |
|---|---|---|---|---|
| Hopper-v5 | medium | 26 | 30 [29, 31] | 1,130 (1 of 3 seeds) |
| Hopper-v5 | replay | 15 | -4.5 [-7, 2] | not run |
"""
METHODS = """| sees | method | Swimmer | Reacher |
|---|---|---|---|
| ranks | ours | 3 [2, 4] | -9.5 [-10, -9] |
| values | theirs | 5 [5, 6] | -7 [-8, -6] |
"""


def test_columns_or_rows_are_the_contestants() -> None:
    assert panels_of(TABLE) == {
        "Hopper-v5, medium": [Dot("BC", 30, 29, 31), Dot("IQL", 1130, 1130, 1130)],
        "Hopper-v5, replay": [Dot("BC", -4.5, -7, 2)],
    }
    assert panels_of(METHODS) == {
        "Swimmer": [Dot("ours", 3, 2, 4), Dot("theirs", 5, 5, 6)],
        "Reacher": [Dot("ours", -9.5, -10, -9), Dot("theirs", -7, -8, -6)],
    }
    assert panels_of("no table\n") == panels_of("| a |\n|---|\n| 3 |\n") == {}


def test_a_page_has_its_picture_once(tmp_path: Path) -> None:
    page = tmp_path / "study.md"
    page.write_text(f"# Study\n\n<!-- results main -->\n{TABLE}<!-- /results main -->\n\nmore\n")
    assert write(page) == [tmp_path / "study.svg"]
    once = page.read_text()
    assert once.count("](study.svg)") == 1 and once.endswith("\n\nmore\n")
    write(page)
    assert page.read_text() == once


def test_published_scores_are_drawn_beside_runs_only_and_differences_not_at_all() -> None:
    head = "| task | repeat | ours | published | ours - published |\n|---|---|---|---|---|\n"
    assert panels_of(head + "| walker | 2 | not run | 891 +- 82 | not run |\n") == {}
    assert panels_of(head + "| walker | 2 | 900 (1 of 5 seeds) | 891 +- 82 | 9 [-3, 20] |\n") == {
        "walker": [Dot("ours", 900, 900, 900), Dot("published", 891, 809, 973)]
    }


@pytest.mark.parametrize("page", sorted(draw_results.FOLDER.glob("*.md")), ids=lambda path: path.stem)
def test_every_page_with_runs_shows_its_picture(page: Path) -> None:
    text = page.read_text()
    if any(panels_of(block) for _, block in draw_results.BLOCK.findall(text)):
        pictures = re.findall(r"^!\[.*\]\((.*\.svg)\)$", text, re.M)
        assert pictures and all((page.parent / name).is_file() for name in pictures)
