"""Training runs in this process: run folder, stopping, exact continuation, what is kept, what is said when it fails."""

import dataclasses
import errno
import functools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from runs import AGENT, assert_same_result, read_csv, send_signal_at, settings, steps

import rlopt.storage.checked_folder
from rlopt.checkpoint.files import checkpoint_name, list_checkpoints, read_checkpoint
from rlopt.errors import CheckpointError, ConfigError, NonFiniteError, RunError, SpaceError, UnknownNameError
from rlopt.run_folder import RunFolder, default_folder, write_json
from rlopt.runs.boundary import EVALUATION_SEED_OFFSET, RunHook
from rlopt.runs.build import policy_name
from rlopt.runs.train import resume, train
from rlopt.settings.run import RunConfig


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    result = train("mdpo", settings(folder), AGENT)
    assert (result.path, result.step, result.exit_code) == (folder, 320, 0)
    return folder


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return functools.partial(send_signal_at, monkeypatch)


def test_run_folder_holds_what_it_should(whole: Path) -> None:
    config = json.loads((whole / "config.json").read_text())
    assert config["agent"] == "mdpo" and config["run"]["backend"] == "gymnasium" and config["run"]["seed"] == 0
    assert config["agent_config"]["n_steps"] == 16
    versions = json.loads((whole / "versions.json").read_text())
    assert versions["packages"]["torch"] == torch.__version__ and versions["command_line"] and versions["python"]
    assert list((whole / "tb").glob("events.out.tfevents.*"))
    # A row at each of the 10 boundaries, and evaluations of 2 episodes at 128, 256 and the end.
    assert [int(row["step"]) for row in read_csv(whole / "progress.csv")] == list(range(32, 321, 32))
    assert [int(row["step"]) for row in read_csv(whole / "evaluations.csv")] == [128, 128, 256, 256, 320, 320]


