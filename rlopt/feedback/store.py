"""The database of ranking studies and the folder of their clips: studies, raters, and the audit trail.

Raters work on it through :mod:`rlopt.feedback.rounds`, the trainer through :mod:`rlopt.feedback.trainer`, both in short
transactions: the processes share nothing else, and each may be killed at any moment.
"""

import dataclasses
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL

from rlopt.errors import StudyError, unknown_name
from rlopt.feedback import schema
from rlopt.feedback.database import Database, checked_url
from rlopt.feedback.statements import ADD_EVENT
from rlopt.storage.json import dump_json

MEDIA = ("image", "video")
MAX_ANNOTATORS = 1000
MAX_NAME = 80


def opaque() -> str:
    """A random identifier: 128 bits, safe in URLs."""
    return secrets.token_hex(16)


@dataclass(frozen=True)
class Study:
    """A study's settings; all but the instructions stay as they are."""

    id: int
    name: str
    media: str
    """video or image"""
    instructions: str
    config: dict[str, Any]
    algorithm: str
    annotators: int
    """How many answers every round needs, each from another person."""


@dataclass(frozen=True)
class Rater:
    """Somebody who ranks: one browser, by its session."""

    id: int
    public_id: str
    name: str | None


class StudyStore:
    """A database with studies, and the folder that their clips are in.

    :param url: ``sqlite:///FOLDER/study.db`` or ``postgresql://USER@HOST/NAME``
    :param media: folder of the clips; for SQLite ``FOLDER/media`` unless given
    :param create: makes what is missing
    :param clock: seconds since 1970; by default the clock of the database, see :meth:`Database.now`
    :raises StudyError: it cannot be opened, or holds no study and none is to be made
    """

    def __init__(
        self,
        url: str | URL,
        *,
        media: str | Path | None = None,
        create: bool = True,
        clock: Callable[[], float] | None = None,
    ) -> None:
        parsed = checked_url(url)
        if media is None and parsed.get_backend_name() != "sqlite":
            raise StudyError("a study on Postgres needs a folder for its clips: give media (--media FOLDER)")
        self.database = Database(parsed, create=create)
        self.clock: Callable[[], float] = clock or self.database.now
        media = Path(str(parsed.database)).parent / "media" if media is None else media
        self.media_root = Path(media).absolute()
        if create:
            try:
                self.media_root.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StudyError(f"the folder {media} cannot be made ({error.strerror}): use another") from None

    def close(self) -> None:
        """Closes the connections."""
        self.database.close()

    def create_study(
        self,
        connection: sa.Connection,
        name: str,
        *,
        media: str = "video",
        instructions: str = "",
        config: Mapping[str, Any] | None = None,
        algorithm: str = "",
        annotators: int = 1,
    ) -> Study:
        """Writes a new study within a transaction.

        :param media: video or image
        :param config: anything JSON; shown to nobody who ranks
        :raises StudyError: a value out of range, or the name is taken
        """
        if not name.strip() or len(name) > 200 or not name.isprintable():
            raise StudyError(f"{name[:80]!r} is not a name for a study: use 1 to 200 printable characters")
        if media not in MEDIA:
            raise unknown_name("medium", media, MEDIA)
        if not 1 <= annotators <= MAX_ANNOTATORS:
            raise StudyError(f"annotators is {annotators}: use 1 to {MAX_ANNOTATORS}")
        if connection.execute(sa.select(schema.study.c.id).where(schema.study.c.name == name)).first():
            raise StudyError(f"there is a study {name!r} already: use another name")
        values = {
            "name": name,
            "format": schema.FORMAT,
            "media": media,
            "instructions": instructions,
            "config": dump_json(dict(config or {})),
            "algorithm": algorithm,
            "annotators": annotators,
            "finished": False,
            "created_at": self.clock(),
        }
        identity = insert(connection, schema.study, values)
        log(connection, identity, "created", self.clock())
        return _study({**values, "id": identity})

    def find(self, name: str) -> Study | None:
        """The study of that name, if there is one."""
        with self.database.read() as connection:
            row = connection.execute(sa.select(schema.study).where(schema.study.c.name == name)).mappings().first()
        return None if row is None else _study(row)

    def study(self, name: str | None = None) -> Study:
        """The study of that name; without a name, the only one.

        :raises StudyError: there is none, or more than one
        """
        studies = self.studies()
        if name is None and len(studies) == 1:
            return studies[0]
        if not studies:
            raise StudyError(f"{self.database.shown} holds no study yet: start one with rlopt train")
        names = [study.name for study in studies]
        if name is None:
            raise StudyError(f"{self.database.shown} holds {len(names)} studies: choose one with --name ("
                             f"{', '.join(sorted(names)[:8])})")  # fmt: skip
        for study in studies:
            if study.name == name:
                return study
        raise unknown_name("study", name, names)

    def studies(self) -> list[Study]:
        """All studies, oldest first."""
        with self.database.read() as connection:
            rows = connection.execute(sa.select(schema.study).order_by(schema.study.c.id)).mappings().all()
        return [_study(row) for row in rows]

    def rater(self, study: Study, session: str) -> Rater | None:
        """Who holds the session whose secret is ``session``."""
        wanted = (schema.rater.c.study_id == study.id) & (schema.rater.c.session_digest == digest(session))
        with self.database.read() as connection:
            row = connection.execute(sa.select(schema.rater).where(wanted)).mappings().first()
        return None if row is None else Rater(row["id"], row["public_id"], row["name"])

    def raters(self, study: Study, since: float = 0.0) -> list[Rater]:
        """Who has come since then, in that order."""
        wanted = (schema.rater.c.study_id == study.id) & (schema.rater.c.created_at >= since)
        with self.database.read() as connection:
            rows = connection.execute(sa.select(schema.rater).where(wanted).order_by(schema.rater.c.id)).mappings()
            return [Rater(row["id"], row["public_id"], row["name"]) for row in rows]

    def rater_called(self, study: Study, public_id: str) -> Rater | None:
        """The rater of that identifier."""
        wanted = (schema.rater.c.study_id == study.id) & (schema.rater.c.public_id == public_id)
        with self.database.read() as connection:
            row = connection.execute(sa.select(schema.rater).where(wanted)).mappings().first()
        return None if row is None else Rater(row["id"], row["public_id"], row["name"])

    def add_rater(self, study: Study, session: str, name: str | None = None, agreed: bool = False) -> Rater:
        """Adds who will hold the session; only a digest of its secret is stored.

        :param agreed: whether the rater has agreed to the text of consent
        """
        values = {
            "study_id": study.id,
            "public_id": opaque(),
            "session_digest": digest(session),
            "name": name,
            "created_at": self.clock(),
        }
        with self.database.write() as connection:
            identity = insert(connection, schema.rater, values)
            log(connection, study.id, "rater", self.clock(), rater=identity)
            if agreed:
                log(connection, study.id, "consent", self.clock(), rater=identity)
        return Rater(identity, str(values["public_id"]), name)

    def set_name(self, rater_id: int, name: str | None) -> None:
        """Sets a rater's name, or deletes it (None or empty); no event and no file has it."""
        printable = "".join(letter if letter.isprintable() else " " for letter in name or "")
        kept = " ".join(printable.split())[:MAX_NAME] or None
        with self.database.write() as connection:
            connection.execute(sa.update(schema.rater).where(schema.rater.c.id == rater_id).values(name=kept))

    def set_expert(self, study: Study, public_id: str) -> Rater:
        """Makes a rater an expert, whose orders are right; others are checked by them.

        :param public_id: of the rater, or its beginning
        :raises StudyError: it is of none, or of several
        """
        found = [each for each in self.raters(study) if each.public_id.startswith(public_id) and public_id]
        if len(found) != 1:
            raise StudyError(f"{len(found)} raters of study {study.name!r} begin with {public_id!r}: rlopt rank info "
                             "lists them")  # fmt: skip
        with self.database.write() as connection:
            connection.execute(sa.update(schema.rater).where(schema.rater.c.id == found[0].id).values(expert=True))
            log(connection, study.id, "expert", self.clock(), rater=found[0].id)
        return found[0]

    def set_instructions(self, study: Study, instructions: str) -> Study:
        """Replaces what the raters of a study are told; the audit trail keeps the former text."""
        with self.database.write() as connection:
            mine = schema.study.c.id == study.id
            former = connection.execute(sa.select(schema.study.c.instructions).where(mine)).scalar_one()
            connection.execute(sa.update(schema.study).where(mine).values(instructions=instructions))
            log(connection, study.id, "instructions", self.clock(), former=former)
        return dataclasses.replace(study, instructions=instructions)

    def instructions(self, study: Study) -> str:
        """What the raters of a study are told now."""
        with self.database.read() as connection:
            wanted = sa.select(schema.study.c.instructions).where(schema.study.c.id == study.id)
            return str(connection.execute(wanted).scalar_one())

    def forget_names(self, study: Study) -> int:
        """Deletes every rater's name; returns how many there were."""
        named = (schema.rater.c.study_id == study.id) & schema.rater.c.name.is_not(None)
        with self.database.write() as connection:
            return connection.execute(sa.update(schema.rater).where(named).values(name=None)).rowcount


