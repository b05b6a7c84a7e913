"""Everything about a GPU in a few minutes: correctness first, then each speed of the README, the most important first.

    python scripts/gpu_check.py --minutes 10     # a second call continues where the first stopped
    python scripts/gpu_check.py --table          # what is known, as Markdown
    python scripts/gpu_check.py --rehearse       # all of it in small, on a device that the CPU plays

A row has a time budget of its own. Its result is written to --out as soon as it is known, its output while it runs, so
that a run that is cut counts as far as it got. Rows that ran out of their time are tried again after all others.
``scripts/carry_wheels.py`` brings what is needed to a machine without network.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRETENDED = ROOT / "tests" / "helpers"
PATIENCE = 5
"""Times the budgets of a rehearsal."""
LEAST = 20.0
"""Seconds with which no row is begun any more."""
TESTS = (
    "tests/unit/optim/test_cuda_graphs.py",
    "tests/unit/optim/test_update.py",
    "tests/unit/imitation/test_ailboost_discriminator.py",
    "tests/unit/replay/test_weighted_replay.py",
)


@dataclass(frozen=True)
class Row:
    """One check."""

    name: str
    goal: str
    command: tuple[str, ...]
    """Arguments of Python."""
    seconds: float
    """The time budget."""
    small: tuple[str, ...] = ()
    """Arguments that are added for a rehearsal, where the last of equal flags holds."""
    simulates: bool = False
    """Whether it simulates on the device, which a pretended one cannot: a rehearsal does so on the CPU."""


def script(name: str, *arguments: str) -> tuple[str, ...]:
    return (f"scripts/{name}.py", "--device", "cuda", *arguments)


TINY = ("--rounds", "1", "--updates", "4", "--steps", "4")
ROWS = (
    Row(
        "captured steps",
        "equal to eager ones: every learner, stacked seeds, resume",
        ("-m", "pytest", "-q", "-x", *TESTS, "-k", "cuda or captured or gpu"),
        180,
        ("-k", "checkpoint or ppo"),
    ),
    Row(
        "warp parity",
        "dm_control's observations and rewards",
        script("check_warp", "--tasks", "cartpole-swingup", "walker-walk", "cheetah-run", "--steps", "300"),
        120,
        ("--tasks", "pendulum-swingup", "--steps", "5", "--worlds", "2"),
        simulates=True,
    ),
    Row(
        "off-policy",
        "15 x Stable-Baselines3's SAC",
        script("benchmark_off_policy", "--rounds", "3", "--updates", "2000", "--steps", "3000"),
        120,
        TINY,
    ),
    Row(
        "eight seeds",
        "at most 1.5 x the time of one",
        script("benchmark_seeds", "--rounds", "3", "--steps", "3000"),
        90,
        ("--rounds", "1", "--steps", "4", "--seeds", "2"),
    ),
    Row(
        "TD3+BC",
        "10 x a plain loop",
        script("benchmark_offline", "--rounds", "3", "--updates", "5000"),
        90,
        ("--rounds", "1", "--updates", "4", "--transitions", "2000"),
    ),
    Row(
        "simulation",
        "cheetah-run: 1M steps in 30 s; steps/s at 64, 512 and 4,096 worlds beside EnvPool",
        script("benchmark_warp", "--env", "dm_control/cheetah-run"),
        90,
        ("--worlds", "4", "--steps", "4", "--env", "dm_control/pendulum-swingup"),
        simulates=True,
    ),
    Row(
        "walker-walk on-policy",
        "900 within 60 s",
        script("benchmark_warp", "--env", "dm_control/walker-walk", "--train", "mdpo", "--target", "900"),
        120,
        ("--worlds", "4", "--train-steps", "64", "--env", "dm_control/pendulum-swingup"),
        simulates=True,
    ),
    Row(
        "AILBoost",
        "",
        script("benchmark_ailboost", "--boosting-rounds", "2", "--rounds", "2"),
        120,
        ("--rounds", "1", "--boosting-rounds", "1", "--phase-steps", "130", "--gradient-steps", "1"),
    ),
    Row(
        "pixels",
        "",
        script("benchmark_pixels", "--rounds", "3", "--share", "0.1", "--updates", "200"),
        120,
        ("--rounds", "1", "--share", "0.01", "--updates", "2", "--steps", "4"),
    ),
    Row(
        "on-policy",
        "",
        script("benchmark_on_policy", "--rounds", "3"),
        120,
        ("--rounds", "1", "--steps", "2048", "--peer-steps", "64", "--peer-n-steps", "64"),
    ),
    Row(
        "eight seeds, on-policy",
        "",
        script("benchmark_seeds", "--agent", "mdpo", "--preset", "mujoco/half_cheetah", "--steps", "102400"),
        120,
        ("--rounds", "1", "--steps", "2048", "--seeds", "2"),
    ),
    Row(
        "1M updates of TD3+BC",
        "at most 240 s",
        script("benchmark_offline", "--rounds", "0", "--whole", "1000000"),
        300,
        ("--whole", "8", "--transitions", "2000"),
    ),
    Row(
        "1M steps of cheetah-run",
        "at most 300 s",
        script("benchmark_off_policy", "--rounds", "0", "--whole", "dm_control/cheetah-run"),
        420,
        ("--whole-steps", "1010"),
    ),
)


class Results:
    """The folder of results: a JSON file and a log for each row.

    :param rehearsed: whether numbers mean nothing
    """

    def __init__(self, folder: Path, rehearsed: bool) -> None:
        self.folder, self.rehearsed = folder, rehearsed
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, row: Row) -> Path:
        return self.folder / f"{row.name.replace(' ', '_')}.json"

    def status(self, row: Row) -> str:
        path = self.path(row)
        return json.loads(path.read_text())["status"] if path.exists() else "not begun"

    def due(self) -> list[Row]:
        """Rows without a result, and after them those that were cut."""
        return [row for status in ("not begun", "cut") for row in ROWS if self.status(row) == status]

    def run(self, row: Row, seconds: float, environment: dict[str, str]) -> str:
        """Runs a row for at most ``seconds`` and writes its result; its status."""
        command, log = [sys.executable, *row.command], self.path(row).with_suffix(".log")
        if self.rehearsed:
            command += row.small
        if self.rehearsed and row.simulates:
            command[command.index("--device") + 1] = "cpu"
            environment = {name: value for name, value in environment.items() if name != "PRETENDED_CUDA"}
        begin, status = time.monotonic(), "cut"
        with log.open("w") as out:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                status = "passed" if process.wait(timeout=seconds) == 0 else "failed"
            except subprocess.TimeoutExpired:
                pass
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        lines = log.read_text(errors="replace").splitlines()
        result = {
            "row": row.name,
            "goal": row.goal,
            "status": status,
            "seconds": round(time.monotonic() - begin, 1),
            "rehearsed": self.rehearsed,
            "command": " ".join(["python", *command[1:]]),
            "output": lines[-40:],
        }
        partial = self.path(row).with_suffix(".tmp")
        partial.write_text(json.dumps(result, indent=1) + "\n")
        partial.replace(self.path(row))
        return status

    def table(self) -> str:
        """What is known, as Markdown."""
        lines = ["| row | goal | state |", "|---|---|---|"]
        lines += [f"| {row.name} | {row.goal or '-'} | {self._state(row)} |" for row in ROWS]
        for row in ROWS:
            if self.path(row).exists():
                result = json.loads(self.path(row).read_text())
                lines += ["", f"## {row.name}", f"`{result['command']}`", "", "```", *result["output"], "```"]
        return "\n".join(lines)

    def _state(self, row: Row) -> str:
        path = self.path(row)
        if not path.exists():
            return "unmeasured"
        result = json.loads(path.read_text())
        return f"{result['status']}, {result['seconds']:.0f} s{', rehearsed: no measurement' * result['rehearsed']}"


def pretended_device(folder: Path) -> dict[str, str]:
    """An environment in which every Python process finds a CUDA device that the CPU plays."""
    sys.path.insert(0, str(PRETENDED))
    from pretended_cuda.build import build_device

    library = build_device(folder / "device.so")
    (folder / "sitecustomize.py").write_text(
        "import os\nif 'PRETENDED_CUDA' in os.environ:\n    import pretended_cuda.plugin\n"
    )
    paths = [str(folder), str(PRETENDED), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PRETENDED_CUDA": str(library), "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="folder of the results")
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], help="these only, also again")
    parser.add_argument("--table", action="store_true", help="only print what is known")
    parser.add_argument("--rehearse", action="store_true", help="in small, on a device that the CPU plays")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    results = Results(args.out, args.rehearse)
    if not args.table:
        with tempfile.TemporaryDirectory() as scratch:
            environment = pretended_device(Path(scratch)) if args.rehearse else {**os.environ}
            for row in [row for row in ROWS if row.name in args.rows] if args.rows else results.due():
                left = deadline - time.monotonic()
                if left < LEAST:
                    break
                budget = row.seconds * (PATIENCE if args.rehearse else 1)
                status = results.run(row, min(budget, left), environment)
                print(f"{row.name}: {status}", flush=True)
    print(results.table())
    sys.exit(any(results.status(row) == "failed" for row in ROWS))


if __name__ == "__main__":
    main()
