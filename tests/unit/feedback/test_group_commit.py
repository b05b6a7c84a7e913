"""Transactions of several threads that SQLite commits together: none returns too early, each fails alone."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rlopt.errors import StudyError
from rlopt.feedback import group_commit
from rlopt.feedback.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path}/study.db", create=True)
    with made.write() as connection:
        connection.exec_driver_sql("CREATE TABLE word (text TEXT)")
    yield made
    made.close()


def words(database: Database) -> list[str]:
    """What is committed."""
    with database.engine.connect() as connection:
        return list(connection.exec_driver_sql("SELECT text FROM word ORDER BY rowid").scalars())


def add(connection: sa.Connection, text: str) -> None:
    connection.exec_driver_sql("INSERT INTO word VALUES (?)", (text,))


Write = Callable[[sa.Connection], None]


def in_this_order(database: Database, *writes: Write, durable: tuple[bool, ...] = ()) -> list[Future[list[str]]]:
    """The writes in threads of their own, all waiting before the first ends; each result is what it then found."""
    turns: Any = database._writer._turns  # type: ignore[union-attr]
    all_wait = threading.Event()

    def run(number: int) -> list[str]:
        with database.write(durable=durable[number] if durable else True) as connection:
            assert all_wait.wait(30)
            writes[number](connection)
        return words(database)

    with ThreadPoolExecutor(len(writes)) as threads:
        started = []
        for number in range(len(writes)):
            started.append(threads.submit(run, number))
            while not turns._held or len(turns._waiting) < number:
                time.sleep(0.001)
        all_wait.set()
    return started


def test_those_who_wait_are_committed_together_and_one_who_fails_alone_is_undone(database: Database) -> None:
    commits = []
    sa.event.listen(database.engine, "commit", lambda connection: commits.append(1))

    def failing(connection: sa.Connection) -> None:
        add(connection, "two")
        raise ValueError("my own")

    first, failed, last = in_this_order(
        database, lambda each: add(each, "one"), failing, lambda each: add(each, "three")
    )
    assert len(commits) == 1
    assert first.result() == last.result() == ["one", "three"], "who returns finds all that was committed with it"
    with pytest.raises(ValueError, match="my own"):
        failed.result()


def test_a_failed_commit_fails_all_and_the_next_one_works(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sa.engine.default.DefaultDialect.do_commit

    def full(self: Any, connection: Any) -> None:
        raise database.engine.dialect.loaded_dbapi.OperationalError("database or disk is full")

    monkeypatch.setattr(sa.engine.default.DefaultDialect, "do_commit", full)
    for each in in_this_order(database, lambda one: add(one, "one"), lambda two: add(two, "two")):
        with pytest.raises(StudyError, match="disk is full"):
            each.result()
    monkeypatch.setattr(sa.engine.default.DefaultDialect, "do_commit", real)
    with database.write() as connection:
        add(connection, "three")
    assert words(database) == ["three"]


def test_what_undoes_the_whole_transaction_fails_all(database: Database) -> None:
    """As SQLite does by itself where the disk is full."""

    def undoing(connection: sa.Connection) -> None:
        connection.connection.dbapi_connection.rollback()  # type: ignore[union-attr]
        raise ValueError("undone")

    first, failed, last = in_this_order(
        database, lambda each: add(each, "one"), undoing, lambda each: add(each, "three")
    )
    for each in (first, failed):
        with pytest.raises(ValueError, match="undone"):
            each.result()
    assert last.result() == ["three"], "what begins afterwards is in a transaction of its own"


def test_what_must_reach_the_disk_is_in_no_group_that_does_not(database: Database) -> None:
    synchronous = []

    def note(connection: sa.Connection) -> None:
        synchronous.append(connection.exec_driver_sql("PRAGMA synchronous").scalar())

    for each in in_this_order(database, *[note] * 4, durable=(False, False, True, False)):
        each.result()
    assert synchronous == [1, 1, 2, 2], "NORMAL twice, then FULL, which is good for both kinds"


def test_a_group_has_an_end(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "LARGEST", 2)
    commits: list[int] = []
    sa.event.listen(database.engine, "commit", lambda connection: commits.append(1))
    for each in in_this_order(database, *[lambda one: add(one, "one")] * 5):
        each.result()
    assert len(commits) == 3 and words(database) == ["one"] * 5


def test_a_transaction_within_another_is_a_part_of_it(database: Database) -> None:
    with pytest.raises(ValueError, match="undo all"), database.write() as outer:
        add(outer, "one")
        with database.write(durable=False) as inner:
            add(inner, "two")
        with database.read() as seen:
            assert seen.exec_driver_sql("SELECT count(*) FROM word").scalar() == 2
        raise ValueError("undo all")
    assert words(database) == []
    for outer_kind in (database.read(), database.write(durable=False)):
        with outer_kind, pytest.raises(AssertionError, match="cannot begin within"), database.write():
            pass


def test_many_threads_lose_nothing(database: Database) -> None:
    def run(number: int) -> None:
        for k in range(25):
            with database.write() as connection:
                add(connection, f"{number} {k}")

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(run, range(12)))
    assert sorted(words(database)) == sorted(f"{number} {k}" for number in range(12) for k in range(25))


def test_a_wait_that_is_interrupted_passes_its_turn_on(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the main thread waits: the group that counts on it is committed, and others go on."""
    assert database._writer is not None
    turns = database._writer._turns
    entered, release = threading.Event(), threading.Event()

    def first() -> None:
        with database.write() as connection:
            add(connection, "first")
            entered.set()
            release.wait(10)

    def second() -> None:
        with database.write() as connection:
            add(connection, "second")

    class Interrupted:
        """A lock whose first wait ends in a KeyboardInterrupt."""

        def __init__(self) -> None:
            self.lock, self.waits = real(), 0

        def acquire(self) -> bool:
            self.waits += 1
            if self.waits == 2:
                release.set()
                raise KeyboardInterrupt
            return self.lock.acquire()

        def release(self) -> None:
            self.lock.release()

    real = threading.Lock
    with ThreadPoolExecutor() as pool:
        begun = pool.submit(first)
        assert entered.wait(10)
        monkeypatch.setattr(group_commit.threading, "Lock", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            second()
        monkeypatch.undo()
        begun.result(10)
        pool.submit(second).result(10)
    assert words(database) == ["first", "second"] and not turns.wanted