def test_episodes_file_has_every_episode(whole: Path) -> None:
    # 320 steps in 2 environments with episodes of 10 steps: 16 in each, ending together every 20 steps.
    rows = read_csv(whole / "episodes.csv")
    assert [int(row["step"]) for row in rows] == [20 * (i // 2 + 1) for i in range(32)]
    assert {row["length"] for row in rows} == {"10"}
    assert all(float(row["return"]) <= 0 for row in rows)


def test_last_checkpoints_and_the_best_are_kept(whole: Path) -> None:
    best = json.loads((whole / "best.json").read_text())
    evaluations = read_csv(whole / "evaluations.csv")
    means = {
        step: np.mean([float(row["return"]) for row in evaluations if int(row["step"]) == step])
        for step in (128, 256, 320)
    }
    best_step = max(means, key=lambda step: means[step])
    assert best["checkpoint"] == checkpoint_name(best_step) and best["mean_return"] == pytest.approx(means[best_step])
    assert steps(whole) == sorted({192, 256, 320} | {best_step})


@pytest.mark.parametrize(("stop_step", "number", "code"), [(96, signal.SIGINT, 130), (128, signal.SIGTERM, 143)])
def test_stopped_and_resumed_run_equals_the_uninterrupted_one(
    whole: Path,
    tmp_path: Path,
    signal_at: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stop_step: int,
    number: int,
    code: int,
) -> None:
    folder = tmp_path / "stopped"
    before = signal.getsignal(signal.SIGINT)
    signal_at(stop_step, number)
    result = train("mdpo", settings(folder), AGENT)
    assert (result.exit_code, result.step) == (code, stop_step)
    assert f"\nrlopt resume {folder}\n" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.undo()
    torch.manual_seed(999)  # a new process has other random states
    assert resume(folder).exit_code == 0
    assert_same_result(whole, folder)


def test_second_signal_aborts_at_once_and_loses_no_checkpoint(tmp_path: Path, signal_at: Any) -> None:
    before = signal.getsignal(signal.SIGINT)
    signal_at(96, signal.SIGINT, times=2)
    with pytest.raises(KeyboardInterrupt):
        train("mdpo", settings(tmp_path / "run"), AGENT)
    assert steps(tmp_path / "run") == [64]
    assert signal.getsignal(signal.SIGINT) is before


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ends the run at a boundary as a kill does: no checkpoint, rows of later steps already in the files."""
    original = RunHook.log

    def log(self: RunHook, model: Any) -> None:
        original(self, model)
        if model.num_timesteps == step:
            raise RuntimeError("killed")

    monkeypatch.setattr(RunHook, "log", log)


def test_damaged_newest_checkpoint_is_named_and_the_one_before_used(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    crash_at(monkeypatch, 224)
    with pytest.raises(RuntimeError, match="killed"):
        train("mdpo", settings(folder), AGENT)
    monkeypatch.undo()
    newest = list_checkpoints(folder / "checkpoints")[-1]
    assert newest.name == checkpoint_name(192)
    with open(newest / "networks.safetensors", "r+b") as file:
        file.truncate(40)
    capsys.readouterr()
    assert resume(folder).exit_code == 0
    said = capsys.readouterr().out
    assert str(newest) in said and f"continuing from {checkpoint_name(128)}" in said
    assert_same_result(whole, folder)
    assert (folder / "checkpoints" / f"damaged-{newest.name}").is_dir()


def test_run_killed_before_its_first_checkpoint_starts_again(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    crash_at(monkeypatch, 32)
    with pytest.raises(RuntimeError, match="killed"):
        train("mdpo", settings(folder), AGENT)
    monkeypatch.undo()
    assert resume(folder).exit_code == 0
    assert "no checkpoint yet" in capsys.readouterr().out
    assert_same_result(whole, folder)


def test_only_damaged_checkpoints_is_an_error_that_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train("mdpo", settings(folder, total_timesteps=64, eval_every=0), AGENT)
    (folder / "checkpoints" / checkpoint_name(64) / "manifest.json").write_text("{}")
    before = (folder / "progress.csv").read_bytes()
    with pytest.raises(CheckpointError):
        resume(folder, total_timesteps=128)
    assert (folder / "progress.csv").read_bytes() == before and steps(folder) == [64]


def test_complete_run_says_so_and_can_be_extended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    train("mdpo", settings(folder, total_timesteps=64, eval_every=0), AGENT)
    assert resume(folder).exit_code == 0
    assert "is complete: 64 of 64 steps" in capsys.readouterr().out
    assert resume(folder, total_timesteps=128).step == 128
    with pytest.raises(ConfigError, match="has done 128 steps: give more"):
        resume(folder, total_timesteps=100)
    with pytest.raises(ConfigError, match="learns from no data"):
        resume(folder, data=tmp_path)
    assert [int(row["step"]) for row in read_csv(folder / "progress.csv")] == [32, 64, 96, 128]
    assert json.loads((folder / "config.json").read_text())["run"]["total_timesteps"] == 128


def test_evaluations_do_not_change_training(whole: Path, tmp_path: Path) -> None:
    train("mdpo", settings(tmp_path / "run", eval_every=0), AGENT)
    with_evaluations = [
        {key: value for key, value in row.items() if not key.startswith("eval/")}
        for row in read_csv(whole / "progress.csv")
    ]
    assert read_csv(tmp_path / "run" / "progress.csv") == with_evaluations
    assert read_csv(tmp_path / "run" / "evaluations.csv") == []
    assert EVALUATION_SEED_OFFSET > 0


def test_existing_run_folder_is_refused_and_left_alone(whole: Path) -> None:
    before = sorted(path.name for path in whole.iterdir())
    with pytest.raises(RunError, match="choose another --run-dir or continue it with rlopt resume"):
        train("mdpo", settings(whole), AGENT)
    assert sorted(path.name for path in whole.iterdir()) == before


def test_folder_in_use_is_refused(whole: Path) -> None:
    with RunFolder(whole).locked(), pytest.raises(RunError, match="in use by another rlopt process"):
        resume(whole)


@pytest.mark.parametrize("content", [None, "", "[]", '{"agent": "mdpo"}', "{"])
def test_what_is_no_run_folder_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(RunError):
        resume(tmp_path)


def test_config_with_a_setting_out_of_range_is_refused(tmp_path: Path, whole: Path) -> None:
    config = json.loads((whole / "config.json").read_text())
    config["run"]["n_envs"] = 0
    write_json(tmp_path / "config.json", config)
    with pytest.raises(ConfigError, match="n_envs = 0"):
        resume(tmp_path)


def test_full_disk_while_checkpointing_keeps_the_older_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, written = rlopt.storage.checked_folder.save_file, []

    def save_file(tensors: Any, path: Path) -> None:
        written.append(path)
        if "step-000000000128" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(tensors, path)

    monkeypatch.setattr(rlopt.storage.checked_folder, "save_file", save_file)
    with pytest.raises(CheckpointError, match="No space left on device"):
        train("mdpo", settings(tmp_path / "run"), AGENT)
    assert steps(tmp_path / "run") == [64] and written
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / checkpoint_name(64)).step == 64


def test_full_disk_while_logging_is_one_line_with_the_resume_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(self: RunHook, model: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RunHook, "log", no_space)
    with pytest.raises(RunError, match=r"No space left on device.*rlopt resume"):
        train("mdpo", settings(tmp_path / "run"), AGENT)


class TurnsToNan(gymnasium.Env[np.ndarray, np.ndarray]):
    """Rewards are 0 for 150 steps and NaN afterwards."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    age = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.age += 1
        return np.zeros(1, np.float32), 0.0 if self.age <= 75 else float("nan"), False, False, {}


class TupleActions(TurnsToNan):
    action_space = spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2)))  # type: ignore[assignment]


