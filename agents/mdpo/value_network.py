"""The state-value network of the paper's off-policy MDPO, which Stable-Baselines3's SAC does not have."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor, nn

from rlopt.nn.policies import ChosenNetworks


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
