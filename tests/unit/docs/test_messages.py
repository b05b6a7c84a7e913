"""Messages name commands and options that exist."""

import ast
import contextlib
import io
import re
from functools import cache

import pages
import pytest

from rlopt.cli import data, demos, hub, preferences, rank
from rlopt.cli.main import VERBS, main
from rlopt.collect.generators import GENERATORS
from rlopt.registry import AGENTS

OF_OTHERS = {
    "--algo", "--conf-file", "--force-reinstall", "--head", "--id", "--include-online", "--index-url", "--porcelain",
    "--untracked-files",
}  # fmt: skip
"""Options of git, pip, Ray, RL Zoo and wandb."""
FOLDERS = ("rlopt", "agents", "envs")
SUBVERBS = {verb.__name__.rpartition(".")[2]: verb.SUBVERBS for verb in (data, demos, hub, preferences, rank)}
FOR_SHELLS = {"--words"}
"""What the script of ``rlopt completion`` asks for, and no help names."""


@cache
def options(*words: str) -> frozenset[str]:
    """The options that the help of a command lists."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return frozenset(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", out.getvalue()))


@cache
def options_of(verb: str, subverb: str) -> frozenset[str]:
    """The options of a command, or of all its kinds where the message names none."""
    if verb == "train":
        kinds = [subverb] if subverb in AGENTS else list(AGENTS)
        return frozenset().union(*(options("train", kind) for kind in kinds))
    if (verb, subverb) == ("data", "generate"):
        return frozenset().union(*(options("data", "generate", name) for name in GENERATORS))
    if verb in SUBVERBS:
        return options(verb, subverb)
    extra = options_of("train", "") if verb in ("sweep", "tune") else frozenset()
    return options(verb) | extra


@cache
def texts() -> list[tuple[str, str]]:
    """Every string of the package that is not a docstring, with where it stands; what an f-string fills in is X."""
    found = []
    for folder in FOLDERS:
        for path in sorted((pages.ROOT / folder).rglob("*.py")):
            if folder == "rlopt" and path.relative_to(pages.ROOT / "rlopt").parts[0] in ("agents", "envs", "configs"):
                continue
            nodes = list(ast.walk(ast.parse(path.read_text())))
            bare = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
            parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
            for node in nodes:
                if id(node) in bare | parts:
                    continue
                where = f"{path.relative_to(pages.ROOT)}:{getattr(node, 'lineno', 0)}"
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append((where, node.value))
                elif isinstance(node, ast.JoinedStr):
                    values = [part.value if isinstance(part, ast.Constant) else "X" for part in node.values]
                    found.append((where, "".join(map(str, values))))
    return found


OPTION = re.compile(r"(?<![\w\-'\"])--[a-z][a-z0-9-]*\b(?![-X{])")
COMMAND = re.compile(r"\brlopt (" + "|".join(VERBS) + r")\b(?: ([a-z_0-9]+))?((?: [^\s;,:()]+)*)")


def test_every_option_in_a_message_is_one_of_some_command() -> None:
    every = OF_OTHERS | FOR_SHELLS | {"--help", "--version"}
    for verb in VERBS:
        for subverb in SUBVERBS.get(verb, [""]):
            every |= options_of(verb, subverb)
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        from rlopt.cli.render import main as render

        render(["--help"])
    every |= set(OPTION.findall(out.getvalue()))
    wrong = [
        (where, option)
        for where, text in texts()
        for option in OPTION.findall(text)
        if option not in every and option.replace("--no-", "--") not in every
    ]
    assert not wrong, "\n".join(map(str, wrong))


def test_every_command_in_a_message_has_the_options_that_it_is_written_with() -> None:
    wrong, seen = [], 0
    for where, text in texts():
        for verb, subverb, rest in COMMAND.findall(text):
            if verb in SUBVERBS and subverb not in SUBVERBS[verb]:
                continue
            seen += 1
            wrong += [
                (where, f"rlopt {verb} {subverb}", option)
                for option in OPTION.findall(rest)
                if option not in options_of(verb, subverb) | FOR_SHELLS
            ]
    assert not wrong, "\n".join(map(str, wrong))
    assert seen > 40, "the pattern finds no messages"


@pytest.mark.parametrize(("words", "option"), [(("plot",), "--key"), (("data", "info"), "--download")])
def test_the_help_lists_options(words: tuple[str, ...], option: str) -> None:
    assert option in options(*words)
