"""Settings of runs that report to Weights & Biases: checked before a run begins. Imports neither torch nor wandb."""

import dataclasses
import importlib.util
import os

from rlopt.errors import ConfigError
from rlopt.settings.run import RunConfig

LONGEST_PROJECT = 128
FORBIDDEN = "/\\#?%:"
"""Characters that no name of a W&B project has."""
INSTALL = "--wandb needs the package wandb: pip install 'rlopt[wandb]'"


def check_wandb(run: RunConfig) -> None:
    """Refuses what Weights & Biases would refuse later, and settings that need ``--wandb``.

    :raises rlopt.errors.ConfigError: for the first of them, or if the package is not installed
    """
    project = run.wandb
    if project is None:
        for name in ("wandb_entity", "wandb_group", "wandb_mode"):
            if getattr(run, name) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} is for --wandb PROJECT: add that, or leave it out")
        return
    entity, slash, rest = project.partition("/")
    if slash and entity and rest and not set(rest) & set(FORBIDDEN):
        raise ConfigError(f"--wandb {project}: give the entity by itself, --wandb {rest} --wandb-entity {entity}")
    found = sorted(set(project) & set(FORBIDDEN)) or [repr(sign) for sign in project if not sign.isprintable()]
    if found or not project.strip() or len(project) > LONGEST_PROJECT:
        why = f"it has {found[0]}" if found else "it is empty" if not project.strip() else "it is too long"
        raise ConfigError(
            f"--wandb {project[:60]!r} is not a name of a W&B project ({why}): give 1 to {LONGEST_PROJECT} characters "
            f"without any of {FORBIDDEN}"
        )
    if run.wandb_mode != "disabled" and importlib.util.find_spec("wandb") is None:
        raise ConfigError(INSTALL)


def in_wandb_group(run: RunConfig, name: str) -> RunConfig:
    """``run`` in the group ``name``, for runs that were started together; a group that was asked for goes before.

    That is ``--wandb-group``, then ``WANDB_RUN_GROUP``.
    """
    if run.wandb is None:
        return run
    group = run.wandb_group or os.environ.get("WANDB_RUN_GROUP") or name
    return dataclasses.replace(run, wandb_group=group[:LONGEST_PROJECT])
