"""Run a peer's own test-suite with rlopt's classes in the place of the peer's.

The argument is a checkout of Stable-Baselines3 or sb3-contrib, at a version near the installed one; nothing is fetched.
Each replacement, such as PPO=MDPO, is a run of pytest of its own: before the peer's tests are imported, this module,
as a plugin, puts rlopt's class under the peer's name, and it leaves out the tests that do not use that name. The table
says how many passed, and each failure has its line. Those in ACCEPTED are differences that are meant, with the reason;
any other failure makes the exit status 1. A test module that cannot be imported is a failure too: install what the
peer's tests need besides (Stable-Baselines3's: ale-py and opencv-python).

    python scripts/run_peer_tests.py ~/src/stable-baselines3
    python scripts/run_peer_tests.py ~/src/stable-baselines3 --replace SAC=OffPolicyMDPO -k save_load
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import pytest

REPLACEMENTS = {
    "stable_baselines3": (
        "PPO=PPO",
        "PPO=MDPO",
        "A2C=MDPO",
        "SAC=SAC",
        "SAC=OffPolicyMDPO",
        "TD3=SAC",
        "TD3=OffPolicyMDPO",
    ),
    "sb3_contrib": ("TRPO=MDPO", "TQC=SAC", "TQC=OffPolicyMDPO", "CrossQ=SAC"),
}
"""Those of classes that do the same kind of work: DQN, QRDQN, masked and recurrent policies have no counterpart."""

_OWN_ERROR = "refused as well, with an error of rlopt's own that is not an AssertionError"
_ABSENT = "the test is of something that only the peer's algorithm has"
_BUDGET = "the test's few steps are enough for the peer's algorithm and its defaults, not for MDPO's"
_DEVICE = "a device that is not there is refused; the peer takes the CPU in its place"
_ROWS = "rows of the replay buffer lie on the training device, here one that is not there"
_EXTRACTORS = "extractors are apart, which Stable-Baselines3's policy.save does not keep: its PPO fails it then as well"
_BEFORE_1_7 = (
    "a zip of before Stable-Baselines3 1.7, which lacks an extractor, is refused and not loaded with a warning"
)
_NAME = "the folder of the log bears the name of the class, which is another one"
ACCEPTED: tuple[tuple[str, str, str, str], ...] = (
    ("*", "test_dict_env.py::test_dict_nested", "*SpaceError*", _OWN_ERROR),
    ("*", "test_run.py::test_ppo?-0.2*", "*ConfigError: clip_range_vf = -0.2*", _OWN_ERROR),
    ("*", "test_spaces.py::test_action_spaces?CartPole*", "*SpaceError*", _OWN_ERROR),
    ("*=MDPO", "test_identity.py::*", "*Mean reward below threshold*", _BUDGET),
    ("A2C=MDPO", "test_gae.py::test_infinite_horizon*", "*", _BUDGET),
    ("A2C=MDPO", "test_save_load.py::test_save_load_env_cnn*", "*DID NOT WARN*", _BEFORE_1_7),
    ("*=MDPO", "*_warnings", "*DID NOT RAISE*", "a rollout of one step is allowed: one advantage is not normalised"),
    ("PPO=*", "test_save_load.py::*", "*'clip_range'*", _ABSENT),
    ("*=MDPO", "test_save_load.py::test_save_load_policy*Cnn*", "*parameters not the same*", _EXTRACTORS),
    ("TD3=*", "*", "*'policy_delay'*", _ABSENT),
    ("TD3=*", "*", "*'actor_target'*", _ABSENT),
    ("TD3=*", "test_save_load.py::test_save_load_env_cnn*", "*'use_sde'*", "Stable-Baselines3's SAC fails it as well"),
    ("TRPO=*", "*", "*'cg_max_steps'*", _ABSENT),
    ("TRPO=*", "*", "*'sub_sampling_factor'*", _ABSENT),
    ("TQC=*", "*", "*'n_quantiles'*", _ABSENT),
    ("CrossQ=*", "*", "*'renorm_warmup_steps'*", _ABSENT),
    ("*", "test_tensorboard.py::test_tensorboard*", "*", _NAME),
    ("*", "test_save_load.py::test_save_load?*", "*device 'cuda' is not usable*", _DEVICE),
    ("*", "test_save_load.py::test_save_load_replay_buffer*", "*[Cc][Uu][Dd][Aa]*", _ROWS),
)
"""Replacement, test and problem, each a pattern of fnmatch, and why the test may fail with that problem."""


class Outcome(NamedTuple):
    """What became of one test: ``problem`` is empty where it passed."""

    test: str
    problem: str


# ---- the plugin of pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--replace-class", metavar="PACKAGE:NAME=CLASS")


def pytest_configure(config: pytest.Config) -> None:
    package, _, replacement = config.getoption("--replace-class").partition(":")
    name, _, own = replacement.partition("=")
    setattr(importlib.import_module(package), name, _class(own))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    own = _class(config.getoption("--replace-class").partition("=")[2])
    items[:] = [item for item in items if isinstance(item, pytest.Function) and _uses(item, own)]


def _class(name: str) -> type:
    found: type = getattr(importlib.import_module("rlopt"), name)
    return found


def _uses(item: pytest.Function, own: type) -> bool:
    """Whether a test is one of ``own``: by its parameters where they say so, or else by the names in its code."""
    from stable_baselines3.common.base_class import BaseAlgorithm

    parameters = list(item.callspec.params.values()) if hasattr(item, "callspec") else []
    for value in [*parameters]:
        named = [table[value] for table in _tables(item.function) if isinstance(value, str) and value in table]
        parameters += [part for entry in named for part in (entry if isinstance(entry, tuple) else (entry,))]
    classes = [value for value in parameters if isinstance(value, type) and issubclass(value, BaseAlgorithm)]
    return own in classes if classes else any(value is own for value in _globals_of(item.function))


def _tables(function: FunctionType) -> list[dict[Any, Any]]:
    return [value for value in _globals_of(function) if isinstance(value, dict)]


def _globals_of(function: FunctionType) -> Iterator[Any]:
    """What the names in a function, and in the functions of its module that it calls, stand for."""
    codes: list[CodeType] = [function.__code__]
    seen: set[str] = set()
    while codes:
        code = codes.pop()
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        for name in {*code.co_names} - seen:
            seen.add(name)
            value = function.__globals__.get(name)
            yield value
            if isinstance(value, FunctionType) and value.__module__ == function.__module__:
                codes.append(value.__code__)


# ---- the runner


def peer_of(checkout: Path) -> str:
    """The package whose checkout this is."""
    for package in REPLACEMENTS:
        if (checkout / package).is_dir() and (checkout / "tests").is_dir():
            return package
    raise SystemExit(f"{checkout} is not a checkout of {' or '.join(REPLACEMENTS)}: give the folder that holds tests/")


def run(checkout: Path, package: str, replacement: str, keyword: str) -> list[Outcome]:
    """The outcomes of the peer's tests with ``replacement``, such as "PPO=MDPO"; skipped ones are left out."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        plugin = ["-p", Path(__file__).stem, f"--replace-class={package}:{replacement}", "-p", "no:cacheprovider"]
        chosen = [str(checkout / "tests"), "-m", "not expensive", "-k", keyword, "--continue-on-collection-errors"]
        written = [f"--junitxml={report}", "-o", "junit_family=xunit1"]
        command = [sys.executable, "-m", "pytest", "-q", *plugin, *chosen, *written]
        folders = [str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, folders))}
        # Not in the checkout, whose package would be imported in place of the installed one.
        done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
        if not report.exists():
            raise SystemExit(done.stdout + done.stderr)
        return list(_outcomes(ElementTree.parse(report)))


