"""What a gradient step of the agents that learn from replay is computed from: batches, and what is drawn beside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlopt.optim.descent import Networks, Scalar
from rlopt.replay.rows import joined_columns

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


def with_discounts(sample: Any, gamma: float) -> Batch:
    """A replay buffer's sample with the discount of each transition in place of its end."""
    discounts = (1 - sample.dones) * (gamma if sample.discounts is None else sample.discounts)
    return Batch(sample.observations, sample.actions, sample.next_observations, sample.rewards, discounts)


def joined(first: Batch, second: Batch) -> Batch:
    """Both batches as one, the first one's rows first."""
    return Batch(*(joined_columns(*parts) for parts in zip(first, second, strict=True)))


def stacked(batches: Sequence[Any]) -> Any:
    """Batches of several models as one, (S, B, ...)."""
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.stack(list(batches))
    if isinstance(first, dict):
        return {key: stacked([batch[key] for batch in batches]) for key in first}
    return type(first)(*(stacked(list(column)) for column in zip(*batches, strict=True)))


def flat_parts(name: str, value: Any) -> Drawn:
    """A tensor by its name, or the parts of a dict by ``name/key``; see :func:`nested_parts`."""
    return {f"{name}/{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}


def nested_parts(drawn: Mapping[str, Tensor], name: str) -> Any:
    """The tensor ``name``, or a dict of those whose names begin with it."""
    if name in drawn:
        return drawn[name]
    return {key.removeprefix(f"{name}/"): part for key, part in drawn.items() if key.startswith(f"{name}/")}
