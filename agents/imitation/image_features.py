"""The discriminator's view of images: features of the critics' encoder, fixed between its trainings."""

from __future__ import annotations

import copy
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn

AT_ONCE = 256
"""Images that are encoded at a time, which bounds the memory that all of an expert's take."""


class ImageFeatures(nn.Module):
    """Features (N, F) float32 of images (N, C, H, W), through a copy of the critics' encoder.

    Only :meth:`follow` renews the copy, before the discriminator is trained. With the encoder that the critics continue
    to train, a reward would change at every gradient step although the discriminator has not changed, and the
    discriminator would get features that it was not trained on. No gradient goes to the encoder from here: a
    discriminator that shapes what it sees tells the expert's few images from all others by details that do not matter.

    :param critic: with the encoder
    """

    def __init__(self, critic: BaseModel) -> None:
        super().__init__()
        encoder: Any = critic.features_extractor
        self.encoder = copy.deepcopy(encoder).requires_grad_(False).eval()
        self.size = int(encoder.features_dim)
        self._space, self._normalize = critic.observation_space, critic.normalize_images

    @classmethod
    def of(cls, critic: BaseModel) -> ImageFeatures | None:
        """Those of a critic that sees images through an encoder; None of one that sees numbers or flat images."""
        space = critic.observation_space
        images = isinstance(space, spaces.Box) and is_image_space(space, check_channels=False)
        return cls(critic) if images and type(critic.features_extractor) is not FlattenExtractor else None

    def follow(self, critic: BaseModel) -> None:
        """Sees as ``critic`` does now."""
        encoder: Any = critic.features_extractor
        self.encoder.load_state_dict(encoder.state_dict())

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """The features, see the class."""
        parts = [preprocess_obs(part, self._space, self._normalize) for part in images.split(AT_ONCE)]
        return torch.cat([self.encoder(part) for part in parts])
