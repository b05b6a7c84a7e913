"""The checkpoint that a command names, and the environment that it was trained in. Imports torch only when used."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlopt.errors import CheckpointError, ConfigError, RunError, one_line, unknown_name
from rlopt.run_folder import RunFolder, named_run, read_json, run_folders, shell_quote
from rlopt.storage.json import dump_json

if TYPE_CHECKING:
    from rlopt.checkpoint.files import Checkpoint
    from rlopt.envs.settings import EnvSettings


_LONGEST_EPISODE = 1_000_000
_LARGEST_IMAGE = 2**24
_LARGEST_ARGUMENT = 10_000
"""What a checkpoint may ask of its environment without a person's word: steps, numbers of an observation, sizes."""


def require_run(run: Path) -> None:
    """Raises :class:`rlopt.errors.RunError` where no folder can be the run; at once, before torch is imported."""
    run = named_run(run)
    if not run.is_dir() and run.name != "best":
        raise RunError(f"{run} is not a run folder (there is no such folder): give the folder that rlopt train printed")


def choose_checkpoint(
    run: Path, which: str = "latest", report: Callable[[str], None] = lambda line: None
) -> Checkpoint:
    """Finds and verifies a checkpoint of a run; only its metadata is loaded.

    :param run: run folder, the name of an agent that comes with rlopt, or a checkpoint folder, which then is the one;
        RUN/best as in :func:`rlopt.load`
    :param which: ``latest`` (damaged ones are passed over), ``best`` (by the evaluations while training), the name of
        a checkpoint of the run, or the path of one
    :param report: told in one line about each damaged checkpoint that is passed over
    :raises RunError: if ``run`` is not a run folder, or has no best checkpoint yet
    :raises CheckpointError: if the checkpoint is damaged
    :raises UnknownNameError: if there is no such checkpoint, with the nearest name
    """
    from rlopt.checkpoint.files import MANIFEST, latest_checkpoint, list_checkpoints, read_checkpoint

    run = named_run(run)
    if which == "latest" and run.name == "best" and not run.exists():
        run, which = run.parent, "best"
    if which == "latest" and (run / MANIFEST).is_file():
        return read_checkpoint(run, only=())
    if Path(which, MANIFEST).is_file():
        return read_checkpoint(Path(which), only=())
    folder = RunFolder(run)
    if not folder.checkpoints.is_dir():
        why = "it holds no checkpoints" if run.is_dir() else "there is no such folder"
        if (runs := run_folders(run)) != [run]:
            raise RunError(f"{run} holds the runs {', '.join(path.name for path in runs)}: give one of them")
        raise RunError(f"{run} is not a run folder ({why}): give the folder that rlopt train printed")
    if which == "latest":
        return latest_checkpoint(folder.checkpoints, report, only=())
    names = [path.name for path in list_checkpoints(folder.checkpoints)]
    name = which
    if which == "best":
        if not folder.best.is_file():
            raise RunError(
                f"{run} has no best checkpoint, it was not evaluated while training: use --checkpoint latest"
            )
        content = read_json(folder.best)
        name = str(content.get("checkpoint")) if isinstance(content, dict) else ""
        if name not in names:
            raise CheckpointError(f"{folder.best} names {name!r}, which is not there: use --checkpoint latest")
    if name not in names:
        raise unknown_name("checkpoint", which, ["latest", "best", *names])
    return read_checkpoint(folder.checkpoints / name, only=())


def run_folder_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint belongs to; of a checkpoint on its own, the checkpoint's parent folder."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def environment_settings(
    metadata: Mapping[str, Any],
    env_id: str | None = None,
    env_kwargs: dict[str, Any] | None = None,
    max_episode_steps: int | None = None,
) -> EnvSettings:
    """The settings of the environment that a checkpoint was trained in.

    :param metadata: metadata of the checkpoint
    :param env_id: another environment, made with the same settings but without its constructor's arguments
    :param env_kwargs: other arguments of the environment's constructor; None takes the ones of the training, if it is
        the same environment
    :raises ConfigError: if the checkpoint does not say, or names a module to import, and ``env_id`` is not given
    """
    from rlopt.envs.settings import EnvSettings

    known = {field.name for field in dataclasses.fields(EnvSettings)}
    stored = metadata.get("env")
    if not isinstance(stored, Mapping):
        if env_id is None:
            raise ConfigError("the checkpoint does not say which environment it was trained in: add --env ID")
        return EnvSettings(id=env_id, env_kwargs=env_kwargs)
    settings = EnvSettings(**{name: value for name, value in stored.items() if name in known})
    if max_episode_steps is not None:
        settings = dataclasses.replace(settings, max_episode_steps=max_episode_steps)
    elif (settings.max_episode_steps or 0) > _LONGEST_EPISODE:
        steps = settings.max_episode_steps
        raise ConfigError(
            f"the checkpoint's episodes end after {steps} steps: add --max-episode-steps {steps} if that is meant"
        )
    if settings.from_pixels and 3 * settings.frame_stack * settings.image_size**2 > _LARGEST_IMAGE:
        raise ConfigError(
            f"the checkpoint's observations are {settings.frame_stack} images of {settings.image_size} x "
            f"{settings.image_size}, which take much memory: evaluate it in Python, with rlopt.evaluate"
        )
    if env_id is not None and env_id != settings.id:
        return dataclasses.replace(settings, id=env_id, env_kwargs=env_kwargs, backend="auto")
    if ":" in settings.id and env_id is None:
        # Reading somebody else's checkpoint must not run code, and such an id imports a module.
        raise ConfigError(
            f"the checkpoint's environment {settings.id!r} imports a module: add "
            f"--env {shell_quote(settings.id)} if you trust it"
        )
    if env_kwargs is not None:
        return dataclasses.replace(settings, env_kwargs=env_kwargs, backend="auto")
    for name, value in (settings.env_kwargs or {}).items():
        if _is_doubtful(value):
            words = shell_quote(dump_json(settings.env_kwargs))
            raise ConfigError(
                f"the checkpoint's environment takes {name} = {one_line(repr(value))}, which may name a file or take "
                f"much memory: add --env-kwargs {words} if you trust it"
            )
    return settings


def _is_doubtful(value: Any) -> bool:
    """Whether an argument of an environment may name a file of this machine, or be a size that fills its memory."""
    if isinstance(value, dict | list):
        return any(_is_doubtful(part) for part in (value.values() if isinstance(value, dict) else value))
    if isinstance(value, str):
        return any(mark in value for mark in "/\\~")
    return abs(value or 0) > _LARGEST_ARGUMENT
