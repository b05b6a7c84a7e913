"""Parts of ranking studies that need no server: agreement, clips, the notebook's answers."""

import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest
from ranking_study import objective, optimizer, render, told_exactly

from rlopt.errors import AnswerError, ConfigError
from rlopt.feedback.agreement import agreement, each_rater, places
from rlopt.feedback.clips import Clip, write_clip, write_image
from rlopt.feedback.notebook import NotebookOracle, parse_answer
from rlopt.feedback.ranking import Ranking


def test_places() -> None:
    np.testing.assert_array_equal(places([[2], [0, 3]], [1]), [1, 2, 0, 1])
    np.testing.assert_array_equal(places([[1], [0]], []), [1, 0])


def test_each_rater_beside_the_others_by_hand() -> None:
    """Ada and Grace differ in one of three pairs, Joan agrees with Grace, and Mary was alone."""
    ada, grace = ([[0], [1], [2]], []), ([[1], [0], [2]], [])
    found = each_rater([{1: ada, 2: grace}, {2: grace, 3: grace}, {1: ada}, {4: ada}])
    assert {rater: each.rounds for rater, each in found.items()} == {1: 2, 2: 2, 3: 1, 4: 1}
    assert [found[rater].pairwise for rater in (1, 2, 3, 4)] == [2 / 3, 5 / 6, 1.0, None]
    assert each_rater([]) == {}


def test_agreement_by_hand() -> None:
    full = ([[0], [1], [2]], [])
    swapped = ([[1], [0], [2]], [])
    told = agreement([[full, swapped]], raters=2)
    # Of the pairs 01, 02, 12 only 01 is turned around: 2 of 3 agree, tau = (2 - 1) / 3.
    assert (told.rounds, told.raters, told.pairwise) == (1, 2, 2 / 3) and told.kendall_tau == pytest.approx(1 / 3)
    reverse = ([[2], [1], [0]], [])
    assert (
        agreement([[full, reverse]], 2).kendall_tau == pytest.approx(-1)
        and agreement([[full, reverse]], 2).pairwise == 0
    )
    three = agreement([[full, full, swapped]], 3)
    assert three.pairwise == pytest.approx((3 + 2 + 2) / 9) and three.kendall_tau == pytest.approx(
        (1 + 1 / 3 + 1 / 3) / 3
    )
    tied = ([[0, 1, 2]], [])
    assert agreement([[full, tied]], 2).pairwise is None and agreement([[full, tied]], 2).kendall_tau is None
    assert agreement([[full], [swapped]], 2) == agreement([], 2).__class__(0, 2, None, None, None)
    # Top one against a full order: the pairs 01 and 02 are in both; tau-b = 2 / sqrt(3 * 2).
    top = agreement([[full, ([[0]], [1, 2])]], 2)
    assert top.pairwise == 1 and top.kendall_tau == pytest.approx(2 / math.sqrt(6))


def test_kendalls_tau_is_scipys() -> None:
    from scipy.stats import kendalltau

    rng = np.random.default_rng(3)
    for _ in range(20):
        levels = [rng.integers(0, 3, 6) for _ in range(2)]
        answers = [([list(np.flatnonzero(level == value)) for value in np.unique(level)], []) for level in levels]
        expected = kendalltau(*levels).statistic
        found = agreement([answers], 2).kendall_tau
        assert (found is None and np.isnan(expected)) or found == pytest.approx(expected)


def test_videos_have_even_sides_all_frames_and_a_poster(tmp_path: Path) -> None:
    images = np.zeros((17, 33, 47, 3), np.uint8)
    images[:, :, 20:] = (200, 30, 60)
    clip = write_clip(tmp_path / "a.mp4", images, 15, seeds=(3, 4), hidden_return=-1.5)
    assert clip == Clip(tmp_path / "a.mp4", tmp_path / "a.jpg", 15.0, 17, 48, 34, (3, 4), -1.5)
    frames = imageio.imread(clip.path, plugin="FFMPEG")
    assert frames.shape == (17, 34, 48, 3)
    assert np.abs(frames[0, 33, 47].astype(int) - (200, 30, 60)).max() < 25, "the last line is repeated"
    poster = imageio.imread(clip.poster)
    assert poster.shape == (34, 48, 3) and np.abs(poster[5, 40].astype(int) - (200, 30, 60)).max() < 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "a.mp4"]


def test_a_flash_lasts_a_second_and_its_poster_tells_it_from_others(tmp_path: Path) -> None:
    """Two clips begin alike; one comes back to where it began. The poster is the image farthest from the first."""
    images = np.full((5, 32, 48, 3), 20, np.uint8)
    images[2, :, 8:16], images[4, :, 24:40] = 250, 250
    returns = np.concatenate([images[:4], images[:1]])
    for name, drawn, bright, last in (("goes", images, 30, 30), ("returns", returns, 12, None)):
        clip = write_clip(tmp_path / f"{name}.mp4", drawn, 30)
        frames = imageio.imread(clip.path, plugin="FFMPEG")
        assert clip.frames == len(frames) == 30, "a second"
        assert frames[5:, 16, 44].max() < 60 and (frames[5:, 16, 30].min() > 200) == (last is not None)
        poster = imageio.imread(clip.poster)
        assert poster[16, bright].min() > 200 and poster[16, 44].max() < 60


