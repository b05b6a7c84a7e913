"""Runs that learn from demonstrations: what is different from :mod:`rlopt.runs.train`. Imports no torch by itself."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlopt.console.progress import say_once
from rlopt.errors import ConfigError, require
from rlopt.registry import refuse_import
from rlopt.settings.run import RunConfig

if TYPE_CHECKING:
    from rlopt.data.demonstrations import Demonstrations


def complete(run: RunConfig, agent_config: Any) -> tuple[RunConfig, Any]:
    """Takes environment and action repeat from the demonstrations where ``--env`` is not given.

    A path is made absolute, because the run may be continued from another working directory.

    :raises rlopt.errors.ConfigError: no demonstrations where they are needed, or of no environment that is known, or a
        normalisation beside the learner's own
    :raises rlopt.errors.DataError: they cannot be read
    """
    if not agent_config.demos:
        cloned = getattr(agent_config, "cloning_coef", 0) and not run.init_from
        needed = agent_config.needs_demos or cloned
        require(
            not needed,
            "no demonstrations given: add --demos, a folder, a file, minari:ID or a shipped set such as "
            "dmc/walker-walk",
        )
        for name in ("n_demos", "subsample", "demo_fraction"):
            given = getattr(agent_config, name, None) != getattr(type(agent_config), name, None)
            require(not given, f"{name} has no effect without demonstrations: add --demos, or leave it out")
        return run, agent_config
    if agent_config.normalizes_itself and (run.normalize_observations or run.normalize_rewards):
        raise ConfigError(
            "value_dice normalises observations by the demonstrations and reads no rewards: leave out "
            "--normalize-observations and --normalize-rewards"
        )
    path = Path(agent_config.demos).expanduser()
    if path.exists():
        agent_config = dataclasses.replace(agent_config, demos=str(path.resolve()))
    if not run.env:
        from rlopt.data import load_demonstrations
        from rlopt.data.environment import safe_kwargs
        from rlopt.data.metadata import UNKNOWN_ENV
        from rlopt.data.names import gymnasium_id
        from rlopt.storage.json import dump_json

        metadata = load_demonstrations(agent_config.demos).metadata
        if metadata.env == UNKNOWN_ENV:
            raise ConfigError("the demonstrations do not say of which environment they are: give --env")
        refuse_import(metadata.env, agent_config.demos)
        recorded = metadata.action_repeat
        if run.action_repeat not in (1, recorded):
            raise ConfigError(
                f"the demonstrations were recorded with action repeat {recorded}, but the run has {run.action_repeat}: "
                f"give --action-repeat {recorded}, or others"
            )
        run = dataclasses.replace(run, env=gymnasium_id(metadata.env) or metadata.env, action_repeat=recorded)
        if run.env_kwargs is None and metadata.env_kwargs:
            run = dataclasses.replace(run, env_kwargs=dump_json(safe_kwargs(metadata.env_kwargs, agent_config.demos)))
    return run, agent_config


def demonstrations(run: RunConfig, agent_config: Any) -> dict[str, Any]:
    """A learner's constructor arguments in addition to its settings: the chosen demonstrations, if there are to be any.

    :raises rlopt.errors.DataError: they cannot be read, or are fewer than asked for
    """
    if not agent_config.demos:
        return {}
    from rlopt.data import load_demonstrations
    from rlopt.data.description import tell_notes
    from rlopt.data.names import gymnasium_id
    from rlopt.envs.settings import EnvSettings
    from rlopt.runs.build import env_arguments

    chosen: Demonstrations = load_demonstrations(
        agent_config.demos,
        default_env=EnvSettings(run.env, action_repeat=run.action_repeat, env_kwargs=env_arguments(run)),
    )
    tell_notes(chosen)
    if gymnasium_id(chosen.metadata.env) is not None:
        say_once(f"note: the demonstrations are of {chosen.metadata.env}; the run is in {run.env}")
    if run.from_pixels:
        chosen = chosen.from_pixels(run.frame_stack)
        fast = bool(chosen.metadata.wrappers.get("fast_render", False))
        flag = "--fast-render" if fast else "--no-fast-render"
        drawn = "without shadows" if fast else "with shadows"
        require(
            fast == run.fast_render,
            f"the demonstrations' images were drawn {drawn}, by which they would be told apart: give {flag}",
        )
    if agent_config.n_demos is not None:
        chosen = chosen.trajectories(agent_config.n_demos)
    if agent_config.subsample > 1:
        chosen = chosen.subsample(agent_config.subsample, seed=run.seed)
    return {"demonstrations": chosen}
