"""Databases of ranking studies: what is opened, what is refused, what is kept of raters."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from ranking_study import make_study

from rlopt.errors import StudyError
from rlopt.feedback import database, schema
from rlopt.feedback.database import Database, file_system
from rlopt.feedback.store import StudyStore, open_store


def test_names_are_optional_and_leave_no_trace(store: StudyStore) -> None:
    study = make_study(store)
    one = store.add_rater(study.study, "session 0").id
    store.set_name(one, "  Ada \n\0 Lovelace ")
    assert store.rater(study.study, "session 0").name == "Ada Lovelace"  # type: ignore[union-attr]
    assert store.forget_names(study.study) == 1
    assert store.rater(study.study, "session 0").name is None  # type: ignore[union-attr]
    with store.database.read() as connection:
        for table in schema.TABLES:
            assert "Lovelace" not in repr(connection.execute(sa.select(table)).all())
            assert "session 0" not in repr(connection.execute(sa.select(table)).all()), "sessions are stored as digests"


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    for url, said in (
        ("no url", "not a database URL"),
        ("postgres3://x/y", "did you mean 'postgresql'"),
        ("sqlite://", "in memory"),
        (f"sqlite:///{tmp_path}/none.db", "there is no study"),
    ):
        with pytest.raises((StudyError, ValueError), match=said):
            Database(url)
    (tmp_path / "study.db").write_text("this is no database, but a text that is a little longer than a header")
    with pytest.raises(StudyError, match="damaged or not rlopt's"):
        open_store(tmp_path)
    (tmp_path / "study.db").unlink()
    (tmp_path / "study.db").symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(StudyError, match="symbolic link"):
        open_store(tmp_path, create=True)
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/a / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n")
    assert file_system(tmp_path / "deeper", mounts) == "nfs4" and file_system(Path("/"), mounts) == "ext4"


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "file_system", lambda folder: "nfs4")
    with pytest.raises(StudyError, match="use a local folder, or Postgres"):
        open_store(tmp_path, create=True)


def test_answers_wait_for_the_disk_and_leases_do_not(tmp_path: Path) -> None:
    """SQLite's settings inside the transactions: 2 is FULL, 1 is NORMAL."""
    store = open_store(tmp_path, create=True)
    for durable, expected in ((True, 2), (False, 1), (True, 2)):
        with store.database.write(durable=durable) as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == expected
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            with pytest.raises(StudyError, match="refuses"), _other(tmp_path).write():
                raise AssertionError("two processes write at once")


def test_a_study_without_its_index_opens_where_it_cannot_be_made(tmp_path: Path) -> None:
    holder = open_store(tmp_path, create=True).database
    with holder.write() as connection:
        connection.exec_driver_sql("DROP INDEX assignments_of_rater")
    with holder.write():
        assert not _has_index(_other(tmp_path))
    assert _has_index(_other(tmp_path)), "who opens it next makes it"


def test_a_reader_without_rights_opens_a_study_of_postgres(postgres_url: str, tmp_path: Path) -> None:
    import psycopg

    url = postgres_url.replace("/postgres?", "/read_only?")
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute("CREATE DATABASE read_only")
        server.execute("CREATE ROLE reader LOGIN")
        server.execute("GRANT pg_read_all_data TO reader")
    made = Database(url, create=True)
    with made.write() as connection:
        connection.exec_driver_sql("DROP INDEX assignments_of_rater")
    reader = Database(url.replace("//rlopt@", "//reader@"))
    with reader.read() as connection:
        assert connection.execute(sa.select(schema.study)).all() == []
    assert not _has_index(reader)
    with made.write() as connection:
        connection.exec_driver_sql("ALTER TABLE rater DROP COLUMN expert")
    with pytest.raises(StudyError, match="must be owner of table rater"):
        Database(url.replace("//rlopt@", "//reader@"))
    made.close()
    reader.close()


def _has_index(opened: Database) -> bool:
    return sa.inspect(opened.engine).has_index("assignment", "assignments_of_rater")


def _other(folder: Path) -> Database:
    """Another process's view of the database, which does not wait for the lock."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "BUSY_SECONDS", 0.01)
        return Database(f"sqlite:///{folder}/study.db")
