"""Ways to damage a data set: bytes at random, HDF5 content on purpose, a folder with all sums made right again."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoint_damage as folder_damage
import h5py
import numpy as np

Damage = Callable[[Path, random.Random], None]
"""Takes the folder that holds the data set's files and nothing else."""


TRAP = b"cos\nmkdir\n(S'trap'\ntR."
"""Unpickling it makes a folder: nothing must."""


def hdf5_file(folder: Path) -> Path:
    return next(path for path in sorted(folder.iterdir()) if path.suffix == ".hdf5")


def array_names(file: Any) -> list[str]:
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return sorted(found)


# HDF5 content -------------------------------------------------------------------------------------------------------

NEEDED = ("observations", "actions", "rewards", "terminals")


def change(alter: Callable[[Any, str, np.ndarray, random.Random], Any], needed: bool = True) -> Damage:
    """Replaces one array by what ``alter(file, name, array, rng)`` gives; None deletes it."""

    def damage(folder: Path, rng: random.Random) -> None:
        with h5py.File(hdf5_file(folder), "a") as file:
            names = array_names(file)
            if needed:
                leaves = [name for name in names if name.rpartition("/")[2] in NEEDED]
                names = leaves or names
            name = rng.choice(names)
            array = file[name][()]
            new = alter(file, name, array, rng)
            del file[name]
            if isinstance(new, (np.ndarray, np.void)):
                file.create_dataset(name, data=new)
            elif new is not None:
                new(file, name)

    return damage


def other_dtype(file: Any, name: str, array: np.ndarray, rng: random.Random) -> np.ndarray:
    new = rng.choice(["i4", "S3", "c8", "V5", "u8"])
    return np.zeros(array.shape, new) if new == "V5" else array.astype(new)


def other_shape(file: Any, name: str, array: np.ndarray, rng: random.Random) -> np.ndarray:
    kind = rng.randrange(4)
    if kind == 0:
        return array[: rng.randrange(len(array))]
    if kind == 1:
        return array.reshape(1, *array.shape)
    if kind == 2:
        return np.concatenate((array, array))
    return array.ravel()[:1].reshape(())


def not_finite(file: Any, name: str, array: np.ndarray, rng: random.Random) -> np.ndarray:
    array = np.array(array, np.float64)
    array.flat[rng.randrange(array.size)] = rng.choice([np.nan, np.inf, -np.inf, 1e200])
    return array


def pickled(file: Any, name: str, array: np.ndarray, rng: random.Random) -> Any:
    if rng.random() < 0.5:
        return np.void(TRAP)

    def make(file: Any, name: str) -> None:
        file.create_dataset(name, (len(array),), dtype=h5py.vlen_dtype(np.uint8))
        for row in range(len(array)):
            file[name][row] = np.frombuffer(TRAP, np.uint8)

    return make


def linked(file: Any, name: str, array: np.ndarray, rng: random.Random) -> Any:
    kind = rng.randrange(4)
    # the target lies outside of the folder of the data set
    target = str(Path(file.filename).parent.parent / "outside" / "other.hdf5")

    def make(file: Any, name: str) -> None:
        if kind == 0:
            file[name] = h5py.ExternalLink(target, "array")
        elif kind == 1:
            file[name] = h5py.SoftLink(f"/{rng.choice(array_names(file) or ['x'])}")
        elif kind == 2:
            layout = h5py.VirtualLayout(array.shape, array.dtype)
            layout[...] = h5py.VirtualSource(target, "array", array.shape)
            file.create_virtual_dataset(name, layout)
        else:
            file.create_dataset(name, array.shape, array.dtype, external=[(target, 0, array.nbytes)])

    return make


