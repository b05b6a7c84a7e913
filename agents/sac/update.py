"""The gradient step of soft actor-critic as one call, compiled or captured, for one model or several at once."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from rlopt.agents.sac.losses import Info
from rlopt.optim.compiled_step import ActingCopy, GradientStep, Mode
from rlopt.optim.descent import HeldNetworks, Network, Networks, Part, Scalar, State, Store, obstacle
from rlopt.optim.lockstep import side_by_side
from rlopt.optim.traced import CannotCompile, Traced, cannot_compile, trace

if TYPE_CHECKING:
    from rlopt.agents.sac.algorithm import SAC
    from rlopt.agents.sac.off_policy import OffPolicy

Observations = Tensor | dict[str, Tensor]
Drawn = dict[str, Tensor]
"""Everything that random generators decide of a gradient step, by name; see :meth:`rlopt.SAC.draw`."""


class Batch(NamedTuple):
    """Transitions as the losses read them; Dict observations are dicts."""

    observations: Any
    """(B, ...)."""
    actions: Tensor
    """(B, A), in [-1, 1]."""
    next_observations: Any
    """(B, ...)."""
    rewards: Tensor
    """(B, 1)."""
    discounts: Tensor
    """(B, 1): 0 where the episode terminated, gamma^n elsewhere."""


@dataclass(frozen=True)
class Step:
    """What a gradient step of one model is computed from."""

    networks: Networks
    given: Batch
    """The batch as it was drawn."""
    batch: Batch
    """The same, or with what convolutions that actor and critics share make of its images."""
    drawn: Mapping[str, Tensor]
    """What :meth:`rlopt.SAC.draw` gave: noise, and columns of one's own."""
    scalars: Mapping[str, Scalar]
    """From :meth:`rlopt.SAC.scalars`: numbers that may change from step to step."""
    ent_coef: Tensor
    """lambda, (1,) or (), as it is before the step."""


class Obstructed(CannotCompile):
    """The networks have changed so that their step cannot be a function of tensors any more."""


class Request(NamedTuple):
    """A model's request for a gradient step."""

    model: OffPolicy
    parts: Mapping[str, Part]
    """Its networks."""
    mode: Mode
    drawn: Drawn
    move_targets: bool


def take_steps(requests: Sequence[Request]) -> Sequence[Info | None]:
    """Takes the gradient step of every request; their statistics, which stay as they are.

    The models must be alike in their networks and settings. Where one has counted other steps than the rest, as after
    episodes of other lengths, so that its actor or its targets are not due when theirs are, no step is taken and the
    answers are None: each model then takes its own. On a GPU one call takes the steps of all. On the CPU, whose
    caches one model's step fills, each is a call of its own, with the result of the model alone, and as many run at
    once as torch has threads.
    The step that was made for a model, or for several, is kept in their attribute ``update``.

    :raises rlopt.optim.traced.CannotCompile: before anything has moved
    """
    if requests[0].mode == "compiled" and len(requests) > 1:
        return _side_by_side(requests)
    if len({(request.model.actor_due, request.move_targets) for request in requests}) > 1:
        return [None] * len(requests)
    model, update = requests[0].model, _update_of(requests)
    update.store.attach()
    columns = [[request.drawn[name] for request in requests] for name in requests[0].drawn]
    inputs = [torch.stack(column) if update.store.stacked else column[0] for column in columns]
    inputs.append(update.scalars())
    settings = {
        "names": tuple(requests[0].drawn),
        "move_targets": requests[0].move_targets,
        "settings": model.plain_settings(),
    }
    with update.step.ready(inputs, settings) as step:
        info = step(*inputs)
    # (statistics, models); a copy, because a CUDA graph overwrites its outputs.
    values = torch.stack([value.reshape(len(requests)) for value in info.values()])
    update.acting.follow()
    update.taken = True
    return [dict(zip(info, column.unbind(), strict=True)) for column in values.unbind(1)]


