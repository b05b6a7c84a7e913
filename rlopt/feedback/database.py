"""The database under a study: SQLite in WAL mode, or Postgres by URL. Every write is one short transaction."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from rlopt.errors import StudyError, one_line, unknown_name
from rlopt.feedback.group_commit import Writer
from rlopt.feedback.schema import ADDED, assignment, metadata

BUSY_SECONDS = 30.0
"""How long a writer waits for another process's write before it gives up."""
BACKENDS = ("postgresql", "sqlite")
_NETWORK = ("afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gpfs", "lustre", "nfs", "nfs4", "smb3")
"""File systems on which SQLite's locks and shared memory are not reliable."""
_CLOCK_SECONDS = 60.0
"""Between two looks at a database server's clock."""
_READ, _WRITE, _DURABLE = range(3)
"""Kinds of transactions."""


class DatabaseUnreachableError(StudyError):
    """The database does not answer, for now: it restarts, or is busy or away."""


class Database:
    """Connections to one database; safe to use from many threads, not across a fork.

    :param url: SQLAlchemy's: ``sqlite:///studies/swing/study.db``, ``postgresql+psycopg://user@host/name``
    :param create: makes the tables (and for SQLite the file) where they are missing
    :raises StudyError: unknown kind of database, a file on a network file system, or one that cannot be opened
    """

    def __init__(self, url: str | URL, *, create: bool = False) -> None:
        self.url = checked_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            _check_file(Path(str(self.url.database)), create)
        self.engine = _engine(self.url)
        # SQLite's own queue is a loop of sleeps, which starves the unlucky thread; this one passes the turn on.
        self._writer = Writer(self.engine) if self.is_sqlite else None
        self._open = threading.local()
        """Kind and connection of this thread's transaction."""
        self._driver = self.engine.dialect.loaded_dbapi
        self._refusals = (OperationalError, self._driver.OperationalError)
        self._server_clock: tuple[float, float] | None = None
        try:
            with self._as_study_errors():
                if create:
                    metadata.create_all(self.engine)
                elif not sa.inspect(self.engine).has_table("study"):
                    raise StudyError(f"{self.shown} holds no study: name another, or start one with rlopt train")
                self._add_missing()
        except BaseException:
            self.close()
            raise

    def _add_missing(self) -> None:
        """Gives a database of an earlier version the columns that it lacks and, if it can be written, the index."""

        def lacks(bound: sa.Engine | sa.Connection, table: str, name: str) -> bool:
            return all(column["name"] != name for column in sa.inspect(bound).get_columns(table))

        for table, names in ADDED.items():
            for name in names:
                if lacks(self.engine, table, name):
                    kind = metadata.tables[table].c[name].type.compile(self.engine.dialect)
                    unless = "" if self.is_sqlite else "IF NOT EXISTS "
                    with self.write() as connection:
                        if lacks(connection, table, name):  # another process may have been first
                            connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {unless}{name} {kind}")
        for index in assignment.indexes:
            if not sa.inspect(self.engine).has_index("assignment", str(index.name)):
                # A study works without it, only slower. Who opens it next tries again.
                with suppress(StudyError), self.write() as connection:
                    index.create(connection, checkfirst=True)

    @property
    def shown(self) -> str:
        """The URL for people, without a password."""
        return str(self.url.database) if self.is_sqlite else self.url.render_as_string(hide_password=True)

    def write(self, *, durable: bool = True) -> AbstractContextManager[sa.Connection]:
        """One transaction that holds SQLite's write lock from its beginning (BEGIN IMMEDIATE).

        Within another transaction of the same thread it is a part of that, which must be a write as durable as this.

        :param durable: True waits for the disk, so that the transaction survives a loss of power; False lets it survive
            the death of the process only. The database stays intact either way
        """
        return self._transaction(_DURABLE if durable else _WRITE)

    def read(self) -> AbstractContextManager[sa.Connection]:
        """One transaction that only reads, and sees one state of the database; within another one, a part of that."""
        return self._transaction(_READ)

    def _transaction(self, kind: int) -> AbstractContextManager[sa.Connection]:
        outer = getattr(self._open, "transaction", None)
        if outer is None:
            return self._outermost(kind)
        assert kind <= outer[0], "a transaction that writes cannot begin within one that writes less"
        return nullcontext(outer[1])

    @contextmanager
    def _outermost(self, kind: int) -> Iterator[sa.Connection]:
        with self._as_study_errors(), self._begun(kind) as connection:
            self._open.transaction = kind, connection
            try:
                yield connection
            finally:
                del self._open.transaction

    @contextmanager
    def _begun(self, kind: int) -> Iterator[sa.Connection]:
        if kind != _READ and self._writer is not None:
            with self._writer.transaction(durable=kind == _DURABLE) as connection:
                yield connection
        else:
            with self.engine.begin() as connection:
                yield connection

    def now(self) -> float:
        """Seconds since 1970, by one clock for all who use the database.

        That is the server's clock on Postgres, whose users may be on many machines; a file of SQLite is of one machine.
        """
        if self.is_sqlite:
            return time.time()
        elapsed = time.monotonic()
        if self._server_clock is None or elapsed - self._server_clock[0] > _CLOCK_SECONDS:
            with self.read() as connection:
                found = connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
            self._server_clock = (time.monotonic(), float(found))
        return self._server_clock[1] + time.monotonic() - self._server_clock[0]

    def close(self) -> None:
        """Closes the connections."""
        self.engine.dispose()

    @contextmanager
    def _as_study_errors(self) -> Iterator[None]:
        """Turns the database's errors into one line with the cure."""
        try:
            yield
        except self._refusals as error:
            reason = one_line(getattr(error, "orig", None) or error)
            locked = "locked" in reason
            cure = "another process is writing for long: try again" if locked else "check that it is there"
            # Of SQLite the same error says that a file is gone or damaged, which waiting does not mend.
            raise (DatabaseUnreachableError if locked or not self.is_sqlite else StudyError)(
                f"the database {self.shown} refuses ({reason}): {cure}, and its permissions"
            ) from error
        except (SQLAlchemyError, self._driver.Error) as error:
            reason = one_line(getattr(error, "orig", None) or error)
            raise StudyError(f"the database {self.shown} is damaged or not rlopt's: {reason}") from error


