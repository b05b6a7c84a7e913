"""Damage data sets at random and count what loading makes of them.

Eight sound data sets are written: rlopt's folder, the same of demonstrations, demonstrations as imitation's and
ValueDICE's .npz files, an HDF5 file of rlopt's, a D4RL-layout file as others write it (gzip,
no sums), the same with the SHA-256 that a download notes beside it, and a Minari data set. Copies are damaged in one of
the ways of ``dataset_damage.py`` and loaded, in a process of its own that may crash or hang.

Sound outcomes are ``DataError`` in one line, or the original bit for bit. Two kinds of damage may leave files that are
valid in themselves, and then the outcome may also be another data set that passes every check: files without sums whose
bytes were changed (the format does not show it; hence the SHA-256 of downloads), and forgeries whose sums were made
right.

    python scripts/fuzz_datasets.py --cases 1000 --seed 0
"""

import dataclasses
import hashlib
import multiprocessing
import os
import random
import resource
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from dataset_damage import BYTES, FOLDER, HDF5, MINARI, NPZ, STRUCTURE, Damage, touched
from fuzzing import Report, differences, inventory, main

from rlopt.data import Dataset, Demonstrations, Metadata, load_dataset, load_demonstrations, write_d4rl, write_minari
from rlopt.data.checks import check_columns
from rlopt.data.download import checksum_file
from rlopt.data.formats.imitation_files import write_imitation, write_valuedice
from rlopt.data.formats.minari import read_minari_folder
from rlopt.errors import DataError, RloptError

MEMORY_LIMIT_MB = 1500
SECONDS = 20.0
"""Until a case counts as hanging."""


@dataclass(frozen=True)
class Source:
    """A sound data set on disk."""

    damage: dict[str, Damage]
    load: Callable[[Path], Dataset]
    """Loads from a copy of its folder."""
    has_sums: bool


def sample() -> Dataset:
    """A walk with goals, a terminal, two cuts and an extra column."""
    rng = np.random.default_rng(0)
    walk = rng.normal(size=(304, 4)).astype(np.float32)
    first = np.r_[0:100, 101:202, 203:302]
    ends = np.isin(np.arange(300), (99, 200, 299))
    return Dataset(
        observations=walk[first],
        actions=rng.uniform(-1, 1, (300, 2)).astype(np.float32),
        rewards=rng.normal(size=300).astype(np.float32),
        next_observations=walk[first + 1],
        discounts=np.where(np.arange(300) == 99, 0, 1).astype(np.float32),
        episode_ends=ends,
        metadata=Metadata(env="Walk-v0", generator="fuzz", seed=0, reference_returns=(0, 1), notes=("a", "b")),
        extras={"source_row": first, "goal": rng.normal(size=(300, 2)).astype(np.float32)},
    )


def write_plain(path: Path) -> None:
    """A file of hopper's sizes in the D4RL layout, as its generation scripts write."""
    rng = np.random.default_rng(1)
    timeouts = np.isin(np.arange(300), (99, 299))
    arrays = {
        "observations": rng.normal(size=(300, 11)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (300, 3)).astype(np.float32),
        "rewards": rng.normal(size=300).astype(np.float32),
        "terminals": np.isin(np.arange(300), (150,)),
        "timeouts": timeouts,
    }
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip")


def write_sources(folder: Path) -> dict[str, Source]:
    """Writes the sound data sets, each in a folder of its own below ``folder``."""
    data = sample()
    data.save(folder / "folder")
    write_d4rl(data, folder / "own" / "data.hdf5")
    for name in ("plain", "summed"):
        (folder / name).mkdir(parents=True)
        write_plain(folder / name / "data.hdf5")
    note = checksum_file(folder / "summed" / "data.hdf5")
    digest = hashlib.sha256((folder / "summed" / "data.hdf5").read_bytes()).hexdigest()
    note.write_text(f"{digest}  data.hdf5\n")
    os.environ["MINARI_DATASETS_PATH"] = str(folder / "minari-root")
    written = write_minari(data, "fuzz/walk-v0")
    shutil.move(written / "data", folder / "minari")

    demos = Demonstrations.from_dataset(data, observation_keys=("place", "speed"))
    demos.save(folder / "demos")
    write_imitation(demos, folder / "imitation" / "data.npz")
    write_valuedice(demos, folder / "valuedice" / "data.npz")

    def npz(path: Path) -> Dataset:
        return load_demonstrations(path / "data.npz")

    def hdf5(path: Path) -> Dataset:
        return load_dataset(path / "data.hdf5")

    def named(path: Path) -> Dataset:
        return load_dataset(path / "data.hdf5", name="hopper-medium-v0")

    return {
        "folder": Source(BYTES | FOLDER, load_dataset, True),
        "own": Source(BYTES | HDF5, hdf5, True),
        "plain": Source(BYTES | HDF5, named, False),
        "summed": Source(BYTES | HDF5, named, True),
        "minari": Source(BYTES | HDF5 | MINARI, read_minari_folder, False),
        "demos": Source(BYTES | FOLDER, load_demonstrations, True),
        "imitation": Source(BYTES | NPZ, npz, False),
        "valuedice": Source(BYTES | NPZ, npz, False),
    }


