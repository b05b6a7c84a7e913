"""Shared parts of the agents that learn from replay: gradient steps in every mode, checks, and what is stored."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback, RolloutReturn, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from torch import Tensor
from torch.func import vmap
from torch.utils.hooks import RemovableHandle

from rlopt.agents.sac.batch import Batch, Drawn, flat_parts, joined, nested_parts, stacked, with_discounts
from rlopt.agents.sac.checks import fitting_replay_buffer
from rlopt.agents.sac.losses import Info
from rlopt.algorithms.finite import check_finite, check_parameters
from rlopt.algorithms.resumable import Resumable
from rlopt.algorithms.rollout import finish_step
from rlopt.console.progress import say
from rlopt.envs.calls import NamedWorkers
from rlopt.envs.outcomes import check_batch
from rlopt.errors import NonFiniteError, require
from rlopt.nn.encoders import shift_batch
from rlopt.optim.compiled_step import ActingCopy, CompileChoice, GradientStep, Mode, Precision, choose_mode
from rlopt.optim.descent import Network, Networks, OwnNetworks, Part, Scalar, draws_or_counts, obstacle
from rlopt.optim.held_networks import HeldNetworks, State, Store
from rlopt.optim.lockstep import jointly, runs_in_lockstep, side_by_side
from rlopt.optim.traced import CannotCompile, Traced, cannot_compile, trace
from rlopt.replay.buffers import DeviceReplayBuffer

READ_EVERY = 64
"""Gradient steps on an accelerator between two looks at their losses."""
_COUNTERS = ("num_timesteps", "start_time", "seed", "tensorboard_log", "verbose")
"""Plain attributes that change or differ while the gradient step stays the same."""
_PLAIN = (bool, int, float, str, type(None))


class OffPolicy(Resumable, OffPolicyAlgorithm):
    """Base of the agents that learn from replay, before the Stable-Baselines3 class.

    A subclass says in :meth:`networks` what a gradient step reads and changes, and in :meth:`gradient_step` what it
    does. That step then runs in every mode: with torch's optimisers, compiled, captured in a CUDA graph, or for several
    seeds at once. It is compiled with the current values of the model's plain attributes (numbers, strings, booleans);
    if one changes, it is recompiled. Values that change often belong in :meth:`scalars`, random numbers into
    :meth:`draw`.
    """

    unsaved: ClassVar[tuple[str, ...]] = (
        "update", "_unread", "_uncompiled", "_obstacle", "_told", "_by_sb3", "_seen", "_structure",
    )  # fmt: skip
    acting_part: ClassVar[str] = "actor"
    """The one of :meth:`networks` that acts."""
    actor_due: bool = True
    """Whether the present gradient step is one of the actor too."""
    random_shift: int = 0
    demo_fraction: float = 0.0
    shown: DeviceReplayBuffer | None = None
    """Demonstrations that batches are partly drawn from."""
    compile: CompileChoice
    precision: Precision = "float32"
    target_update_interval: int
    update: Update | None
    """The compiled step, once one was taken."""
    learn = OffPolicyAlgorithm.learn  # those of the algorithms below only pass on

    def _setup_model(self) -> None:
        chosen = self.replay_buffer_class
        if chosen is None:
            chosen = fitting_replay_buffer(self.observation_space, self.n_steps)
            if self.n_steps > 1:
                self.replay_buffer_kwargs.update({"n_steps": self.n_steps, "gamma": self.gamma})
        # None for a model that was loaded without: set_env gives it one.
        further: dict[str, Any] = {"env": self.env} if issubclass(chosen, HerReplayBuffer) else {}
        if self.replay_buffer is None:
            self.replay_buffer = chosen(
                self.buffer_size,
                self.observation_space,
                self.action_space,
                device=self.device,
                n_envs=self.n_envs,
                optimize_memory_usage=self.optimize_memory_usage,
                **self.replay_buffer_kwargs,
                **further,
            )
        if self.replay_buffer_kwargs.get("n_steps") == self.n_steps:
            self.replay_buffer_class = None
        super()._setup_model()
        # Environments of one class often share one space object, and with it the generator of the warm-up's actions.
        self.action_space = copy.deepcopy(self.action_space)
        self.replay_buffer_class = chosen  # not before: Stable-Baselines3 would say that n_steps is ignored
        self.update = None
        self._unread: list[Info] = []
        self._uncompiled: str | None = None
        self._obstacle: str | None = None
        self._told: str | None = None
        self._by_sb3 = False
        self._seen: tuple[int, ...] = ()
        self._structure: list[tuple[Any, ...]] = []

    # ---- the gradient step

    def networks(self) -> dict[str, Part]:
        """The networks that a gradient step reads or changes, by name. A subclass adds its own, with or without an
        optimiser."""
        raise NotImplementedError

    def scalars(self) -> dict[str, float]:
        """Numbers that may change from step to step without compiling the step anew."""
        raise NotImplementedError

    def gradient_step(
        self,
        networks: Networks,
        batch: Batch,
        drawn: Mapping[str, Tensor],
        scalars: Mapping[str, Scalar],
        move_targets: bool,
    ) -> Info:
        """One step of every network, from tensors alone: it must not read a value on the host, nor branch on one.

        :param move_targets: whether the target networks move too
        :returns: the losses and statistics of the step by name, scalars
        """
        raise NotImplementedError

    def draw(self, batch_size: int) -> Drawn:
        """Draws the random inputs of a gradient step as tensors by name: the batch, or the rows of the replay buffer
        that are one. A subclass may add more. Names such as ``observations/goal`` are parts of Dict observations.
        """
        return self._draw_batch(batch_size)

    def _draw_batch(self, batch_size: int) -> Drawn:
        buffer: Any = self.replay_buffer
        normalize = self.get_vec_normalize_env()
        in_place = isinstance(buffer, DeviceReplayBuffer) and type(buffer).sample is DeviceReplayBuffer.sample
        count = 0 if self.shown is None else round(batch_size * self.demo_fraction)
        if in_place and normalize is None and not self.random_shift:
            rows = {"rows": buffer.sample_rows(batch_size - count)}
            return rows if self.shown is None else rows | {"shown_rows": self.shown.sample_rows(count)}
        batch = with_discounts(buffer.sample(batch_size - count, env=normalize), self.gamma)
        if self.shown is not None:
            batch = joined(batch, with_discounts(self.shown.sample(count, env=normalize), self.gamma))
        if self.random_shift:
            batch = shift_batch(batch, self.random_shift)
        drawn: Drawn = {}
        for name, value in batch._asdict().items():
            drawn |= flat_parts(name, value)
        return drawn

    def read_batch(self, drawn: Mapping[str, Tensor]) -> Batch:
        """The batch from the output of :meth:`draw`, by tensor operations only."""
        if "rows" in drawn:
            buffer: Any = self.replay_buffer
            batch = with_discounts(buffer.gather(drawn["rows"]), self.gamma)
            if self.shown is None:
                return batch
            return joined(batch, with_discounts(self.shown.gather(drawn["shown_rows"]), self.gamma))
        return Batch(*(nested_parts(drawn, name) for name in Batch._fields))

    # ---- taking steps

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Takes ``gradient_steps`` gradient steps on batches of ``batch_size`` transitions from the replay buffer."""
        if self.update is None and not self.policy.training:  # what is compiled has no layer that differs in training
            self.policy.set_training_mode(True)
        parts = self.networks()
        self._update_learning_rate([part.optimizer for part in parts.values() if part.optimizer is not None])
        mode = self._mode(parts)
        if mode is None and self._by_sb3:
            super().train(gradient_steps, batch_size)
            check_parameters(self.policy, self.num_timesteps)
            return
        own = OwnNetworks(parts, self._check_loss)
        statistics: list[Info] = []
        for gradient_step in range(gradient_steps):
            self.actor_due = self._is_actor_due()
            move_targets = gradient_step % self.target_update_interval == 0
            drawn = self.draw(batch_size)
            info: Info | None = None
            if mode is not None:
                try:
                    info = jointly(take_steps)([Request(self, parts, mode, drawn, move_targets)])[0]
                except Obstructed as error:
                    self._obstacle = str(error)
                except CannotCompile as error:
                    self._uncompiled = str(error)
                if info is None:
                    mode = self._mode(parts)
            if info is None:
                info = self.gradient_step(own, self.read_batch(drawn), drawn, self.scalars(), move_targets)
                if self.update is not None:
                    self.update.acting.follow()
            else:
                self._check(info)
            statistics.append(info)
            self._n_updates += 1
            self.after_step()
        self._unread += statistics
        # Reading a value waits for the device: an accelerator is asked once in a while, the CPU at once.
        if len(self._unread) >= (1 if self.device.type == "cpu" else READ_EVERY):
            self._record(self._unread)
            self._unread = []

    def _is_actor_due(self) -> bool:
        """Whether the next gradient step is one of the actor too."""
        return True

    def after_step(self) -> None:
        """Called after each gradient step, when ``_n_updates`` counts it."""

    def _mode(self, parts: Mapping[str, Part]) -> Mode | None:
        """How the step is taken as one call; None to take it by torch's optimisers, as a short run does."""
        if self._seen != (seen := _hooks_and_groups(parts)):
            self._look_at_modules(parts)
            self._seen = seen
        # What is compiled for one of several runs serves all.
        planned = self._planned_gradient_steps() * runs_in_lockstep()
        mode = choose_mode(self.compile, self.device, planned, precision=self.precision)
        reason = self._uncompiled or self._obstacle
        if self.precision == "bf16":
            require(reason is None, f"{reason}, and precision bf16 needs compiled gradient steps: use float32")
        if mode != "eager" and reason is None:
            return mode
        self.update = None
        if mode != "eager" and reason != self._told:
            self._told = reason
            self.policy.set_training_mode(True)
            say(f"{type(self).__name__}'s gradient steps are not compiled: {reason}")
        return None

    def _look_at_modules(self, parts: Mapping[str, Part]) -> None:
        """Looks at what decides how steps are taken, when ``learn`` begins and where hooks or parameter groups are new.

        Where modules draw random numbers or keep statistics, a step depends on the order of the networks' passes.
        """
        structure = [(name, repr(part.module), *map(id, part.named().values())) for name, part in parts.items()]
        if structure != self._structure:  # what was compiled has the layers that there were
            self.update, self._structure = None, structure
        self._obstacle = obstacle(parts)
        self._by_sb3 = self.is_sac() and draws_or_counts(parts)

    def is_sac(self) -> bool:
        """Whether a gradient step is that of Stable-Baselines3's SAC."""
        return False

    def plain_settings(self) -> tuple[tuple[str, Any], ...]:
        """Plain attributes that the step may have been compiled with; if one changes, it is recompiled."""
        changing = {*_COUNTERS, *self.state_attributes, *self.scalars()}
        return tuple(
            (name, value)
            for name, value in vars(self).items()
            if isinstance(value, _PLAIN) and name[0] != "_" and name not in changing
        )

    def _planned_gradient_steps(self) -> int:
        assert isinstance(self.train_freq, TrainFreq)
        if self.gradient_steps < 0 or self.train_freq.unit is not TrainFrequencyUnit.STEP:
            return self._total_timesteps
        return self._total_timesteps // (self.train_freq.frequency * self.n_envs) * self.gradient_steps

    def _check(self, info: Info) -> None:
        """Raises :class:`rlopt.errors.NonFiniteError` for a statistic of the compiled step that is not finite."""
        if self.device.type == "cpu" and not bool(torch.stack(list(info.values())).isfinite().all()):
            for name, value in info.items():
                self._check_loss(name.replace("_", " "), value)

    def _check_loss(self, name: str, loss: Tensor) -> None:
        # Reading a value costs nothing on the CPU; on an accelerator it would wait for the device, so there the losses
        # are looked at in _record.
        if loss.device.type == "cpu":
            self._require_finite(name, loss.item())

    def _require_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise NonFiniteError(
                f"{name} is NaN or infinite at step {self.num_timesteps} (gradient step {self._n_updates}): lower the "
                "learning rate or the reward scale and continue from the last good checkpoint"
            )

    def _record(self, statistics: list[Info]) -> None:
        """Brings the statistics of gradient steps to the host in few transfers, checks them and logs their means."""
        alike: dict[tuple[str, ...], list[Info]] = {}
        for info in statistics:  # not every step is the actor's
            alike.setdefault(tuple(info), []).append(info)
        sums: dict[str, tuple[float, int]] = {}
        for names, infos in alike.items():
            table = torch.stack([torch.stack([info[name].reshape(()) for name in names]) for info in infos])
            for name, total in zip(names, table.double().sum(dim=0).tolist(), strict=True):
                before, count = sums.get(name, (0.0, 0))
                sums[name] = before + total, count + len(infos)
        for name, (total, count) in sums.items():
            mean = total / count
            self._require_finite(name.replace("_", " "), mean)
            self.logger.record(f"train/{name}", mean)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    # ---- storing

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        check_batch(new_obs, reward, dones, self.observation_space, self.n_envs)
        check_finite("reward", reward, self.num_timesteps)
        check_finite("observation", new_obs, self.num_timesteps)
        if self._vec_normalize_env is not None:
            # Clipping can hide an infinity in the normalised values; these are the ones that are stored.
            check_finite("reward", self._vec_normalize_env.get_original_reward(), self.num_timesteps)
            check_finite("observation", self._vec_normalize_env.get_original_obs(), self.num_timesteps)
        for done, info in zip(dones, infos, strict=True):
            if done and info.get("terminal_observation") is not None:
                check_finite("terminal observation", info["terminal_observation"], self.num_timesteps)
        self._count_observations()
        position, was_full = replay_buffer.pos, replay_buffer.full
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        self.after_storing(position, was_full, dones, infos)

    def after_storing(self, position: int, was_full: bool, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """Called after a transition of each environment was stored.

        :param position: of the replay buffer before, where they now are
        :param was_full: whether they took the place of others
        """

    def _count_observations(self) -> None:
        """Counts the observations that were acted on, where the networks normalise them."""

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        name = type(self).__name__ if tb_log_name == "run" else tb_log_name
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, name, progress_bar)
        check_finite("observation", self._last_obs, self.num_timesteps)
        self._seen = ()
        if self.update is not None:  # what acts until the first gradient step has the layers that there are now
            self._look_at_modules(self.networks())
            self.update = None if self._obstacle is not None else self.update
        return result

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: ReplayBuffer,
        action_noise: ActionNoise | None = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        if not self.at_boundary():
            return RolloutReturn(0, 0, continue_training=False)
        with NamedWorkers(env):
            return self._collect(env, callback, train_freq, replay_buffer, action_noise, learning_starts, log_interval)

    def _collect(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: ReplayBuffer,
        action_noise: ActionNoise | None,
        learning_starts: int,
        log_interval: int | None,
    ) -> RolloutReturn:
        result = super().collect_rollouts(
            env, callback, train_freq, replay_buffer, action_noise, learning_starts, log_interval
        )
        if not result.continue_training:
            finish_step(self, callback)
        return result


