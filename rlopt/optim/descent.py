"""The gradient step of an agent, written once: a function of networks, which stand for their parameters.

The same function runs in two ways. With :class:`OwnNetworks` modules are called as they are and torch's optimisers move
their parameters. With :class:`rlopt.optim.held_networks.HeldNetworks` it is a function of tensors, which can be
compiled, captured in a CUDA graph, and mapped over several models at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.utils._pytree import register_pytree_node

from rlopt.errors import ConfigError
from rlopt.nn.stacked import plain_adam
from rlopt.optim.clipped_step import ClippedStep
from rlopt.optim.optimizers import descend, is_watched, own_parameters

Scalar = Tensor | float
Objective = Callable[..., tuple[Tensor, Any]]
"""The loss, a scalar, of a :class:`Network` and further arguments, and what else of it is wanted, detached."""
JointObjective = Callable[..., tuple[dict[str, Tensor], Any]]
"""The same for several networks: a loss of each, by name."""
HOLD = "hold"
"""In what comes with a loss, where that is a dict: a bool scalar. Where it is true, the rest of the step moves
nothing."""
_DRAWING_OR_COUNTING = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.dropout._DropoutNd,
    nn.RNNBase,
    nn.RReLU,
    nn.utils.parametrizations._SpectralNorm,
)
_KNOWN = ("torch.", "stable_baselines3.", "rlopt.")
"""Beginnings of the modules whose classes change no buffers in a forward pass but for those above."""

MEMBER = "*."
"""Begins the names of stacked parameters of an ensemble's members."""


@dataclass(frozen=True)
class Part:
    """A network, or plain tensors by name, that a gradient step reads or changes."""

    module: nn.Module | None = None
    optimizer: torch.optim.Optimizer | None = None
    """What moves it; None for what is not trained, such as a target network."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors that belong to no module."""
    ensemble: Sequence[str] = ()
    """Names of submodules of ``module`` that may be alike: those are then one batched network."""
    max_grad_norm: float | None = None
    """Euclidean norm to which longer gradients are scaled down."""

    def named(self) -> dict[str, Tensor]:
        """Every tensor by name: parameters, buffers, and plain ones; one that two modules share has two names."""
        found: dict[str, Tensor] = dict(self.tensors)
        if self.module is not None:
            # Once for each place where it is used, as functional_call without tie_weights wants it.
            for prefix, module in self.module.named_modules():
                own = {**module._parameters, **module._buffers}
                found |= {f"{prefix}.{key}".lstrip("."): value for key, value in own.items() if value is not None}
        return found