@pytest.fixture
def own_envs() -> Any:
    names = {"rlopt-test/TurnsToNan-v0": TurnsToNan, "rlopt-test/TupleActions-v0": TupleActions}
    for name, entry in names.items():
        gymnasium.register(name, entry_point=entry, max_episode_steps=10)
    yield
    for name in names:
        del gymnasium.registry[name]


def test_non_finite_reward_names_the_last_whole_step(tmp_path: Path, own_envs: None) -> None:
    run = settings(tmp_path / "run", env="rlopt-test/TurnsToNan-v0", eval_every=0, normalize_observations=False)
    with pytest.raises(NonFiniteError) as caught:
        train("mdpo", run, AGENT)
    # 2 environments: the 76th step of each is step 152; the boundary before is 128, where a checkpoint was due.
    assert "reward is NaN" in str(caught.value) and "step 128 is kept" in str(caught.value)
    assert steps(tmp_path / "run")[-1] == 128 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"env": "HalfCheeta-v5"}, UnknownNameError),
        ({"env": "rlopt-test/TupleActions-v0"}, SpaceError),
        ({"device": "gpu"}, ConfigError),
        ({"device": "cuda:99"}, ConfigError),
        ({"env": "rlopt/RandomTarget-v0", "backend": "envpool"}, ConfigError),
    ],
)
def test_what_cannot_be_trained_leaves_no_folder(
    tmp_path: Path, own_envs: None, changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        train("mdpo", settings(tmp_path / "run", **changes), AGENT)
    assert not (tmp_path / "run").exists() and "\n" not in str(caught.value)


def test_changed_versions_are_named_on_resume(tmp_path: Path, whole: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.record_versions({})
    recorded = json.loads(folder.versions.read_text())
    recorded["packages"] |= {"mujoco": "3.17.1", "safetensors": "0.1"}
    write_json(folder.versions, recorded)
    (warning,) = folder.record_versions({}, resumed_at=7)  # safetensors does not touch the numbers
    assert warning.startswith("mujoco is ") and "3.17.1" in warning
    assert json.loads(folder.versions.read_text())["resumed"][0]["step"] == 7


def test_default_folder_names_agent_env_and_seed_and_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlopt.run_folder.time.strftime", lambda *_: "20261123T101112Z")
    run = RunConfig(env="dm_control/cheetah-run", seed=3)
    first = default_folder("mdpo", run, "seed3")
    assert first == Path("runs/mdpo-dm_control_cheetah-run-seed3-20261123T101112Z")
    first.mkdir(parents=True)
    assert default_folder("mdpo", run, "seed3").name == first.name + "-2"


@pytest.mark.parametrize(
    ("space", "name"),
    [
        (spaces.Box(-1, 1, (3,)), "MlpPolicy"),
        (spaces.Dict({"a": spaces.Box(-1, 1, (3,))}), "MultiInputPolicy"),
        (spaces.Box(0, 255, (3, 84, 84), np.uint8), "CnnPolicy"),
        (spaces.Discrete(4), "MlpPolicy"),
    ],
)
def test_policy_name(space: spaces.Space, name: str) -> None:
    assert policy_name(space) == name


def test_settings_survive_the_run_folder(tmp_path: Path) -> None:
    run = settings(tmp_path, max_episode_steps=None, preset="dmc/x")
    agent = dataclasses.replace(AGENT, value_batch_size=None)
    RunFolder(tmp_path).write_config("mdpo", run, agent)
    assert RunFolder(tmp_path).read_config() == ("mdpo", run, agent)
