"""Carries wheels to a machine without network in portions of bounded size.

    python scripts/carry_wheels.py build carried       # here: what `pip install '.[fast,warp]'` and the tests need
    python scripts/carry_wheels.py list carried        # bytes, file, portions
    python scripts/carry_wheels.py install carried --python .venv/bin/python       # there, all portions in one folder

``carried/portion-000``, ``-001``, ... are folders of at most 64 MiB each, to be copied one after the other. A wheel
that is larger is split; ``manifest.json``, in every portion, says what belongs together and its SHA-256. Both machines
need the same version of Python and processor. Arguments that are not listed here go to ``pip wheel``, such as
``--index-url``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MIB = 2**20
MANIFEST = "manifest.json"
ROOM = 64 * 1024
"""Bytes of a portion that are kept for the manifest."""
NEEDED = ("torch", ".[fast,warp]", "pytest", "hypothesis", "gymnasium-robotics", "h5py", "minari[hdf5]", "sb3-contrib")


def split(wheels: Path, folder: Path, limit: int) -> None:
    """Writes the files of ``wheels`` to portions of at most ``limit`` bytes in ``folder``, which is new or empty."""
    room = limit - ROOM
    manifest: dict[str, dict] = {}
    number, used = 0, 0
    for wheel in sorted(wheels.iterdir()):
        data = wheel.read_bytes()
        parts = [data[start : start + room] for start in range(0, len(data), room)] or [b""]
        places = []
        for index, part in enumerate(parts):
            if used + len(part) > room:
                number, used = number + 1, 0
            portion = folder / f"portion-{number:03}"
            portion.mkdir(parents=True, exist_ok=True)
            name = wheel.name if len(parts) == 1 else f"{wheel.name}.part{index:03}"
            (portion / name).write_bytes(part)
            used += len(part)
            places.append(f"{portion.name}/{name}")
        manifest[wheel.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "parts": places}
    text = json.dumps(manifest, indent=1) + "\n"
    if len(text) > ROOM:
        sys.exit(f"the manifest takes {len(text)} bytes: give a larger --portion")
    for portion in folder.glob("portion-*"):
        (portion / MANIFEST).write_text(text)


def read_manifest(folder: Path) -> dict[str, dict]:
    found = next(iter(sorted(folder.glob(f"portion-*/{MANIFEST}"))), None)
    if found is None:
        sys.exit(f"{folder} has no portion with a {MANIFEST}: build it, or copy the portions there")
    manifest: dict[str, dict] = json.loads(found.read_text())
    return manifest


def join(folder: Path, wheels: Path) -> None:
    """Puts the wheels of ``folder`` together in ``wheels``; ends with the name of what is missing or damaged."""
    for name, entry in read_manifest(folder).items():
        missing = [part for part in entry["parts"] if not (folder / part).is_file()]
        if missing:
            sys.exit(f"{name} lacks {', '.join(missing)}: copy that portion too")
        with (wheels / name).open("wb") as whole:
            for part in entry["parts"]:
                with (folder / part).open("rb") as piece:
                    shutil.copyfileobj(piece, whole)
        with (wheels / name).open("rb") as whole:
            if hashlib.file_digest(whole, "sha256").hexdigest() != entry["sha256"]:
                sys.exit(f"{name} is damaged: copy {', '.join(entry['parts'])} again")


def make_wheels(wheels: Path, options: list[str]) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--wheel-dir", str(wheels), "--constraint", "constraints.txt"]
    subprocess.run([*command, *options, *NEEDED], check=True)


def install(wheels: Path, python: str) -> None:
    command = [python, "-m", "pip", "install", "--no-index", "--find-links", str(wheels)]
    subprocess.run([*command, *(str(path) for path in wheels.glob("*.whl"))], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["build", "list", "install"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--portion", type=int, default=64, help="MiB of a portion at most")
    parser.add_argument("--wheels", type=Path, help="build: these files, instead of downloading")
    parser.add_argument("--python", default=sys.executable, help="install: the interpreter")
    args, options = parser.parse_known_args()
    if args.verb == "list":
        for name, entry in read_manifest(args.folder).items():
            print(f"{entry['bytes']:>12,}  {name}  {', '.join(part.split('/')[0] for part in entry['parts'])}")
        return
    with tempfile.TemporaryDirectory() as scratch:
        wheels = args.wheels or Path(scratch)
        if args.verb == "build":
            if args.folder.exists() and any(args.folder.iterdir()):
                sys.exit(f"{args.folder} is not empty: give a new folder")
            if args.wheels is None:
                make_wheels(wheels, options)
            split(wheels, args.folder, args.portion * MIB)
        else:
            join(args.folder, Path(scratch))
            install(Path(scratch), args.python)


if __name__ == "__main__":
    main()
