"""A policy search that people answer: what they see is what is ranked, and a killed search loses nothing."""

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest
import sqlalchemy as sa

from rlopt.agents.zo_ranksgd.config import ZORankSGDConfig
from rlopt.agents.zo_ranksgd.policies import human
from rlopt.agents.zo_ranksgd.policies import saving as policy_saving
from rlopt.agents.zo_ranksgd.policies.human import ClipArtist, StudiedSearch
from rlopt.agents.zo_ranksgd.policies.search import RankedPolicySearch
from rlopt.agents.zo_ranksgd.policies.study_replay import optimizer_of
from rlopt.checkpoint.files import list_checkpoints, read_checkpoint
from rlopt.cli.main import main
from rlopt.envs.settings import EnvSettings
from rlopt.errors import StudyError
from rlopt.feedback import schema
from rlopt.feedback.ranking import Ranking
from rlopt.feedback.rounds import RaterSession, ShownRound
from rlopt.feedback.store import open_store
from rlopt.feedback.study import replay

FLAGS = ["--env", "CartPole-v1", "--m", "4", "--k", "3", "--line-search-points", "4", "--max-episode-steps", "25"]
FLAGS += ["--seed", "3", "--smoothing", "0.5", "--clip-size", "64", "--no-serve", "--parallel-rounds", "0"]
SMALL: dict[str, Any] = {"m": 4, "k": 3, "line_search_points": 4, "smoothing": 0.5, "seed": 3}
CART = EnvSettings("CartPole-v1", max_episode_steps=25, backend="gymnasium")


def judge(session: RaterSession, rater: int, shown: ShownRound, key: str) -> None:
    """Answers as an exact oracle does: by the returns, which no browser can see."""
    from ranking_study import values_of

    clips = [clip.id for clip in shown.clips]
    hidden = values_of(session.store, clips)  # of what is minimised
    answer = Ranking.from_values([hidden[clip] for clip in clips], shown.k)
    tiers = [[clips[index] for index in tier] for tier in answer.tiers]
    session.answer(rater, shown.id, key, tiers, [clips[index] for index in answer.unranked])


@contextmanager
def rater_at(folder: Path, stop_after: int | None = None) -> Iterator[list[str]]:
    """A rater in a thread, who waits for the study and answers its rounds; yields the rounds answered so far."""
    answered: list[str] = []
    over = threading.Event()

    def work() -> None:
        keys = (f"{os.urandom(4).hex()}-{number}" for number in itertools.count())
        session: RaterSession | None = None
        rater = 0
        while not over.is_set() and (stop_after is None or len(answered) < stop_after):
            time.sleep(0.05)
            try:
                if session is None:
                    store = open_store(folder)
                    session = RaterSession(store, store.study())
                    rater = store.add_rater(session.study, os.urandom(8).hex()).id
            except StudyError:
                continue
            shown = session.lease(rater)
            if shown is not None:
                judge(session, rater, shown, next(keys))
                answered.append(shown.id)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield answered
    finally:
        over.set()
        thread.join(30)


def exact(queries: int) -> RankedPolicySearch:
    return RankedPolicySearch("LinearPolicy", CART, **SMALL).learn(10**6, total_queries=queries)


def final(run: Path) -> dict[str, Any]:
    return dict(read_checkpoint(list_checkpoints(run / "checkpoints")[-1]).trees["agent"])


def assert_progress_of(tree: dict[str, Any], search: RankedPolicySearch) -> None:
    expected = policy_saving.progress_of(search)
    for name in ("num_timesteps", "num_episodes", "num_queries", "episodes", "log_values"):
        assert tree[name] == expected[name], name
    np.testing.assert_equal(tree["optimizer"]["arrays"], expected["optimizer"]["arrays"])
    np.testing.assert_equal(tree["normalizer"], expected["normalizer"])


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(human, "UNDO_SECONDS", 0.0)


