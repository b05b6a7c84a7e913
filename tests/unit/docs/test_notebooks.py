"""Notebooks as they are kept: what is shown, and the code that the pages about them show."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_what_is_kept_of_the_cells_is_small_and_of_no_machine(path: Path) -> None:
    outputs = [output for cell in json.loads(path.read_text())["cells"] for output in cell.get("outputs", [])]
    assert all(output["output_type"] != "error" for output in outputs)
    text = json.dumps(outputs)
    assert len(text) < 600_000 and not re.search(r"/(home|root|tmp|work)/", text)


def test_the_guide_is_that_of_the_page() -> None:
    cells = json.loads((ROOT / "notebooks" / "guda_guide.ipynb").read_text())["cells"]
    (cell,) = ("".join(cell["source"]) for cell in cells if "def along_the_u" in "".join(cell["source"]))
    guide = cell[cell.index("def along_the_u") :].strip()
    assert len(guide.splitlines()) <= 10 and guide in (ROOT / "agents" / "guda" / "README.md").read_text()