class Methods(nn.Module):
    """Lets ``functional_call`` reach every method of a module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, method: str, *args: Any) -> Any:
        return getattr(self.module, method)(*args)


class Network:
    """A network with the parameters that it has at a moment of a gradient step."""

    def __init__(
        self,
        part: Part,
        values: Mapping[str, Tensor] | None = None,
        methods: Methods | None = None,
        members: Sequence[nn.Module] = (),
        trained: Sequence[str] = (),
    ) -> None:
        self._part, self._values, self._methods, self._members = part, values, methods, members
        self._trained = trained
        self.counted: dict[str, Tensor] = {}
        """What running statistics become by the passes that were made :meth:`by_batch`, by name."""

    @property
    def module(self) -> nn.Module | None:
        """The module whose parameters these are."""
        return self._part.module

    @property
    def batched(self) -> bool:
        """Whether its ensemble is one batched network, to be called by :meth:`each`."""
        return bool(self._members)

    def __call__(self, *args: Any, method: str = "forward") -> Any:
        """What the module, or a ``method`` of it, makes of ``args``; of a batched one, without its ensemble."""
        if self._values is None:
            module: Any = self._part.module
            return module(*args) if method == "forward" else getattr(module, method)(*args)
        assert self._methods is not None
        own = {f"module.{name}": value for name, value in self._values.items() if not name.startswith(MEMBER)}
        # Tying would write a module that has several names several times, and leave one of them as it was.
        return functional_call(self._methods, own, (method, *args), tie_weights=False)

    def each(self, x: Tensor, count: int | None = None) -> Tensor:
        """What each network of a batched ensemble, or the first ``count``, makes of ``x`` (B, in): (n, B, out)."""
        assert self._values is not None
        own = {k.removeprefix(MEMBER): v[:count] for k, v in self._values.items() if k.startswith(MEMBER)}
        # A layer's product with rows that all members share would lie transposed, and be copied by what follows.
        rows = x.expand(len(next(iter(own.values()))), *x.shape)
        found: Tensor = vmap(lambda values, x: functional_call(self._members[0], values, (x,)))(own, rows)
        return found

    def by_batch(self, x: Tensor, name: str) -> Tensor:
        """What its submodule ``name``, a :class:`rlopt.nn.networks.BatchRenormNetwork`, makes of ``x`` (B, in).

        It normalises by the batch. The running statistics that follow are those of the network once
        :meth:`Networks.descend` has moved it.
        """
        values: Tensor
        values, statistics = self(x, True, method=name)
        self.counted |= {f"{name}.{key}": value for key, value in statistics.items()}
        return values

    def each_by_batch(self, x: Tensor) -> list[Tensor]:
        """The same of each network of the ensemble, batched or not: n of (B, out)."""
        if not self.batched:
            return [self.by_batch(x, name) for name in self._part.ensemble]
        assert self._values is not None
        own = {k.removeprefix(MEMBER): v for k, v in self._values.items() if k.startswith(MEMBER)}
        rows = x.expand(len(next(iter(own.values()))), *x.shape)
        values, statistics = vmap(lambda values, x: functional_call(self._members[0], values, (x, True)))(own, rows)
        self.counted |= {f"{MEMBER}{key}": value for key, value in statistics.items()}
        return list(values.unbind())

    def __getitem__(self, name: str) -> Tensor:
        """One of its tensors."""
        return self._part.named()[name] if self._values is None else self._values[name]

    def trained(self) -> list[Tensor]:
        """The tensors, of those that it was given, that its optimiser moves."""
        assert self._values is not None
        return [self._values[name] for name in self._trained]

    def with_trained(self, tensors: Sequence[Tensor]) -> Network:
        """The same network with ``tensors`` in place of :meth:`trained`."""
        values = {**(self._values or {}), **dict(zip(self._trained, tensors, strict=True))}
        return Network(self._part, values, self._methods, self._members, self._trained)


# torch.func differentiates a loss with respect to a network, which is to it a list of what is trained.
register_pytree_node(
    Network, lambda network: (network.trained(), network), lambda tensors, network: network.with_trained(list(tensors))
)


class Networks(Protocol):
    """The networks of a gradient step by name."""

    def __getitem__(self, name: str) -> Network:
        """The network as it is now: after :meth:`descend` with its new parameters."""

    def descend(self, name: str, objective: Objective, *args: Any) -> Any:
        """One step of the network's optimiser along the gradient of a loss; returns what comes with the loss.

        The loss is that of ``objective(network, *args)``. Where what comes with it has :data:`HOLD`, that may hold the
        network.

        Where a loss is not finite, neither this network nor one that comes after it in the step is changed.
        """

    def descend_together(self, names: Sequence[str], objective: JointObjective, *args: Any) -> Any:
        """As :meth:`descend` for several networks at once, each along the gradient of its own loss before any moves.

        The losses, by name, are those of ``objective(networks, *args)``, where ``networks`` are those of ``names``.
        """

    def move(self, target: str, source: str, tau: Scalar) -> None:
        """Moves a target network by ``tau`` of the way to its source."""

    def put(self, name: str, **values: Tensor) -> None:
        """Gives plain tensors of a part new values."""


class OwnNetworks:
    """Networks that are moved in place, by torch's optimisers.

    :param parts: by name
    :param check: called with a loss's name and the loss before a network moves, to raise for one that is not finite
    """

    def __init__(self, parts: Mapping[str, Part], check: Callable[[str, Tensor], None]) -> None:
        self.parts, self._check = parts, check
        self._networks = {name: Network(part) for name, part in parts.items()}
        self._clipped: dict[str, ClippedStep] = {}

    def __getitem__(self, name: str) -> Network:
        return self._networks[name]

    def descend(self, name: str, objective: Objective, *args: Any) -> Any:
        part = self.parts[name]
        assert part.optimizer is not None
        loss, further = loss_and_further(name, objective(self._networks[name], *args))
        self._check(f"{name.replace('_', ' ')} loss", loss)
        held = hold_of(further)
        if held is not None and held.item():
            return further
        self._count(name)
        if not own_parameters(part.optimizer):  # all of it is frozen
            return further
        if part.max_grad_norm is None:
            descend(part.optimizer, loss, only_own=True)
            return further
        if name not in self._clipped:
            parameters: Any = own_parameters(part.optimizer)
            self._clipped[name] = ClippedStep(part.optimizer, parameters, part.max_grad_norm)
        self._check(f"gradient of the {name.replace('_', ' ')} loss", self._clipped[name].backward(loss))
        self._clipped[name].apply()
        return further

    def descend_together(self, names: Sequence[str], objective: JointObjective, *args: Any) -> Any:
        losses, further = objective({name: self._networks[name] for name in names}, *args)
        optimizers: list[Any] = [self.parts[name].optimizer for name in names]
        for name in names:
            self._check(f"{name.replace('_', ' ')} loss", losses[name])
        for name, optimizer in zip(names, optimizers, strict=True):
            own = own_parameters(optimizer)
            gradients = torch.autograd.grad(losses[name], own, retain_graph=True, allow_unused=True) if own else ()
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter.grad = gradient
        for optimizer in optimizers:
            optimizer.step()
        return further

    @torch.no_grad()
    def _count(self, name: str) -> None:
        counted = self._networks[name].counted
        if counted:
            own = self.parts[name].named()
            for key, value in counted.items():
                own[key].copy_(value)
            counted.clear()

    @torch.no_grad()
    def move(self, target: str, source: str, tau: Scalar) -> None:
        slow, fast = self.parts[target].module, self.parts[source].module
        assert slow is not None and fast is not None
        pairs = zip(slow.parameters(), fast.parameters(), strict=True)
        moved: list[tuple[Tensor, Tensor]] = [(mine, theirs) for mine, theirs in pairs if mine is not theirs]
        targets = [mine for mine, _ in moved]
        # The arithmetic of Stable-Baselines3's polyak_update, in two calls for all tensors.
        torch._foreach_mul_(targets, 1 - float(tau))
        torch._foreach_add_(targets, [theirs for _, theirs in moved], alpha=float(tau))
        for (name, mine), theirs in zip(slow.named_buffers(), fast.buffers(), strict=True):
            if "running_" in name:
                mine.copy_(theirs)

    @torch.no_grad()
    def put(self, name: str, **values: Tensor) -> None:
        for key, value in values.items():
            self.parts[name].tensors[key].copy_(value)


def loss_and_further(name: str, outcome: Any) -> tuple[Tensor, Any]:
    """What a loss function has returned, where it is a loss and what comes with it.

    :param name: what is trained, for people
    :raises rlopt.errors.ConfigError: it is something else, as that of a function of the user's own may be
    """
    pair = isinstance(outcome, tuple) and len(outcome) == 2
    if not pair or not isinstance(outcome[0], Tensor) or outcome[0].numel() != 1 or outcome[1] is None:
        found = f"a tuple of {len(outcome)}" if isinstance(outcome, tuple) and not pair else type(outcome).__name__
        found = f"({', '.join(map(_kind, outcome))})" if pair else found
        raise ConfigError(
            f"the function of the {name.replace('_', ' ')} loss must return (loss, dict of values to log), the loss "
            f"a tensor of one number: it returned {found}"
        )
    loss, further = outcome
    for key, value in further.items() if isinstance(further, dict) else ():
        if not isinstance(value, Tensor):
            raise ConfigError(
                f"the function of the {name.replace('_', ' ')} loss returned {key!r} as {_kind(value)}: make the "
                "values to log tensors of one number"
            )
    return loss, further


def _kind(value: Any) -> str:
    return type(value).__name__ + (f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else "")


def hold_of(further: Any) -> Tensor | None:
    return further.get(HOLD) if isinstance(further, dict) else None


def obstacle(parts: Mapping[str, Part]) -> str | None:
    """Why a step of these parts cannot be a function of tensors, in words; None if it can."""
    for name, part in parts.items():
        if part.optimizer is not None:
            reason = _obstacle_of_optimizer(name, part.optimizer)
            if reason is not None:
                return reason
        if part.module is None:
            continue
        named = [value for key, value in part.named().items() if isinstance(value, nn.Parameter)]
        if len({id(value) for value in named}) < len(named):
            return f"layers of {name} share a weight"
        for module in part.module.modules():
            reason = _obstacle_of_module(name, module)
            if reason is not None:
                return reason
    return None


def _obstacle_of_optimizer(name: str, optimizer: torch.optim.Optimizer) -> str | None:
    if len(optimizer.param_groups) > 1:
        return f"the optimizer of {name} has several parameter groups"
    if not plain_adam(optimizer):
        return f"the optimizer {type(optimizer).__name__} of {name} is not plain Adam"
    if is_watched(optimizer):
        return f"the optimizer of {name} has hooks"
    if not own_parameters(optimizer):
        return f"all of {name} is frozen"
    counts = {float(state["step"]) for state in optimizer.state.values() if "step" in state}
    return f"the parameters of {name} have taken unequal numbers of steps" if len(counts) > 1 else None


def _obstacle_of_module(name: str, module: nn.Module) -> str | None:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, kind) for kind in hooks):
        return f"a module of {name} has hooks"
    if hasattr(module, "_orig_mod"):
        return f"torch.compile has wrapped a module of {name}"
    draws = isinstance(module, nn.MultiheadAttention) and module.dropout > 0
    if draws or isinstance(module, _DRAWING_OR_COUNTING):
        return f"{name} has a {type(module).__name__}, which draws random numbers or keeps statistics"
    if module._buffers and not f"{type(module).__module__}.".startswith(_KNOWN):
        return f"{name} has a {type(module).__name__}, whose buffers a forward pass may change"
    if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in module.parameters(recurse=False)):
        return f"a parameter of {name} has hooks"
    return None


def draws_or_counts(parts: Mapping[str, Part]) -> bool:
    """Whether a forward pass of a part's module draws random numbers or changes a buffer."""
    modules = [module for part in parts.values() if part.module is not None for module in part.module.modules()]
    return any(
        isinstance(module, (*_DRAWING_OR_COUNTING, nn.MultiheadAttention))
        or (bool(module._buffers) and not f"{type(module).__module__}.".startswith(_KNOWN))
        or any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())
        for module in modules
    )
