"""What the fuzz scripts share: counting outcomes, comparing states, seeing what was touched."""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass
class Report:
    """What became of the damaged files."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, kind: str, outcome: str, case: str) -> None:
        """Counts an outcome; one that begins with WRONG, CRASH or HANG is a failure, described by ``case``."""
        if outcome.startswith(("WRONG", "CRASH", "HANG")):
            self.failures.append(f"{case}: {outcome}")
            outcome = outcome.split(":")[0]
        self.outcomes[kind, outcome] += 1


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """The paths at which two trees differ in type or any bit."""
    if type(a) is not type(b):
        return [path]
    if isinstance(a, dict):
        return ([] if a.keys() == b.keys() else [path]) + [
            line for key in a.keys() & b.keys() for line in differences(a[key], b[key], f"{path}/{key}")
        ]
    if isinstance(a, (list, tuple)):
        parts = [line for i, (x, y) in enumerate(zip(a, b, strict=False)) for line in differences(x, y, f"{path}/{i}")]
        return parts if len(a) == len(b) else [path, *parts]
    if isinstance(a, torch.Tensor):
        a, b = a.numpy(), b.numpy()
    if isinstance(a, (np.ndarray, np.generic)):
        return [] if a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() else [path]
    return [] if repr(a) == repr(b) else [path]


def inventory(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Everything below ``folder`` with its mode, size and time of change."""
    return {
        str(path.relative_to(folder)): (info.st_mode, info.st_size, info.st_mtime_ns)
        for path in folder.rglob("*")
        for info in [path.lstat()]
    }


def table(report: Report) -> str:
    """The counts, a row a kind of damage."""
    kinds, outcomes = (sorted({pair[part] for pair in report.outcomes}) for part in (0, 1))
    width = max(map(len, kinds)) + 2
    lines = [f"{'damage':{width}}" + "".join(f"{outcome:>30}" for outcome in outcomes)]
    for kind in kinds:
        lines.append(f"{kind:{width}}" + "".join(f"{report.outcomes[kind, outcome] or '':>30}" for outcome in outcomes))
    totals = [sum(count for (_, out), count in report.outcomes.items() if out == outcome) for outcome in outcomes]
    return "\n".join([*lines, f"{'all':{width}}" + "".join(f"{total:>30}" for total in totals)])


def main(description: str, fuzz: Callable[..., Report], what: str, cases: int) -> int:
    """A fuzz script's command line: ``fuzz(cases, seed, folder, progress)``, a table, and the failures."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=cases)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    def progress(done: int) -> None:
        if done % 100 == 0:
            print(f"{done} of {arguments.cases}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        report = fuzz(arguments.cases, arguments.seed, Path(folder) / "fuzz", progress)
    print(table(report))
    print(*report.failures, sep="\n")
    print(f"{sum(report.outcomes.values())} damaged {what}, {len(report.failures)} failures")
    return 1 if report.failures else 0
