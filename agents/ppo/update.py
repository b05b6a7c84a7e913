"""The gradient steps of an on-policy update, in every mode: those of PPO's one phase and of MDPO's two.

A phase's objective is a module that maps rows of the rollout to a loss; a gradient step descends it
(:meth:`rlopt.optim.descent.Networks.descend`) with torch's own optimisers, or as a function of tensors, which is
compiled or captured in a CUDA graph, and mapped over the models of several seeds.
Shapes: B rows of the rollout, b rows of a gradient step, S models.
"""

from __future__ import annotations

import functools
import math
import types
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

from rlopt.agents.ppo.losses import Info
from rlopt.algorithms.finite import check_finite
from rlopt.algorithms.rollout import rows
from rlopt.console.progress import say
from rlopt.errors import one_line
from rlopt.optim.compiled_step import GradientStep, Mode
from rlopt.optim.descent import HOLD, Network, OwnNetworks, Part
from rlopt.optim.descent import obstacle as no_function_of_tensors
from rlopt.optim.held_networks import HeldNetworks, State, Store
from rlopt.optim.lockstep import side_by_side
from rlopt.optim.traced import CannotCompile

Loss = Callable[..., tuple[Tensor, Info]]
History = dict[str, list[Tensor]]
"""The statistics of every gradient step, scalars by name."""

GOING = "going"
"""The number, among those of a phase that may stop early, that is 0 for a model that has stopped."""
MAX_CHANGES = 3
"""So often a loss that reads something else than before is recompiled; then its steps are taken eagerly."""


class Objective(nn.Module):
    """What a phase minimises: a module that maps rows of a rollout and numbers to a loss and its parts."""

    name: str
    """In messages, and before "loss" in them."""
    loss: Loss
    settings: dict[str, Any]
    """What a gradient step is made for: constants, among them those of ``loss``."""
    loss_settings: dict[str, Any]
    """The constants that are keyword arguments of ``loss``."""
    eagerly = "forward"
    """The method that torch's own optimisers descend; where it is not ``forward``, it computes the same."""

    def set_training_mode(self, parameters: list[nn.Parameter]) -> None:
        """Training mode, for gradient steps on ``parameters``."""
        raise NotImplementedError

    def example(self, n_rows: int, device: torch.device) -> list[Tensor]:
        """Arguments of ``loss`` for a batch of ``n_rows``."""
        raise NotImplementedError

    def obstacle(self) -> str | None:
        """Why it is not a function of tensors; None if it is one."""
        raise NotImplementedError


@dataclass(frozen=True)
class Phase:
    """One phase of one model's update, with everything that its random generators decide."""

    objective: Objective
    parameters: list[nn.Parameter]
    """What the objective depends on; those with ``requires_grad`` False stay as they are."""
    optimizer: torch.optim.Optimizer
    """Over ``parameters``."""
    max_grad_norm: float
    columns: tuple[Any, ...]
    """The objective's batch, of all B rows."""
    scalars: dict[str, float]
    """Numbers that change from update to update: keyword arguments of the loss."""
    passes: int
    batch_size: int | None
    orders: tuple[Tensor, ...]
    """A permutation of the rows for each pass; none where passes take the full batch."""

    def part(self) -> Part:
        """What a gradient step moves."""
        return Part(self.objective, self.optimizer, max_grad_norm=self.max_grad_norm)

    def batches(self) -> list[Tensor | None]:
        """The rows of each gradient step, (b,); None for all."""
        if self.batch_size is None or not self.orders:
            return [None] * self.passes
        return [index for order in self.orders for index in order.split(self.batch_size)]


