"""Networks, optimisers and free tensors of a Stable-Baselines3 algorithm, with exact dtypes."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from stable_baselines3.common.save_util import recursive_getattr
from torch import nn

from rlopt.errors import CheckpointError
from rlopt.storage.tree import Tree


def capture_networks(model: Any, copy: bool = True) -> Tree:
    """What ``model._get_torch_save_params()`` names: ``{"modules", "optimizers", "tensors"}``, each by name.

    :param copy: False gives the live tensors where they are on the CPU
    """
    names, tensor_names = model._get_torch_save_params()
    state: dict[str, dict[str, Tree]] = {"modules": {}, "optimizers": {}, "tensors": {}}
    for name in names:
        part = recursive_getattr(model, name)
        if isinstance(part, nn.Module):
            part = getattr(part, "_orig_mod", part)  # what torch.compile has wrapped
            state["modules"][name] = {key: _take(value, copy) for key, value in part.state_dict().items()}
        else:
            state["optimizers"][name] = capture_optimizer(part, copy)
    for name in tensor_names:
        state["tensors"][name] = _take(recursive_getattr(model, name), copy)
    return state


def check_networks(model: Any, state: Tree) -> None:
    """Raises CheckpointError, naming both sides, unless names, shapes and dtypes are the model's."""
    own = capture_networks(model, copy=False)
    for kind in ("modules", "optimizers", "tensors"):
        _check_names(f"{type(model).__name__}'s {kind}", own[kind], state[kind])
    for name, tensors in own["modules"].items():
        _check_names(name, tensors, state["modules"][name])
        for key, tensor in tensors.items():
            _check_tensor(f"{name}.{key}", tensor, state["modules"][name][key])
    for name, tensor in own["tensors"].items():
        _check_tensor(name, tensor, state["tensors"][name])
    for name in own["optimizers"]:
        check_optimizer_state(name, recursive_getattr(model, name), state["optimizers"][name])


def restore_networks(model: Any, state: Tree, optimizers: bool = True) -> None:
    """Copies a state that :func:`check_networks` accepted into ``model``, in place."""
    with torch.no_grad():
        for name, tensors in state["modules"].items():
            module = recursive_getattr(model, name)
            getattr(module, "_orig_mod", module).load_state_dict(tensors, strict=True)
        for name, tensor in state["tensors"].items():
            recursive_getattr(model, name).copy_(tensor)
    if optimizers:
        for name, saved in state["optimizers"].items():
            restore_optimizer(recursive_getattr(model, name), saved)


def _map_tensors(value: Tree, change: Callable[[torch.Tensor], torch.Tensor]) -> Tree:
    if isinstance(value, dict):
        return {key: _map_tensors(part, change) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_map_tensors(part, change) for part in value)
    return change(value) if isinstance(value, torch.Tensor) else value


def _take(value: Tree, copy: bool) -> Tree:
    return _map_tensors(value, lambda tensor: tensor.detach().clone() if copy else tensor)


def capture_optimizer(optimizer: torch.optim.Optimizer, copy: bool) -> Tree:
    """The optimiser's state dict, its parameters' integer keys turned into a list of pairs."""
    state_dict = optimizer.state_dict()
    groups = [
        {key: _take(value, copy) for key, value in group.items() if key != "params"} | {"params": len(group["params"])}
        for group in state_dict["param_groups"]
    ]
    moments = [
        [int(index), {k: _take(v, copy) for k, v in moment.items()}] for index, moment in state_dict["state"].items()
    ]
    return {"class": type(optimizer).__name__, "groups": groups, "state": moments, "size": len(moments)}


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def check_optimizer_state(name: str, optimizer: torch.optim.Optimizer, saved: Tree) -> None:
    """Raises CheckpointError unless ``saved`` is the state of an optimiser like this one; ``name`` is for people."""
    if saved["class"] != type(optimizer).__name__:
        raise CheckpointError(
            f"the checkpoint's {name} is {saved['class']}, this model's {type(optimizer).__name__}: use the same one"
        )
    sizes = [group["params"] for group in saved["groups"]]
    own_sizes = [len(group["params"]) for group in optimizer.param_groups]
    if sizes != own_sizes:
        raise CheckpointError(f"the checkpoint's {name} has {sizes} parameters in its groups, this model's {own_sizes}")
    trial = _Trial(optimizer)
    for saved_group, group, after in zip(saved["groups"], optimizer.param_groups, trial.groups, strict=True):
        # Some optimisers add a count to their settings at the first step.
        late = {key: value for key, value in after.items() if key not in optimizer.defaults and key != "params"}
        own = late | group
        found = {key: value for key, value in own.items() if key in saved_group or key not in late}
        _check_names(f"{name}'s settings", found, saved_group)
        for key, value in found.items():
            if key != "params" and not _same_kind(value, saved_group[key]):
                raise CheckpointError(f"the checkpoint's {name} has {key}={saved_group[key]!r}, this model's {value!r}")
    parameters = _parameters(optimizer)
    indices = [index for index, _ in saved["state"]]
    known = all(type(index) is int and 0 <= index < len(parameters) for index in indices)
    if not known or len(set(indices)) < len(indices) or len(indices) != saved["size"]:
        raise CheckpointError(f"the checkpoint's {name} has moments of parameters that do not exist: it is malformed")
    for index, moments in saved["state"]:
        template = trial.state[index]
        if template is not None and set(moments) != set(template):
            raise CheckpointError(f"the checkpoint's {name} has moments {sorted(moments)}, not {sorted(template)}")
        for key, value in moments.items():
            _check_moment(f"{name}'s {key}", value, parameters[index], None if template is None else template[key])


