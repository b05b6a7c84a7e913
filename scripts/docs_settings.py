"""Tables of the settings of an agent, from the declarations in its config.py, which needs no other package."""

import dataclasses
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from rlopt.cli.flags import field_help, kind_of, ranges_of, shown_default
from rlopt.settings.fields import field_types
from rlopt.settings.optimizer import OptimizerConfig

FILES = ("config.py", "baselines/config.py")
"""Where an agent's folder has settings."""


def settings_section(agent: Path) -> str:
    """Markdown with a table for each settings class of an agent's folder, or nothing if it has none."""
    tables = [table for file in FILES if (agent / file).is_file() for table in _tables_of(agent.name, file)]
    if not tables:
        return ""
    start = "As `rlopt train AGENT --help` has them, where `_` is `-`; the class takes most of them by the same names."
    return "\n\n".join(["## All settings", start, *tables]) + "\n"


def _tables_of(agent: str, file: str) -> list[str]:
    module = importlib.import_module(f"rlopt.agents.{agent}.{file.removesuffix('.py').replace('/', '.')}")
    classes = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
    return [table for each in classes if dataclasses.is_dataclass(each) and (table := settings_table(each))]


def settings_table(config: type) -> str:
    """Heading, summary and table of one settings class; nothing for a class without fields of its own."""
    own = [name for name in field_types(config) if name in inspect.get_annotations(config)]
    if not own:
        return ""
    texts = field_help(config)
    rows = [_row(name, field_types(config)[name], getattr(config, name), texts[name]) for name in own]
    bases = [
        base.__name__ for base in config.__bases__ if dataclasses.is_dataclass(base) and base is not OptimizerConfig
    ]
    named = " and ".join(f"`{base}`" for base in bases)
    inherited = f" Further settings, and other defaults where listed here too: those of {named}." if bases else ""
    summary = cell((config.__doc__ or "").split("\n\n")[0])
    head = ["| setting | default | values | meaning |", "|---|---|---|---|"]
    return "\n".join([f"### {config.__name__}", "", summary + inherited, "", *head, *rows])


def _row(name: str, annotation: Any, default: Any, text: str) -> str:
    values = " in ".join([kind_of(annotation), *ranges_of(annotation)])
    return f"| `{name}` | {cell(shown_default(default))} | {cell(values)} | {cell(text)} |"


def cell(text: str) -> str:
    """A paragraph of a docstring as the text of a cell."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;").replace("``", "`")
