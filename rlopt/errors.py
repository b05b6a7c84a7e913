"""The exceptions rlopt raises on purpose: one line each, saying what is wrong and what to do."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable


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
    name = name[:200]  # a file may give one of any length
    return UnknownNameError(f"unknown {kind} {name!r}: {nearest(name, candidates, hint)}")


def nearest(name: str, candidates: Iterable[str], hint: str = "") -> str:
    """The advice after a misspelt ``name``: the nearest of ``candidates``, else ``hint``, else the first ones."""
    known = sorted(set(candidates))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return hint or f"known: {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}"


def one_line(value: object) -> str:
    """The beginning of a foreign error's message, or of what a value looks like, without line breaks."""
    return " ".join(str(value)[:200].split())


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
