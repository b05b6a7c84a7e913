"""Transactions of several threads on SQLite, which takes one writer at a time: they wait for the disk together.

Each is a savepoint of one transaction, and none returns before that is committed. A thread that fails undoes its own
part; where the commit fails, all fail.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

LARGEST = 16
"""Transactions of one commit: while it lasts, other processes wait."""


class _Group:
    """Transactions that are committed together."""

    def __init__(self, connection: sa.Connection, durable: bool) -> None:
        self.connection, self.durable, self.size = connection, durable, 0
        self.transaction = connection.begin()
        self.error: BaseException | None = None
        self.over = threading.Event()

    def commit(self) -> None:
        """Ends the transaction; what goes wrong is every member's to raise."""
        try:
            if self.error is None:
                self.transaction.commit()
        except BaseException as error:
            self.error = error
        finally:
            try:
                if self.error is not None:
                    self.connection.invalidate()  # which closes the file, whatever state SQLite is in
                else:
                    self.connection.info.pop("write", None)
                self.connection.close()
            finally:
                self.over.set()


class Writer:
    """The one writer of a database within this process.

    :param engine: begins a write as the connection's ``info["write"]`` says, FULL or NORMAL
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine, self._turns = engine, _Turns()
        self._group: _Group | None = None

    @contextmanager
    def transaction(self, durable: bool) -> Iterator[sa.Connection]:
        """A part of a transaction that is committed, for the disk if ``durable``, when this returns."""
        interrupted = self._turns.take()
        try:
            if interrupted is not None:
                if not self._turns.wanted:  # who came before counts on this one to commit
                    self._commit()
                raise interrupted
            group = self._joined(durable)
            try:
                with _savepoint(group):
                    yield group.connection
            finally:
                group.size += 1
                # Who comes next commits, as part of the group or because it does not fit in.
                if not self._turns.wanted or group.size >= LARGEST:
                    self._commit()
        finally:
            self._turns.give()
        group.over.wait()
        if group.error is not None:
            raise group.error

    def _joined(self, durable: bool) -> _Group:
        """The group that is open, or a new one."""
        if self._group is not None and ((durable and not self._group.durable) or self._group.error is not None):
            self._commit()
        if self._group is None:
            connection = self._engine.connect()
            connection.info["write"] = "FULL" if durable else "NORMAL"
            try:
                self._group = _Group(connection, durable)
            except BaseException:
                connection.info.pop("write", None)
                connection.close()
                raise
        return self._group

    def _commit(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.commit()


@contextmanager
def _savepoint(group: _Group) -> Iterator[None]:
    driver = group.connection.connection.dbapi_connection
    assert driver is not None
    try:
        driver.execute("SAVEPOINT part")
        yield
        driver.execute("RELEASE part")
    except BaseException as failed:
        try:
            driver.execute("ROLLBACK TO part")
            driver.execute("RELEASE part")
        except Exception:  # SQLite has undone the whole transaction, as where the disk is full
            group.error = failed
        raise


class _Turns:
    """A lock that passes to whoever has waited for it longest."""

    def __init__(self) -> None:
        self._mutex, self._held = threading.Lock(), False
        self._waiting: deque[threading.Lock] = deque()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits, who is certain to get it."""
        return bool(self._waiting)

    def take(self) -> BaseException | None:
        """Waits for the turn; returns what interrupted the wait (Ctrl-C), with the turn taken all the same."""
        with self._mutex:
            if not self._held:
                self._held = True
                return None
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        interrupted: BaseException | None = None
        while True:
            try:
                mine.acquire()
                return interrupted
            except BaseException as error:
                interrupted = error

    def give(self) -> None:
        """Passes the turn on."""
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False