def checked_url(url: str | URL) -> URL:
    """The URL with its driver; raises as :class:`Database` for one that is of neither kind."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StudyError(
            f"{one_line(url)!r} is not a database URL: use sqlite:///FILE or postgresql://USER@HOST/NAME"
        ) from None
    backend = parsed.get_backend_name()
    if backend not in BACKENDS:
        raise unknown_name("kind of database", backend, BACKENDS)
    if backend == "postgresql":  # statements are written for this driver
        parsed = parsed.set(drivername="postgresql+psycopg")
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise StudyError("a study in memory cannot be shared with a server: use sqlite:///FILE")
    return parsed


def _engine(url: URL) -> sa.Engine:
    if url.get_backend_name() == "postgresql":
        try:
            return sa.create_engine(url, pool_size=20, max_overflow=40, pool_pre_ping=True)
        except (ModuleNotFoundError, NoSuchModuleError):
            raise StudyError("Postgres needs its driver: pip install 'psycopg[binary]'") from None
    engine = sa.create_engine(
        url,
        pool_size=20,
        max_overflow=60,
        connect_args={"check_same_thread": False, "timeout": BUSY_SECONDS, "isolation_level": None},
    )

    @sa.event.listens_for(engine, "connect")
    def settings(connection: Any, record: Any) -> None:
        for pragma in ("journal_mode = WAL", "foreign_keys = ON", f"busy_timeout = {int(BUSY_SECONDS * 1000)}"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        driver: Any = connection.connection.dbapi_connection
        synchronous = connection.info.get("write")
        if synchronous is not None:
            driver.execute(f"PRAGMA synchronous = {synchronous}")
        driver.execute("BEGIN" if synchronous is None else "BEGIN IMMEDIATE")

    return engine


def _check_file(path: Path, create: bool) -> None:
    if path.is_symlink():
        raise StudyError(f"{path} is a symbolic link: name the study's own folder")
    if not create and not path.is_file():
        near = next(
            (place for place in (path.parent / "study", path.parent.parent) if (place / path.name).is_file()), None
        )
        cure = "name another, or start one with rlopt train" if near is None else f"did you mean {str(near)!r}?"
        raise StudyError(f"there is no study at {path.parent}: {cure}")
    if create:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"the folder {path.parent} cannot be made ({error.strerror}): use another") from None
    kind = file_system(path.parent)
    if kind in _NETWORK:
        raise StudyError(f"{path.parent} is on a network file system ({kind}), where SQLite loses data: use a local "
                         "folder, or Postgres")  # fmt: skip


def file_system(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The type of the file system that ``folder`` is on, as Linux names it; empty where that cannot be told."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place, found, longest = folder.resolve(), "", -1
    for line in lines:
        parts = line.split()
        if len(parts) < 3:
            continue
        point = Path(parts[1].replace("\\040", " "))
        if (place == point or point in place.parents) and len(point.parts) >= longest:
            found, longest = parts[2], len(point.parts)
    return found
