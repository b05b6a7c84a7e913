"""Gradient steps of off-policy MDPO in one call each: batches and noise drawn as SAC does; several models at once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rlopt.agents.mdpo import off_policy_losses as losses
from rlopt.agents.mdpo.fused_update import flat
from rlopt.optim.compiled_step import ActingCopy, GradientStep, Mode
from rlopt.optim.lockstep import side_by_side

if TYPE_CHECKING:
    from rlopt.agents.mdpo.off_policy_update import MirrorDescentSAC


@dataclass(frozen=True)
class Request:
    """A model's wish for one gradient step, with everything that its random generators decide."""

    model: MirrorDescentSAC
    mode: Mode
    move_targets: bool
    on_rows: bool
    """Whether ``inputs`` are rows of the replay buffer instead of a sampled batch."""
    inputs: tuple[Tensor, ...]
    """Rows or batch, then the noise at the states and at the next states."""

    @classmethod
    def draw(cls, model: MirrorDescentSAC, mode: Mode, batch_size: int, move_targets: bool) -> Request:
        """Draws the batch and its noise in the order in which SAC draws them."""
        buffer: Any = model.replay_buffer
        normalize = model.get_vec_normalize_env()
        on_rows = hasattr(buffer, "gather") and normalize is None
        if on_rows:
            inputs: tuple[Tensor, ...] = (buffer.sample_rows(batch_size),)
        else:
            batch = buffer.sample(batch_size, env=normalize)
            discounts = torch.full_like(batch.rewards, model.gamma) if batch.discounts is None else batch.discounts
            inputs = (*batch[:5], discounts)
        assert model.action_space.shape is not None
        noise = [torch.randn((batch_size, *model.action_space.shape), device=model.device) for _ in range(2)]
        return cls(model, mode, move_targets, on_rows, (*inputs, *noise))


def take_steps(requests: Sequence[Request]) -> list[losses.Info]:
    """Takes the gradient step of every request; their statistics.

    The models must be alike in their networks and settings. On a GPU one call takes the steps of all. On the CPU, whose
    caches one model's step fills, each is a call of its own, with the result of the model alone, and as many run at
    once as torch has threads.
    The step that was made for a model, or for several, is kept in their attribute ``fused``.
    """
    if requests[0].mode == "compiled" and len(requests) > 1:
        return _take_side_by_side(requests)
    return _step_of(requests).take(requests)


def _step_of(requests: Sequence[Request], like: FusedStep | None = None) -> FusedStep:
    models, first = [request.model for request in requests], requests[0]
    step = first.model.fused
    if step is None or step.mode != first.mode or not step.update.belongs_to(models):
        step = FusedStep(models, first.mode, like)
        for model in models:
            model.fused = step
    return step


def _take_side_by_side(requests: Sequence[Request]) -> list[losses.Info]:
    steps: list[FusedStep] = []
    for request in requests:
        steps.append(_step_of([request], steps[0] if steps else None))
    jobs = [functools.partial(step.take, [request]) for step, request in zip(steps, requests, strict=True)]
    if all(step.taken for step in steps):
        return [infos[0] for infos in side_by_side(jobs)]
    return [side_by_side([job])[0][0] for job in jobs]  # what is compiled now, for the first, serves all


class FusedStep:
    """Takes gradient steps of ``models`` in ``mode``, and acts, without what ``predict`` does around the network.

    On an accelerator the policy that acts is one update old, so that the environment is stepped while the update runs.
    """

    def __init__(self, models: Sequence[MirrorDescentSAC], mode: Mode, like: FusedStep | None = None) -> None:
        self.mode = mode
        self.taken = False
        """Whether it has taken a step."""
        self.update = models[0].fused_update(models)
        self._acting = ActingCopy(self.update.actor.tensors)
        self._on_rows = GradientStep(self.update.step_on_rows, mode, self.update.state)
        self._on_batch = GradientStep(self.update.step_on_batch, mode, self.update.state)
        if like is not None:
            self._on_rows.compile_like(like._on_rows)
            self._on_batch.compile_like(like._on_batch)

    def take(self, requests: Sequence[Request]) -> list[losses.Info]:
        """One gradient step of each model; its statistics, which stay as they are."""
        self.update.attach()
        model, first = requests[0].model, requests[0]
        inputs = [self.update.stacked(column) for column in zip(*(r.inputs for r in requests), strict=True)]
        settings = {"objective": model.objective, "gamma": float(model.gamma), "move_targets": first.move_targets}
        step = self._on_rows if first.on_rows else self._on_batch
        info = step(*inputs, self.update.scalars(), **settings)
        # (statistics, models); a copy, because a CUDA graph overwrites its outputs.
        values = torch.stack([value.reshape(len(requests)) for value in info.values()])
        self._acting.follow()
        self.taken = True
        return [dict(zip(info, column.unbind(), strict=True)) for column in values.unbind(1)]

    @torch.no_grad()
    def act(self, model: MirrorDescentSAC, observations: np.ndarray, deterministic: bool) -> np.ndarray:
        """Actions in [-1, 1] of one model for a batch of observations: (N, A) from (N, ...)."""
        parameters = self._acting.parameters()
        if len(self.update.models) > 1:
            index = next(i for i, own in enumerate(self.update.models) if own is model)
            parameters = [tensor[index] for tensor in parameters]
        mean, log_std = self.update.actor_outputs(parameters, flat(torch.as_tensor(observations)))
        if not deterministic:
            mean = mean + torch.randn(mean.shape) * log_std.exp()
        return mean.tanh().numpy()
