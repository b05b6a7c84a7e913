"""Runs of policy search from rankings: what is different from :mod:`rlopt.runs.train`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlopt.errors import CheckpointError, ConfigError
from rlopt.settings.run import RunConfig

if TYPE_CHECKING:
    from rlopt.envs.settings import EnvSettings


def complete(run: RunConfig, agent_config: Any) -> tuple[RunConfig, Any]:
    """Refuses settings of a run that a search has no use for.

    :raises rlopt.errors.ConfigError: for the first of them
    """
    if run.n_envs != 1:
        raise ConfigError(
            f"--n-envs {run.n_envs}: a round has an environment for each candidate and episode; --max-envs bounds them"
        )
    if run.seeds is not None:
        raise ConfigError(
            "--seeds runs deep agents together: give --seed, and start the runs of other seeds separately"
        )
    for name in ("normalize_rewards", "profile"):
        if getattr(run, name):
            raise ConfigError(f"--{name.replace('_', '-')} has no effect on a search that ranks returns: leave it out")
    return (_each_round(run) if agent_config.oracle == "human" else run), agent_config


def _each_round(run: RunConfig) -> RunConfig:
    """A row and a checkpoint for each round that people answered, and no evaluations, unless they were asked for."""
    usual = RunConfig()
    often: dict[str, Any] = {"checkpoint_every": 1, "log_every": 1, "eval_every": 0}
    unasked = {name: value for name, value in often.items() if getattr(run, name) == getattr(usual, name)}
    return dataclasses.replace(run, **unasked)


def build(agent: str, run: RunConfig, agent_config: Any) -> tuple[Any, EnvSettings]:
    """Makes the search of a run in its environments.

    :returns: the search, and the settings of the environments it is evaluated in
    """
    import torch

    from rlopt.agents.zo_ranksgd.policies.search import RankedPolicySearch
    from rlopt.console.progress import say
    from rlopt.engine import check_engine
    from rlopt.envs.settings import EnvSettings
    from rlopt.runs.build import env_arguments
    from rlopt.settings.device import check_device

    check_device(run.device)
    if agent_config.engine is not None:  # it is opened when the run begins; what it refuses is told before
        check_engine(
            agent_config.engine,
            workers=agent_config.workers,
            gpus_per_job=agent_config.gpus_per_job,
            address=agent_config.address,
        )
    if run.num_threads:
        torch.set_num_threads(run.num_threads)
    settings = EnvSettings(
        id=run.env,
        # A clip must show the very episode that is ranked, and EnvPool draws other starts from a seed.
        backend="gymnasium" if agent_config.oracle == "human" else run.backend,
        action_repeat=run.action_repeat,
        frame_stack=run.frame_stack,
        from_pixels=run.from_pixels,
        image_size=run.image_size,
        fast_render=run.fast_render,
        max_episode_steps=run.max_episode_steps,
        env_kwargs=env_arguments(run),
    )
    arguments = {
        "seed": run.seed,
        "device": run.device,
        "normalize_observations": run.normalize_observations,
        **agent_config.algorithm_kwargs(),
    }
    search: RankedPolicySearch
    if agent_config.oracle == "human":
        from rlopt.feedback import require_packages

        require_packages()
        from rlopt.agents.zo_ranksgd.policies.human import HumanPolicySearch

        search = HumanPolicySearch.of_run(run, agent_config, settings, **arguments)
    else:
        search = RankedPolicySearch(agent_config.policy, settings, **arguments)
    if agent_config.search == "auto":
        say(f"search: {search.search_words}")
    made: Any = search.env
    return search, dataclasses.replace(made.settings, n_envs=1)


def load(algorithm: Any, trees: Mapping[str, Any], env: Any = None) -> Any:
    """The search of a checkpoint, without its environments unless ``env`` is given.

    :raises rlopt.errors.CheckpointError: its settings are damaged
    """
    from rlopt.agents.zo_ranksgd.policies import saving as policy_saving

    try:
        return policy_saving.from_tree(algorithm, trees["agent"], env)
    except ConfigError as error:  # what no search takes was not written by one
        raise CheckpointError(f"the search is malformed or of another version ({error})") from None
