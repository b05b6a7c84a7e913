"""Fragments on film, and questions about them that people answer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rlopt.cli.main import run_verb
from rlopt.envs.settings import EnvSettings
from rlopt.errors import AnswerError, CheckpointError, ConfigError, DataError, StudyError
from rlopt.feedback.ranking import Ranking
from rlopt.preferences import Fragments, PreferenceConfig, load_preferences
from rlopt.preferences.people import Film, FragmentQuestions, film_fragments
from rlopt.storage.json import dump_json, parse_json
from tests.helpers.ranking_person import person_who_answers

CONFIG = PreferenceConfig(teacher="none", fragment_length=8, fit_steps=3, reward_net_arch=(8,), candidates=4)
SPACES = spaces.Box(-1, 1, (3,)), spaces.Box(-2, 2, (1,))


def questions(seed: int = 0) -> FragmentQuestions:
    rng = np.random.default_rng(5)
    observations = rng.normal(size=(10, 8, 3)).astype(np.float32)
    known, unknown = np.zeros((10, 8), np.float32), np.full(10, -1)
    fragments = Fragments(
        observations, rng.uniform(-2, 2, (10, 8, 1)).astype(np.float32), np.full(10, 8), known,
        observations[:, -1], unknown, unknown,
    )  # fmt: skip
    return FragmentQuestions(Film(fragments, []), CONFIG, *SPACES, seed=seed)


def test_questions_depend_on_the_answers_alone() -> None:
    first, second = questions(), questions()
    for number in range(4):
        older, newer = first.ask()
        assert (older.iteration, newer.iteration) == (number, number + 1) and len(set(older.candidates[:, 0])) == 2
        assert {*older.candidates[:, 0]} != {*newer.candidates[:, 0]}
        first.tell({number: [Ranking(((number % 2,), (1 - number % 2,)))]})
        again: Any = parse_json(dump_json(first.state_dict()[0]))
        second.load_state_dict(again, {})
        assert second.digest() == first.digest()
        for one, other in zip(first.ask(), second.ask(), strict=True):
            np.testing.assert_array_equal(one.candidates, other.candidates)
    assert len(first.preferences()) == 4
    first.tell({5: [Ranking((), abstain=True), Ranking(((0, 1),))]})  # the newer of two: late answers count
    assert len(first.preferences()) == 5
    first.tell({4: [Ranking(((0,), (1,))), Ranking(((1,), (0,)))]}, {4: [0.1, 1.0]})
    assert len(first.preferences()) == 6, "of someone who answers at random"
    for wrong in ({99: [Ranking(((0, 1),))]}, {}, {6: [Ranking(((0, 1),))], 7: [Ranking(((0, 1),))]}):
        first.ask()
        with pytest.raises(AnswerError, match="not a question that waits"):
            first.tell(wrong)
    malformed = {"tiers": [[0], [0]], "unranked": [], "abstain": False}
    with pytest.raises(CheckpointError, match="malformed"):
        second.load_state_dict({"answers": [[[0, 1], [malformed]]], "waiting": [], "drawn": 1}, {})


def test_filmed_fragments_are_those_that_were_played(tmp_path: Path) -> None:
    settings = EnvSettings(id="Pendulum-v1", max_episode_steps=20)
    film = film_fragments(settings, None, 3, 8, tmp_path, seed=1)
    fragments = film.fragments
    # Of 20 steps the last four are too few: the third fragment is of the next episode.
    assert fragments.episodes.tolist() == [0, 0, 1] and fragments.starts.tolist() == [0, 8, 0]
    np.testing.assert_array_equal(fragments.observations[1, 0], fragments.last_observations[0])
    assert all(clip.path.is_file() for clip in film.clips) and (fragments.rewards < 0).any()
    film.save(tmp_path)
    again = Film.load(tmp_path)
    assert again.clips == film.clips
    np.testing.assert_array_equal(again.fragments.observations, fragments.observations)
    film.clips[0].path.unlink()
    with pytest.raises(DataError, match="lacks clips"):
        Film.load(tmp_path)
    with pytest.raises(ConfigError, match="cannot be made"):
        film_fragments(settings, None, 1, 8, film.clips[1].path / "below", seed=1)
    with pytest.raises(ConfigError, match="shorter than fragment_length = 30"):
        film_fragments(settings, None, 1, 30, tmp_path / "other", seed=1)


def test_people_answer_and_a_model_is_fitted_to_what_they_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, study = tmp_path / "prefs", tmp_path / "prefs.study"
    assert run_verb(["preferences", "new", str(folder), "--fragment-length", "8", "--fit-steps", "3"]) == 0
    command = ["preferences", "ask", str(folder), "--env", "Pendulum-v1", "--fragments", "4", "--no-serve"]
    with person_who_answers(study, lambda path: float(path.stat().st_size)):
        assert run_verb([*command, "--questions", "1"]) == 0
    assert len(load_preferences(folder).preferences or ()) == 1
    with person_who_answers(study, lambda path: float(path.stat().st_size)):
        assert run_verb([*command, "--questions", "2"]) == 0  # it goes on with the same film
    with pytest.raises(StudyError, match="has parallel_rounds=1, not 2"):
        run_verb([*command, "--questions", "3", "--parallel-rounds", "2"])
    there = load_preferences(folder)
    assert len(there.preferences or ()) == 2 and there.config.teacher == "none"
    assert run_verb(["preferences", "fit", str(folder), "--env", "Pendulum-v1"]) == 0
    assert "2 answers, too few to hold any out" in capsys.readouterr().out
