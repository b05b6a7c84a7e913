"""Off-policy mirror descent policy optimisation (Tomar et al., arXiv 2005.09814) as a Stable-Baselines3 algorithm."""

import math
from typing import Any, ClassVar, Literal

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import Tensor, nn

from rlopt.agents.mdpo import off_policy_losses as losses
from rlopt.agents.mdpo.config import OffPolicyMDPOConfig
from rlopt.agents.sac.algorithm import SAC
from rlopt.agents.sac.batch import Drawn, Step
from rlopt.agents.sac.losses import Info, PolicySample, gaussian_log_density, gsde_std
from rlopt.algorithms.initialization import ActorLayers
from rlopt.algorithms.resumable import with_settings_of
from rlopt.nn.policies import ChosenNetworks, apart
from rlopt.optim.descent import Network, Part


class ValueNetwork(BaseModel):
    """V(s) -> (B, 1), with a features extractor of its own."""

    optimizer: torch.optim.Optimizer
    features_extractor: BaseFeaturesExtractor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
    ) -> None:
        super().__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        self.value = nn.Sequential(*create_mlp(features_dim, 1, net_arch, activation_fn))

    def forward(self, observations: Any) -> Tensor:
        return self.value(self.extract_features(observations, self.features_extractor))


def make_value_network(policy: SACPolicy) -> ValueNetwork:
    """A value network with the layers and the features extractor that the critics of ``policy`` have, on its device."""
    settings: dict[str, Any] = {**policy.net_args, "net_arch": policy.critic_kwargs["net_arch"]}
    settings = policy._update_features_extractor(settings, None)
    network = ValueNetwork(**settings)
    if isinstance(policy, ChosenNetworks):
        network.value = policy.critic_layers(settings["features_dim"])
    return network.to(policy.device)


OldPolicy = tuple[Tensor, Tensor]
"""Mean and standard deviation of pi_k before tanh, each (B, A)."""