def take_eagerly(phase: Phase, timestep: int) -> History:
    """The gradient steps of ``phase`` by autograd and torch's optimiser.

    On the CPU a broken loss or gradient stops before it reaches the networks.
    """

    def check(what: str, value: Tensor) -> None:
        if value.device.type == "cpu" and not math.isfinite(value.item()):
            check_finite(what, value, timestep)

    name = phase.objective.name
    phase.objective.set_training_mode(phase.parameters)
    networks = OwnNetworks({name: phase.part()}, check)
    history: History = defaultdict(list)
    objective = functools.partial(Network.__call__, method=phase.objective.eagerly)
    for index in phase.batches():
        info: Info = dict(networks.descend(name, objective, _batch(phase.columns, index), phase.scalars))
        hold = info.pop(HOLD, None)
        for key, value in info.items():
            history[key].append(value)
        if hold is not None and hold.item():
            break
    return history


def _batch(columns: Sequence[Any], index: Tensor | None) -> Sequence[Any]:
    return columns if index is None else [rows(column, index) for column in columns]


def obstacle(phase: Phase) -> str | None:
    """Why the gradient steps of ``phase`` cannot be a function of tensors, in words; None if they can."""
    found = phase.objective.obstacle()
    if found is not None:
        return found
    if not any(parameter.requires_grad for parameter in phase.parameters):
        return None  # no step is taken
    return no_function_of_tensors({phase.objective.name: phase.part()})


@dataclass(frozen=True)
class Request:
    """What a model asks for: its phases, taken one after the other in ``mode``."""

    phases: Sequence[Phase]
    mode: Mode
    prepared: dict[str, PhaseStep]
    """The model's own, by the phases' names: what was made for an update is kept here for the next."""
    timestep: int


def update_models(requests: Sequence[Request]) -> list[History]:
    """Takes the phases of every request, of models that are alike in networks and settings; their statistics.

    On a GPU a step of all is one call. On the CPU each model's are calls of its own, with the result of the model
    alone, and as many run at once as torch has threads.
    """
    histories: list[History] = [{} for _ in requests]
    for phases in zip(*(request.phases for request in requests), strict=True):
        if requests[0].mode == "compiled" and len(requests) > 1:
            found = _take_side_by_side(requests, phases)
        else:
            found = _prepared(requests, phases).take(phases, [request.timestep for request in requests])
        for history, more in zip(histories, found, strict=True):
            history.update(more)
    return histories


def _take_side_by_side(requests: Sequence[Request], phases: Sequence[Phase]) -> list[History]:
    steps = [_prepared([request], [phase]) for request, phase in zip(requests, phases, strict=True)]
    jobs = [
        functools.partial(step.take, [phase], [request.timestep])
        for step, phase, request in zip(steps, phases, requests, strict=True)
    ]
    return [histories[0] for histories in side_by_side(jobs, all(step.taken for step in steps))]


def _prepared(requests: Sequence[Request], phases: Sequence[Phase]) -> PhaseStep:
    """The step that was kept for these models; a new one where there is none, or they have changed since."""
    name, mode = phases[0].objective.name, requests[0].mode
    kept = [request.prepared.get(name) for request in requests]
    step, changes = kept[0], 0
    if step is not None and all(other is step for other in kept) and step.mode == mode and step.fits(phases):
        if not step.reads_something_else():
            return step
        changes = step.changes + 1
    step = PhaseStep(phases, mode, changes)
    for request in requests:
        request.prepared[name] = step
    return step


