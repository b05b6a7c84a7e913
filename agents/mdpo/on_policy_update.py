"""The two phases of an on-policy update: what each minimises, and its gradient steps in every mode.

A phase's objective is a module that maps rows of the rollout to a loss; a gradient step descends it
(:meth:`rlopt.optim.descent.Networks.descend`) with torch's own optimisers, or as a function of tensors, which is
compiled or captured in a CUDA graph, and mapped over the models of several seeds.
Shapes: B rows of the rollout, b rows of a gradient step, S models.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn
from torch.func import vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

from rlopt.agents.mdpo.heads import DistributionHead, action_head, set_critic_training_mode, uncompiled, value_function
from rlopt.agents.mdpo.losses import Info, policy_loss, value_loss
from rlopt.algorithms.finite import check_finite
from rlopt.algorithms.rollout import rows
from rlopt.console.progress import say
from rlopt.optim.compiled_step import GradientStep, Mode
from rlopt.optim.constants_read import Reads
from rlopt.optim.descent import HeldNetworks, Network, OwnNetworks, Part, State, Store
from rlopt.optim.descent import obstacle as no_function_of_tensors
from rlopt.optim.lockstep import side_by_side
from rlopt.optim.traced import CannotCompile

Loss = Callable[..., tuple[Tensor, Info]]
History = dict[str, list[Tensor]]
"""The statistics of every gradient step, scalars by name."""

MAX_CHANGES = 3
"""So often a loss that reads something else than before is compiled anew; then its steps are taken eagerly."""


class PolicyObjective(nn.Module):
    """Equation (1) on rows of a rollout, as a function of the policy's parameters."""

    name = "policy"

    def __init__(self, policy: ActorCriticPolicy, loss: Loss, tsallis_q: float) -> None:
        super().__init__()
        self.policy = uncompiled(policy)
        self.loss = loss
        self.settings = {"q": tsallis_q}
        self._head = action_head(policy)

    def old(self, observations: Any, actions: Tensor) -> tuple[Tensor, Any]:
        """log pi_k [B] and the distributions of pi_k, from which the divergence is measured."""
        with torch.no_grad():
            factors, log_prob, _ = self._head.evaluate(observations, actions)
        return log_prob, factors

    @torch.no_grad()
    def divergence(self, batch: Sequence[Any]) -> Tensor:
        """E[B_q(pi || pi_k)] of the policy as it is now, from the arguments of :meth:`forward`."""
        observations, actions, *_, old = batch
        divergence: Tensor = self._head.evaluate(observations, actions).factors.divergence(old, **self.settings)
        return divergence.mean()

    def forward(self, batch: Sequence[Any], scalars: Mapping[str, Any]) -> tuple[Tensor, Info]:
        """Observations (b, ...), actions (b, A), advantages (b,), log pi_k (b,) and pi_k to the loss and its parts."""
        observations, actions, advantages, old_log_prob, old = batch
        new, log_prob, entropy = self._head.evaluate(observations, actions)
        divergence = new.divergence(old, **self.settings)
        return self.loss(log_prob, old_log_prob, advantages, divergence, entropy, **scalars)

    def set_training_mode(self, parameters: list[nn.Parameter]) -> None:
        """Training mode, for gradient steps."""
        self.policy.set_training_mode(True)

    def example(self, n_rows: int, device: torch.device) -> list[Tensor]:
        """Arguments of ``loss``."""
        return [torch.zeros(n_rows, device=device) for _ in range(5)]


