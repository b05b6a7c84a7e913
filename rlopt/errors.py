"""The exceptions rlopt raises on purpose: one line each, saying what is wrong and what to do."""

from __future__ import annotations

import difflib
import traceback
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


def unknown_name(kind: str, name: str, candidates: Iterable[str], hint: str = "") -> UnknownNameError:
    """Builds the error for a misspelt ``name``, naming the nearest of ``candidates``.

    :param kind: what is named, for people: "agent", "environment", "preset", "option"
    :param candidates: the valid names
    :param hint: what to do when nothing is near, such as the command that lists the names
    """
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


def environment_traceback(error: BaseException) -> str:
    """The traceback of what an environment raised, without rlopt's own part; empty for another error."""
    if not isinstance(error, EnvFaultError) or error.__cause__ is None:
        return ""
    return "".join(traceback.format_exception(error.__cause__)).rstrip()


def require(condition: bool, message: str) -> None:
    """Raises :class:`ConfigError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise ConfigError(message)
