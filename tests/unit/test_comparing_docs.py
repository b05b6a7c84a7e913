"""docs/comparing.md does what it says: every command and every snippet, in their order."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from rlopt.cli.main import main
from rlopt.comparable import MIXES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "comparing.md").read_text()


@pytest.mark.slow
def test_the_commands_and_snippets_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    tables = []
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert [kind for kind, _ in blocks] == ["", "text", "python", "", "python"]
    (shown,) = (text for kind, text in blocks if kind == "text")
    for kind, text in blocks:
        if kind == "text":
            continue
        if kind == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(text, "docs/comparing.md", "exec"), names)
            promised = re.findall(r"^print\(.*\)  # (.*)$", text, flags=re.MULTILINE)
            assert printed.getvalue().splitlines()[: len(promised)] == promised
            continue
        for line in text.splitlines():
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                assert main(shlex.split(line)[1:]) == 0, line
            if line.startswith("rlopt compare"):
                tables.append(printed.getvalue())
    files = {"steps.png", "steps.csv", "steps-scores.csv", "steps-curves.csv", "steps-profiles.csv", "both.svg"}
    assert files <= {entry.name for entry in tmp_path.iterdir()}
    printed_lines, shown_lines = tables[0].splitlines(), shown.splitlines()
    assert [words(line) for line in printed_lines[:3]] == [words(line) for line in shown_lines[:3]]
    assert [line[:16] for line in printed_lines[3:5]] == [line[:16] for line in shown_lines[3:5]]
    assert "CartPole-v1, Pendulum-v1" in tables[1] and "references.json" in tables[1] and "4 to 5" in tables[1]


def words(line: str) -> list[str]:
    """What a line says without its numbers, which differ between machines."""
    return [word for word in line.split() if not re.search(r"\d", word)]


def test_the_page_names_every_mix_and_no_other_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    help_text = capsys.readouterr().out
    described = set(re.findall(r"`(--[a-z-]+)", PAGE))
    assert {f"--mix-{name}" for name in MIXES} <= described
    for option in described:
        assert option in help_text, option
