"""What the files of a run may not do: cause an import, or lose sound checkpoints because the machine is short."""

import errno
import json
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from runs import AGENT, settings

from rlopt.checkpoint.choose import environment_settings
from rlopt.checkpoint.files import list_checkpoints, read_checkpoint, write_checkpoint
from rlopt.cli.main import main
from rlopt.data import Dataset, Metadata
from rlopt.errors import ConfigError, ResourceError, out_of_memory, resource_error
from rlopt.run_folder import GROUP_FILE, RunFolder, read_json
from rlopt.runs.train import train
from rlopt.storage import checked_folder
from rlopt.sweeps.spec import SweepSpec
from rlopt.sweeps.sweep import EngineOptions, SweepFolder
from rlopt.sweeps.tune_spec import TuneFolder, TuneSpec

ENV = "payload:Still-v0"
PAYLOAD = """
import gymnasium
gymnasium.register("Still-v0", "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=20)
open("imported", "w").close()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module that shows when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "payload", raising=False)
    Path("payload.py").write_text(PAYLOAD)
    return tmp_path


def error_of(command: list[str], capsys: Any) -> str:
    assert main(command) == 2
    said: str = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def run_of_payload(folder: Path, **changes: Any) -> RunFolder:
    folder.mkdir()
    run = RunFolder(folder)
    run.write_config("mdpo", settings(folder, env=ENV, total_timesteps=32, eval_every=0, **changes), AGENT)
    return run


def write_sweep(folder: Path) -> None:
    SweepFolder(folder).write_spec(SweepSpec(("mdpo",), (ENV,)), EngineOptions())


def write_search(folder: Path) -> None:
    folder.mkdir()
    TuneFolder(folder).write_spec(TuneSpec(SweepSpec(("mdpo",), (ENV,)), ("gamma=0.9..0.99",)), EngineOptions())


def write_search_of_envs(folder: Path) -> None:
    folder.mkdir()
    spec = TuneSpec(SweepSpec(("mdpo",)), (f"env=Pendulum-v1,{ENV}",))
    TuneFolder(folder).write_spec(spec, EngineOptions())


def write_seeds(folder: Path) -> None:
    run_of_payload(folder, seeds="0..1")
    shutil.move(folder / "config.json", folder / GROUP_FILE)


@pytest.mark.parametrize("write", [run_of_payload, write_seeds, write_sweep, write_search, write_search_of_envs])
def test_resuming_a_folder_imports_nothing(write: Any, here: Path, capsys: Any) -> None:
    write(here / "folder")
    assert f"--env {ENV} if you trust it" in error_of(["resume", "folder"], capsys)
    assert not Path("imported").exists()


def test_a_run_goes_on_once_its_environment_is_named(here: Path, capsys: Any) -> None:
    run = run_of_payload(here / "folder")
    assert run.command == f"rlopt resume {here / 'folder'} --env {ENV}"
    assert "leave out --env" in error_of(["resume", "folder", "--env", "Pendulum-v1"], capsys)
    assert main(["resume", "folder", "--env", ENV]) == 0
    assert Path("imported").exists() and list_checkpoints(run.checkpoints)


def test_the_commands_of_several_runs_name_the_environments(here: Path) -> None:
    for write, folder in ((write_sweep, SweepFolder(Path("a"))), (write_search, TuneFolder(Path("b")))):
        write(folder.path)
        assert folder.command == f"rlopt resume {folder.path} --env {ENV}"


@pytest.mark.parametrize("form", ["preset", "sweep", "data set", "demonstrations"])
def test_files_of_settings_and_data_import_nothing(form: str, here: Path, capsys: Any) -> None:
    Path("preset.yaml").write_text(f"env: {ENV}\ntotal_timesteps: 32\n")
    Path("sweep.yaml").write_text(f"agent: mdpo\nenv: {ENV}\n")
    ones = np.ones((2, 3), np.float32)
    flags = (np.ones(2, np.float32), np.array([False, True]))
    data = Dataset(ones, ones[:, :1], ones[:, 0], ones, *flags, Metadata(env=ENV))
    data.save("set")
    command = {
        "preset": ["train", "mdpo", "--preset", "preset.yaml"],
        "sweep": ["sweep", "sweep.yaml", "--dry-run"],
        "data set": ["train", "bc", "--dataset", "set"],
        "demonstrations": ["train", "sqil", "--demos", "set"],
    }[form]
    assert f"--env {ENV} if you trust it" in error_of(command, capsys)
    assert not Path("imported").exists()


def test_a_cluster_is_joined_once_it_is_named(here: Path, capsys: Any) -> None:
    folder = SweepFolder(here / "sweep")
    options = EngineOptions(engine="ray", address="10.0.0.1:6379")
    folder.write_spec(SweepSpec(("mdpo",), ("Pendulum-v1",)), options)
    assert "add --address 10.0.0.1:6379 if you trust it" in error_of(["resume", "sweep"], capsys)
    assert folder.command.endswith("--address 10.0.0.1:6379")
    assert "if you trust it" not in error_of(["resume", "sweep", "--address", "10.0.0.1:6379", "--data", "x"], capsys)


# ---- what a checkpoint asks of its environment


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"env_kwargs": {"xml_file": "/etc/passwd"}}, '--env-kwargs \'{"xml_file":"/etc/passwd"}\''),
        ({"env_kwargs": {"sizes": [{"n": 10**9}]}}, "--env-kwargs"),
        ({"env_kwargs": {"file": "~me"}}, "--env-kwargs"),
        ({"max_episode_steps": 10**9}, "--max-episode-steps 1000000000"),
        ({"from_pixels": True, "image_size": 1024, "frame_stack": 100}, "in Python"),
        ({"id": ["a"]}, "must be a string"),
    ],
)
def test_a_checkpoint_asks_a_person_for_what_may_take_the_machine(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        environment_settings({"env": {"id": "HalfCheetah-v5", **changes}})
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_person_says_is_taken() -> None:
    stored = {"env": {"id": "X-v0", "env_kwargs": {"n": 12, "name": "a"}, "max_episode_steps": 1000}}
    assert environment_settings(stored).env_kwargs == {"n": 12, "name": "a"}
    bold = {"env": {"id": "X-v0", "env_kwargs": {"f": "/a"}, "max_episode_steps": 10**9}}
    assert environment_settings(bold, None, {"f": "/a"}, 10**9).max_episode_steps == 10**9


# ---- a machine that is short of something

SHORT = {
    "memory": (MemoryError("Unable to allocate 4.00 MiB"), "free memory"),
    "torch": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "free memory"),
    "mapping": (OSError(errno.ENOMEM, "Cannot allocate memory"), "free memory"),
    "permission": (PermissionError(errno.EACCES, "Permission denied"), "allow access"),
    "disk": (OSError(errno.EIO, "Input/output error"), "check the disk"),
    "full": (OSError(errno.ENOSPC, "No space left on device"), "free space"),
    "files": (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
    "mapped": (RuntimeError("unable to open file </x>: Too many open files (24)"), "ulimit -n"),
    "rust": (checked_folder.SafetensorError("I/O error: Too many open files (os error 24)"), "ulimit -n"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    train("mdpo", settings(folder, total_timesteps=128, eval_every=0), AGENT)
    return folder


@pytest.mark.parametrize("kind", SHORT)
@pytest.mark.parametrize("place", ["safe_open", "open_plain"])
def test_a_short_machine_damages_nothing(
    kind: str, place: str, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    error, cure = SHORT[kind]

    def short(*arguments: Any, **options: Any) -> NoReturn:
        raise error

    before = sorted(path.name for path in (trained / "checkpoints").iterdir())
    monkeypatch.setattr(checked_folder, place, short)
    for command in (["resume", str(trained), "--total-timesteps", "256"], ["evaluate", str(trained)]):
        said = error_of(command, capsys)
        assert "step-000000000128 cannot be" in said and cure in said and "damaged" not in said
    assert sorted(path.name for path in (trained / "checkpoints").iterdir()) == before


def test_checkpoints_of_another_version_are_not_set_aside(trained: Path, tmp_path: Path, capsys: Any) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    newest = list_checkpoints(folder / "checkpoints")[-1]
    content = json.loads((newest / "manifest.json").read_text())
    (newest / "manifest.json").write_text(json.dumps({**content, "version": 99}))
    assert "format version 99" in error_of(["resume", str(folder), "--total-timesteps", "256"], capsys)
    assert newest.is_dir()


def test_errors_of_a_file_are_not_those_of_the_machine() -> None:
    for error in (
        ValueError("x"),
        FileNotFoundError(errno.ENOENT, "gone"),
        IsADirectoryError(errno.EISDIR, "a folder"),
    ):
        assert resource_error(error, "it") is None
    assert out_of_memory(MemoryError()) and not out_of_memory(RuntimeError("shape"))
    assert isinstance(resource_error(MemoryError(), "it"), ResourceError)


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
@pytest.mark.parametrize("umask", [0o002, 0o022, 0o027])
def test_every_file_has_the_mode_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        path = write_checkpoint(tmp_path, 1, {"tree": {"a": np.ones(3)}}, {})
        with RunFolder(tmp_path).locked():
            pass
    finally:
        os.umask(old)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (*path.iterdir(), tmp_path / ".lock")}
    assert modes == dict.fromkeys(("manifest.json", "tree.json", "tree.safetensors", ".lock"), 0o666 & ~umask)


def test_a_settings_file_that_cannot_be_opened_is_not_called_damaged(tmp_path: Path, monkeypatch: Any) -> None:
    from rlopt import run_folder

    def short(*arguments: Any, **options: Any) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(run_folder, "open_plain", short)
    with pytest.raises(ResourceError, match="ulimit -n"):
        read_json(tmp_path / "config.json", "start a new run")


# ---- metadata and weights that are not what they should be


def resealed(trained: Path, tmp_path: Path, change: Any) -> Path:
    """The newest checkpoint with other metadata or trees, written anew."""
    read = read_checkpoint(list_checkpoints(trained / "checkpoints")[-1])
    metadata, trees = dict(read.metadata), dict(read.trees)
    change(metadata, trees)
    return write_checkpoint(tmp_path, read.step, trees, metadata)


def test_metadata_of_another_form_are_no_traceback(trained: Path, tmp_path: Path) -> None:
    for value in ([1], "x", 3, None):
        path = resealed(trained, tmp_path, lambda metadata, trees, value=value: metadata.update(run=value))
        assert main(["evaluate", str(path), "--episodes", "1"]) == 0


def test_weights_that_are_not_finite_are_one_line(trained: Path, tmp_path: Path, capsys: Any) -> None:
    def change(metadata: Any, trees: Any) -> None:
        for tensors in trees["networks"]["modules"].values():
            for tensor in tensors.values():
                tensor[...] = float("nan")

    path = resealed(trained, tmp_path, change)
    for options in ([], ["--stochastic"]):
        assert "NaN" in error_of(["evaluate", str(path), "--episodes", "1", *options], capsys)
