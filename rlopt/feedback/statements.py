"""Statements of the rater's side, built once: building one takes longer than running it.

Their parameters are ``study``, ``round`` and ``rater`` (ids), ``public_id`` (of a round), ``key`` (of an answer),
``now``, ``until`` and ``latest`` (seconds), ``annotators`` (answers that a round needs), and the new values of an
update.
"""

from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from rlopt.feedback.schema import answer, assignment, candidate, clip, event, round_


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


STANDING = answer.c.withdrawn_at.is_(None)
OF_STUDY = round_.c.study_id == bindparam("study")
_OF_ROUND = assignment.c.round_id == bindparam("round")
_HELD = _OF_ROUND & (assignment.c.rater_id == bindparam("rater"))
# A lease never lasts longer than `latest` from now: one that does was written before a clock was set back.
_HOLDS = assignment.c.lease_until.between(bindparam("now"), bindparam("latest"))
_TAKEN = (assignment.c.state == "answered") | _HOLDS
_OWN = (answer.c.round_id == bindparam("round")) & (answer.c.rater_id == bindparam("rater"))
_UNCONSUMED = (round_.c.status == "open") | (round_.c.status == "answered")


def _rounds() -> sa.Select[Any]:
    """Rounds without their parameters, which may be large."""
    columns = (round_.c.public_id, round_.c.kind, round_.c.m, round_.c.k, round_.c.status, round_.c.for_rater)
    return sa.select(round_.c.id, *columns)


FREE = round_.c.for_rater.is_(None)
"""A round of the search; those of the protocol are for one rater alone."""
ANY_OPEN = Prepared(sa.select(round_.c.id).where(OF_STUDY, round_.c.status == "open", FREE).limit(1))
LOCKED = Prepared(_rounds().where(round_.c.public_id == bindparam("public_id"), OF_STUDY).with_for_update())
"""A round that no other transaction can change until this one ends."""
OPEN_OF_RATER = Prepared(
    _rounds()
    .join(assignment, assignment.c.round_id == round_.c.id)
    .where(assignment.c.rater_id == bindparam("rater"), assignment.c.state == "leased")
    .where(OF_STUDY, round_.c.status == "open")
    .order_by(assignment.c.id.desc())
    .with_for_update(of=round_)
)
_OF_THIS = assignment.c.round_id == round_.c.id
_PLACES = sa.select(sa.func.count()).select_from(assignment).where(_OF_THIS, _TAKEN).correlate(round_).scalar_subquery()
_NEW_TO_RATER = (
    _rounds()
    .where(OF_STUDY, round_.c.status == "open", FREE)
    .where(~sa.exists().where(_OF_THIS, assignment.c.rater_id == bindparam("rater")))
    .where(bindparam("annotators") > _PLACES)
    .order_by(round_.c.iteration)
    .limit(1)
)
OPEN_TO_RATER = (Prepared(_NEW_TO_RATER.with_for_update(skip_locked=True)), Prepared(_NEW_TO_RATER.with_for_update()))
"""A round that another rater is just leasing is passed over; only if none else is there, it is waited for."""
UNDOABLE = Prepared(
    sa.select(round_.c.public_id)
    .join(answer, answer.c.round_id == round_.c.id)
    .where(answer.c.rater_id == bindparam("rater"), STANDING, OF_STUDY, _UNCONSUMED)
    .order_by(answer.c.id.desc())
    .limit(1)
)

TAKEN_BY_OTHERS = Prepared(
    sa.select(sa.func.count())
    .select_from(assignment)
    .where(_OF_ROUND, assignment.c.rater_id != bindparam("rater"), _TAKEN)
)
_MINE = assignment.c.rater_id == bindparam("rater")
_OTHERS = sa.select(sa.func.count()).select_from(assignment).where(_OF_THIS, ~_MINE, _TAKEN).correlate(round_)
ANY_FOR_RATER = Prepared(
    sa.select(round_.c.id)
    .where(OF_STUDY, round_.c.status == "open", FREE | (round_.c.for_rater == bindparam("rater")))
    .where(~sa.exists().where(_OF_THIS, _MINE, assignment.c.state == "answered"))
    .where(_OTHERS.scalar_subquery() < bindparam("annotators"))
    .limit(1)
)
"""Whether there is something to rank for a rater: a round that is the rater's, or has a free place."""
_OPEN = sa.select(round_.c.id).where(OF_STUDY, round_.c.status == "open")
OPEN_COUNT = Prepared(sa.select(sa.func.count()).select_from(_OPEN.subquery()))
ANSWERED_IN_OPEN = Prepared(
    sa.select(sa.func.count()).select_from(answer).where(STANDING, answer.c.round_id.in_(_OPEN.scalar_subquery()))
)
HELD = Prepared(sa.select(assignment.c.state, assignment.c.display, assignment.c.created_at).where(_HELD))
KEEP = Prepared(sa.update(assignment).where(_HELD).values(lease_until=bindparam("until")))
SET_HELD = Prepared(sa.update(assignment).where(_HELD).values(state=bindparam("new_state")))

SENT = Prepared(
    sa.select(answer.c.round_id, answer.c.revision).where(
        answer.c.rater_id == bindparam("rater"), answer.c.key == bindparam("key")
    )
)
WITHDRAW = Prepared(sa.update(answer).where(_OWN, STANDING).values(withdrawn_at=bindparam("now")))
REVISIONS = Prepared(sa.select(sa.func.count()).select_from(answer).where(_OWN))
LAST = Prepared(
    sa.select(answer.c.tiers, answer.c.unranked, answer.c.abstain)
    .where(_OWN)
    .order_by(answer.c.revision.desc())
    .limit(1)
)
STANDING_COUNT = Prepared(
    sa.select(sa.func.count()).select_from(answer).where(answer.c.round_id == bindparam("round"), STANDING)
)
SET_STATUS = Prepared(
    sa.update(round_)
    .where(round_.c.id == bindparam("round"))
    .values(status=bindparam("new_status"), answered_at=bindparam("new_answered_at"))
)

SLOTS = Prepared(sa.select(candidate.c.public_id, candidate.c.slot).where(candidate.c.round_id == bindparam("round")))
SHOWN = Prepared(
    sa.select(
        candidate.c.slot, candidate.c.public_id,
        clip.c.media_id, clip.c.poster_id, clip.c.fps, clip.c.frames, clip.c.width, clip.c.height,
    )
    .join(clip, clip.c.id == candidate.c.clip_id)
    .where(candidate.c.round_id == bindparam("round"))
)  # fmt: skip

ADD_ASSIGNMENT = insertion(assignment, "round_id", "rater_id", "display", "state", "lease_until", "created_at")
ADD_ANSWER = insertion(
    answer, "round_id", "rater_id", "revision", "key", "tiers", "unranked", "abstain", "seconds", "created_at"
)
ADD_EVENT = insertion(event, "study_id", "round_id", "rater_id", "at", "kind", "detail")
