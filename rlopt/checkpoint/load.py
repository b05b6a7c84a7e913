"""``rlopt.load``: reads a model from a run folder or a checkpoint, without pickle."""

import re
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from rlopt.algorithms.spaces_only_env import SpacesOnlyVecEnv
from rlopt.checkpoint.counters import restore_counters
from rlopt.checkpoint.describe import decode_setting, rebuild_model
from rlopt.checkpoint.files import MANIFEST, Checkpoint, latest_checkpoint, list_checkpoints, read_checkpoint
from rlopt.envs.backends.vector_env import as_vec_env
from rlopt.errors import CheckpointError, RloptError, RunError, UnknownNameError, one_line, resource_error
from rlopt.registry import AgentSpec, agent_spec, resolve
from rlopt.replay.memory import deferred_storage
from rlopt.run_folder import named_run, read_json, run_folders
from rlopt.settings.device import check_device
from rlopt.state.envs import find_normalization, give_wrapper_statistics, restore_normalization
from rlopt.state.isolate import isolated
from rlopt.state.networks import check_networks, restore_networks
from rlopt.storage.budget import Budget
from rlopt.storage.spaces import decode_space, least_inputs
from rlopt.storage.tree import Tree

_NEEDED = ("model", "networks", "env", "training")
_READ = (*_NEEDED, "agent")
_BYTES_OF_A_PARAMETER = 32
"""Bounds of an observation are two numbers of up to eight bytes, or of one byte for each of sixteen pixels."""
_STEP = re.compile(r"(?:\.replaced-)?step-\d{12,18}")
"""Names of checkpoints. A killed write may have left the old one under its second name."""


def load(path: str | Path, env: VecEnv | None = None, device: str = "auto") -> Any:
    """Loads a trained model without executing anything in its files.

    ``predict`` takes raw observations; if the run normalised them, the model has the statistics. If ``env`` (or a later
    argument of ``set_env``) is wrapped in VecNormalize, the statistics go into that instead. The replay buffer and the
    simulator's state are not loaded; use ``rlopt resume`` to continue a run exactly.

    :param path: a run folder (its newest undamaged checkpoint is taken), ``RUN/best`` (the best in evaluation), a
        folder of checkpoints, or one checkpoint; ``rlopt/half-cheetah`` and the like are agents that come with rlopt
    :param env: an environment with the same spaces, for further training; its number of environments may differ
    :param device: "auto", "cpu", "cuda", ...
    :returns: the Stable-Baselines3 algorithm
    :raises rlopt.errors.CheckpointError: there is no checkpoint, it is damaged, or it does not fit ``env``
    :raises rlopt.errors.ConfigError: ``device`` cannot be used
    """
    check_device(device)
    env = as_vec_env(env)
    checkpoint = _find(Path(path))
    try:
        spec = _spec_of(checkpoint)
        if spec is not None and spec.loader:
            return resolve(spec.loader)(resolve(spec.algorithm), checkpoint.trees, env)
        missing = set(_NEEDED) - set(checkpoint.trees)
        if missing:
            raise CheckpointError(f"{checkpoint.path} has no {', '.join(sorted(missing))}: it holds no model")
        return _build(checkpoint.trees, env, device)
    except RloptError:
        raise
    except Exception as error:
        if (lack := resource_error(error, f"{checkpoint.path} cannot be loaded")) is not None:
            raise lack from error
        raise CheckpointError(
            f"{checkpoint.path} does not hold a model ({type(error).__name__}: {one_line(error)}): it is malformed "
            "or of another version"
        ) from error


def _spec_of(checkpoint: Checkpoint) -> AgentSpec | None:
    """The registry's entry of the agent that wrote a checkpoint; None if the checkpoint names no agent."""
    name = checkpoint.metadata.get("agent")
    try:
        return agent_spec(name) if isinstance(name, str) else None
    except UnknownNameError as error:
        raise CheckpointError(f"the checkpoint's agent cannot be built: {error}") from error


def _build(trees: dict[str, Tree], env: VecEnv | None, device: str) -> Any:
    description = trees["model"]
    modules = trees["networks"]["modules"].values()
    stored = sum(getattr(tensor, "numel", int)() for tensors in modules for tensor in tensors.values())
    budget = Budget(_BYTES_OF_A_PARAMETER * stored + 2**16)
    for name in ("observation_space", "action_space"):
        require_parameters(least_inputs(decode_space(description[name], budget)), stored)
    require_widths(decode_setting(description["settings"].get("policy_kwargs"), budget), stored)
    description = _with_counted_critics(description, trees["networks"]["modules"])
    # A constructor seeds the global generators, which loading must not; and a model that only acts needs no replay.
    with isolated(None), deferred_storage():
        model = rebuild_model(description, env, device)
    networks = model.fitted_networks(trees["networks"])
    check_networks(model, networks)
    restore_networks(model, networks)
    restore_counters(model, trees["training"])
    if env is None:
        model.env = None
    model.wrapper_statistics = trees["env"].get("statistics", [])
    if env is not None:
        give_wrapper_statistics(env, model.wrapper_statistics)
    statistics = find_normalization(trees["env"])
    if statistics is not None and statistics["norm_obs"]:
        if model._vec_normalize_env is not None:
            restore_normalization(model._vec_normalize_env, statistics, statistics_only=True)
        else:
            model.observation_statistics = _normalizer(description, statistics)
    return model


