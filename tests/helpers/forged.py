"""Files that are small and ask for much: gigabytes, hours, or files elsewhere."""

import contextlib
import hashlib
import json
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from rlopt.storage.json import dump_json


def seal(folder: Path, change: Callable[[dict[str, Any]], None] = lambda content: None) -> None:
    """Makes all checksums of a checked folder right again, after ``change`` of its manifest."""
    manifest = folder / "manifest.json"
    content = json.loads(manifest.read_text())
    content.pop("sha256")
    change(content)
    for name, entry in content["files"].items():
        data = (folder / name).read_bytes()
        entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    content["sha256"] = hashlib.sha256(dump_json(dict(sorted(content.items()))).encode()).hexdigest()
    manifest.write_text(dump_json(content))


@contextlib.contextmanager
def measured(most: int, seconds: int = 5) -> Iterator[None]:
    """Fails if the block takes more than ``most`` bytes beside what the process has, or hangs.

    A block that would take all memory of the machine gets a MemoryError instead.
    """

    def late(*_: Any) -> None:
        pytest.fail(f"it took more than {seconds} s")  # no Exception, which a reader would take for damage

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, limits = _memory("VmRSS"), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + 2**30, limits[1]))
    old = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
        resource.setrlimit(resource.RLIMIT_AS, limits)
    taken = _memory("VmHWM") - before
    assert taken <= most, f"{taken} bytes were taken, {most} would be honest"


def _memory(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


def minari_folder(root: Path, episodes: int = 2, steps: int = 3, size: int = 2) -> Path:
    """A Minari data set of ``size`` numbers an observation; returns its ``data`` folder."""
    folder = root / "data"
    folder.mkdir(parents=True)
    box = {"type": "Box", "dtype": "float32"}
    values = {
        "dataset_id": "made/small-v0",
        "total_episodes": episodes,
        "observation_space": json.dumps({**box, "shape": [size], "low": [-9.0] * size, "high": [9.0] * size}),
        "action_space": json.dumps({**box, "shape": [1], "low": [-1.0], "high": [1.0]}),
    }
    (folder / "metadata.json").write_text(json.dumps(values))
    with h5py.File(folder / "main_data.hdf5", "w") as file:
        for number in range(episodes):
            group = file.create_group(f"episode_{number}")
            group["observations"] = np.arange((steps + 1) * size, dtype=np.float32).reshape(-1, size) % 7
            group["actions"] = np.zeros((steps, 1), np.float32)
            group["rewards"] = np.ones(steps)
            group["terminations"] = np.zeros(steps, bool)
            group["truncations"] = np.arange(steps) == steps - 1
    return folder
