"""DeepLOOP: average-reward soft actor-critic with optimism and lazy switching, inspired by LOOP; experimental."""

import math
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import GymEnv, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor, nn

from rlopt.agents.deep_loop import losses
from rlopt.agents.deep_loop.bonus import Evidence, FourierFeatures, switch_threshold
from rlopt.agents.deep_loop.config import DeepLOOPConfig
from rlopt.agents.deep_loop.losses import GainEstimator
from rlopt.agents.deep_loop.plan import Plan, ResetCritic
from rlopt.agents.sac.algorithm import SAC
from rlopt.agents.sac.average_reward import AverageReward
from rlopt.agents.sac.batch import Step
from rlopt.agents.sac.differential import differential_target, moved_gain, rvi_estimate
from rlopt.agents.sac.losses import Info, critic_loss
from rlopt.algorithms.resumable import with_settings_of
from rlopt.errors import ConfigError, SpaceError
from rlopt.nn.policies import apart
from rlopt.optim.descent import Network, Part
from rlopt.replay.buffers import DeviceReplayBuffer

ROWS_AT_ONCE = 8192
"""Transitions that go through the networks together when the whole replay buffer is read."""
_NOT_TAKEN = (
    "gamma", "n_steps", "replay_buffer_class", "use_sde", "sde_sample_freq", "use_sde_at_warmup", "demonstrations",
    "n_demonstrations", "demo_fraction", "cloning_coef", "cloning_steps", "reward_centring", "centring_rate",
)  # fmt: skip


