"""docs/scale_out.md does what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from rlopt.cli.main import VERBS, main
from rlopt.cli.sweep import _parser as sweep_parser
from rlopt.cli.sweep import divide, setting_values
from rlopt.cli.tune import _parser as tune_parser
from rlopt.tune_spec import parse_axes

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "scale_out.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def test_the_snippet_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (snippet,) = blocks("python")
    exec(compile(snippet, "docs/scale_out.md", "exec"), {})
    (promised,) = re.findall(r"^print\(.*\)  # (.*)$", snippet, flags=re.MULTILINE)
    assert capsys.readouterr().out.strip() == promised


def test_the_sweep_file_is_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (text,) = blocks("yaml")
    Path("sweep.yaml").write_text(text)
    assert main(["sweep", "sweep.yaml", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("40 runs in ")


def test_every_command_is_understood() -> None:
    commands = [line.partition("#")[0] for line in "".join(blocks("")).splitlines() if line.startswith("rlopt ")]
    assert len(commands) == 6
    for command in commands:
        _, verb, *argv = shlex.split(command)
        assert verb in VERBS
        if verb == "train":
            agent, *flags = argv
            setting_values(flags, [agent], sweep_parser())
            continue
        parser = sweep_parser() if verb == "sweep" else tune_parser()
        own, others = divide(argv, parser)
        arguments = parser.parse(own)
        setting_values(others, ["mdpo"], parser)
        if verb == "tune":
            assert len(parse_axes(arguments.search)) == 3
