"""What a run refuses, before or after training: damaged files of the folder, models and spaces that cannot be used."""

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.torch_layers import NatureCNN

from rlopt.agents.mdpo.config import MDPOConfig
from rlopt.console.output import Console
from rlopt.errors import ConfigError, RunError, SpaceError
from rlopt.run_folder import RunFolder, write_json
from rlopt.runs.boundary import RunHook
from rlopt.runs.build import SMALLEST_IMAGE, check_images
from rlopt.runs.train import _say_end, resume, train
from rlopt.settings.run import RunConfig

AGENT = MDPOConfig(n_steps=16, net_arch=(8,), value_batch_size=16)


def settings(folder: Path, **changes: Any) -> RunConfig:
    base: dict[str, Any] = {"env": "rlopt/RandomTarget-v0", "total_timesteps": 32, "device": "cpu", "eval_every": 0}
    return RunConfig(**{**base, "run_dir": str(folder), **changes})


@pytest.mark.parametrize("part", ["run", "agent_config"])
@pytest.mark.parametrize("content", [None, [], "lost", 3])
def test_config_whose_settings_are_no_mapping_is_named(tmp_path: Path, part: str, content: Any) -> None:
    folder = RunFolder(tmp_path)
    folder.write_config("mdpo", settings(tmp_path), AGENT)
    write_json(folder.config, {**json.loads(folder.config.read_text()), part: content})
    with pytest.raises(RunError, match=rf"config\.json is damaged: {part} is not a mapping.*start a new run"):
        resume(tmp_path)


def test_config_that_names_no_environment_or_is_no_json_is_named_with_the_cure(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_config("mdpo", settings(tmp_path, env=""), AGENT)
    with pytest.raises(RunError, match=r"config\.json is damaged: the environment's id is missing; start a new run"):
        resume(tmp_path)
    for content in (b"{", b"\xff", b"[" * 100_000):
        folder.config.write_bytes(content)
        with pytest.raises(RunError, match=r"config\.json cannot be read: .*; start a new run"):
            resume(tmp_path)


def test_a_folder_in_the_place_of_a_log_is_one_line(tmp_path: Path) -> None:
    train("mdpo", settings(tmp_path / "run"), AGENT)
    log = tmp_path / "run" / "progress.csv"
    log.unlink()
    log.mkdir()
    with pytest.raises(RunError, match=r"progress\.csv cannot be used .*: move it away .*rlopt resume") as caught:
        resume(tmp_path / "run", 64)
    assert "\n" not in str(caught.value)


def test_full_memory_while_training_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(self: RunHook, model: Any) -> NoReturn:
        raise MemoryError("Unable to allocate 7.28 TiB\nfor an array")

    monkeypatch.setattr(RunHook, "log", no_room)
    with pytest.raises(RunError, match=r"memory is full .* 7\.28 TiB for .*: lower batch_size"):
        train("mdpo", settings(tmp_path / "run"), AGENT)


def test_a_moved_run_knows_its_new_folder(tmp_path: Path) -> None:
    train("mdpo", settings(tmp_path / "old"), AGENT)
    (tmp_path / "old").rename(tmp_path / "new place")
    resume(tmp_path / "new place", total_timesteps=64)
    run = json.loads((tmp_path / "new place" / "config.json").read_text())["run"]
    assert run["run_dir"] == str(tmp_path / "new place")


@pytest.mark.parametrize("file", ["config.json", "versions.json"])
def test_full_disk_at_the_beginning_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    train("mdpo", settings(tmp_path / "whole"), AGENT)

    def write(path: Path, value: Any) -> None:
        if path.name == file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_json(path, value)

    monkeypatch.setattr("rlopt.run_folder.write_json", write)
    with pytest.raises(RunError, match=r"cannot write to .*No space left on device.*free space there"):
        train("mdpo", settings(tmp_path / "new"), AGENT)
    with pytest.raises(RunError, match=r"cannot write to .*No space left on device.*rlopt resume"):
        resume(tmp_path / "whole", total_timesteps=64)


@pytest.mark.parametrize("shape", [(20, 20, 3), (3, 84, 35)])
def test_images_that_are_too_small_name_the_smallest(shape: tuple[int, ...]) -> None:
    small = spaces.Box(0, 255, shape, np.uint8)
    for space in (small, spaces.Dict({"camera": small, "speed": spaces.Box(-1, 1, (1,))})):
        with pytest.raises(SpaceError, match=r"too small .* at least 36 x 36, with --image-size"):
            check_images(space)
    # What NatureCNN takes is what the check lets pass.
    smallest = spaces.Box(0, 255, (3, SMALLEST_IMAGE, SMALLEST_IMAGE), np.uint8)
    check_images(smallest)
    assert NatureCNN(smallest).features_dim == 512
    with pytest.raises(RuntimeError):
        NatureCNN(spaces.Box(0, 255, (3, SMALLEST_IMAGE - 1, SMALLEST_IMAGE - 1), np.uint8))


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"packages": []}', "", "{"])
def test_damaged_versions_are_named_with_the_cure_and_removing_them_is_one(tmp_path: Path, content: str) -> None:
    folder = RunFolder(tmp_path)
    folder.versions.write_text(content)
    with pytest.raises(RunError, match=r"versions\.json (is damaged: |cannot be read: .*; )remove it to continue"):
        folder.record_versions({}, resumed_at=7)
    assert folder.versions.read_text() == content
    folder.versions.unlink()
    assert folder.record_versions({}, resumed_at=7) == []
    # A list of earlier resumes that is none is left behind: it says nothing about what is installed.
    write_json(folder.versions, {**json.loads(folder.versions.read_text()), "resumed": "often"})
    assert folder.record_versions({}, resumed_at=8) == []
    assert [entry["step"] for entry in json.loads(folder.versions.read_text())["resumed"]] == [8]


