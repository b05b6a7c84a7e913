"""Small files that ask for gigabytes, hours or other files are refused in one line, before anything is taken."""

import io
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
import torch
from forged import measured, minari_folder, seal
from gymnasium import spaces
from stable_baselines3 import PPO

import rlopt
import rlopt.envs.tasks.own_tasks
from rlopt.agents.loop.baselines.q_learning import DifferentialQ
from rlopt.agents.loop.baselines.ucrl2 import UCRL2
from rlopt.agents.zo_ranksgd.policies.search import RankedPolicySearch
from rlopt.algorithms.spaces_only_env import SpacesOnlyVecEnv
from rlopt.analysis.curves import EVALUATION, TRAINING, default_key, read_run_curve
from rlopt.checkpoint.files import read_checkpoint, write_checkpoint
from rlopt.checkpoint.model_state import save_checkpoint
from rlopt.checkpoint.sb3_zip import read_policy
from rlopt.data import load_dataset, load_demonstrations
from rlopt.data.formats.minari import read_minari_folder
from rlopt.errors import ResourceError, RloptError
from rlopt.loggers.writers import CsvLog
from rlopt.storage.budget import Budget

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of its memory from /proc")

SPARE = 24 * 2**20
"""What Python and its libraries take of their own meanwhile."""
NUMBERS = (spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,)))


def refused(read: Callable[[], Any], honest: int, match: str | None = None) -> None:
    """``read`` is refused in one line, with less than twice the memory of an honest file."""
    with measured(2 * honest + SPARE), pytest.raises(RloptError, match=match) as caught:
        read()
    assert not isinstance(caught.value, ResourceError), caught.value
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size


# ---- folders of safetensors and JSON


def checkpoint(tmp_path: Path, numbers: int = 2**20) -> Path:
    return write_checkpoint(tmp_path, 1, {"tree": {"a": torch.arange(numbers, dtype=torch.float32)}}, {})


def test_weights_that_networks_share_are_read(tmp_path: Path) -> None:
    shared = torch.arange(2**18, dtype=torch.float32)
    path = write_checkpoint(tmp_path, 1, {"tree": {"a": shared, "b": shared, "c": shared}}, {})
    read = read_checkpoint(path).trees["tree"]
    assert all(torch.equal(read[name], shared) for name in "abc")


def test_a_tensor_named_two_thousand_times(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    tensor = json.loads((path / "tree.json").read_text())["a"]
    (path / "tree.json").write_text(json.dumps([tensor] * 2000))
    seal(path)
    refused(lambda: read_checkpoint(path), size_of(path), "more than the file can hold")


@pytest.mark.parametrize("text", ["[" + "[]," * 2_000_000 + "[]]", "[" + "0," * 6_000_000 + "0]"])
def test_a_structure_of_millions_of_parts(tmp_path: Path, text: str) -> None:
    path = checkpoint(tmp_path)
    (path / "tree.json").write_text(text)
    seal(path)
    refused(lambda: read_checkpoint(path), size_of(path), "more than")


def test_a_manifest_of_twenty_megabytes(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    seal(path, lambda content: content["metadata"].update(text="x" * 20_000_000))
    refused(lambda: read_checkpoint(path), size_of(path), "over")


# ---- models


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    env = SpacesOnlyVecEnv(1, *NUMBERS)
    made = rlopt.MDPO("MlpPolicy", env, n_steps=8, policy_kwargs={"net_arch": [4]}, seed=0, device="cpu")
    return save_checkpoint(made, tmp_path_factory.mktemp("model"), {})


HUGE_BOX = {
    "type": "Box",
    "low": {"dtype": "float64", "shape": [2**28], "hex": "00" * 8},
    "high": {"dtype": "float64", "shape": [2**28], "hex": "00" * 8},
}


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.update(observation_space={"type": "Discrete", "n": 2 * 10**8, "start": 0}),
        lambda model: model.update(action_space={"type": "Discrete", "n": 2 * 10**8, "start": 0}),
        lambda model: model.update(observation_space=HUGE_BOX),
        lambda model: model.update(observation_space={"type": "Tuple", "spaces": [HUGE_BOX] * 50}),
        lambda model: model["settings"].update(seed={"type": "array", "value": HUGE_BOX["low"]}),
        lambda model: model.update(n_envs=2**20),
    ],
    ids=["discrete", "actions", "box", "boxes", "setting", "environments"],
)
def test_models_of_other_sizes_than_their_weights(model: Path, tmp_path: Path, change: Any) -> None:
    path = Path(shutil.copytree(model, tmp_path / model.name))
    content = json.loads((path / "model.json").read_text())
    change(content)
    (path / "model.json").write_text(json.dumps(content))
    seal(path)
    refused(lambda: rlopt.load(path, device="cpu"), size_of(path))


