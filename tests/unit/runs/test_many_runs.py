"""Runs of several seeds in one process against the same runs alone; stopping, continuing, failing."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import AGENT, assert_same_result, leaves, read_csv, send_signal_at, settings, steps

import rlopt
from rlopt.agents.mdpo.config import OffPolicyMDPOConfig
from rlopt.checkpoint.files import list_checkpoints, read_checkpoint
from rlopt.cli.main import main
from rlopt.errors import CheckpointError, ConfigError, NonFiniteError, RunError, UnknownNameError
from rlopt.run_folder import RunFolder, run_folders
from rlopt.runs.boundary import RunHook
from rlopt.runs.multi_seed import common_step, parse_seeds, resume_seeds, train_seeds
from rlopt.runs.train import train
from rlopt.settings.run import RunConfig

OFF_POLICY = OffPolicyMDPOConfig(
    net_arch=(8,), batch_size=8, learning_starts=40, buffer_size=400, old_policy_period=20, compile="off"
)
NAMES = ["seed1", "seed2", "seed5"]


def many(folder: Path, **changes: Any) -> RunConfig:
    return settings(folder, seeds="1,2,5", **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs that were never stopped."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    result = train_seeds("mdpo", many(folder), AGENT)
    assert (result.path, result.exit_code, result.failures) == (folder, 0, {})
    assert [run.step for run in result.runs.values()] == [320, 320, 320]
    return folder


def close(first: Any, second: Any) -> bool:
    try:
        return bool(np.isclose(float(first), float(second), rtol=1e-2, atol=1e-3))
    except ValueError:
        return bool(first == second)


@pytest.mark.parametrize(("agent", "config"), [("mdpo", AGENT), ("off_policy_mdpo", OFF_POLICY)])
def test_each_run_is_the_run_alone(agent: str, config: Any, tmp_path: Path) -> None:
    together = tmp_path / "together"
    train_seeds(agent, many(together, total_timesteps=160), config)
    assert run_folders(together) == [together / name for name in NAMES]
    for name in NAMES:
        alone = tmp_path / name
        train(agent, settings(alone, seed=int(name[4:]), total_timesteps=160), config)
        assert steps(together / name) == steps(alone)
        for file in ("progress.csv", "episodes.csv", "evaluations.csv"):
            ours, theirs = read_csv(together / name / file), read_csv(alone / file)
            assert len(ours) == len(theirs) > 0 and ours[0].keys() == theirs[0].keys()
            pairs = [(row[key], other[key]) for row, other in zip(ours, theirs, strict=True) for key in row]
            assert all(close(*pair) for pair in pairs), file
        config_of = json.loads((together / name / "config.json").read_text())["run"]
        assert config_of["seeds"] is None and config_of["seed"] == int(name[4:])


def test_runs_differ_by_their_seed(whole: Path) -> None:
    first, second = (read_csv(whole / name / "episodes.csv") for name in NAMES[:2])
    assert first != second


def test_runs_that_were_stopped_and_killed_go_on_bit_for_bit(whole: Path, tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        send_signal_at(patch, 160)
        assert train_seeds("mdpo", many(folder), AGENT).exit_code == 130
    # Every run has stopped at the same boundary, with a checkpoint of it.
    newest = {steps(folder / name)[-1] for name in NAMES}
    assert len(newest) == 1 and newest < {160, 192}
    # Killed while checkpoints were written: one run is behind the others, one checkpoint is damaged.
    shutil.rmtree(list_checkpoints(folder / "seed2" / "checkpoints")[-1])
    damage(list_checkpoints(folder / "seed1" / "checkpoints")[-2])
    assert resume_seeds(folder).exit_code == 0
    for name in NAMES:
        assert_same_result(folder / name, whole / name)


def damage(checkpoint: Path) -> None:
    file = next(checkpoint.glob("networks.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")


@pytest.mark.parametrize("lost", ["checkpoints", "."])
def test_runs_that_were_killed_at_their_first_checkpoint_begin_again(lost: str, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    shutil.copytree(whole, folder)
    for name in NAMES:
        for path in list_checkpoints(folder / name / "checkpoints")[1:]:
            shutil.rmtree(path)
    shutil.rmtree(folder / "seed5" / lost)
    assert resume_seeds(folder).exit_code == 0
    for name in NAMES:
        assert_same_result(folder / name, whole / name)


def test_runs_without_a_common_checkpoint_go_on_from_their_own(whole: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "seed1")
    assert common_step([RunFolder(folder / name) for name in NAMES]) is None
    assert resume_seeds(folder).exit_code == 0
    said = capsys.readouterr().out
    assert "no step has a checkpoint of every run" in said and f"seed2: {folder / 'seed2'} is complete" in said
    assert steps(folder / "seed1")[-1] == 320


def test_a_common_checkpoint_outlives_better_ones(tmp_path: Path) -> None:
    """Checkpoints of improved evaluations do not push out the last two that all runs have."""
    folder = tmp_path / "runs"
    agent = dataclasses.replace(AGENT, n_steps=8)
    train_seeds("mdpo", many(folder, eval_every=16, keep_checkpoints=1, checkpoint_every=128), agent)
    for name in NAMES[:-1]:  # until the last one ends
        assert {256, 320} <= set(steps(folder / name)) and 128 not in steps(folder / name)


def test_a_run_goes_on_alone_too(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    for name in NAMES:
        for path in list_checkpoints(folder / name / "checkpoints"):
            if path.name > "step-000000000192":
                shutil.rmtree(path)
    assert main(["resume", str(folder / "seed2")]) == 0
    ours, theirs = (read_csv(path / "seed2" / "episodes.csv") for path in (folder, whole))
    assert len(ours) == len(theirs)
    assert all(close(a[key], b[key]) for a, b in zip(ours, theirs, strict=True) for key in a)


def test_compiled_seeds_go_on_bit_for_bit(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    agent = dataclasses.replace(OFF_POLICY, compile="on")
    train_seeds("off_policy_mdpo", many(whole, n_envs=1, total_timesteps=128), agent)
    shutil.copytree(whole, stopped)
    for name in NAMES:
        shutil.rmtree(stopped / name / "checkpoints" / "step-000000000128")
    assert resume_seeds(stopped).exit_code == 0
    for name in NAMES:
        last = [read_checkpoint(list_checkpoints(path / name / "checkpoints")[-1]) for path in (whole, stopped)]
        assert leaves(dict(last[0].trees)) == leaves(dict(last[1].trees))


def test_one_broken_run_leaves_the_others_whole(whole: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    original = RunHook.__call__

    def call(self: RunHook, model: Any) -> bool:
        if model.seed == 2 and model.num_timesteps == 160:
            raise NonFiniteError("policy loss is NaN or infinite at step 160")
        return original(self, model)

    monkeypatch.setattr(RunHook, "__call__", call)
    result = train_seeds("mdpo", many(tmp_path / "runs"), AGENT)
    assert result.exit_code == 2 and list(result.failures) == ["seed2"] and list(result.runs) == ["seed1", "seed5"]
    said = capsys.readouterr().out
    failure = said.index("seed2: failed: policy loss is NaN or infinite at step 160; the last good checkpoint is")
    assert failure < said.index("seed1: best evaluation")  # at once, not in the end
    again = f"rlopt resume {tmp_path / 'runs' / 'seed2'}"
    assert again in said
    for name in ("seed1", "seed5"):
        ours, theirs = (read_csv(path / name / "episodes.csv") for path in (tmp_path / "runs", whole))
        assert all(close(a[key], b[key]) for a, b in zip(ours, theirs, strict=True) for key in a)
    monkeypatch.undo()
    # The others are not held back by it, and it can be continued alone.
    assert resume_seeds(tmp_path / "runs", 352).exit_code == 0
    said = capsys.readouterr().out
    assert "seed2 failed and is left out: policy loss is NaN or infinite at step 160" in said and again in said
    assert [steps(tmp_path / "runs" / name)[-1] for name in NAMES] == [352, 128, 352]
    assert main(["resume", str(tmp_path / "runs" / "seed2")]) == 0


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"seeds": "0..x"}, ConfigError, "'0..x' is not a seed: write 0..7"),
        ({"seeds": "7..0"}, ConfigError, "is not a seed"),
        ({"seeds": ""}, ConfigError, "is not a seed"),
        ({"seeds": "1,2,1"}, ConfigError, "seed 1 is named twice"),
        ({"seeds": "0..5000"}, ConfigError, "at most 1024"),
        ({"seeds": "4294967296"}, ConfigError, "below 2^31"),
        ({"seeds": "9" * 5000}, ConfigError, "is not a seed"),
        ({"seeds": "٣"}, ConfigError, "is not a seed"),
        ({"seed": 3}, ConfigError, "--seed 3 and --seeds 1,2: give one of them"),
        ({"profile": True}, ConfigError, "--profile measures one run"),
        ({"env": "rlopt/RandomTarge-v0"}, UnknownNameError, "did you mean"),
    ],
)
def test_what_cannot_begin_is_one_line(
    changes: dict[str, Any], error: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        train_seeds("mdpo", settings(tmp_path / "runs", **{"seeds": "1,2", **changes}), AGENT)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("config.json"))


def test_a_folder_that_exists_is_left_alone(whole: Path) -> None:
    with pytest.raises(RunError, match="exists"):
        train_seeds("mdpo", many(whole), AGENT)


def test_seeds_are_read() -> None:
    assert parse_seeds("0..3") == (0, 1, 2, 3) and parse_seeds("4") == (4,)
    assert parse_seeds("0,3,5") == (0, 3, 5) and parse_seeds("0..2, 8") == (0, 1, 2, 8)


def test_the_command_line_trains_plots_and_resumes_seeds(tmp_path: Path, capsys: Any) -> None:
    runs = tmp_path / "runs"
    line = "train mdpo --env rlopt/RandomTarget-v0 --seeds 0..1 --n-steps 16 --net-arch 8 --total-timesteps 64"
    assert main([*line.split(), "--eval-every", "0", "--log-every", "16", "--run-dir", str(runs)]) == 0
    said = capsys.readouterr().out
    assert f"seed1: run folder: {runs}/seed1" in said and f"rlopt plot {runs}" in said
    assert "2 runs: step 128 of 128 (100 %)" in said
    assert main(["plot", str(runs), "--out", str(tmp_path / "curve.svg")]) == 0
    assert (tmp_path / "curve.svg").is_file()
    assert main(["resume", str(runs)]) == 0
    assert "seed0: " in (text := capsys.readouterr().out) and "is complete" in text
    assert main(["resume", str(runs), "--total-timesteps", "96"]) == 0
    assert steps(runs / "seed1")[-1] == 96
    assert main(["evaluate", str(runs)]) == 2
    assert "seed0" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="holds the runs seed0, seed1: give one of them"):
        rlopt.load(runs)


def test_a_single_run_folder_is_itself(whole: Path, tmp_path: Path) -> None:
    assert run_folders(whole / "seed1") == [whole / "seed1"] and run_folders(tmp_path) == [tmp_path]
