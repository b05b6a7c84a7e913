"""Policies of soft actor-critic whose networks are chosen by name."""

import copy
from typing import Any

import torch
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, create_mlp
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.sac.policies import Actor, CnnPolicy, MultiInputPolicy, SACPolicy
from torch import nn

from rlopt.errors import ConfigError
from rlopt.nn.encoders import ImagePolicy
from rlopt.nn.networks import BatchRenormNetwork, NormalizedExtractor, RunningNormalizer, layer_norm_mlp, simba
from rlopt.settings.optimizer import PUBLISHED_WIDTHS, NetworkName

CROSSQ_BETAS = (0.5, 0.999)
"""Adam's, of CrossQ (arXiv 1902.05605, appendix)."""


class ChosenNetworks:
    """Mixin before a policy of Stable-Baselines3's SAC: its layers are those of ``network``.

    ``layer_norm`` changes the critics alone. With ``crossq`` there is no target network: ``critic_target`` is an empty
    module. With ``simba`` observations are normalised by running statistics, which actor and critics share; features of
    images, or of an extractor of one's own, are taken as they are.

    :param network: see :class:`rlopt.agents.sac.config.SACConfig`; ``net_arch`` gives the widths, by default those that
        the paper has
    """

    statistics: RunningNormalizer
    """Of the observations, where they are normalised."""

    def __init__(self, *args: Any, network: NetworkName = "mlp", **kwargs: Any) -> None:
        self.network = network
        if kwargs.get("net_arch") is None:
            actor, critics = PUBLISHED_WIDTHS[network]
            kwargs["net_arch"] = {"pi": list(actor), "qf": list(critics)}
        if network == "crossq" and kwargs.get("optimizer_class", torch.optim.Adam) is torch.optim.Adam:
            kwargs["optimizer_kwargs"] = {"betas": CROSSQ_BETAS, **(kwargs.get("optimizer_kwargs") or {})}
        super().__init__(*args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "network": self.network}  # type: ignore[misc]

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)  # type: ignore[misc]
        if self.network == "crossq":
            self.critic_target: Any = nn.Module()

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """As in Stable-Baselines3; with simba normalised, where observations are numbers and no images."""
        extractor: BaseFeaturesExtractor = super().make_features_extractor()  # type: ignore[misc]
        plain = isinstance(extractor, FlattenExtractor | CombinedExtractor)
        if self.network != "simba" or not plain or any(True for _ in extractor.parameters()):
            return extractor
        if not hasattr(self, "statistics"):
            self.statistics = RunningNormalizer(extractor.features_dim)
        return NormalizedExtractor(extractor._observation_space, extractor, self.statistics)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        """As in Stable-Baselines3, with the layers of ``network``."""
        actor: Actor = super().make_actor(features_extractor)  # type: ignore[misc]
        make: Any = {"simba": simba, "crossq": BatchRenormNetwork}.get(self.network)
        if make is not None:
            layers = make(actor.features_dim, actor.net_arch, None, actor.activation_fn)
            actor.latent_pi = layers.to(self.device)  # type: ignore[attr-defined]
        return actor

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """As in Stable-Baselines3, with the layers of ``network``."""
        critic: ContinuousCritic = super().make_critic(features_extractor)  # type: ignore[misc]
        if self.network == "mlp":
            return critic
        first: Any = next(module for module in critic.q_networks[0].modules() if isinstance(module, nn.Linear))
        for index in range(critic.n_critics):
            critic.q_networks[index] = self.critic_layers(first.in_features).to(self.device)  # type: ignore[attr-defined]
            setattr(critic, f"qf{index}", critic.q_networks[index])
        return critic

    def critic_layers(self, n_inputs: int) -> nn.Sequential:
        """The layers of a critic, from ``n_inputs`` features to one value."""
        settings: Any = self.critic_kwargs  # type: ignore[attr-defined]
        widths, activation = settings["net_arch"], settings["activation_fn"]
        if self.network == "mlp":
            return nn.Sequential(*create_mlp(n_inputs, 1, widths, activation))
        kinds: dict[str, Any] = {"layer_norm": layer_norm_mlp, "simba": simba, "crossq": BatchRenormNetwork}
        layers: nn.Sequential = kinds[self.network](n_inputs, widths, 1, activation)
        return layers


class NetworkPolicy(ChosenNetworks, SACPolicy):
    """For flat observations."""


class NetworkMultiInputPolicy(ChosenNetworks, MultiInputPolicy):
    """For Dict observations."""


class NetworkImagePolicy(ChosenNetworks, ImagePolicy):
    """For images."""


_OF: dict[Any, type[SACPolicy]] = {
    "MlpPolicy": NetworkPolicy,
    SACPolicy: NetworkPolicy,
    "MultiInputPolicy": NetworkMultiInputPolicy,
    MultiInputPolicy: NetworkMultiInputPolicy,
    "CnnPolicy": NetworkImagePolicy,
    CnnPolicy: NetworkImagePolicy,
    ImagePolicy: NetworkImagePolicy,
}


def policy_with(network: NetworkName, policy: Any) -> Any:
    """The policy class that has ``network`` where ``policy``, a name or a class, was asked for; as it is with mlp.

    :raises rlopt.errors.ConfigError: a custom class, whose networks are its own
    """
    if network == "mlp" or (isinstance(policy, type) and issubclass(policy, ChosenNetworks)):
        return policy
    if policy not in _OF and not isinstance(policy, str):
        raise ConfigError(
            f"network {network} cannot be put into {policy.__name__}, a custom policy: leave one of the two out"
        )
    return _OF.get(policy, policy)


def apart(network: Any) -> Any:
    """``network``, an actor or critic just made, with statistics of its own where it would share the policy's.

    So a frozen copy stays as it is.
    """
    if isinstance(network.features_extractor, NormalizedExtractor):
        network.features_extractor = copy.deepcopy(network.features_extractor)
    return network