def test_the_model_itself_is_read(model: Path) -> None:
    assert rlopt.load(model, device="cpu").predict(np.zeros((3, 2), np.float32))[0].shape == (3, 1)


def river(agent: type) -> Any:
    env = gymnasium.make("rlopt/RiverSwim-v0").unwrapped
    return agent(env, seed=0, **({"horizon": 1000} if agent is rlopt.LOOP else {})).learn(50)


@pytest.mark.parametrize("space", ["observation_space", "action_space"])
@pytest.mark.parametrize("agent", [rlopt.LOOP, UCRL2, DifferentialQ, RankedPolicySearch])
def test_tabular_agents_and_searches_of_other_sizes(tmp_path: Path, agent: Any, space: str) -> None:
    made = agent("LinearPolicy", "Pendulum-v1", m=2, k=1, seed=0) if agent is RankedPolicySearch else river(agent)
    path = made.save(tmp_path / "agent")
    content = json.loads((path / "agent.json").read_text())
    content[space] = {"type": "Discrete", "n": 2 * 10**8, "start": 0}
    (path / "agent.json").write_text(json.dumps(content))
    seal(path)
    refused(lambda: agent.load(path), size_of(path))


def saved_zip(tmp_path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]], method: int) -> Path:
    """A zip file of PPO with other members, packed by ``method``."""
    path = tmp_path / "model.zip"
    PPO("MlpPolicy", SpacesOnlyVecEnv(1, *NUMBERS), n_steps=8, device="cpu").save(path)
    with zipfile.ZipFile(path) as file:
        members = change({name: file.read(name) for name in file.namelist()})
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def weights(tensors: Any, method: int = zipfile.ZIP_STORED) -> bytes:
    saved, packed = io.BytesIO(), io.BytesIO()
    torch.save(tensors, saved)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(packed, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return packed.getvalue()


@pytest.mark.parametrize(
    ("member", "content", "method"),
    [
        ("data", lambda: b"[" + b"[]," * 30_000_000 + b"[]]", zipfile.ZIP_DEFLATED),
        ("data", lambda: b"[" + b"[]," * 2_000_000 + b"[]]", zipfile.ZIP_STORED),
        ("policy.pth", lambda: weights({"a": torch.zeros(10**7)}, zipfile.ZIP_DEFLATED), zipfile.ZIP_STORED),
        ("policy.pth", lambda: weights({"a": bytearray(5 * 10**7)}), zipfile.ZIP_DEFLATED),
    ],
    ids=["packed text", "text", "packed weights", "no weights"],
)
def test_zip_files_that_unpack_to_more(tmp_path: Path, member: str, content: Any, method: int) -> None:
    path = saved_zip(tmp_path, lambda members: {**members, member: content()}, method)
    refused(lambda: read_policy(path, *NUMBERS), size_of(path), "compressed|more than|other")


def test_weights_of_one_number(tmp_path: Path) -> None:
    def change(members: dict[str, bytes]) -> dict[str, bytes]:
        data = json.loads(members["data"])
        data["policy_kwargs"]["net_arch"] = [20_000, 20_000]
        one = torch.zeros(1).expand(10**9)
        return {**members, "data": json.dumps(data).encode(), "policy.pth": weights({"a": one})}

    path = saved_zip(tmp_path, change, zipfile.ZIP_STORED)
    refused(lambda: read_policy(path, *NUMBERS), size_of(path), "larger networks")


# ---- data sets


def test_an_honest_minari_folder_is_read(tmp_path: Path) -> None:
    data = read_minari_folder(minari_folder(tmp_path, episodes=2, steps=3))
    assert len(data) == 6 and data.observations[1].tolist() == [2.0, 3.0]  # type: ignore[index]


def test_episodes_that_are_one_episode_with_many_names(tmp_path: Path) -> None:
    folder = minari_folder(tmp_path, episodes=1, steps=1000, size=500)
    values = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps({**values, "total_episodes": 2000}))
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        for number in range(1, 2000):
            file[f"episode_{number}"] = file["episode_0"]
    refused(lambda: read_minari_folder(folder), size_of(folder), "several names")