def test_a_folder_name_that_is_too_long_is_one_line() -> None:
    with pytest.raises(RunError, match=r"File name too long\): choose another --run-dir"):
        RunFolder(Path("a" * 300)).require_new()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 8.00 TiB for an array"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory:\nyou tried to allocate 9 bytes"),
    ],
)
def test_a_model_that_does_not_fit_into_memory_names_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def no_room(*args: Any, **kwargs: Any) -> NoReturn:
        raise error

    monkeypatch.setattr("rlopt.runs.build.resolve", lambda name: no_room)
    with pytest.raises(ConfigError, match=r"mdpo does not fit into memory .*lower n_steps or buffer_size") as caught:
        train("mdpo", settings(tmp_path / "run"), AGENT)
    assert not (tmp_path / "run").exists() and "\n" not in str(caught.value)


def test_what_the_constructor_refuses_is_an_error_of_the_spaces_and_other_failures_stay_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for raised, error, said in [
        (AssertionError("the space\nis odd"), SpaceError, "cannot be trained on .*: the space is odd"),
        (ValueError("start must be 0"), SpaceError, "cannot be trained on .*: start must be 0"),
        (ConfigError("own words"), ConfigError, "^own words$"),
        (RuntimeError("a defect"), RuntimeError, "^a defect$"),
    ]:

        def refuse(*args: Any, _raised: Exception = raised, **kwargs: Any) -> NoReturn:
            raise _raised

        monkeypatch.setattr("rlopt.runs.build.resolve", lambda name, refuse=refuse: refuse)
        with pytest.raises(error, match=said):
            train("mdpo", settings(tmp_path / "run"), AGENT)


@pytest.mark.parametrize("env", ["rlopt/RandomTarget-v0", "my_module:Drift-v0"])
def test_the_command_that_evaluates_names_an_environment_with_a_module(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], env: str
) -> None:
    hook = SimpleNamespace(stopped=False, state=SimpleNamespace(best_return=1.0, best_checkpoint="step-1"))
    _say_end(Console(), RunFolder(tmp_path), settings(tmp_path, env=env), 320, hook)  # type: ignore[arg-type]
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "rlopt evaluate" in line]
    assert line.endswith(f"rlopt evaluate {tmp_path} --checkpoint best" + (f" --env {env}" if ":" in env else ""))
