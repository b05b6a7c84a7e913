"""Agents of never-ending tasks as folders of safetensors and JSON, never a pickle."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from gymnasium import spaces

from rlopt.errors import CheckpointError, one_line
from rlopt.storage.checked_folder import FolderKind, read_object, replace_checked
from rlopt.storage.spaces import decode_space, encode_space

if TYPE_CHECKING:
    from rlopt.agents.loop.base import ContinuingAgent

KIND = FolderKind("LOOP agent", "rlopt-loop")
Agent = TypeVar("Agent", bound="ContinuingAgent")


def save(agent: ContinuingAgent, path: Path) -> Path:
    """See :meth:`rlopt.agents.loop.base.ContinuingAgent.save`."""
    return replace_checked(path, KIND, {"agent": tree_of(agent)})


def tree_of(agent: ContinuingAgent) -> dict[str, Any]:
    """Everything that the agent is and has learnt; its environment is not."""
    table = getattr(agent, "feature_map", None)
    return {
        "class": type(agent).__name__,
        "settings": dataclasses.asdict(agent.config),
        "observation_space": encode_space(agent.observation_space),
        "action_space": encode_space(agent.action_space),
        "span": float(agent.span) if math.isfinite(agent.span) else None,
        "reward_range": [float(bound) for bound in agent.reward_range],
        "seed": agent.seed,
        "horizon": agent.horizon,
        "begun": agent.begun,
        "num_timesteps": agent.num_timesteps,
        "n_transitions": agent.n_transitions,
        "reward_sum": float(agent.reward_sum),
        "state": agent._state,
        "plans": [dataclasses.asdict(plan) for plan in agent.plans],
        "features": table if isinstance(table, np.ndarray) else None,
        "dimension": getattr(agent, "dimension", None),
        "rows": [[key, row] for key, row in getattr(agent, "_rows", {}).items()],
        "known": agent._known_model(),
        "extra": agent._extra_state() if agent.begun else {},
        "data": agent.data.get_state() if agent.begun else None,
    }


def load(agent_class: type[Agent], path: Path, env: Any, force_reset: bool, given: dict[str, Any]) -> Agent:
    """See :meth:`rlopt.agents.loop.base.ContinuingAgent.load`.

    :raises rlopt.errors.CheckpointError: for a folder that holds no such agent
    """
    agent = read_object(path, KIND, agent_class.__name__, lambda tree: from_tree(agent_class, tree, given=given))
    if env is not None:
        agent.set_env(env, force_reset)
    elif force_reset:
        agent._state = None
    return agent


def from_tree(
    agent_class: type[Agent], tree: dict[str, Any], env: Any = None, given: dict[str, Any] | None = None
) -> Agent:
    """The agent of :func:`tree_of`; continues in ``env``, if given, from a reset.

    :raises ValueError: a malformed tree; other errors of a damaged one may be of any kind
    """
    if tree["class"] != agent_class.__name__:
        raise CheckpointError(f"it holds a {one_line(tree['class'])}: load it as that")
    agent: Agent = agent_class(None, seed=tree["seed"], **agent_class._former_settings(tree["settings"]))
    for name in ("observation_space", "action_space"):
        setattr(agent, name, decode_space(tree[name]))
    agent._check_spaces(agent.observation_space, agent.action_space)
    low, high = tree["reward_range"]
    agent.reward_range = (number(low), number(high))
    if tree["dimension"] is not None:
        _restore_features(agent, tree, given or {})
    agent._set_known_model(tree["known"])
    put_progress(agent, tree)
    if env is not None:
        agent.set_env(env)
    return agent


def put_progress(agent: ContinuingAgent, tree: dict[str, Any]) -> None:
    """Puts an agent of the same settings where ``tree`` (:func:`tree_of`) was; ValueError if it cannot be."""
    agent.num_timesteps, agent.n_transitions = int(tree["num_timesteps"]), int(tree["n_transitions"])
    agent.reward_sum = number(tree["reward_sum"])
    agent.horizon = tree["horizon"]
    agent.span = math.nan if tree["span"] is None else number(tree["span"])
    if hasattr(agent, "_rows"):
        agent._rows = {int(key): row for key, row in tree["rows"]}
        if isinstance(agent.observation_space, spaces.Discrete) and len(set(agent._rows.values())) != len(agent._rows):
            raise ValueError("two states share a row")
    agent.begun = tree["begun"] is True
    if not agent.begun:
        return
    # Before memory is taken for what the settings say.
    for name, shape in agent._data_shapes().items():
        if tree["data"][name].shape != shape:
            raise ValueError("the data do not fit the spaces")
    agent._begin()
    agent.data.set_state(tree["data"])
    agent.plans = [agent._plan_record(plan) for plan in tree["plans"]]
    agent._state = tree["state"]
    agent._set_extra_state(tree["extra"])
    known = agent.data.n_states
    rows = [*getattr(agent, "_rows", {}).values(), 0 if agent._state is None else agent._state]
    if not all(type(row) is int and 0 <= row < known for row in rows):
        raise ValueError("states that are not there")


def _restore_features(agent: Any, tree: dict[str, Any], given: dict[str, Any]) -> None:
    agent.feature_map = tree["features"] if given.get("feature_map") is None else given["feature_map"]
    if agent.feature_map is None:
        raise CheckpointError("its feature map is a function, which files do not hold: give it as feature_map")
    agent.dimension = int(tree["dimension"])
    if not callable(agent.feature_map):
        table = np.asarray(agent.feature_map)
        if table.shape != (agent.observation_space.n, agent.action_space.n, agent.dimension):
            raise ValueError("the table of features does not fit the spaces")


def number(value: Any) -> float:
    """``value`` if it is a finite float; ValueError otherwise."""
    if not isinstance(value, float) or not math.isfinite(value):
        raise ValueError("a number is missing or not finite")
    return value
