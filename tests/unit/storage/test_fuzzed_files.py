"""Files of every kind, changed at random: each is read, or refused by rlopt in one line, at once."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from forged import measured, minari_folder, seal
from gymnasium import spaces
from safetensors.numpy import save_file
from stable_baselines3 import PPO

from rlopt.agents.mdpo.config import MDPOConfig
from rlopt.algorithms.spaces_only_env import SpacesOnlyVecEnv
from rlopt.checkpoint.choose import choose_checkpoint, environment_settings
from rlopt.checkpoint.files import read_checkpoint, write_checkpoint
from rlopt.checkpoint.sb3_zip import read_policy
from rlopt.data import Dataset, Demonstrations, Metadata, load_dataset, load_demonstrations, write_d4rl
from rlopt.data.formats.huggingface import write_huggingface
from rlopt.data.formats.imitation_files import write_imitation, write_valuedice
from rlopt.data.formats.minari import read_minari_folder
from rlopt.errors import ResourceError, RloptError
from rlopt.run_folder import RunFolder, write_json
from rlopt.runs.multi_seed import GroupFolder
from rlopt.settings.presets import default_settings
from rlopt.settings.run import RunConfig
from rlopt.sweeps.spec import SweepSpec, read_spec, spec_from
from rlopt.sweeps.sweep import EngineOptions, SweepFolder
from rlopt.sweeps.tune_spec import TuneFolder, TuneSpec

NUMBERS = (spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,)))
CHANGES = 200
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 10**400, 1e308, "", "x" * 5000, "../../etc/passwd", "\0", "os:system", "é\n", [], {},
    [[]], {"$tensor": ["a", "float32", [2**40]]}, {"type": "Box"}, [[[[[[1]]]]]],
)  # fmt: skip
Reader = Callable[[], Any]


def small(seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    walk = rng.normal(size=(7, 2)).astype(np.float32)
    return Dataset(
        observations=walk[[0, 1, 2, 4, 5]],
        actions=rng.uniform(-1, 1, (5, 1)).astype(np.float32),
        rewards=np.ones(5, np.float32),
        next_observations=walk[[1, 2, 3, 5, 6]],
        discounts=np.array([1, 1, 0, 1, 1], np.float32),
        episode_ends=np.array([0, 0, 1, 0, 1], bool),
        metadata=Metadata(env="Walk-v0", notes=("a",)),
    )


def of_checkpoint(root: Path) -> Reader:
    tree = {"a": np.arange(3.0), "b": (1, {"c": float("inf"), "$d": [None, "x"]}), "e": 2**70}
    path = write_checkpoint(root, 7, {"tree": tree}, {"env": {"id": "Pendulum-v1"}, "run": {}})

    def read() -> Any:
        checkpoint = read_checkpoint(path)
        return choose_checkpoint(path), environment_settings(checkpoint.metadata)

    return read


def of_folder(root: Path) -> Reader:
    path = small().save(root / "set")
    return lambda: load_dataset(path)


def of_demonstrations(write: Callable[[Demonstrations, Path], Any], name: str) -> Callable[[Path], Reader]:
    def make(root: Path) -> Reader:
        write(Demonstrations.from_dataset(small()), root / name)
        return lambda: load_demonstrations(root / name)

    return make


def of_huggingface(root: Path) -> Reader:
    pytest.importorskip("datasets")
    return of_demonstrations(write_huggingface, "set")(root)


def of_own_hdf5(root: Path) -> Reader:
    path = write_d4rl(small(), root / "own.hdf5")
    return lambda: load_dataset(path)


def of_d4rl(root: Path) -> Reader:
    data, path = small(), root / "plain.hdf5"
    with h5py.File(path, "w") as file:
        for name in ("observations", "actions", "rewards"):
            file[name] = getattr(data, name)
        file["terminals"], file["timeouts"] = data.discounts == 0, data.episode_ends
    return lambda: load_dataset(path, env="Walk-v0")


def of_minari(root: Path) -> Reader:
    folder = minari_folder(root)
    return lambda: read_minari_folder(folder)


def of_csv(root: Path) -> Reader:
    data = small()
    assert isinstance(data.observations, np.ndarray)
    rows = np.column_stack([data.observations, data.actions, data.rewards, data.discounts == 0, data.episode_ends])
    header = "obs_0,obs_1,action,reward,terminated,done"
    np.savetxt(root / "log.csv", rows, delimiter=",", header=header, comments="")
    return lambda: load_dataset(root / "log.csv")


def of_json_lines(root: Path) -> Reader:
    data = small()
    names = {"obs": data.observations, "actions": data.actions, "rewards": data.rewards, "dones": data.episode_ends}
    rows = zip(*(np.asarray(column).tolist() for column in names.values()), strict=True)
    (root / "log.jsonl").write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    return lambda: load_dataset(root / "log.jsonl")


def of_parquet(root: Path) -> Reader:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    data = small()
    columns = {"obs": data.observations, "action": data.actions, "reward": data.rewards, "done": data.episode_ends}
    table = pyarrow.table({name: np.asarray(column).tolist() for name, column in columns.items()})
    parquet.write_table(table, root / "log.parquet")
    return lambda: load_dataset(root / "log.parquet")


def of_safetensors(root: Path) -> Reader:
    data = small()
    names = {"obs": data.observations, "act": data.actions, "reward": data.rewards, "done": data.episode_ends}
    save_file({name: np.ascontiguousarray(column) for name, column in names.items()}, root / "log.safetensors")
    return lambda: load_dataset(root / "log.safetensors")


def of_episode_groups(root: Path) -> Reader:
    data, path = small(), root / "demos.hdf5"
    with h5py.File(path, "w") as file:
        for number, rows in enumerate(data.episodes()):
            group = file.create_group(f"data/demo_{number}")
            group["obs/place"], group["actions"] = np.asarray(data.observations)[rows], data.actions[rows]
            group["rewards"], group["dones"] = data.rewards[rows], data.episode_ends[rows].astype(int)
    return lambda: load_dataset(path)


def of_zip(root: Path) -> Reader:
    PPO("MlpPolicy", SpacesOnlyVecEnv(1, *NUMBERS), n_steps=8, device="cpu").save(root / "model.zip")
    return lambda: read_policy(root / "model.zip", *NUMBERS)


def of_preset(root: Path) -> Reader:
    path = root / "preset.yaml"
    path.write_text("env: Pendulum-v1\nn_steps: 64\nstep_size: 3e-4\nnet_arch: [64, 64]\nenv_kwargs: {g: 9.8}\n")
    return lambda: default_settings("mdpo", MDPOConfig, str(path))


def of_sweep_file(root: Path) -> Reader:
    path = root / "sweep.yaml"
    path.write_text("agent: mdpo\nenv: [Pendulum-v1]\nseeds: 0..3\nset: {n_steps: [32, 64]}\nsettings: {gamma: 0.9}\n")
    return lambda: spec_from(read_spec(path), "sweep.yaml")


def of_run(root: Path) -> Reader:
    folder = RunFolder(root)
    folder.write_config("mdpo", RunConfig(env="Pendulum-v1"), MDPOConfig())
    return folder.read_config


def of_seeds(root: Path) -> Reader:
    folder = GroupFolder(root)
    folder.write_config("mdpo", RunConfig(env="Pendulum-v1", seeds="0..1"), MDPOConfig())
    write_json(root / "failures.json", {"seed1": "it fell"})
    return lambda: (folder.read_config(), folder.failures())


def of_sweep(root: Path) -> Reader:
    folder = SweepFolder(root)
    folder.write_spec(SweepSpec(("mdpo",), ("Pendulum-v1",), set={"n_steps": (32, 64)}), EngineOptions())
    return folder.read_spec


def of_search(root: Path) -> Reader:
    folder = TuneFolder(root)
    folder.write_spec(TuneSpec(SweepSpec(("mdpo",), ("Pendulum-v1",)), ("gamma=0.9..0.99",)), EngineOptions())
    return folder.read_spec


KINDS: dict[str, Callable[[Path], Reader]] = {
    "checkpoint": of_checkpoint,
    "data set": of_folder,
    "imitation": of_demonstrations(write_imitation, "set.npz"),
    "valuedice": of_demonstrations(write_valuedice, "set.npz"),
    "huggingface": of_huggingface,
    "own hdf5": of_own_hdf5,
    "d4rl": of_d4rl,
    "minari": of_minari,
    "csv": of_csv,
    "json lines": of_json_lines,
    "parquet": of_parquet,
    "safetensors": of_safetensors,
    "episode groups": of_episode_groups,
    "zip": of_zip,
    "preset": of_preset,
    "sweep file": of_sweep_file,
    "run": of_run,
    "seeds": of_seeds,
    "sweep": of_sweep,
    "search": of_search,
}


def change_bytes(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    place = rng.randrange(len(data))
    kind = rng.randrange(5)
    if kind == 0:
        data[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[place:]
    elif kind == 2:
        data[place:place] = rng.randbytes(rng.randrange(1, 20))
    elif kind == 3:
        data[place : place + rng.randrange(1, 40)] = b""
    else:
        data[place : place + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"((((", b"'''\"", b"9999"])
    file.write_bytes(data)


def change_json(file: Path, rng: random.Random) -> None:
    """One part of the text becomes something else."""
    content = json.loads(file.read_text())
    places = list(parts(content))
    holder, key = rng.choice(places)
    kind = rng.randrange(3)
    if kind == 0:
        holder[key] = rng.choice(ODD)
    elif kind == 1:
        del holder[key]
    else:
        holder[key] = [holder[key]]
    file.write_text(json.dumps(content))


def parts(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(part, dict | list):
            yield from parts(part)


def change(folder: Path, rng: random.Random) -> None:
    """Changes one file, and mostly makes the checksums right again."""
    file = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size))
    text = file.suffix == ".json" and rng.random() < 0.8
    (change_json if text else change_bytes)(file, rng)
    if (file.parent / "manifest.json").exists() and file.name != "manifest.json" and rng.random() < 0.8:
        seal(file.parent)


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_file_is_read_or_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    whole, copy = tmp_path / "whole", tmp_path / "copy"
    whole.mkdir()
    KINDS[kind](whole)()  # what is unchanged is read
    shutil.rmtree(whole)
    whole.mkdir()
    copy.mkdir()
    read = KINDS[kind](copy)
    shutil.copytree(copy, whole, dirs_exist_ok=True)
    outcomes = {"read": 0, "refused": 0}
    with measured(2**27, seconds=60):
        for seed in range(CHANGES):
            rng = random.Random(seed)
            shutil.rmtree(copy)
            shutil.copytree(whole, copy)
            change(copy, rng)
            try:
                read()
                outcomes["read"] += 1
            except RloptError as error:
                assert not isinstance(error, ResourceError), (seed, error)
                assert "\n" not in str(error) and len(str(error)) < 2000, (seed, error)
                outcomes["refused"] += 1
    assert outcomes["refused"] > CHANGES // 10, outcomes
