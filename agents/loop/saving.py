"""LOOP agents as folders of safetensors and JSON, never a pickle."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from gymnasium import spaces

from rlopt.agents.loop.planner import Certificate, PlanRecord
from rlopt.errors import CheckpointError, RloptError, one_line
from rlopt.sealed_folder import FolderKind, io_errors, read_sealed, remove_leftovers, write_sealed
from rlopt.space_codec import decode_space, encode_space

if TYPE_CHECKING:
    from rlopt.agents.loop.algorithm import LazyOptimist

KIND = FolderKind(
    name="LOOP agent",
    format="rlopt-loop",
    version=1,
    error=CheckpointError,
    elsewhere="write to another folder",
    untouched="what was there before is untouched",
)
_TREE = "agent"
Agent = TypeVar("Agent", bound="LazyOptimist")


def save(agent: LazyOptimist, path: Path) -> Path:
    """See :meth:`rlopt.agents.loop.algorithm.LazyOptimist.save`."""
    path = Path(os.path.abspath(path))
    with io_errors(KIND, f"cannot write the {KIND.name} {path}"):
        if path.parent.is_dir():
            remove_leftovers(path)
        if os.path.lexists(path) and (not path.is_dir() or path.is_symlink()):
            raise CheckpointError(f"{path} exists and is no folder: choose another path")
        if path.is_dir() and any(path.iterdir()):
            try:
                read_sealed(path, KIND, only=())
            except CheckpointError as error:
                raise CheckpointError(f"{error}; it is not replaced: choose another path, or delete it first") from None
    table = getattr(agent, "feature_map", None)
    tree = {
        "class": type(agent).__name__,
        "settings": dataclasses.asdict(agent.config),
        "observation_space": encode_space(agent.observation_space),
        "action_space": encode_space(agent.action_space),
        "span": float(agent.span),
        "reward_range": [float(bound) for bound in agent.reward_range],
        "seed": agent.seed,
        "horizon": agent.horizon,
        "begun": math.isfinite(agent.beta),
        "num_timesteps": agent.num_timesteps,
        "n_transitions": agent.n_transitions,
        "reward_sum": float(agent.reward_sum),
        "state": agent._state,
        "plans": [dataclasses.asdict(plan) for plan in agent.plans],
        "features": table if isinstance(table, np.ndarray) else None,
        "dimension": getattr(agent, "dimension", None),
        "rows": [[key, row] for key, row in getattr(agent, "_rows", {}).items()],
        "data": agent.data.get_state() if math.isfinite(agent.beta) else None,
    }
    return write_sealed(path, KIND, {_TREE: tree}, {}, {})


def load(agent_class: type[Agent], path: Path, env: Any, force_reset: bool, given: dict[str, Any]) -> Agent:
    """See :meth:`rlopt.agents.loop.algorithm.LazyOptimist.load`."""
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist or is no folder: give the folder that save wrote")
    _, trees = read_sealed(path, KIND)
    try:
        agent = _rebuild(agent_class, trees[_TREE], given)
    except RloptError as error:
        raise CheckpointError(f"{path} cannot be loaded: {error}") from None
    except Exception as error:
        raise CheckpointError(
            f"{path} does not hold a {agent_class.__name__} ({type(error).__name__}: {one_line(error)}): it is "
            "malformed or of another version"
        ) from error
    if env is not None:
        agent.set_env(env, force_reset)
    elif force_reset:
        agent._state = None
    return agent


def _rebuild(agent_class: type[Agent], tree: dict[str, Any], given: dict[str, Any]) -> Agent:
    if tree["class"] != agent_class.__name__:
        raise CheckpointError(f"it holds a {one_line(tree['class'])}: load it as that")
    agent: Agent = agent_class(None, seed=tree["seed"], **tree["settings"])
    agent._check_spaces(decode_space(tree["observation_space"]), decode_space(tree["action_space"]))
    agent.observation_space = decode_space(tree["observation_space"])
    agent.action_space = decode_space(tree["action_space"])
    agent.span, agent.horizon = _number(tree["span"]), tree["horizon"]
    low, high = tree["reward_range"]
    agent.reward_range = (_number(low), _number(high))
    agent.num_timesteps, agent.n_transitions = int(tree["num_timesteps"]), int(tree["n_transitions"])
    agent.reward_sum = _number(tree["reward_sum"])
    if tree["dimension"] is not None:
        _restore_features(agent, tree, given)
    if not tree["begun"]:
        return agent
    # Before memory is taken for what the settings say.
    stored = tree["data"]["transitions" if tree["dimension"] is None else "inverse"].shape
    if stored != _sizes(agent, tree["dimension"]):
        raise ValueError("the data do not fit the spaces")
    agent._begin()
    agent.data.set_state(tree["data"])
    agent.plans = [_plan(plan) for plan in tree["plans"]]
    agent._state = tree["state"]
    known = agent.data.n_states
    rows = [*getattr(agent, "_rows", {}).values(), 0 if agent._state is None else agent._state]
    if not agent.plans or not all(type(row) is int and 0 <= row < known for row in rows):
        raise ValueError("states that are not there, or no plan")
    return agent


def _sizes(agent: Any, dimension: int | None) -> tuple[int, ...]:
    if dimension is not None:
        return dimension, dimension
    states = int(agent.observation_space.n)
    return states, int(agent.action_space.n), states


def _restore_features(agent: Any, tree: dict[str, Any], given: dict[str, Any]) -> None:
    agent.feature_map = tree["features"] if given.get("feature_map") is None else given["feature_map"]
    if agent.feature_map is None:
        raise CheckpointError("its feature map is a function, which files do not hold: give it as feature_map")
    agent.dimension = int(tree["dimension"])
    if not callable(agent.feature_map):
        table = np.asarray(agent.feature_map)
        if table.shape != (agent.observation_space.n, agent.action_space.n, agent.dimension):
            raise ValueError("the table of features does not fit the spaces")
    agent._rows = {int(key): row for key, row in tree["rows"]}
    if isinstance(agent.observation_space, spaces.Discrete) and len(set(agent._rows.values())) != len(agent._rows):
        raise ValueError("two states share a row")


def _plan(plan: dict[str, Any]) -> PlanRecord:
    certificate = dict(plan["certificate"])
    low, high = certificate["gain_bracket"]
    certificate["gain_bracket"] = (_number(low), None if high is None else _number(high))
    for name, kind in (("in_set", bool), ("converged", bool), ("sweeps", int), ("clipped_states", int)):
        if type(certificate[name]) is not kind:
            raise ValueError(f"{name} of a plan is no {kind.__name__}")
    for name in ("discrepancy", "beta", "residual"):
        _number(certificate[name])
    return PlanRecord(int(plan["step"]), _number(plan["gain"]), Certificate(**certificate))


def _number(value: Any) -> float:
    if not isinstance(value, float) or not math.isfinite(value):
        raise ValueError("a number is missing or not finite")
    return value