class PhaseStep:
    """The gradient step of one phase as one function of tensors, for one model or several that are alike.

    :param changes: how often the loss has been found to read something else than before
    """

    def __init__(self, phases: Sequence[Phase], mode: Mode, changes: int = 0) -> None:
        first = phases[0]
        self.mode, self.changes = mode, changes
        self.taken = False
        """Whether it has updated its models."""
        self.reason: str | None = None
        """Why its steps are taken eagerly after all."""
        self._name, self._loss = first.objective.name, first.objective.loss
        self._made_for = [_identity(phase) for phase in phases]
        self._trains = any(parameter.requires_grad for parameter in first.parameters)
        # The losses of this package read nothing besides their arguments.
        ours = getattr(self._loss, "__module__", "").startswith("rlopt.")
        self._reads = None if ours else self._watched(first)
        if changes > MAX_CHANGES:
            self._give_up(f"{self._name}_loss reads values that change")
        if self.reason is not None or not self._trains:
            return
        self._store = Store([{self._name: phase.part()} for phase in phases])
        self._scalars = list(first.scalars)
        leaves, self._structure = tree_flatten(list(first.columns))
        self._n_columns = len(leaves)
        self.step = GradientStep(self._call, mode, self._store.changed)

    def fits(self, phases: Sequence[Phase]) -> bool:
        """Whether it was made for these networks, optimisers and settings."""
        return self._made_for == [_identity(phase) for phase in phases]

    def reads_something_else(self) -> bool:
        """Whether a loss of one's own reads, besides its arguments, something that has changed."""
        if self._reads is None or self.reason is not None:
            return False
        changed = self._reads.changed()
        if self._reads.problem is not None:
            self._give_up(self._reads.problem)
            return False
        return changed

    def take(self, phases: Sequence[Phase], timesteps: Sequence[int]) -> list[History]:
        """The phase of each model; their statistics, which stay as they are."""
        if self.reason is None and self._trains:
            history: History = defaultdict(list)
            going, taken = [True] * len(phases), [0] * len(phases)
            try:
                for inputs in self._inputs(phases, going):
                    info = self.step(*inputs)
                    for key, value in info.items():
                        history[key].append(value.clone())  # a CUDA graph overwrites its outputs
                    taken = [count + own for count, own in zip(taken, going, strict=True)]
                    if HOLD in info:
                        going[:] = (~info[HOLD]).reshape(-1).tolist()
                        if not any(going):
                            break
            except CannotCompile as error:  # at the first step: nothing has moved
                self._give_up(str(error))
            else:
                self.taken = True
                history.pop(HOLD, None)
                return self._checked(history, taken, timesteps)
        return [take_eagerly(phase, timestep) for phase, timestep in zip(phases, timesteps, strict=True)]

    def _inputs(self, phases: Sequence[Phase], going: Sequence[bool]) -> Iterator[list[Tensor]]:
        """The inputs of each gradient step, see :meth:`_call`; ``going`` says before each which models continue."""
        self._store.attach()
        members = [tree_flatten(list(phase.columns))[0] for phase in phases]
        columns = [self._joined(column) for column in zip(*members, strict=True)]
        table = [[phase.optimizer.param_groups[0]["lr"], *phase.scalars.values()] for phase in phases]
        place = 1 + self._scalars.index(GOING) if GOING in self._scalars else None
        scalars = self._numbers(table, columns[0].device)
        for batch in zip(*(phase.batches() for phase in phases), strict=True):
            if place is not None and not all(going):
                for row, own in zip(table, going, strict=True):
                    row[place] = float(own)
                scalars = self._numbers(table, columns[0].device)
            yield [*columns, scalars, *([] if batch[0] is None else [self._joined(batch)])]

    def _numbers(self, table: list[list[float]], device: torch.device) -> Tensor:
        numbers = torch.tensor(table if self._store.stacked else table[0], dtype=torch.float64)
        return numbers.to(device, non_blocking=True)

    def _checked(self, history: History, taken: Sequence[int], timesteps: Sequence[int]) -> list[History]:
        """The statistics of each model, whose losses and gradients were finite, of as many steps as it has taken."""
        stacked = {key: torch.stack(steps).reshape(-1, len(timesteps)) for key, steps in history.items()}
        for what in (f"{self._name} loss", f"gradient of the {self._name} loss"):
            for values, timestep in zip(stacked.pop(what).unbind(dim=1), timesteps, strict=True):
                check_finite(what, values, timestep)
        return [
            {key: list(values[:count, i].unbind()) for key, values in stacked.items()} for i, count in enumerate(taken)
        ]

    def _call(self, *inputs: Tensor) -> Info:
        """One gradient step, in place; where loss or gradient is not finite, nothing moves.

        :param inputs: the columns' tensors (B, ...), learning rate and scalars in one tensor, and the rows (b,) unless
            all are taken; of S models, each with an axis S in front
        """
        columns, scalars, index = inputs[: self._n_columns], inputs[self._n_columns], inputs[self._n_columns + 1 :]
        each = vmap(self._one) if self._store.stacked else self._one
        state, info = each(self._store.state, list(columns), scalars, *index)
        self._store.write(state)
        found: Info = info
        return found

    def _one(self, state: State, columns: list[Tensor], scalars: Tensor, *index: Tensor) -> tuple[State, Info]:
        """The step of one model."""
        rate, *numbers = scalars.unbind()
        networks = HeldNetworks(self._store, state, {self._name: rate})
        batch = _batch(tree_unflatten(columns, self._structure), *(index or (None,)))
        arguments = {key: number.float() for key, number in zip(self._scalars, numbers, strict=True)}
        info: Info = networks.descend(self._name, Network.__call__, batch, arguments)
        return networks.state, {**info, **networks.checked}

    def _watched(self, phase: Phase) -> Reads | None:
        """Traces a loss of one's own, and gives up where that cannot be done."""
        n_rows = phase.batch_size if phase.batch_size and phase.orders else len(phase.columns[-2])
        device = phase.columns[-2].device
        scalars = {name: value for name, value in phase.scalars.items() if name != GOING}
        numbers = {name: torch.tensor(value, device=device) for name, value in scalars.items()}
        arguments = {**numbers, **phase.objective.loss_settings}
        reads = Reads(phase.objective.loss, phase.objective.example(n_rows, device), arguments)
        if reads.problem is not None:
            self._give_up(reads.problem)
        return reads

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        say(f"the gradient steps of the {self._name} phase are not compiled: {reason}")

    def _joined(self, values: Sequence[Any]) -> Tensor:
        joined: Tensor = torch.stack(list(values)) if len(self._made_for) > 1 else values[0].contiguous()
        return joined