def _side_by_side(requests: Sequence[Request]) -> Sequence[Info | None]:
    updates = [_update_of([request]) for request in requests]
    jobs = [functools.partial(take_steps, [request]) for request in requests]
    if all(update.taken for update in updates):
        return [infos[0] for infos in side_by_side(jobs)]
    return [side_by_side([job])[0][0] for job in jobs]  # what is compiled now, for the first, serves all


def _update_of(requests: Sequence[Request]) -> Update:
    """The update of the models that ask, recreated where there is none or their parts were exchanged."""
    models, mode = [request.model for request in requests], requests[0].mode
    parts, update = [request.parts for request in requests], models[0].update
    wanted = mode, models[0].precision
    if update is None or (update.step.mode, update.step.precision) != wanted or not update.belongs_to(models, parts):
        for own in parts:
            if (reason := obstacle(own)) is not None:
                raise Obstructed(reason)
        update = Update(models, parts, mode)
        for model in models:
            model.update = update
    return update


class Update:
    """What gradient steps of ``models`` in ``mode`` are taken with, and actions, without what ``predict`` does beside.

    On an accelerator the policy that acts is one update old, so that the environment is stepped while the update runs.
    """

    def __init__(self, models: Sequence[OffPolicy], parts: Sequence[Mapping[str, Part]], mode: Mode) -> None:
        self.models = list(models)
        self.taken = False
        """Whether it has taken a step."""
        self.store = Store(parts)
        self._read = _rows_read(models)
        self._scalar_names = list(models[0].scalars())
        self.step = GradientStep(self.compute, mode, self.store.changed, self.models, models[0].precision)
        homes = self.store.layouts[models[0].acting_part].homes  # of what it shares with the critics too
        actor = {own: self.store.state["value"][part][name] for own, (part, name) in homes.items()}
        self._acting_names = list(actor)
        self.acting = ActingCopy(list(actor.values()))
        self._policies: dict[Any, Traced] = {}
        """The operations of the policy, which run faster one by one than its modules do."""

    def belongs_to(self, models: Sequence[OffPolicy], parts: Sequence[Mapping[str, Part]]) -> bool:
        """Whether it was made for these models, these networks, and the rows of their replay buffers where they are."""
        same = len(models) == len(self.models) and all(map(operator.is_, self.models, models))
        return same and self._read == _rows_read(models) and self.store.holds(parts)

    def scalars(self) -> Tensor:
        """Learning rates and the models' scalars, float64 (K,) or (S, K), on the device."""
        rows = [
            [*rates, *map(float, model.scalars().values())]
            for rates, model in zip(self.store.rates(), self.models, strict=True)
        ]
        values = torch.tensor(rows if self.store.stacked else rows[0], dtype=torch.float64)
        return values.to(self.models[0].device, non_blocking=True)

    def compute(self, *inputs: Tensor, names: tuple[str, ...], move_targets: bool, settings: tuple[Any, ...]) -> Info:
        """The step as a function of tensors, of all models; writes the networks in place."""
        drawn, scalars = dict(zip(names, inputs, strict=False)), inputs[-1]
        if not self.store.stacked:
            networks, own = self._networks(self.store.state, scalars)
            with _refusing_counters(self.models):
                batch = self.models[0].read_batch(drawn)
                info = self.models[0].gradient_step(networks, batch, drawn, own, move_targets)
            self.store.write(networks.state)
            return info

        def one(state: State, batch: Batch, drawn: Drawn, scalars: Tensor) -> tuple[State, Info]:
            networks, own = self._networks(state, scalars)
            info = self.models[0].gradient_step(networks, batch, drawn, own, move_targets)
            return networks.state, info

        each = [{name: column[index] for name, column in drawn.items()} for index in range(len(self.models))]
        with _refusing_counters(self.models):
            batches = [model.read_batch(own) for model, own in zip(self.models, each, strict=True)]
            state, info = vmap(one)(self.store.state, _stacked(batches), drawn, scalars)
        self.store.write(state)
        return info

    def _networks(self, state: State, scalars: Tensor) -> tuple[HeldNetworks, dict[str, Tensor]]:
        """The networks of one model and its scalars by name, from a row of :meth:`scalars`."""
        values, trained = scalars.unbind(), self.store.trained_parts
        rates = dict(zip(trained, values, strict=False))
        return HeldNetworks(self.store, state, rates), dict(
            zip(self._scalar_names, values[len(trained) :], strict=True)
        )

    @torch.no_grad()
    def act(self, model: SAC, observations: np.ndarray, deterministic: bool) -> np.ndarray:
        """Actions in [-1, 1] of one model for a batch of observations: (N, A) from (N, ...)."""
        mean, log_std = self._policy(model)(torch.as_tensor(observations))
        if not deterministic:
            mean = mean + torch.randn(mean.shape) * log_std.exp()
        return mean.tanh().numpy()

    def _policy(self, model: SAC) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Mean and logarithm of the standard deviation before tanh, (N, A) each, as functions of (N, ...)."""
        if model.device.type == "cpu":
            return functools.partial(self._traced_policy, model)
        index = next(i for i, own in enumerate(self.models) if own is model) if self.store.stacked else None
        values = [tensor if index is None else tensor[index] for tensor in self.acting.parameters()]
        layout = self.store.layouts[model.acting_part]
        network = Network(layout.part, dict(zip(self._acting_names, values, strict=True)), layout.methods)
        return lambda shown: network(shown, method="get_action_dist_params")[:2]

    def _traced_policy(self, model: SAC, shown: Tensor) -> tuple[Tensor, Tensor]:
        key = id(model), tuple(shown.shape), shown.dtype
        traced = self._policies.get(key)
        if traced is None:

            def outputs(shown: Tensor) -> dict[str, Tensor]:
                mean, log_std, _ = model.actor.get_action_dist_params(shown)
                return {"mean": mean, "log_std": log_std}

            traced = self._policies[key] = trace(outputs, [shown])
        mean, log_std = traced.graph.forward(shown, *traced.held)
        return mean, log_std


def _rows_read(models: Sequence[OffPolicy]) -> list[tuple[Any, int]]:
    """The buffers that batches are read from, and where in memory their rows are."""
    buffers = [buffer for model in models for buffer in (model.replay_buffer, model.shown)]
    return [(buffer, getattr(buffer, "storage_version", 0)) for buffer in buffers]


@contextlib.contextmanager
def _refusing_counters(models: Sequence[OffPolicy]) -> Iterator[None]:
    """Within it the step of ``models`` is taken; at its end, refuses what is not a function of tensors and settings.

    Such a step reads a number that may change without the step being prepared anew: compiled, it would keep the first
    value.

    :raises rlopt.optim.traced.CannotCompile: it reads a counter or a private number, or logs
    """
    read: set[str] = set()
    classes = [type(model) for model in models]

    def watched(own: Any) -> Any:
        def get(self: Any, name: str) -> Any:
            read.add(name)
            return own.__getattribute__(self, name)

        return type(own.__name__, (own,), {"__getattribute__": get})

    try:
        for model, own in zip(models, classes, strict=True):
            model.__class__ = watched(own)
        yield
    finally:
        for model, own in zip(models, classes, strict=True):
            model.__class__ = own
    if "logger" in read:
        raise cannot_compile("it logs: return the value among the statistics instead")
    known = {*dict(models[0].plain_settings()), *models[0].scalars()}
    numbers = {name for name, value in vars(models[0]).items() if isinstance(value, int | float)}
    for name in sorted(read & numbers - known):
        raise cannot_compile(f"it reads {name}, which may change from step to step: give it by scalars()")


def _stacked(batches: Sequence[Any]) -> Any:
    """Batches of several models as one, (S, B, ...)."""
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.stack(list(batches))
    if isinstance(first, dict):
        return {key: _stacked([batch[key] for batch in batches]) for key in first}
    return type(first)(*(_stacked(list(column)) for column in zip(*batches, strict=True)))
