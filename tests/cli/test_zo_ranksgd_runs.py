"""``rlopt train zo_ranksgd``, ``resume``, ``evaluate`` and ``rlopt.load``."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlopt
from rlopt.checkpoint.files import list_checkpoints, read_checkpoint, write_checkpoint
from rlopt.cli.main import main
from rlopt.errors import CheckpointError

FLAGS = ["--env", "CartPole-v1", "--m", "4", "--k", "4", "--line-search-points", "4", "--max-episode-steps", "60"]


def train(run: Path, *flags: str) -> None:
    assert main(["train", "zo_ranksgd", "--run-dir", str(run), "--seed", "3", *FLAGS, *flags]) == 0


def final(run: Path) -> dict[str, Any]:
    return dict(read_checkpoint(list_checkpoints(run / "checkpoints")[-1]).trees)


@pytest.mark.parametrize("flags", [("--oracle", "noisy"), ("--policy", "MlpPolicy", "--net-arch", "8")])
def test_a_resumed_run_is_the_run_that_was_never_stopped(flags: tuple[str, ...], tmp_path: Path) -> None:
    common = ("--checkpoint-every", "500", "--log-every", "400", "--eval-every", "0", *flags)
    train(tmp_path / "whole", "--total-timesteps", "3000", *common)
    train(tmp_path / "parts", "--total-timesteps", "1200", *common)
    assert main(["resume", str(tmp_path / "parts"), "--total-timesteps", "3000"]) == 0
    whole, parts = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert whole["agent"]["num_timesteps"] >= 3000
    np.testing.assert_equal(parts["agent"], whole["agent"])
    rows = [list(csv.DictReader((tmp_path / name / "episodes.csv").open())) for name in ("whole", "parts")]
    assert rows[0] == rows[1] and len(rows[0]) == whole["agent"]["num_episodes"]


def test_a_run_stopped_in_the_middle_of_its_episodes_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import signal

    from runs import send_signal_at

    common = ("--total-episodes", "40", "--eval-every", "0")
    train(tmp_path / "whole", *common)
    agent = final(tmp_path / "whole")["agent"]
    assert agent["num_episodes"] == 40 and agent["num_queries"] == 10
    # The sixth of the ten boundaries: after 20 episodes.
    steps = [int(row["step"]) for row in csv.DictReader((tmp_path / "whole" / "episodes.csv").open())]
    send_signal_at(monkeypatch, steps[20 - 1], signal.SIGINT)
    command = ["train", "zo_ranksgd", "--run-dir", str(tmp_path / "parts"), "--seed", "3", *FLAGS, *common]
    assert main(command) == 130
    assert final(tmp_path / "parts")["agent"]["num_episodes"] == 20
    assert "episode 20 of 40 (50 %)" in capsys.readouterr().out
    assert main(["resume", str(tmp_path / "parts")]) == 0
    assert "episode 40 of 40 (100 %)" in capsys.readouterr().out
    np.testing.assert_equal(final(tmp_path / "parts")["agent"], agent)
    # A finished run has nothing left to do.
    assert main(["resume", str(tmp_path / "parts")]) == 0
    np.testing.assert_equal(final(tmp_path / "parts")["agent"], agent)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--total-episodes", "8"), "episode 8 of 8 (100 %)"),
        (("--total-queries", "2"), "round 2 of 2 (100 %)"),
        # A round has four episodes: what is spent first is what counts.
        (("--total-queries", "2", "--total-episodes", "400"), "round 2 of 2 (100 %)"),
        (("--total-queries", "200", "--total-episodes", "8"), "episode 8 of 8 (100 %)"),
        (("--total-timesteps", "1"), " of 1 (100 %)"),
    ],
)
def test_progress_is_told_in_the_unit_of_the_budget(
    flags: tuple[str, ...], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "run", "--eval-every", "0", *flags)
    said = capsys.readouterr().out
    assert line in said and ", 0s left" in said


def test_run_folder_evaluation_and_loading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    train(run, "--total-episodes", "60", "--eval-every", "500", "--log-every", "1")
    rows = list(csv.DictReader((run / "progress.csv").open()))
    assert [float(row["zo_ranksgd/queries"]) for row in rows] == [float(n) for n in range(1, 16)]
    model = rlopt.load(run)
    assert isinstance(model, rlopt.RankedPolicySearch) and model.num_episodes == 60 and model.env is None
    assert main(["evaluate", str(run), "--episodes", "4"]) == 0
    assert len(json.loads((run / "evaluation.json").read_text())["returns"]) == 4
    again = rlopt.load(run / "best", env="CartPole-v1")
    assert again.learn(100, reset_num_timesteps=False).num_timesteps >= again.num_queries


def test_a_damaged_search_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run", "--total-episodes", "8", "--eval-every", "0")
    checkpoint = read_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[-1])
    for name, value in (("optimizer", {}), ("seed", "x"), ("settings", {"k": 3})):
        trees = {**checkpoint.trees, "agent": {**checkpoint.trees["agent"], name: value}}
        path = write_checkpoint(tmp_path / name, checkpoint.step, trees, checkpoint.metadata)
        with pytest.raises(CheckpointError, match="malformed or of another version"):
            rlopt.load(path)


def test_resuming_with_other_settings_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "run", "--total-episodes", "8", "--eval-every", "0")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["agent_config"]["smoothing"] = 0.2
    config["agent_config"]["total_episodes"] = 16
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert main(["resume", str(tmp_path / "run")]) == 2
    assert "another settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--k", "11"], "k = 11 is more than m = 10"),
        (["--m", "6"], "k = 10 is more than m = 6: rank at most all candidates, k = 6"),
        (["--total-episodes", "19", "--episodes-per-candidate", "2"], "less than the 20 episodes of the first round"),
        (["--oracle", "retrun"], "did you mean 'return'"),
        (["--n-envs", "4"], "--max-envs bounds them"),
        (["--seeds", "0..3"], "give --seed"),
        (["--temperature", "1"], "--temperature is for --oracle noisy"),
        (["--study", "mine"], "--study is for --oracle human"),
        (["--search", "cmaes", "--learning-rate", "2"], "--learning-rate is for --search zo_ranksgd"),
        (["--normalize-rewards", "true"], "--normalize-rewards has no effect"),
        (["--smothing", ".1"], "did you mean '--smoothing'"),
        (["--workers", "2"], "--workers needs an engine: add --engine local or ray"),
        (["--engine", "local", "--address", "10.0.0.1:6379"], "--address needs a Ray cluster: add --engine ray"),
        (["--engine", "rey"], "engine = rey is not a choice: did you mean 'ray'?"),
        (["--line-search-points", "1"], "line_search_points = 1 leaves no step"),
        (["--subspace", "100"], "subspace=100 is outside"),
    ],
)
def test_flags_that_make_no_sense(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "zo_ranksgd", "--env", "CartPole-v1", *flags]) == 2
    assert message in capsys.readouterr().err


def test_arguments_of_the_environment_reach_it(tmp_path: Path) -> None:
    # Its rewards are then 0, and -1 where the pole falls.
    train(
        tmp_path / "run", "--env-kwargs", '{"sutton_barto_reward": true}', "--total-queries", "1", "--eval-every", "0"
    )
    rows = list(csv.DictReader((tmp_path / "run" / "episodes.csv").open()))
    assert len(rows) == 4 and {float(row["return"]) for row in rows} <= {0.0, -1.0}
