"""Private words that the field has another word for: where one stands, a line says which. ``make lint`` runs it.

``python scripts/check_vocabulary.py [FILE ...]``; exit code 1 where a word was found.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

WORDS: dict[str, str] = {
    r"slow (copy|copies)": "target network",
    r"move_slow_copy": "polyak_update",
    r"(?<![\w\"])laws?(?![\w\"])": "distribution",  # "laws", quoted, is a name in files of version 0.1
    r"(stationary|irreducible)_law": "stationary_distribution",
    r"\b(?!Hardswish)\w*([Ww]ish|wishes)\b": "request",
    r"\bcompany(_size)?\b": "other runs",
    r"\bstrangers?\b": "unknown names, other people",
    r"\b(Desk|Bench)(View)?\b|\bdesks?(_view)?\b": "RaterSession, TrainerSession",
    r"LazyOptimist": "OptimisticAgent",
    r"\bundisturbed\b": "uninterrupted, isolated",
    r"speaks? and hears?": "console output and signals",
    r"\bsealed\b|_sealed\b|\bSealed": "checked",
    r"rlopt\.(turns|claims|tree|comparable|placeholder)\b": "the module's new name (docs/design.md)",
}
"""What must not be written, as a pattern -> what the field says."""

READ = (".py", ".pyi", ".md", ".ts", ".html", ".toml", ".yaml", ".yml", ".ipynb")
LEFT_OUT = (
    "CHANGELOG.md",
    "docs/results/",
    "rlopt/feedback/web/package-lock.json",
    "scripts/check_vocabulary.py",
    "tests/unit/scripts/test_check_vocabulary.py",
)


def findings(name: str, text: str) -> Iterator[str]:
    """A line for each private word in the text of the file ``name``."""
    for pattern, better in WORDS.items():
        for match in re.finditer(pattern, text):
            line = text.count("\n", 0, match.start()) + 1
            yield f"{name}:{line}: {match[0]!r}: write {better}"


def main(names: Sequence[str]) -> int:
    """Reads ``names``, by default every file that git tracks; returns 1 where a private word was found."""
    if not names:
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found: list[str] = []
    for name in names:
        path = Path(name)
        if name.endswith(READ) and not name.startswith(LEFT_OUT) and path.is_file():
            found += findings(name, path.read_text())
    print("\n".join(found) or f"{len(names)} files hold no private word")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
