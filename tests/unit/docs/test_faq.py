"""Every message that docs/faq.md quotes is one that people still get: each is provoked."""

import re
from pathlib import Path

import pages
import pytest
from provoked import PROVOKED

SECTIONS = re.findall(
    r"^### (.*?)\n\n```text\n(.*?)\n```$", (pages.ROOT / "docs" / "faq.md").read_text(), flags=re.DOTALL | re.MULTILINE
)
QUOTED = dict(SECTIONS)
TRAINS = ("A run is resumed with other demonstrations",)


def test_every_section_quotes_a_message_that_is_provoked() -> None:
    headings = re.findall(r"^### (.*)$", (pages.ROOT / "docs" / "faq.md").read_text(), flags=re.MULTILINE)
    assert headings == [heading for heading, _ in SECTIONS]
    assert set(headings) == set(PROVOKED) and len(headings) >= 25


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("heading", [pytest.param(h, marks=pytest.mark.slow if h in TRAINS else []) for h in PROVOKED])
def test_the_message_is_what_is_printed(heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = PROVOKED[heading](monkeypatch).replace(f"{tmp_path}/", "")
    assert without_chance(printed) == without_chance(QUOTED[heading])


def without_chance(text: str) -> str:
    """Without the version of torch, and without what is said where a busy machine had no time to keep the episodes."""
    text = text.replace(", where fresh episodes begin", "")
    return re.sub(r"torch (is )?\d+\.\d+\.\d+\S*", r"torch \1VERSION", text)