def test_arrays_that_are_one_array_with_many_names(tmp_path: Path) -> None:
    folder = minari_folder(tmp_path, episodes=200, steps=1000, size=1)
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        big = file.create_dataset("big", data=np.zeros((1001, 5000), np.float32), compression="gzip")
        for number in range(200):
            del file[f"episode_{number}/observations"]
            file[f"episode_{number}/observations"] = big
    refused(lambda: read_minari_folder(folder), size_of(folder) + 1001 * 5000 * 4, "several names")


def test_a_group_that_contains_itself(tmp_path: Path) -> None:
    folder = minari_folder(tmp_path)
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        del file["episode_0/observations"]
        group = file.create_group("episode_0/observations")
        group["again"] = group
    refused(lambda: read_minari_folder(folder), size_of(folder), "several names")


@pytest.mark.parametrize("name", ["episode_0/observations", "episode_0/infos", "episode_0/infos/x", "episode_0"])
@pytest.mark.parametrize("target", ["pipe", "file"])
def test_a_link_out_of_the_file_is_not_followed(tmp_path: Path, name: str, target: str) -> None:
    folder = minari_folder(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    if target == "pipe":
        os.mkfifo(elsewhere)  # opening it would block for ever
    else:
        shutil.copy(folder / "main_data.hdf5", elsewhere)
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        if name in file:
            del file[name]
        file[name] = h5py.ExternalLink(str(elsewhere), "/episode_1")
    refused(lambda: read_minari_folder(folder), size_of(folder), "link out of its place")


def test_a_link_in_place_of_rlopts_own_mark(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["rlopt"] = h5py.ExternalLink(str(tmp_path / "pipe"), "/x")
    refused(lambda: load_dataset(tmp_path / "x.hdf5", env="X-v0"), 0, "link out of its place")


def test_a_chunk_larger_than_its_array(tmp_path: Path) -> None:
    folder = minari_folder(tmp_path)
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
        file.create_dataset("episode_0/rewards", (3,), "f8", maxshape=(None,), chunks=(2**28,), compression="gzip")
    refused(lambda: read_minari_folder(folder), size_of(folder), "more than the file can hold")


def npz_of(path: Path, method: int, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def npy(shape: str, data: bytes = b"", dtype: str = "<f4") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    ("obs", "method"),
    [
        (npy("(10**9,)"), zipfile.ZIP_STORED),
        (npy("(999999999999,)"), zipfile.ZIP_STORED),
        (npy("('''"), zipfile.ZIP_STORED),  # numpy's own reader fails with an error of the tokeniser
        (npy("(" * 500), zipfile.ZIP_STORED),
        (npy("(10000000,)", bytes(40_000_000)), zipfile.ZIP_LZMA),
        (npy("(10000000,)", bytes(40_000_000)), zipfile.ZIP_BZIP2),
    ],
    ids=["expression", "declared", "tokens", "nested", "lzma", "bzip2"],
)
def test_npz_files_that_are_larger_than_they_look(tmp_path: Path, obs: bytes, method: int) -> None:
    small = npy("(1,)", bytes(4))
    path = npz_of(tmp_path / "x.npz", method, obs=obs, acts=small, indices=small, terminal=small)
    refused(lambda: load_demonstrations(path), size_of(path), "damaged")


def test_budgets() -> None:
    budget = Budget(10)
    budget.charge(6, "a")
    with pytest.raises(ValueError, match="'b'"):
        budget.charge(5, "b")
    budget.charge(4, "c")
    budget.once(7, "a")
    with pytest.raises(ValueError, match="several names"):
        budget.once(7, "b")


# ---- HuggingFace's folders


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    datasets = pytest.importorskip("datasets")
    path = tmp_path_factory.mktemp("rows") / "set"
    episode = {"obs": [[[0.0, 1.0], [1.0, 1.0]]], "acts": [[[0.5]]], "terminal": [True], "rews": [[1.0]]}
    datasets.Dataset.from_dict(episode).save_to_disk(str(path))
    assert len(load_demonstrations(path)) == 1
    return path


def edited(folder: Path, tmp_path: Path, name: str, change: Callable[[Any], None]) -> Path:
    path = Path(shutil.copytree(folder, tmp_path / "set"))
    content = json.loads((path / name).read_text())
    change(content)
    (path / name).write_text(json.dumps(content))
    return path


def test_huggingface_files_elsewhere_are_not_opened(rows: Path, tmp_path: Path) -> None:
    arrow = next(rows.glob("*.arrow"))
    shutil.copy(arrow, tmp_path / "data.arrow")
    for name in ("../data.arrow", str(tmp_path / "data.arrow"), "link.arrow", "pipe.arrow"):
        path = edited(rows, tmp_path, "state.json", lambda state, n=name: state["_data_files"][0].update(filename=n))  # type: ignore[misc]
        (path / "link.arrow").symlink_to(tmp_path / "data.arrow")
        os.mkfifo(path / "pipe.arrow")
        refused(lambda path=path: load_demonstrations(path), 0, "is not a name of a file|is not a plain file")  # type: ignore[misc]
        shutil.rmtree(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("dataset_info.json", lambda info: info["features"].update(obs={"_type": "Image"})),
        (
            "dataset_info.json",
            lambda info: info["features"].update(obs={"_type": "List", "feature": {"_type": "Audio"}}),
        ),
        ("state.json", lambda state: state.update(_format_type="tensorflow")),
    ],
)
def test_huggingface_columns_that_open_or_import(rows: Path, tmp_path: Path, name: str, change: Any) -> None:
    path = edited(rows, tmp_path, name, change)
    refused(lambda: load_demonstrations(path), 0, "not numbers or texts|another library")


def test_huggingface_columns_without_bytes_of_their_own(rows: Path, tmp_path: Path) -> None:
    import pyarrow

    arrow = next(rows.glob("*.arrow"))
    stored = pyarrow.ipc.open_stream(arrow.read_bytes()).read_all()
    path = Path(shutil.copytree(rows, tmp_path / "set"))
    for options, table in (
        (pyarrow.ipc.IpcWriteOptions(compression="zstd"), stored),
        (None, pyarrow.table({**{name: stored[name] for name in ("obs", "acts")}, "terminal": pyarrow.nulls(1)})),
        (None, pyarrow.table({**{name: stored[name] for name in ("obs", "acts")},
                              "terminal": pyarrow.array([True]).dictionary_encode()})),
    ):  # fmt: skip
        file = pyarrow.OSFile(str(path / arrow.name), "wb")
        with file, pyarrow.ipc.new_stream(file, table.schema, options=options) as writer:
            writer.write_table(table)
        refused(lambda: load_demonstrations(path), 0, "compressed|many times|not where they belong")


# ---- tables of a run


def run_with(tmp_path: Path, name: str, write: Callable[[Path], object]) -> Path:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"agent": "mdpo", "run": {"env": "Pendulum-v1"}, "agent_config": {}}))
    write(run / name)
    return run


