"""Kill training runs with SIGKILL at random moments, resume them, and compare with the run that was never stopped.

Each case is started with ``rlopt train``, ``rlopt sweep`` or ``rlopt tune``, killed with all its processes, continued
with ``rlopt resume``, perhaps killed again (up to three times), and then left to finish. The last checkpoint of every
run in it (networks, optimisers, replay buffer, simulator, random states, counters), its CSV files, and the trials of a
search must equal those of the uninterrupted case bit for bit; only clock times are left out. One kill in three is aimed
at the writing of a checkpoint, one in three at an evaluation; the stacks of the processes just before a kill tell what
it struck. Cases are of three kinds: Gymnasium's backend, EnvPool's, and several runs.

    python scripts/kill_test.py --runs 10 --out kill_test.json  # 10 cases of each kind
"""

import argparse
import contextlib
import csv
import dataclasses
import json
import os
import random
import shutil
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
from rlopt.run_folder import GROUP_FILE, SWEEP_FILE, TUNE_FILE

TIME_COLUMNS = ("time/fps", "time/time_elapsed")
MAX_KILLS = 3
BEGUN = ("config.json", GROUP_FILE, SWEEP_FILE, TUNE_FILE)
"""Files that ``rlopt resume`` begins with."""
NORMALIZED = "--normalize-observations --normalize-rewards"
ON_POLICY = f"--n-steps 32 --net-arch 16 --value-batch-size 32 --checkpoint-every 250 {NORMALIZED}"
OFF_POLICY = (
    "--net-arch 16 --batch-size 16 --learning-starts 50 --kl-coef 0.1 --old-policy-period 100 --checkpoint-every 100"
)
SAC = "--net-arch 16 --batch-size 16 --learning-starts 50 --checkpoint-every 100"
TUNED = "--search n_epochs=1..4 learning_rate=log:1e-4..1e-2 --trials 3 --workers 1 --pruner none"
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
    verb: str = "train"
    several: str = ""
    """What makes several runs of it."""

    @property
    def name(self) -> str:
        which = f"{self.verb} {self.agent} {self.env} {self.backend} x{self.n_envs}"
        return f"{which} {self.several}".strip()

    @property
    def kind(self) -> str:
        """Of which as many cases are run as of each other."""
        return "several" if self.several else self.backend

    def arguments(self, folder: Path) -> list[str]:
        """Of the command that begins it in ``folder``."""
        where = f"--env {self.env} --backend {self.backend} --n-envs {self.n_envs} --total-timesteps {self.total}"
        agent = self.agent if self.verb == "train" else f"--agent {self.agent}"
        into = {"train": "--run-dir", "sweep": "--sweep-dir", "tune": "--tune-dir"}[self.verb]
        return f"{self.verb} {agent} {where} {self.options} {COMMON} {self.several} {into} {folder}".split()


CASES = (
    Case("mdpo", "HalfCheetah-v5", "gymnasium", 2, 4000, ON_POLICY),
    Case("off_policy_mdpo", "dm_control/cartpole-swingup", "gymnasium", 1, 600, OFF_POLICY),
    Case("mdpo", "HalfCheetah-v5", "envpool", 4, 4000, ON_POLICY),
    Case("off_policy_mdpo", "dm_control/cartpole-swingup", "envpool", 4, 1600, OFF_POLICY),
    Case("mdpo", "Pendulum-v1", "gymnasium", 2, 2000, ON_POLICY, several="--seeds 0..1"),
    Case("sac", "Pendulum-v1", "gymnasium", 1, 400, SAC, several="--seeds 0..1"),
    Case("mdpo", "Pendulum-v1", "gymnasium", 2, 1000, ON_POLICY, "sweep", "--set n_epochs=1,2 --workers 2"),
    Case("mdpo", "Pendulum-v1", "gymnasium", 2, 1000, ON_POLICY, "tune", TUNED),
)


# Lets SIGUSR1 write the stack of every thread: what a kill strikes can be seen from outside.
TRACED = """import faulthandler, os, signal
faulthandler.register(signal.SIGUSR1, open(os.path.join(os.environ["KILL_TEST_STACKS"], str(os.getpid())), "a"))
"""


