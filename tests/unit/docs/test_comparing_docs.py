"""docs/comparing.md does what it says: every command and every snippet, in their order."""

import re
from pathlib import Path

import pages
import pytest

from rlopt.analysis.compatibility import MIXES
from rlopt.cli.main import main

PAGE = (pages.ROOT / "docs" / "comparing.md").read_text()


@pytest.mark.slow
def test_the_commands_and_snippets_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [block.language for block in pages.blocks("docs/comparing.md")] == [
        "",
        "text",
        "",
        "python",
        "",
        "math",
        "python",
    ]
    printed = pages.run_page(
        "docs/comparing.md",
        wanted=lambda command: "logs/" not in command and "PPO_1" not in command,
        shorter={"--total-timesteps 4096": "--total-timesteps 2048"},
    )
    files = {"steps.png", "steps.csv", "steps-scores.csv", "steps-curves.csv", "steps-profiles.csv", "both.svg"}
    assert files <= {entry.name for entry in tmp_path.iterdir()}
    (both,) = [text for command, text in printed.commands if "--mix-tasks" in command]
    assert "CartPole-v1, Pendulum-v1" in both and "references.json" in both and "4 to 5" in both


def test_the_page_names_every_mix_and_no_other_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    help_text = capsys.readouterr().out
    described = set(re.findall(r"`(--[a-z-]+)", PAGE))
    assert {f"--mix-{name}" for name in MIXES} <= described
    for option in described:
        assert option in help_text, option
