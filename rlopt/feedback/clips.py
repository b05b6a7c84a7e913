"""What people look at: videos of policies with a poster frame, or still images. Imports no torch."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.errors import ConfigError
from rlopt.evaluation.mp4 import write_mp4
from rlopt.storage.replacing import replacing

LEAST_SECONDS = 1.0
"""That a video lasts at least."""


@dataclass(frozen=True)
class Clip:
    """Files that show one candidate, in the media folder of the study."""

    path: Path
    """A video (.mp4) or an image (.png, .jpg)."""
    poster: Path
    """An image that stands in for the video until it plays; of an image, itself."""
    fps: float
    frames: int
    width: int
    """Width of the picture in pixels."""
    height: int
    seeds: tuple[int, ...]
    """Seeds of the environment, one for each episode that is shown."""
    hidden_return: float | None
    """For statistics afterwards; it is never shown to people who rank."""


def write_clip(
    path: Path, images: Iterable[np.ndarray], fps: float, *, seeds: Iterable[int] = (),
    hidden_return: float | None = None,
) -> Clip:  # fmt: skip
    """Writes images as a video with a poster beside it: the image that differs most from the first one.

    A video shorter than :data:`LEAST_SECONDS` is extended to that length with its last image, because nobody can judge
    a flash.

    :param path: ``.mp4`` in the folder that a renderer is given; appears once it is whole
    :param images: uint8 [H, W, 3], at least one, all of one size; an odd side is lengthened by its last line, as H.264
        with yuv420p needs even sides
    :param fps: images per second, above 0
    :raises ConfigError: the images have another form, or a file cannot be written
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise ConfigError(f"{path}: videos are written as .mp4")
    if not 0 < fps <= 240:
        raise ConfigError(f"a clip has {fps:g} images per second: use above 0 and at most 240")
    first: np.ndarray | None = None
    frames, far = 0, -1.0
    with write_mp4(path, fps) as write:
        for image in images:
            even = _even(_checked(image))
            if first is None:
                first = even
            elif even.shape != first.shape:
                raise ConfigError(f"a clip's images change from {first.shape} to {even.shape}: draw all of one size")
            write(even)
            frames += 1
            # Of later images that are as far, the last: what a clip ends in tells it from others that begin alike.
            away = float(np.abs(even[::4, ::4].astype(np.int16) - first[::4, ::4]).mean())
            if away >= far:
                far, shown = away, even.copy()
        if first is None:
            raise ConfigError("a clip has no images: draw at least one")
        while frames < LEAST_SECONDS * fps:
            write(even)
            frames += 1
    poster = path.with_suffix(".jpg")
    _write_image(poster, shown)
    height, width = first.shape[:2]
    return Clip(path, poster, float(fps), frames, width, height, tuple(int(s) for s in seeds), hidden_return)


def write_image(
    path: Path, image: np.ndarray, *, seeds: Iterable[int] = (), hidden_return: float | None = None
) -> Clip:
    """Writes a still image, ``.png`` or ``.jpg``, as a clip of one frame.

    :param image: uint8 [H, W, 3] or [H, W]
    :raises ConfigError: as :func:`write_clip`
    """
    path, image = Path(path), np.asarray(image)
    if path.suffix.lower() not in (".png", ".jpg"):
        raise ConfigError(f"{path}: images are written as .png or .jpg")
    checked = _checked(np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image)
    _write_image(path, checked)
    height, width = checked.shape[:2]
    return Clip(path, path, 1.0, 1, width, height, tuple(int(seed) for seed in seeds), hidden_return)


def _checked(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ConfigError(f"a clip's image is {image.dtype} {image.shape}: draw uint8 [height, width, 3]")
    return image


def _even(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return np.ascontiguousarray(np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))


def _write_image(path: Path, image: np.ndarray) -> None:
    import imageio.v3 as imageio

    options: dict[str, Any] = {"quality": 85} if path.suffix.lower() == ".jpg" else {}
    with replacing(path, ConfigError, "use another folder") as place:
        imageio.imwrite(place, image, **options)
