"""Run the examples of a peer's documentation with rlopt's class in the place of the peer's.

The argument is a checkout of Stable-Baselines3 or sb3-contrib, at a version near the installed one; nothing is
fetched. Every block of Python in its docs/ that names the replaced class is run as a program of its own: once as it
stands and once with ours. ``learn`` is cut to ``--steps`` steps, and a block that still runs after ``--limit`` seconds
of processor time (many show a policy for ever), or ten times as long, counts as one that runs. Blocks that do not run
with the peer itself are left out: they are fragments, or need packages, programs or accounts that are not here. The
exit status is 1 if one fails with ours alone.

    python scripts/run_peer_examples.py ~/src/stable-baselines3 --replace PPO=MDPO
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from run_peer_tests import peer_of

_BLOCK = re.compile(r"^( *)```\{?(?:code-block\}? )?python\}?[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def blocks(docs: Path, name: str) -> Iterator[tuple[str, str]]:
    """Place and text of each block of Python that names the class."""
    for page in sorted(docs.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        for found in _BLOCK.finditer(text):
            code = re.sub(rf"^{found[1]}", "", found[2], flags=re.MULTILINE)
            if re.search(rf"\b{name}\b", code):
                yield f"{page.relative_to(docs)}:{text.count(chr(10), 0, found.start()) + 1}", code


def run_block(path: str, replacement: str, steps: int, limit: int) -> None:
    """Runs a block in this process; ``replacement`` is PACKAGE:NAME=CLASS, or empty for the peer's own."""
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

    for base in (OnPolicyAlgorithm, OffPolicyAlgorithm):
        _shorten(base, steps)
    if replacement:
        package, _, names = replacement.partition(":")
        name, _, own = names.partition("=")
        setattr(importlib.import_module(package), name, getattr(importlib.import_module("rlopt"), own))
    runpy.run_path(path, run_name="__main__")


def _shorten(base: Any, steps: int) -> None:
    learn = base.learn

    def short(self: Any, total_timesteps: int, *args: Any, **kwargs: Any) -> Any:
        return learn(self, min(int(total_timesteps), steps), *args, **kwargs)

    base.learn = short


def problem(code: str, replacement: str, args: argparse.Namespace) -> str:
    """The last line of the error of a block; empty where it runs."""
    with tempfile.TemporaryDirectory() as scratch:
        block = Path(scratch) / "block.py"
        block.write_text(code, encoding="utf-8")
        environment = os.environ | {"SDL_VIDEODRIVER": "dummy", "MPLBACKEND": "Agg"}
        folders = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
        flags = ["--block", str(block), "--steps", str(args.steps), "--limit", str(args.limit)]
        command = [sys.executable, __file__, *flags, replacement]
        try:
            done = subprocess.run(
                command,
                cwd=scratch,
                env=environment,
                capture_output=True,
                text=True,
                timeout=10 * args.limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return ""
        if done.returncode == -signal.SIGXCPU:
            return ""
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return lines[-1] if done.returncode else ""


def main() -> int:
    """Runs what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", help="a checkout of Stable-Baselines3 or sb3-contrib")
    parser.add_argument("--replace", action="append", metavar="NAME=CLASS", help="default: PPO=PPO, PPO=MDPO, SAC=SAC")
    parser.add_argument("--steps", type=int, default=1000, help="the most that learn is asked for")
    parser.add_argument("--limit", type=int, default=60, help="seconds of processor time for one block")
    parser.add_argument("--block", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.block:
        run_block(args.block, args.checkout, args.steps, args.limit)
        return 0
    checkout = Path(args.checkout).resolve()
    package = peer_of(checkout)
    worse = 0
    for replacement in args.replace or ["PPO=PPO", "PPO=MDPO", "SAC=SAC"]:
        found = [
            (place, problem(code, "", args), problem(code, f"{package}:{replacement}", args))
            for place, code in blocks(checkout / "docs", replacement.partition("=")[0])
        ]
        alone = [(place, ours) for place, theirs, ours in found if ours and not theirs]
        fine = sum(not theirs for _, theirs, _ in found)
        print(f"{replacement}: {fine - len(alone)} of the {fine} examples that run with the peer", flush=True)
        for place, reason in alone:
            print(f"  FAILED {place}: {reason}")
        for place, theirs, _ in found:
            if theirs:
                print(f"  left out {place}: with the peer, {theirs}")
        worse += len(alone)
    return int(worse > 0)


if __name__ == "__main__":
    sys.exit(main())