def test_what_is_no_clip_is_refused(tmp_path: Path) -> None:
    good = np.zeros((2, 8, 8, 3), np.uint8)
    for path, images, fps, said in (
        ("a.gif", good, 15, ".mp4"),
        ("a.mp4", good, 0, "per second"),
        ("a.mp4", good.astype(float), 15, "uint8"),
        ("a.mp4", good[..., 0], 15, "uint8"),
        ("a.mp4", [good[0], good[0, :4]], 15, "change from"),
        ("a.mp4", [], 15, "no images"),
    ):
        with pytest.raises(ConfigError, match=said):
            write_clip(tmp_path / path, images, fps)
    with pytest.raises(ConfigError, match=r"\.png or \.jpg"):
        write_image(tmp_path / "a.bmp", good[0])
    assert not list(tmp_path.iterdir())
    grey = write_image(tmp_path / "grey.png", np.full((5, 7), 9, np.uint8))
    assert (grey.width, grey.height, grey.frames, grey.poster) == (7, 5, 1, grey.path)
    np.testing.assert_array_equal(imageio.imread(grey.path), np.full((5, 7, 3), 9))


def test_typed_answers() -> None:
    display = [2, 0, 3, 1]  # number 1 shows candidate 2, ...
    assert parse_answer("3 1=4 2", display) == Ranking(((3,), (2, 1), (0,)), ())
    for same in (" 3,1 = 4, 2 ", "3>1=4>2", "3 1=4  2"):
        assert parse_answer(same, display) == parse_answer("3 1=4 2", display)
    assert parse_answer("2", display) == Ranking(((0,),), (2, 3, 1))
    assert parse_answer("skip", display).abstain and parse_answer(" ? ", display).abstain
    for wrong, said in (
        ("", "at least the best"), ("5", "no clip 5"), ("0", "no clip 0"), ("1 1", "twice"), ("1=1", "twice"),
        ("best", "not a place"), ("1=", "not a place"), ("1-2", "not a place"), ("²", "not a place"),
        ("1 " * 5000 + "x", "twice"),
    ):  # fmt: skip
        with pytest.raises(AnswerError, match=said):
            parse_answer(wrong, display)


def test_the_notebook_oracle_is_asked_like_a_person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who types the order of the shown returns leads where an exact oracle does, whatever is shown first."""
    shown: dict[int, Clip] = {}
    orders = []

    def typed(question: str) -> str:
        values = {number: -float(clip.hidden_return or 0.0) for number, clip in shown.items()}
        orders.append(tuple(clip.seeds[0] for _, clip in sorted(shown.items())))
        return "nonsense" if len(orders) == 1 else " ".join(str(n) for n in sorted(values, key=values.__getitem__))

    search = optimizer()
    oracle = NotebookOracle(render, tmp_path, ask=typed, show=shown.__setitem__, seed=1)
    for _ in range(6):
        query = search.ask()
        answer = oracle(query)
        # Its person orders all clips; the exact oracle names the k best.
        search.tell(Ranking.from_order([tier[0] for tier in answer.tiers][: query.k], len(query.candidates)))
    assert search.digest() == told_exactly(6).digest()
    assert len(set(orders)) > 2 and orders[0] == orders[1], "asked again about the same order"
    assert "not a place" in capsys.readouterr().out


def test_clips_are_shown_inline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython.display

    seen: list[Any] = []
    monkeypatch.setattr(IPython.display, "display", lambda *parts: seen.append(parts))
    film = write_clip(tmp_path / "a.mp4", np.zeros((2, 8, 8, 3), np.uint8), 15)
    still = write_image(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    oracle = NotebookOracle(lambda query, folder: [film, still], ask=lambda question: "2 1", seed=0)
    query = optimizer(m=2, k=2).ask()
    assert sorted(itertools.chain(*oracle(query).tiers)) == [0, 1]
    kinds = {type(parts[1]).__name__ for parts in seen}
    assert kinds == {"Video", "Image"} and [parts[0].data for parts in seen] == [
        "<strong>1</strong>",
        "<strong>2</strong>",
    ]
    assert any("video" in parts[1]._repr_html_() for parts in seen if type(parts[1]).__name__ == "Video")


def test_the_trainers_side_needs_neither_torch_nor_a_server() -> None:
    code = (
        "import sys, rlopt.feedback.study, rlopt.feedback.notebook\n"
        "wrong = {'torch', 'fastapi', 'uvicorn', 'IPython', 'gymnasium', 'stable_baselines3'} & set(sys.modules)\n"
        "assert not wrong, wrong"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert objective(np.zeros((1, 3))).shape == (1,)
