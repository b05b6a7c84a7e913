"""The trainer of a study: every round is durable, and what is restarted goes on bit for bit."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranking_study
import sqlalchemy as sa
from ranking_study import answer_all, make_study, optimizer, render, told_exactly

from rlopt.agents.zo_ranksgd.parallel import ParallelSearch
from rlopt.errors import ConfigError, StudyError
from rlopt.feedback import schema
from rlopt.feedback.clips import Clip
from rlopt.feedback.results import point_clip, study_rounds
from rlopt.feedback.rounds import RaterSession
from rlopt.feedback.store import StudyStore
from rlopt.feedback.study import HumanStudy, replay


def ranked(study: HumanStudy, rounds: int, raters: list[int]) -> None:
    """Steps a study while exact people answer."""
    study.deadline_seconds = 0.0
    for _ in range(rounds):
        assert study.step() is None, "nobody has answered yet"
        answer_all(study, raters, f"round {study.iteration}")
        assert study.step() is not None


def test_people_who_rank_exactly_lead_where_an_exact_oracle_does(store: StudyStore) -> None:
    study = make_study(store)
    ranked(study, 12, [store.add_rater(study.study, "s").id])
    expected = told_exactly(12)
    assert study.optimizer.digest() == expected.digest() and study.iteration == 12
    assert np.linalg.norm(study.optimizer.point - ranking_study.TARGET) < 0.5 * np.linalg.norm(ranking_study.TARGET)
    assert replay(store, study.study, optimizer()) == 12


def test_several_people_are_told_together(store: StudyStore) -> None:
    study = make_study(store, annotators=3)
    ranked(study, 4, [store.add_rater(study.study, name).id for name in "abc"])
    assert study.optimizer.digest() == told_exactly(4, annotators=3).digest()
    assert [row["answers"] for row in study_rounds(store, study.study)] == [3] * 4


def test_a_new_process_goes_on_where_the_last_round_was_consumed(store: StudyStore) -> None:
    raters: list[int] = []
    for part in range(3):
        study = make_study(store)
        raters = raters or [store.add_rater(study.study, "s").id]
        assert study.iteration == 3 * part
        ranked(study, 3, raters)
        assert study.step() is None, "a round stays open; the next process finds it"
    assert study.optimizer.digest() != told_exactly(9).digest(), "the tenth query is asked"
    assert make_study(store).optimizer.digest() == told_exactly(9).digest()
    with store.database.read() as connection:
        statuses = list(connection.execute(sa.select(schema.round_.c.status)).scalars())
    assert statuses.count("consumed") == 9 and statuses.count("open") == 1 and len(statuses) == 10


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*arguments: Any, **settings: Any) -> Any:
        raise error

    return fail


def test_a_death_while_drawing_leaves_a_void_round_and_no_files(store: StudyStore) -> None:
    drawn: list[Path] = []

    def dying(query: Any, folder: Path) -> list[Clip]:
        drawn.append(folder)
        render(query, folder)
        raise KeyboardInterrupt

    study = make_study(store, deadline_seconds=0.0)
    study.render = dying
    with pytest.raises(KeyboardInterrupt):
        study.step()
    again = make_study(store, deadline_seconds=0.0)
    rater = store.add_rater(again.study, "s").id
    assert RaterSession(store, again.study).lease(rater) is None, "a round without clips is shown to nobody"
    ranked(again, 1, [rater])
    assert again.optimizer.digest() == told_exactly(1).digest()
    with store.database.read() as connection:
        assert list(connection.execute(sa.select(schema.round_.c.status).order_by(schema.round_.c.id)).scalars()) == [
            "void",
            "consumed",
        ]
    assert not drawn[0].exists()


@pytest.mark.parametrize("where", ["tell", "state_dict", "commit"])
def test_a_death_while_consuming_changes_nothing(
    store: StudyStore, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(store, deadline_seconds=0.0)
    rater = store.add_rater(study.study, "s").id
    ranked(study, 2, [rater])
    assert study.step() is None
    answer_all(study, [rater], "the third")
    with monkeypatch.context() as patch:
        if where == "commit":
            patch.setattr("rlopt.feedback.trainer.TrainerSession._keep", raising(OSError("the disk is full")))
        else:
            patch.setattr(study.optimizer, where, raising(OSError("the disk is full")))
        with pytest.raises(OSError, match="disk is full"):
            study.step()
    assert study.optimizer.digest() == told_exactly(2).digest(), "the optimiser is as before"
    assert study.step() is not None, "the answer is still there"
    assert study.optimizer.digest() == told_exactly(3).digest()


def test_what_a_round_shows_is_flushed_once_with_the_folders_that_lead_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, flushed, fsync = make_study(tmp_path, deadline_seconds=0.0), [], os.fsync

    def counted(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    assert study.step() is None
    root = study.store.media_root
    clips = [path for path in root.rglob("*.png") if path.parent.name.startswith("round")]
    assert len(clips) == 4 and all(flushed.count(clip.stat().st_ino) == 1 for clip in clips)
    assert {clips[0].parent.stat().st_ino, clips[0].parents[1].stat().st_ino, root.stat().st_ino} <= set(flushed)


def test_the_process_that_came_last_trains(store: StudyStore) -> None:
    first = make_study(store, deadline_seconds=0.0)
    rater = store.add_rater(first.study, "s").id
    assert first.step() is None
    second = make_study(store, deadline_seconds=0.0)
    answer_all(second, [rater], "a")
    with pytest.raises(StudyError, match="another process trains study 'grey' now"):
        first.step()
    assert second.step() is not None and second.optimizer.digest() == told_exactly(1).digest()
    assert replay(store, second.study, optimizer()) == 1


def test_other_optimisers_and_settings_are_refused(store: StudyStore) -> None:
    make_study(store, deadline_seconds=0.0).step()
    with pytest.raises(StudyError, match="annotators=1, not 2"):
        make_study(store, annotators=2)
    with pytest.raises(StudyError, match="media=image, not video"):
        make_study(store, media="video")
    with pytest.raises(Exception, match="m=4, this search has 5"):
        make_study(store, search=optimizer(m=5, k=4))

    class Other(type(optimizer())):  # type: ignore[misc]
        """Another class."""

    other = Other(np.zeros(3), m=4, k=4, line_search_points=4)
    with pytest.raises(StudyError, match="is of ZORankSGD, not Other"):
        make_study(store, search=other)
    for wrong in ({"poll_seconds": 0.0}, {"undo_seconds": -1.0}):
        with pytest.raises(ConfigError):
            make_study(store, "another", **wrong)
    for name, settings in (("", {}), ("a\nb", {}), ("annotators", {"annotators": 0}), ("media", {"media": "sound"})):
        with pytest.raises((StudyError, ValueError)):
            make_study(store, name, **settings)
    assert [study.name for study in store.studies()] == ["grey"], "nothing of them is left"


def test_renderers_that_draw_elsewhere_or_too_little_are_refused(store: StudyStore, tmp_path: Path) -> None:
    def few(query: Any, folder: Path) -> list[Clip]:
        return render(query, folder)[1:]

    def elsewhere(query: Any, folder: Path) -> list[Clip]:
        return render(query, tmp_path / "elsewhere")

    def linked(query: Any, folder: Path) -> list[Clip]:
        clips = render(query, folder)
        target = tmp_path / "secret.png"
        clips[0].path.rename(target)
        clips[0].path.symlink_to(target)
        return clips

    for wrong, said in ((few, "3 clips of 4"), (elsewhere, "outside the study's folder"), (linked, "cannot be read")):
        study = make_study(store, deadline_seconds=0.0)
        study.render = wrong
        with pytest.raises(StudyError, match=said):
            study.step()
    ranked(study := make_study(store), 1, [store.add_rater(study.study, "s").id])


def test_the_clips_of_the_start_and_of_now_are_kept(store: StudyStore) -> None:
    study = make_study(store)
    raters = [store.add_rater(study.study, "s").id]
    ranked(study, 6, raters)
    start, now = (point_clip(store, study.study, which) for which in ("start", "now"))
    assert start is not None and now is not None
    with store.database.read() as connection:
        returns = dict(connection.execute(sa.select(schema.clip.c.media_id, schema.clip.c.hidden_return)).all())
    assert returns[start.media_id] == pytest.approx(-ranking_study.objective(np.zeros(3)))
    assert returns[now.media_id] == pytest.approx(-ranking_study.objective(study.optimizer.point))
    rows = study_rounds(store, study.study)
    assert [row["kind"] for row in rows] == ["gradient", "line_search"] * 3
    assert rows[-1]["distance_from_start"] == pytest.approx(np.linalg.norm(study.optimizer.point))
    assert any(row["step_norm"] > 0 for row in rows) and not any(row["stayed"] for row in rows[::2])


def test_without_line_search_the_end_is_drawn(store: StudyStore) -> None:
    from rlopt.agents.zo_ranksgd.optimizer import ZORankSGD

    search = ZORankSGD(np.zeros(3), m=4, k=4, line_search_points=0, learning_rate=0.1, seed=7)
    study = make_study(store, search=search)
    ranked(study, 2, [store.add_rater(study.study, "s").id])
    assert point_clip(store, study.study, "now") is None, "no candidate was ever the point itself"
    study.finish()
    assert point_clip(store, study.study, "start") is not None
    assert point_clip(store, study.study, "now") is not None


@pytest.mark.parametrize("damage", ["answer", "state", "candidates", "round"])
def test_a_replay_finds_what_was_changed_afterwards(store: StudyStore, damage: str) -> None:
    from rlopt.feedback.trainer import pack

    study = make_study(store)
    ranked(study, 4, [store.add_rater(study.study, "s").id])
    assert replay(store, study.study, optimizer()) == 4
    second = schema.round_.c.iteration == 1
    with store.database.write() as connection:
        round_id = connection.execute(sa.select(schema.round_.c.id).where(second)).scalar_one()
        if damage == "answer":
            values = {"tiers": "[[3],[2],[1],[0]]", "unranked": "[]"}
            changed = sa.update(schema.answer).where(schema.answer.c.round_id == round_id).values(**values)
        elif damage == "state":
            changed = sa.update(schema.round_).where(second).values(digest_after="0" * 64)
        elif damage == "candidates":
            changed = sa.update(schema.round_).where(second).values(params=pack({"candidates": np.zeros((4, 3))}))
        else:
            changed = sa.update(schema.round_).where(second).values(status="void")
        connection.execute(changed)
    with pytest.raises(StudyError, match=r"round [12] of study 'grey'"):
        replay(store, study.study, optimizer())


def test_a_damaged_state_is_told(store: StudyStore) -> None:
    study = make_study(store)
    with store.database.write() as connection:
        connection.execute(sa.update(schema.optimizer_state).values(arrays=b"no safetensors"))
    with pytest.raises(StudyError, match="damaged"):
        make_study(store)
    with store.database.write() as connection:
        connection.execute(sa.delete(schema.optimizer_state))
    with pytest.raises(StudyError, match="no such state"):
        make_study(store)
    assert study.iteration == 0


def parallel(rounds: int = 1, ahead: int = 3) -> ParallelSearch:
    return ParallelSearch(optimizer(), rounds, ahead)


def answer_one(study: HumanStudy, rater: int, key: str) -> str:
    """The rater ranks the round that is given out; returns its id."""
    session = RaterSession(study.store, study.study)
    shown = session.lease(rater)
    assert shown is not None
    values = ranking_study.values_of(study.store, [clip.id for clip in shown.clips])
    tiers, unranked = ranking_study.order_by_value(values, shown.k)
    session.answer(rater, shown.id, key, tiers, unranked)
    return shown.id


@pytest.mark.parametrize("restarted", [False, True])
def test_rounds_wait_ahead_and_several_raters_have_clips_of_their_own(store: StudyStore, restarted: bool) -> None:
    study = make_study(store, search=parallel(), deadline_seconds=0.0)
    raters = [store.add_rater(study.study, name).id for name in "abc"]
    for number in range(9):
        assert study.step() is None
        session = RaterSession(store, study.study)
        shown = {session.lease(rater).id for rater in raters}  # type: ignore[union-attr]
        assert len(shown) == 3, "each has a round of its own"
        answer_one(study, raters[number % 3], f"{number}")
        assert session.lease(raters[number % 3]) is not None, "nobody waits for clips"
        if restarted:
            study = make_study(store, search=parallel(), deadline_seconds=0.0)
        assert study.step() is not None
    assert study.iteration == 9 and replay(store, study.study, parallel()) == 9
    with store.database.read() as connection:
        used = connection.execute(sa.select(schema.round_.c.step).where(schema.round_.c.status == "consumed"))
        assert sorted(used.scalars()) == list(range(9))
    study.finish()
    with store.database.read() as connection:
        left = connection.execute(sa.select(schema.round_.c.status).where(schema.round_.c.status != "consumed"))
        assert set(left.scalars()) == {"void"}, "nobody is asked after the end"


def test_an_update_takes_several_rounds_or_none(store: StudyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_study(store, search=parallel(2, 1), deadline_seconds=0.0)
    rater = store.add_rater(study.study, "s").id
    assert study.step() is None
    answer_one(study, rater, "a")
    assert study.step() is None and study.iteration == 0, "one of two"
    answer_one(study, rater, "b")
    before = study.optimizer.digest()
    with monkeypatch.context() as patch:
        patch.setattr("rlopt.feedback.trainer.TrainerSession._keep", raising(OSError("the disk is full")))
        with pytest.raises(OSError, match="disk is full"):
            study.step()
    assert study.optimizer.digest() == before
    answered = study.step()
    assert answered is not None and [query.iteration for query in answered] == [0, 1]
    RaterSession(store, study.study).lease(rater)
    answer_one(study, rater, "c")
    RaterSession(store, study.study).undo(rater)
    assert study.step() is None, "an answer that was taken back is not used"
    assert [row["answers"] for row in study_rounds(store, study.study)] == [1, 1]
    assert replay(store, study.study, parallel(2, 1)) == 2


def test_a_database_of_an_earlier_version_goes_on(store: StudyStore) -> None:
    study = make_study(store)
    rater = store.add_rater(study.study, "s").id
    ranked(study, 2, [rater])
    with store.database.write() as connection:
        for table, names in schema.ADDED.items():
            for name in names:
                connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN {name}")
        connection.exec_driver_sql("DROP INDEX assignments_of_rater")
    url = store.database.url
    store.close()
    again = StudyStore(url, media=store.media_root, create=False)
    assert sa.inspect(again.database.engine).has_index("assignment", "assignments_of_rater")
    study = make_study(again)
    assert study.iteration == 2
    ranked(study, 2, [rater])
    assert study.optimizer.digest() == told_exactly(4).digest()
    assert replay(again, study.study, optimizer()) == 4
    again.close()