def unwritten(file: Any, name: str, array: np.ndarray, rng: random.Random) -> Any:
    huge = rng.random() < 0.5
    shape = (rng.choice([10**9, 10**12, 2**40]), *array.shape[1:]) if huge else array.shape

    def make(file: Any, name: str) -> None:
        chunks = tuple(max(1, min(length, 16)) for length in shape)
        made = file.create_dataset(name, shape, array.dtype, chunks=chunks if shape else None)
        if not huge and shape and rng.random() < 0.5:
            made[: len(array) // 2] = array[: len(array) // 2]

    return make


def group_instead(file: Any, name: str, array: np.ndarray, rng: random.Random) -> Any:
    return lambda file, name: file.create_group(name)


def deleted(file: Any, name: str, array: np.ndarray, rng: random.Random) -> None:
    return None


def actions_out_of_bounds(folder: Path, rng: random.Random) -> None:
    with h5py.File(hdf5_file(folder), "a") as file:
        name = rng.choice([name for name in array_names(file) if name.rpartition("/")[2] == "actions"])
        array = file[name][()]
        array[rng.randrange(len(array)), 0] = rng.choice([1.5, -40.0])
        del file[name]
        file[name] = array


def drop_checksums(folder: Path, rng: random.Random) -> None:
    """Takes away what tells that rlopt wrote the file, or other metadata."""
    with h5py.File(hdf5_file(folder), "a") as file:
        if "rlopt" in file:
            del file["rlopt/manifest" if rng.random() < 0.5 else "rlopt"]
            return
    for path in folder.iterdir():
        if path.suffix == ".json":
            path.unlink()
            return
    with h5py.File(hdf5_file(folder), "a") as file:
        del file["actions"]


def hdf5_inside(folder: Path, rng: random.Random) -> None:
    """Flips bits in the first bytes, where the structure of an HDF5 file lies."""
    path = hdf5_file(folder)
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(min(len(data), 4096))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


STRUCTURE = "bits of the structure flipped"
HDF5: dict[str, Damage] = {
    "array deleted": change(deleted),
    "dtype changed": change(other_dtype),
    "shape changed": change(other_shape),
    "NaN, infinity, overflow": change(not_finite),
    "pickled objects": change(pickled),
    "link out of the file": change(linked),
    "never written, or huge": change(unwritten),
    "group for an array": change(group_instead),
    "actions out of bounds": actions_out_of_bounds,
    "metadata taken away": drop_checksums,
    STRUCTURE: hdf5_inside,
}
BYTES: dict[str, Damage] = {
    "bits flipped": folder_damage.flip_bits,
    "file truncated": folder_damage.truncate,
    "file extended": folder_damage.extend,
    "block zeroed": folder_damage.blank,
    "file of noise": folder_damage.noise,
    "file deleted": lambda folder, rng: folder_damage.pick(folder, rng).unlink(),
    "folder for a file": folder_damage.folder_for_file,
    "pipe for a file": folder_damage.pipe,
}


def link(folder: Path, rng: random.Random) -> None:
    file = folder_damage.pick(folder, rng)
    file.unlink()
    file.symlink_to(folder.parent / "outside" / "secret.txt")


def other_values(folder: Path, rng: random.Random) -> None:
    """Values that a data set must not have, with all sums made right again."""
    from safetensors.numpy import load_file, save_file

    arrays = load_file(folder / "data.safetensors")
    name = rng.choice(sorted(name for name in arrays if arrays[name].dtype == np.float32))
    array = arrays[name]
    array.flat[rng.randrange(array.size)] = rng.choice([np.nan, np.inf])
    save_file(arrays, folder / "data.safetensors")
    folder_damage.seal(folder)


def other_type(folder: Path, rng: random.Random) -> None:
    """A whole array of another dtype and shape, right in header, structure and sums."""
    header, data = folder_damage.read_tensors(folder / "data.safetensors")
    key = rng.choice([key for key in header if key != "__metadata__"])
    entry = header[key]
    size = entry["data_offsets"][1] - entry["data_offsets"][0]
    entry["shape"], entry["dtype"] = [size, 1, 1], "U8"
    folder_damage.write_tensors(folder / "data.safetensors", header, data)
    content = json.loads((folder / "data.json").read_text())

    def replace(node: Any) -> None:
        for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            if isinstance(value, dict) and value.get("$array", [None])[0] == key:
                value["$array"] = [key, "|u1", [size, 1, 1]]
            replace(value)

    replace(content)
    (folder / "data.json").write_text(json.dumps(content))
    folder_damage.seal(folder)


FOLDER: dict[str, Damage] = {
    "two files swapped": folder_damage.swap,
    "files deleted": folder_damage.delete,
    "all files deleted": folder_damage.delete_all,
    "symbolic link": link,
    "manifest edited": folder_damage.edit_manifest,
    "forged: nesting": folder_damage.forge_depth,
    "forged: tensor header": folder_damage.forge_tensor,
    "forged: header length": folder_damage.forge_header,
    "forged: manifest": folder_damage.forge_manifest,
    "forged: structure": folder_damage.forge_structure("data"),
    "forged: values": other_values,
    "forged: array that fits its header": other_type,
}


def minari_metadata(folder: Path, rng: random.Random) -> None:
    path = folder / "metadata.json"
    content = json.loads(path.read_text())
    content.update(env_spec=json.dumps({"id": "Trap-v0", "entry_point": "pathlib:Path.touch"}))
    for key in ("observation_space", "action_space"):
        if rng.random() < 0.3:
            content.pop(key)
        elif rng.random() < 0.3:
            space = json.loads(content[key])
            folder_damage.mutate(space, rng)
            content[key] = json.dumps(space)
    if rng.random() < 0.5:
        folder_damage.mutate(content, rng)
    path.write_text(json.dumps(content))


MINARI: dict[str, Damage] = {"metadata.json changed": minari_metadata}


class Spring:
    """Unpickling it makes a folder too."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("trap",)


def change_npz(alter: Callable[[Any, str, np.ndarray, random.Random], Any]) -> Damage:
    """As :func:`change`, for the .npz file of a folder; metadata are left alone."""

    def damage(folder: Path, rng: random.Random) -> None:
        path = next(folder.glob("*.npz"))
        with np.load(path) as file:
            arrays = dict(file)
        name = rng.choice([name for name in arrays if arrays[name].ndim])
        new = alter(None, name, arrays.pop(name), rng)
        np.savez(path, **arrays, **({} if new is None else {name: new}))

    return damage


NPZ: dict[str, Damage] = {
    "npz: array deleted": change_npz(deleted),
    "npz: dtype changed": change_npz(other_dtype),
    "npz: shape changed": change_npz(other_shape),
    "npz: NaN, infinity, overflow": change_npz(not_finite),
    "npz: pickled objects": change_npz(lambda file, name, array, rng: np.array([Spring()] * len(array), object)),
}


def touched(folder: Path) -> bool:
    """Whether the trap of a pickle was sprung in the working directory or beside the data."""
    return Path("trap").exists() or (folder / "trap").exists() or os.path.lexists(folder / "escape")
