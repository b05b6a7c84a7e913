"""Random shifts of images, the augmentation of DrQ-v2 (Yarats et al., arXiv 2107.09645, section 3.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
