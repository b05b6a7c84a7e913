"""The page on guided augmentation does what it says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rlopt.agents.guda as guda
from rlopt.agents.guda.tasks import TASKS
from rlopt.cli.main import main
from rlopt.envs.tasks.own_tasks import FIXED_GOAL_MAZES

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "agents" / "guda" / "README.md").read_text()


def test_the_guide_of_the_page_has_ten_lines_at_most_and_works() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    guide = re.search(r"def along_the_u.*?return parameters\n", snippet, flags=re.DOTALL)
    assert guide is not None and len(guide.group().splitlines()) <= 10
    names: dict = {}
    exec(compile(snippet, "README.md", "exec"), names)
    made = names["made"]
    step = made.next_observations - made.observations
    arms = (made.observations[:, 1] > 0.5, made.observations[:, 0] > 0.5, made.observations[:, 1] < -0.5)
    along = np.select(arms, (-step[:, 0], step[:, 1], step[:, 0]))
    across = np.abs(np.select(arms, (step[:, 1], step[:, 0], step[:, 1])))
    assert len(made) == 1000 and all(arm.any() for arm in arms) and (along >= across - 1e-6).all()
    report = guda.check_dynamics(names["augmentation"], None, names["data"], guide=names["along_the_u"], n=50)
    assert report.errors.max() < 1e-12


def test_every_guide_and_domain_has_its_row() -> None:
    for name, task in TASKS.items():
        assert f"| `{name}`" in README
        for guide in task.guides:
            assert f"| `{guide}` |" in README


def test_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line, comments=True) for line in README.splitlines() if line.startswith("    rlopt data")]
    assert [command[2] for command in commands] == ["generate", "augment", "check"]
    for command in commands:
        small = ["500" if token == "3000" else "2000" if token == "1000000" else token for token in command[1:]]
        assert main(small + (["--n", "20"] if "check" in small else [])) == 0
    assert "20 augmented transitions against the simulator: exact" in capsys.readouterr().out


def test_reference_returns_of_the_page_are_those_of_the_table() -> None:
    for task in FIXED_GOAL_MAZES.values():
        assert all(str(value) in README for value in task.reference_returns)


def test_every_exported_name_exists_and_the_package_is_light() -> None:
    assert "make_augmented" in guda.__all__ and all(hasattr(guda, name) for name in guda.__all__)
    code = "import sys, rlopt.agents.guda.tasks as t; print(*[m for m in ('torch', 'mujoco') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
    with pytest.raises(AttributeError, match="no_such"):
        _ = guda.no_such
