"""The gradient step of an offline learner as one function of tensors: eager, compiled, or captured in a CUDA graph.

Rows and noise of a block of steps are drawn at once; each step is then one call that gathers its batch, computes every
loss, and updates networks, target networks and Adam's moments in place. Other optimisers than plain Adam take their own
steps, which are not compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from stable_baselines3.common.utils import update_learning_rate
from torch import Tensor, nn
from torch.func import grad

from rlopt.agents.offline.actors import ActorFunction
from rlopt.agents.offline.data import Batch, ReplayRows, ResidentData
from rlopt.agents.offline.losses import Info
from rlopt.agents.offline.policy import OfflinePolicy, ordered_parameters
from rlopt.nn.stacked import Layer, StackedParameters, mlp, mlp_layers, plain_adam
from rlopt.optim.compiled_step import GradientStep, Mode
from rlopt.optim.descent import loss_and_further
from rlopt.optim.lockstep import side_by_side, together
from rlopt.optim.optimizers import descend, own_parameters

if TYPE_CHECKING:
    from rlopt.agents.offline.base import OfflineAlgorithm

Parameters = Sequence[Tensor]
Objective = Callable[[Parameters], tuple[Tensor, Info]]
Source = ResidentData | ReplayRows

MOST_STATISTICS = 16


class Networks:
    """The networks of a policy in stacked form; parameters and Adam's moments are shared with it.

    A part that the learner does not have is None.
    """

    def __init__(self, policy: OfflinePolicy) -> None:
        self.policy = policy
        self._keep: Tensor | None = None
        """Whether all losses of the gradient step were finite so far, a bool scalar; None before the first."""
        names = [name.removesuffix("_optimizer") for name in policy.optimizer_names()]
        self._other = {name for name in names if not plain_adam(policy.optimizer_of(name))}
        self.actor_function: ActorFunction = policy.actor.function
        self.actor = self._stack([policy.actor], (), "actor")
        self.actor_target = None if policy.actor_target is None else self._stack([policy.actor_target], (), None)
        self.n_critics = len(policy.critics)
        self._critic_layers: list[Layer] = []
        self.critics = self.critics_target = self.value = self.scalars = None
        if self.n_critics:
            self._critic_layers = _layers(policy.critics[0])
            self.critics = self._stack(list(policy.critics), (self.n_critics,), "critics")
            self.critics_target = self._stack(list(policy.critics_target), (self.n_critics,), None)
        if policy.value is not None:
            self._value_layers = _layers(policy.value)
            self.value = self._stack([policy.value], (), "value")
        if len(policy.scalars):
            columns = [[parameter] for parameter in policy.scalars.values()]
            self.scalars = StackedParameters(columns, (), self._adams("scalars", 1))

    def _stack(self, members: list[nn.Module], shape: tuple[int, ...], name: str | None) -> StackedParameters:
        columns = list(zip(*(ordered_parameters(member) for member in members), strict=True))
        return StackedParameters(columns, shape, [] if name is None else self._adams(name, len(members)))

    def _adams(self, name: str, members: int) -> list[torch.optim.Optimizer]:
        """The optimiser whose moments are to be stacked; none where it takes its own steps."""
        return [] if name in self._other else [self.policy.optimizer_of(name)] * members

    @property
    def compilable(self) -> bool:
        """Whether every optimiser is plain Adam, and there are no images."""
        return not self._other and self.actor_function.encoder is None

    @property
    def parts(self) -> list[StackedParameters]:
        """All parameters that a step reads or moves, with their moments."""
        found = (self.actor, self.actor_target, self.critics, self.critics_target, self.value, self.scalars)
        return [part for part in found if part is not None]

    def q_values(self, parameters: Parameters, observations: Tensor, actions: Tensor) -> Tensor:
        """Q_i(s, a), (B, n): of actions (B, A), or of (B,) int64 where the critics have a number for each action."""
        if actions.dim() == 1:
            every = self.every_q_value(parameters, observations)
            return every.gather(2, actions.expand(len(every), -1).unsqueeze(2)).squeeze(2).T
        return self.stacked_q_values(parameters, torch.cat([observations, actions], dim=1)).squeeze(2).T

    def first_q_value(self, parameters: Parameters, observations: Tensor, actions: Tensor) -> Tensor:
        """Q_1(s, a), (B, 1), of actions (B, A)."""
        x = torch.cat([observations, actions], dim=1)
        return mlp(self._critic_layers, [tensor[0] for tensor in parameters], x)

    def stacked_q_values(self, parameters: Parameters, x: Tensor) -> Tensor:
        """What the n critics give for x (B, inputs): (n, B, outputs)."""
        return mlp(self._critic_layers, parameters, x.expand(len(parameters[0]), *x.shape))

    def every_q_value(self, parameters: Parameters, observations: Tensor) -> Tensor:
        """Q_i(s, .) of all Discrete actions, (n, B, actions)."""
        return self.stacked_q_values(parameters, observations)

    def state_values(self, parameters: Parameters, observations: Tensor) -> Tensor:
        """V(s), (B, 1)."""
        return mlp(self._value_layers, parameters, observations)

    def begin_step(self) -> None:
        """Forgets the losses of the last gradient step: a step is judged by its own."""
        self._keep = None

    def _watch(self, info: Info) -> Tensor:
        """Whether the loss, the first of ``info``, and all before it in this gradient step are finite."""
        finite = next(iter(info.values())).isfinite()
        self._keep = finite if self._keep is None else self._keep & finite
        return self._keep

    def descend(self, part: StackedParameters | None, name: str, objective: Objective, learning_rate: Tensor) -> Info:
        """One step of the optimiser down ``objective``, unless its loss or one before it was not finite.

        :param name: name of the optimiser
        :returns: the statistics of the objective, whose first is the loss
        """
        assert part is not None

        def checked(parameters: Parameters) -> tuple[Tensor, Info]:
            return loss_and_further(name, objective(parameters))

        if name in self._other:
            return self._descend_by_itself(part, name, checked, learning_rate)
        gradients, info = grad(checked, has_aux=True)(part.tensors)
        self._watch(info)
        self.adam(part, name, gradients, learning_rate)
        return info

    def _descend_by_itself(
        self, part: StackedParameters, name: str, objective: Objective, learning_rate: Tensor
    ) -> Info:
        optimizer = self.policy.optimizer_of(name)
        with torch.enable_grad():
            loss, info = objective(part.from_members())
        info = {key: value.detach() for key, value in info.items()}
        if bool(self._watch(info)):
            update_learning_rate(optimizer, float(learning_rate))
            with torch.enable_grad():
                descend(optimizer, loss)
            part.attach()  # some optimisers put other tensors in place of the parameters
        return info

    def adam(self, part: StackedParameters, name: str, gradients: Parameters, learning_rate: Tensor) -> None:
        """One step of Adam, with the betas of the optimiser ``name``, where every loss so far was finite."""
        keep = self._keep
        assert keep is not None
        if name in self._other:  # Adam with options that the stacked one lacks
            if bool(keep):
                optimizer = self.policy.optimizer_of(name)
                update_learning_rate(optimizer, float(learning_rate))
                for parameter, gradient in zip(own_parameters(optimizer), gradients, strict=True):
                    parameter.grad = gradient.detach().clone()
                optimizer.step()
            return
        group = self.policy.optimizer_of(name).param_groups[0]
        part.adam(gradients, learning_rate, keep, group["betas"], group["eps"])

    def follow(self, slow: StackedParameters | None, fast: StackedParameters | None, tau: Tensor) -> None:
        """Moves the target network by ``tau`` of the way, where every loss so far was finite."""
        assert slow is not None and fast is not None and self._keep is not None
        part = torch.where(self._keep, tau, torch.zeros_like(tau))
        for target, source in zip(slow.tensors, fast.tensors, strict=True):
            target.copy_(target + (source - target) * part)


class OfflineStep:
    """Takes blocks of gradient steps of ``model`` on ``source`` in ``mode``."""

    def __init__(self, model: OfflineAlgorithm, source: Source, mode: Mode) -> None:
        self.mode, self.source, self._version = mode, source, source.storage_version
        self.precision = model.precision
        self._model = model
        self._sums = torch.zeros(2, MOST_STATISTICS, device=model.device)
        self._names: dict[int, list[str]] = {}
        self._counts = [0, 0]
        self._step = GradientStep(self._call, mode, self._state, [model], self.precision)
        self.taken = False
        """Whether it has taken a block."""
        self._numbers: tuple[float, ...] = ()
        self._tensor = torch.empty(0)

    def reads(self, source: Source) -> bool:
        """Whether it was made for ``source`` with its rows where they are now."""
        return self.source is source and self._version == source.storage_version

    def _state(self) -> list[Tensor]:
        return [tensor for part in self._model.networks.parts for tensor in part.changed()] + [self._sums]

    def _call(self, rows: Tensor, *inputs: Tensor, with_actor: bool) -> Info:
        """Everything that one gradient step does; ``inputs`` are the noise and, last, the numbers."""
        *noise, numbers = inputs
        newest, *coefficients = numbers.unbind()
        batch = self.source.gather(rows, newest.long())
        named = {name: value.float() for name, value in zip(self._model.coefficients, coefficients, strict=True)}
        batch = batch._replace(rewards=batch.rewards * named["reward_scale"] + named["reward_shift"])
        self._model.networks.begin_step()
        info = self._model.update(batch, noise, named, with_actor)
        self._model.networks.begin_step()  # no tensor of a trace stays behind
        stacked = torch.stack([value.reshape(()).float() for value in info.values()])
        self._sums[int(with_actor), : len(stacked)].add_(stacked)
        return info

    def take(self, steps: int, batch_size: int, after: Callable[[], bool]) -> bool:
        """``steps`` gradient steps; ``after`` is called after each and ends the block by returning False.

        Compiled for the CPU, the blocks of several runs that take turns (:mod:`rlopt.optim.lockstep`) run side by side.

        :returns: whether no ``after`` returned False
        """
        model = self._model
        for part in model.networks.parts:
            part.attach()
        rows = self.source.sample_rows(steps, batch_size)
        noise = model.draw_noise(steps, batch_size)
        block = functools.partial(self._take, rows, noise, self._as_tensor(), after)
        return together(take_blocks, (self, block)) if self.mode == "compiled" else block()

    def _take(self, rows: Tensor, noise: Sequence[Tensor], numbers: Tensor, after: Callable[[], bool]) -> bool:
        model = self._model
        for step in range(len(rows)):
            with_actor = model.moves_actor(model._n_updates + 1)
            info = self._step(rows[step], *(part[step] for part in noise), numbers, with_actor=with_actor)
            self._names.setdefault(int(with_actor), list(info))
            self._counts[with_actor] += 1
            model._n_updates += 1
            if not after():
                return False
        self.taken = True
        return True

    def _as_tensor(self) -> Tensor:
        """The newest row's position and the coefficients, as a float64 tensor on the device, recreated on change."""
        model = self._model
        numbers = (float(self.source.newest()), *(float(model.coefficient(name)) for name in model.coefficients))
        if numbers != self._numbers:
            self._numbers = numbers
            self._tensor = torch.tensor(numbers, dtype=torch.float64).to(model.device)
        return self._tensor

    def statistics(self) -> dict[str, float]:
        """Means of the statistics since the last call, in one transfer from the device."""
        sums = self._sums.tolist()
        totals: dict[str, float] = {}
        counts: dict[str, int] = {}
        for variant, names in self._names.items():
            for name, value in zip(names, sums[variant], strict=False):
                totals[name] = totals.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + self._counts[variant]
        self._sums.zero_()
        self._counts = [0, 0]
        return {name: value / counts[name] for name, value in totals.items() if counts[name]}


def take_blocks(requests: Sequence[tuple[OfflineStep, Callable[[], bool]]]) -> list[bool]:
    """Takes a block of gradient steps of each of several models that are alike; whether their callbacks continue."""
    steps, blocks = zip(*requests, strict=True)
    if len(steps) == 1:
        return [blocks[0]()]
    return side_by_side(blocks, all(step.taken for step in steps))


def _layers(network: nn.Module) -> list[Layer]:
    layers = mlp_layers(network)
    assert layers is not None
    return layers


__all__ = ["Batch", "Networks", "OfflineStep", "Parameters", "Source"]
