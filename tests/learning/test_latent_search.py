"""LatentSearch in the latents of a small diffusion model that is trained here, with simulated rankers."""

import numpy as np
import pytest
from tiny_diffusion import DDIM, SCORES, TinyUNet, ellipses, train_tiny_diffusion

from rlopt.agents.zo_ranksgd.latents.search import LatentSearch, ScoreOracle
from rlopt.errors import DecodeError
from rlopt.feedback.ranking import Ranking

pytestmark = pytest.mark.slow

ROUNDS, SEEDS = 15, range(5)


@pytest.fixture(scope="session")
def unet() -> TinyUNet:
    return train_tiny_diffusion(300)


def test_the_model_draws_what_it_was_trained_on(unet: TinyUNet) -> None:
    rng = np.random.default_rng(1)
    drawn, data = DDIM(unet)(rng.normal(size=(200, 256))), ellipses(1000, rng)
    assert sum(parameter.numel() for parameter in unet.parameters()) in range(50_000, 200_000)
    for name, score in SCORES.items():
        ours, theirs = score(drawn), score(data)
        assert abs(ours.mean() - theirs.mean()) < 0.75 * theirs.std(), name
        assert 0.6 < ours.std() / theirs.std() < 2, name


def test_the_same_training_gives_the_same_model() -> None:
    first, second = train_tiny_diffusion(3), train_tiny_diffusion(3)
    for name, value in first.state_dict().items():
        assert (value == second.state_dict()[name]).all(), name


@pytest.mark.parametrize("preference", SCORES)
def test_fifteen_rounds_raise_the_score_beyond_a_random_walk(unet: TinyUNet, preference: str) -> None:
    score, decode = SCORES[preference], DDIM(unet)
    found = {"start": [], "search": [], "best of N": [], "random walk": []}  # type: dict[str, list[float]]
    for seed in SEEDS:
        result = LatentSearch(decode, (256,), seed=seed).run(ScoreOracle(score), ROUNDS)
        assert result.images == 8 * 8 + 7 * 5
        for name, value in result.scores(score).items():
            found[name].append(value)
        walk = np.random.default_rng(seed)
        walked = LatentSearch(decode, (256,), seed=seed).run(
            lambda images, k, rng=walk: Ranking.from_order(
                [int(i) for i in rng.permutation(len(images))[:k]], len(images)
            ),
            ROUNDS,
            best_of_n=False,
        )
        found["random walk"].append(walked.scores(score)["search"])
    means = {name: float(np.mean(values)) for name, values in found.items()}
    print(preference, {name: round(value, 3) for name, value in means.items()})
    drawn = score(decode(np.random.default_rng(0).normal(size=(200, 256))))
    spread = float(drawn.std())
    # A seed may start with a picture that can hardly be better.
    assert sum(after > before for before, after in zip(found["start"], found["search"], strict=True)) >= len(SEEDS) - 1
    assert means["search"] > drawn.mean() + spread
    assert means["search"] > means["random walk"] + spread / 2
    # Which of the two is better depends on the preference (docs/results/latent_search.md); they are in the same league.
    assert means["search"] > means["best of N"] - spread


def test_a_sampler_with_noise_is_refused(unet: TinyUNet) -> None:
    with pytest.raises(DecodeError, match="eta=0"):
        LatentSearch(DDIM(unet, eta=1.0), (256,))
