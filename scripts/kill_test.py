"""Kill training runs with SIGKILL at random moments, resume them, and compare with the run that was never stopped.

Each run is started with ``rlopt train``, killed, continued with ``rlopt resume``, perhaps killed again (up to three
times), and then left to finish. Its last checkpoint (networks, optimisers, replay buffer, simulator, random states,
counters) and its CSV files must equal those of the uninterrupted run bit for bit; only clock times are left out. One
kill in three strikes while a checkpoint is being written.

    python scripts/kill_test.py --runs 10 --out kill_test.json  # 10 runs on each backend
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlopt.checkpoint.files import list_checkpoints, read_checkpoint

TIME_COLUMNS = ("time/fps", "time/time_elapsed")
MAX_KILLS = 3
NORMALIZED = "--normalize-observations --normalize-rewards"
ON_POLICY = f"--n-steps 32 --net-arch 16 --value-batch-size 32 --checkpoint-every 250 {NORMALIZED}"
OFF_POLICY = "--net-arch 16 --batch-size 16 --learning-starts 50 --old-policy-period 100 --checkpoint-every 100"
COMMON = "--max-episode-steps 40 --log-every 100 --eval-every 500 --eval-episodes 2 --keep-checkpoints 2 --device cpu"


@dataclasses.dataclass(frozen=True)
class Case:
    """One kind of run."""

    agent: str
    env: str
    backend: str
    n_envs: int
    total: int
    options: str

    @property
    def name(self) -> str:
        return f"{self.agent} {self.env} {self.backend} x{self.n_envs}"

    def arguments(self, run_dir: Path) -> list[str]:
        where = f"--env {self.env} --backend {self.backend} --n-envs {self.n_envs} --total-timesteps {self.total}"
        return ["train", self.agent, *f"{where} {self.options} {COMMON} --run-dir {run_dir}".split()]


CASES = (
    Case("mdpo", "HalfCheetah-v5", "gymnasium", 2, 4000, ON_POLICY),
    Case("off_policy_mdpo", "dm_control/cartpole-swingup", "gymnasium", 1, 600, OFF_POLICY),
    Case("mdpo", "HalfCheetah-v5", "envpool", 4, 4000, ON_POLICY),
    Case("off_policy_mdpo", "dm_control/cartpole-swingup", "envpool", 4, 1600, OFF_POLICY),
)


def rlopt(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Starts the command line with ``arguments``, its output appended to ``log``."""
    with open(log, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "rlopt.cli.main", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def reference(case: Case, folder: Path) -> float:
    """Trains without interruption into ``folder``; returns the seconds from the first file to the end."""
    process = rlopt(case.arguments(folder), folder.with_suffix(".log"))
    wait_for_file(process, folder / "config.json")
    began = time.monotonic()
    if process.wait() != 0:
        raise SystemExit(f"the uninterrupted run failed:\n{folder.with_suffix('.log').read_text()[-2000:]}")
    return time.monotonic() - began


def wait_for_file(process: subprocess.Popen[bytes], path: Path) -> None:
    while process.poll() is None and not path.exists():
        time.sleep(0.002)


def killed_run(case: Case, folder: Path, seconds: float, rng: random.Random) -> list[str]:
    """Trains into ``folder`` with one to three kills; returns what each one interrupted."""
    kills: list[str] = []
    wanted, tries = rng.randint(1, MAX_KILLS), 0
    log = folder.with_suffix(".log")
    while len(kills) < wanted and tries < 20:
        tries += 1
        started = folder.joinpath("config.json").exists()
        before = len(log.read_bytes()) if log.exists() else 0
        process = rlopt(["resume", str(folder)] if started else case.arguments(folder), log)
        moment = kill_somewhere(process, folder, log, before, seconds, rng)
        if moment is not None:
            kills.append(moment)
        elif not kills:
            # It finished before the first kill: this run proves nothing, so begin again.
            remove(folder)
            seconds *= 0.7
        else:
            break
    if rlopt(["resume", str(folder)], log).wait() != 0:
        raise RuntimeError(f"rlopt resume failed:\n{log.read_text()[-2000:]}")
    return kills


def kill_somewhere(
    process: subprocess.Popen[bytes], folder: Path, log: Path, before: int, seconds: float, rng: random.Random
) -> str | None:
    """Kills the process at a random moment of its training; None if it ended first."""
    while process.poll() is None and b"run folder: " not in log.read_bytes()[before:]:
        time.sleep(0.002)
    deadline = time.monotonic() + rng.uniform(0, seconds)
    in_writing = rng.random() < 1 / 3
    skip = rng.randint(0, 3)
    while process.poll() is None:
        if in_writing and is_writing(folder):
            if skip == 0:
                break
            skip -= 1
            while process.poll() is None and is_writing(folder):
                time.sleep(0.0005)
        if not in_writing and time.monotonic() >= deadline:
            break
        time.sleep(0.0005)
    else:
        return None
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.returncode != -signal.SIGKILL:
        return None
    if is_writing(folder):
        return "checkpoint"
    return "training" if list_checkpoints(folder / "checkpoints") else "before the first checkpoint"


def is_writing(folder: Path) -> bool:
    try:
        return any(entry.name.startswith(".writing-") for entry in os.scandir(folder / "checkpoints"))
    except OSError:
        return False


def remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def differences(first: Any, second: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Names of the leaves in which two trees differ by a bit, clock times apart."""
    if is_clock(path):
        return
    where = "/".join(path) or "root"
    if type(first) is not type(second):
        yield f"{where}: {type(first).__name__} and {type(second).__name__}"
    elif isinstance(first, dict):
        if first.keys() != second.keys():
            yield f"{where}: keys {sorted(first.keys() ^ second.keys())}"
        for key in first.keys() & second.keys():
            yield from differences(first[key], second[key], (*path, str(key)))
    elif isinstance(first, list | tuple):
        if len(first) != len(second):
            yield f"{where}: {len(first)} and {len(second)} entries"
        for index, (a, b) in enumerate(zip(first, second, strict=False)):
            # Entries of the pending log are [name, value, ...]; times among them are no state.
            if path[-1:] == ("log",) and isinstance(a, list | tuple) and a and a[0] in TIME_COLUMNS:
                continue
            yield from differences(a, b, (*path, str(index)))
    elif bits(first) != bits(second):
        yield where


def is_clock(path: tuple[str, ...]) -> bool:
    """Whether a leaf is a time of day: the third number of an episode's record, the start of the monitor."""
    return path[-1:] == ("t_start",) or ("ep_info_buffer" in path and path[-1] == "t")


def bits(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        raw = leaf.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if leaf.numel() else b""
        return (str(leaf.dtype), tuple(leaf.shape), raw)
    if isinstance(leaf, np.ndarray | np.generic):
        return (str(leaf.dtype), leaf.shape, leaf.tobytes())
    return struct.pack(">d", leaf) if isinstance(leaf, float) else leaf


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in csv.DictReader(file)]


def compare(first: Path, second: Path) -> list[str]:
    """What differs between the results of two run folders."""
    found: list[str] = []
    last = [read_checkpoint(list_checkpoints(folder / "checkpoints")[-1]) for folder in (first, second)]
    if last[0].step != last[1].step:
        found.append(f"steps {last[0].step} and {last[1].step}")
    found += differences(dict(last[0].trees), dict(last[1].trees))
    for name in ("progress.csv", "episodes.csv", "evaluations.csv"):
        rows = [read_csv(folder / name) for folder in (first, second)]
        if rows[0] != rows[1]:
            found.append(f"{name} ({len(rows[0])} and {len(rows[1])} rows)")
    if (first / "best.json").read_text() != (second / "best.json").read_text():
        found.append("best.json")
    return found


def one_run(case: Case, index: int, whole: Path, seconds: float, seed: int) -> dict[str, Any]:
    folder = whole.parent / f"run{index}"
    try:
        kills = killed_run(case, folder, seconds, random.Random(f"{seed}-{case.name}-{index}"))
        different = compare(whole, folder) if kills else ["was never killed"]
    except RuntimeError as error:
        kills, different = [], [str(error)]
    if not different:
        remove(folder)
    return {"case": case.name, "backend": case.backend, "kills": kills, "different": different}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="killed runs on each backend")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--folder", type=Path, help="where the runs go; default a temporary folder")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()
    root = arguments.folder or Path(tempfile.mkdtemp(prefix="kill-test-"))
    began = time.monotonic()
    results: list[dict[str, Any]] = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        futures = []
        for backend in ("gymnasium", "envpool"):
            cases = [case for case in CASES if case.backend == backend][: arguments.runs]
            for number, case in enumerate(cases):
                whole = (root / case.name.replace("/", "_").replace(" ", "-")).absolute() / "whole"
                whole.parent.mkdir(parents=True, exist_ok=True)
                seconds = reference(case, whole)
                runs = range(number, arguments.runs, len(cases))
                futures += [pool.submit(one_run, case, index, whole, seconds, arguments.seed) for index in runs]
        for future in futures:
            result = future.result()
            results.append(result)
            verdict = "identical" if not result["different"] else "DIFFERENT: " + "; ".join(result["different"][:5])
            print(f"{result['case']}: killed in {', '.join(result['kills'])}: {verdict}", flush=True)
    print_table(results, time.monotonic() - began)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    return 0 if all(not result["different"] for result in results) else 1


def print_table(results: list[dict[str, Any]], seconds: float) -> None:
    print("\n| run | runs | kills | while writing a checkpoint | identical |\n|---|---|---|---|---|")
    for name in dict.fromkeys(result["case"] for result in results):
        rows = [result for result in results if result["case"] == name]
        kills = [kill for result in rows for kill in result["kills"]]
        same = sum(not result["different"] for result in rows)
        print(f"| {name} | {len(rows)} | {len(kills)} | {kills.count('checkpoint')} | {same} of {len(rows)} |")
    same = sum(not result["different"] for result in results)
    print(f"\n{same} of {len(results)} killed runs are bit for bit the uninterrupted run ({seconds:.0f} s)")


if __name__ == "__main__":
    sys.exit(main())
