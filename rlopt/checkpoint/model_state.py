"""Captures the whole training state of a Stable-Baselines3 algorithm between two rollouts, and restores it exactly.

The state has six parts: the model's description, networks with their optimisers, the replay buffer, the environments
with their wrappers, what the algorithm itself counts and remembers (:mod:`rlopt.checkpoint.counters`), and every random
state. What the constructor's arguments decide is not state: a checkpoint is restored into a model that was built with
the same settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rlopt.checkpoint.buffers import capture_buffer, check_buffer, restore_buffer
from rlopt.checkpoint.counters import capture_training, check_training, restore_counters, restore_log, restore_training
from rlopt.checkpoint.describe import describe_model, describe_spaces
from rlopt.checkpoint.files import write_checkpoint
from rlopt.errors import CheckpointError, RloptError, one_line
from rlopt.replay.rows import cut_episodes
from rlopt.state.envs import capture_env, capture_wrappers, check_wrappers, copy_arrays, restore_env, restore_wrappers
from rlopt.state.networks import capture_networks, check_networks, restore_networks
from rlopt.state.rng import capture_random, restore_random
from rlopt.storage.spaces import decode_space
from rlopt.storage.tree import Tree


@runtime_checkable
class OwnState(Protocol):
    """Interface of a model that is not a Stable-Baselines3 algorithm: it captures and restores its own state."""

    num_timesteps: int
    boundary_hook: Callable[[Any], bool] | None

    def learn(self, total_timesteps: int, *, reset_num_timesteps: bool = True, **learn_kwargs: Any) -> Any:
        """As Stable-Baselines3's."""
        ...

    def training_trees(self) -> dict[str, Tree]:
        """The state of the model and of its environment, as trees by name."""
        ...

    def restore_training(self, trees: Mapping[str, Tree]) -> str | None:
        """Puts the model into a captured state; returns a sentence if the environment's state could not be restored.

        :raises rlopt.errors.CheckpointError: the state is of another agent or environment
        """
        ...


def capture_state(model: Any, copy: bool = True) -> dict[str, Tree]:
    """The training state of ``model`` as trees by name, ready for :func:`rlopt.checkpoint.files.write_checkpoint`.

    Call it at a boundary only (:class:`rlopt.algorithms.resumable.Resumable`): elsewhere part of the state is in local
    variables of Stable-Baselines3.

    :param copy: False gives views of the tensors and buffers: they take no memory, and must be written before training
        continues
    :raises rlopt.errors.ConfigError: a constructor setting cannot be described safely; it is named, with the cure
    :raises rlopt.errors.CheckpointError: a replay buffer, noise or attribute cannot be captured; it is named
    """
    if isinstance(model, OwnState):
        return model.training_trees()
    return {
        "model": describe_model(model),
        "networks": capture_networks(model, copy),
        "replay": capture_buffer(getattr(model, "replay_buffer", None), copy),
        "env": {"available": False, "reason": "the model had no environment", "base": None, "wrappers": []}
        if model.env is None
        else capture_env(model.env),
        "training": capture_training(model),
        "random": capture_random(model.action_space),
    }


