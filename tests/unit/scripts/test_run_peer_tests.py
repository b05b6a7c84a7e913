"""The runner of the peers' tests: which tests are taken, which failures are accepted, and how it ends."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "run_peer_tests.py"
TESTS = """
import pytest
from stable_baselines3 import DQN, SAC

BY_NAME = {"dqn": (DQN, 1), "sac": (SAC, 2)}

def helper():
    return SAC

@pytest.mark.parametrize("model_class", [DQN, SAC])
def test_by_class(model_class):
    assert model_class.__module__.startswith("rlopt.")

@pytest.mark.parametrize("name", BY_NAME)
def test_by_name(name):
    assert BY_NAME[name][0].__module__.startswith("rlopt.")

def test_action_spaces_CartPole():
    helper()
    raise ValueError("SpaceError: not an action space")

def test_of_another():
    assert DQN is None

def test_that_breaks():
    assert SAC is None, "broken"
"""


@pytest.mark.slow
def test_a_failure_that_is_not_listed_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "stable_baselines3").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()
    (tmp_path / "tests" / "test_spaces.py").write_text(TESTS)
    command = [sys.executable, str(SCRIPT), str(tmp_path), "--replace", "SAC=SAC"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "SAC=SAC: 2 of 4 passed" in done.stdout
    assert "accepted test_spaces.py::test_action_spaces_CartPole: refused as well, with an error of" in done.stdout
    assert "FAILED test_spaces.py::test_that_breaks: AssertionError: broken" in done.stdout
    assert "test_of_another" not in done.stdout
    done = subprocess.run([*command, "-k", "not breaks"], capture_output=True, text=True)
    assert done.returncode == 0 and "SAC=SAC: 2 of 3 passed" in done.stdout


def test_what_is_no_checkout_is_refused(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1 and "is not a checkout of stable_baselines3 or sb3_contrib" in done.stderr