class ValueObjective(nn.Module):
    """Equation (2) on rows of a rollout, as a function of the value network's parameters."""

    name = "value"

    def __init__(self, policy: ActorCriticPolicy, loss: Loss, clip_range_vf: float | None) -> None:
        super().__init__()
        self.policy = uncompiled(policy)
        self.settings = {"clip_range_vf": clip_range_vf}
        self.loss = loss
        self._predict = value_function(policy)

    def forward(self, batch: Sequence[Any], scalars: Mapping[str, Any]) -> tuple[Tensor, Info]:
        """Observations (b, ...), returns (b,) and values (b,) before the update to the loss and its parts."""
        observations, returns, old_values = batch
        return self.loss(self._predict(observations).flatten(), returns, old_values, **self.settings, **scalars)

    def set_training_mode(self, parameters: list[nn.Parameter]) -> None:
        """Training mode, for gradient steps on ``parameters``, which leave the policy as it is."""
        set_critic_training_mode(self.policy, parameters)

    def example(self, n_rows: int, device: torch.device) -> list[Tensor]:
        """Arguments of ``loss``."""
        return [torch.zeros(n_rows, device=device) for _ in range(3)]


@dataclass(frozen=True)
class Phase:
    """One phase of one model's update, with everything that its random generators decide."""

    objective: PolicyObjective | ValueObjective
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
    for index in phase.batches():
        info: Info = networks.descend(name, Network.__call__, _batch(phase.columns, index), phase.scalars)
        for key, value in info.items():
            history[key].append(value)
    return history


def _batch(columns: Sequence[Any], index: Tensor | None) -> Sequence[Any]:
    return columns if index is None else [rows(column, index) for column in columns]


def obstacle(phase: Phase) -> str | None:
    """Why the gradient steps of ``phase`` cannot be a function of tensors, in words; None if they can."""
    policy = phase.objective.policy
    if type(action_head(policy)) is DistributionHead:
        return "the policy has an action distribution of its own"
    if value_function(policy) == policy.predict_values:
        return "the policy has a predict_values of its own"
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
    if all(step.taken for step in steps):
        return [histories[0] for histories in side_by_side(jobs)]
    return [side_by_side([job])[0][0] for job in jobs]  # what is compiled now, for the first, serves all


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
        self._reads = None if self._loss in (policy_loss, value_loss) else self._watched(first)
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
            try:
                for inputs in self._inputs(phases):
                    for key, value in self.step(*inputs).items():
                        history[key].append(value.clone())  # a CUDA graph overwrites its outputs
            except CannotCompile as error:  # at the first step: nothing has moved
                self._give_up(str(error))
            else:
                self.taken = True
                return self._checked(history, timesteps)
        return [take_eagerly(phase, timestep) for phase, timestep in zip(phases, timesteps, strict=True)]

    def _inputs(self, phases: Sequence[Phase]) -> Iterator[list[Tensor]]:
        """The inputs of each gradient step, see :meth:`_call`."""
        self._store.attach()
        members = [tree_flatten(list(phase.columns))[0] for phase in phases]
        columns = [self._joined(column) for column in zip(*members, strict=True)]
        table = [[phase.optimizer.param_groups[0]["lr"], *phase.scalars.values()] for phase in phases]
        scalars = torch.tensor(table if self._store.stacked else table[0], dtype=torch.float64)
        scalars = scalars.to(columns[0].device, non_blocking=True)
        for batch in zip(*(phase.batches() for phase in phases), strict=True):
            yield [*columns, scalars, *([] if batch[0] is None else [self._joined(batch)])]

    def _checked(self, history: History, timesteps: Sequence[int]) -> list[History]:
        """The statistics of each model, whose losses and gradients were finite."""
        stacked = {key: torch.stack(steps).reshape(-1, len(timesteps)) for key, steps in history.items()}
        for what in (f"{self._name} loss", f"gradient of the {self._name} loss"):
            for values, timestep in zip(stacked.pop(what).unbind(dim=1), timesteps, strict=True):
                check_finite(what, values, timestep)
        return [{key: list(values[:, i].unbind()) for key, values in stacked.items()} for i in range(len(timesteps))]

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
        numbers = {name: torch.tensor(value, device=device) for name, value in phase.scalars.items()}
        settings = phase.objective.settings if phase.objective.name == "value" else {}
        reads = Reads(phase.objective.loss, phase.objective.example(n_rows, device), {**numbers, **settings})
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
