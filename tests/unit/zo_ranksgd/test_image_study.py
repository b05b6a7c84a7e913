"""Latent searches answered by people: what they see, and that their answers do what the same ranking does in run()."""

from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest

from rlopt.agents.zo_ranksgd.latents.image_study import as_pixels, latent_study, write_images
from rlopt.agents.zo_ranksgd.latents.search import LatentSearch
from rlopt.errors import DecodeError
from rlopt.feedback.ranking import Ranking
from rlopt.feedback.results import media_file
from rlopt.feedback.rounds import RaterSession
from rlopt.feedback.store import StudyStore, open_store
from rlopt.feedback.study import HumanStudy

MATRIX = np.random.default_rng(2).normal(size=(12, 6 * 5)) / 12


def decode(latents: np.ndarray) -> np.ndarray:
    """Images of 6 x 5 pixels in [0, 1]."""
    return (1 / (1 + np.exp(-latents @ MATRIX))).reshape(-1, 6, 5)


def light(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1).astype(np.float64).mean(1)


def oracle(images: np.ndarray, k: int) -> Ranking:
    """Prefers bright images, by the bytes that a person would see."""
    return Ranking.from_values(light(as_pixels(images)), k, maximize=True)


def answer_open_round(store: StudyStore, study: HumanStudy) -> None:
    """A person who likes bright images, and sees nothing but what the server shows."""
    rater = store.rater(study.study, study.study.name) or store.add_rater(study.study, study.study.name)
    session = RaterSession(store, study.study)
    shown = session.lease(rater.id)
    assert shown is not None
    files = [media_file(store, study.study, clip.media_id) for clip in shown.clips]
    seen = np.stack([imageio.imread(store.media_root / file[0]) for file in files if file])
    ranking = Ranking.from_values(light(seen), shown.k, maximize=True)
    ids = [clip.id for clip in shown.clips]
    tiers = [[ids[index] for index in tier] for tier in ranking.tiers]
    session.answer(rater.id, shown.id, shown.id, tiers, [ids[index] for index in ranking.unranked])


def test_people_who_answer_move_the_search_as_the_same_oracle_does(tmp_path: Path) -> None:
    simulated = LatentSearch(decode, (12,), seed=2)
    simulated.run(oracle, 4)
    store = open_store(tmp_path, create=True)
    for best_of_n in (False, True):
        for round_ in range(2 if best_of_n else 4):
            # A new search for each round, as after a crash: all of it is in the database.
            search = LatentSearch(decode, (12,), seed=2)
            name = "rival" if best_of_n else "search"
            settings = {"undo_seconds": 0.0, "deadline_seconds": 0.0, "poll_seconds": 0.01}
            study = latent_study(search, store, name, best_of_n=best_of_n, **settings)
            assert study.iteration == round_ and study.step() is None
            answer_open_round(store, study)
            assert study.step() is not None
        if best_of_n:
            assert search.rival.drawn == 16
        else:
            assert search.optimizer.digest() == simulated.optimizer.digest()
            np.testing.assert_array_equal(search.latent, simulated.latent)
    start, found = (light(as_pixels(decode(z[None])))[0] for z in (search.space.origin, simulated.latent))
    assert found > start
    store.close()


def test_images_are_shown_as_they_are_in_every_layout(tmp_path: Path) -> None:
    shades = np.linspace(-1, 1, 2 * 4 * 5 * 3).reshape(2, 4, 5, 3)
    # By hand: -1 is black, 1 is white, 0.1 is 255 * 0.55 = 140.25.
    one = as_pixels(np.full((1, 7, 9), 0.1), (-1, 1))
    assert one.shape == (1, 7, 9, 3) and (one == 140).all()
    last = as_pixels(shades, (-1, 1))
    assert last[0, 0, 0, 0] == 0 and last[-1, -1, -1, -1] == 255
    np.testing.assert_array_equal(as_pixels(shades.transpose(0, 3, 1, 2), (-1, 1)), last)
    np.testing.assert_array_equal(as_pixels(np.concatenate([last, last[..., :1]], 3)), last)
    np.testing.assert_array_equal(as_pixels(last[:, None, ..., 0])[..., 2], last[..., 0])
    clips = write_images(last, tmp_path)
    seen = imageio.imread(clips[1].path)
    # The shorter side of 4 pixels is enlarged 64 times, to 256.
    assert seen.shape == (256, 320, 3) == (clips[1].height, clips[1].width, 3)
    np.testing.assert_array_equal(seen[::64, ::64], last[1])
    np.testing.assert_array_equal(seen[63::64, 63::64], last[1])
    for bad, value_range in ((np.zeros((2, 5)), (0, 1)), (np.zeros((2, 5, 5, 5)), (0, 1)), (shades, (1, 1))):
        with pytest.raises(DecodeError):
            as_pixels(bad, value_range)