class OffPolicyMDPO(SAC):
    """Soft actor-critic with a proximity term: the actor stays near an old copy of itself, which is renewed regularly.

    Everything that works with :class:`rlopt.SAC` works here, and the default ``kl_coef=0`` *is* that class.
    :class:`rlopt.agents.mdpo.config.OffPolicyMDPOConfig` declares and explains the settings. The paper's Bregman
    step size c is ``kl_coef + ent_coef``, or with ``kl_unit="ent_coef"`` it is ``(1 + kl_coef) ent_coef``. With
    ``tsallis_q > 1``, ``ent_coef="auto"`` still adjusts lambda to the Shannon entropy.

    :raises rlopt.errors.ConfigError: for a setting out of range
    :raises rlopt.errors.SpaceError: for actions or observations that cannot be used
    :raises rlopt.errors.NonFiniteError: from ``learn``, as :class:`rlopt.SAC`
    """

    kl_coef: float | str
    target_kl: float
    kl_unit: Literal["reward", "ent_coef"]
    tsallis_q: float
    old_policy_period: int
    analytic_kl: bool
    value_network: bool
    actor_q: Literal["min", "first"]
    critic_log_prob_bound: float | None
    deterministic_behaviour: bool
    log_density_floor: float | None
    mean_penalty: float
    log_std_penalty: float
    old_actor: Actor | None
    """pi_k; None when ``kl_coef`` is 0."""
    log_kl_coef: Tensor | None
    """ln(kl_coef), (1,), where it follows ``target_kl``."""
    made_from: ClassVar[dict[str, tuple[str, ...]]] = {**SAC.made_from, "kl_coef": ("log_kl_coef",)}
    saved_modules: ClassVar[tuple[str, ...]] = ("old_actor", "value_net", "value_net_target", "value_net.optimizer")
    saved_tensors: ClassVar[tuple[str, ...]] = ("log_kl_coef",)
    value_net: ValueNetwork | None
    value_net_target: ValueNetwork | None

    @with_settings_of(SAC, config=OffPolicyMDPOConfig)
    def __init__(self, policy: str | type[SACPolicy], env: GymEnv | str | None, **settings: Any) -> None:
        super().__init__(policy, env, **settings)

    @property
    def acts_on_mean(self) -> bool:  # type: ignore[override]
        """Whether actions after the warm-up are the policy's mean while training."""
        return self.deterministic_behaviour

    def _setup_model(self) -> None:
        super()._setup_model()
        self.old_actor = self.log_kl_coef = self.value_net = self.value_net_target = None
        self._make_further_networks()

    def _lacks_networks(self) -> bool:
        follows = isinstance(self.kl_coef, str)
        return (
            (bool(self.kl_coef) and self.old_actor is None)
            or (follows and self.log_kl_coef is None)
            or (self.value_network and self.value_net is None)
        )

    def _make_further_networks(self) -> None:
        """The old policy and V with its target, where the settings want them and they are not there."""
        if isinstance(self.kl_coef, str) and self.log_kl_coef is None:
            start = float(self.kl_coef.removeprefix("auto_")) if "_" in self.kl_coef else 1.0
            self.log_kl_coef = torch.full((1,), math.log(start), device=self.device)
        # The generator is put back, so that a seed gives the same networks, exploration and batches with and without
        # these copies: SAC and every variant can be compared seed by seed.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            if self.kl_coef and self.old_actor is None:
                self.old_actor = apart(self.policy.make_actor())
                self.old_actor.requires_grad_(False)
                self.old_actor.set_training_mode(False)
                self.old_actor.load_state_dict(self.actor.state_dict())
            if self.value_network and self.value_net is None:
                self.value_net, self.value_net_target = (make_value_network(self.policy) for _ in range(2))
                self.value_net_target.load_state_dict(self.value_net.state_dict())
                self.value_net_target.requires_grad_(False)
                self.value_net_target.set_training_mode(False)
                make_optimizer: Any = self.policy.optimizer_class
                self.value_net.optimizer = make_optimizer(
                    self.value_net.parameters(), lr=self.lr_schedule(1), **self.policy.optimizer_kwargs
                )

    def set_parameters(
        self, load_path_or_dict: str | dict[str, Any], exact_match: bool = True, device: torch.device | str = "auto"
    ) -> None:
        """As Stable-Baselines3's; parameters of a policy without an old one, such as SAC's, are the old policy too."""
        given = load_path_or_dict
        if not isinstance(given, dict):
            _, given, _ = load_from_zip_file(given, device=device, load_data=False)
        super().set_parameters(given, exact_match, device)
        if "policy" in given and "old_actor" not in given:
            self._renew_old_policy()

    def take_actor(self, given: ActorLayers) -> None:
        """As :meth:`SAC.take_actor`; the actor is the old policy too."""
        super().take_actor(given)
        self._renew_old_policy()

    def _renew_old_policy(self) -> None:
        if self.old_actor is not None:
            self.old_actor.load_state_dict(self.actor.state_dict())

    # ---- the gradient step

    def is_sac(self) -> bool:
        """Whether a gradient step is that of Stable-Baselines3's SAC."""
        regular = self.tsallis_q == 1 and self.critic_log_prob_bound is None and self.log_density_floor is None
        plain = not (self.kl_coef or self.value_network or self.mean_penalty or self.log_std_penalty)
        return type(self) is OffPolicyMDPO and regular and plain and self.actor_q == "min" and self._steps_as_sac()

    def networks(self) -> dict[str, Part]:
        """Those of SAC, the old policy, and V with its target network."""
        if self._lacks_networks():
            self._make_further_networks()  # an attribute was set since
        parts = super().networks()
        if self.old_actor is not None:
            parts["old_actor"] = Part(self.old_actor)
        if self.log_kl_coef is not None:
            parts["kl_coef"] = Part(tensors={"log_kl_coef": self.log_kl_coef})
        if self.value_net is not None:
            parts["value"] = Part(self.value_net, self.value_net.optimizer)
            parts["value_target"] = Part(self.value_net_target)
        return parts

    def scalars(self) -> dict[str, float]:
        """Those of SAC, and ``kl_coef`` where it is a number, else 0."""
        return super().scalars() | {"kl_coef": 0.0 if isinstance(self.kl_coef, str) else self.kl_coef}

    def plain_settings(self) -> tuple[tuple[str, Any], ...]:
        """Those of SAC, and whether ``kl_coef`` follows ``target_kl``."""
        return (*super().plain_settings(), ("kl_coef_follows", isinstance(self.kl_coef, str)))

    def _draw_noise(self, batch_size: int) -> Drawn:
        if not self.value_network or self.use_sde:
            return super()._draw_noise(batch_size)
        return {"noise": torch.randn((batch_size, get_action_dim(self.action_space)), device=self.device)}

    def next_values(self, step: Step) -> Tensor:
        """V at the next states, (B, 1): by the value network's target, if there is one."""
        if self.value_net is None:
            return super().next_values(step)
        found: Tensor = step.networks["value_target"](step.given.next_observations)
        return found

    def actor_objective(self, actor: Network, policy: PolicySample, step: Step) -> tuple[Tensor, Info]:
        """SAC's, with the divergence from the old policy and the penalties."""
        count = 1 if self.actor_q == "first" else None
        q_values = self.q_values(step.networks["critic"], step.batch.observations, policy.actions, count)
        smallest = torch.min(torch.cat(q_values, dim=1), dim=1, keepdim=True)[0]
        divergence, kl_info = self.divergence(policy, step)
        kl_coef = self.kl_weight(step, smallest)
        loss, info = losses.actor_loss(
            self.log_prob(policy), smallest, divergence, ent_coef=step.ent_coef, kl_coef=kl_coef
        )
        if self.mean_penalty or self.log_std_penalty:
            loss = loss + losses.output_penalty(
                policy.mean, policy.std, mean_penalty=self.mean_penalty, log_std_penalty=self.log_std_penalty
            )
        return loss, info | kl_info

    def kl_weight(self, step: Step, q_values: Tensor) -> Any:
        """The weight of the divergence in units of reward.

        :param q_values: (B, 1), the values that the actor maximises
        """
        if isinstance(self.kl_coef, str):
            return step.networks["kl_coef"]["log_kl_coef"].exp() * losses.q_scale(q_values)
        kl_coef: Any = step.scalars["kl_coef"]
        if isinstance(kl_coef, Tensor):
            kl_coef = kl_coef.to(q_values.dtype)
        return kl_coef * step.ent_coef if self.kl_unit == "ent_coef" else kl_coef

    def after_actor(self, step: Step, info: Info) -> Info:
        """Adapts a ``kl_coef`` that follows ``target_kl``."""
        if not isinstance(self.kl_coef, str):
            return info
        before = step.networks["kl_coef"]["log_kl_coef"]
        after = losses.moved_log_kl_coef(before, info["kl"], target_kl=self.target_kl)
        step.networks.put("kl_coef", log_kl_coef=after)
        return info | {"kl_coef": after.exp().mean()}

    def divergence(self, policy: PolicySample, step: Step) -> tuple[Tensor | None, Info]:
        """The term that ``kl_coef`` weighs, (B, 1), and the KL divergence in closed form as a statistic."""
        if self.old_actor is None:
            return None, {}
        old_mean, old_std = self.old_policy(step)
        with torch.set_grad_enabled(self.analytic_kl):
            kl = losses.gaussian_kl(policy.mean, policy.std, old_mean, old_std)
        info = {"kl": kl.detach().mean()}
        if self.analytic_kl:
            return kl, info
        divergence = losses.proximity(
            policy.log_density,
            gaussian_log_density(policy.pre_tanh, old_mean, old_std),
            policy.log_jacobian,
            tsallis_q=self.tsallis_q,
            log_density_floor=self.log_density_floor,
        )
        return divergence, info

    @torch.no_grad()
    def old_policy(self, step: Step) -> OldPolicy:
        """Mean and standard deviation of pi_k at the batch's states."""
        observations = step.given.observations  # it has convolutions of its own
        # As the current policy is seen where it is trained: at the same parameters their divergence is 0.
        mean, log_std, further = self.policy_outputs(step.networks["old_actor"], observations, by_batch=True)
        if not self.use_sde:
            return mean, log_std.exp()
        distribution = self.actor.action_dist
        assert isinstance(distribution, StateDependentNoiseDistribution)
        return mean, gsde_std(further["latent_sde"], distribution.get_std(log_std), distribution.epsilon)

    def log_prob(self, policy: PolicySample) -> Tensor:
        """The entropy term's log pi, (B, 1), of the Tsallis entropy and with the floor that were chosen."""
        return losses.regularised_log_prob(
            policy.log_density, policy.log_jacobian, tsallis_q=self.tsallis_q, log_density_floor=self.log_density_floor
        )

    def soft_value(self, q_values: Tensor, policy: PolicySample, ent_coef: Tensor) -> Tensor:
        """V(s), (B, 1), from Q at the action of ``policy``, (B, n)."""
        bound = self.critic_log_prob_bound
        return losses.soft_value(q_values, self.log_prob(policy), ent_coef=ent_coef, log_prob_bound=bound)

    def value_objective(self, value: Network, step: Step, targets: Tensor) -> tuple[Tensor, Info]:
        """The loss of the value network; ``targets`` (B, 1)."""
        return losses.value_loss(value(step.given.observations), targets)

    def further_step(self, step: Step, policy: PolicySample) -> Info:
        """The step of the value network, if there is one."""
        if self.value_net is None:
            return {}
        with torch.no_grad():
            q_values = self.q_values(step.networks["critic"], step.batch.observations, policy.actions)
            targets = self.soft_value(torch.cat(q_values, dim=1), policy, step.ent_coef)
        info: Info = step.networks.descend("value", self.value_objective, step, targets)
        return info

    def move_targets(self, step: Step) -> None:
        """Moves the target of the value network, or of the critics where there is none."""
        if self.value_net is None:
            super().move_targets(step)
        else:
            step.networks.move("value_target", "value", step.scalars["tau"])

    def after_step(self) -> None:
        """Renews the old policy every ``old_policy_period`` gradient steps."""
        if self._n_updates % self.old_policy_period == 0:
            self._renew_old_policy()
