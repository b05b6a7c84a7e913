"""Optimisers by name, tried out before a run depends on them."""

import functools
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rlopt.errors import ConfigError, UnknownNameError, one_line, unknown_name
from rlopt.state.networks import capture_optimizer, check_optimizer_state, restore_optimizer
from rlopt.storage.tree import TreeWriter, decode

SECOND_ORDER = ("AdaHessian", "SophiaH")
"""Classes of pytorch_optimizer whose step differentiates the gradient once more, and so needs its graph."""
_OWN: dict[str, type[torch.optim.Optimizer]] = {
    name.lower(): value
    for name, value in vars(torch.optim).items()
    if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
}
_TRIAL_STEPS = 3


def optimizer_by_name(name: str) -> type[torch.optim.Optimizer]:
    """The class of that name in torch.optim or, if it is installed, in pytorch_optimizer.

    Case, ``-`` and ``_`` do not matter: "SGD-SaI" is "sgdsai".

    :raises rlopt.errors.UnknownNameError: there is none, with the nearest name
    """
    key = re.sub(r"[-_\s]", "", name).lower()
    if key in _OWN:
        return _OWN[key]
    try:
        from pytorch_optimizer import get_supported_optimizers, load_optimizer
    except ImportError:
        error = unknown_name("optimizer", name, _OWN)
        raise UnknownNameError(f"{error} (of torch.optim; more names come with pip install 'rlopt[optim]')") from None
    further = get_supported_optimizers()
    if key not in further:
        raise unknown_name("optimizer", name, [*_OWN, *further])
    found: type[torch.optim.Optimizer] = load_optimizer(key)
    return found


def optimizer_name(cls: type) -> str | None:
    """The name that :func:`optimizer_by_name` finds this very class by; None if there is none."""
    if not issubclass(cls, torch.optim.Optimizer):
        return None
    try:
        return cls.__name__ if optimizer_by_name(cls.__name__) is cls else None
    except ConfigError:
        return None


def is_second_order(optimizer: torch.optim.Optimizer | type[torch.optim.Optimizer]) -> bool:
    """Whether its step needs the gradient's graph."""
    cls = optimizer if isinstance(optimizer, type) else type(optimizer)
    return cls.__name__ in SECOND_ORDER and cls.__module__.startswith("pytorch_optimizer.")


def check_optimizer(cls: type[torch.optim.Optimizer], options: Mapping[str, Any]) -> None:
    """Raises :class:`rlopt.errors.ConfigError` unless ``cls`` with ``options`` can train here and be resumed exactly.

    The check runs a small problem: the optimiser takes steps without a closure on a matrix and a vector, and after its
    state has been saved and restored, it must take the same steps bit for bit.
    """
    name = cls.__name__
    settings = ", ".join(f"{key}={value!r}" for key, value in options.items() if key != "lr") or "its defaults"
    try:
        with torch.random.fork_rng(devices=[]):
            exact = _resumes(cls, options)
    except Exception as error:
        raise ConfigError(
            f"the optimizer {name} cannot be used with {settings} ({type(error).__name__}: {one_line(error)}): change "
            "optimizer_kwargs, or take another one"
        ) from error
    if not exact:
        raise ConfigError(
            f"the optimizer {name} with {settings} keeps state that cannot be saved, so that no run could be resumed "
            "exactly: take another one"
        )


def _resumes(cls: type[torch.optim.Optimizer], options: Mapping[str, Any]) -> bool:
    make: Any = functools.partial(cls, **{"lr": 1e-3, **options})
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))]
    first = make(ours)
    _walk(first, ours)
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    second = make(theirs)
    writer = TreeWriter()
    encoded = writer.encode(capture_optimizer(first, copy=True), ("optimizer",))
    saved = decode(encoded, lambda name: writer.tensors[name].clone())
    check_optimizer_state("optimizer", second, saved)
    restore_optimizer(second, saved)
    for optimizer, parameters in ((first, ours), (second, theirs)):
        torch.manual_seed(1)
        _walk(optimizer, parameters)
    return all(map(torch.equal, ours, theirs))


def _walk(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    inputs = torch.randn(_TRIAL_STEPS, 8, 3)
    for rows in inputs:
        loss = (rows @ parameters[0].T + parameters[1]).tanh().square().mean()
        descend(optimizer, loss)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, only_own: bool = False) -> None:
    """``zero_grad``, ``backward`` and ``step``; with the gradient's graph for an optimiser of second order.

    :param only_own: compute the gradients of this optimiser's parameters alone, not of all that the loss depends on
    """
    optimizer.zero_grad()
    if is_second_order(optimizer):
        fill_gradients(optimizer, loss)
        optimizer.step()
        optimizer.zero_grad()  # or the graph would hang on the gradients
        return
    loss.backward(inputs=own_parameters(optimizer) if only_own else None)
    optimizer.step()


def fill_gradients(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Gives the optimiser's parameters their gradients, which can be differentiated once more."""
    parameters = own_parameters(optimizer)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def own_parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What it trains, group after group, without what is frozen."""
    return [tensor for group in optimizer.param_groups for tensor in group["params"] if tensor.requires_grad]


def is_watched(optimizer: torch.optim.Optimizer) -> bool:
    """Whether somebody has hooks on its step, or has put another function in its place, as torch's schedulers do."""
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool("step" in vars(optimizer) or hooks)
