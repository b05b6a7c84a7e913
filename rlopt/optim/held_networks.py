"""The networks of a gradient step as tensors in one store, so that the step is a function of tensors.

Modules are called by ``torch.func.functional_call`` and gradients come from ``torch.func.grad``: such a step can be
compiled, captured in a CUDA graph, and mapped over several models at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vjp

from rlopt.nn.networks import BatchRenormNetwork
from rlopt.nn.stacked import adam_moved, adam_scales
from rlopt.optim.descent import (
    MEMBER,
    JointObjective,
    Methods,
    Network,
    Objective,
    Part,
    Scalar,
    hold_of,
    loss_and_further,
)
from rlopt.optim.optimizers import own_parameters

State = dict[str, dict[str, dict[str, Tensor]]]
"""Kind ("value", "first", "second": Adam's moments, or "step") -> part -> name -> tensor."""


class HeldNetworks:
    """The networks of one model as tensors; what they become is in ``state`` afterwards.

    :param store: where the tensors belong
    :param state: state of one model
    :param rates: learning rate of each part that is trained
    """

    def __init__(self, store: Store, state: State, rates: Mapping[str, Tensor]) -> None:
        self._store, self._rates = store, rates
        self.state: State = {kind: {part: dict(v) for part, v in parts.items()} for kind, parts in state.items()}
        self.checked: dict[str, Tensor] = {}
        """What :class:`rlopt.optim.descent.OwnNetworks` would have had checked, by the same names."""
        self._keep: Tensor | None = None

    def __getitem__(self, name: str) -> Network:
        layout, values = self._store.layouts[name], self.state["value"]
        found = {own: values[part][theirs] for own, (part, theirs) in layout.homes.items()}
        return Network(layout.part, found, layout.methods, layout.members, layout.trained)

    def descend(self, name: str, objective: Objective, *args: Any) -> Any:
        def counting(network: Network, *args: Any) -> tuple[Tensor, Any]:
            loss, further = loss_and_further(name, objective(network, *args))
            return loss, (further, network.counted)

        layout = self._store.layouts[name]
        counted: dict[str, Tensor] = {}
        if layout.counts:
            gradients, (loss, (further, counted)) = grad_and_value(counting, has_aux=True)(self[name], *args)
        else:
            try:
                gradients, outcome = grad_and_value(objective, has_aux=True)(self[name], *args)
            except (RuntimeError, TypeError):
                loss_and_further(name, objective(self[name], *args))  # says what was returned in place of the pair
                raise
            loss, further = loss_and_further(name, outcome)
        self._watch({name: loss})
        held = hold_of(further)
        if held is not None and self._keep is not None:
            self._keep = self._keep & ~held
        self._move(name, gradients.trained())
        for key, value in counted.items():
            part, theirs = layout.homes[key]
            self.state["value"][part][theirs] = self._kept(value, self.state["value"][part][theirs])
        return further

    def descend_together(self, names: Sequence[str], objective: JointObjective, *args: Any) -> Any:
        networks = {name: self[name] for name in names}
        losses, pull, further = vjp(lambda networks: objective(networks, *args), networks, has_aux=True)  # type: ignore[misc]
        gradients = {}
        for name in names:
            ones = {key: (torch.ones_like if key == name else torch.zeros_like)(loss) for key, loss in losses.items()}
            gradients[name] = pull(ones)[0][name].trained()
        self._watch(losses)
        for name in names:
            self._move(name, gradients[name])
        return further

    def _watch(self, losses: Mapping[str, Tensor]) -> None:
        """Lets everything stay from now on where a loss is not finite."""
        for name, loss in losses.items():
            self.checked[f"{name.replace('_', ' ')} loss"] = loss
            self._keep = loss.isfinite() if self._keep is None else self._keep & loss.isfinite()

    def _move(self, name: str, gradients: Sequence[Tensor]) -> None:
        """One step of Adam."""
        layout, value, keep = self._store.layouts[name], self.state["value"][name], self._keep
        assert keep is not None
        limit = layout.part.max_grad_norm
        if limit is not None:
            norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
            self.checked[f"gradient of the {name.replace('_', ' ')} loss"] = norm
            self._keep = keep = keep & norm.isfinite()
            scale = (limit / (norm + 1e-6)).clamp(max=1.0)
            gradients = [gradient * scale for gradient in gradients]
        count = self.state["step"][name][""]
        count = count + keep.to(count.dtype)
        self.state["step"][name][""] = count
        scales = adam_scales(count[0], self._rates[name], layout.betas, layout.eps)
        first, second = self.state["first"][name], self.state["second"][name]
        for key, gradient in zip(layout.trained, gradients, strict=True):
            value[key], first[key], second[key] = adam_moved(
                value[key], gradient, first[key], second[key], *scales, keep, layout.betas
            )

    def _kept(self, new: Tensor, old: Tensor) -> Tensor:
        return new if self._keep is None else torch.where(self._keep, new, old)

    def move(self, target: str, source: str, tau: Scalar) -> None:
        slow, fast, layout = self.state["value"][target], self[source], self._store.layouts[target]
        for name in layout.moved:
            part = tau.to(slow[name].dtype) if isinstance(tau, Tensor) else tau
            if layout.members and not fast.batched:  # because layers of one of its members are frozen
                theirs = torch.stack([fast[name.replace(MEMBER, f"{own}.")] for own in layout.part.ensemble])
            else:
                theirs = fast[name]
            slow[name] = self._kept(slow[name] * (1 - part) + theirs * part, slow[name])

    def put(self, name: str, **values: Tensor) -> None:
        own = self.state["value"][name]
        for key, value in values.items():
            own[key] = self._kept(value.reshape(own[key].shape), own[key])


@dataclass
class _Layout:
    """How a part of one model lies in a :class:`Store`."""

    part: Part
    homes: dict[str, tuple[str, str]]
    """Name -> part and name under which the tensor is kept: another's where two parts share a network."""
    trained: tuple[str, ...]
    moved: tuple[str, ...]
    """Parameters that are its own, as a target network moves them."""
    methods: Methods | None
    members: Sequence[nn.Module]
    betas: tuple[float, float]
    eps: float
    counts: bool
    """Whether passes of it may change running statistics, see :meth:`Network.by_batch`."""


class Store:
    """The tensors of the parts of one or several models, each kind of a name in one tensor, with Adam's moments.

    The networks' own parameters and their optimisers' state become views into these tensors. So whatever reads or
    writes them in place (``state_dict``, ``load_state_dict``, checkpoints) continues working, and sees every update.

    :param models: the parts of each model; they must be alike, and :func:`rlopt.optim.descent.obstacle` must find
        nothing
    """

    def __init__(self, models: Sequence[Mapping[str, Part]]) -> None:
        self.models = list(models)
        self.stacked = len(models) > 1
        self.layouts: dict[str, _Layout] = {}
        self.state: State = {kind: {} for kind in ("value", "first", "second", "step")}
        self._homes: list[_Home] = []
        self._flags: list[tuple[Tensor, bool]] = []
        seen: dict[int, tuple[str, str]] = {}
        owners = {
            id(tensor): name
            for name, part in models[0].items()
            if part.optimizer is not None
            for tensor in own_parameters(part.optimizer)
        }
        # A tensor that two parts share is kept by the one that trains it, or else by the first.
        order = sorted(models[0], key=lambda name: models[0][name].optimizer is None)
        for name in order:
            self._place(name, [model[name] for model in models], owners, seen)
        for layout in self.layouts.values():
            self._resolve(layout, seen)
        self.attach()

    def _place(
        self, name: str, parts: Sequence[Part], owners: dict[int, str], seen: dict[int, tuple[str, str]]
    ) -> None:
        first, members = parts[0], ensemble_members(parts[0])
        tensors = [part.named() for part in parts]
        kept: dict[str, list[str]] = {}  # name in the store -> names in the network, one a member of the ensemble
        for own, tensor in tensors[0].items():
            if id(tensor) in seen or owners.get(id(tensor), name) != name:
                continue
            key = _member_name(own, first.ensemble) if members else own
            kept.setdefault(key, []).append(own)
            seen[id(tensor)] = (name, key)
        trainable = {id(tensor) for tensor in own_parameters(first.optimizer)} if first.optimizer is not None else set()
        value, moment, second = {}, {}, {}
        trained, moved, counted = [], [], 0
        for key, names in kept.items():
            # (model, member)
            own_tensors = [[named[own] for own in names] for named in tensors]
            example, batched = own_tensors[0][0], bool(members) and key.startswith(MEMBER)
            shape = ((len(parts),) if self.stacked else ()) + ((len(names),) if batched else ())
            flat = [tensor for row in own_tensors for tensor in row]
            value[key] = example.detach() if not shape else example.new_zeros((*shape, *example.shape))
            views = value[key].reshape(-1, *example.shape) if shape else value[key].unsqueeze(0)
            trains = example.requires_grad and id(example) in trainable
            if trains:
                trained.append(key)
                moment[key], second[key] = torch.zeros_like(value[key]), torch.zeros_like(value[key])
            if isinstance(example, nn.Parameter):
                moved.append(key)
            for index, tensor in enumerate(flat):
                part = parts[index // len(names)]
                state: dict[str, Tensor] = {}
                if trains:
                    state = {
                        "exp_avg": _view(moment[key], index, shape),
                        "exp_avg_sq": _view(second[key], index, shape),
                    }
                position = counted + index % len(names)
                self._homes.append(
                    _Home(
                        tensor, views[index], part.optimizer if trains else None, state, index // len(names), position
                    )
                )
                self._flags.append((tensor, tensor.requires_grad))
            counted += len(names) if trains else 0
        self.state["value"][name], self.state["first"][name], self.state["second"][name] = value, moment, second
        lead = (len(parts),) if self.stacked else ()
        if trained:
            device = value[trained[0]].device
            counts = torch.zeros((*lead, counted), device=device)
            self.state["step"][name] = {"": counts}
            for home in self._homes[-sum(len(names) for names in kept.values()) * len(parts) :]:
                if home.optimizer is not None:
                    home.state["step"] = counts.view(-1, counted)[home.model, home.position]
        group: dict[str, Any] = {} if first.optimizer is None else first.optimizer.param_groups[0]
        methods = None if first.module is None else Methods(first.module)
        betas, eps = group.get("betas", ()), group.get("eps", 0.0)
        keeps = first.module is not None and any(isinstance(m, BatchRenormNetwork) for m in first.module.modules())
        self.layouts[name] = _Layout(first, {}, tuple(trained), tuple(moved), methods, members, betas, eps, keeps)

    def _resolve(self, layout: _Layout, seen: dict[int, tuple[str, str]]) -> None:
        for own, tensor in layout.part.named().items():
            key = _member_name(own, layout.part.ensemble) if layout.members else own
            layout.homes[key] = seen[id(tensor)]

    def attach(self) -> None:
        """To be called before a step: takes over parameters or moments that were replaced, as by loading."""
        for home in self._homes:
            home.attach()

    def holds(self, models: Sequence[Mapping[str, Part]]) -> bool:
        """Whether it was made for these parts, with the same of their parameters frozen."""
        return (
            len(models) == len(self.models)
            and all(
                mine.keys() == theirs.keys() and all(_same(mine[name], theirs[name]) for name in mine)
                for mine, theirs in zip(self.models, models, strict=True)
            )
            and all(tensor.requires_grad is flag for tensor, flag in self._flags)
        )

    def changed(self) -> list[Tensor]:
        """Every tensor that a step may write."""
        return [tensor for parts in self.state.values() for values in parts.values() for tensor in values.values()]

    def write(self, new: State) -> None:
        """Makes ``new`` the state, in place."""
        for kind, parts in self.state.items():
            for part, values in parts.items():
                for name, tensor in values.items():
                    if new[kind][part][name] is not tensor:
                        tensor.copy_(new[kind][part][name])

    def rates(self) -> list[list[float]]:
        """The learning rates of each model, in the order of :attr:`trained_parts`."""
        found = []
        for model in self.models:
            optimizers = [model[name].optimizer for name in self.trained_parts]
            found.append([float(optimizer.param_groups[0]["lr"]) for optimizer in optimizers if optimizer is not None])
        return found

    @property
    def trained_parts(self) -> list[str]:
        """The names of the parts that have an optimiser."""
        return [name for name, part in self.models[0].items() if part.optimizer is not None]


@dataclass
class _Home:
    """A tensor of a network, the view that it is to be, and those that its state in the optimiser is to be."""

    tensor: Tensor
    view: Tensor
    optimizer: torch.optim.Optimizer | None
    state: dict[str, Tensor]
    model: int
    position: int

    def __post_init__(self) -> None:
        self.address = self.view.data_ptr()

    def attach(self) -> None:
        if self.tensor.data_ptr() != self.address:
            self.view.copy_(self.tensor.detach())
            self.tensor.data = self.view
        if self.optimizer is None:
            return
        state: dict[str, Any] = self.optimizer.state[self.tensor]
        for name, view in self.state.items():
            value = state.get(name)
            if value is view:
                continue
            if value is None:
                view.zero_()
            else:
                view.copy_(value)
            state[name] = view


def _view(tensor: Tensor, index: int, shape: tuple[int, ...]) -> Tensor:
    return tensor.view(-1, *tensor.shape[len(shape) :])[index] if shape else tensor


def _same(mine: Part, theirs: Part) -> bool:
    return (
        mine.module is theirs.module
        and mine.optimizer is theirs.optimizer
        and mine.tensors.keys() == theirs.tensors.keys()
        and all(mine.tensors[key] is theirs.tensors[key] for key in mine.tensors)
    )


def _member_name(name: str, ensemble: Sequence[str]) -> str:
    """``*.0.weight`` from ``qf1.0.weight``; a name outside the ensemble as it is."""
    for member in ensemble:
        if name.startswith(f"{member}."):
            return MEMBER + name.removeprefix(f"{member}.")
    return name


def ensemble_members(part: Part) -> list[nn.Module]:
    """The networks of the part's ensemble if they are alike, so that they can be one batched network; else none."""
    if not part.ensemble:
        return []
    assert part.module is not None
    members = [part.module.get_submodule(name) for name in part.ensemble]
    if len({id(p) for m in members for p in m.parameters()}) < sum(len(list(m.parameters())) for m in members):
        return []  # they share weights
    alike = {(repr(m), tuple((n, p.shape, p.requires_grad) for n, p in m.named_parameters())) for m in members}
    return members if len(alike) == 1 and any(True for _ in members[0].parameters()) else []
