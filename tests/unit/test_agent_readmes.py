"""The examples on the agents' own pages run. Only their lengths are changed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import d4rl_files
import pytest

from rlopt.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
LENGTHS = {
    "ailboost": {"learn(20_000)": "learn(3_100)"},
    "imitation": {"learn(100_000)": "learn(1_400)", "n_episodes=10": "n_episodes=1"},
    "offline": {"learn(1_000_000)": "learn(50)", "learn(100_000)": "learn(50)", "n_episodes=10": "n_episodes=1"},
    "zo_ranksgd": {"total_episodes=400": "total_episodes=40"},
}
"""Agent -> parts of its page's examples, and what takes their place here."""


def page(agent: str) -> str:
    return (ROOT / "agents" / agent / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("agent", sorted(LENGTHS))
def test_examples_of_the_page_run(agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLOPT_DATA_DIR", str(tmp_path))
    d4rl_files.write_file(
        tmp_path / "hopper_medium-v2.hdf5", d4rl_files.gym_arrays(600, timeouts=tuple(range(99, 600, 100)))
    )
    snippets = re.findall(r"```python\n(.*?)```", page(agent), flags=re.DOTALL)
    assert snippets
    names: dict = {}
    for snippet in snippets:
        for long, short in LENGTHS[agent].items():
            assert long in page(agent), long
            snippet = snippet.replace(long, short)
        exec(compile(snippet, f"agents/{agent}/README.md", "exec"), names)
    assert names["model"].num_timesteps > 0


@pytest.mark.slow
def test_commands_of_deep_loop_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [line for line in page("deep_loop").splitlines() if line.startswith("rlopt train deep_loop")]
    assert len(commands) == 3
    for number, command in enumerate(commands):
        words = shlex.split(command, comments=True)[1:]
        if "--total-timesteps" in words:
            del words[words.index("--total-timesteps") :][:2]
        assert main([*words, "--total-timesteps", "200", "--run-dir", f"run{number}"]) == 0
