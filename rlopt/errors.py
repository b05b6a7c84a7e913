"""The exceptions rlopt raises on purpose: one line each, saying what is wrong and what to do."""

import errno
import os
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence


class RloptError(Exception):
    """Base of every error that rlopt raises on purpose. The command line prints it in one line and exits with 2."""


class ConfigError(RloptError, ValueError):
    """A setting is unknown, has the wrong type or lies outside its range."""


class UnknownNameError(ConfigError):
    """A name (agent, environment, preset, option) does not exist."""


class PluginError(ConfigError):
    """What another distribution adds to rlopt is broken, or bears a name that is taken."""


class SpaceError(RloptError, ValueError):
    """The environment's observation or action space is not one the agent can use."""


class NonFiniteError(RloptError, FloatingPointError):
    """An observation, action, reward or loss is NaN or infinite."""


class EnvFaultError(RloptError):
    """An environment raised an error (which is the ``__cause__``), lost its process, or did not answer in time."""


class OutcomeError(EnvFaultError, SpaceError):
    """An environment returned what its spaces, or Gymnasium's interface, do not allow."""


class NonFiniteOutcomeError(EnvFaultError, NonFiniteError):
    """An environment returned an observation or a reward that is NaN or infinite."""


class ModelError(RloptError, ValueError):
    """A Markov decision process, a policy of it or a feature map is malformed, or has no gain common to all states."""


class StateUnavailableError(RloptError):
    """An environment cannot give or take its simulator state."""


class CheckpointError(RloptError):
    """A checkpoint is missing, damaged, unsafe, or belongs to another agent, environment or shape."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is not what was written: another one is to be used."""


class DataError(RloptError, ValueError):
    """A data set is missing, damaged, unsafe, inconsistent, or belongs to another environment."""


class AugmentationError(DataError):
    """An augmentation does not fit a data set, or gives no valid transition of it."""


class StudyError(RloptError):
    """A ranking study is missing, damaged, in another state than the call needs, or in the hands of another process."""


class AnswerError(RloptError, ValueError):
    """An answer to a query is malformed, does not fit the query, or was not asked for."""


class DecodeError(RloptError, ValueError):
    """A decoder of latents gives no images, or not the same images for the same latents."""


class ExportError(RloptError):
    """A policy cannot be written in a format, or a file of one cannot be read."""


class RunError(RloptError):
    """A run folder exists where a new one was asked for, or does not hold what is needed."""


class StoppedError(RloptError):
    """An evaluation was given up, because the run that it belongs to is to stop."""


class ResourceError(RloptError):
    """Memory, a permission, or the disk kept a file from being read. Nothing says that the file is damaged."""


class ImportRefusedError(RloptError):
    """A file names a module to import, or a cluster whose programs reach this machine; only a person or program may."""


def unknown_name(kind: str, name: str, candidates: Iterable[str], hint: str = "") -> UnknownNameError:
    """Builds the error for a misspelt ``name``, naming the nearest of ``candidates``.

    :param kind: what is named, for people: "agent", "environment", "preset", "option"
    :param candidates: the valid names
    :param hint: what to do when nothing is near, such as the command that lists the names
    """
    name = str(name)[:200]  # a file may give anything, of any length
    return UnknownNameError(f"unknown {kind} {name!r}: {nearest(name, candidates, hint)}")


def refuse_unknown_arguments(
    function: str, given: Iterable[str], known: Iterable[str], elsewhere: Mapping[str, str]
) -> None:
    """Raises :class:`UnknownNameError` for a keyword argument that a function does not have.

    :param elsewhere: arguments of similar functions of other libraries -> what there is in their place, in words
    """
    known = list(known)
    for name in given:
        if name not in known:
            advice = elsewhere.get(name) or nearest(name, known)
            raise UnknownNameError(f"{function} has no argument {name!r}: {advice}")


def nearest(name: str, candidates: Iterable[str], hint: str = "") -> str:
    """The advice after a misspelt ``name``: the nearest of ``candidates``, else ``hint``, else the first ones."""
    known = sorted(set(candidates))
    if near := _near(str(name), known):  # a file may name anything
        *others, last = map(repr, near)
        return f"did you mean {', '.join(others) + ' or ' if others else ''}{last}?"
    return hint or f"known: {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}"


_OTHER_NAMES = {
    "algo": "agent", "clip-range": "", "data": "dataset", "enjoy": "evaluate", "eval": "evaluate",
    "eval-freq": "eval-every", "log-dir": "run-dir", "log-interval": "log-every", "logdir": "run-dir",
    "lr": "learning-rate", "minibatch-size": "batch-size", "num-envs": "n-envs", "num-steps": "n-steps",
    "output-dir": "run-dir", "penalty-coef": "gradient-penalty", "play": "evaluate", "save-dir": "run-dir",
    "save-freq": "checkpoint-every", "steps": "total-timesteps", "task": "env", "test": "evaluate",
}  # fmt: skip
"""What people call things elsewhere; "" for a name that is part of another one here and means something else."""
_MOST = 3
"""Of more names that contain the given one, none is named."""


