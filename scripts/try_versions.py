"""Install rlopt with the newest and the oldest versions of its dependencies that pyproject.toml allows, and use it.

Each goes into an environment of its own below FOLDER, which takes some gigabytes and minutes:

    python scripts/try_versions.py FOLDER                      # newest, then oldest
    python scripts/try_versions.py FOLDER oldest --extras fast onnx --python python3.12
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from reproduction import ROOT

KINDS = ("newest", "oldest")
_LOWEST = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?\s*>=\s*([0-9][0-9A-Za-z.]*)")
COMMANDS = (
    "--version",
    "train mdpo --env CartPole-v1 --total-timesteps 1024 --eval-every 512 --eval-episodes 2 --run-dir on",
    "train sac --env Pendulum-v1 --total-timesteps 300 --learning-starts 100 --compile off --run-dir off",
    "resume on --total-timesteps 2048",
    "evaluate off --episodes 2",
    "evaluate rlopt/pendulum --episodes 4",
    "plot on --out curve.pdf",
    "compare on off --mix-tasks --mix-budgets --normalise min-max --out both.svg",
    "doctor",
)
"""What is used of it; each must end with 0."""


def lowest_versions(extras: list[str]) -> list[str]:
    """The lowest allowed version of each dependency, of the package and of ``extras``, as constraints of pip.

    Where a bound names no patch, it is any patch of that version: the first may never have been released.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    found = [_LOWEST.match(requirement) for requirement in wanted]
    return [f"{match[1]}=={match[2]}{'' if match[2].count('.') > 1 else '.*'}" for match in found if match]


def try_kind(kind: str, folder: Path, python: str, extras: list[str]) -> int:
    """Installs and uses one kind; returns the exit code of what failed, 0 if nothing did."""
    place = folder / kind
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run([python, "-m", "venv", "--clear", str(place / "venv")], check=True)
    inside = place / "venv" / "bin" / "python"
    limits: list[str] = []
    if kind == "oldest":
        (place / "oldest.txt").write_text("\n".join(lowest_versions(extras)) + "\n")
        limits = ["-c", str(place / "oldest.txt")]
    name = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    pip = [str(inside), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *limits]
    if code := subprocess.run([*pip, name]).returncode:
        print(f"{kind}: pip found no set of versions", file=sys.stderr)
        return code
    for command in COMMANDS:
        print(f"{kind}$ rlopt {command}", flush=True)
        if code := subprocess.run([str(inside), "-m", "rlopt", *command.split()], cwd=place).returncode:
            print(f"{kind}: rlopt {command} ended with {code}", file=sys.stderr)
            return code
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"default: {' '.join(KINDS)}")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environments")
    parser.add_argument("--extras", nargs="*", default=["fast"], help="default: fast")
    arguments = parser.parse_args()
    kinds = arguments.kinds or list(KINDS)
    if unknown := sorted(set(kinds) - set(KINDS)):
        parser.error(f"{unknown[0]}: known are {', '.join(KINDS)}")
    codes = {kind: try_kind(kind, arguments.folder.resolve(), arguments.python, arguments.extras) for kind in kinds}
    for kind, code in codes.items():
        print(f"{kind}: {'works' if code == 0 else 'fails'}")
    return max(codes.values())


if __name__ == "__main__":
    sys.exit(main())
