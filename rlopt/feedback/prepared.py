"""Statements compiled once and run by the database's driver: SQLAlchemy takes longer to run one than SQLite."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa


class Prepared:
    """One statement, for the two kinds of database. It converts no types: booleans of SQLite come as 0 and 1.

    :param statement: its parameters are ``bindparam(NAME)``; it has no lists of values (``in_``)
    :param columns: columns of an insertion, whose parameters these are; the others stay empty
    """

    def __init__(self, statement: sa.Executable, columns: Sequence[str] | None = None) -> None:
        self._statement: Any = statement
        self._columns = columns
        self._texts: dict[str, tuple[str, dict[str, Any]]] = {}
        named = [column.name for column in getattr(statement, "selected_columns", ())]
        row: Any = namedtuple("Row", named, rename=True)  # type: ignore[misc]
        self._row = row._make

    def run(self, connection: sa.Connection, values: dict[str, Any]) -> Any:
        """Runs it; returns the driver's cursor. Raises the driver's errors."""
        known = self._texts.get(connection.dialect.name)
        text, constants = self._compiled(connection.dialect) if known is None else known
        driver: Any = connection.connection.dbapi_connection
        return driver.execute(text, {**constants, **values})

    def all(self, connection: sa.Connection, values: dict[str, Any]) -> list[Any]:
        """The rows that it finds, as named tuples."""
        return list(map(self._row, self.run(connection, values).fetchall()))

    def first(self, connection: sa.Connection, values: dict[str, Any]) -> Any:
        """The first row that it finds, or None."""
        found = self.run(connection, values).fetchone()
        return None if found is None else self._row(found)

    def scalar(self, connection: sa.Connection, values: dict[str, Any]) -> Any:
        """The first value of the first row, or None."""
        found = self.run(connection, values).fetchone()
        return None if found is None else found[0]

    def _compiled(self, dialect: sa.Dialect) -> tuple[str, dict[str, Any]]:
        """Its text for a kind of database, and the values of its constants."""
        by_name: Any = type(dialect)
        by_name = by_name(paramstyle="named" if dialect.name == "sqlite" else "pyformat")
        compiled = self._statement.compile(dialect=by_name, column_keys=self._columns)
        constants = {name: value for name, value in compiled.params.items() if value is not None}
        self._texts[dialect.name] = str(compiled), constants
        return self._texts[dialect.name]


def insertion(table: sa.Table, *columns: str) -> Prepared:
    """Adds a row."""
    return Prepared(sa.insert(table).inline(), columns)
