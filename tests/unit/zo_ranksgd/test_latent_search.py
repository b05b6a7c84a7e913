"""LatentSearch on decoders whose best latent is known, and what it refuses."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import rlopt
from rlopt.agents.zo_ranksgd.latents.best_of_n import BestOfN
from rlopt.agents.zo_ranksgd.latents.geometry import LatentSpace
from rlopt.agents.zo_ranksgd.latents.search import LatentSearch, ScoreOracle
from rlopt.errors import AnswerError, CheckpointError, ConfigError, DecodeError, NonFiniteError
from rlopt.feedback.ranking import Ranking

D = 24
MATRIX = np.random.default_rng(5).normal(size=(D, 6))
TARGET = np.random.default_rng(6).normal(size=6)


def linear(latents: np.ndarray) -> np.ndarray:
    """Images of six pixels, linear in the latents."""
    return latents.reshape(len(latents), -1) @ MATRIX


def nearness(images: np.ndarray) -> np.ndarray:
    return -((images - TARGET) ** 2).sum(1)


def alignment(images: np.ndarray) -> np.ndarray:
    return images @ TARGET


def search(**settings: object) -> LatentSearch:
    return LatentSearch(linear, (2, 3, 4), dtype="float64", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(3))
def test_on_the_sphere_it_comes_to_the_best_direction(seed: int) -> None:
    # A linear score <MATRIX t, z> on the sphere of radius sqrt(d) has the maximum sqrt(d) ‖MATRIX t‖.
    found = search(seed=seed).run(ScoreOracle(alignment), 60)
    best = np.sqrt(D) * np.linalg.norm(MATRIX @ TARGET)
    assert 0.98 * best < found.scores(alignment)["search"] <= best * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_in_a_subspace_it_comes_to_the_least_squares_solution(seed: int) -> None:
    searched = search(seed=seed, subspace=3, keep_norm=False, m=10, k=5)
    start = searched.space.origin.copy()
    basis = searched.space.directions
    assert basis is not None
    np.testing.assert_allclose(basis.T @ basis, np.eye(3) * D / 3, atol=1e-12)
    # The target cannot be reached in three dimensions: the best is the least-squares solution there.
    inside = np.linalg.lstsq(MATRIX.T @ basis, TARGET - MATRIX.T @ start, rcond=None)[0]
    optimum = start + basis @ inside
    before, best = nearness(linear(start[None]))[0], nearness(linear(optimum[None]))[0]
    found = searched.run(ScoreOracle(nearness), 80)
    assert found.scores(nearness)["start"] == pytest.approx(before)
    assert best - found.scores(nearness)["search"] < 0.05 * (best - before)
    moved = searched.latent.reshape(-1) - start
    np.testing.assert_allclose(basis @ (basis.T @ moved) * 3 / D, moved, atol=1e-9)


def test_every_latent_keeps_its_norm_unless_told_otherwise() -> None:
    kept, free = search(), search(keep_norm=False)
    norms = []
    for _ in range(6):
        for one in (kept, free):
            query = one.ask()
            assert query.latents.shape == (len(query.images), 2, 3, 4)
            norms.append(np.linalg.norm(query.latents.reshape(-1, D), axis=1))
            one.tell(ScoreOracle(alignment)(query.images, query.k))
    np.testing.assert_allclose(np.concatenate(norms[::2]), np.sqrt(D), rtol=1e-12)
    assert np.abs(np.concatenate(norms[1::2]) - np.sqrt(D)).max() > 0.1


def test_variations_are_of_the_size_that_smoothing_says_with_and_without_a_subspace() -> None:
    for subspace in (None, 2):
        start = np.random.default_rng(0).normal(size=900)
        wide = LatentSearch(lambda z: z, start, subspace=subspace, keep_norm=False, smoothing=0.2, m=400, k=1)
        changes = np.linalg.norm(wide.ask().latents - start, axis=1)
        # The mean square of a change is smoothing^2 d.
        assert np.mean(changes**2) == pytest.approx(0.04 * 900, rel=0.15)


def test_best_of_n_is_the_best_of_as_many_latents() -> None:
    shown: list[np.ndarray] = []

    def oracle(images: np.ndarray, k: int) -> Ranking:
        shown.append(images)
        return Ranking.from_values(alignment(images), k, maximize=True)

    searched = search(seed=3)
    result = searched.run(oracle, 7)
    # Four gradient queries of 8 and three line searches of 5 images, then the same number of drawn ones.
    assert result.images == 4 * 8 + 3 * 5 == searched.rival.drawn
    drawn = np.concatenate(shown[7:-1])
    assert len(np.unique(drawn.round(9), axis=0)) == result.images
    best = result.scores(alignment)["best of N"]
    assert best == pytest.approx(alignment(drawn).max(), rel=1e-12)  # the last digit hangs on the batch
    # And once more, with more rounds: N grows by as many images as the search has shown.
    again = searched.run(oracle, 2)
    assert again.images == searched.rival.drawn == result.images + 8 + 5
    assert again.scores(alignment)["best of N"] >= best * (1 - 1e-12)


def test_best_of_n_keeps_its_latent_when_nothing_is_said_to_be_better() -> None:
    rival = BestOfN(LatentSpace((4,)), n=3)
    first = rival.ask().candidates
    assert rival.ask().candidates is first
    rival.tell(Ranking.from_order([2], 3))
    query = rival.ask()
    assert query.current == 0 and len(query.candidates) == 4
    np.testing.assert_array_equal(query.candidates[0], first[2])
    rival.tell(Ranking((), (), abstain=True))
    np.testing.assert_array_equal(rival.point, first[2])
    query = rival.ask()
    # Two people: 1 > 0 and 0 > 1 cancel, both prefer 3 to 2, so 1 and 0 are equal and the former one stays.
    rival.tell([Ranking(((1,), (0,), (3,), (2,))), Ranking(((0,), (1,), (3,), (2,)))])
    np.testing.assert_array_equal(rival.point, first[2])
    assert (rival.iteration, rival.drawn) == (3, 9)
    with pytest.raises(AnswerError, match="ask"):
        rival.tell(Ranking.from_order([0], 4))


def test_a_result_says_what_the_oracle_says_of_it() -> None:
    result = search().run(lambda images, k: Ranking.from_order([len(images) - 1, 1, 0][:k], len(images)), 1)
    assert "the oracle says best of N > search > start" in str(result) and "N = 8 images" in str(result)
    alone = search().run(ScoreOracle(alignment), 1, best_of_n=False)
    assert alone.names == ("start", "search") and "no best of N" in str(alone)


@pytest.mark.parametrize("open_query", [False, True])
def test_a_saved_search_goes_on_bit_for_bit(tmp_path: Path, open_query: bool) -> None:
    whole = search(subspace=5, seed=4)
    whole.run(ScoreOracle(alignment), 4)
    if open_query:
        whole.ask(), whole.rival.ask()
    folder = whole.save(tmp_path / "found")
    again = LatentSearch.load(folder, linear, dtype="float64")
    assert again.optimizer.digest() == whole.optimizer.digest() and again.rival.digest() == whole.rival.digest()
    first, second = (one.run(ScoreOracle(alignment), 5) for one in (whole, again))
    assert first.latents.tobytes() == second.latents.tobytes()
    assert (first.rounds, first.images) == (second.rounds, second.images) == (9, 5 * 8 + 4 * 5)
    assert again.optimizer.digest() == whole.optimizer.digest() and again.rival.digest() == whole.rival.digest()


def test_damaged_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    folder = search().save(tmp_path / "found")
    part = folder / "search.safetensors"
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError, match="not what was written"):
        LatentSearch.load(folder, linear)
    with pytest.raises(CheckpointError):
        LatentSearch.load(tmp_path / "nothing", linear)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    with pytest.raises(CheckpointError, match="not replaced"):
        search().save(precious)
    assert (precious / "thesis.txt").read_text() == "years"
    other = search().save(tmp_path / "other")
    assert search(seed=1).save(other) == other
    with pytest.raises(DecodeError):
        LatentSearch.load(other, lambda latents: np.random.default_rng().normal(size=(len(latents), 3)))


def test_a_decoder_with_noise_is_refused_with_the_cure() -> None:
    noise = np.random.default_rng(0)
    with pytest.raises(DecodeError, match="eta=0"):
        LatentSearch(lambda z: z + 0.1 * noise.normal(size=z.shape), (D,))

    def noise_of_each_place(latents: np.ndarray) -> np.ndarray:
        return latents + 0.1 * np.random.default_rng(0).normal(size=latents.shape)

    with pytest.raises(DecodeError, match="fix the generator"):
        LatentSearch(noise_of_each_place, (D,))
    # Rounding on a GPU is not noise.
    LatentSearch(lambda z: z + 1e-6 * noise.normal(size=z.shape), (D,))


def test_bad_decoders_and_settings_are_refused() -> None:
    bad = [
        (lambda z: z[:1], DecodeError, "image for each"),
        (lambda z: np.full_like(z, np.nan), NonFiniteError, "NaN"),
        (lambda z: ["text"] * len(z), DecodeError, "not an image"),
        (lambda z: z[:, :0], DecodeError, "empty"),
        (lambda z: [np.zeros(1), np.zeros(2)], DecodeError, "several shapes"),
        (None, ConfigError, "function"),
    ]
    for decode, error, words in bad:
        with pytest.raises(error, match=words):
            LatentSearch(decode, (D,))  # type: ignore[arg-type]
    for start in ((), (0, 3), (2.5,), "16", np.zeros(4), np.zeros(())):
        with pytest.raises(ConfigError):
            LatentSearch(lambda z: z, start)  # type: ignore[arg-type]
    with pytest.raises(NonFiniteError):
        LatentSearch(lambda z: z, np.array([np.inf, 1.0]))
    for settings in ({"subspace": 0}, {"subspace": D + 1}, {"batch_size": 0}, {"dtype": "int8"}, {"k": 9}):
        with pytest.raises(ConfigError):
            LatentSearch(lambda z: z, (D,), **settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="rounds"):
        search().run(ScoreOracle(alignment), 0)
    with pytest.raises(AnswerError):
        search().run(lambda images, k: Ranking.from_order([0], 3), 1)


def test_batches_give_the_same_images() -> None:
    sizes: list[int] = []

    def counted(latents: np.ndarray) -> np.ndarray:
        sizes.append(len(latents))
        return np.tanh(latents)

    small, whole = LatentSearch(counted, (D,), batch_size=3), LatentSearch(np.tanh, (D,))
    np.testing.assert_array_equal(small.ask().images, whole.ask().images)
    assert sizes[-3:] == [3, 3, 2] and max(sizes) == 3


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_torch_decoders_get_tensors_of_their_type(dtype: str) -> None:
    given: list[torch.Tensor] = []

    def decode(latents: torch.Tensor) -> torch.Tensor:
        given.append(latents)
        return (latents.requires_grad_() * 0.5).bfloat16() if dtype == "float16" else latents * 0.5

    searched = LatentSearch(decode, (2, 3), device="cpu", dtype=dtype)
    images = searched.ask().images
    assert given[-1].dtype is getattr(torch, dtype) and images.shape == (8, 2, 3)
    np.testing.assert_allclose(images, searched.ask().latents / 2, rtol=1e-2 if dtype == "float16" else 1e-6)


def test_noise_of_an_oracle_is_given_scores_and_k() -> None:
    class Second:
        def rank(self, returns: np.ndarray, k: int, rng: np.random.Generator) -> Ranking:
            order = np.argsort(-returns)
            return Ranking.from_order([int(order[1]), *(int(i) for i in np.delete(order, 1)[: k - 1])], len(returns))

    images = np.array([[3.0], [9.0], [5.0], [1.0]])
    answer = ScoreOracle(lambda images: images[:, 0], Second())(images, 3)
    assert answer.tiers == ((2,), (1,), (0,)) and answer.unranked == (3,)
    assert ScoreOracle(lambda images: images[:, 0])(images, 2).tiers == ((1,), (2,))


def test_a_search_on_numpy_loads_no_torch() -> None:
    code = (
        "import sys, numpy, rlopt; from rlopt.agents.zo_ranksgd.latents.search import ScoreOracle\n"
        "rlopt.LatentSearch(numpy.tanh, (3,)).run(ScoreOracle(lambda x: x.sum(1)), 2)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert rlopt.LatentSearch is LatentSearch


def test_the_page_s_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parents[3] / "agents" / "zo_ranksgd" / "README.md").read_text()
    snippet = page.partition("## Latent search")[2].partition("```python\n")[2].partition("```")[0]
    exec(compile(snippet, "README.md", "exec"), {})
    assert "latent search, 15 rounds, N = 99 images" in capsys.readouterr().out
