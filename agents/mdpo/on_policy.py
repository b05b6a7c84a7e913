"""On-policy mirror descent policy optimisation on Stable-Baselines3's OnPolicyAlgorithm."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule, update_learning_rate
from torch import Tensor, nn

from rlopt.agents.mdpo import losses
from rlopt.agents.mdpo.config import DEFAULT_RATE, MDPOConfig
from rlopt.agents.mdpo.phases import (
    former_value_parameters,
    phase_parameters,
    scaled_down,
    set_critic_training_mode,
)
from rlopt.agents.ppo.distributions import Factors
from rlopt.agents.ppo.heads import action_head, policy_obstacle, uncompiled, value_function
from rlopt.agents.ppo.losses import Info
from rlopt.agents.ppo.on_policy import BEYOND_SB3, OnPolicy
from rlopt.agents.ppo.update import History, Loss, Objective, Phase
from rlopt.algorithms.arguments import checked
from rlopt.algorithms.resumable import named_policy_kwargs
from rlopt.algorithms.rollout import flat, flat_actions
from rlopt.console.progress import say
from rlopt.optim.compiled_step import CompileChoice
from rlopt.storage.tree import Tree


class MDPO(OnPolicy):
    """Mirror descent policy optimisation, on-policy (Tomar et al., arXiv 2005.09814, section 4.1).

    Each update minimises -E[r A] + E[B_q(pi || pi_k)] / t_k in ``n_epochs`` (the paper's m) passes over one rollout,
    then fits the value function in a separate phase. t_k is adapted to ``target_kl``, and neither phase depends on the
    scale of the rewards; without a target, t_k follows the paper's schedule.
    :class:`rlopt.agents.mdpo.config.MDPOConfig` explains the settings; settings that are not listed there mean the same
    as in Stable-Baselines3's PPO. With the full batch, the first gradient step of an update is a plain policy gradient,
    because the gradient of the divergence is zero at pi_k. With minibatches the method is PPO with a KL(new || old)
    penalty instead of the clip.

    To change a loss, override ``policy_loss`` or ``value_loss``; the change holds in every mode. Values that a loss
    reads besides its arguments may change between updates. The step is then recompiled, or runs eagerly if they
    change often.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class
    :param env: environment or id; Box, Discrete, MultiDiscrete and MultiBinary actions
    :param policy_kwargs: as in PPO, but policy and value network each have a features extractor unless
        ``share_features_extractor`` is True; only the policy phase trains shared layers. ``activation_fn`` and
        ``optimizer_class`` may be names, "tanh" and "adabelief" (:func:`rlopt.optim.optimizers.optimizer_by_name`)
    :raises ConfigError: for a value outside its range
    :raises SpaceError: for an observation or action space that the agent cannot use
    :raises NonFiniteError: during ``learn``, for a NaN or infinite observation, reward or loss
    """

    state_attributes: ClassVar[tuple[str, ...]] = (*OnPolicy.state_attributes, "adapted_step_size")
    saved_modules: ClassVar[tuple[str, ...]] = ("value_optimizer",)
    unsaved: ClassVar[tuple[str, ...]] = ("policy_parameters", "value_parameters")
    made_from: ClassVar[Mapping[str, tuple[str, ...]]] = {"step_size": ("adapted_step_size",)}
    later_attributes: ClassVar[tuple[str, ...]] = ("adapted_step_size",)
    of_its_own: ClassVar[tuple[str, ...]] = ("target_kl",)
    policy_loss = staticmethod(losses.policy_loss)
    """The loss of the policy phase; a subclass may put another function of the same arguments here."""
    value_loss = staticmethod(losses.value_loss)
    """The loss of the value phase; likewise."""
    elsewhere: ClassVar[Mapping[str, str]] = {
        **OnPolicy.elsewhere,
        "clip_range": "the divergence from the last policy takes the place of PPO's clip: give target_kl",
        "max_kl": "its name is target_kl",
        "vf_coef": "V has a phase of its own, with n_value_epochs, value_batch_size and value_learning_rate",
        "n_critic_updates": "V has a phase of its own, with n_value_epochs, value_batch_size and value_learning_rate",
        "kl_coef": "1 / step_size weighs the divergence; kl_coef is OffPolicyMDPO's",
        **dict.fromkeys(
            ("buffer_size", "learning_starts", "tau", "train_freq", "gradient_steps", "replay_buffer_class"),
            "it learns from whole rollouts and has no replay: take OffPolicyMDPO",
        ),
    }
    batch_size: int | None
    n_epochs: int
    n_value_epochs: int
    value_batch_size: int | None
    value_learning_rate: float | Schedule | None
    target_kl: float | None
    step_size: float
    step_size_schedule: Literal["linear", "constant"]
    tsallis_q: float
    normalize_advantage: bool
    normalize_value: bool
    clip_range_vf: float | None
    adapted_step_size: float
    """t_k of the next update, where ``target_kl`` adapts it."""

    @checked
    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = DEFAULT_RATE,
        n_steps: int = MDPOConfig.n_steps,
        batch_size: int | None = MDPOConfig.batch_size,
        n_epochs: int = MDPOConfig.n_epochs,
        gamma: float = MDPOConfig.gamma,
        gae_lambda: float = MDPOConfig.gae_lambda,
        n_value_epochs: int = MDPOConfig.n_value_epochs,
        value_batch_size: int | None = MDPOConfig.value_batch_size,
        value_learning_rate: float | Schedule | None = MDPOConfig.value_learning_rate,
        target_kl: float | None = MDPOConfig.target_kl,
        step_size: float = MDPOConfig.step_size,
        step_size_schedule: Literal["linear", "constant"] = MDPOConfig.step_size_schedule,
        tsallis_q: float = MDPOConfig.tsallis_q,
        normalize_advantage: bool = MDPOConfig.normalize_advantage,
        normalize_value: bool = MDPOConfig.normalize_value,
        ent_coef: float = MDPOConfig.ent_coef,
        clip_range_vf: float | None = MDPOConfig.clip_range_vf,
        max_grad_norm: float = MDPOConfig.max_grad_norm,
        use_sde: bool = MDPOConfig.use_sde,
        sde_sample_freq: int = MDPOConfig.sde_sample_freq,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        compile: CompileChoice = MDPOConfig.compile,
        reward_centring: bool = MDPOConfig.reward_centring,
        centring_rate: float = MDPOConfig.centring_rate,
        _init_setup_model: bool = True,
    ) -> None:
        env = self._checked_env(MDPOConfig, dict(locals()), env)
        given = dict(self.constructor_settings)
        for name in _BEYOND_SB3:
            setattr(self, name, given.pop(name))
        self.adapted_step_size = step_size
        self._value_scale, self._told_of_values = 1.0, False
        given["policy_kwargs"] = self._extractors_apart(policy, named_policy_kwargs(policy_kwargs))
        super().__init__(env=env, vf_coef=1.0, _init_setup_model=False, **given)  # type: ignore[arg-type]
        if _init_setup_model:
            self._setup_model()

    def _extractors_apart(self, policy: str | type[ActorCriticPolicy], options: dict[str, Any]) -> dict[str, Any]:
        """``policy_kwargs`` in which policy and value network each train features of their own, unless told otherwise.

        A policy class of the user's own decides itself.
        """
        ours = isinstance(policy, str) or policy in self.policy_aliases.values()
        return {"share_features_extractor": False, **options} if ours else options

    def _setup_model(self) -> None:
        super()._setup_model()
        self._make_optimizers()
        if self.normalize_value and self._scales_values():
            with torch.no_grad():  # V begins at 0, in whatever unit rewards are
                for parameter in self.policy.value_net.parameters():
                    parameter.zero_()

    def value_lr_schedule(self, progress_remaining: float) -> float:
        """The learning rate of the value phase."""
        if self.value_learning_rate is None:
            return float(self.lr_schedule(progress_remaining))
        return float(FloatSchedule(self.value_learning_rate)(progress_remaining))

    def _make_optimizers(self) -> None:
        """Gives each phase an optimiser over its own parameters."""
        policy = self.policy
        self.policy_parameters, self.value_parameters = phase_parameters(policy)
        make, options = policy.optimizer_class, dict(policy.optimizer_kwargs)
        if make in (torch.optim.Adam, torch.optim.AdamW) and not {"foreach", "differentiable"} & set(options):
            options = {"fused": True, **options}  # one kernel instead of ten a parameter
        policy.optimizer = make(self.policy_parameters, lr=self.lr_schedule(1), **options)  # type: ignore[call-arg]
        self.value_optimizer = make(self.value_parameters, lr=self.value_lr_schedule(1.0), **options)  # type: ignore[call-arg]

    def _scales_values(self) -> bool:
        """Whether the value network ends in a plain layer, the value phase's own, that can be scaled."""
        last, own = self.policy.value_net, {id(parameter) for parameter in self.value_parameters}
        plain = type(last) is torch.nn.Linear and not last._forward_pre_hooks
        return plain and all(id(parameter) in own and parameter.requires_grad for parameter in last.parameters())

    def _setup_learn(self, total_timesteps: int, *arguments: Any, **options: Any) -> Any:
        former = self._total_timesteps
        found = super()._setup_learn(total_timesteps, *arguments, **options)
        if self.num_timesteps and self._total_timesteps > former and self.learning_rate == DEFAULT_RATE:
            warnings.warn(
                f"the default learning rate falls over the whole of learn, which was {former:,} steps and becomes "
                f"{self._total_timesteps:,}: to learn in parts, give learning_rate a number, which stays constant",
                stacklevel=3,
            )
        return found

    def train(self) -> None:
        """One mirror-descent update on the rollout: the policy phase, then the value phase."""
        self._value_scale = 1.0
        if self.normalize_value:
            if self._scales_values():
                self._value_scale = losses.value_scale(torch.as_tensor(self.rollout_buffer.returns))
            elif not self._told_of_values:
                say("normalize_value has no effect: the value network's last layer is frozen, or no plain linear one")
                self._told_of_values = True
        with scaled_down(self.policy.value_net, self._value_scale):
            super().train()

    def gradient_steps_a_rollout(self) -> int:
        steps = self._steps_a_pass(self.batch_size) * self.n_epochs
        return steps + self._steps_a_pass(self.value_batch_size) * self.n_value_epochs

    def phases(self) -> list[Phase]:
        """The policy phase and the value phase on the rollout just collected."""
        progress = self._current_progress_remaining
        update_learning_rate(self.policy.optimizer, self.lr_schedule(progress))
        update_learning_rate(self.value_optimizer, self.value_lr_schedule(progress))
        buffer = self.rollout_buffer
        observations, actions = flat(buffer.observations, self.device), flat_actions(buffer, self.device)
        advantages, returns, values = (
            flat(column, self.device) for column in (buffer.advantages, buffer.returns, buffer.values)
        )
        if self.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        policy = PolicyObjective(self.policy, self.policy_loss, self.tsallis_q)
        value = ValueObjective(self.policy, self.value_loss, self.clip_range_vf)
        return [
            Phase(
                objective=policy,
                parameters=self.policy_parameters,
                optimizer=self.policy.optimizer,
                max_grad_norm=self.max_grad_norm,
                columns=(observations, actions, advantages, *policy.old(observations, actions)),
                scalars={"step_size": self.current_step_size(), "ent_coef": self.ent_coef},
                passes=self.n_epochs,
                batch_size=self.batch_size,
                orders=self._orders(self.n_epochs, self.batch_size),
            ),
            Phase(
                objective=value,
                parameters=self.value_parameters,
                optimizer=self.value_optimizer,
                max_grad_norm=self.max_grad_norm,
                columns=(observations, returns / self._value_scale, values / self._value_scale),
                scalars={},
                passes=self.n_value_epochs,
                batch_size=self.value_batch_size,
                orders=self._orders(self.n_value_epochs, self.value_batch_size),
            ),
        ]

    def current_step_size(self) -> float:
        """t_k of the update that follows the rollout just collected."""
        if self.target_kl is not None:
            return self.adapted_step_size
        if self.step_size_schedule == "constant":
            return self.step_size
        fraction = min(1.0, self.n_steps * self.n_envs / max(self._total_timesteps, 1))
        progress = self._current_progress_remaining
        return losses.annealed_step_size(self.step_size, progress_remaining=progress, rollout_fraction=fraction)

    def _orders(self, passes: int, batch_size: int | None) -> tuple[Tensor, ...]:
        """The order of the rows in each pass: random for minibatches, none for the full batch."""
        if self._steps_a_pass(batch_size) == 1:
            return ()
        return tuple(torch.randperm(self.n_steps * self.n_envs).to(self.device) for _ in range(passes))

    def _after_update(self, phases: Sequence[Phase], history: History) -> None:
        objective, columns = phases[0].objective, phases[0].columns
        assert isinstance(objective, PolicyObjective)
        history["final_divergence"] = [objective.divergence(columns)]
        means = {name: values.mean().item() for name, values in self._on_host(history).items()}
        for name, mean in means.items():
            self.logger.record(f"train/{name}", mean)
        self.logger.record("train/step_size", self.current_step_size())
        if self.target_kl is not None:
            self.adapted_step_size = losses.adapted_step_size(
                self.adapted_step_size, divergence=means["final_divergence"], target=self.target_kl
            )
        self._n_updates += self.n_epochs
        self._log_state()

    def fitted_parameters(self, parameters: dict[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """Those of PPO: its one optimiser's state becomes that of two."""
        if "value_optimizer" in parameters:  # of this class
            part, places = parameters["value_optimizer"], self._places_of_former(parameters["value_optimizer"])
            if places is None:
                return parameters
            state = {place: part["state"][old] for place, old in enumerate(places) if old in part["state"]}
            group = {**part["param_groups"][0], "params": list(range(len(places)))}
            return {**parameters, "value_optimizer": {"state": state, "param_groups": [group]}}
        fitted = {name: part for name, part in parameters.items() if name != "policy.optimizer"}
        saved = parameters.get("policy.optimizer")
        names = {id(parameter): name for name, parameter in self.policy.named_parameters()}
        shared = (data.get("policy_kwargs") or {}).get("share_features_extractor", True)
        theirs = [name for name in names.values() if not (shared and name.startswith("vf_features_extractor."))]
        ours = {"policy.optimizer": self.policy.optimizer, "value_optimizer": self.value_optimizer}
        if saved is None or [len(group["params"]) for group in saved["param_groups"]] != [len(theirs)]:
            return fitted
        for part, optimizer in ours.items():
            own = optimizer.state_dict()
            if own["param_groups"][0].keys() != saved["param_groups"][0].keys():  # another class of optimisers
                return fitted
            for index, parameter in enumerate(optimizer.param_groups[0]["params"]):
                name = names[id(parameter)]
                place = theirs.index(name if name in theirs else name.removeprefix("vf_"))
                if place in saved["state"]:
                    own["state"][index] = saved["state"][place]
            fitted[part] = own
        return fitted

    def fitted_networks(self, networks: Tree) -> Tree:
        """As :meth:`Resumable.fitted_networks`: of version 0.1, whose value phase trained what both networks share."""
        part = networks["optimizers"]["value_optimizer"]
        places = self._places_of_former({"param_groups": [{"params": range(part["groups"][0]["params"])}]})
        if places is None:
            return networks
        moments = [[places.index(old), moment] for old, moment in part["state"] if old in places]
        groups = [{**part["groups"][0], "params": len(places)}]
        part = {**part, "groups": groups, "state": moments, "size": len(moments)}
        return {**networks, "optimizers": {**networks["optimizers"], "value_optimizer": part}}

    def _places_of_former(self, saved: Mapping[str, Any]) -> list[int] | None:
        """Where the value phase's parameters are in an optimiser of version 0.1; None if ``saved`` is none."""
        former, own = former_value_parameters(self.policy), {id(parameter) for parameter in self.value_parameters}
        if [len(group["params"]) for group in saved["param_groups"]] != [len(former)] or len(former) == len(own):
            return None
        return [place for place, parameter in enumerate(former) if id(parameter) in own]


class PolicyObjective(Objective):
    """Equation (1) on rows of a rollout, as a function of the policy's parameters."""

    name = "policy"

    def __init__(self, policy: ActorCriticPolicy, loss: Loss, tsallis_q: float) -> None:
        super().__init__()
        self.policy = uncompiled(policy)
        self.loss = loss
        self.settings = {"q": tsallis_q}
        self.loss_settings = {}
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
        return self._from(old, self._head.evaluate(observations, actions).factors).mean()

    def forward(self, batch: Sequence[Any], scalars: Mapping[str, Any]) -> tuple[Tensor, Info]:
        """Observations (b, ...), actions (b, A), advantages (b,), log pi_k (b,) and pi_k to the loss and its parts."""
        observations, actions, advantages, old_log_prob, old = batch
        new, log_prob, entropy = self._head.evaluate(observations, actions)
        return self.loss(log_prob, old_log_prob, advantages, self._from(old, new), entropy, **scalars)

    def _from(self, old: Factors, new: Factors) -> Tensor:
        """B_q(pi || pi_k) at each state, (b,)."""
        return losses.divergence(new, old, q=self.settings["q"])

    def set_training_mode(self, parameters: list[nn.Parameter]) -> None:
        self.policy.set_training_mode(True)

    def example(self, n_rows: int, device: torch.device) -> list[Tensor]:
        return [torch.zeros(n_rows, device=device) for _ in range(5)]

    def obstacle(self) -> str | None:
        return policy_obstacle(self.policy)


class ValueObjective(Objective):
    """Equation (2) on rows of a rollout, as a function of the value network's parameters."""

    name = "value"

    def __init__(self, policy: ActorCriticPolicy, loss: Loss, clip_range_vf: float | None) -> None:
        super().__init__()
        self.policy = uncompiled(policy)
        self.settings = self.loss_settings = {"clip_range_vf": clip_range_vf}
        self.loss = loss
        self._predict = value_function(policy, train_shared=False)

    def forward(self, batch: Sequence[Any], scalars: Mapping[str, Any]) -> tuple[Tensor, Info]:
        """Observations (b, ...), returns (b,) and values (b,) before the update to the loss and its parts."""
        observations, returns, old_values = batch
        return self.loss(self._predict(observations).flatten(), returns, old_values, **self.loss_settings, **scalars)

    def set_training_mode(self, parameters: list[nn.Parameter]) -> None:
        """Training mode for the critic alone, so that the policy stays as it is."""
        set_critic_training_mode(self.policy, parameters)

    def example(self, n_rows: int, device: torch.device) -> list[Tensor]:
        return [torch.zeros(n_rows, device=device) for _ in range(3)]

    def obstacle(self) -> str | None:
        return policy_obstacle(self.policy)


_BEYOND_SB3 = (
    "batch_size", "n_epochs", "n_value_epochs", "value_batch_size", "value_learning_rate", "target_kl", "step_size",
    "step_size_schedule", "tsallis_q", "normalize_advantage", "normalize_value", "clip_range_vf", *BEYOND_SB3,
)  # fmt: skip
"""Settings that Stable-Baselines3's OnPolicyAlgorithm does not have."""