def _identity(phase: Phase) -> tuple[Any, ...]:
    """What a step is made for: equal for two phases if the same step serves them."""
    group = phase.optimizer.param_groups[0]
    parameters = tuple((id(parameter), parameter.requires_grad) for parameter in phase.parameters)
    settings = tuple(phase.objective.settings.values())
    optimizer = id(phase.optimizer), group["betas"], group["eps"], phase.max_grad_norm
    return phase.objective.loss, settings, parameters, optimizer


class Reads:
    """Watches a function for values (of attributes, globals, closures) that are constants in its compiled code.

    torch notes what a function read while it was traced, and traces it again when that has changed. A compiled
    gradient step goes without those checks, which would cost a part of every step: this one is asked once an update
    instead, also where a CUDA graph is replayed.

    :param function: of tensors
    :param arguments: arguments of the shapes that it will get
    :param settings: its keyword arguments
    """

    def __init__(self, function: Callable[..., Any], arguments: Sequence[Tensor], settings: Mapping[str, Any]) -> None:
        def call(*inputs: Tensor, **values: Any) -> Any:
            return function(*inputs, **values)

        # torch counts how often a code object was traced: this copy has a count of its own.
        own = types.FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)
        self._traces = self._used = 0
        self._arguments, self._settings = list(arguments), dict(settings)
        self._traced = torch.compile(own, backend=self._as_it_is, fullgraph=True, dynamic=False)
        self.problem: str | None = None
        """Why the function cannot be traced."""
        self.changed()

    def changed(self) -> bool:
        """Whether the function reads something else than when this watch began."""
        try:
            with torch.no_grad():
                self._traced(*self._arguments, **self._settings)
        except Exception as error:
            self.problem = f"it cannot be traced ({one_line(error)})"
        return self._used != 1

    def _as_it_is(self, graph: torch.fx.GraphModule, _: Sequence[Tensor]) -> Callable[..., Any]:
        self._traces += 1
        number = self._traces

        def run(*inputs: Any) -> Any:
            self._used = number
            return graph.forward(*inputs)

        return run
