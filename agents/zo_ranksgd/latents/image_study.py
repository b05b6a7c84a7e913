"""Latent searches answered by people in the browser, with images instead of clips."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlopt.agents.zo_ranksgd.latents.search import LatentSearch
from rlopt.agents.zo_ranksgd.policies import study_server
from rlopt.agents.zo_ranksgd.policies.human import LOOK_SECONDS
from rlopt.agents.zo_ranksgd.query import Query
from rlopt.errors import DecodeError
from rlopt.feedback.clips import Clip, write_image
from rlopt.feedback.store import StudyStore, open_store
from rlopt.feedback.study import HumanStudy

LEAST_SIDE = 256
"""Pixels of the shorter side: smaller images are enlarged by whole factors, each pixel a square."""
INSTRUCTIONS = "Which images do you like best?"


def latent_study(
    search: LatentSearch,
    store: StudyStore,
    name: str,
    *,
    best_of_n: bool = False,
    value_range: tuple[float, float] = (0.0, 1.0),
    instructions: str = INSTRUCTIONS,
    **settings: Any,
) -> HumanStudy:
    """A study of ``search`` that people answer: each ``step()`` is a round; ``search.latent`` is the result.

    :param store: where people's answers are kept; ``rlopt rank serve`` shows what is open
    :param name: name of the study; the same search continues one of that name
    :param best_of_n: people answer ``search.rival`` instead, best-of-N, in a study of another name; for a fair
        comparison until ``search.rival.drawn`` is ``search.images_shown``
    :param value_range: the values of the decoder's floats that are black and white
    :param settings: settings of :class:`rlopt.feedback.study.HumanStudy`, such as ``annotators``
    """

    def render(query: Query, folder: Path) -> list[Clip]:
        return write_images(search.decoder(search.space.latents(query.candidates)), folder, value_range)

    optimizer: Any = search.rival if best_of_n else search.optimizer
    return HumanStudy(store, name, optimizer, render, instructions=instructions, media="image", **settings)


def run_study(
    search: LatentSearch,
    folder: Path,
    *,
    rounds: int,
    name: str,
    instructions: str = INSTRUCTIONS,
    annotators: int = 1,
    port: int | None = 0,
    stopping: Callable[[], bool] = lambda: False,
) -> list[Path] | None:
    """Asks people ``rounds`` rounds in all in a study in ``folder``, or continues with it, and writes what was found.

    :param port: port of the server that is started; None for none
    :param stopping: looked at between answers; the study continues at the next call
    :returns: the files of the first and the found image, and the folder of the search; None if it was stopped
    :raises rlopt.errors.StudyError: the folder holds another study, or the server has ended
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = open_store(str(folder), None, create=True)
    study = latent_study(
        search, store, name, instructions=instructions, annotators=annotators, deadline_seconds=LOOK_SECONDS
    )
    try:
        if not study_server.ask_people(study, folder, rounds, port=port, stopping=stopping):
            return None
    finally:
        store.close()
    latents = search.space.latents(np.stack([search.space.origin, search.optimizer.point]))
    found = [folder / "first.png", folder / "found.png"]
    for path, image in zip(found, as_pixels(search.decoder(latents)), strict=True):
        write_image(path, image)
    return [*found, search.save(folder / "search")]


def as_pixels(images: NDArray[Any], value_range: tuple[float, float] = (0.0, 1.0)) -> NDArray[np.uint8]:
    """``[n, height, width, 3]`` bytes of images in any of the usual layouts.

    :param images: ``[n, height, width]``, or with channels (1, 3, or 4 with opacity, which is left out) last or first;
        bytes, or floats
    :param value_range: the values of floats that are black and white; beyond, they are clipped
    :raises rlopt.errors.DecodeError: they are not images
    """
    pixels = np.asarray(images)
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or not {pixels.shape[1], pixels.shape[3]} & {1, 3, 4}:
        raise DecodeError(f"images of shape {pixels.shape} cannot be shown: give [n, height, width] or 1 or 3 channels")
    if pixels.shape[3] not in (1, 3, 4):
        pixels = pixels.transpose(0, 2, 3, 1)
    if pixels.dtype != np.uint8:
        black, white = value_range
        if not black < white:
            raise DecodeError(
                f"value_range is {value_range}: give the value of black and then that of white, the larger"
            )
        shares = np.clip((pixels.astype(np.float64) - black) / (white - black), 0, 1)
        pixels = np.round(255 * shares).astype(np.uint8)
    return np.repeat(pixels, 3, 3) if pixels.shape[3] == 1 else pixels[..., :3]


def write_images(images: NDArray[Any], folder: Path, value_range: tuple[float, float] = (0.0, 1.0)) -> list[Clip]:
    """Writes ``image-0.png`` and so on into ``folder``; a still clip each, in the images' order."""
    pixels = as_pixels(images, value_range)
    factor = max(1, -(-LEAST_SIDE // min(pixels.shape[1:3])))
    large = pixels.repeat(factor, 1).repeat(factor, 2)
    return [write_image(folder / f"image-{index}.png", image) for index, image in enumerate(large)]