def _outcomes(report: Any) -> Iterator[Outcome]:
    for case in report.iter("testcase"):
        if case.find("skipped") is not None:
            continue
        problem = case.find("failure")
        problem = case.find("error") if problem is None else problem
        message = "" if problem is None else " ".join((problem.get("message") or "failed").split())[:200]
        file = case.get("classname").rpartition(".")[2]
        yield Outcome(f"{file}.py::{case.get('name')}" if file else case.get("name"), message)


def reason_of(replacement: str, outcome: Outcome) -> str | None:
    """Why this test may fail as it did; None if it must pass."""
    found = (replacement, *outcome)
    return next((why for *row, why in ACCEPTED if all(map(fnmatchcase, found, row))), None)


def show(replacement: str, outcomes: list[Outcome]) -> int:
    """Prints the table of one replacement and its failures; returns how many of those are not accepted."""
    files: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        files[outcome.test.partition("::")[0]].append(outcome)
    print(f"\n{replacement}: {sum(not o.problem for o in outcomes)} of {len(outcomes)} passed")
    for name, rows in sorted(files.items()):
        print(f"  {name:32} {sum(not row.problem for row in rows):4} of {len(rows)}")
    failures = [outcome for outcome in outcomes if outcome.problem]
    reasons = [reason_of(replacement, outcome) for outcome in failures]
    for (test, problem), reason in zip(failures, reasons, strict=True):
        print(f"  FAILED {test}: {problem}" if reason is None else f"  accepted {test}: {reason}")
    return reasons.count(None)


def main() -> int:
    """Runs what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="a checkout of Stable-Baselines3 or sb3-contrib")
    parser.add_argument("--replace", action="append", metavar="NAME=CLASS", help="by default all that make sense")
    parser.add_argument("-k", dest="keyword", default="", help="as pytest's: only tests that match")
    args = parser.parse_args()
    checkout = args.checkout.resolve()
    package = peer_of(checkout)
    print(f"tests of {checkout} with {package.replace('_', '-')} {version(package)}")
    unexpected = 0
    for replacement in args.replace or REPLACEMENTS[package]:
        unexpected += show(replacement, run(checkout, package, replacement, args.keyword))
        sys.stdout.flush()
    print(f"\n{unexpected} failures that are not accepted" if unexpected else "\nno failure that is not accepted")
    return int(unexpected > 0)


if __name__ == "__main__":
    sys.exit(main())