@dataclass
class LastBoundary:
    """What is needed to write the state of a model's last boundary after its environment failed.

    Networks and replay buffer need no copy: between two boundaries only steps are taken. Agents without a replay buffer
    keep the rest of their state, so that they continue exactly. With a replay buffer, whose boundaries may be a step
    apart, only statistics are kept, all transitions stay, and fresh episodes begin.
    """

    step: int
    wrappers: list[Tree] | None
    """Of the environments, with the statistics of a VecNormalize, into which a NaN may come; None without one."""
    trees: dict[str, Tree] | None
    """The state beside networks and replay buffer; None where fresh episodes will begin."""

    @classmethod
    def of(cls, model: Any, whole: bool) -> LastBoundary:
        """Called at a boundary.

        :param whole: whether to keep what an exact continuation needs, which takes longer
        """
        step, normalized = int(model.num_timesteps), getattr(model, "_vec_normalize_env", None) is not None
        wrappers = capture_wrappers(model.env) if normalized else None
        if not whole or model.env is None or getattr(model, "replay_buffer", None) is not None:
            return cls(step, wrappers, None)
        if isinstance(model, OwnState):
            return cls(step, wrappers, copy_arrays(model.training_trees()))
        trees = {"training": capture_training(model), "random": capture_random(model.action_space)}
        return cls(step, wrappers, {**trees, "env": copy_arrays(capture_env(model.env))})

    def capture_state(self, model: Any, reason: str) -> tuple[int, dict[str, Tree]] | None:
        """Step and trees of a checkpoint of the last boundary, as :func:`capture_state`; None where it is lost.

        :param model: whose environment has failed since
        :param reason: of the fresh episodes, where they will begin, for people
        """
        wrappers = capture_wrappers(model.env) if self.wrappers is None else self.wrappers
        env = {"available": False, "reason": reason, "base": None, "wrappers": wrappers}
        if isinstance(model, OwnState):
            if self.trees is not None:
                return self.step, self.trees
            trees = model.training_trees()
            # Where the environment is part of the state, the state is whole after every step, else at boundaries only.
            return (int(model.num_timesteps), {**trees, "env": env}) if "env" in trees else None
        replay = getattr(model, "replay_buffer", None)
        trees = {
            "model": describe_model(model),
            "networks": capture_networks(model, copy=False),
            "replay": capture_buffer(replay, copy=False),
        }
        if self.trees is not None:
            return self.step, {**trees, **self.trees}
        training = capture_training(model)
        if replay is None:  # the unfinished rollout is lost
            training["num_timesteps"] = self.step
        trees |= {"training": training, "env": env, "random": capture_random(model.action_space)}
        return training["num_timesteps"], trees


def has_episodes(trees: Mapping[str, Tree]) -> bool:
    """Whether a captured state has that of the running episodes; fresh ones begin where it has not."""
    env = trees.get("env")
    return not isinstance(env, Mapping) or env.get("available", True) is not False


def save_checkpoint(model: Any, parent: Path, metadata: Mapping[str, Any] | None = None) -> Path:
    """Writes ``model``'s state, at a boundary, to ``parent/step-<num_timesteps>``; returns that folder.

    Raises as :func:`capture_state` and :func:`rlopt.checkpoint.files.write_checkpoint` do.
    """
    return write_checkpoint(Path(parent), int(model.num_timesteps), capture_state(model, copy=False), metadata or {})


def restore_state(model: Any, trees: Mapping[str, Tree]) -> str | None:
    """Puts ``model``, built with the same settings on fresh environments, into a captured state.

    Everything is compared with the model before anything is changed. To continue exactly, call :func:`learn_from`
    instead: ``learn`` changes part of the state when it begins.

    :returns: None; or, if the environments' state could not be captured or restored, a sentence that says why. The
        environments are then reset, and fresh episodes begin
    :raises rlopt.errors.CheckpointError: the state is of another agent, of other spaces or shapes, or malformed
    """
    missing = {"model", "networks", "replay", "env", "training", "random"} - set(trees)
    if missing:
        raise CheckpointError(f"the checkpoint has no {', '.join(sorted(missing))}: it holds no training state")
    if model.env is None:
        raise CheckpointError("the model has no environment: call set_env before restoring its training state")

    networks: Tree = {}

    def check() -> None:
        check_model(model, trees["model"])
        networks.update(model.fitted_networks(trees["networks"]))
        check_networks(model, networks)
        check_buffer(getattr(model, "replay_buffer", None), trees["replay"])
        check_wrappers(model.env, trees["env"])
        check_training(model, trees["training"])

    def restore() -> str | None:
        restore_networks(model, networks)
        restore_buffer(getattr(model, "replay_buffer", None), trees["replay"])
        reason = restore_env(model.env, trees["env"])
        restore_training(model, trees["training"])
        if reason is not None:
            _begin_episodes(model)
        # Last, because everything above may draw random numbers.
        restore_random(trees["random"], model.action_space)
        return None if reason is None else f"fresh episodes: the running ones are not restored ({reason})"

    _guarded(model, check)
    return _guarded(model, restore)


