"""Policy searches as folders of safetensors and JSON, never a pickle."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from rlopt.agents.zo_ranksgd import parallel
from rlopt.agents.zo_ranksgd.config import EXECUTION_SETTINGS
from rlopt.agents.zo_ranksgd.parallel import ParallelSearch
from rlopt.errors import CheckpointError, one_line
from rlopt.feedback.oracles import OracleFiles
from rlopt.storage.checked_folder import FolderKind, read_object, replace_checked
from rlopt.storage.spaces import decode_space, encode_space, least_inputs

if TYPE_CHECKING:
    from rlopt.agents.zo_ranksgd.policies.search import RankedPolicySearch

KIND = FolderKind("policy search", "rlopt-zo-ranksgd-policy")
_COUNTERS = ("num_timesteps", "num_episodes", "num_queries")
Search = TypeVar("Search", bound="RankedPolicySearch")


def save(search: RankedPolicySearch, path: Path) -> Path:
    """See :meth:`rlopt.agents.zo_ranksgd.policies.search.RankedPolicySearch.save`."""
    return replace_checked(path, KIND, {"agent": tree_of(search)})


def tree_of(search: RankedPolicySearch) -> dict[str, Any]:
    """Everything that the search is and has found; its environments are not."""
    return {**_identity(search), **progress_of(search)}


def _identity(search: RankedPolicySearch) -> dict[str, Any]:
    named = isinstance(search._given_policy, str)
    if not hasattr(search, "optimizer"):
        raise CheckpointError("the search has no environment yet, so no policy: give it one before saving")
    settings = _plain(dataclasses.asdict(search.config))
    return {
        "settings": {name: value for name, value in settings.items() if name not in EXECUTION_SETTINGS},
        "policy": search._given_policy if named else None,
        "policy_kwargs": _plain(search._policy_kwargs) if named else None,
        "oracle": None if search.oracle is None else OracleFiles.encode(search.oracle),
        "normalize_observations": search.normalize_observations,
        "seed": search.seed,
        "observation_space": encode_space(search.observation_space),
        "action_space": encode_space(search.action_space),
    }


def progress_of(search: RankedPolicySearch) -> dict[str, Any]:
    """What a round changes."""
    state, arrays = search.optimizer.state_dict()
    return {
        **{name: getattr(search, name) for name in _COUNTERS},
        "optimizer": {"state": state, "arrays": arrays},
        "normalizer": search.normalizer.get_state(),
        "episodes": [[float(episode["r"]), int(episode["l"])] for episode in search.ep_info_buffer],
        "log_values": dict(search.log_values),
    }


def put_progress(search: RankedPolicySearch, tree: Mapping[str, Any]) -> None:
    """Puts a search of the same settings where :func:`progress_of` found it; any error for what is malformed."""
    counters = [tree[name] for name in _COUNTERS]
    if not all(type(value) is int and value >= 0 for value in counters):
        raise ValueError("a counter is not a whole number")
    episodes = [{"r": float(value), "l": int(length)} for value, length in tree["episodes"]]
    log_values = {str(name): float(value) for name, value in tree["log_values"].items()}
    if not np.isfinite([episode["r"] for episode in episodes] + list(log_values.values())).all():
        raise ValueError("a return is not finite")
    search.normalizer.set_state(tree["normalizer"])
    state = tree["optimizer"]["state"]
    if state.get("format") == parallel.FORMAT and not isinstance(search.optimizer, ParallelSearch):
        together: Any = ParallelSearch(search.optimizer, state["rounds"], state["ahead"])
        search.optimizer = together
    search.optimizer.load_state_dict(state, tree["optimizer"]["arrays"])
    search.num_timesteps, search.num_episodes, search.num_queries = counters
    search.ep_info_buffer.clear()
    search.ep_info_buffer.extend(episodes)
    search.log_values = log_values
    search._sync()


def restore(search: RankedPolicySearch, tree: Any) -> None:
    """See :meth:`rlopt.agents.zo_ranksgd.policies.search.RankedPolicySearch.restore_training`."""
    own = _identity(search)
    usual = _plain(dataclasses.asdict(type(search.config)()))  # what a former version did not know
    saved = {**tree, "settings": {**{name: usual[name] for name in own["settings"]}, **tree["settings"]}}
    for name, value in own.items():
        if saved[name] != value:
            raise CheckpointError(f"the checkpoint has another {name} than this search: resume its own run")
    put_progress(search, tree)


def load(search_class: type[Search], path: Path, env: Any, device: str, given: dict[str, Any]) -> Search:
    """See :meth:`rlopt.agents.zo_ranksgd.policies.search.RankedPolicySearch.load`."""
    return read_object(
        path, KIND, search_class.__name__, lambda tree: from_tree(search_class, tree, env, device, given)
    )


def from_tree(
    search_class: type[Search], tree: Any, env: Any = None, device: str = "auto", given: dict[str, Any] | None = None
) -> Search:
    """The search of :func:`tree_of`.

    :raises rlopt.errors.CheckpointError: it has a policy that must be given
    :raises ValueError: a malformed tree; other errors of a damaged one may be of any kind
    """
    given = given or {}
    settings = dict(tree["settings"])
    policy = given.get("policy", tree["policy"])
    if policy is None:
        raise CheckpointError("its policy is a class or an object, which files do not hold: give it as policy")
    settings.pop("policy")
    named = settings.pop("oracle")
    search = search_class(
        policy,
        None,
        oracle=named,
        normalize_observations=tree["normalize_observations"] is True,
        policy_kwargs=given.get("policy_kwargs", tree["policy_kwargs"]),
        seed=tree["seed"],
        device=device,
        engine=given.get("engine"),
        **settings,
    )
    search.oracle = given.get("oracle", None if tree["oracle"] is None else OracleFiles.decode(tree["oracle"]))
    spaces = [decode_space(tree[name]) for name in ("observation_space", "action_space")]
    _refuse_large(tree, max(map(least_inputs, spaces)))
    search._make(*spaces)
    put_progress(search, tree)
    if env is not None:
        search.set_env(env)
    return search


def _refuse_large(tree: Any, inputs: int) -> None:
    """Refuses network sizes that the stored parameters cannot fill, before memory is taken for them."""
    from rlopt.checkpoint.load import require_parameters, require_widths

    arrays = tree["optimizer"]["arrays"]
    stored = int(np.asarray(arrays["point"] if "point" in arrays else arrays["search.point"]).size)
    require_parameters(inputs, stored)
    if tree["policy"] != "LinearPolicy":
        require_widths([{"net_arch": tree["settings"]["net_arch"], **(tree["policy_kwargs"] or {})}], stored)


def _plain(value: Any) -> Any:
    """Tuples as the lists that JSON makes of them; a named policy's arguments must be plain."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise CheckpointError(
        f"policy_kwargs hold {one_line(repr(value))}, which files do not: name it, such as activation_fn='tanh'"
    )
