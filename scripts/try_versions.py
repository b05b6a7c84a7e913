"""Install rlopt with the newest and the oldest versions of its dependencies that pyproject.toml allows, and use it.

Each goes into an environment of its own below FOLDER, which takes some gigabytes and minutes:

    python scripts/try_versions.py FOLDER                      # newest, then oldest
    python scripts/try_versions.py FOLDER oldest --extras fast onnx --python python3.12
    python scripts/try_versions.py FOLDER newest --tests tests/unit/envs tests/cli/test_command.py

With --debian it does so in a Debian of its own, with that Debian's Python (3.13 in trixie), which needs root and
debootstrap; pip's settings are taken along, and --bind names the folders of this machine that they name:

    python scripts/try_versions.py FOLDER newest --debian trixie
"""

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Only the standard library is imported: a fresh Debian has nothing else.
KINDS = ("newest", "oldest")
_LOWEST = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?\s*>=\s*([0-9][0-9A-Za-z.]*)")
COMMANDS = (
    "--version",
    "train mdpo --env Pendulum-v1 --total-timesteps 1024 --eval-every 512 --eval-episodes 2 --run-dir on",
    "train sac --env Pendulum-v1 --total-timesteps 600 --learning-starts 100 --compile off --run-dir off",
    "resume on --total-timesteps 2048",
    "evaluate off --episodes 2",
    "evaluate rlopt/pendulum --episodes 4",
    "plot on --out curve.pdf",
    "compare on off --mix-budgets --normalise min-max --out both.svg",
    "doctor",
)
"""What is used of it; each must end with 0."""
DEBIAN = "ca-certificates,python3,python3-venv,python3-dev,g++,git,libegl1,libopengl0,libgl1-mesa-dri"
"""Packages of a Debian that rlopt is tried in."""


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


def try_kind(kind: str, folder: Path, python: str, extras: list[str], tests: Sequence[str] = ()) -> int:
    """Installs and uses one kind, and runs ``tests``; returns the exit code of what failed, 0 if nothing did."""
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
    if not tests:
        return 0
    if code := subprocess.run([*pip, "-e", f"{ROOT}[{','.join([*extras, 'test'])}]"]).returncode:
        return code
    return subprocess.run([str(inside), "-m", "pytest", "-q", "-n", "2", *tests], cwd=ROOT).returncode


def try_in_debian(suite: str, folder: Path, binds: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs this script with ``arguments`` in a Debian below ``folder``, which is made if it is not there."""
    system = folder / suite
    if not (system / "usr/bin/python3").exists():
        subprocess.run(["debootstrap", "--variant=minbase", f"--include={DEBIAN}", suite, str(system)], check=True)
    for path in (Path("/etc/pip.conf"), Path("/etc/resolv.conf"), Path("/etc/ssl/certs/ca-certificates.crt"),
                 Path.home() / ".config/pip/pip.conf"):  # fmt: skip
        if path.exists():
            (system / path.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, system / path.relative_to("/"))
    shutil.rmtree(system / "srv/rlopt", ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(system / "srv/rlopt")], check=True)
    with ExitStack() as mounted:
        for path in ("/proc", "/sys", "/dev", *binds):
            (system / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--bind", path, str(system / path.lstrip("/"))], check=True)
            mounted.callback(subprocess.run, ["umount", str(system / path.lstrip("/"))])
        command = ["python3", "/srv/rlopt/scripts/try_versions.py", "/srv/tried", *arguments]
        return subprocess.run(["chroot", str(system), *command]).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"default: {' '.join(KINDS)}")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environments")
    parser.add_argument("--extras", nargs="*", default=["fast"], help="default: fast")
    parser.add_argument("--tests", nargs="*", default=[], metavar="PATH", help="tests to run too")
    parser.add_argument("--debian", metavar="SUITE", help="try it in this Debian, such as trixie")
    parser.add_argument("--bind", nargs="*", default=[], metavar="DIR", help="folders that the Debian sees too")
    arguments = parser.parse_args()
    kinds = arguments.kinds or list(KINDS)
    if unknown := sorted(set(kinds) - set(KINDS)):
        parser.error(f"{unknown[0]}: known are {', '.join(KINDS)}")
    folder, extras, tests = arguments.folder.resolve(), arguments.extras, arguments.tests
    if arguments.debian:
        inner = [*kinds, "--extras", *extras, "--tests", *tests]
        return try_in_debian(arguments.debian, folder, arguments.bind, inner)
    codes = {kind: try_kind(kind, folder, arguments.python, extras, tests) for kind in kinds}
    for kind, code in codes.items():
        print(f"{kind}: {'works' if code == 0 else 'fails'}")
    return max(codes.values())


if __name__ == "__main__":
    sys.exit(main())
