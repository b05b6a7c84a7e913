"""Contestants of a benchmark, each in a process of its own, working in turn: a machine that drifts slows all alike.

A worker prints "ready", then answers every line "task count" with a rate: :func:`serve` on its side,
:class:`Contestant` on the other. Ratios are taken within a round.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Rates = dict[str, dict[str, list[float]]]
"""Task -> contestant -> a rate for each round."""


def serve(tasks: Mapping[str, Callable[[int], float]]) -> None:
    """Answers requests on standard input until it closes.

    :param tasks: each does ``count`` units of work and returns how many it has done
    """

    def rate(task: str, count: str) -> float:
        start = time.perf_counter()
        done = tasks[task](int(count))
        return done / (time.perf_counter() - start)

    print("ready", flush=True)
    for line in sys.stdin:
        print(rate(*line.split()), flush=True)


class Contestant:
    """A worker process, which has built what it works with once this returns.

    :param command: starts the worker, which calls :func:`serve`
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while self._read() != "ready":
            pass

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit("a contestant stopped, see its error above")
        return line.strip()

    def rate(self, task: str, count: int) -> float:
        """Units of ``task`` per second over ``count`` of them."""
        return float(self.ask(f"{task} {count}"))

    def ask(self, line: str) -> str:
        """The worker's answer to a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def race_parser(description: str | None, contestants: Iterable[str], rounds: int = 5) -> argparse.ArgumentParser:
    """The options that races have in common; ``--worker NAME`` is what :func:`worker_command` adds."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="default: cpu; for pixels also cuda where there is one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--out", type=Path, help="also write the result as JSON")
    parser.add_argument("--worker", choices=list(contestants), help=argparse.SUPPRESS)
    return parser


def worker_command(name: str, *flags: str, python: str = sys.executable) -> list[str]:
    """Starts the script that runs as the worker of a contestant, with its own options and ``flags``."""
    return [python, *sys.argv, *flags, "--worker", name]


def write_result(args: argparse.Namespace, **measured: Any) -> None:
    """Writes what was measured, and with which options, to ``--out``, if that was given."""
    if args.out:
        settings = {name: str(value) for name, value in vars(args).items()}
        args.out.write_text(json.dumps({"settings": settings, **measured}, indent=1) + "\n")


def compete(commands: Mapping[str, Sequence[str]], counts: Mapping[str, int], rounds: int) -> Rates:
    """The rates of every contestant in ``counts[task]`` units of every task, round after round."""
    contestants = {name: Contestant(command) for name, command in commands.items() if rounds}
    rates: Rates = {task: {name: [] for name in contestants} for task in counts}
    for number in range(rounds):
        for task, count in counts.items():
            for name, contestant in contestants.items():
                rates[task][name].append(contestant.rate(task, count))
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    for contestant in contestants.values():
        contestant.close()
    return rates


def table(rates: Rates, ours: str) -> str:
    """Medians with their range, and the ratio of ``ours`` to each contestant, taken round by round."""
    width = max(len(name) for rows in rates.values() for name in rows) + 2
    title = f"{ours} / contestant (range)"
    lines = [f"{'task':10}{'contestant':{width}}{'median /s':>11}{'min':>11}{'max':>11}   {title}"]
    for task, rows in rates.items():
        for name, values in rows.items():
            ratios = sorted(own / other for own, other in zip(rows[ours], values, strict=True))
            ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
            shown = [statistics.median(values), min(values), max(values)]
            lines.append(f"{task:10}{name:{width}}" + "".join(f"{value:>11.1f}" for value in shown) + f"   {ratio}")
    return "\n".join(lines)