def learn_from(
    model: Any,
    trees: Mapping[str, Tree],
    total_timesteps: int,
    *,
    report: Callable[[str | None], None] | None = None,
    **learn_kwargs: Any,
) -> Any:
    """Restores ``trees`` into ``model`` and trains on to ``total_timesteps`` as if it had never been stopped.

    :param total_timesteps: steps of the whole run, including those already done. Schedules continue bit for bit only
        with the number that the first ``learn`` was given
    :param report: called when the state is restored, with a sentence if fresh episodes begin (see
        :func:`restore_state`), else with None
    :param learn_kwargs: further arguments of ``model.learn``
    :returns: the model
    :raises rlopt.errors.CheckpointError: as :func:`restore_state`
    """
    if isinstance(model, OwnState):
        fresh_episodes = _guarded(model, lambda: model.restore_training(trees))
    else:
        fresh_episodes = restore_state(model, trees)
    if report is not None:
        report(fresh_episodes)
    if model.num_timesteps >= total_timesteps:
        return model
    if isinstance(model, OwnState):
        return model.learn(total_timesteps - model.num_timesteps, reset_num_timesteps=False, **learn_kwargs)
    own_hook = model.boundary_hook

    def first_boundary(learner: Any) -> bool:
        # By now learn() has reset the action noise, replaced the logger and set counters of its own: what it changed
        # is restored again here, before the first step.
        learner.boundary_hook = own_hook
        if trees["training"]["last_obs"] is None:
            pass  # captured before its first learn(): what learn() did to begin is right
        elif fresh_episodes is None:
            _guarded(learner, lambda: _restore_after_setup(learner, trees))
        else:
            _guarded(learner, lambda: _restore_progress(learner, trees["training"]))
        learner._total_timesteps = total_timesteps
        return own_hook is None or own_hook(learner)

    model.boundary_hook = first_boundary
    try:
        model.learn(total_timesteps - model.num_timesteps, reset_num_timesteps=False, **learn_kwargs)
    finally:
        if model.boundary_hook is first_boundary:
            model.boundary_hook = own_hook
    return model


def check_model(model: Any, description: Tree) -> None:
    """Raises CheckpointError, naming both, if a checkpoint is of another agent, other spaces or another ``n_envs``."""
    own = describe_spaces(model)
    cure = "restore it into a model of the same agent, environment and n_envs"
    for key in ("agent", "n_envs"):
        if description[key] != own[key]:
            raise CheckpointError(f"the checkpoint has {key} {description[key]!r}, this model {own[key]!r}: {cure}")
    for key in ("observation_space", "action_space"):
        if description[key] != own[key]:
            saved = decode_space(description[key])
            raise CheckpointError(f"the checkpoint has {key} {saved}, this model {getattr(model, key)}: {cure}")


def _guarded(model: Any, action: Callable[[], Any]) -> Any:
    """Runs ``action``; whatever error a malformed state causes becomes a CheckpointError."""
    try:
        return action()
    except RloptError:
        raise
    except Exception as error:
        kind = type(model).__name__
        raise CheckpointError(
            f"the checkpoint's state does not fit this {kind} ({type(error).__name__}: {one_line(error)}): "
            "it is malformed or of other versions"
        ) from error


def _restore_after_setup(model: Any, trees: Mapping[str, Tree]) -> None:
    restore_wrappers(model.env, trees["env"])
    restore_training(model, trees["training"])
    restore_random(trees["random"], model.action_space)


def _restore_progress(model: Any, training: Tree) -> None:
    restore_counters(model, training)
    restore_log(model, training["log"])


def _begin_episodes(model: Any) -> None:
    """Resets the environments and everything that belongs to a running episode."""
    cut_episodes(getattr(model, "replay_buffer", None))
    model._last_obs = model.env.reset()
    model._last_episode_starts = np.ones((model.env.num_envs,), dtype=bool)
    if model._vec_normalize_env is not None:
        model._last_original_obs = model._vec_normalize_env.get_original_obs()
    if model.action_noise is not None:
        model.action_noise.reset()
