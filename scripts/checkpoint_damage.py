"""Ways to damage a checkpoint: at random, or on purpose with every checksum made right again."""

import contextlib
import copy
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

WRONG_VALUES: tuple[Any, ...] = (
    "../../escape",
    {"$array": ["../escape", "<f4", [10**12]]},
    {"$tensor": ["value", "float32", [2**62, 2**62]]},
    {"$array": ["x", "|O", [1]]},
    {"$int": "zz"},
    {"$int": "0x" + "f" * 5000},
    {"$float": "00"},
    {"$scalar": ["<f8", "0"]},
    {"$dict": [["a", 1], ["a", 2]]},
    {"$tuple": 3},
    {"$class": "os.system"},
    {"type": "class", "name": "os.system"},
    {"__reduce__": "os.system"},
    [[], {}, "x"],
    {"unexpected": None},
    -(10**30),
)


# Damage that the checksums show -------------------------------------------------------------------------------------


def pick(folder: Path, rng: random.Random, suffix: str = "") -> Path:
    """A file of the checkpoint."""
    return rng.choice([path for path in sorted(folder.iterdir()) if path.name.endswith(suffix)])


def flip_bits(folder: Path, rng: random.Random) -> None:
    file = pick(folder, rng)
    data = bytearray(file.read_bytes())
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def truncate(folder: Path, rng: random.Random) -> None:
    file = pick(folder, rng)
    os.truncate(file, rng.randrange(file.stat().st_size))


def extend(folder: Path, rng: random.Random) -> None:
    with open(pick(folder, rng), "ab") as file:
        file.write(rng.randbytes(rng.randint(1, 500)))


def blank(folder: Path, rng: random.Random) -> None:
    file = pick(folder, rng)
    data = bytearray(file.read_bytes())
    start = rng.randrange(len(data))
    data[start : start + 64] = bytes(len(data[start : start + 64]))
    file.write_bytes(data)


def noise(folder: Path, rng: random.Random) -> None:
    pick(folder, rng).write_bytes(rng.randbytes(rng.randint(0, 2000)))


def swap(folder: Path, rng: random.Random) -> None:
    a, b = pick(folder, rng), pick(folder, rng)
    data_a, data_b = a.read_bytes(), b.read_bytes()
    a.write_bytes(data_b), b.write_bytes(data_a)


def take_older(folder: Path, rng: random.Random) -> None:
    file = pick(folder, rng)
    shutil.copy(min(folder.parent.glob("step-*")) / file.name, file)


def delete(folder: Path, rng: random.Random) -> None:
    for file in rng.sample(sorted(folder.iterdir()), rng.randint(1, 3)):
        file.unlink()


def delete_all(folder: Path, rng: random.Random) -> None:
    for file in folder.iterdir():
        file.unlink()


def link(folder: Path, rng: random.Random) -> None:
    file = pick(folder, rng)
    target = folder.parent.parent / "outside" / "secret.txt"
    if rng.random() < 0.5:
        target = folder.parent / f"copy-of-{file.name}"
        shutil.copy(file, target)
    file.unlink()
    file.symlink_to(target)


def folder_for_file(folder: Path, rng: random.Random) -> None:
    file = pick(folder, rng)
    file.unlink()
    file.mkdir()


def pipe(folder: Path, rng: random.Random) -> None:
    file = pick(folder, rng)
    file.unlink()
    os.mkfifo(file)


def rename(folder: Path, rng: random.Random) -> None:
    folder.rename(folder.with_name(f"step-{rng.randint(65, 10**6):012d}"))


def edit_manifest(folder: Path, rng: random.Random) -> None:
    file = folder / "manifest.json"
    content = json.loads(file.read_text())
    mutate(content, rng)
    file.write_text(json.dumps(content))


# Damage with the checksums made right again -------------------------------------------------------------------------


def seal(folder: Path, change: Callable[[dict[str, Any]], None] = lambda content: None) -> None:
    """Makes all checksums right, as an attacker would, after ``change`` has edited the manifest."""
    file = folder / "manifest.json"
    content = json.loads(file.read_text())
    content.pop("sha256", None)
    for name in content["files"]:
        data = (folder / name).read_bytes()
        content["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change(content)
    text = json.dumps(dict(sorted(content.items())), separators=(",", ":"))
    content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    file.write_text(json.dumps(content, separators=(",", ":")))


def nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, part in items for p in [(*path, key), *nodes(part, (*path, key))]]


