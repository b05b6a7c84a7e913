"""The image encoder of DrQ-v2 (Yarats et al., arXiv 2107.09645), alone and as actor and critics share it there.

And its augmentation, random shifts of images (section 3.1).
"""

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecTransposeImage
from stable_baselines3.sac.policies import Actor, CnnPolicy
from torch import Tensor, nn

from rlopt.errors import ConfigError, SpaceError

STRIDES = (2, 1, 1, 1)
CHANNELS, KERNEL = 32, 3
SMALLEST_SIDE = 17
"""Height and width from which the last convolution has an output of 2 x 2."""


class DrQV2Encoder(BaseFeaturesExtractor):
    """Features (B, features_dim) in (-1, 1) of images (B, C, H, W) in [0, 1], as Stable-Baselines3 hands them over.

    Four convolutions of 3 x 3, 32 channels, strides 2, 1, 1, 1, each with ReLU, on the images less 0.5; then a trunk: a
    linear layer, layer normalisation, tanh. Weights begin orthogonal (convolutions with the gain of ReLU), biases at 0.

    :param observation_space: images, channels first; the colours of stacked frames stand one after the other
    :param features_dim: width of the trunk, >= 1 (DrQ-v2: 50)
    :raises rlopt.errors.SpaceError: no images, or smaller ones than 17 x 17
    """

    def __init__(self, observation_space: spaces.Space, features_dim: int = 50) -> None:
        _check_images(observation_space)
        super().__init__(observation_space, features_dim)
        channels, height, width = observation_space.shape or ()
        layers: list[nn.Module] = []
        for stride in STRIDES:
            layers += [nn.Conv2d(channels, CHANNELS, KERNEL, stride), nn.ReLU()]
            height, width = ((side - KERNEL) // stride + 1 for side in (height, width))
            channels = CHANNELS
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        linear = nn.Linear(CHANNELS * height * width, features_dim)
        self.trunk = nn.Sequential(linear, nn.LayerNorm(features_dim), nn.Tanh())
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                gain = nn.init.calculate_gain("relu") if isinstance(module, nn.Conv2d) else 1.0
                nn.init.orthogonal_(module.weight, gain)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def convolve(self, images: Tensor) -> Tensor:
        """What the convolutions make of images (B, C, H, W) in [0, 1]: (B, 32 h w)."""
        centred = images - 0.5
        if images.device.type == "cpu":
            centred = centred.contiguous(memory_format=torch.channels_last)  # 1.7 times as fast there
        return self.convolutions(centred)

    def forward(self, images: Tensor) -> Tensor:
        """The features, see the class."""
        return self.trunk(self.convolve(images))


class EncodedActor(Actor):
    """An actor with a :class:`DrQV2Encoder`, which trains the trunk and not the convolutions."""

    def extract_features(self, obs: Any, features_extractor: Any) -> Tensor:
        """Features of images (B, C, H, W), or of what the convolutions made of them, (B, 32 h w)."""
        if obs.dim() == 2:
            return features_extractor.trunk(obs)
        with torch.no_grad():
            convolved = super().extract_features(obs, features_extractor.convolve)
        return features_extractor.trunk(convolved)


class EncodedCritic(ContinuousCritic):
    """Critics with a :class:`DrQV2Encoder`, all of which they train."""

    def extract_features(self, obs: Any, features_extractor: Any) -> Tensor:
        """Features of images (B, C, H, W), or of what the convolutions made of them, (B, 32 h w)."""
        if obs.dim() == 2:
            return features_extractor.trunk(obs)
        return super().extract_features(obs, features_extractor)

    def convolve(self, obs: Tensor) -> Tensor:
        """What the convolutions, which the actor shares, make of images (B, C, H, W): (B, 32 h w)."""
        encoder: Any = self.features_extractor
        return super().extract_features(obs, encoder.convolve)


class ImagePolicy(CnnPolicy):
    """Stable-Baselines3's CnnPolicy, and with ``features_extractor_class=DrQV2Encoder`` the networks of DrQ-v2.

    There actor, critics and the target critics have the same convolutions, which the loss of the critics trains and
    nothing else; each has a trunk of its own.

    :raises rlopt.errors.ConfigError: that encoder with ``share_features_extractor``, where the actor would train it
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._encodes = kwargs.get("features_extractor_class") is DrQV2Encoder
        if self._encodes and kwargs.get("share_features_extractor"):
            raise ConfigError(
                "share_features_extractor lets the actor train the encoder: leave it out with encoder 'drqv2', whose "
                "convolutions are shared as it is"
            )
        super().__init__(*args, **kwargs)

    @property
    def shares_convolutions(self) -> bool:
        """Whether actor and critics have the same convolutions."""
        return self._encodes

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        if not self._encodes:
            return
        encoder: Any = self.critic.features_extractor
        for network in (self.actor, self.critic_target):
            part: Any = network.features_extractor
            part.convolutions = encoder.convolutions
        shared = {id(parameter) for parameter in encoder.convolutions.parameters()}
        own = [parameter for parameter in self.actor.parameters() if id(parameter) not in shared]
        make_optimizer: Any = self.optimizer_class
        self.actor.optimizer = make_optimizer(own, lr=lr_schedule(1), **self.optimizer_kwargs)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        """As in Stable-Baselines3; of images, an actor on what the shared convolutions make of them."""
        if not self._encodes:
            return super().make_actor(features_extractor)
        return EncodedActor(**self._update_features_extractor(self.actor_kwargs, features_extractor)).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """As in Stable-Baselines3; of images, critics on what the shared convolutions make of them."""
        if not self._encodes:
            return super().make_critic(features_extractor)
        return EncodedCritic(**self._update_features_extractor(self.critic_kwargs, features_extractor)).to(self.device)


ENCODERS: dict[str, type[BaseFeaturesExtractor]] = {"drqv2": DrQV2Encoder}
"""Names of features extractors, for ``policy_kwargs``."""


def channels_first(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space with its images as convolutions take them; ``obs_to_tensor`` turns observations likewise."""
    if isinstance(space, spaces.Dict):
        turned = {name: channels_first(part) for name, part in space.items()}
        return space if all(turned[name] is part for name, part in space.items()) else spaces.Dict(turned)
    if isinstance(space, spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
        return VecTransposeImage.transpose_space(space)
    return space


def _check_images(space: spaces.Space) -> None:
    if not isinstance(space, spaces.Box) or not is_image_space(space, check_channels=False, normalized_image=True):
        raise SpaceError(f"encoder 'drqv2' takes images, not {space}: observe pixels, or leave the encoder out")
    if min(space.shape[1:]) < SMALLEST_SIDE:
        raise SpaceError(
            f"images of shape {space.shape} are too small for encoder 'drqv2': give at least {SMALLEST_SIDE} x "
            f"{SMALLEST_SIDE}"
        )


def shift_images(images: Tensor, shifts: Tensor, pad: int) -> Tensor:
    """Cut-outs (B, C, H, W) of images that ``pad`` pixels of their border's colour were added to on every side.

    :param images: (B, C, H, W), of any dtype, which stays
    :param shifts: (B, 2) int64 in [0, 2 pad]: row and column of the padded image where the cut-out begins; at ``pad``
        it is the image itself
    """
    height, width = images.shape[-2:]
    rows, columns = (
        (shifts[:, axis, None] - pad + torch.arange(side, device=images.device)).clamp(0, side - 1)
        for axis, side in enumerate((height, width))
    )
    places = (rows[:, :, None] * width + columns[:, None, :]).flatten(1).unsqueeze(1)
    return images.flatten(2).gather(2, places.expand(-1, images.shape[1], -1)).reshape(images.shape)


def random_shift(images: Tensor, pad: int) -> Tensor:
    """:func:`shift_images` by up to ``pad`` whole pixels, uniform, the same for all channels and frames of an image.

    DrQ-v2 reads such shifts off by bilinear interpolation, at the centres of pixels: it gives the same images. The
    shifts come from torch's generator of the images' device, and no call waits for it.
    """
    shifts = torch.randint(0, 2 * pad + 1, (len(images), 2), device=images.device)
    return shift_images(images, shifts, pad)


def shift_batch(batch: Any, pad: int) -> Any:
    """``batch`` with its observations and, by shifts of their own, its next observations shifted at random."""
    return batch._replace(
        observations=random_shift(batch.observations, pad), next_observations=random_shift(batch.next_observations, pad)
    )