def test_clips_show_the_episodes_that_are_ranked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = RankedPolicySearch("LinearPolicy", CART, **SMALL, episodes_per_candidate=2).learn(10**6, total_queries=2)
    studied = StudiedSearch(search)
    artist = ClipArtist(studied, CART, fps=25.0, size=64)
    query = studied.ask()
    rewards: list[float] = []
    env = artist.open()
    step_rows: Callable[..., Any] = env.step_rows

    def spy(rows: np.ndarray, actions: np.ndarray) -> Any:
        stepped = step_rows(rows, actions)
        rewards.append(float(stepped[1][0]))
        return stepped

    monkeypatch.setattr(env, "step_rows", spy)
    clips = artist(query, tmp_path)
    artist.close()
    played = studied.evaluation(query)
    assert len(rewards) == played.steps and sum(rewards) == played.episode_returns.sum()
    assert [clip.hidden_return for clip in clips] == played.returns.tolist()
    for clip, lengths, seeds in zip(clips, played.lengths, played.seeds, strict=True):
        assert clip.seeds == tuple(seeds) == tuple(played.seeds[0])
        # Of 50 steps a second every second one is drawn: the first image, steps 2, 4, .. and the last.
        # A clip of less than a second rests on its last image.
        drawn = sum(1 + (length + 1) // 2 for length in lengths.tolist())
        assert clip.frames == max(25, drawn) and clip.fps == 25
        film = imageio.imread(clip.path)
        assert film.shape == (clip.frames, clip.height, clip.width, 3) and max(film.shape[1:3]) == 64
        assert clip.poster.exists()


@pytest.mark.slow
def test_people_who_rank_by_the_return_lead_where_the_oracle_does(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with rater_at(run / "study") as answered:
        assert (
            main(["train", "zo_ranksgd", "--oracle", "human", "--total-queries", "5", "--run-dir", str(run), *FLAGS])
            == 0
        )
    assert len(answered) == 5
    assert_progress_of(final(run), exact(5))
    store = open_store(run / "study")
    study = store.study()
    with store.database.read() as connection:
        assert connection.execute(sa.select(schema.study.c.name, schema.study.c.finished)).all() == [("run", True)]
    fresh = StudiedSearch(RankedPolicySearch("LinearPolicy", CART, oracle="human", **SMALL))
    assert replay(store, study, fresh) == 5
    assert len(list_checkpoints(run / "checkpoints")) == 3  # of those written after every round, the newest are kept


@pytest.mark.slow
def test_a_killed_search_goes_on_from_its_study(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "rlopt.cli.main"]
    train = ["train", "zo_ranksgd", "--oracle", "human", "--total-queries", "4", "--run-dir", str(run), *FLAGS]
    trainer = subprocess.Popen([*command, *train], stdout=subprocess.DEVNULL)
    try:
        with rater_at(run / "study", stop_after=2) as answered:
            deadline = time.monotonic() + 120
            while len(answered) < 2 and time.monotonic() < deadline:
                time.sleep(0.02)
        assert len(answered) == 2
    finally:
        os.kill(trainer.pid, signal.SIGKILL)
        trainer.wait()
    with rater_at(run / "study") as answered:
        assert main(["resume", str(run)]) == 0
    assert len(answered) == 2
    assert_progress_of(final(run), exact(4))


def _signed_in(link: str) -> bool:
    """Whether the link's button sets the cookie of a session. The page behind it would take the round."""
    from http.client import HTTPConnection
    from urllib.parse import urlsplit

    parts = urlsplit(link)
    for _ in range(300):
        connection = HTTPConnection(str(parts.hostname), parts.port, timeout=30)
        try:
            origin = f"{parts.scheme}://{parts.netloc}"
            connection.request("POST", "/enter", parts.query, {"Origin": origin})
            response = connection.getresponse()
            return response.status in (302, 303, 307) and response.getheader("Set-Cookie") is not None
        except ConnectionRefusedError:
            time.sleep(0.1)
        finally:
            connection.close()
    raise AssertionError("the server does not answer")


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_the_server_is_started_beside_the_search_and_ends_with_it(killed: bool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = [flag for flag in FLAGS if flag != "--no-serve"]
    train = ["train", "zo_ranksgd", "--oracle", "human", "--run-dir", str(run), "--total-queries", "1", *flags]
    trainer = subprocess.Popen([sys.executable, "-m", "rlopt.cli.main", *train], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None
    try:
        link = next(line for line in trainer.stdout if line.startswith("http://127.0.0.1:")).strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{43}", link)
        assert _signed_in(link)
        if killed:
            trainer.kill()
        else:
            with rater_at(run / "study") as answered:
                assert trainer.wait(timeout=60) == 0
            assert len(answered) == 1
        # Its output ends when the server, which writes into it too, is gone.
        assert trainer.communicate(timeout=60)[0].count("http://") <= 1, "the owner's link alone may be left"
    finally:
        trainer.terminate()


@pytest.mark.slow
def test_browsers_hear_that_the_study_is_over_before_their_server_ends(tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = [flag for flag in FLAGS if flag != "--no-serve"]
    train = ["train", "zo_ranksgd", "--oracle", "human", "--run-dir", str(run), "--total-queries", "1", *flags]
    trainer = subprocess.Popen([sys.executable, "-m", "rlopt.cli.main", *train], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None
    try:
        link = next(line for line in trainer.stdout if line.startswith("http://127.0.0.1:")).strip()
        with rater_at(run / "study"):
            over = next(line for line in trainer.stdout if line.startswith("the study is over"))
        assert f"rlopt rank serve {run / 'study'} --name run" in over
        time.sleep(5)  # the longest pause of a page that waits
        assert _signed_in(link)
        assert trainer.wait(timeout=60) == 0
    finally:
        trainer.terminate()


def test_a_search_whose_server_cannot_start_does_not_wait_for_ever(tmp_path: Path) -> None:
    flags = [flag for flag in FLAGS if flag != "--no-serve"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        train = ["train", "zo_ranksgd", "--oracle", "human", "--run-dir", str(tmp_path / "run"), *flags]
        train += ["--port", str(taken.getsockname()[1])]
        done = subprocess.run(
            [sys.executable, "-m", "rlopt.cli.main", *train], capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 2
    assert "Address already in use" in done.stderr and "the server of the study has ended" in done.stderr
    assert "Fatal Python error" not in done.stderr and "Traceback" not in done.stderr


def test_the_state_of_a_study_is_checked() -> None:
    studied = StudiedSearch(exact(3))
    state, arrays = studied.state_dict()
    other = StudiedSearch(RankedPolicySearch("LinearPolicy", CART, **SMALL))
    other.load_state_dict(state, arrays)
    assert other.digest() == studied.digest() and np.array_equal(other.point, studied.point)
    assert not np.array_equal(exact(1).point, studied.point) or studied.search.num_queries == 3
    changed = {**arrays, "observations.mean": arrays["observations.mean"] + 1e-9}
    other.load_state_dict(state, changed)
    assert other.digest() != studied.digest()
    with pytest.raises(ValueError, match="do not fit"):
        other.load_state_dict(state, {**arrays, "observations.mean": np.zeros(7)})


@pytest.mark.slow
def test_rounds_ahead_are_answered_and_a_killed_search_goes_on_with_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ["train", "zo_ranksgd", "--oracle", "human", *FLAGS[:-1], "2", "--run-dir", str(run)]
    with rater_at(run / "study") as answered:
        process = subprocess.Popen([sys.executable, "-m", "rlopt", *flags, "--total-queries", "12"])
        deadline = time.monotonic() + 120
        while len(answered) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
        process.wait()
        assert main(["resume", str(run)]) == 0
    store = open_store(run / "study")
    study = store.study()
    optimizer, part = optimizer_of(store, study)
    assert replay(store, study, optimizer, part) == 12
    assert final(run)["num_queries"] == 12 and len(set(answered)) == len(answered)
    with store.database.read() as connection:
        largest = connection.execute(sa.text("SELECT max(m) FROM round")).scalar_one()
    assert final(run)["num_episodes"] <= 12 * largest
    store.close()


def test_a_study_keeps_how_many_rounds_it_has_at_a_time(tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ["train", "zo_ranksgd", "--oracle", "human", *FLAGS[:-2]]
    with rater_at(run / "study"):
        assert main([*flags, "--parallel-rounds", "0", "--total-queries", "2", "--run-dir", str(run)]) == 0
    place = ["--database", str(run / "study"), "--study", "run"]
    from rlopt.settings.run import RunConfig

    for wanted, found in ((None, 0), (0, 0)):
        config = ZORankSGDConfig(oracle="human", database=place[1], study="run", parallel_rounds=wanted, m=4, k=3)
        assert human.HumanPolicySearch.of_run(RunConfig(env="CartPole-v1"), config, CART)._parallel == found
    assert main([*flags, "--parallel-rounds", "2", *place, "--run-dir", str(tmp_path / "other")]) == 2
