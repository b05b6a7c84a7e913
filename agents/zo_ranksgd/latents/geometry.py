"""Latents as points of a search, and their images: a sphere or a plane of latents, and a decoder that is checked."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlopt.errors import ConfigError, DecodeError, NonFiniteError, one_line

Array = NDArray[np.float64]
Decode = Callable[[Any], Any]
"""Latents ``[n, *shape]`` (numpy, or torch where a device is given) to ``n`` images of one shape: numpy, torch, PIL."""

DETERMINISTIC = "with diffusion use DDIM with eta=0 or another ODE sampler, fix the generator, and call model.eval()"
TOLERATED = 0.01
"""Share of the images' range that rounding on a GPU may change between two calls; fresh noise changes far more."""


class LatentSpace:
    """Where a search starts, the directions that it is free to take, and how a point becomes a latent.

    A point is a latent, flat, ``[d]``. Within a subspace it moves by ``s B a``: ``B`` ``[d, p]`` is random with
    orthonormal columns and ``s = sqrt(d / p)``, so that a standard normal ``a`` moves it by ``sqrt(d)`` whatever ``p``.
    With ``keep_norm`` a point ``x`` stands for the latent ``sqrt(d) x / ‖x‖``: standard normal latents have very nearly
    that norm, and generators were trained on no others.

    :param start: the first latent, of the decoder's shape; or that shape, for a standard normal one drawn with ``seed``
    :param subspace: ``p``, 1 to ``d``; None for all of the space
    :raises rlopt.errors.ConfigError: a shape or a number is out of range
    :raises rlopt.errors.NonFiniteError: the start is not finite
    """

    def __init__(
        self, start: NDArray[Any] | Sequence[int], *, subspace: int | None = None, keep_norm: bool = True, seed: int = 0
    ) -> None:
        if isinstance(start, np.ndarray):
            latent = np.array(start, dtype=np.float64)
        else:
            shape = tuple(start)
            if not shape or not all(isinstance(size, int) and size > 0 for size in shape):
                raise ConfigError(f"a latent's shape is positive integers, such as (4, 64, 64), not {one_line(start)}")
            latent = np.random.default_rng([seed, 1]).standard_normal(shape)
        if latent.ndim == 0 or latent.size == 0:
            raise ConfigError(f"a latent of shape {latent.shape} has nothing to search: give the decoder's shape")
        if not np.isfinite(latent).all():
            raise NonFiniteError("the start latent is NaN or infinite: draw it from a standard normal distribution")
        self.shape = latent.shape
        self.size = latent.size
        """``d``."""
        self.keep_norm = keep_norm
        self.origin: Array = latent.reshape(-1)
        """The start as a point ``[d]``."""
        if keep_norm and not self.origin.any():
            raise ConfigError("the start latent is zero, which has no norm to keep: draw it, or set keep_norm=False")
        if subspace is not None and not 1 <= subspace <= self.size:
            raise ConfigError(f"subspace is {subspace}: use 1 to {self.size}, the latent's size")
        self.directions: Array | None = None
        """``s B``."""
        if subspace is not None:
            basis = np.linalg.qr(np.random.default_rng([seed, 2]).standard_normal((self.size, subspace)))[0]
            self.directions = math.sqrt(self.size / subspace) * basis

    def latents(self, points: Array) -> Array:
        """The latents ``[n, *shape]`` of points ``[n, d]``."""
        if self.keep_norm:
            points = points * (math.sqrt(self.size) / np.linalg.norm(points, axis=1, keepdims=True))
        return points.reshape(-1, *self.shape)

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """``n`` standard normal points ``[n, d]``: what best-of-N chooses from."""
        return rng.standard_normal((n, self.size))


class Decoder:
    """Images of latents in batches, refused unless they are a function of the latent alone.

    :param decode: see :data:`Decode`
    :param batch_size: latents given to ``decode`` at once; None for all
    :param device: ``decode`` gets torch tensors on this device, such as ``"cuda"``; None for numpy arrays
    :param dtype: dtype of the latents, "float32" or "float64" ("float16" with a device)
    """

    def __init__(
        self, decode: Decode, *, batch_size: int | None = None, device: str | None = None, dtype: str = "float32"
    ) -> None:
        if not callable(decode):
            raise ConfigError(f"decode is a {type(decode).__name__}: give a function from latents to images")
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}: use 1 or more, or None for all at once")
        if dtype not in ("float16", "float32", "float64"):
            raise ConfigError(f"dtype is {dtype!r}: use 'float32', 'float64' or 'float16'")
        self._decode = decode
        self._batch_size = batch_size
        self._device = device
        self._dtype = dtype

    def __call__(self, latents: Array) -> NDArray[Any]:
        """The images ``[n, ...]`` of latents ``[n, *shape]``, as numpy arrays.

        :raises rlopt.errors.DecodeError: there are not ``n`` images of one shape
        :raises rlopt.errors.NonFiniteError: an image is NaN or infinite
        """
        size = self._batch_size or len(latents)
        parts = [self._batch(latents[first : first + size]) for first in range(0, len(latents), size)]
        if len({part.shape[1:] for part in parts}) != 1:
            raise DecodeError(f"decode gave images of several shapes: {sorted({part.shape[1:] for part in parts})}")
        return np.concatenate(parts)

    def check(self, latents: Array) -> None:
        """Decodes two latents ``[2, *shape]``, and again in the other order: the images must be the same.

        The other order finds noise that a fixed generator gives to each place of a batch.

        :raises rlopt.errors.DecodeError: they are not
        """
        once, again = self(latents), self(latents[::-1].copy())[::-1]
        first, second = once.astype(np.float64), again.astype(np.float64)
        difference = float(np.abs(first - second).max())
        if difference > TOLERATED * float(first.max() - first.min()):
            raise DecodeError(f"decode gave other images for the same latents (by {difference:.3g}): {DETERMINISTIC}")

    def _batch(self, latents: Array) -> NDArray[Any]:
        given: Any = latents.astype(self._dtype)
        if self._device is not None:
            import torch

            given = torch.from_numpy(given).to(self._device)
        images = _as_array(self._decode(given))
        if images.ndim < 1 or len(images) != len(latents):
            raise DecodeError(f"decode gave shape {images.shape} for {len(latents)} latents: give an image for each")
        if images.size == 0:
            raise DecodeError(f"decode gave empty images, of shape {images.shape}")
        if not np.isfinite(images).all():
            raise NonFiniteError("decode gave a NaN or infinite image: check the model's weights and precision")
        return images


def _as_array(images: Any) -> NDArray[Any]:
    if hasattr(images, "detach"):
        images = images.detach().cpu()
        # numpy has no bfloat16.
        return (images.float() if images.is_floating_point() and images.itemsize < 4 else images).numpy()
    if isinstance(images, (list, tuple)):
        images = [_as_array(image) for image in images]
        if len({image.shape for image in images}) > 1:
            raise DecodeError(f"decode gave images of several shapes: {sorted({image.shape for image in images})}")
    array = np.asarray(images)
    if array.dtype.kind not in "fiub":
        raise DecodeError(f"decode gave a {type(images).__name__} which is not an image: give arrays, tensors or PIL")
    return array
