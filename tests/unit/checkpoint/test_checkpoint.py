"""The checkpoint format: exactness, damage, atomicity under SIGKILL and on a full disk."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rlopt.storage.checked_folder
from rlopt.checkpoint.files import (
    checkpoint_name,
    latest_checkpoint,
    list_checkpoints,
    prune_checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from rlopt.errors import CheckpointError


def write_small(parent: Path, step: int, size: int = 4) -> Path:
    return write_checkpoint(parent, step, {"data": {"values": np.full(size, step, np.float64)}}, {"step": step})


TIED = torch.arange(4.0)
LEAVES: dict[str, Any] = {
    "none": None,
    "true": True,
    "text": "é\ud800\n\0",
    "small int": -7,
    "big int": -(2**130) + 3,
    "minus zero": -0.0,
    "infinity": -np.inf.__float__(),
    "tiny": 5e-324,
    "tuple": (1, [2.5, ()], {}),
    "dollar keys": {"$array": [1], "": 2},
    "order": {"b": 1, "a": 2},
    "float32": np.float32(0.1),
    "uint64": np.uint64(2**64 - 1),
    "complex128": np.complex128(1 - 2j),
    "bool scalar": np.bool_(True),
    **{
        f"array {dtype}": np.array([[0, 1], [2, 3]]).astype(dtype)
        for dtype in ("?", "i1", "u2", "<i4", ">i4", "u8", "f2", "f4", "f8", ">f8", "c8", "c16", ">c16")
    },
    "0-d array": np.array(3, np.int16),
    "empty array": np.zeros((0, 3), ">f4"),
    "empty array 2": np.zeros((2, 0), "c16"),
    "strided array": np.arange(12).reshape(3, 4)[::2, ::-1],
    "NaN payload": np.array([0x7FF8000000000123], np.uint64).view(np.float64),
    "read-only": np.broadcast_to(np.float32(1), (2, 2)),
    **{
        f"tensor {dtype}": torch.tensor([[0, 1], [2, 3]]).to(dtype)
        for dtype in (torch.bool, torch.uint8, torch.int64, torch.uint16, torch.bfloat16, torch.float16, torch.float64)
    },
    "0-d tensor": torch.tensor(2.5),
    "empty tensor": torch.zeros(0, 2),
    "parameter": torch.nn.Parameter(torch.ones(2, 3)),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "tied": [TIED, TIED, TIED[1:3]],
    "/": {"/": np.ones(1), "": {"": np.zeros(1)}},
}


def assert_identical(a: Any, b: Any) -> None:
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape
        assert (
            a.detach().contiguous().flatten().view(torch.uint8).equal(b.flatten().view(torch.uint8)) or a.numel() == 0
        )
    elif isinstance(a, (np.ndarray, np.generic)):
        assert type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    elif isinstance(a, dict):
        assert type(b) is dict and list(a) == list(b)
        [assert_identical(a[key], b[key]) for key in a]
    elif isinstance(a, (list, tuple)):
        assert type(a) is type(b) and len(a) == len(b)
        [assert_identical(x, y) for x, y in zip(a, b, strict=True)]
    else:
        assert type(a) is type(b) and repr(a) == repr(b)


@pytest.mark.parametrize("name", LEAVES)
def test_every_kind_of_value_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 1, {"tree": {name: LEAVES[name]}, "empty": {}}, {})
    trees = read_checkpoint(path).trees
    assert_identical({name: LEAVES[name]}, trees["tree"])
    assert trees["empty"] == {}


def test_what_comes_back_can_be_written_to_and_shares_nothing(tmp_path: Path) -> None:
    tree = {"a": TIED, "b": TIED, "c": np.broadcast_to(np.float32(1), (2, 2))}
    read = read_checkpoint(write_checkpoint(tmp_path, 1, {"tree": tree}, {})).trees["tree"]
    read["a"][0] = 9
    read["c"][0, 0] = 9
    assert read["b"][0] == 0 and TIED[0] == 0 and read["c"][1, 1] == 1


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (lambda: 1, "function"),
        (np.array([None]), "object"),
        (np.array(["text"]), "dtype"),
        ({1: 2}, "key 1"),
        (torch.eye(2).to_sparse(), "sparse"),
        (np.ma.masked_array([1]), "MaskedArray"),
        (Path("x"), "Path"),
    ],
)
def test_a_value_that_cannot_be_written_is_named_and_nothing_is_left(value: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=says) as caught:
        write_checkpoint(tmp_path, 1, {"tree": {"deep": [value]}}, {})
    assert "deep/0" in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(CheckpointError, match="nested deeper"):
        write_checkpoint(tmp_path, 1, {"tree": endless}, {})


@pytest.mark.parametrize("name", ["../x", "manifest", "A", "", "a/b", "a.b", "a" * 50])
def test_tree_names_are_plain(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        write_checkpoint(tmp_path / "run", 1, {name: {}}, {})
    assert os.listdir(tmp_path) == []


def test_metadata_step_and_order(tmp_path: Path) -> None:
    paths = [write_small(tmp_path, step) for step in (20, 3, 100)]
    assert paths[0].name == "step-000000000020"
    assert list_checkpoints(tmp_path) == [paths[1], paths[0], paths[2]]
    newest = latest_checkpoint(tmp_path, pytest.fail)
    assert (newest.step, newest.metadata, newest.path) == (100, {"step": 100}, paths[2])
    assert list_checkpoints(tmp_path / "missing") == []
    with pytest.raises(CheckpointError, match="has none"):
        latest_checkpoint(tmp_path / "missing", pytest.fail)


def test_only_the_wanted_trees_are_loaded_but_all_are_verified(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 1, {"a": {"x": 1}, "b": {"y": np.ones(3)}}, {})
    assert set(read_checkpoint(path, only=["a"]).trees) == {"a"}
    data = bytearray((path / "b.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "b.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"b\.safetensors is not what was written"):
        read_checkpoint(path, only=["a"])


def test_a_step_that_exists_is_replaced_whole(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 5, {"old": {"x": np.ones(3)}}, {"n": 1})
    path = write_checkpoint(tmp_path, 5, {"new": {}}, {"n": 2})
    assert os.listdir(tmp_path) == [path.name]
    assert sorted(os.listdir(path)) == ["manifest.json", "new.json", "new.safetensors"]
    assert read_checkpoint(path).metadata == {"n": 2}


def test_every_single_bit_flip_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = write_small(tmp_path, 7)
    rng = random.Random(0)
    for file in sorted(path.iterdir()):
        original = file.read_bytes()
        for position in range(len(original)):
            damaged = bytearray(original)
            damaged[position] ^= 1 << rng.randrange(8)
            file.write_bytes(damaged)
            with pytest.raises(CheckpointError):
                read_checkpoint(path)
        file.write_bytes(original)
    assert read_checkpoint(path).step == 7


def test_the_newest_damaged_is_named_and_the_one_before_is_used(tmp_path: Path) -> None:
    good, truncated, emptied = (write_small(tmp_path, step) for step in (1, 2, 3))
    file = truncated / "data.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    for file in emptied.iterdir():
        file.unlink()
    said: list[str] = []
    assert latest_checkpoint(tmp_path, said.append).path == good
    assert [name in line for name, line in zip((emptied.name, truncated.name), said, strict=True)] == [True, True]
    assert "manifest.json is missing" in said[0] and "data.safetensors" in said[1]
    shutil.rmtree(good)
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        latest_checkpoint(tmp_path, said.append)


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_a_file_that_is_no_plain_file_is_refused(kind: str, tmp_path: Path) -> None:
    path = write_small(tmp_path, 1)
    file = path / "data.json"
    copy = tmp_path / "elsewhere"
    shutil.move(file, copy)
    if kind == "link":
        file.symlink_to(copy)
    elif kind == "folder":
        file.mkdir()
    else:
        os.mkfifo(file)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


def test_a_renamed_checkpoint_is_not_taken_for_another_step(tmp_path: Path) -> None:
    path = write_small(tmp_path, 1)
    path.rename(tmp_path / checkpoint_name(9))
    with pytest.raises(CheckpointError, match="does not match its step 1"):
        read_checkpoint(tmp_path / checkpoint_name(9))
    (tmp_path / checkpoint_name(9)).rename(tmp_path / "best")
    assert read_checkpoint(tmp_path / "best").step == 1


def test_pruning_keeps_the_last_and_the_chosen(tmp_path: Path) -> None:
    paths = [write_small(tmp_path, step) for step in range(6)]
    assert prune_checkpoints(tmp_path, 2, keep=[paths[1], tmp_path / "gone"]) == [paths[0], paths[2], paths[3]]
    assert list_checkpoints(tmp_path) == [paths[1], paths[4], paths[5]]
    assert sorted(os.listdir(tmp_path)) == sorted(path.name for path in (paths[1], paths[4], paths[5]))
    with pytest.raises(CheckpointError):
        prune_checkpoints(tmp_path, 0)


def test_leftovers_of_killed_writes_are_removed_and_an_interrupted_swap_is_mended(tmp_path: Path) -> None:
    path = write_small(tmp_path, 1)
    (tmp_path / ".writing-step-000000000002").mkdir()
    (tmp_path / ".writing-step-000000000002" / "data.json").write_text("{")
    (tmp_path / ".deleted-step-000000000000").mkdir()
    (tmp_path / ".unrelated").mkdir()
    hidden = tmp_path / ".replaced-step-000000000001"
    path.rename(hidden)  # as after the first of the two renames that replace a checkpoint
    assert latest_checkpoint(tmp_path, pytest.fail).step == 1
    write_small(tmp_path, 3)
    assert sorted(os.listdir(tmp_path)) == [".unrelated", path.name, checkpoint_name(3)]
    assert latest_checkpoint(tmp_path, pytest.fail).step == 3


@pytest.mark.parametrize("call", ["mkdir", "fsync", "rename", "text"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_the_file_systems_refusal_at_any_point_leaves_the_older_checkpoints(
    call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = write_small(tmp_path, 1)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(code, os.strerror(code))

    owner = {"mkdir": Path, "fsync": os, "rename": os, "text": rlopt.storage.checked_folder}[call]
    with monkeypatch.context() as patch:
        patch.setattr(owner, "_write_text" if call == "text" else call, refuse)
        with pytest.raises(CheckpointError) as caught:
            write_small(tmp_path, 2)
    assert "step-000000000002" in str(caught.value) and "\n" not in str(caught.value)
    assert ("free space" in str(caught.value)) == (code == errno.ENOSPC)
    assert os.listdir(tmp_path) == [older.name]
    assert latest_checkpoint(tmp_path, pytest.fail).step == 1


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a tmpfs is not permitted here, a really full disk cannot be tried")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk(tiny_disk: Path) -> None:
    older = write_small(tiny_disk, 1, size=50_000)  # 0.4 of 1 MiB
    for size in (80_000, 10**6):
        with pytest.raises(CheckpointError, match=r"No space left.*free space"):
            write_small(tiny_disk, 2, size)
        assert os.listdir(tiny_disk) == [older.name]
    assert latest_checkpoint(tiny_disk, pytest.fail).step == 1
    assert write_small(tiny_disk, 2, 1000).is_dir()


def write_until_killed(parent: Path, pipe: int) -> None:
    for step in range(10**6):
        tree = {"values": np.full(30_000, step, np.float64)}
        # Each step number twice, so that replacing a checkpoint is interrupted too.
        write_checkpoint(parent, step // 2, {"a": tree, "b": tree}, {"version": step})
        prune_checkpoints(parent, 2)
        os.write(pipe, b"x")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork to kill a writer")
def test_killed_at_random_moments_there_is_always_a_whole_newest_checkpoint(tmp_path: Path) -> None:
    rng = random.Random(int(time.time()))
    for trial in range(12):
        reader, pipe = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                write_until_killed(tmp_path / str(trial), pipe)
            finally:
                os._exit(1)
        os.close(pipe)
        assert os.read(reader, 1) == b"x"
        time.sleep(rng.uniform(0, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        finished = 0
        while done := os.read(reader, 4096):
            finished += len(done)
        os.close(reader)
        newest = latest_checkpoint(tmp_path / str(trial), pytest.fail)
        # Step n // 2 is written twice, by n even and odd: what was reported done, or the one in flight, is there.
        assert newest.metadata["version"] in (finished, finished + 1)
        for name in "ab":
            assert (newest.trees[name]["values"] == newest.metadata["version"]).all()
        write_small(tmp_path / str(trial), 10**7)
        assert all(name.startswith("step-") for name in os.listdir(tmp_path / str(trial)))


def test_an_interrupt_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rlopt.storage.checked_folder, "_move_into_place", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_small(tmp_path, 1)
    assert os.listdir(tmp_path) == []


def test_a_newer_format_says_so(tmp_path: Path) -> None:
    path = write_small(tmp_path, 1)
    content = json.loads((path / "manifest.json").read_text())
    content["version"] = 2
    (path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="format version 2, this rlopt reads 1"):
        read_checkpoint(path)
