"""Tasks that never end in every verb: train, resume, evaluate, compare, plan; a signal during a long evaluation."""

import csv
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import rlopt
from rlopt.cli.main import main
from rlopt.envs.average_reward import FiniteEnv
from rlopt.evaluation.gain import evaluate_average_reward
from rlopt.runs import boundary

SMALL = ("--n-steps", "128", "--total-timesteps", "256", "--eval-every", "128", "--eval-episodes", "1")


class Drift(gymnasium.Env[Any, Any]):
    """Never ends: action 1 pays 1 in state 1, and the state is the last action."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    observation_space = spaces.Discrete(2)
    action_space = spaces.Discrete(2)
    steps: ClassVar[int] = 0
    """Of all environments of this process together."""
    signal_at: ClassVar[int] = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = 0
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        Drift.steps += 1
        if Drift.steps == Drift.signal_at:
            signal.raise_signal(signal.SIGTERM)
        reward = float(self.state * action)
        self.state = int(action)
        return self.state, reward, False, False, {}


@pytest.fixture(autouse=True)
def drift() -> Iterator[None]:
    gymnasium.register("Drift-v0", entry_point=Drift)
    Drift.steps, Drift.signal_at = 0, -1
    yield
    del gymnasium.registry["Drift-v0"]


def evaluations(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "evaluations.csv").open()))


def test_a_deep_agent_is_evaluated_in_stretches_and_its_reward_rate_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", "mdpo", "--env", "Drift-v0", "--run-dir", str(run), *SMALL]) == 0
    assert "an evaluation episode lasts 1000 steps" in capsys.readouterr().out
    assert [(row["step"], row["length"]) for row in evaluations(run)] == [("128", "1000"), ("256", "1000")]
    assert main(["evaluate", str(run), "--episodes", "2"]) == 0
    assert json.loads((run / "evaluation.json").read_text())["lengths"] == [1000, 1000]
    assert main(["evaluate", str(run), "--average-reward", "--steps", "400", "--burn-in", "10", "--stochastic"]) == 0
    assert "reward a step" in capsys.readouterr().out
    record = json.loads((run / "average_reward.json").read_text())
    assert record["n_steps"] == 400 and record["low"] <= record["gain"] <= record["high"]
    assert main(["compare", str(run), str(run)]) in (0, 2)  # it reads the evaluations as any others
    assert main(["evaluate", str(run), "--average-reward", "--video"]) == 2


def test_a_signal_ends_a_long_evaluation_which_is_played_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundary, "PATIENCE", 0.0)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["train", "mdpo", "--env", "Drift-v0", "--run-dir", str(whole), *SMALL]) == 0
    Drift.steps, Drift.signal_at = 0, 128 + 300  # in the first evaluation
    assert main(["train", "mdpo", "--env", "Drift-v0", "--run-dir", str(parts), *SMALL]) == 143
    assert Drift.steps < 128 + 310 and evaluations(parts) == []
    assert main(["resume", str(parts)]) == 0
    assert evaluations(parts) == evaluations(whole)


def test_loop_learns_in_an_environment_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "loop", "--env", "Drift-v0", "--run-dir", str(tmp_path / "run"), "--total-timesteps", "600"]
    command += ["--eval-every", "0", "--span", "1"]
    assert main(command) == 2
    assert "--reward-range 0 1" in capsys.readouterr().err
    assert main([*command, "--reward-range", "0", "1"]) == 0
    assert rlopt.load(tmp_path / "run").reward_range == (0.0, 1.0)


def test_the_average_reward_of_a_gymnasium_environment() -> None:
    class Always:
        def predict(self, observations: np.ndarray, **_: Any) -> tuple[np.ndarray, None]:
            return np.ones(len(observations), np.int64), None

    for env in (Drift(), "Drift-v0", FiniteEnv([[[(1.0, 0, 0.0)], [(0.5, 0, 1.0), (0.5, 0, 1.0)]]])):
        assert evaluate_average_reward(Always(), env, n_steps=50, burn_in=2).gain == 1.0


def test_plan_takes_gymnasiums_tables_and_processes_with_several_gains(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--env", "FrozenLake-v1", "--env-kwargs", '{"is_slippery": false}', "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["gain"] == pytest.approx(1 / 6) and record["states"] == 16  # six steps from the start to the goal
    gymnasium.register("Apart-v0", entry_point=lambda: FiniteEnv([[[(1.0, 0, 0.25)]], [[(1.0, 1, 1.0)]]]))
    try:
        assert main(["plan", "--env", "Apart-v0"]) == 0
        assert "from 0.25 to 1 a step: it depends on the first state" in capsys.readouterr().out
        assert main(["plan", "--env", "Apart-v0", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["gains"] == [0.25, 1.0]
    finally:
        del gymnasium.registry["Apart-v0"]