def mutate(value: Any, rng: random.Random) -> None:
    """Replaces, deletes or adds something anywhere inside."""
    path = rng.choice(nodes(value))
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    action = rng.random()
    if action < 0.2:
        del parent[path[-1]]
    elif action < 0.3 and isinstance(parent, dict):
        parent[f"extra{rng.randint(0, 9)}"] = parent.pop(path[-1])
    else:
        parent[path[-1]] = copy.deepcopy(rng.choice(WRONG_VALUES))


def forge_structure(tree: str) -> Callable[[Path, random.Random], None]:
    def damage(folder: Path, rng: random.Random) -> None:
        file = folder / f"{tree}.json"
        content = json.loads(file.read_text())
        if nodes(content):
            mutate(content, rng)
        else:
            content = rng.choice(WRONG_VALUES)
        file.write_text(json.dumps(content))
        seal(folder)

    return damage


def forge_depth(folder: Path, rng: random.Random) -> None:
    depth = rng.choice([70, 300, 2000, 100_000])
    opening, closing = rng.choice([("[", "]"), ('{"a":', "}"), ('{"$tuple":[', "]}")])
    pick(folder, rng, ".json").write_text(opening * depth + "1" + closing * depth)
    if rng.random() < 0.9:
        with contextlib.suppress(ValueError, RecursionError, KeyError, TypeError):  # where the manifest was chosen
            seal(folder)


def read_tensors(file: Path) -> tuple[dict[str, Any], bytes]:
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def write_tensors(file: Path, header: Any, data: bytes, size: int | None = None) -> None:
    text = json.dumps(header).encode()
    file.write_bytes((len(text) if size is None else size).to_bytes(8, "little") + text + data)


def forge_tensor(folder: Path, rng: random.Random) -> None:
    """Another dtype, shape or place for a tensor, in the header of its file; half the time in the structure too."""
    file = pick(folder, rng, ".safetensors")
    header, data = read_tensors(file)
    entries = [key for key in header if key != "__metadata__"]
    if not entries:
        file = folder / "networks.safetensors"
        header, data = read_tensors(file)
        entries = [key for key in header if key != "__metadata__"]
    entry = header[rng.choice(entries)]
    kind = rng.choice(["dtype", "shape", "huge", "offsets", "negative", "rank"])
    if kind == "dtype":
        entry["dtype"] = {"F32": "I32", "F64": "I64", "I64": "F64", "BOOL": "U8"}.get(entry["dtype"], "F16")
    elif kind == "shape":
        entry["shape"] = [*entry["shape"][::-1], 1]
    elif kind == "huge":
        entry["shape"] = [2**40, 2**20]
    elif kind == "offsets":
        entry["data_offsets"] = [rng.randint(-5, 10**12), rng.randint(0, 10**15)]
    elif kind == "negative":
        entry["shape"] = [-1]
    else:
        entry["shape"] = [1] * 100 + entry["shape"]
    write_tensors(file, header, data)
    seal(folder)


def forge_header(folder: Path, rng: random.Random) -> None:
    file = pick(folder, rng, ".safetensors")
    header, data = read_tensors(file)
    size = rng.choice([0, 1, 10**6, 10**9, 2**63 - 1, 2**64 - 1])
    write_tensors(file, header, data, size)
    seal(folder)


def forge_fit(folder: Path, rng: random.Random) -> None:
    """A whole tensor of another shape or dtype, right in header, structure and checksums."""
    name = rng.choice(["networks", "env", "training", "random", "replay"])
    header, data = read_tensors(folder / f"{name}.safetensors")
    key = rng.choice([key for key in header if key != "__metadata__"] or [""])
    if not key:
        return forge_tensor(folder, rng)
    entry = header[key]
    old_shape, start_end = list(entry["shape"]), entry["data_offsets"]
    size = start_end[1] - start_end[0]
    entry["shape"], entry["dtype"] = [size, 1, 1], "U8"
    write_tensors(folder / f"{name}.safetensors", header, data)
    text = (folder / f"{name}.json").read_text()
    shape = json.dumps(old_shape, separators=(",", ":"))
    for dtype in ("<f4", "<f8", "<i4", "<i8", "<u4", "|b1", "|u1", "float32", "float64", "int64", "uint8", "bool"):
        new = "uint8" if dtype[0] not in "<|" else "|u1"
        text = text.replace(f'["{key}","{dtype}",{shape}]', f'["{key}","{new}",[{size},1,1]]')
    (folder / f"{name}.json").write_text(text)
    seal(folder)
    return None