def _with_counted_critics(description: Tree, modules: Tree) -> Tree:
    """Critics of an IQ-Learn that Python has made with version 0.1, which did not write how many: they are counted."""
    options = description["settings"].get("policy_kwargs")
    stated = options is not None and "n_critics" in options.get("items", options)
    if description["agent"] != "iq_learn" or stated:
        return description
    count = len({name.split(".")[1] for name in modules["policy"] if name.startswith("critic.qf")})
    items = {} if options is None else options["items"]
    options = {"type": "dict", "items": {**items, "n_critics": count}}
    return {**description, "settings": {**description["settings"], "policy_kwargs": options}}


def _normalizer(description: Tree, statistics: Tree) -> VecNormalize:
    """A VecNormalize without environments, used for its arithmetic alone."""
    spaces = [decode_space(description[name]) for name in ("observation_space", "action_space")]
    env = SpacesOnlyVecEnv(description["n_envs"], *spaces)
    normalizer = VecNormalize(env, training=False, norm_obs_keys=statistics["norm_obs_keys"])
    restore_normalization(normalizer, statistics, statistics_only=True)
    return normalizer


def _find(path: Path) -> Checkpoint:
    """Reads the checkpoint that ``path`` means; see :func:`load`."""
    path = named_run(path)
    if path.is_file():
        raise CheckpointError(
            f"{path} is a file, rlopt.load reads folders: for Stable-Baselines3's zip use the agent's own load (such "
            "as rlopt.MDPO.load), and only if you trust its source, because that unpickles"
        )
    if (path / MANIFEST).exists() or _STEP.fullmatch(path.name):
        return read_checkpoint(path, _READ)
    if path.name == "best" and not path.exists():
        return read_checkpoint(_best(path.parent), _READ)
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist: give a run folder or a checkpoint folder")
    parent = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    if not list_checkpoints(parent):
        if (runs := run_folders(path)) != [path]:
            raise CheckpointError(f"{path} holds the runs {', '.join(run.name for run in runs)}: give one of them")
        raise CheckpointError(f"{path} holds no checkpoint: give a run folder or a checkpoint folder")
    return latest_checkpoint(parent, lambda line: warnings.warn(line, stacklevel=4), _READ)


def _best(run: Path) -> Path:
    try:
        name = read_json(run / "best.json")["checkpoint"]
    except (RunError, KeyError, TypeError):
        raise CheckpointError(f"{run} has no best checkpoint (best.json): give the run folder itself") from None
    if not isinstance(name, str) or not _STEP.fullmatch(name):
        raise CheckpointError(f"{run / 'best.json'} names no checkpoint: give the run folder itself")
    return run / "checkpoints" / name


def require_parameters(needed: int, stored: int) -> None:
    """Refuses networks that ``stored`` parameters cannot fill, before memory is taken for them.

    :raises rlopt.errors.CheckpointError: more are ``needed``
    """
    if needed > stored:
        raise CheckpointError(f"the checkpoint asks for larger networks than the {stored} parameters it holds")


def require_widths(policy_kwargs: Tree, stored: int) -> None:
    """:func:`require_parameters` for sizes of networks: a layer of width w has at least w parameters, and two
    neighbours of widths v and w have v * w.
    """
    require_parameters(max(_integers(policy_kwargs), default=0), stored)
    joined = sum(v * w for v, w in _neighbours(policy_kwargs))
    if isinstance(policy_kwargs, dict) and type(critics := policy_kwargs.get("n_critics")) is int:
        widths = policy_kwargs.get("net_arch")
        widths = widths.get("qf") if isinstance(widths, dict) else widths
        joined += (critics - 1) * max(sum(v * w for v, w in _neighbours(widths)), 1)
    require_parameters(joined, stored)


def _integers(value: Tree) -> Iterator[int]:
    if type(value) is int:
        yield value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for part in parts:
        yield from _integers(part)


def _neighbours(value: Tree) -> Iterator[tuple[int, int]]:
    if isinstance(value, (list, tuple)) and all(type(width) is int for width in value):
        yield from pairwise(value)
        return
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for part in parts:
        yield from _neighbours(part)
