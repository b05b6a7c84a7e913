"""RL Zoo with rlopt's agents: two lines before its own command.

    import rl_zoo3, rlopt.zoo
    rl_zoo3.ALGOS.update(rlopt.zoo.ALGOS)

``python -m rlopt.zoo train --algo mdpo --env CartPole-v1 --conf-file rlopt.zoo`` does that and starts
``rl_zoo3.train``; ``enjoy`` in place of ``train`` starts ``rl_zoo3.enjoy``. Agents that learn from data or
demonstrations are left out: RL Zoo has no place to name those. The package rl_zoo3 is no dependency of rlopt.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from rlopt.errors import ConfigError, unknown_name
from rlopt.registry import AGENTS, resolve

ALGOS: dict[str, type[BaseAlgorithm]] = {
    name: resolve(spec.algorithm) for name, spec in AGENTS.items() if not (spec.builder or spec.arguments)
}
"""The agents that learn from an environment alone, by the names of ``rlopt train``."""

hyperparams: dict[str, dict[str, Any]] = {"default": {"policy": "MlpPolicy", "n_timesteps": 1e6}}
"""What RL Zoo reads with ``--conf-file rlopt.zoo``: the defaults of each class, for any environment."""

VERBS = ("train", "enjoy")


def main(argv: list[str]) -> None:
    """Registers the agents and hands the rest of the command line to RL Zoo.

    :raises rlopt.errors.ConfigError: the verb is neither train nor enjoy, or rl_zoo3 is not installed
    """
    if not argv or argv[0] not in VERBS:
        raise unknown_name("verb", argv[0] if argv else "", VERBS)
    try:
        zoo = importlib.import_module("rl_zoo3")
        verb = importlib.import_module(f"rl_zoo3.{argv[0]}")
    except ModuleNotFoundError as error:
        raise ConfigError(f"RL Zoo needs the package {error.name}: pip install rl_zoo3") from None
    for name, algorithm in ALGOS.items():
        zoo.ALGOS.setdefault(name, algorithm)  # its own sac stays Stable-Baselines3's
    sys.argv = [f"rl_zoo3.{argv[0]}", *argv[1:]]
    getattr(verb, argv[0])()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ConfigError as mistake:
        sys.exit(f"rlopt: error: {mistake}")
