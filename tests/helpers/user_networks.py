"""What a user may do to the networks of a model, whatever the agent."""

from collections.abc import Callable
from typing import Any

import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class Extractor(BaseFeaturesExtractor):
    """A layer, and ``inner`` after it."""

    def __init__(self, space: Any, inner: Callable[[], nn.Module]) -> None:
        super().__init__(space, 8)
        self.layers = nn.Sequential(nn.Linear(space.shape[0], 8), inner(), nn.ReLU())

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.layers(observations)


DRAWING = {
    "batch norm": (lambda: nn.BatchNorm1d(8), "BatchNorm1d, which draws random numbers or keeps statistics"),
    "dropout": (lambda: nn.Dropout(0.2), "Dropout, which draws"),
}
"""Layers of which a step cannot be a function of tensors, and what is said of it."""


def nothing(model: Any) -> None:
    pass


def compiled(model: Any) -> None:
    model.policy = torch.compile(model.policy, backend="eager")
