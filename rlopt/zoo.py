"""RL Zoo with rlopt's agents: two lines before its own command.

    import rl_zoo3, rlopt.zoo
    rl_zoo3.ALGOS.update(rlopt.zoo.ALGOS)

``python -m rlopt.zoo train --algo mdpo --env Hopper-v5`` does that and starts ``rl_zoo3.train`` with the agent's
presets as hyperparameters; ``enjoy`` in place of ``train`` starts ``rl_zoo3.enjoy``, and ``hyperparams --algo mdpo``
prints the YAML of RL Zoo that the presets make. With ``-optimize``, MDPO and OffPolicyMDPO have samplers. Agents that
learn from data or demonstrations are left out: RL Zoo has no place to name those. The package rl_zoo3 is no dependency
of rlopt.
"""

import importlib
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import LinearSchedule

from rlopt.errors import ConfigError, unknown_name
from rlopt.registry import AGENTS, AgentSpec, resolve
from rlopt.settings.presets import default_settings, preset_names


def _learns_alone(spec: AgentSpec) -> bool:
    config = resolve(spec.config)
    return not (spec.builder or getattr(config, "needs_demos", False) or hasattr(config, "expert"))


ALGOS: dict[str, type[BaseAlgorithm]] = {
    name: resolve(spec.algorithm) for name, spec in AGENTS.items() if _learns_alone(spec)
}
"""The agents that learn from an environment alone, by the names of ``rlopt train``."""

hyperparams: dict[str, dict[str, Any]] = {"default": {"policy": "MlpPolicy", "n_timesteps": 1e6}}
"""What RL Zoo reads with ``--conf-file rlopt.zoo``: the defaults of each class, for any environment."""

VERBS = ("train", "enjoy", "hyperparams")
_CONF_FILE = ("-conf", "--conf-file")
_GAMMAS = [0.9, 0.95, 0.98, 0.99, 0.995, 0.999]
_ARCHITECTURES = {"small": [64, 64], "medium": [256, 256]}


def zoo_hyperparameters(agent: str) -> dict[str, dict[str, Any]]:
    """RL Zoo's hyperparameters of an agent, by Gymnasium id: its presets, and ``default`` for other environments.

    Presets of dm_control tasks, and those that change the environment, have no place in RL Zoo and are left out.

    :raises rlopt.errors.UnknownNameError: there is no such agent in :data:`ALGOS`
    """
    if agent not in ALGOS:
        raise unknown_name("agent", agent, ALGOS)
    config = resolve(AGENTS[agent].config)
    usual = config().algorithm_kwargs()
    found = dict(hyperparams)
    for name in preset_names(agent):
        run, settings = default_settings(agent, config, name)
        plain = run.action_repeat == 1 and run.frame_stack == 1 and not run.from_pixels and run.env_kwargs is None
        if not plain or run.env.startswith("dm_control/") or run.env in found:
            continue
        kwargs = {key: value for key, value in settings.algorithm_kwargs().items() if usual.get(key) != value}
        entry: dict[str, Any] = {"n_envs": run.n_envs, "n_timesteps": float(run.total_timesteps), "policy": "MlpPolicy"}
        if run.normalize_observations or run.normalize_rewards:
            gamma = kwargs.get("gamma", usual.get("gamma"))
            entry["normalize"] = str({"norm_obs": run.normalize_observations, "norm_reward": run.normalize_rewards,
                                      "gamma": gamma})  # fmt: skip
        found[run.env] = entry | {key: _as_zoo_has_it(value) for key, value in kwargs.items()}
    return found


def _as_zoo_has_it(value: Any) -> Any:
    """A constructor's argument as RL Zoo's YAML has it: ``lin_0.001``, and dictionaries as Python's text."""
    if isinstance(value, LinearSchedule):
        return f"lin_{value.start:g}"
    return str(value) if isinstance(value, dict) else value