def forge_manifest(folder: Path, rng: random.Random) -> None:
    def change(content: dict[str, Any]) -> None:
        kind = rng.randrange(9)
        if kind == 0:
            name = rng.choice(["../x", "/etc/passwd", "a/../../x", "manifest", "", 3, None])
            content["trees"] = [name]
            content["files"] = {f"{name}.{end}": {"bytes": 1, "sha256": "0"} for end in ("json", "safetensors")}
        elif kind == 1:
            content["files"]["../../outside/secret.txt"] = {"bytes": 6, "sha256": "0" * 64}
        elif kind == 2:
            next(iter(content["files"].values()))["bytes"] = rng.choice([-1, 10**18, 1.5, "1", None, True])
        elif kind == 3:
            next(iter(content["files"].values()))["sha256"] = rng.choice([None, 1, "0", [], "é"])
        elif kind == 4:
            content["step"] = rng.choice([-1, 10**30, "64", 64.0, None, True, 65])
        elif kind == 5:
            content["metadata"] = rng.choice([None, [], "x", {"a": {"$array": ["x", "<f4", [1]]}}, {"$int": "0x1"}])
        elif kind == 6:
            content["version"] = rng.choice([0, 2, "1", None, 1.5])
        elif kind == 7:
            content["format"] = rng.choice(["pickle", None, 1])
        else:
            del content["files"][rng.choice(sorted(content["files"]))]

    seal(folder, change)


def forge_settings(folder: Path, rng: random.Random) -> None:
    file = folder / "model.json"
    model = json.loads(file.read_text())
    settings = model["settings"]
    kwargs = settings["policy_kwargs"]["items"]
    changes: list[Callable[[], Any]] = [
        lambda: model.update(agent=rng.choice(["os:system", "../mdpo", "", 3, None, ["mdpo"], "MDPO"])),
        lambda: model.update(n_envs=rng.choice([0, -1, 10**12, 2.0, "2", True])),
        lambda: settings.update(env="os:system"),
        lambda: settings.update(tensorboard_log="../outside"),
        lambda: settings.update(device="cuda:99"),
        lambda: settings.update(_init_setup_model=False),
        lambda: settings.update({"__class__": "x"}),
        lambda: settings.update(policy=rng.choice(["os:system", "NoPolicy", 3, None, {"type": "class", "name": "x"}])),
        lambda: kwargs.update(net_arch=rng.choice([[10**9, 10**9], [-8], ["8"], [8] * 5000, 8, {"a": [8]}, [0]])),
        lambda: kwargs.update(activation_fn=rng.choice(["sys", 3, [], {"type": "class", "name": "torch.optim.SGD"}])),
        lambda: kwargs.update(optimizer_class={"type": "class", "name": rng.choice(["torch.nn.ReLU", "os.system"])}),
        lambda: kwargs.update(features_extractor_class={"type": "class", "name": "sb3.NatureCNN"}),
        lambda: kwargs.update(unknown=1),
        lambda: settings.update(learning_rate=rng.choice(["fast", None, [], {"type": "LinearSchedule", "start": 1}])),
        lambda: model["observation_space"].update(type=rng.choice(["Boxx", "Discrete", None, ["Box"]])),
        lambda: model["observation_space"]["low"].update(shape=rng.choice([[10**12], [-3], [2**31, 2**31], ["3"], 3])),
        lambda: model["observation_space"]["low"].update(dtype=rng.choice(["object", "O", None, "float64", 4])),
        lambda: model["action_space"]["high"].update(hex=rng.choice(["zz", "", "00", 3, "00" * 100])),
        lambda: model.pop(rng.choice(sorted(model))),
    ]
    rng.choice(changes)()
    file.write_text(json.dumps(model))
    seal(folder)


DAMAGE: dict[str, Callable[[Path, random.Random], None]] = {
    "bits flipped": flip_bits,
    "file truncated": truncate,
    "file extended": extend,
    "block zeroed": blank,
    "file of noise": noise,
    "two files swapped": swap,
    "file of an older checkpoint": take_older,
    "files deleted": delete,
    "all files deleted": delete_all,
    "symbolic link": link,
    "folder for a file": folder_for_file,
    "pipe for a file": pipe,
    "folder renamed": rename,
    "manifest edited": edit_manifest,
    "forged: nesting": forge_depth,
    "forged: tensor header": forge_tensor,
    "forged: header length": forge_header,
    "forged: tensor that fits its header": forge_fit,
    "forged: manifest": forge_manifest,
    "forged: settings": forge_settings,
    **{
        f"forged: structure of {tree}": forge_structure(tree)
        for tree in ("model", "networks", "replay", "env", "training", "random")
    },
}