def _hooks_and_groups(parts: Mapping[str, Part]) -> tuple[int, ...]:
    """Changes where a hook was put on a module, parameter or optimiser, and where an optimiser has a new group."""
    optimizers = [part.optimizer for part in parts.values() if part.optimizer is not None]
    return RemovableHandle.next_id, *(len(optimizer.param_groups) for optimizer in optimizers)


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
    return [infos[0] for infos in side_by_side(jobs, all(update.taken for update in updates))]


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
            state, info = vmap(one)(self.store.state, stacked(batches), drawn, scalars)
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
    def act(self, model: Any, observations: np.ndarray, deterministic: bool) -> np.ndarray:
        """Actions in [-1, 1] of one model for a batch of observations: (N, A) from (N, ...)."""
        mean, log_std = self._policy(model)(torch.as_tensor(observations))
        if not deterministic:
            mean = mean + torch.randn(mean.shape) * log_std.exp()
        return mean.tanh().numpy()

    def _policy(self, model: Any) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Mean and logarithm of the standard deviation before tanh, (N, A) each, as functions of (N, ...)."""
        if model.device.type == "cpu":
            return functools.partial(self._traced_policy, model)
        index = next(i for i, own in enumerate(self.models) if own is model) if self.store.stacked else None
        values = [tensor if index is None else tensor[index] for tensor in self.acting.parameters()]
        layout = self.store.layouts[model.acting_part]
        network = Network(layout.part, dict(zip(self._acting_names, values, strict=True)), layout.methods)
        return lambda shown: network(shown, method="get_action_dist_params")[:2]

    def _traced_policy(self, model: Any, shown: Tensor) -> tuple[Tensor, Tensor]:
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
