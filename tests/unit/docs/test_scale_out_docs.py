"""The sweep file of docs/scale_out.md is a sweep of as many runs as it looks like."""

from pathlib import Path

import pages
import pytest

from rlopt.cli.main import main


def test_the_sweep_file_is_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in pages.blocks("docs/scale_out.md") if block.language == "yaml"]
    Path("sweep.yaml").write_text(block.text)
    assert main(["sweep", "sweep.yaml", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("40 runs in ")