def _near(name: str, known: Sequence[str]) -> list[str]:
    """The one of ``known`` that is ``name`` without a slip; else those few that ``name`` abbreviates.

    Case, hyphens and underscores, and what leads an option make no difference. Of several versions the same is taken,
    else the newest. A name of another namespace is near only if the rest is the same.
    """
    wanted = _plain(name)
    if wanted in _OTHER_NAMES:
        same = [other for other in known if _plain(other) == _OTHER_NAMES[wanted]]
        if same or not _OTHER_NAMES[wanted]:
            return same
    if (meant := meant_by_slip(name, known)) is not None:
        return [meant]
    words = _words(wanted)
    longer = [other for other in known if words < _words(_plain(other)) or _plain(other).startswith(wanted)]
    if longer:
        return longer if len(longer) <= _MOST and len(wanted) > 2 else []
    # "--env-id" is "--env"; but a longer name that is not an option is something of its own.
    shorter = [other for other in known if _words(_plain(other)) < words] if name.startswith("--") else []
    return [max(shorter, key=len)] if shorter else []


def meant_by_slip(name: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``name`` is but for a slip of the pen; None if there is none."""
    slips = {other: slip for other in known if (slip := _slip(_plain(name), _plain(other))) is not None}
    return min(slips, key=slips.__getitem__) if slips else None


def _slip(wanted: str, other: str) -> tuple[int, bool, bool, int] | None:
    """How far two names are apart: edits, namespaces, versions; None if that is no slip."""
    (space, stem, version), (other_space, other_stem, other_version) = _parts(wanted), _parts(other)
    pairs = [(stem, other_stem)]
    if stem.count("-") == other_stem.count("-"):  # else a short word could be replaced beside a long one
        pairs = list(zip(stem.split("-"), other_stem.split("-"), strict=True))
    if space != other_space and stem != other_stem:
        pairs.append((space, other_space))
    edits = [_edits(*pair) for pair in pairs]
    if any(count > _allowed(*pair) for count, pair in zip(edits, pairs, strict=True)):
        return None
    return sum(edits), space != other_space, version != other_version, -other_version


def _allowed(one: str, other: str) -> int:
    longest = max(len(one), len(other))
    return 0 if longest < 3 else max(1, (longest + 1) // 5)


def _edits(one: str, other: str) -> int:
    """Letters to insert, delete or replace, and neighbours to exchange, between two texts."""
    rows = [list(range(len(other) + 1))]
    for i, letter in enumerate(one, start=1):
        row = [i]
        for j, its in enumerate(other, start=1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != its)))
            if i > 1 and j > 1 and (letter, one[i - 2]) == (other[j - 2], its):
                row[j] = min(row[j], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1]


def _plain(name: str) -> str:
    return name.casefold().lstrip("-").replace("_", "-")


def _parts(name: str) -> tuple[str, str, int]:
    """Namespace, stem and version of a name; "" and -1 where it has none."""
    *_, rest = re.split("[/:]", name)
    space = name[: len(name) - len(rest)]
    found = re.fullmatch(r"(.+)-v(\d{1,9})", rest)
    return (space, found[1], int(found[2])) if found else (space, rest, -1)


def _words(name: str) -> set[str]:
    space, stem, _ = _parts(name)
    return set(re.split(r"[-/.:]", space + stem)) - {""}


def one_line(value: object) -> str:
    """The beginning of a foreign error's message, or of what a value looks like, without line breaks."""
    return " ".join(str(value)[:200].split())


def environment_traceback(error: BaseException) -> str:
    """The traceback of what an environment raised, without rlopt's own part; empty for another error."""
    if not isinstance(error, EnvFaultError) or error.__cause__ is None:
        return ""
    return "".join(traceback.format_exception(error.__cause__)).rstrip()


def require(condition: bool, message: str) -> None:
    """Raises :class:`ConfigError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise ConfigError(message)


_OUT_OF_MEMORY = re.compile(r"(can't|cannot|unable to|failed to) allocate|out of memory|memory allocation failed", re.I)
"""In the messages of torch, HDF5 and CUDA, whose errors have no type of their own for it."""
_OF_THE_FILE = frozenset({errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL})
"""Errors of the system that a missing, moved or malformed file itself causes."""
_CURES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "allow access to it"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files, ulimit -n"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space there"),
}


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, on the CPU or on a GPU."""
    if isinstance(error, MemoryError) or _errno(error) == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def resource_error(error: BaseException, what: str) -> ResourceError | None:
    """What to raise where ``error`` is one of memory, permissions, the disk or a limit; None where it is of the file.

    Whoever reads a file asks this before calling it damaged.

    :param what: what failed: "RUN/config.json cannot be read"
    """
    if isinstance(error, ResourceError):
        return error
    if out_of_memory(error):
        return ResourceError(f"{what}, as memory ran out ({_reason(error)}): free memory, then try again")
    code = _errno(error)
    if code is None or code in _OF_THE_FILE:
        return None
    return ResourceError(f"{what} ({_reason(error)}): {cure_of(error, 'check the disk')}, then try again")


def cure_of(error: BaseException, otherwise: str) -> str:
    """What helps against an error of the system, such as too many open files; ``otherwise`` where none is known."""
    code = _errno(error)
    return otherwise if code is None else _CURES.get(code, otherwise)


def _errno(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)  # torch, HDF5 and safetensors write the number into the message
    codes = [int(code) for code in re.findall(r"(?:\(os error |\(|errno = )(\d{1,3})\b", text)]
    return next((code for code in codes if os.strerror(code) in text), None)


def _reason(error: BaseException) -> str:
    code = _errno(error)
    return os.strerror(code) if code is not None else one_line(error) or type(error).__name__