class DeepLOOP(AverageReward, SAC):
    """Soft actor-critic for the average reward, with an optimistic bonus and optional lazy policy switches.

    DeepLOOP is inspired by LOOP (He, Zhong and Yang, arXiv 2404.12648), whose guarantees do not cover it. With
    ``bonus=False`` and the default ``lazy=False``, it is RVI-SAC (Hisaki and Ono, arXiv 2408.01972). Nothing is
    discounted: the critics learn differential values, Q = r + bonus - J + V(s'), together with the gain J.
    :class:`rlopt.agents.deep_loop.config.DeepLOOPConfig` declares and explains the settings; it has no ``gamma``,
    ``n_steps``, ``replay_buffer_class`` and gSDE of :class:`rlopt.SAC`. The theory's constants of the confidence set
    are far too large in practice.

    With ``bonus``, values and gain are optimistic; ``rollout/average_reward`` in the log is the reward without the
    bonus. Learning bootstraps beyond time limits, as in every off-policy learner here. With ``on_termination="reset"``,
    a true end is a transition to the state after it that costs ``reset_cost``; an info ``reset`` of
    ``ContinuingWrapper`` has the same cost.

    A *phase* begins with a switch: the learner's networks are frozen as the current hypothesis, the normalisation of
    the features is fitted, and the evidence is recomputed from the replay buffer. Later transitions are added to it.
    Without ``lazy`` there is one phase, for the bonus, and nothing is frozen.

    :raises rlopt.errors.ConfigError: for a setting out of range, for VecNormalize, and from ``learn`` for an episode
        that terminates with ``on_termination="refuse"``
    :raises rlopt.errors.SpaceError: for spaces that cannot be used
    """

    reset_price: Tensor
    """The present reset cost, (1,)."""
    gain_estimator: GainEstimator
    centring_coef: float
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
    reset_cost: float | Literal["auto"]
    allowed_resets: float
    reset_cost_rate: float

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

    made_from: ClassVar[dict[str, tuple[str, ...]]] = {**SAC.made_from, "reset_cost": ("reset_price",)}
    made_with: ClassVar[tuple[str, ...]] = ("n_features", "length_scale", "ridge")
    settled: ClassVar[tuple[str, ...]] = (*SAC.settled, *made_with)
    saved_modules: ClassVar[tuple[str, ...]] = (
        "plan",
        "features",
        "evidence",
        "reset_critic",
        "reset_critic.optimizer",
    )
    saved_tensors: ClassVar[tuple[str, ...]] = ("reset_price",)

    @with_settings_of(SAC, *_NOT_TAKEN, config=DeepLOOPConfig)
    def __init__(self, policy: str | type[SACPolicy], env: GymEnv | str | None, **settings: Any) -> None:
        super().__init__(policy, env, gamma=DeepLOOPConfig.gamma, cloning_coef=0.0, **settings)

    def _setup_model(self) -> None:
        check_observations(self.observation_space, self.bonus, self.lazy)
        super()._setup_model()
        first_price = 0.0 if self.reset_cost == "auto" else float(self.reset_cost)
        self.reset_price = torch.tensor([first_price], device=self.device)
        # The generator is put back, so that a seed gives the same networks, exploration and batches with and without
        # these parts.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            if self.on_termination == "reset" and self.reset_cost == "auto":
                self.reset_critic = self._make_reset_critic()
            if self.bonus or self.lazy:
                n_inputs = math.prod(self.observation_space.shape or ()) + math.prod(self.action_space.shape or ())
                self.features = FourierFeatures(n_inputs, self.n_features, self.length_scale).to(self.device)
                self.evidence = Evidence(self.n_features, self.ridge).to(self.device)
            if self.lazy:
                networks = apart(self.policy.make_actor()), apart(self.policy.make_critic())
                self.plan = Plan(*networks).to(self.device)

    def _make_reset_critic(self) -> ResetCritic:
        policy = self.policy

        def make_optimizer(parameters: Any) -> torch.optim.Optimizer:
            make: Any = policy.optimizer_class
            optimizer: torch.optim.Optimizer = make(parameters, lr=self.lr_schedule(1), **policy.optimizer_kwargs)
            return optimizer

        def network() -> ContinuousCritic:
            settings = policy._update_features_extractor(policy.critic_kwargs, None)
            return ContinuousCritic(**{**settings, "net_arch": [64, 64], "n_critics": 1}).to(self.device)

        return ResetCritic(network(), network(), make_optimizer).to(self.device)

    # ---- the gradient step

    def networks(self) -> dict[str, Part]:
        """The networks of SAC, gain and reset cost, the parts of the bonus, and the critic of the resets."""
        parts = super().networks()
        numbers = {"gain": self.gain, "reset_price": self.reset_price}
        if self.reset_critic is not None:
            numbers["reset_rate"] = self.reset_critic.gain
            parts["reset_critic"] = Part(self.reset_critic.critic, self.reset_critic.optimizer)
            parts["reset_critic_target"] = Part(self.reset_critic.critic_target)
        if self.bonus:
            assert self.evidence is not None
            parts["features"] = Part(self.features, tensors={"inverse": self.evidence.inverse})
        return parts | {"numbers": Part(tensors=numbers)}

    def critic_objective(self, critic: Network, step: Step) -> tuple[Tensor, Info]:
        """The squared differential errors, and statistics with ``gain_estimate``, which :meth:`after_critics` uses."""
        batch, numbers = step.batch, step.networks["numbers"]
        q_values, next_q, policy = self.pairs_and_next(critic, step)
        with torch.no_grad():
            next_values = self.soft_value(next_q, policy, step.ent_coef)
            # A discount of 0 says that a reset was on the way.
            rewards = batch.rewards - numbers["reset_price"] * (1 - batch.discounts)
            bonus = self.bonus_of(step) if self.bonus else None
        loss, info = losses.differential_loss(
            q_values,
            rewards if bonus is None else rewards + bonus,
            next_q,
            next_values,
            numbers["gain"],
            gain_estimator=self.gain_estimator,
            centring_coef=self.centring_coef,
        )
        return loss, info if bonus is None else info | {"bonus": bonus.mean()}

    def bonus_of(self, step: Step) -> Tensor:
        """b(s, a), (B, 1), of the batch's pairs, in units of reward."""
        network, batch = step.networks["features"], step.batch
        psi = network(self._inputs(batch.observations, batch.actions))
        return losses.bonus(psi, network["inverse"], self.ridge, self.beta, self.max_bonus)

    def after_critics(self, step: Step, info: Info) -> Info:
        """Updates the gain and, if the cost of resets is learned, their critic and their cost."""
        info = self.move_gain(step.networks, info)
        return info if self.reset_critic is None else info | self._price_resets(step)

    def _price_resets(self, step: Step) -> Info:
        networks, batch = step.networks, step.given
        rate, price = networks["numbers"]["reset_rate"], networks["numbers"]["reset_price"]
        with torch.no_grad():
            policy = self.policy_sample(networks["actor"], step.batch.next_observations, step.drawn["next_noise"])
            (next_values,) = networks["reset_critic_target"](batch.next_observations, policy.actions)
        loss = networks.descend("reset_critic", self.reset_critic_objective, step, next_values)
        rate = moved_gain(rate, rvi_estimate(next_values), self.gain_rate)
        price = losses.dual_step(price, rate, self.allowed_resets, self.reset_cost_rate)
        networks.put("numbers", reset_rate=rate, reset_price=price)
        return {"reset_critic_loss": loss, "reset_rate": rate.mean(), "reset_cost": price.mean()}

    def reset_critic_objective(self, critic: Network, step: Step, next_values: Tensor) -> tuple[Tensor, Tensor]:
        """What the critic of the resets descends, from V (B, 1) at the next states, and the same detached."""
        rate = step.networks["numbers"]["reset_rate"]
        targets = differential_target(1 - step.given.discounts, rate, next_values)
        loss, _ = critic_loss(critic(step.given.observations, step.given.actions), targets)
        return loss, loss.detach()

    def move_targets(self, step: Step) -> None:
        """Moves the target networks, that of the critic of the resets too."""
        super().move_targets(step)
        if self.reset_critic is not None:
            step.networks.move("reset_critic_target", "reset_critic", step.scalars["tau"])

    # ---- phases

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Adds new transitions, switches if it is due, then takes ``gradient_steps`` gradient steps."""
        if self.evidence is not None:
            self._take_stock(self.evidence)
        super().train(gradient_steps, batch_size)

    def _take_stock(self, evidence: Evidence) -> None:
        if self.n_switches == 0:
            self._begin_phase(evidence)
        else:
            self._add(evidence, self._newest_rows())
        if self.plan is None:
            return
        since, value = self.n_collected - self.switched_at, evidence.discrepancy()
        threshold = switch_threshold(self.discrepancy_at_switch, self.beta, self.switch_multiplier)
        if since >= self.min_interval and (value >= threshold or since >= self.max_interval):
            self.n_switches_by_interval += value < threshold
            self._begin_phase(evidence)
        self.logger.record("loop/discrepancy", value)
        self.logger.record("loop/threshold", threshold)
        self.logger.record("loop/switches", self.n_switches)
        self.logger.record("loop/switches_by_interval", self.n_switches_by_interval)

    def _begin_phase(self, evidence: Evidence) -> None:
        """Freezes what the learner has now and measures it on the whole replay buffer."""
        buffer = self._device_buffer()
        if self.plan is not None:
            self._freeze(self.plan)
        rows = torch.arange(buffer.size() * buffer.n_envs, device=buffer.device)
        if isinstance(self.features, FourierFeatures) and len(rows):
            batches = (buffer.transitions(part) for part in rows.split(ROWS_AT_ONCE))
            self.features.fit(torch.cat([self._inputs(batch.observations, batch.actions) for batch in batches]))
        evidence.clear()
        self._add(evidence, rows)
        self.n_switches += 1
        self.switched_at = self.n_collected
        self.discrepancy_at_switch = evidence.discrepancy()

    def _freeze(self, plan: Plan) -> None:
        ent_coef = self.ent_coef_tensor if self.log_ent_coef is None else self.log_ent_coef.detach().exp()
        plan.freeze(self.actor, self.critic, gain=self.gain, reset_price=self.reset_price, ent_coef=ent_coef)

    def _device_buffer(self) -> DeviceReplayBuffer:
        assert isinstance(self.replay_buffer, DeviceReplayBuffer)
        return self.replay_buffer

    def _newest_rows(self) -> Tensor:
        """Rows of the transitions that the evidence does not have yet."""
        buffer = self._device_buffer()
        count = min((self.n_collected - self.n_seen) // buffer.n_envs, buffer.size())
        positions = (torch.arange(buffer.pos - count, buffer.pos, device=buffer.device)) % buffer.buffer_size
        envs = torch.arange(buffer.n_envs, device=buffer.device)
        return (positions.unsqueeze(1) * buffer.n_envs + envs).flatten()

    @torch.no_grad()
    def _add(self, evidence: Evidence, rows: Tensor) -> None:
        assert self.features is not None
        for part in rows.split(ROWS_AT_ONCE) if len(rows) else []:
            batch = self._device_buffer().transitions(part)
            residuals = None if self.plan is None else self.residuals(self.plan, batch)
            evidence.add(self.features(self._inputs(batch.observations, batch.actions)), residuals)
        self.n_seen = self.n_collected

    @torch.no_grad()
    def residuals(self, plan: Plan, batch: ReplayBufferSamples) -> Tensor:
        """r + V_f(s') - J_f - Q_f(s, a), (B, 1), with one action of pi_f for each s'.

        :param batch: of a replay buffer, its ``dones`` saying where the process was reset
        """
        actor, critic = Network(Part(plan.actor)), Network(Part(plan.critic))
        noise = torch.randn(batch.actions.shape, device=batch.actions.device)
        policy = self.policy_sample(actor, batch.next_observations, noise)
        next_q = torch.cat(self.q_values(critic, batch.next_observations, policy.actions), dim=1)
        next_values = self.soft_value(next_q, policy, plan.ent_coef)
        targets = differential_target(batch.rewards - plan.reset_price * batch.dones, plan.gain, next_values)
        q_values = self.q_values(critic, batch.observations, batch.actions)
        return targets - losses.smallest(torch.cat(q_values, dim=1))

    @staticmethod
    def _inputs(observations: Tensor, actions: Tensor) -> Tensor:
        return torch.cat([observations.float().flatten(1), actions.float().flatten(1)], dim=1)

    @property
    def discrepancy(self) -> float:
        """The discrepancy of the current hypothesis on all its data, in units of reward squared; 0 without ``lazy``."""
        return 0.0 if self.evidence is None else self.evidence.discrepancy()

    # ---- acting and storing

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.plan is None or self.n_switches == 0 or self.num_timesteps < learning_starts:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        assert self._last_obs is not None
        observations, _ = self.policy.obs_to_tensor(self._last_obs)
        scaled = self.plan.act(observations).cpu().numpy()
        if action_noise is not None:
            scaled = np.clip(scaled + action_noise(), -1, 1)
        return self.policy.unscale_action(scaled), scaled

    def after_storing(self, position: int, was_full: bool, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        self.n_collected += len(dones)

    def check_normalization(self, wrapper: VecNormalize) -> None:
        if wrapper.norm_reward or wrapper.norm_obs:
            raise ConfigError(
                "DeepLOOP takes no VecNormalize: the gain is in units of the environment's reward, and changing "
                "statistics would change the current hypothesis; leave out normalize_rewards and normalize_observations"
            )


def check_observations(observation_space: spaces.Space, bonus: bool, lazy: bool) -> None:
    """Raises :class:`rlopt.errors.SpaceError` for observations that have no features."""
    if (bonus or lazy) and (not isinstance(observation_space, spaces.Box) or is_image_space(observation_space)):
        raise SpaceError(
            f"bonus and lazy need flat Box observations, not {observation_space}: set both to False, or flatten them "
            "with gymnasium.wrappers.FlattenObservation"
        )