def sample_mdpo(trial: Any, n_actions: int, n_envs: int, additional_args: Any) -> dict[str, Any]:
    """Arguments of :class:`rlopt.MDPO` for a trial of Optuna, as RL Zoo's samplers give them."""
    width = trial.suggest_categorical("net_arch", list(_ARCHITECTURES))
    n_steps = trial.suggest_categorical("n_steps", [32, 64, 128, 256, 512, 1024, 2048])
    return {
        "n_steps": n_steps,
        "batch_size": min(trial.suggest_categorical("batch_size", [32, 64, 128, 256, 512]), n_steps * n_envs),
        "n_epochs": trial.suggest_categorical("n_epochs", [1, 5, 10, 20]),
        "gamma": trial.suggest_categorical("gamma", _GAMMAS),
        "gae_lambda": trial.suggest_categorical("gae_lambda", [0.9, 0.92, 0.95, 0.98, 0.99, 1.0]),
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
        "target_kl": trial.suggest_float("target_kl", 0.003, 0.1, log=True),
        "policy_kwargs": {
            "net_arch": _ARCHITECTURES[width],
            "activation_fn": trial.suggest_categorical("activation_fn", ["tanh", "relu"]),
        },
    }


def sample_off_policy_mdpo(trial: Any, n_actions: int, n_envs: int, additional_args: Any) -> dict[str, Any]:
    """Arguments of :class:`rlopt.OffPolicyMDPO` for a trial of Optuna, as RL Zoo's samplers give them."""
    width = trial.suggest_categorical("net_arch", list(_ARCHITECTURES))
    return {
        "gamma": trial.suggest_categorical("gamma", _GAMMAS),
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
        "batch_size": trial.suggest_categorical("batch_size", [128, 256, 512]),
        "tau": trial.suggest_categorical("tau", [0.001, 0.005, 0.01, 0.02]),
        "kl_coef": trial.suggest_categorical("kl_coef", [0.0, 0.03, 0.1, 0.3, 1.0]),
        "old_policy_period": trial.suggest_categorical("old_policy_period", [100, 250, 1000]),
        "policy_kwargs": {"net_arch": _ARCHITECTURES[width]},
    }


SAMPLERS = {"mdpo": sample_mdpo, "off_policy_mdpo": sample_off_policy_mdpo}
"""What RL Zoo's -optimize samples settings with, by agent."""


def main(argv: list[str]) -> None:
    """Registers the agents and hands the rest of the command line to RL Zoo.

    :raises rlopt.errors.ConfigError: the verb is none of :data:`VERBS`, or rl_zoo3 is not installed
    """
    if not argv or argv[0] not in VERBS:
        raise unknown_name("verb", argv[0] if argv else "", VERBS)
    agent = next((after for word, after in pairwise(argv) if word == "--algo"), "")
    if argv[0] == "hyperparams":
        print(yaml.safe_dump(zoo_hyperparameters(agent), sort_keys=False), end="")
        return
    try:
        zoo = importlib.import_module("rl_zoo3")
        verb = importlib.import_module(f"rl_zoo3.{argv[0]}")
        samplers = importlib.import_module("rl_zoo3.hyperparams_opt").HYPERPARAMS_SAMPLER
    except ModuleNotFoundError as error:
        raise ConfigError(f"RL Zoo needs the package {error.name}: pip install rl_zoo3") from None
    for name, algorithm in ALGOS.items():
        zoo.ALGOS.setdefault(name, algorithm)  # its own sac stays Stable-Baselines3's
    for name, sampler in SAMPLERS.items():
        samplers.setdefault(name, sampler)
    with tempfile.TemporaryDirectory(prefix="rlopt-zoo-") as folder:
        given = argv[0] != "train" or agent not in ALGOS or any(word in _CONF_FILE for word in argv)
        if not given:
            path = Path(folder) / f"{agent}.yml"
            path.write_text(yaml.safe_dump(zoo_hyperparameters(agent), sort_keys=False))
            argv = [*argv, "--conf-file", str(path)]
        sys.argv = [f"rl_zoo3.{argv[0]}", *argv[1:]]
        getattr(verb, argv[0])()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ConfigError as mistake:
        sys.exit(f"rlopt: error: {mistake}")
