"""Files in D4RL's layout that rlopt wrote and somebody changed: each is one line that says what is wrong."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from offline_data import corridor, pendulum

from rlopt.data import load_dataset, write_d4rl
from rlopt.data.formats.d4rl_own import MANIFEST
from rlopt.errors import DataError

h5py = pytest.importorskip("h5py")


def manifest_of(file: Any) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(file[MANIFEST][()].tobytes())
    return manifest


def put_manifest(file: Any, text: str) -> None:
    del file[MANIFEST]
    file.create_dataset(MANIFEST, data=np.frombuffer(text.encode(), np.uint8))


def changed(sign: bool = True, **values: Any) -> Callable[[Any], None]:
    """Puts other values into the manifest, with the digest of the new one if ``sign``; None leaves a value out."""

    def change(file: Any) -> None:
        manifest = {key: value for key, value in (manifest_of(file) | values).items() if value is not None}
        given = manifest.pop("sha256")
        manifest["sha256"] = signature(manifest) if sign else given
        put_manifest(file, json.dumps(manifest))

    return change


def signature(manifest: dict[str, Any]) -> str:
    from rlopt.storage.json import dump_json

    return hashlib.sha256(dump_json(dict(sorted(manifest.items()))).encode()).hexdigest()


def without_actions(file: Any) -> None:
    arrays = {name: digest for name, digest in manifest_of(file)["arrays"].items() if name != "actions"}
    del file["actions"]
    changed(arrays=arrays)(file)


def numeric_terminals(file: Any) -> None:
    from rlopt.data.formats.d4rl_own import _digest

    terminals = file["terminals"][()].astype(np.float32)
    del file["terminals"]
    file.create_dataset("terminals", data=terminals)
    changed(arrays=manifest_of(file)["arrays"] | {"terminals": _digest(terminals)})(file)


def no_manifest(file: Any) -> None:
    del file[MANIFEST]
    file.create_dataset("rlopt/other", data=np.zeros(1))


CHANGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "no manifest": (no_manifest, "is missing or malformed"),
    "no JSON": (lambda file: put_manifest(file, "{"), "it is damaged: rlopt/manifest"),
    "a list": (lambda file: put_manifest(file, "[1]"), "is none of rlopt's"),
    "another format": (changed(format="hdf"), "is none of rlopt's"),
    "a later version": (changed(version=7), "it has format version 7, this rlopt reads 1"),
    "another seed, not signed": (changed(sign=False, extras=["forged"]), "is not what was written"),
    "extras that are not a list": (changed(extras={}), "is malformed"),
    "extras that are not names": (changed(extras=[1]), "is malformed"),
    "an extra that is not there": (changed(extras=["speed"]), "infos/speed is missing"),
    "strange metadata": (
        changed(metadata={"reference_returns": None, "surprise": 1}),
        "other metadata than this version",
    ),
    "metadata without returns": (changed(metadata={"env": "Pendulum-v1"}), "other metadata than this version"),
    "no actions": (without_actions, "is damaged: actions is missing"),
    "an array removed": (lambda file: file.pop("rewards"), "rewards is missing"),
    "numeric terminals": (numeric_terminals, "terminals and timeouts are not alike and bool"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_file_is_one_line(name: str, tmp_path: Path) -> None:
    change, said = CHANGES[name]
    path = write_d4rl(pendulum(60), tmp_path / "data.hdf5")
    assert len(load_dataset(str(path))) == 60
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(DataError, match=said) as caught:
        load_dataset(str(path))
    assert len(str(caught.value).splitlines()) == 1


def test_what_has_no_place_in_the_layout_is_refused(tmp_path: Path) -> None:
    data = corridor(40)
    named = dataclasses.replace(data, extras={"a/..": np.zeros((40, 1), np.float32)})
    with pytest.raises(DataError, match=r"'infos/a/\.\.' cannot be an HDF5 name"):
        write_d4rl(named, tmp_path / "data.hdf5")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="cannot be written"):
        write_d4rl(pendulum(40), tmp_path / "file" / "data.hdf5")
    assert (tmp_path / "file").read_text() == "mine"