class _Trial:
    """What an optimiser like this one keeps after a step, on parameters of zeros; None where that cannot be tried."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        own = _parameters(optimizer)
        self.groups: list[dict[str, Any]] = [dict(group) for group in optimizer.param_groups]
        self.state: list[dict[str, Any] | None] = [None] * len(own)
        # Not rebuilt: what its constructor was given is not all among its defaults.
        trial = object.__new__(type(optimizer))
        trial.__dict__.update(optimizer.__dict__)
        trial.state = defaultdict(dict)
        dummies = [nn.Parameter(torch.zeros_like(parameter)) for parameter in own]
        remaining = iter(dummies)
        trial.param_groups = [
            {key: value for key, value in group.items() if key in optimizer.defaults}
            | {"params": [next(remaining) for _ in group["params"]]}
            for group in self.groups
        ]
        for dummy in dummies:
            # One that can be differentiated once more, for optimisers of second order.
            dummy.grad = torch.autograd.grad(dummy.square().sum(), dummy, create_graph=True)[0]
        devices = [own[0].device] if own[0].device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices):
                trial.step()
        except Exception:
            return
        self.groups = trial.param_groups
        self.state = [dict(trial.state[dummy]) for dummy in dummies]


def _check_moment(name: str, value: Tree, parameter: torch.Tensor, example: Any) -> None:
    shape, own_shape = tuple(getattr(value, "shape", ())), tuple(parameter.shape)
    fits = shape in ((), own_shape)
    if isinstance(example, torch.Tensor):
        expected = tuple(example.shape)
        fits = isinstance(value, torch.Tensor) and shape == expected and value.dtype == example.dtype
    elif isinstance(example, (list, tuple)):
        fits = type(value) is type(example) and len(value) == len(example)
        for part, own in zip(value, example, strict=True) if fits else ():
            _check_moment(name, part, parameter, own)
    elif isinstance(example, dict):
        fits = isinstance(value, dict) and set(value) == set(example)
        for key, own in example.items() if fits else ():
            _check_moment(f"{name}[{key}]", value[key], parameter, own)
    elif example is not None:
        fits = type(value) is type(example)
    if not fits:
        raise CheckpointError(
            f"the checkpoint's {name} is {type(value).__name__} of shape {shape} for a parameter of shape {own_shape}"
        )


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: Tree) -> None:
    """Puts a state that :func:`check_optimizer_state` accepted into ``optimizer``."""
    parameters = _parameters(optimizer)
    for group, saved_group in zip(optimizer.param_groups, saved["groups"], strict=True):
        for key in set(group) - set(saved_group):
            del group[key]
        group.update({key: _copy_of(value, None) for key, value in saved_group.items() if key != "params"})
    # Not load_state_dict: it casts moments to the parameters' dtype.
    optimizer.state.clear()
    for index, moments in saved["state"]:
        parameter = parameters[index]
        group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
        on_device = bool(group.get("capturable") or group.get("fused"))
        optimizer.state[parameter] = {
            key: _copy_of(value, None if key == "step" and not on_device else parameter.device)
            for key, value in moments.items()
        }


def _copy_of(value: Tree, device: torch.device | None) -> Tree:
    return _map_tensors(value, lambda tensor: tensor.detach().clone().to(device))


def _same_kind(own: Any, saved: Any) -> bool:
    if own is None or saved is None:
        return isinstance(own, (bool, type(None))) and isinstance(saved, (bool, type(None)))
    if isinstance(own, (tuple, list)):
        return type(own) is type(saved) and len(own) == len(saved) and all(map(_same_kind, own, saved))
    return type(own) is type(saved)


def _check_names(what: str, own: Any, saved: Any) -> None:
    if not isinstance(saved, dict) or set(own) != set(saved):
        extra = sorted(set(saved) - set(own))[:3] if isinstance(saved, dict) else saved
        raise CheckpointError(
            f"the checkpoint is of another network: {what} should be {sorted(set(own) - set(extra))[:3]}..., it has "
            f"{extra or 'fewer'}: build the model with the settings it was trained with"
            if isinstance(saved, dict)
            else f"the checkpoint has no {what}: it is malformed"
        )


def _check_tensor(name: str, own: Tree, saved: Tree) -> None:
    if not isinstance(own, torch.Tensor):
        return
    if not isinstance(saved, torch.Tensor) or saved.shape != own.shape or saved.dtype != own.dtype:
        shape = f"{saved.dtype} {tuple(saved.shape)}" if isinstance(saved, torch.Tensor) else type(saved).__name__
        raise CheckpointError(
            f"the checkpoint has {name} of {shape}, this model of {own.dtype} {tuple(own.shape)}: build the model with "
            "the settings it was trained with"
        )
