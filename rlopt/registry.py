"""Agent names and where their parts live. Imports no torch, so that ``--help`` is instant."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from rlopt.errors import unknown_name


@dataclass(frozen=True)
class AgentSpec:
    """Where an agent's parts are: each an import string ``module:name``, resolved only when used."""

    config: str
    """The frozen dataclass with the agent's own settings; its module imports no torch."""
    algorithm: str
    """The Stable-Baselines3 algorithm class."""
    summary: str
    """One line for ``rlopt train --help``."""
    builder: str = ""
    """What makes the model of a run in place of :func:`rlopt.run_model.build`; empty for that."""
    arguments: str = ""
    """What gives constructor arguments beside the agent's settings: ``(run, agent_config)`` to a dict."""
    loader: str = ""
    """What makes a model of a checkpoint's trees in place of :func:`rlopt.load`'s own: ``(trees, env)``; empty for a
    Stable-Baselines3 algorithm."""
    completer: str = ""
    """What completes the settings of a run once its flags were read: ``(run, agent_config)`` to the same."""


def _offline(algorithm: str, summary: str) -> AgentSpec:
    return AgentSpec(
        config=f"rlopt.agents.offline.config:{algorithm.partition(':')[2]}Config",
        algorithm=f"rlopt.agents.offline.{algorithm}",
        summary=summary,
        builder="rlopt.offline_run:build",
        completer="rlopt.offline_run:complete",
    )


def _imitation(algorithm: str, config: str, summary: str) -> AgentSpec:
    return AgentSpec(
        config=f"rlopt.agents.{config}",
        algorithm=f"rlopt.agents.{algorithm}",
        summary=f"{summary}, from demonstrations",
        arguments="rlopt.imitation_run:demonstrations",
        completer="rlopt.imitation_run:complete",
    )


def _continuing(config: str, algorithm: str, summary: str) -> AgentSpec:
    return AgentSpec(
        config=f"rlopt.agents.loop.{config}",
        algorithm=f"rlopt.agents.loop.{algorithm}",
        summary=f"{summary} (average reward, finitely many actions)",
        builder="rlopt.continuing_run:build",
        loader="rlopt.continuing_run:load",
        completer="rlopt.continuing_run:complete",
    )


AGENTS: dict[str, AgentSpec] = {
    "mdpo": AgentSpec(
        config="rlopt.agents.mdpo.config:MDPOConfig",
        algorithm="rlopt.agents.mdpo.on_policy:MDPO",
        summary="mirror descent policy optimisation, on-policy",
    ),
    "sac": AgentSpec(
        config="rlopt.agents.sac.config:SACConfig",
        algorithm="rlopt.agents.sac.algorithm:SAC",
        summary="soft actor-critic, off-policy",
    ),
    "off_policy_mdpo": AgentSpec(
        config="rlopt.agents.mdpo.config:OffPolicyMDPOConfig",
        algorithm="rlopt.agents.mdpo.off_policy:OffPolicyMDPO",
        summary="mirror descent policy optimisation, off-policy (kl_coef=0 is SAC)",
    ),
    "deep_loop": AgentSpec(
        config="rlopt.agents.deep_loop.config:DeepLOOPConfig",
        algorithm="rlopt.agents.deep_loop.algorithm:DeepLOOP",
        summary="average reward with optimism and lazy switching, experimental (bonus and lazy off: RVI-SAC)",
    ),
    "ailboost": _imitation(
        "ailboost.algorithm:AILBoost", "ailboost.config:AILBoostConfig", "adversarial imitation by boosting"
    ),
    "dac": _imitation("ailboost.algorithm:DAC", "ailboost.config:DACConfig", "discriminator-actor-critic"),
    "gail": _imitation(
        "imitation.gail:GAIL", "imitation.config:GAILConfig", "generative adversarial imitation, on-policy"
    ),
    "sqil": _imitation("imitation.sqil:SQIL", "imitation.config:SQILConfig", "soft Q imitation learning"),
    "iq_learn": _imitation("imitation.iq_learn:IQLearn", "imitation.config:IQLearnConfig", "inverse soft-Q learning"),
    "value_dice": _imitation(
        "imitation.value_dice:ValueDICE", "imitation.config:ValueDICEConfig", "distribution matching by value"
    ),
    "loop": _continuing("kinds:ContinuingConfig", "loop:LOOP", "LOOP and its peers in tasks that never end"),
    "linear_loop": _continuing(
        "config:LinearLOOPConfig", "linear_loop:LinearLOOP", "LOOP with values linear in features"
    ),
    "zo_ranksgd": AgentSpec(
        config="rlopt.agents.zo_ranksgd.config:ZORankSGDConfig",
        algorithm="rlopt.agents.zo_ranksgd.policy_search:RankedPolicySearch",
        summary="policy search from rankings, of returns or of people who watch clips",
        builder="rlopt.ranked_run:build",
        loader="rlopt.ranked_run:load",
        completer="rlopt.ranked_run:complete",
    ),
    "mle_loop": _continuing("config:MLELOOPConfig", "mle_loop:MLELOOP", "model-based LOOP"),
    "bc": _offline("bc:BC", "behaviour cloning of a data set"),
    "td3_bc": _offline("td3_bc:TD3BC", "TD3 with behaviour cloning, from a data set"),
    "awac": _offline("awac:AWAC", "advantage-weighted actor-critic, from a data set"),
    "iql": _offline("iql:IQL", "implicit Q-learning, from a data set"),
    "cql": _offline("cql:CQL", "conservative Q-learning, from a data set"),
    "rebrac": _offline("rebrac:ReBRAC", "behaviour-regularised actor-critic, from a data set"),
}


def agent_spec(name: str) -> AgentSpec:
    """Returns the entry of agent ``name``; raises :class:`rlopt.errors.UnknownNameError` with the nearest name."""
    if name not in AGENTS:
        raise unknown_name("agent", name, AGENTS)
    return AGENTS[name]


def resolve(import_string: str) -> Any:
    """Imports ``module:name``. Only for the strings of this file, never for strings read from a file."""
    module, _, attribute = import_string.partition(":")
    return getattr(importlib.import_module(module), attribute)


def agent_name(algorithm_class: type) -> str:
    """The registered name of an algorithm class; raises :class:`rlopt.errors.UnknownNameError` for a foreign one."""
    path = f"{algorithm_class.__module__}:{algorithm_class.__name__}"
    for name, spec in AGENTS.items():
        if spec.algorithm == path:
            return name
    raise unknown_name("algorithm class", path, [spec.algorithm for spec in AGENTS.values()])
