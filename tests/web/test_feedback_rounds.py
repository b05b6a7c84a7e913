"""The state machine of rounds, on SQLite and on Postgres: leases, answers, undo, consumption."""

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import sqlalchemy as sa
from ranking_study import make_study, objective, optimizer, order_by_value, values_of

from rlopt.errors import AnswerError, StudyError
from rlopt.feedback import schema
from rlopt.feedback.results import progress
from rlopt.feedback.rounds import LONGEST_HOLD, LeaseError, RaterSession, ShownRound
from rlopt.feedback.store import StudyStore, insert
from rlopt.feedback.study import HumanStudy
from rlopt.feedback.trainer import standing_answers


class Clock:
    """Time that stands still until it is moved."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(store: StudyStore) -> Clock:
    store.clock = clock = Clock()
    return clock


def opened(
    store: StudyStore, annotators: int = 1, **settings: object
) -> tuple[HumanStudy, RaterSession, Callable[[], int]]:
    """A study whose first round is open, its session, and what makes a new rater."""
    study = make_study(store, annotators=annotators, deadline_seconds=0.0, **settings)
    assert study.step() is None
    sessions = itertools.count()
    return study, RaterSession(store, study.study), lambda: store.add_rater(study.study, f"session {next(sessions)}").id


def ids(shown: ShownRound | None) -> list[str]:
    assert shown is not None
    return [clip.id for clip in shown.clips]


def status(store: StudyStore) -> list[str]:
    with store.database.read() as connection:
        return list(connection.execute(sa.select(schema.round_.c.status).order_by(schema.round_.c.id)).scalars())


def test_a_rater_gets_the_same_round_again_in_the_same_order(store: StudyStore) -> None:
    _, session, rater = opened(store)
    one = rater()
    first = session.lease(one)
    assert first is not None and first.kind == "gradient" and first.k == 4 and len(set(ids(first))) == 4
    assert session.lease(one) == first
    assert session.lease(rater()) is None, "the only place is taken"


def test_every_rater_sees_an_order_of_their_own(store: StudyStore) -> None:
    _study, session, rater = opened(store, annotators=40)
    orders = [tuple(ids(session.lease(rater()))) for _ in range(40)]
    assert len({frozenset(order) for order in orders}) == 1
    # 24 orders of 4 clips: 40 raters see at least 12 of them but for one time in 10^7.
    assert len(set(orders)) >= 12
    firsts = Counter(order[0] for order in orders)
    assert len(firsts) == 4, f"every clip is somewhere the first: {firsts}"
    with store.database.read() as connection:
        stored = connection.execute(sa.select(schema.assignment.c.display)).scalars().all()
        slots = dict(connection.execute(sa.select(schema.candidate.c.public_id, schema.candidate.c.slot)).all())
    assert sorted(json.loads(display) for display in stored) == sorted([slots[i] for i in order] for order in orders)


def test_answers_reach_the_candidates_whatever_order_they_were_seen_in(store: StudyStore) -> None:
    """The released code took the places on the screen for candidates in one of its two modes."""
    annotators = 6
    study, session, rater = opened(store, annotators=annotators)
    seen = set()
    for number in range(annotators):
        one = rater()
        shown = session.lease(one)
        seen.add(tuple(ids(shown)))
        tiers, unranked = order_by_value(values_of(store, ids(shown)), 4)
        assert shown is not None
        session.answer(one, shown.id, f"key {number}", tiers, unranked)
    assert len(seen) > 1
    right = tuple((int(i),) for i in np.argsort(objective(study.optimizer.ask().candidates)))
    with store.database.read() as connection:
        round_id = connection.execute(sa.select(schema.round_.c.id)).scalar_one()
        given = standing_answers(connection, round_id)
    assert [answer.tiers for answer in given] == [right] * annotators


def test_an_answer_is_stored_once_however_often_it_is_sent(store: StudyStore) -> None:
    _, session, rater = opened(store)
    one = rater()
    shown = session.lease(one)
    assert shown is not None
    order = [[clip] for clip in ids(shown)]
    assert session.answer(one, shown.id, "a", order) == 1
    assert session.answer(one, shown.id, "a", order[::-1]) == 1, "the key decides"
    assert status(store) == ["answered"]
    assert session.answer(one, shown.id, "b", order[::-1]) == 2, "a new key replaces it"
    with store.database.read() as connection:
        rows = connection.execute(sa.select(schema.answer).order_by(schema.answer.c.revision)).mappings().all()
    assert [row["withdrawn_at"] is None for row in rows] == [False, True]
    assert json.loads(rows[0]["tiers"]) == json.loads(rows[1]["tiers"])[::-1]
    assert session.answer(one, shown.id, "a", order) == 1, "an old request that comes late changes nothing"
    with pytest.raises(LeaseError, match="no such round"):
        session.answer(one, "f" * 32, "c", order)


def test_only_an_exact_partition_is_an_answer(store: StudyStore) -> None:
    _, session, rater = opened(store)
    one = rater()
    shown = session.lease(one)
    assert shown is not None
    a, b, c, d = ids(shown)
    wrong: list[tuple[list[list[str]], list[str], bool, str]] = [
        ([[a], [b], [c]], [], False, "3 of 4"),
        ([[a], [b], [c], [d], [a]], [], False, "twice"),
        ([[a], [b], [c]], [d, d], False, "twice"),
        ([[a], [b], [c], ["f" * 32]], [], False, "not in this round"),
        ([[a, b, c, d], []], [], False, "no tier empty"),
        ([], [a, b, c, d], False, "at least one"),
        ([[a], [b], [c], [d]], [], True, "without opinion"),
    ]
    for number, (tiers, unranked, abstain, said) in enumerate(wrong):
        with pytest.raises(AnswerError, match=said):
            session.answer(one, shown.id, f"key {number}", tiers, unranked, abstain=abstain)
    with pytest.raises(AnswerError, match="finite"):
        session.answer(one, shown.id, "key", [[a, b], [c]], [d], seconds=float("nan"))
    with pytest.raises(AnswerError, match="key"):
        session.answer(one, shown.id, "", [[a, b], [c]], [d])
    assert status(store) == ["open"]
    assert session.answer(one, shown.id, "key", [[a, b], [c]], [d]) == 1, "ties and unranked clips are"


def test_expired_leases_free_the_place_and_may_come_back(store: StudyStore, clock: Clock) -> None:
    _, session, rater = opened(store)
    slow, quick = rater(), rater()
    shown = session.lease(slow)
    assert shown is not None
    order = [[clip] for clip in ids(shown)]
    clock.now += session.lease_seconds - 1
    session.renew(slow, shown.id)
    clock.now += session.lease_seconds - 1
    assert session.lease(quick) is None, "renewed in time"
    clock.now += 2
    assert session.renew(slow, shown.id) == session.lease_seconds, "nobody has taken the place"
    clock.now += session.lease_seconds + 1
    assert progress(store, session.study, quick)["state"] == "open"
    given = session.lease(quick)
    assert given is not None and given.id == shown.id and given.former is None
    for call in (lambda: session.renew(slow, shown.id), lambda: session.answer(slow, shown.id, "late", order)):
        with pytest.raises(LeaseError, match="somebody else"):
            call()
    assert session.lease(slow) is None and progress(store, session.study, slow)["state"] == "waiting"
    clock.now += session.lease_seconds + 1
    assert session.answer(slow, shown.id, "later", order) == 1, "the other one fell silent too"
    with pytest.raises(LeaseError, match="somebody else"):
        session.answer(quick, shown.id, "quick", order)


def test_undo_until_consumed(store: StudyStore) -> None:
    study, session, rater = opened(store, annotators=2)
    one, two = rater(), rater()
    with pytest.raises(LeaseError, match="no answer left"):
        session.undo(one)
    shown, other = session.lease(one), session.lease(two)
    assert shown is not None and other is not None
    a, b, c, d = ids(shown)
    session.answer(one, shown.id, "1", [[a], [b, c]], [d], seconds=2)
    assert progress(store, session.study, one)["can_undo"] and not progress(store, session.study, two)["can_undo"]
    session.answer(two, shown.id, "2", [[d], [c], [b], [a]])
    assert status(store) == ["answered"]
    again = session.undo(one)
    assert again.id == shown.id and ids(again) == ids(shown)
    assert again.former == {"tiers": [[a], [b, c]], "unranked": [d]}
    assert status(store) == ["open"] and study.step() is None, "one answer of two is left"
    assert session.lease(rater()) is None, "the place is still the one's"
    with pytest.raises(LeaseError):
        session.undo(one)
    assert session.answer(one, shown.id, "3", [[d], [c], [b], [a]]) == 2
    assert study.step() is not None and status(store) == ["consumed"]
    for rater_id in (one, two):
        with pytest.raises(LeaseError, match="gone on"):
            session.undo(rater_id)
    with pytest.raises(LeaseError, match="gone on"):
        session.answer(one, shown.id, "4", [[a], [b], [c], [d]])
    assert session.answer(one, shown.id, "3", []) == 2, "what was accepted stays accepted"


@pytest.mark.parametrize("ahead", [0.0, 300.0, -300.0])
def test_what_waits_to_be_undone_is_not_consumed(
    store: StudyStore, clock: Clock, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    """The trainer counts by its own clock, whatever that of the server says."""
    study, session, rater = opened(store, undo_seconds=5.0)
    trainer = Clock()
    monkeypatch.setattr("rlopt.feedback.study.time", SimpleNamespace(monotonic=trainer, sleep=lambda seconds: None))
    clock.now += ahead
    one = rater()
    shown = session.lease(one)
    assert shown is not None
    session.answer(one, shown.id, "a", [ids(shown)])
    assert study.step() is None
    trainer.now += 4.9
    assert study.step() is None
    session.undo(one)
    assert study.step() is None
    session.answer(one, shown.id, "b", [ids(shown)])
    assert study.step() is None
    trainer.now += 4.9
    assert study.step() is None, "an answer after an undo can be undone as long as the first one"
    trainer.now += 0.2
    assert study.step() is not None


def test_a_clock_that_is_set_back_holds_no_lease(store: StudyStore, clock: Clock) -> None:
    _, session, rater = opened(store)
    gone, other = rater(), rater()
    assert session.lease(gone) is not None
    clock.now -= 3600
    shown = session.lease(other)
    assert shown is not None, "a lease that lasts an hour is none"
    session.answer(other, shown.id, "a", [ids(shown)])


def test_who_waits_long_for_the_database_does_not_take_a_round_leased_meanwhile(
    store: StudyStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, session, new_rater = opened(store)
    slow, quick = new_rater(), new_rater()
    write = store.database.write

    @contextmanager
    def late(**settings: bool) -> Iterator[sa.Connection]:
        monkeypatch.undo()
        clock.now += 5
        assert session.lease(quick) is not None
        with write(**settings) as connection:
            yield connection

    monkeypatch.setattr(store.database, "write", late)
    assert session.lease(slow) is None


def test_a_tab_that_is_left_open_does_not_hold_a_round_for_ever(store: StudyStore, clock: Clock) -> None:
    _, session, rater = opened(store)
    idle, other = rater(), rater()
    shown = session.lease(idle)
    assert shown is not None
    for _ in range(LONGEST_HOLD * 2):
        assert session.lease(other) is None
        clock.now += session.lease_seconds / 2
        session.renew(idle, shown.id)
    clock.now += 1
    assert progress(store, session.study, other)["state"] == "open"
    assert session.lease(other) is not None
    with pytest.raises(LeaseError, match="somebody else"):
        session.renew(idle, shown.id)


def test_an_order_of_clips_that_cannot_have_been_seen_is_refused(store: StudyStore, clock: Clock) -> None:
    study, _, rater = opened(store)
    session, one = RaterSession(store, study.study, minimum_seconds=0.8), rater()
    shown = session.lease(one)
    assert shown is not None
    clock.now += 0.6
    with pytest.raises(AnswerError, match=r"0\.6 s after"):
        session.answer(one, shown.id, "a", [ids(shown)])
    clock.now += 0.3
    assert session.answer(one, shown.id, "a", [ids(shown)]) == 1
    with store.database.read() as connection:
        assert connection.execute(sa.select(schema.answer.c.created_at)).scalar_one() == clock.now


def test_one_lease_reads_one_round_however_many_are_open(store: StudyStore, clock: Clock) -> None:
    """A rater who has answered all but the last of many rounds gets that one in as many statements as the first."""
    study, session, rater = opened(store)
    one = rater()
    with store.database.write() as connection:
        first = dict(connection.execute(sa.select(schema.round_)).mappings().one())
        drawn = [dict(row) for row in connection.execute(sa.select(schema.candidate)).mappings()]
        for number in range(1, 60):
            new = {**first, "id": None, "public_id": f"{number:032x}", "iteration": number}
            round_id = insert(connection, schema.round_, {k: v for k, v in new.items() if k != "id"})
            for row in drawn:
                copy = {**row, "round_id": round_id, "public_id": f"{number:030x}{row['slot']:02x}"}
                insert(connection, schema.candidate, {k: v for k, v in copy.items() if k != "id"})
    counts, rows = [], []
    sa.event.listen(store.database.engine, "after_cursor_execute", lambda *given: counts.append(given[2]))
    for number in range(60):
        counts.clear()
        shown = session.lease(one)
        assert shown is not None
        progress(store, study.study, one)
        rows.append(len(counts))
        session.answer(one, shown.id, f"{number}", [ids(shown)])
    assert max(rows[1:]) == min(rows[1:]), rows
    assert session.lease(one) is None


def test_skipping_is_an_answer_without_edges(store: StudyStore) -> None:
    study, session, rater = opened(store)
    one = rater()
    shown = session.lease(one)
    assert shown is not None
    before = study.optimizer.point.copy()
    assert session.answer(one, shown.id, "a", abstain=True) == 1
    assert study.step() is not None and study.iteration == 1
    np.testing.assert_array_equal(study.optimizer.point, before)
    assert study.step() is None
    fresh = session.lease(one)
    assert fresh is not None and fresh.id != shown.id and not set(ids(fresh)) & set(ids(shown))


def test_progress_says_what_is_going_on(store: StudyStore, clock: Clock) -> None:
    study, session, rater = opened(store, annotators=2)
    one, two = rater(), rater()
    assert progress(store, session.study, one)["state"] == "open"
    shown = session.lease(one)
    assert shown is not None
    clock.now += 90
    session.answer(one, shown.id, "a", [ids(shown)], seconds=1e9)
    told = progress(store, session.study, one)
    assert told["state"] == "waiting" and "1 more answer of" in told["message"]
    assert (told["rounds_answered"], told["clips_watched"], told["minutes"]) == (1, 4, 1.5)
    assert session.lease(two) is not None
    session.answer(two, shown.id, "b", [ids(shown)])
    assert progress(store, session.study, one)["state"] == "rendering"
    clock.now += 210
    assert "5 minutes ago" in progress(store, session.study, one)["message"]
    assert study.step() is not None
    assert progress(store, session.study, two)["rounds_consumed"] == 1
    study.finish()
    assert progress(store, session.study, two)["state"] == "finished"


def test_concurrent_raters_never_share_a_place(store: StudyStore) -> None:
    """Twelve threads want four places, then answer all at once, each with two keys: four answers stand."""
    _, session, rater = opened(store, annotators=4)
    raters = [rater() for _ in range(12)]
    barrier, leases, lock = threading.Barrier(12), {}, threading.Lock()
    failures: list[BaseException] = []

    def work(one: int) -> None:
        try:
            barrier.wait()
            shown = session.lease(one)
            with lock:
                leases[one] = shown
            barrier.wait()
            if shown is not None:
                for key in (f"{one}", f"{one}", f"{one} again"):
                    session.answer(one, shown.id, key, [ids(shown)])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(one,)) for one in raters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    holders = [one for one, shown in leases.items() if shown is not None]
    assert len(holders) == 4 and status(store) == ["answered"]
    with store.database.read() as connection:
        wanted = sa.select(schema.answer.c.rater_id).where(schema.answer.c.withdrawn_at.is_(None))
        assert sorted(connection.execute(wanted).scalars()) == sorted(holders)


def test_a_failed_answer_leaves_no_trace(store: StudyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    _, session, rater = opened(store)
    one = rater()
    shown = session.lease(one)
    assert shown is not None

    def full(*arguments: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(RaterSession, "_settle", full)
        with pytest.raises(OSError, match="full"):
            session.answer(one, shown.id, "a", [ids(shown)])
    with store.database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.answer)).scalar_one() == 0
    assert status(store) == ["open"] and session.answer(one, shown.id, "a", [ids(shown)]) == 1


def test_two_studies_in_one_database_are_apart(store: StudyStore) -> None:
    make_study(store, "left", deadline_seconds=0.0).step()
    right = make_study(store, "right", optimizer(m=5, k=2), deadline_seconds=0.0)
    right.step()
    with pytest.raises(StudyError, match="--name"):
        store.study()
    with pytest.raises(ValueError, match="did you mean 'left'"):
        store.study("lef")
    session = RaterSession(store, store.study("right"))
    one = store.add_rater(session.study, "s").id
    shown = session.lease(one)
    assert shown is not None and len(shown.clips) == 5 and shown.k == 2
    left = RaterSession(store, store.study("left"))
    with pytest.raises(LeaseError, match="no such round"):
        left.answer(one, shown.id, "a", [ids(shown)])
