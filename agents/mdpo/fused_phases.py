"""Both phases of on-policy MDPO with each gradient step as one function of tensors, compiled or captured whole.

It computes what ``MDPO._policy_phase`` and ``MDPO._value_phase`` compute, from the same rollout in the same order, with
clipping and Adam in the same call. Models of several seeds are updated together: tensors then have an axis S in front.
Shapes: B rows of the rollout, b rows of a gradient step, O observation and A action dimensions.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn
from torch.func import grad, vmap

from rlopt.agents.mdpo import losses
from rlopt.agents.mdpo.divergences import gaussian_divergence
from rlopt.agents.mdpo.heads import GaussianHead, action_head, gaussian_evaluation
from rlopt.agents.mdpo.losses import Info
from rlopt.nn.stacked import Layer, StackedParameters, mlp, mlp_layers, over, plain_adam
from rlopt.optim.compiled_step import GradientStep, Mode
from rlopt.optim.lockstep import side_by_side
from rlopt.validation import check_finite

if TYPE_CHECKING:
    from rlopt.agents.mdpo.on_policy import MDPO

Parameters = Sequence[Tensor]
History = dict[str, list[Tensor]]
"""The statistics of every gradient step, scalars by name."""


@dataclass(frozen=True)
class Request:
    """A model's wish for both phases on its rollout, with everything that its random generators decide."""

    model: MDPO
    mode: Mode
    columns: tuple[Tensor, ...]
    """Observations (B, ...), actions (B, A), advantages as the loss takes them, returns and values (B,)."""
    policy_orders: tuple[Tensor, ...]
    """A permutation of the rows for each pass of the policy phase; none where passes take the full batch."""
    value_orders: tuple[Tensor, ...]
    step_size: float
    """t_k."""


def obstacle(model: MDPO) -> str | None:
    """Why the gradient steps of ``model`` cannot be fused, in words; None if they can."""
    from rlopt.agents.mdpo.on_policy import MDPO as Base

    phases = ("_policy_phase", "_value_phase", "_step")
    own = [name for name in phases if getattr(type(model), name) is not getattr(Base, name) or name in vars(model)]
    if own:
        return f"{type(model).__name__} overrides {own[0]}"
    if model.compile != "on" and (model.policy_loss, model.value_loss) != (losses.policy_loss, losses.value_loss):
        # What such a function reads besides its arguments would be kept as it was at the first step.
        return "a loss is one's own, and compile is not 'on'"
    policy = model.policy
    if not isinstance(action_head(policy), GaussianHead):
        return "the policy is no Gaussian whose standard deviation is one for all states"
    extractors = [policy.pi_features_extractor, policy.vf_features_extractor]
    if not isinstance(model.observation_space, spaces.Box) or any(type(e) is not FlattenExtractor for e in extractors):
        return "observations are not flat arrays"
    if _actor_layers(model) is None or _critic_layers(model) is None:
        return "the networks are more than linear layers with activations"
    if not all(map(plain_adam, [policy.optimizer, model.value_optimizer])):
        return "the optimiser is not plain Adam"
    return None


def update_models(requests: Sequence[Request]) -> list[History]:
    """Takes both phases of every request; their statistics.

    The models must be alike in their networks and settings. On a GPU a step of all is one call; on the CPU each model's
    are calls of its own, with the result of the model alone, and as many run at once as torch has threads. What was
    made for a model, or for several, is kept in their attribute ``fused``.
    """
    if requests[0].mode == "compiled" and len(requests) > 1:
        return _update_side_by_side(requests)
    return _phases_of(requests).take(requests)


def _phases_of(requests: Sequence[Request], like: FusedPhases | None = None) -> FusedPhases:
    models, mode = [request.model for request in requests], requests[0].mode
    phases = models[0].fused
    if phases is None or phases.mode != mode or not phases.belongs_to(models):
        phases = FusedPhases(models, mode, like)
        for model in models:
            model.fused = phases
    return phases


def _update_side_by_side(requests: Sequence[Request]) -> list[History]:
    phases: list[FusedPhases] = []
    for request in requests:
        phases.append(_phases_of([request], phases[0] if phases else None))
    jobs = [functools.partial(own.take, [request]) for own, request in zip(phases, requests, strict=True)]
    if all(own.taken for own in phases):
        return [histories[0] for histories in side_by_side(jobs)]
    return [side_by_side([job])[0][0] for job in jobs]  # what is compiled now, for the first, serves all


def check_history(history: History, step: int) -> None:
    """Raises :class:`rlopt.errors.NonFiniteError` for a broken loss or gradient, which has moved nothing.

    Takes the norms of the gradients out of ``history``.
    """
    for name in ("policy", "value"):
        check_finite(f"{name} loss", torch.stack(history[f"{name}_loss"]), step)
        check_finite(f"gradient of the {name} loss", torch.stack(history.pop(f"{name}_gradient_norm")), step)


