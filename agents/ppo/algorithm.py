"""Proximal policy optimisation as a Stable-Baselines3 algorithm."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import update_learning_rate
from torch import Tensor, nn

from rlopt.agents.ppo import losses
from rlopt.agents.ppo.config import PPOConfig
from rlopt.agents.ppo.heads import action_head, policy_obstacle, uncompiled, value_function
from rlopt.agents.ppo.losses import Info
from rlopt.agents.ppo.on_policy import BEYOND_SB3, OnPolicy
from rlopt.agents.ppo.update import GOING, History, Loss, Objective, Phase
from rlopt.algorithms.arguments import checked
from rlopt.algorithms.resumable import named_policy_kwargs
from rlopt.algorithms.rollout import can_collect, flat, flat_actions
from rlopt.optim.compiled_step import CompileChoice
from rlopt.optim.descent import HOLD, loss_and_further


class PPO(OnPolicy, stable_baselines3.PPO):
    """Proximal policy optimisation (Schulman et al., arXiv 1707.06347).

    Everything that works with :class:`stable_baselines3.PPO` works here. Uncompiled, the results equal that class's bit
    for bit with the same seeds. Compiled runs collect a rollout with one pass through the policy per step, and the
    results are equal to float tolerance. :class:`rlopt.agents.ppo.config.PPOConfig` declares and explains the settings.

    To change the loss, override ``loss``; the change holds in every mode.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class
    :param env: environment or id; Box, Discrete, MultiDiscrete and MultiBinary actions
    :param learning_rate: a number, or a function of the remaining progress, as ``clip_range`` and ``clip_range_vf``
    :param policy_kwargs: as in Stable-Baselines3; ``activation_fn`` and ``optimizer_class`` may be names, "tanh" and
        "adabelief" (:func:`rlopt.optim.optimizers.optimizer_by_name`)
    :raises ConfigError: for a value outside its range
    :raises SpaceError: for an observation or action space that the agent cannot use
    :raises NonFiniteError: during ``learn``, for a NaN or infinite observation, reward or loss
    """

    elsewhere: ClassVar[Mapping[str, str]] = {
        **OnPolicy.elsewhere,
        **dict.fromkeys(
            ("step_size", "step_size_schedule", "tsallis_q"), "clip_range bounds an update; that is rlopt.MDPO's"
        ),
        **dict.fromkeys(
            ("n_value_epochs", "value_batch_size", "value_learning_rate"),
            "V learns in the same gradient steps as the policy, with the weight vf_coef; rlopt.MDPO has a phase for it",
        ),
        "kl_coef": "clip_range bounds an update; kl_coef is OffPolicyMDPO's",
        "max_kl": "clip_range bounds an update, and target_kl ends it early",
    }
    unsaved: ClassVar[tuple[str, ...]] = ("_drawn",)
    loss = staticmethod(losses.ppo_loss)
    """The loss; a subclass may put another function of the same arguments here."""
    clip_range: Schedule
    clip_range_vf: Schedule | None
    batch_size: int

    @checked
    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = PPOConfig.learning_rate,
        n_steps: int = PPOConfig.n_steps,
        batch_size: int = PPOConfig.batch_size,
        n_epochs: int = PPOConfig.n_epochs,
        gamma: float = PPOConfig.gamma,
        gae_lambda: float = PPOConfig.gae_lambda,
        clip_range: float | Schedule = PPOConfig.clip_range,
        clip_range_vf: float | Schedule | None = PPOConfig.clip_range_vf,
        normalize_advantage: bool = PPOConfig.normalize_advantage,
        ent_coef: float = PPOConfig.ent_coef,
        vf_coef: float = PPOConfig.vf_coef,
        max_grad_norm: float = PPOConfig.max_grad_norm,
        use_sde: bool = PPOConfig.use_sde,
        sde_sample_freq: int = PPOConfig.sde_sample_freq,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = PPOConfig.target_kl,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        *,
        reward_centring: bool = PPOConfig.reward_centring,
        centring_rate: float = PPOConfig.centring_rate,
        compile: CompileChoice = PPOConfig.compile,
        _init_setup_model: bool = True,
    ) -> None:
        env = self._checked_env(PPOConfig, dict(locals()), env)
        given = {name: value for name, value in self.constructor_settings.items() if name not in BEYOND_SB3}
        given["policy_kwargs"] = named_policy_kwargs(policy_kwargs)
        with warnings.catch_warnings():  # OnPolicy says it of all its agents
            warnings.filterwarnings("ignore", "You have specified a mini-batch size")
            super().__init__(env=env, _init_setup_model=_init_setup_model, **given)  # type: ignore[arg-type]

    def _collects_quickly(self, buffer: RolloutBuffer) -> bool:
        # Not compiled, the rollout too is Stable-Baselines3's to the last bit.
        return self._update_mode() is not None and can_collect(self.policy, buffer)

    def gradient_steps_a_rollout(self) -> int:
        return self.n_epochs * self._steps_a_pass(self.batch_size)

    def phases(self) -> list[Phase]:
        progress = self._current_progress_remaining
        update_learning_rate(self.policy.optimizer, self.lr_schedule(progress))
        buffer = self.rollout_buffer
        columns = (buffer.values, buffer.log_probs, buffer.advantages, buffer.returns)
        scalars = {"clip_range": float(self.clip_range(progress)), "vf_coef": self.vf_coef, "ent_coef": self.ent_coef}
        if self.clip_range_vf is not None:
            scalars["clip_range_vf"] = float(self.clip_range_vf(progress))
        if self.target_kl is not None:
            scalars[GOING] = 1.0
        return [
            Phase(
                objective=PPOObjective(self.policy, self.loss, self.normalize_advantage, self.target_kl),
                parameters=list(self.policy.parameters()),
                optimizer=self.policy.optimizer,
                max_grad_norm=self.max_grad_norm,
                columns=(
                    flat(buffer.observations, self.device),
                    flat_actions(buffer, self.device),
                    *(flat(column, self.device) for column in columns),
                ),
                scalars=scalars,
                passes=self.n_epochs,
                batch_size=self.batch_size,
                orders=self._orders(),
            )
        ]

    def _orders(self) -> tuple[Tensor, ...]:
        """The order of the rows in each pass, from numpy's generator as in Stable-Baselines3.

        There the rows of one environment follow one another, here those of one step.
        """
        self._drawn: list[Any] = []
        orders = []
        for _ in range(self.n_epochs):
            permutation = np.random.permutation(self.n_steps * self.n_envs)
            env, step = np.divmod(permutation, self.n_steps)
            orders.append(torch.from_numpy(step * self.n_envs + env).to(self.device))
            if self.target_kl is not None:
                self._drawn.append(np.random.get_state())
        return tuple(orders)

    def _after_update(self, phases: Sequence[Phase], history: History) -> None:
        found, a_pass = self._on_host(history), self._steps_a_pass(self.batch_size)
        taken = len(found["loss"])
        passes = -(-taken // a_pass)
        if passes < self.n_epochs:  # Stable-Baselines3 has not drawn the orders of passes that it does not begin
            np.random.set_state(self._drawn[passes - 1])
        self._n_updates += passes
        found["approx_kl"] = found["approx_kl"][(passes - 1) * a_pass :]
        found["loss"] = found["loss"][-1:]
        for name, values in found.items():
            self.logger.record(f"train/{name}", values.double().mean().item())
        for name in ("clip_range", "clip_range_vf"):
            if name in phases[0].scalars:
                self.logger.record(f"train/{name}", phases[0].scalars[name])
        self._log_state()


class PPOObjective(Objective):
    """Equation (1) on rows of a rollout, as a function of the parameters of policy and value network.

    :param target_kl: half as much again of this approximate KL divergence in a minibatch ends the update before its
        gradient step; None for never
    """

    name = "ppo"
    eagerly = "as_stable_baselines3"

    def __init__(
        self, policy: ActorCriticPolicy, loss: Loss, normalize_advantage: bool, target_kl: float | None
    ) -> None:
        super().__init__()
        self.policy = uncompiled(policy)
        self.loss = loss
        self.settings = {"normalize_advantage": normalize_advantage, "target_kl": target_kl}
        self.loss_settings = {}
        self._head = action_head(policy)
        self._values = value_function(policy, train_shared=True)

    def forward(self, batch: Sequence[Any], scalars: Mapping[str, Any]) -> tuple[Tensor, Info]:
        """Observations (b, ...), actions (b, A), old values, log pi_k, advantages, returns (b,) to loss and parts."""
        observations, actions = batch[:2]
        _, log_prob, entropy = self._head.evaluate(observations, actions)
        return self._loss(self._values(observations), log_prob, entropy, batch, scalars)

    def as_stable_baselines3(self, batch: Sequence[Any], scalars: Mapping[str, Any]) -> tuple[Tensor, Info]:
        """As :meth:`forward`, by the policy's own ``evaluate_actions``."""
        observations, actions = batch[:2]
        actions = actions.long().flatten() if isinstance(self.policy.action_space, spaces.Discrete) else actions
        values, log_prob, entropy = self.policy.evaluate_actions(observations, actions)
        return self._loss(values, log_prob, -log_prob if entropy is None else entropy, batch, scalars)

    def _loss(
        self, values: Tensor, log_prob: Tensor, entropy: Tensor, batch: Sequence[Any], scalars: Mapping[str, Any]
    ) -> tuple[Tensor, Info]:
        _, _, old_values, old_log_prob, advantages, returns = batch
        if self.settings["normalize_advantage"] and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        numbers = {name: value for name, value in scalars.items() if name != GOING}
        outcome = self.loss(
            log_prob, old_log_prob, advantages, entropy, values.flatten(), old_values, returns, **numbers
        )
        loss, info = loss_and_further(self.name, outcome)
        target_kl = self.settings["target_kl"]
        if target_kl is not None:
            info = {**info, HOLD: (info["approx_kl"] > 1.5 * target_kl) | (torch.as_tensor(scalars[GOING]) == 0)}
        return loss, info

    def set_training_mode(self, parameters: list[nn.Parameter]) -> None:
        self.policy.set_training_mode(True)

    def example(self, n_rows: int, device: torch.device) -> list[Tensor]:
        return [torch.zeros(n_rows, device=device) for _ in range(7)]

    def obstacle(self) -> str | None:
        if type(self.policy).evaluate_actions is not ActorCriticPolicy.evaluate_actions:
            return "the policy has an evaluate_actions of its own"
        return policy_obstacle(self.policy)