def sized(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


@pytest.mark.parametrize("name", ["progress.csv", "evaluations.csv"])
@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: sized(path, 2**40), "it is over"),
        (lambda path: sized(path, 2**26), "line 1 is over"),
        (lambda path: path.write_text("step,return\n" + "," * 2**21), "line 2 is over"),
        (lambda path: path.write_text("step,return\n" + "1,2\n" * (2**19 + 1)), "over 524288 lines"),
        (lambda path: path.write_text('step,return\n"' + "1,2\n" * 100_000), "field larger"),
        (os.mkfifo, "is not a plain file"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a plain file"),
    ],
    ids=["bytes", "zeros", "columns", "lines", "quote", "pipe", "device"],
)
def test_tables_that_are_larger_than_any_run_writes(tmp_path: Path, name: str, write: Any, said: str) -> None:
    run = run_with(tmp_path, name, write)
    key = "return" if name == "progress.csv" else EVALUATION
    refused(lambda: read_run_curve(run, key), 2**22, said)
    assert default_key([run]) == (TRAINING if name == "progress.csv" else EVALUATION)


def test_a_long_table_is_read_in_little_memory(tmp_path: Path) -> None:
    rows = "".join(f"{step},{step / 2}\n" for step in range(200_000))
    run = run_with(tmp_path, "progress.csv", lambda path: path.write_text("step,return\n" + rows + "7,0.5\n"))
    with measured(2 * len(rows) + SPARE):
        curve = read_run_curve(run, "return")
    assert curve.y[7] == 0.5 and len(curve.x) == 200_000 and curve.y[-1] == 199_999 / 2


def test_a_log_that_is_continued_is_a_plain_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "progress.csv")
    with pytest.raises(RloptError, match="not a plain file"):
        CsvLog(tmp_path / "progress.csv", ["step"], {"rows": 1, "columns": ["step"]})
