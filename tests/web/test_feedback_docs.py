"""docs/feedback.md does what it says."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from rlopt.cli.main import main
from rlopt.cli.rank import SUBVERBS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "feedback.md").read_text()


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All but the one that needs a database server; then the commands that end by themselves."""
    monkeypatch.chdir(tmp_path)
    snippets = [text for text in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "postgresql" not in text]
    assert len(snippets) == 3
    names: dict[str, object] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for snippet in snippets:
            exec(compile(snippet, "docs/feedback.md", "exec"), names)
    # Numbers 3, 1, 4 and 2 show the candidates 2, 0, 3 and 1.
    assert "tiers=((2,), (0, 3), (1,))" in printed.getvalue()
    ran = 0
    for line in re.findall(r"^(rlopt rank .*)$", PAGE, flags=re.MULTILINE):
        arguments = shlex.split(line, comments=True)[1:]
        if arguments[1] in ("info", "export", "import") and "postgresql" not in line:
            assert main(arguments) == 0, line
            ran += 1
    assert ran == 5
    assert (tmp_path / "studies" / "copy" / "study.db").is_file()
    assert "study 'grey'" in capsys.readouterr().out


def test_every_command_and_option_of_the_page_exists(capsys: pytest.CaptureFixture[str]) -> None:
    for line in re.findall(r"^(rlopt rank .*)$", PAGE, flags=re.MULTILINE):
        arguments = shlex.split(line, comments=True)
        assert arguments[2] in SUBVERBS, line
        with pytest.raises(SystemExit):
            main(["rank", arguments[2], "--help"])
        known = capsys.readouterr().out
        for option in (argument for argument in arguments if argument.startswith("--")):
            assert option in known, line
