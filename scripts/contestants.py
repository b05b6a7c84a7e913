"""What the benchmarks of training speed share: each contestant in a process of its own, in turn, round after round.

So a machine whose speed drifts slows all alike, and ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence


def serve(tasks: Mapping[str, Callable[[int], None]], wait: Callable[[], None]) -> None:
    """A worker's loop: reads lines "task count", calls the task and ``wait`` (for the device), writes the rate."""
    print("ready", flush=True)
    for line in sys.stdin:
        task, count = line.split()
        start = time.perf_counter()
        tasks[task](int(count))
        wait()
        print(int(count) / (time.perf_counter() - start), flush=True)


class Contestant:
    """A worker process: ``python script --worker name flags...``, which is to call :func:`serve`."""

    def __init__(self, name: str, python: str, script: str, flags: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [python, script, "--worker", name, *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        while self._read() != "ready":
            pass

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit("a contestant stopped, see its error above")
        return line.strip()

    def rate(self, task: str, count: int) -> float:
        """How many a second the contestant does of ``task``."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{task} {count}\n")
        self._process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def race(
    contestants: Mapping[str, Contestant], tasks: Mapping[str, int], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Rates by task and contestant, one a round; ``tasks`` tells how many of each task a round takes."""
    rates: dict[str, dict[str, list[float]]] = {task: {name: [] for name in contestants} for task in tasks}
    for number in range(rounds):
        for task, count in tasks.items():
            for name, contestant in contestants.items():
                rates[task][name].append(contestant.rate(task, count))
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    for contestant in contestants.values():
        contestant.close()
    return rates


def table(rates: Mapping[str, Mapping[str, Sequence[float]]], ours: str = "rlopt") -> str:
    """Medians with their range, and our ratio to each contestant, taken round by round."""
    lines = [f"{'task':10}{'contestant':14}{'median /s':>11}{'min':>11}{'max':>11}   {ours} / contestant (range)"]
    for task, rows in rates.items():
        for name, values in rows.items():
            ratios = sorted(own / theirs for own, theirs in zip(rows[ours], values, strict=True))
            ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
            shown = [statistics.median(values), min(values), max(values)]
            lines.append(f"{task:10}{name:14}" + "".join(f"{value:>11.1f}" for value in shown) + f"   {ratio}")
    return "\n".join(lines)


def common_flags(parser: argparse.ArgumentParser, contestants: Sequence[str]) -> None:
    """Adds the flags that every such benchmark has."""
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", choices=contestants, help=argparse.SUPPRESS)
