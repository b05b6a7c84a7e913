"""Entry point of the ``rlopt`` command. Imports neither torch nor the verbs, so that ``--help`` is instant."""

import faulthandler
import importlib
import select
import sys
import warnings

from rlopt import __version__
from rlopt.console.progress import painted
from rlopt.errors import RloptError, environment_traceback, out_of_memory, unknown_name
from rlopt.registry import agent_names

VERBS: dict[str, str] = {
    "train": "train an agent and write a run folder",
    "resume": "continue a run from its newest checkpoint, exactly",
    "sweep": "train all combinations of agents, tasks, settings and seeds, here or on a Ray cluster",
    "tune": "search for settings with Optuna, here or on a Ray cluster",
    "evaluate": "evaluate a run or a checkpoint",
    "plan": "solve the exact process of a continuing task",
    "export": "write a run's policy as ONNX, TorchScript or Stable-Baselines3's zip",
    "hub": "push, pull and list trained agents on the Hugging Face Hub",
    "plot": "draw the learning curves of runs",
    "compare": "compare groups of runs, with intervals, and say how many seeds a claim needs",
    "data": "describe and convert offline data sets",
    "demos": "record, describe and convert demonstrations for imitation",
    "preferences": "learn rewards from preferences between fragments: make, import, export, fit",
    "rank": "serve, describe, export and import studies in which people rank clips",
    "completion": "print a script that completes commands in bash, zsh or fish",
    "doctor": "check this machine and its packages",
}


def usage() -> str:
    """The text of ``rlopt --help``."""
    verbs = "\n".join(f"  {painted(f'{verb:<12}', 'bold')}{summary}" for verb, summary in VERBS.items())
    return (
        "usage: rlopt VERB ...\n\n"
        f"rlopt {__version__}: policy-optimisation methods on Stable-Baselines3 components.\n\n"
        f"verbs:\n{verbs}\n\n"
        "rlopt VERB --help explains a verb. Exit codes: 0 done, 1 rlopt doctor or rlopt data check found a problem,\n"
        "2 bad input or an environment that failed (one line on stderr says what to do), 130, 143, 129 stopped by\n"
        "Ctrl-C, SIGTERM, SIGHUP after writing a checkpoint.\n\n"
        "example: rlopt train mdpo --env HalfCheetah-v5 --total-timesteps 1000000"
    )


def run_verb(argv: list[str]) -> int:
    """Runs one command line without the program's name; returns the exit code, lets errors through."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"rlopt {__version__}")
        return 0
    verb, rest = argv[0], argv[1:]
    if verb not in VERBS:
        agent = f"to train an agent, write rlopt train {verb}" if verb in agent_names() else ""
        raise unknown_name("verb", verb, () if agent else VERBS, agent or "rlopt --help lists them")
    code: int = importlib.import_module(f"rlopt.cli.{verb}").main(rest)
    return code


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; a mistake of the user becomes one line on stderr and exit code 2."""
    if not faulthandler.is_enabled():
        faulthandler.enable(2)  # a simulator that crashes says where
    warnings.formatwarning = _one_line
    try:
        return run_verb(sys.argv[1:] if argv is None else argv)
    except RloptError as error:
        print(f"{painted('rlopt: error:', 'red', sys.stderr)} {' '.join(str(error).split())}", file=sys.stderr)
        if trace := environment_traceback(error):
            print(trace, file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:300]
        mark = painted("rlopt: error:", "red", sys.stderr)
        print(f"{mark} not enough memory ({reason}): use smaller batches, networks or data", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print("rlopt: interrupted", file=sys.stderr)
        return getattr(interrupt, "exit_code", 130)
    except BrokenPipeError:
        if not _reader_has_left():  # it was another pipe
            raise
        # There is nobody to tell (rlopt ... | head).
        sys.stderr.close()
        return 0


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as the command line shows it: the place in the code is of no use to who typed a command."""
    if category is UserWarning:
        return f"{painted('warning:', 'yellow', sys.stderr)} {' '.join(str(message).split())}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def _reader_has_left() -> bool:
    """Whether stdout or stderr is a pipe that nobody reads."""
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)  # errors are told all the same
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


if __name__ == "__main__":
    sys.exit(main())