def open_store(place: str | Path, media: str | Path | None = None, *, create: bool = False) -> StudyStore:
    """The store of a study's folder, or of a database URL.

    :param place: folder that holds ``study.db`` and ``media``, or a URL as :class:`StudyStore` takes it
    :param create: makes what is missing
    :raises StudyError: as :class:`StudyStore`
    """
    text = str(place)
    if "://" in text:
        return StudyStore(text, media=media, create=create)
    return StudyStore(URL.create("sqlite", database=str(Path(text) / "study.db")), media=media, create=create)


def insert(connection: sa.Connection, table: sa.Table, values: Mapping[str, Any]) -> int:
    """Adds a row; returns its id."""
    key = connection.execute(sa.insert(table), dict(values)).inserted_primary_key
    assert key is not None
    return int(key[0])


def log(
    connection: sa.Connection, study_id: int, kind: str, at: float, *, round_: int | None = None,
    rater: int | None = None, **detail: Any,
) -> None:  # fmt: skip
    """Adds an event to the audit trail, in the transaction of the change that it tells of."""
    values = {"study_id": study_id, "round_id": round_, "rater_id": rater, "at": at, "kind": kind}
    ADD_EVENT.run(connection, {**values, "detail": dump_json(detail)})


def is_opaque(text: str) -> bool:
    """Whether ``text`` has the form of a random identifier."""
    return len(text) == 32 and set(text) <= set("0123456789abcdef")


def digest(secret: str | bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).hexdigest()


def _study(row: Mapping[Any, Any]) -> Study:
    if row["format"] != schema.FORMAT:
        raise StudyError(f"study {row['name']!r} has format {row['format']}, this rlopt reads {schema.FORMAT}: use the "
                         "one it is from")  # fmt: skip
    return Study(
        id=row["id"],
        name=row["name"],
        media=row["media"],
        instructions=row["instructions"],
        config=json.loads(row["config"]),
        algorithm=row["algorithm"],
        annotators=row["annotators"],
    )
