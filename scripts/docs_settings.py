"""Tables of the settings of an agent, from the text under the fields of its config.py; nothing is imported."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

SHARED = "OptimizerConfig"
FILES = ("config.py", "baselines/config.py")
"""Where an agent's folder has settings."""


def settings_section(agent: Path) -> str:
    """Markdown with a table for each settings class of an agent's folder, or nothing if it has none."""
    files = [agent / name for name in FILES if (agent / name).is_file()]
    classes = [node for file in files for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
    tables = [table for each in classes if (table := settings_table(each))]
    if not tables:
        return ""
    start = "As `rlopt train AGENT --help` has them, where `_` is `-`; the class takes most of them by the same names."
    return "\n\n".join(["## All settings", start, *tables]) + "\n"


def settings_table(node: ast.ClassDef) -> str:
    """Heading, summary and table of one settings class; nothing for a class without fields of its own."""
    rows = []
    for field, text in itertools.pairwise(node.body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            default = ast.unparse(field.value) if field.value is not None else ""
            rows.append(f"| `{ast.unparse(field.target)}` | {code(default)} | {cell(str(text.value.value))} |")
    if not rows:
        return ""
    summary = cell((ast.get_docstring(node) or "").split("\n\n")[0])
    bases = [base for base in map(ast.unparse, node.bases) if base != SHARED]
    named = " and ".join(f"`{base}`" for base in bases)
    inherited = f" Further settings, and other defaults where listed here too: those of {named}." if bases else ""
    return "\n".join(
        [f"### {node.name}", "", summary + inherited, "", "| setting | default | meaning |", "|---|---|---|", *rows]
    )


def code(default: str) -> str:
    return f"`{default}`" if default else ""


def cell(text: str) -> str:
    """A paragraph of a docstring as the text of a cell."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;").replace("``", "`")
