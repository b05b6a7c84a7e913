"""``rlopt evaluate`` and ``rlopt plot`` on a run whose every return is known by hand."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from rlopt import MDPO, evaluate, load, make_env
from rlopt.checkpoint.choose import choose_checkpoint, environment_settings, run_folder_of
from rlopt.checkpoint.files import checkpoint_name, write_checkpoint
from rlopt.checkpoint.model_state import capture_state
from rlopt.cli.main import main
from rlopt.envs import make, rendering
from rlopt.errors import CheckpointError, ConfigError, RunError, UnknownNameError
from rlopt.run_folder import write_json


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in the corridor: at step 100 the policy goes right (0.6 in 4 steps), at step 200 it stays (-0.6 in 6)."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    env = make_env("rlopt/Corridor-v0", n_envs=2)
    model = MDPO(
        "MlpPolicy", env, n_steps=8, value_batch_size=16, policy_kwargs={"net_arch": [4]}, device="cpu", seed=0
    )
    model.learn(16)
    metadata = {"agent": "mdpo", "env": env.settings.as_dict(), "run": {"num_threads": 1}}  # type: ignore[attr-defined]
    for step, preferred in ((100, 1), (200, 0)):
        with torch.no_grad():
            model.policy.action_net.weight.zero_()
            model.policy.action_net.bias.copy_(torch.eye(2)[preferred] * 3.0)
        write_checkpoint(folder / "checkpoints", step, capture_state(model), metadata)
    write_json(folder / "best.json", {"checkpoint": checkpoint_name(100), "mean_return": 0.6})
    write_json(folder / "config.json", {"agent": "mdpo", "run": {"env": "rlopt/Corridor-v0"}, "agent_config": {}})
    (folder / "progress.csv").write_text("step,rollout/ep_rew_mean\n8,-0.6\n16,0.6\n")
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def stored(run: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((run / "evaluation.json").read_text())
    return data


def test_the_newest_checkpoint_is_evaluated_and_written_down(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--episodes", "5", "--n-envs", "2"]) == 0
    printed = capsys.readouterr().out
    assert "-0.6" in printed
    assert "100% ended by the time limit" in printed
    assert f"evaluation: {run / 'evaluation.json'}" in printed
    data = stored(run)
    assert data["returns"] == pytest.approx([-0.6] * 5)
    assert data["lengths"] == [6] * 5
    assert data["truncated"] == [True] * 5
    assert data["interval"] == pytest.approx([-0.6, -0.6])
    assert (data["step"], data["env"], data["agent"], data["n_envs"]) == (200, "rlopt/Corridor-v0", "mdpo", 2)
    assert not list(run.glob(".*tmp"))


@pytest.mark.parametrize("which", ["best", checkpoint_name(100), "path", "itself", "RUN/best"])
def test_another_checkpoint_can_be_named(run: Path, which: str) -> None:
    path = run / "checkpoints" / checkpoint_name(100)
    alone = {"itself": [str(path)], "RUN/best": [str(run / "best")]}
    line = alone[which] if which in alone else [str(run), "--checkpoint", str(path) if which == "path" else which]
    assert main(["evaluate", *line, "--episodes", "3"]) == 0
    assert stored(run)["returns"] == pytest.approx([0.6] * 3)
    assert stored(run)["truncated"] == [False] * 3
    assert stored(run)["step"] == 100


def test_stochastic_evaluation_samples(run: Path) -> None:
    assert main(["evaluate", str(run), "--episodes", "40", "--stochastic", "--seed", "1"]) == 0
    first = stored(run)
    assert first["deterministic"] is False
    # the action right has probability 1 / (1 + e^3) = 0.047 a step: four of them in six steps are rare
    assert sum(first["truncated"]) >= 38
    assert main(["evaluate", str(run), "--episodes", "40", "--stochastic", "--seed", "1"]) == 0
    assert stored(run)["returns"] == first["returns"]


def test_a_damaged_newest_checkpoint_is_named_and_passed_over(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = run / "checkpoints" / checkpoint_name(200) / "networks.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert main(["evaluate", str(run), "--episodes", "2"]) == 0
    assert checkpoint_name(200) in capsys.readouterr().out.splitlines()[1]
    assert stored(run)["step"] == 100
    assert main(["evaluate", str(run), "--checkpoint", checkpoint_name(200)]) == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("evaluate RUN --checkpoint bset", "did you mean 'best'?"),
        ("evaluate RUN/nowhere", "no such folder"),
        ("evaluate RUN/checkpoints", "not a run folder"),
        ("evaluate RUN --episodes 0", "--episodes"),
        ("evaluate RUN --episodes many", "--episodes"),
        ("evaluate RUN --episode 3", "did you mean '--episodes'?"),
        ("evaluate RUN --n-envs 0", "--n-envs"),
        ("evaluate RUN --seed -1", "--seed"),
        ("evaluate RUN --env rlopt/RandomTarget-v0", "observation space"),
        ("evaluate RUN --env rlopt/Coridor-v0", "rlopt/Corridor-v0"),
        ("evaluate", "RUN"),
        ("plot", "RUN"),
        ("plot RUN/nowhere", "no such folder"),
        ("plot RUN --key rolout/ep_rew_mean", "did you mean 'rollout/ep_rew_mean'?"),
        ("plot RUN --key evaluation", "evaluations.csv"),
        ("plot RUN --out curve.gif", ".png"),
        ("plot RUN --x epochs", "steps"),
        ("plot RUN --by sed", "setting"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    run: Path, capsys: pytest.CaptureFixture[str], line: str, words: str
) -> None:
    assert main(line.replace("RUN/", f"{run}/").replace("RUN", str(run)).split()) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("rlopt: error: ")
    assert words in error
    assert not (run / "evaluation.json").exists()


def test_a_full_disk_under_the_result_is_one_line_after_the_table(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(path: Path, value: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("rlopt.run_folder.write_json", no_space)
    assert main(["evaluate", str(run), "--episodes", "2"]) == 2
    printed = capsys.readouterr()
    assert "-0.6" in printed.out, "the numbers are not lost"
    (error,) = printed.err.splitlines()
    assert "evaluation.json cannot be written (No space left on device): free space there, or copy the run" in error


def test_plot_writes_the_picture_into_a_single_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", str(run)]) == 0
    note = f"note: training returns are used for all: {run} has no evaluations"
    assert capsys.readouterr().out.splitlines() == [note, str(run / "learning_curve.png")]
    assert (run / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert main(["plot", str(run), "--out", str(run / "curve.svg")]) == 0
    assert b"<svg" in (run / "curve.svg").read_bytes()


def test_of_several_runs_the_picture_is_written_here(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = shutil.copytree(run, tmp_path / "second")
    monkeypatch.chdir(tmp_path)
    assert main(["plot", str(run), str(second)]) == 0
    assert (tmp_path / "learning_curve.png").is_file()
    assert not (run / "learning_curve.png").exists()


@pytest.mark.gl
@pytest.mark.skipif(rendering.available_gl() is None, reason="no headless OpenGL library (apt-get install libegl1 ...)")
def test_a_video_is_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["evaluate", str(run), "--episodes", "2", "--video", "--video-episodes", "2", "--checkpoint", "best"]
    assert main(line) == 0
    assert "(8 frames, 4 per second, return 0.6, 0.6)" in capsys.readouterr().out
    assert (run / "video.mp4").stat().st_size > 500


def test_without_a_gl_library_the_numbers_are_kept(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import rlopt.cli.render

    def child(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        code = rlopt.cli.render._run(command[3:])  # the process that would have been started, in this one
        return subprocess.CompletedProcess(command, code, "", capsys.readouterr().err)

    monkeypatch.setattr(rendering, "available_gl", lambda: None)
    monkeypatch.setattr(make, "_draws_with_mujoco", lambda env_id: True)  # the corridor stands for a MuJoCo task here
    monkeypatch.setenv("MUJOCO_GL", "disable")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(rlopt.cli.render.subprocess, "run", child)
    assert main(["evaluate", str(run), "--episodes", "2", "--video"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "apt-get install libegl1 libopengl0 libgl1-mesa-dri" in error
    assert "libosmesa6" in error
    assert stored(run)["returns"] == pytest.approx([-0.6] * 2)
    assert not (run / "video.mp4").exists()


def test_python_gives_the_numbers_of_the_command(run: Path) -> None:
    model = load(run / "checkpoints" / checkpoint_name(100), device="cpu")
    result = evaluate(model, "rlopt/Corridor-v0", 3)
    assert result.returns == pytest.approx([0.6] * 3)
    assert result.n_envs == 3
    limited = evaluate(model, "rlopt/Corridor-v0", 2, max_episode_steps=3)
    assert limited.lengths.tolist() == [3, 3]
    env = make_env("rlopt/Corridor-v0", n_envs=2, action_repeat=2)
    assert evaluate(model, env.settings, 2).lengths.tolist() == [2, 2]  # type: ignore[attr-defined]


def test_the_training_environment_is_replaced_by_an_equal_one() -> None:
    env = make_env("rlopt/Corridor-v0", n_envs=2)
    model = MDPO(
        "MlpPolicy", env, n_steps=8, value_batch_size=16, policy_kwargs={"net_arch": [4]}, device="cpu", seed=0
    )
    model.learn(16)
    before = str(env.get_state())  # type: ignore[attr-defined]
    assert len(evaluate(model, model.get_env(), 5).returns) == 5
    assert str(env.get_state()) == before  # type: ignore[attr-defined]


def test_choice_of_checkpoint(run: Path, tmp_path: Path) -> None:
    assert choose_checkpoint(run).step == 200
    assert run_folder_of(choose_checkpoint(run, "best").path) == run
    alone = Path(shutil.copytree(run / "checkpoints" / checkpoint_name(100), tmp_path / checkpoint_name(100)))
    assert run_folder_of(choose_checkpoint(alone).path) == tmp_path
    (run / "best.json").write_text(json.dumps({"checkpoint": "../../elsewhere"}))
    with pytest.raises(CheckpointError, match="elsewhere"):
        choose_checkpoint(run, "best")
    (run / "best.json").unlink()
    with pytest.raises(RunError, match="no best checkpoint"):
        choose_checkpoint(run, "best")
    with pytest.raises(UnknownNameError, match="latest"):
        choose_checkpoint(run, "lastest")


def test_a_checkpoints_environment(run: Path) -> None:
    assert environment_settings({"env": {"id": "Hopper-v5", "action_repeat": 2}}).action_repeat == 2
    other = environment_settings({"env": {"id": "Hopper-v5", "action_repeat": 2, "env_kwargs": {"a": 1}}}, "Ant-v5")
    assert (other.id, other.action_repeat, other.env_kwargs) == ("Ant-v5", 2, None)
    assert environment_settings({}, "Ant-v5").id == "Ant-v5"
    with pytest.raises(ConfigError, match="--env"):
        environment_settings({})
    # an id with a colon imports a module: somebody else's checkpoint must not decide that
    with pytest.raises(ConfigError, match="--env antigravity:Ant-v5"):
        environment_settings({"env": {"id": "antigravity:Ant-v5"}})
    assert environment_settings({"env": {"id": "a:Ant-v5"}}, "a:Ant-v5").id == "a:Ant-v5"