def tree(data: Dataset) -> dict[str, Any]:
    return {**data.columns(), "metadata": dataclasses.asdict(data.metadata)}


def examine(load: Callable[[Path], Dataset], path: Path, original: dict[str, Any], may_differ: bool) -> str:
    """Loads; returns the outcome; raises or returns "WRONG ..." for what must not be."""
    try:
        data = load(path)
    except DataError as error:
        return "refused" if "\n" not in str(error) and len(str(error)) < 1000 else f"WRONG message: {error}"
    except RloptError as error:
        return f"WRONG error: {type(error).__name__}: {error}"
    wrong = differences(original, tree(data))
    if not wrong:
        return "loaded unharmed"
    check_columns(data)
    return "another valid data set" if may_differ else f"WRONG load: {wrong[:3]}"


def cases(sources: dict[str, Source], number: int, seed: int) -> Iterator[tuple[str, str, int]]:
    """(source, kind of damage, seed of the case), every kind of every source in turn."""
    rng = random.Random(seed)
    kinds = [(name, kind) for name, source in sources.items() for kind in source.damage]
    for case in range(number):
        yield (*kinds[case % len(kinds)], rng.getrandbits(32))


def worker(pipe: Any, folder: Path, sources: dict[str, Source]) -> None:
    """Examines the cases that come through the pipe until it closes."""
    warnings.simplefilter("ignore")
    os.chdir(folder / "work")
    originals = {name: tree(source.load(folder / "sound" / name)) for name, source in sources.items()}
    while True:
        try:
            name, kind, case_seed = pipe.recv()
        except EOFError:
            return
        source = sources[name]
        path = folder / "work" / "damaged"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(folder / "sound" / name, path)
        source.damage[kind](path, random.Random(case_seed))
        before = inventory(folder)
        unseen = not source.has_sums and (kind in BYTES or kind in MINARI or kind in NPZ or kind == STRUCTURE)
        may_differ = kind.startswith("forged") or unseen
        try:
            outcome = examine(source.load, path, originals[name], may_differ)
        except Exception:
            outcome = f"CRASH: {traceback.format_exc(limit=-4)}"
        if inventory(folder) != before or touched(path):
            outcome = "WRONG: a file was touched"
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        pipe.send((outcome, memory))


class Examiner:
    """A process that examines cases, started anew when it dies or hangs."""

    def __init__(self, folder: Path, sources: dict[str, Source]) -> None:
        self.arguments = (folder, sources)
        self.process: Any = None

    def start(self) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=worker, args=(theirs, *self.arguments), daemon=True)
        self.process.start()
        theirs.close()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            self.process = None

    def __call__(self, case: tuple[str, str, int]) -> str:
        if self.process is None:
            self.start()
        try:
            self.pipe.send(case)
            if not self.pipe.poll(SECONDS):
                self.stop()
                return f"HANG: over {SECONDS} s"
            outcome, memory = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            self.stop()
            return f"CRASH: the process died with {code}"
        if memory > MEMORY_LIMIT_MB:
            self.stop()
            return f"WRONG: {memory} MB of memory"
        return str(outcome)


def fuzz(number: int, seed: int, folder: Path, progress: Callable[[int], None] = lambda done: None) -> Report:
    """Examines ``number`` damaged data sets below ``folder``."""
    report = Report()
    for name in ("sound", "work", "outside", "work/outside"):
        (folder / name).mkdir(parents=True)
    (folder / "work" / "outside" / "secret.txt").write_text("secret")
    with h5py.File(folder / "work" / "outside" / "other.hdf5", "w") as file:
        file["array"] = np.zeros((300, 3), np.float32)
    sources = write_sources(folder / "sound")
    examiner = Examiner(folder, sources)
    try:
        for done, case in enumerate(cases(sources, number, seed), 1):
            outcome = examiner(case)
            report.add(f"{case[0]}: {case[1]}", outcome, f"{case[0]}, {case[1]}, seed {case[2]}")
            progress(done)
    finally:
        examiner.stop()
    return report


if __name__ == "__main__":
    sys.exit(main(__doc__, fuzz, "data sets", 1000))