def rlopt(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Starts the command line with ``arguments``, its output appended to ``log``, at the head of a process group."""
    (log.parent / "sitecustomize.py").write_text(TRACED)
    stacks(log).mkdir(exist_ok=True)
    paths = [str(log.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    traced = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "KILL_TEST_STACKS": str(stacks(log))}
    with open(log, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "rlopt.cli.main", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1", **traced},
            start_new_session=True,
        )


def stacks(log: Path) -> Path:
    """The folder of a file for each process, to which it writes its stacks."""
    return log.with_suffix(".stacks")


def reference(case: Case, folder: Path) -> float:
    """Trains without interruption into ``folder``; returns the seconds from the first file to the end."""
    process = rlopt(case.arguments(folder), folder.with_suffix(".log"))
    while process.poll() is None and not runs_in(folder):
        time.sleep(0.002)
    began = time.monotonic()
    if process.wait() != 0:
        raise SystemExit(f"the uninterrupted run failed:\n{folder.with_suffix('.log').read_text()[-2000:]}")
    return time.monotonic() - began


def killed_run(case: Case, folder: Path, seconds: float, rng: random.Random) -> list[str]:
    """Trains into ``folder`` with one to three kills; returns what each one interrupted."""
    kills: list[str] = []
    wanted, tries = rng.randint(1, MAX_KILLS), 0
    log = folder.with_suffix(".log")
    while len(kills) < wanted and tries < 20:
        tries += 1
        started = any((folder / name).exists() for name in BEGUN)
        process = rlopt(["resume", str(folder)] if started else case.arguments(folder), log)
        moment = kill_somewhere(process, folder, log, seconds, rng)
        if moment is not None:
            kills.append(moment)
        elif not kills:
            # It finished before the first kill: this run proves nothing, so begin again.
            shutil.rmtree(folder, ignore_errors=True)
            seconds *= 0.7
        else:
            break
    if rlopt(["resume", str(folder)], log).wait() != 0:
        raise RuntimeError(f"rlopt resume failed:\n{log.read_text()[-2000:]}")
    return kills


def kill_somewhere(
    process: subprocess.Popen[bytes], folder: Path, log: Path, seconds: float, rng: random.Random
) -> str | None:
    """Kills the process and its children at a random moment of its training; None if it ended first."""
    while process.poll() is None and not runs_in(folder):
        time.sleep(0.002)
    aim, skip = rng.choice(["checkpoint", "evaluation", "anywhere"]), rng.randint(0, 3)
    deadline = time.monotonic() + rng.uniform(0, seconds)
    was_there = False
    while process.poll() is None:
        if aim == "anywhere":
            if time.monotonic() >= deadline:
                break
        else:
            there = is_writing(folder) if aim == "checkpoint" else struck(process, log) == "evaluation"
            if there and not was_there:
                if skip == 0:
                    break
                skip -= 1
            was_there = there
        time.sleep(0.002)
    where = "checkpoint" if is_writing(folder) else struck(process, log)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.returncode != -signal.SIGKILL:
        return None
    if where == "training" and not any(list_checkpoints(run / "checkpoints") for run in runs_in(folder)):
        return "before the first checkpoint"
    return where


def struck(process: subprocess.Popen[bytes], log: Path) -> str:
    """What the processes are at: an evaluation, or training."""
    before: dict[Path, int] = {}
    for path in stacks(log).iterdir():
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(int(path.name)) == process.pid:  # no other that has its number now
                before[path] = path.stat().st_size
                os.kill(int(path.name), signal.SIGUSR1)
    time.sleep(0.003)
    evaluates = any(b"/rlopt/evaluation/" in path.read_bytes()[size:] for path, size in before.items())
    return "evaluation" if evaluates else "training"


def runs_in(folder: Path) -> list[Path]:
    """The run folders that are ``folder`` or lie in it."""
    patterns = ("config.json", "seed*/config.json", "*/seed*/config.json")
    return sorted(path.parent for pattern in patterns for path in folder.glob(pattern))


def is_writing(folder: Path) -> bool:
    """Whether a checkpoint of one of its runs is being written."""
    for run in runs_in(folder):
        with contextlib.suppress(OSError):
            if any(entry.name.startswith(".writing-") for entry in os.scandir(run / "checkpoints")):
                return True
    return False


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
            # Entries of the pending log are [name, value, ...]; times among them are not state.
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
    """What differs between the results of two folders of one run or several."""
    runs = [[run.relative_to(folder) for run in runs_in(folder)] for folder in (first, second)]
    if runs[0] != runs[1]:
        return [f"runs {', '.join(map(str, runs[0]))} and {', '.join(map(str, runs[1]))}"]
    found = [f"{run}: {what}" for run in runs[0] for what in compare_runs(first / run, second / run)]
    journals = [folder / "study.journal" for folder in (first, second)]
    if journals[0].exists() and trials(journals[0]) != trials(journals[1]):
        found.append("the trials of the search")
    return found


def compare_runs(first: Path, second: Path) -> list[str]:
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


def trials(journal: Path) -> list[Any]:
    """Settings, value and evaluations of each trial of a search."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    found = optuna.load_study(study_name=None, storage=storage).trials
    return [(trial.number, trial.params, trial.state, trial.value, trial.intermediate_values) for trial in found]


def one_run(case: Case, index: int, whole: Path, seconds: float, seed: int) -> dict[str, Any]:
    folder = whole.parent / f"run{index}"
    try:
        kills = killed_run(case, folder, seconds, random.Random(f"{seed}-{case.name}-{index}"))
        different = compare(whole, folder) if kills else ["was never killed"]
    except RuntimeError as error:
        kills, different = [], [str(error)]
    if not different:
        shutil.rmtree(folder, ignore_errors=True)
    return {"case": case.name, "kind": case.kind, "kills": kills, "different": different}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = list(dict.fromkeys(case.kind for case in CASES))
    parser.add_argument("--kind", choices=kinds, nargs="+", default=kinds, help="kinds of cases; default all")
    parser.add_argument("--runs", type=int, default=10, help="killed runs of each kind")
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
        for kind in arguments.kind:
            cases = [case for case in CASES if case.kind == kind][: arguments.runs]
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
    print("\n| what | cases | kills | while writing a checkpoint | in an evaluation | identical |\n" + "|---" * 6 + "|")
    for name in dict.fromkeys(result["case"] for result in results):
        rows = [result for result in results if result["case"] == name]
        kills = [kill for result in rows for kill in result["kills"]]
        same = sum(not result["different"] for result in rows)
        aimed = f"{kills.count('checkpoint')} | {kills.count('evaluation')}"
        print(f"| {name} | {len(rows)} | {len(kills)} | {aimed} | {same} of {len(rows)} |")
    same = sum(not result["different"] for result in results)
    print(f"\n{same} of {len(results)} killed cases are bit for bit the uninterrupted run ({seconds:.0f} s)")


if __name__ == "__main__":
    sys.exit(main())