class FusedPhases:
    """Updates ``models``, one or several that are alike in networks and settings, in ``mode``."""

    def __init__(self, models: Sequence[MDPO], mode: Mode, like: FusedPhases | None = None) -> None:
        self.models, self.mode = list(models), mode
        self.taken = False
        """Whether it has updated its models."""
        self._shape = (len(models),) if len(models) > 1 else ()
        actor, critic = _actor_layers(models[0]), _critic_layers(models[0])
        assert actor is not None and critic is not None
        self._actor_layers, self._critic_layers = actor, critic
        self.actor = self._stack(
            [[*_parameters(model, "policy_net", "action_net"), model.policy.log_std] for model in models],
            [model.policy.optimizer for model in models],
        )
        self.critic = self._stack(
            [_parameters(model, "value_net", "value_net") for model in models],
            [model.value_optimizer for model in models],
        )
        self._policy_step = GradientStep(self.policy_step, mode, self.actor.changed)
        self._value_step = GradientStep(self.value_step, mode, self.critic.changed)
        if like is not None:
            self._policy_step.compile_like(like._policy_step)
            self._value_step.compile_like(like._value_step)

    def _stack(self, members: Sequence[Sequence[Tensor]], owners: Sequence[torch.optim.Optimizer]) -> StackedParameters:
        return StackedParameters(list(zip(*members, strict=True)), self._shape, owners)

    def belongs_to(self, models: Sequence[MDPO]) -> bool:
        """Whether it was made for these models, with the optimisers that they have now."""
        return len(models) == len(self.models) and all(
            own is model for own, model in zip(self.models, models, strict=True)
        )

    def take(self, requests: Sequence[Request]) -> list[History]:
        """Both phases of each model; their statistics, which stay as they are."""
        self.actor.attach()
        self.critic.attach()
        first = requests[0].model
        observations, actions, advantages, returns, values = (
            self._stacked(column) for column in zip(*(request.columns for request in requests), strict=True)
        )
        observations = observations.float().flatten(len(self._shape) + 1)
        with torch.no_grad():
            old_mean, old_std, old_log_prob = self._each(_old_policy)(
                self._mean(self.actor.tensors, observations), self.actor.tensors[-1], actions
            )
        columns = (observations, actions, advantages, old_log_prob, old_mean)
        scalars = self._scalars(
            [[r.model.policy.optimizer.param_groups[0]["lr"], r.step_size, r.model.ent_coef] for r in requests]
        )
        settings: dict[str, Any] = {"tsallis_q": first.tsallis_q, "max_grad_norm": first.max_grad_norm}
        history: dict[str, list[Tensor]] = defaultdict(list)
        for rows in self._batches([r.policy_orders for r in requests], first.n_epochs, first.batch_size):
            self._record(history, self._policy_step(*columns, old_std, scalars, *rows, **settings))
        scalars = self._scalars([[r.model.value_optimizer.param_groups[0]["lr"]] for r in requests])
        settings = {"clip_range_vf": first.clip_range_vf, "max_grad_norm": first.max_grad_norm}
        for rows in self._batches([r.value_orders for r in requests], first.n_value_epochs, first.value_batch_size):
            self._record(history, self._value_step(observations, returns, values, scalars, *rows, **settings))
        self.taken = True
        stacked = {name: torch.stack(steps).reshape(-1, len(requests)) for name, steps in history.items()}
        return [{name: list(table[:, i].unbind()) for name, table in stacked.items()} for i in range(len(requests))]

    def _batches(
        self, orders: Sequence[tuple[Tensor, ...]], passes: int, batch_size: int | None
    ) -> Iterator[tuple[Tensor, ...]]:
        """The rows of each gradient step, (b,) or (S, b); nothing where it takes the full batch."""
        if batch_size is None or not orders[0]:
            yield from [()] * passes
            return
        for shuffled in zip(*orders, strict=True):
            for rows in self._stacked(shuffled).split(batch_size, dim=-1):
                yield (rows.contiguous(),)

    def policy_step(
        self,
        observations: Tensor,
        actions: Tensor,
        advantages: Tensor,
        old_log_prob: Tensor,
        old_mean: Tensor,
        old_std: Tensor,
        scalars: Tensor,
        *rows: Tensor,
        tsallis_q: float,
        max_grad_norm: float,
    ) -> Info:
        """One gradient step of the policy phase on ``rows``, in place.

        :param old_std: (A,), the same in every row
        :param scalars: learning rate, t_k and the weight of the entropy
        """
        learning_rate, step_size, ent_coef = scalars.unbind(-1)
        policy_loss = self.models[0].policy_loss
        batch = [self._rows(column, *rows) for column in (observations, actions, advantages, old_log_prob, old_mean)]

        def loss(
            mean: Tensor, log_std: Tensor, t_k: Tensor, weight: Tensor, old_std: Tensor, *rest: Tensor
        ) -> tuple[Tensor, Info]:
            actions, advantages, old_log_prob, old_mean = rest
            _, log_prob, entropy = gaussian_evaluation(mean, log_std, actions)
            divergence = gaussian_divergence(mean, log_std.exp(), old_mean, old_std, q=tsallis_q)
            return policy_loss(log_prob, old_log_prob, advantages, divergence, entropy, step_size=t_k, ent_coef=weight)

        def objective(actor: Parameters) -> tuple[Tensor, Info]:
            mean = self._mean(actor, batch[0])
            numbers = step_size.to(mean.dtype), ent_coef.to(mean.dtype)
            values, info = self._each(loss)(mean, actor[-1], *numbers, old_std, *batch[1:])
            return values.sum(), info

        return self._step(self.actor, objective, "policy", learning_rate, max_grad_norm)

    def value_step(
        self,
        observations: Tensor,
        returns: Tensor,
        old_values: Tensor,
        scalars: Tensor,
        *rows: Tensor,
        clip_range_vf: float | None,
        max_grad_norm: float,
    ) -> Info:
        """One gradient step of the value phase on ``rows``, in place; ``scalars`` holds the learning rate."""
        value_loss = self.models[0].value_loss
        batch = [self._rows(column, *rows) for column in (observations, returns, old_values)]

        def loss(values: Tensor, returns: Tensor, old_values: Tensor) -> tuple[Tensor, Info]:
            return value_loss(values, returns, old_values, clip_range_vf=clip_range_vf)

        def objective(critic: Parameters) -> tuple[Tensor, Info]:
            values = mlp(self._critic_layers, critic, batch[0]).squeeze(-1)
            found, info = self._each(loss)(values, *batch[1:])
            return found.sum(), info

        return self._step(self.critic, objective, "value", scalars[..., 0], max_grad_norm)

    def _step(
        self,
        part: StackedParameters,
        objective: Callable[[Parameters], tuple[Tensor, Info]],
        name: str,
        learning_rate: Tensor,
        max_grad_norm: float,
    ) -> Info:
        """Clips the gradient of each model and moves it; where loss or gradient is not finite, nothing moves."""
        gradients, info = grad(objective, has_aux=True)(part.tensors)
        own = len(self._shape)
        norm = torch.stack([gradient.flatten(own).square().sum(-1) for gradient in gradients]).sum(0).sqrt()
        scale = (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        gradients = [gradient * over(scale, gradient) for gradient in gradients]
        keep = norm.isfinite() & info[f"{name}_loss"].isfinite()
        group = self.models[0].policy.optimizer.param_groups[0]
        part.adam(gradients, learning_rate, keep, group["betas"], group["eps"])
        return {**info, f"{name}_gradient_norm": norm}

    def _mean(self, actor: Parameters, observations: Tensor) -> Tensor:
        return mlp(self._actor_layers, actor[:-1], observations)

    def _rows(self, column: Tensor, *rows: Tensor) -> Tensor:
        if not rows:
            return column
        selected: Tensor = self._each(lambda values, index: values.index_select(0, index))(column, rows[0])
        return selected

    def _each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return vmap(function) if self._shape else function

    def _stacked(self, values: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(values)) if self._shape else values[0]

    def _scalars(self, table: list[list[float]]) -> Tensor:
        values = torch.tensor(table if self._shape else table[0], dtype=torch.float64)
        return values.to(self.models[0].device, non_blocking=True)

    @staticmethod
    def _record(history: History, info: Info) -> None:
        for name, value in info.items():
            history[name].append(value.clone())  # a CUDA graph overwrites its outputs


def _old_policy(mean: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return mean, log_std.exp(), gaussian_evaluation(mean, log_std, actions).log_prob


def _parameters(model: MDPO, body: str, head: str) -> list[Tensor]:
    modules = [getattr(model.policy.mlp_extractor, body), getattr(model.policy, head)]
    return [parameter for module in modules for parameter in module.parameters()]


def _actor_layers(model: MDPO) -> list[Layer] | None:
    return mlp_layers(nn.Sequential(*model.policy.mlp_extractor.policy_net, model.policy.action_net))


def _critic_layers(model: MDPO) -> list[Layer] | None:
    return mlp_layers(nn.Sequential(*model.policy.mlp_extractor.value_net, model.policy.value_net))
