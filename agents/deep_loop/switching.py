"""The part of DeepLOOP that watches the data: evidence for the bonus, and when the hypothesis in force is given up."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn

from rlopt.agents.deep_loop.bonus import Evidence, FourierFeatures, switch_threshold
from rlopt.agents.deep_loop.plan import Plan
from rlopt.agents.deep_loop.resets import ResetCritic
from rlopt.replay.buffers import DeviceReplayBuffer

ROWS_AT_ONCE = 8192
"""Transitions that go through the networks together when the whole replay buffer is read."""


class LazySwitching:
    """Mixin placed before :class:`rlopt.OffPolicyMDPO`.

    A *phase* begins with a switch: the learner's networks are frozen as the hypothesis in force, the features'
    normalisation is fitted, and the evidence is gathered anew from the replay buffer. Every transition after that is
    added to it. Without ``lazy`` there is one phase, for the bonus, and nothing is frozen.
    """

    bonus: bool
    beta: float
    max_bonus: float
    n_features: int
    length_scale: float
    ridge: float
    lazy: bool
    switch_multiplier: float
    min_interval: int
    max_interval: int

    state_attributes: ClassVar[tuple[str, ...]] = (
        "n_collected",
        "n_seen",
        "n_switches",
        "n_switches_by_interval",
        "switched_at",
        "discrepancy_at_switch",
    )
    n_collected = 0
    """Transitions collected so far."""
    n_seen = 0
    """Those of them that the evidence has."""
    n_switches = 0
    """Phases begun, the first one included."""
    n_switches_by_interval = 0
    """Of those, how many only because ``max_interval`` was over."""
    switched_at = 0
    """``n_collected`` when the present phase began."""
    discrepancy_at_switch = 0.0
    """On the data of that time."""

    plan: Plan | None = None
    """The hypothesis in force; None without ``lazy``."""
    features: nn.Module | None = None
    """psi, from concatenated observations and actions (B, I) to (B, d)."""
    evidence: Evidence | None = None
    reset_critic: ResetCritic | None = None
    """Critic of the resets, where their cost is learned."""

    def _setup_switching(self) -> None:
        model: Any = self
        if self.bonus or self.lazy:
            n_inputs = math.prod(model.observation_space.shape) + math.prod(model.action_space.shape)
            self.features = FourierFeatures(n_inputs, self.n_features, self.length_scale).to(model.device)
            self.evidence = Evidence(self.n_features, self.ridge).to(model.device)
        if self.lazy:
            self.plan = Plan(model.policy.make_actor(), model.policy.make_critic()).to(model.device)

    def _make_reset_critic(self) -> ResetCritic:
        policy: Any = self.policy  # type: ignore[attr-defined]
        model: Any = self

        def make_optimizer(parameters: Any) -> torch.optim.Optimizer:
            optimizer: torch.optim.Optimizer = policy.optimizer_class(
                parameters, lr=model.lr_schedule(1), **policy.optimizer_kwargs
            )
            return optimizer

        def network() -> ContinuousCritic:
            settings = policy._update_features_extractor(policy.critic_kwargs, None)
            return ContinuousCritic(**{**settings, "net_arch": [64, 64], "n_critics": 1}).to(model.device)

        return ResetCritic(network(), network(), make_optimizer).to(model.device)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Takes new transitions in, switches if it is time, then takes ``gradient_steps`` gradient steps."""
        if self.evidence is not None:
            self._take_stock()
        super().train(gradient_steps, batch_size)  # type: ignore[misc]

    def _take_stock(self) -> None:
        evidence = self.evidence
        assert evidence is not None
        if self.n_switches == 0:
            self._begin_phase()
        else:
            self._add(self._newest_rows())
        if self.plan is None:
            return
        since, value = self.n_collected - self.switched_at, evidence.discrepancy()
        threshold = switch_threshold(self.discrepancy_at_switch, self.beta, self.switch_multiplier)
        if since >= self.min_interval and (value >= threshold or since >= self.max_interval):
            self.n_switches_by_interval += value < threshold
            self._begin_phase()
        record = self.logger.record  # type: ignore[attr-defined]
        record("loop/discrepancy", value)
        record("loop/threshold", threshold)
        record("loop/switches", self.n_switches)
        record("loop/switches_by_interval", self.n_switches_by_interval)

    def _begin_phase(self) -> None:
        """Freezes what the learner has now and measures it on the whole replay buffer."""
        evidence, buffer = self.evidence, self._buffer()
        assert evidence is not None
        if self.plan is not None:
            self._freeze(self.plan)
        rows = torch.arange(buffer.size() * buffer.n_envs, device=buffer.device)
        if isinstance(self.features, FourierFeatures) and len(rows):
            self.features.fit(torch.cat([self._inputs(buffer.transitions(part)) for part in rows.split(ROWS_AT_ONCE)]))
        evidence.clear()
        self._add(rows)
        self.n_switches += 1
        self.switched_at = self.n_collected
        self.discrepancy_at_switch = evidence.discrepancy()

    def _freeze(self, plan: Plan) -> None:
        model: Any = self
        ent_coef = model.ent_coef_tensor if model.log_ent_coef is None else model.log_ent_coef.detach().exp()
        plan.freeze(model.actor, model.critic, gain=model.gain, reset_price=model.reset_price, ent_coef=ent_coef)

    def _buffer(self) -> DeviceReplayBuffer:
        buffer = self.replay_buffer  # type: ignore[attr-defined]
        assert isinstance(buffer, DeviceReplayBuffer)
        return buffer

    def _newest_rows(self) -> Tensor:
        """Rows of the transitions that the evidence does not have yet."""
        buffer = self._buffer()
        count = min((self.n_collected - self.n_seen) // buffer.n_envs, buffer.size())
        positions = (torch.arange(buffer.pos - count, buffer.pos, device=buffer.device)) % buffer.buffer_size
        envs = torch.arange(buffer.n_envs, device=buffer.device)
        return (positions.unsqueeze(1) * buffer.n_envs + envs).flatten()

    @torch.no_grad()
    def _add(self, rows: Tensor) -> None:
        assert self.evidence is not None and self.features is not None
        objective = self.objective  # type: ignore[attr-defined]
        for part in rows.split(ROWS_AT_ONCE) if len(rows) else []:
            batch = self._buffer().transitions(part)
            residuals = None if self.plan is None else self.plan.residuals(batch, objective)
            self.evidence.add(self.features(self._inputs(batch)), residuals)
        self.n_seen = self.n_collected

    def _inputs(self, batch: ReplayBufferSamples) -> Tensor:
        return torch.cat([batch.observations.float().flatten(1), batch.actions.float().flatten(1)], dim=1)

    @torch.no_grad()
    def bonus_of(self, batch: ReplayBufferSamples) -> Tensor:
        """b(s, a), (B, 1), of a batch's pairs, in units of reward."""
        assert self.evidence is not None and self.features is not None
        return self.evidence.bonus(self.features(self._inputs(batch)), self.beta, self.max_bonus)

    @property
    def discrepancy(self) -> float:
        """Of the hypothesis in force on all its data, in units of reward squared; 0 without ``lazy``."""
        return 0.0 if self.evidence is None else self.evidence.discrepancy()

    def _excluded_save_params(self) -> list[str]:
        ours = ["plan", "features", "evidence", "reset_critic", "gain", "reset_price"]
        return [*super()._excluded_save_params(), *ours]  # type: ignore[misc]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()  # type: ignore[misc]
        for name in ("plan", "features", "evidence"):
            state_dicts = [*state_dicts, *([name] if getattr(self, name) is not None else [])]
        if self.reset_critic is not None:
            state_dicts = [*state_dicts, "reset_critic", "reset_critic.optimizer"]
        return state_dicts, [*tensors, "gain", "reset_price"]
