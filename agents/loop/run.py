"""Runs of agents that learn in one task that never ends: what is different from :mod:`rlopt.runs.train`.

They are evaluated in stretches of 1000 steps (--max-episode-steps gives another number), so that a return is 1000 times
a reward rate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlopt.errors import ConfigError
from rlopt.evaluation.evaluate import STRETCH
from rlopt.settings.run import RunConfig

if TYPE_CHECKING:
    from rlopt.envs.settings import EnvSettings


def complete(run: RunConfig, agent_config: Any) -> tuple[RunConfig, Any]:
    """Refuses settings of a run that a tabular agent has no use for.

    :raises rlopt.errors.ConfigError: for the first of them
    """
    if run.n_envs != 1:
        raise ConfigError(f"--n-envs {run.n_envs}: such an agent acts in one environment; start a run for each seed")
    if run.seeds is not None:
        raise ConfigError(
            "--seeds runs deep agents together: give --seed, and start the runs of other seeds separately"
        )
    unused = ("normalize_observations", "normalize_rewards", "from_pixels", "profile")
    for name in unused:
        if getattr(run, name):
            raise ConfigError(f"--{name.replace('_', '-')} has no effect on a tabular or linear agent: leave it out")
    return run, agent_config


def build(agent: str, run: RunConfig, agent_config: Any) -> tuple[Any, EnvSettings]:
    """Makes the agent of a run in its environment.

    :returns: the agent, and the settings of the environments it is evaluated in, whose episodes are stretches
    """
    from rlopt.registry import agent_spec, resolve
    from rlopt.runs.build import make_run_env

    algorithm = resolve(agent_spec(agent).algorithm)
    env = make_run_env(dataclasses.replace(run, max_episode_steps=None))
    try:
        model = algorithm(env, seed=run.seed, **agent_config.algorithm_kwargs())
    except BaseException:
        env.close()
        raise
    return model, dataclasses.replace(env.settings, max_episode_steps=run.max_episode_steps or STRETCH)


def load(algorithm: Any, trees: Mapping[str, Any], env: Any = None) -> Any:
    """The agent of a checkpoint, without its environment unless ``env`` is given."""
    from rlopt.agents.loop import saving
    from rlopt.registry import AGENTS, resolve

    tree = trees["agent"]
    name = tree.get("class") if isinstance(tree, Mapping) else None
    if name != algorithm.__name__:  # in checkpoints of version 0.1 all of them are the agent loop
        paths = (spec.algorithm for spec in AGENTS.values() if spec.algorithm.startswith("rlopt.agents.loop."))
        classes = {path.partition(":")[2]: path for path in paths}
        if name not in classes:
            raise ValueError("it is of no known kind of agent")
        algorithm = resolve(classes[name])
    return saving.from_tree(algorithm, dict(tree), env)
