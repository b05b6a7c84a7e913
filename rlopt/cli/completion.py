"""``rlopt completion SHELL``: a script that completes verbs, agents, presets and options. Imports no torch."""

import contextlib
import importlib
import io
import re

from rlopt.errors import RloptError, unknown_name
from rlopt.registry import agent_names

_BASH = """_rlopt() {
    local IFS=$'\\n'
    COMPREPLY=($(rlopt completion --words "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -o bashdefault -F _rlopt rlopt
"""
SCRIPTS = {
    "bash": _BASH,
    "zsh": f"autoload -U +X bashcompinit && bashcompinit\n{_BASH}",
    "fish": 'complete -c rlopt -a "(rlopt completion --words (commandline -opc)[2..] (commandline -ct))"\n',
}
_OPTION = re.compile(r"^ {2,4}(?:-\w, )?(--[a-z][a-z0-9-]*)(?:, (--no-[a-z0-9-]+))?", re.M)


def main(argv: list[str]) -> int:
    """Prints the script of a shell or, for that script, what may follow the words that were typed; returns 0."""
    if argv[:1] == ["--words"]:
        print("\n".join(candidates(argv[1:] or [""])))
        return 0
    if not argv or argv[0] in ("-h", "--help"):
        print(
            "usage: rlopt completion bash|zsh|fish\n\n"
            "Prints a script that completes verbs, agents, presets and options.\n"
            'bash and zsh: eval "$(rlopt completion bash)"; fish: rlopt completion fish | source'
        )
        return 0
    if argv[0] not in SCRIPTS:
        raise unknown_name("shell", argv[0], SCRIPTS)
    print(SCRIPTS[argv[0]], end="")
    return 0


def candidates(words: list[str]) -> list[str]:
    """What the last of the words after ``rlopt`` may become; nothing where it may be any file or text."""
    *before, typed = words
    return sorted(name for name in _names(before, typed) if name.startswith(typed))


def _names(before: list[str], typed: str) -> list[str]:
    from rlopt.cli.main import VERBS

    if not before:
        return list(VERBS)
    verb = before[0]
    if verb not in VERBS:
        return []
    subverbs = getattr(importlib.import_module(f"rlopt.cli.{verb}"), "SUBVERBS", {})
    if len(before) == 1 and not typed.startswith("-"):
        return list({"train": agent_names(), "completion": SCRIPTS}.get(verb, subverbs))
    if before[-1] == "--preset" and verb == "train":
        from rlopt.settings.presets import preset_names

        return preset_names(before[1])
    if before[-1] == "--env":
        from rlopt.envs.tables import DM_CONTROL_TASKS, POOL_TASKS

        return sorted({*POOL_TASKS, *(f"dm_control/{task}" for task in DM_CONTROL_TASKS)})
    if not typed.startswith("-"):
        return []
    has_name = verb == "train" or (len(before) > 1 and before[1] in subverbs)
    return _options(verb, before[1:2] if has_name else [])


def _options(verb: str, further: list[str]) -> list[str]:
    """The options that the help of a command lists."""
    help_text = io.StringIO()
    with contextlib.suppress(SystemExit, RloptError), contextlib.redirect_stdout(help_text):
        importlib.import_module(f"rlopt.cli.{verb}").main([*further, "--help"])
    return [option for found in _OPTION.findall(help_text.getvalue()) for option in found if option]
