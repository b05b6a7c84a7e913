"""Notebooks as they are kept: without outputs, and with the code that the pages about them show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_nothing_that_was_run_is_kept(path: Path) -> None:
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None


def test_the_guide_is_that_of_the_page() -> None:
    cells = json.loads((ROOT / "notebooks" / "guda_guide.ipynb").read_text())["cells"]
    (cell,) = ("".join(cell["source"]) for cell in cells if "def along_the_u" in "".join(cell["source"]))
    guide = cell[cell.index("def along_the_u") :].strip()
    assert len(guide.splitlines()) <= 10 and guide in (ROOT / "agents" / "guda" / "README.md").read_text()
