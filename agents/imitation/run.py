"""Runs of DAgger: finds the expert. Imports no torch."""

import dataclasses
from pathlib import Path
from typing import Any

from rlopt.errors import require
from rlopt.runs import demonstrations
from rlopt.settings.run import RunConfig


def complete(run: RunConfig, agent_config: Any) -> tuple[RunConfig, Any]:
    """As :func:`rlopt.runs.demonstrations.complete`, with the expert's path made absolute.

    :raises rlopt.errors.ConfigError: no expert
    """
    path = Path(agent_config.expert).expanduser()
    require(
        bool(agent_config.expert) and path.exists(),
        f"no expert to ask at {agent_config.expert or 'nowhere'}: give --expert, a run folder or a zip of "
        "Stable-Baselines3",
    )
    return demonstrations.complete(run, dataclasses.replace(agent_config, expert=str(path.resolve())))


def arguments(run: RunConfig, agent_config: Any) -> dict[str, Any]:
    """Constructor arguments in addition to the settings: the expert, and the demonstrations if there are any."""
    return {"expert": agent_config.expert, **demonstrations.demonstrations(run, agent_config)}
