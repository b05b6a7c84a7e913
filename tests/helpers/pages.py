"""The pages that people read: their code blocks, executed, and their ``rlopt`` commands, understood."""

import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest

from rlopt.cli import data, flags, preferences, sweep, tune
from rlopt.cli.main import VERBS, main, run_verb
from rlopt.cli.parsing import OneLineParser
from rlopt.registry import agent_spec, import_agent, resolve
from rlopt.sweeps.spec import parse_grid
from rlopt.sweeps.tune_spec import parse_axes

ROOT = Path(__file__).resolve().parents[2]
SHELLS = ("", "sh", "bash", "console")


def pages() -> list[str]:
    """Paths, in the repository, of all pages: README, CONTRIBUTING, docs/ and the agents' READMEs."""
    found = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "agents").glob("*/README.md")]
    found += [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


@dataclass(frozen=True)
class Block:
    """A block of code: fenced, or indented by four spaces (``language`` is empty then)."""

    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """The code blocks of a page, in their order."""
    text = (ROOT / page).read_text()
    pattern = r"^```(\w*)[^\n]*\n(.*?)^```[ ]*$|(?:(?<=\n\n)|\A)((?:(?: {4}[^\n]*)?\n)+)"
    found = re.finditer(pattern, text, flags=re.DOTALL | re.MULTILINE)
    made = [
        Block("", re.sub("^ {4}", "", match[3], flags=re.MULTILINE)) if match[3] else Block(match[1], match[2])
        for match in found
    ]
    return [block for block in made if block.text.strip()]


def commands(block: Block) -> list[str]:
    """The ``rlopt`` commands of a block that a shell reads; continued lines are joined, a prompt is left out."""
    if block.language not in SHELLS:
        return []
    lines = block.text.replace("\\\n", " ").splitlines()
    lines = [re.sub(r"^\$ ", "", line) for line in lines]
    return [line for line in lines if re.match(r"rlopt +\S", line)]


@dataclass
class Printed:
    """What a page left behind once it was executed."""

    names: dict[str, Any] = field(default_factory=dict)
    python: list[str] = field(default_factory=list)
    """What each Python block printed."""
    commands: list[tuple[str, str]] = field(default_factory=list)
    """Each command that was run, and what it printed."""


def run_page(
    page: str,
    *,
    shorter: Mapping[str, str] | None = None,
    wanted: Callable[[str], bool] = lambda command: False,
    unless: str | None = None,
    remarks: tuple[str, ...] = (),
) -> Printed:
    """Executes a page in the current folder: its Python blocks in one namespace, and the ``wanted`` commands, in order.

    A comment after a ``print`` is what it prints, and a block of text after commands shows lines that they print. A
    block that begins with ``# name.py`` is written to that file too.

    :param shorter: parts of the page and what takes their place, for lengths; each must be there
    :param unless: Python blocks that contain this are compiled only
    :param remarks: beginnings of comments after a ``print`` that are not promises
    """
    for part in shorter or {}:
        assert part in (ROOT / page).read_text(), f"{page} has no {part!r} any more"

    def shortened(text: str) -> str:
        for long, short in (shorter or {}).items():
            text = text.replace(long, short)
        return text

    printed, shown = Printed(), ""
    for block in blocks(page):
        if block.language == "python":
            code = compile(shortened(block.text), page, "exec")
            write_file(block)
            if unless is None or unless not in block.text:
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(code, printed.names)
                printed.python.append(out.getvalue())
                check_promises(page, block.text, out.getvalue(), remarks)
        if block.language == "text" and printed.commands:
            check_shown(page, block.text, shown)
        if commands(block):
            shown = ""
        for command in commands(block):
            if wanted(command):
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    assert main(shlex.split(shortened(command), comments=True)[1:]) == 0, command
                printed.commands.append((command, out.getvalue()))
                shown += out.getvalue()
    return printed


def write_file(block: Block) -> None:
    """Writes a block that begins with ``# name.py`` or ``# name.toml`` into the current folder, and no other."""
    if file := re.match(r"# (\w+\.(py|toml))\n", block.text):
        Path(file[1]).write_text(block.text)


def words(line: str) -> list[str]:
    """What a line says without its numbers, and what hangs on them, which differ between machines and lengths."""
    return [word for word in line.split() if word != "enough" and not re.search(r"\d", word)]


def check_shown(page: str, text: str, printed: str) -> None:
    """Whether each line of a block of output is, up to its numbers, one that the commands before it printed."""
    known = [words(line) for line in printed.splitlines()]
    for line in text.splitlines():
        assert words(line) in known, f"{page}: nothing like {line!r} in {printed!r}"


def check_promises(page: str, code: str, printed: str, remarks: tuple[str, ...]) -> None:
    """Whether each ``print(...)  # this`` printed ``this``, in the order of the block."""
    lines = iter(printed.splitlines())
    for promised in re.findall(r"^ *print\(.*\)  # (.*)$", code, flags=re.MULTILINE):
        if not promised.startswith(remarks or "\0"):
            assert any(line == promised for line in lines), f"{page}: {promised!r} is not in {printed!r}"


class Understood(BaseException):
    """Raised where a command line was read and the work would begin."""


def understand(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads a command with the verb's own parser, without doing what it says; raises what the parser raises."""
    for words in alternatives(shlex.split(command, comments=True)[1:]):
        with monkeypatch.context() as patch:
            patch.setattr(OneLineParser, "parse", stop_after(OneLineParser.parse))
            for module in (data, preferences):
                patch.setattr(module, "parse_settings", stop_after(flags.parse_settings))
            patch.setattr(flags, "complete_settings", lambda agent, run, settings: (run, settings))
            verb, *rest = words
            assert verb in VERBS, command
            if "..." in rest:
                known = getattr(importlib.import_module(f"rlopt.cli.{verb}"), "SUBVERBS", {})
                assert not known or rest[0] in known, command
            elif verb == "train":
                import_agent(rest[0])
                flags.parse_training(rest[0], resolve(agent_spec(rest[0]).config), rest[1:])
            elif verb in ("sweep", "tune"):
                understand_many(verb, rest)
            else:
                with pytest.raises(Understood):
                    run_verb(words)


def alternatives(words: list[str]) -> Iterator[list[str]]:
    """One command line for each of the alternatives ``a|b`` of the first word that has them."""
    for index, word in enumerate(words):
        if re.fullmatch(r"\w+(\|\w+)+", word):
            for each in word.split("|"):
                yield from alternatives([*words[:index], each, *words[index + 1 :]])
            return
    yield words


def stop_after(parse: Callable[..., Any]) -> Callable[..., NoReturn]:
    def stopping(*arguments: Any) -> NoReturn:
        parse(*arguments)
        raise Understood

    return stopping


def understand_many(verb: str, words: list[str]) -> None:
    parser = sweep._parser() if verb == "sweep" else tune._parser()
    own, others = sweep.divide(words, parser)
    arguments = parser.parse_args(own)
    agents = arguments.agent if isinstance(arguments.agent, list) else [arguments.agent or "mdpo"]
    for agent in agents:
        import_agent(agent)
    sweep.setting_values(others, agents, parser)
    if verb == "tune":
        assert parse_axes(arguments.search)
    else:
        parse_grid(arguments.set or ())
