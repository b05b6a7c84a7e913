"""Reads a study that :func:`rlopt.feedback.export.export` wrote as JSON lines; every value is checked."""

import base64
import binascii
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from rlopt.errors import AnswerError, CheckpointError, StudyError, one_line
from rlopt.feedback.export import HEADER, LEFT_OUT, links
from rlopt.feedback.files import TYPES, file_digest, open_below
from rlopt.feedback.schema import ADDED, FORMAT, TABLES, answer, clip, optimizer_state, round_
from rlopt.feedback.store import MEDIA, Study, StudyStore, digest, insert, is_opaque
from rlopt.feedback.trainer import unpack
from rlopt.storage.json import parse_json
from rlopt.storage.replacing import replacing

MAX_LINE = 256 * 2**20
_BY_NAME = {table.name: table for table in TABLES}
_STATUSES = ("rendering", "open", "answered", "consumed", "void", "kept")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def import_study(
    store: StudyStore, lines: Iterable[str], *, name: str | None = None, clips: Path | None = None
) -> Study:
    """Adds a study, in one transaction.

    :param lines: of the JSON lines
    :param name: name of the new study; its own unless given
    :param clips: the media folder that the study was exported from; its clips are copied and compared with their
        digests. without it, only the answers are imported
    :raises StudyError: a line is malformed, a study of that name is there, or a clip is missing or altered
    """
    with store.database.write() as connection:
        study_id = _read(connection, lines, name)
        _check(connection, study_id)
        if clips is not None:
            for row in connection.execute(sa.select(clip).where(clip.c.study_id == study_id)).mappings().all():
                _copy(clips.absolute(), store.media_root, row["path"], row["sha256"])
                _copy(clips.absolute(), store.media_root, row["poster"], row["poster_sha256"])
    with store.database.read() as connection:
        found = connection.execute(sa.select(_BY_NAME["study"].c.name).where(_BY_NAME["study"].c.id == study_id))
        return store.study(found.scalar_one())


def _read(connection: sa.Connection, lines: Iterable[str], name: str | None) -> int:
    ids: dict[str, dict[int, int]] = {table: {} for table in _BY_NAME}
    later: dict[str, Any] = {}
    order = [table.name for table in TABLES]
    at = 0
    for number, text in enumerate(lines, start=1):
        try:
            line = parse_json(text) if len(text) <= MAX_LINE else None
            if number == 1:
                if line != HEADER:
                    raise ValueError(f"it must be {json.dumps(HEADER)}: write it with rlopt rank export")
                continue
            if not isinstance(line, dict) or line.get("type") not in _BY_NAME:
                raise ValueError("it has no type of a study's lines")
            table = _BY_NAME[line.pop("type")]
            if order.index(table.name) < at or (table.name == "study" and ids["study"]):
                raise ValueError(f"a {table.name} comes too late")
            at = order.index(table.name)
            values = _values(table, line, ids)
            own = values.pop("id")
            if table.name == "study":
                values["name"] = name or values["name"]
                later = {key: values.pop(key) for key in ("start_clip", "now_clip")}
                taken = sa.select(table.c.id).where(table.c.name == values["name"])
                if connection.execute(taken).first():
                    raise ValueError(f"there is a study {values['name']!r} already: give another --name")
            elif table.name == "rater":
                values["session_digest"] = digest(secrets.token_bytes(32))
            ids[table.name][own] = insert(connection, table, values)
        except (ValueError, sa.exc.IntegrityError) as error:
            reason = "it is here already, or twice" if isinstance(error, sa.exc.IntegrityError) else one_line(error)
            raise StudyError(f"line {number} of the study: {reason}") from None
    if len(ids["study"]) != 1:
        raise StudyError("the file holds no study: write it with rlopt rank export")
    ((_, study_id),) = ids["study"].items()
    shown = {key: ids["clip"].get(value) for key, value in later.items()}
    connection.execute(sa.update(_BY_NAME["study"]).where(_BY_NAME["study"].c.id == study_id).values(**shown))
    return study_id


def _values(table: sa.Table, line: dict[str, Any], ids: dict[str, dict[int, int]]) -> dict[str, Any]:
    """A row's values, each of the type of its column; links lead to lines that came before."""
    expected = {column.name for column in table.c} - LEFT_OUT
    line = dict.fromkeys(ADDED.get(table.name, ())) | line  # of an earlier version
    if set(line) != expected:
        raise ValueError(f"a {table.name} has exactly {', '.join(sorted(expected))}")
    linked = {name: other for name, other in links(table).items() if table.name != "study"}
    values = {}
    for name, value in line.items():
        if value is None:
            if not table.c[name].nullable:
                raise ValueError(f"{name} is missing")
        elif name in linked:
            if type(value) is not int or value not in ids[linked[name]]:
                raise ValueError(f"{name} leads to no {linked[name]} before it")
            value = ids[linked[name]][value]
        else:
            value = _value(table.c[name], name, value)
        values[name] = value
    if values["id"] in ids[table.name]:
        raise ValueError("its id occurs twice")
    return values


def _value(column: sa.Column[Any], name: str, value: Any) -> Any:
    kind = column.type
    if isinstance(kind, sa.LargeBinary):
        try:
            data = base64.b64decode(value if isinstance(value, str) else "-", validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"{name} is not base64") from None
        unpack(data)
        return data
    wanted: tuple[type, ...] = (str,)
    if isinstance(kind, sa.Boolean):
        wanted = (bool,)
    elif isinstance(kind, sa.Double):
        wanted = (int, float)
    elif isinstance(kind, sa.Integer):
        wanted = (int,)
    if type(value) not in wanted:
        raise ValueError(f"{name} is {one_line(json.dumps(value))[:40]}, not {wanted[-1].__name__}")
    if wanted == (int,) and not -(2**31) <= value < 2**31:
        raise ValueError(f"{name} is out of range")
    if isinstance(kind, sa.String) and kind.length is not None and len(value) > kind.length:
        raise ValueError(f"{name} is too long")
    if name in ("public_id", "media_id", "poster_id") and not is_opaque(value):
        raise ValueError(f"{name} is not a random id")
    if (name.endswith("sha256") or name.startswith("digest")) and not _DIGEST.fullmatch(value):
        raise ValueError(f"{name} is not a digest")
    return value


def _check(connection: sa.Connection, study_id: int) -> None:
    """What a study is besides its rows: states, media and answers that make sense.

    :raises StudyError: the first that does not
    """
    from rlopt.feedback.ranking import Ranking

    row = connection.execute(sa.select(_BY_NAME["study"]).where(_BY_NAME["study"].c.id == study_id)).mappings().one()
    if row["format"] != FORMAT or row["media"] not in MEDIA or row["annotators"] < 1:
        raise StudyError(f"the study has another format than {FORMAT}, or is malformed")
    for text in connection.execute(sa.select(clip.c.path, clip.c.poster).where(clip.c.study_id == study_id)):
        for path in text:
            parts = path.split("/")
            if os.path.isabs(path) or ".." in parts or "" in parts or os.path.splitext(path)[1] not in TYPES:
                raise StudyError(f"the study names a clip {one_line(path)!r} that is outside its folder or no clip")
    _check_whole(connection, study_id)
    columns = (round_.c.status, round_.c.m, answer.c.tiers, answer.c.unranked, answer.c.abstain, round_.c.iteration)
    wanted = sa.select(*columns).outerjoin(answer, answer.c.round_id == round_.c.id)
    for status, m, tiers, unranked, abstain, iteration in connection.execute(
        wanted.where(round_.c.study_id == study_id)
    ):
        what = f"round {iteration} of the study"
        if status not in _STATUSES or m < 1:
            raise StudyError(f"{what} is malformed")
        if tiers is None:
            continue
        try:
            Ranking.from_json({"tiers": parse_json(tiers), "unranked": parse_json(unranked), "abstain": abstain}).check(
                m
            )
        except (ValueError, AnswerError, CheckpointError) as error:
            raise StudyError(f"{what} has an answer that is none: {one_line(error)}") from None


def _check_whole(connection: sa.Connection, study_id: int) -> None:
    """The newest state is the file's last line: without it the end of the file is missing."""
    mine = optimizer_state.c.study_id == study_id
    newest = connection.execute(sa.select(sa.func.max(optimizer_state.c.iteration)).where(mine)).scalar_one()
    used = (round_.c.study_id == study_id) & (round_.c.status == "consumed")
    steps = sa.func.count(sa.distinct(sa.func.coalesce(round_.c.step, round_.c.iteration)))
    updates = connection.execute(sa.select(steps).select_from(round_).where(used)).scalar_one()
    if newest != updates:
        raise StudyError(
            f"the file holds {updates} updates of the search and no state after them: it is not whole, export it again"
        )


def _copy(source: Path, target: Path, relative: str, expected: str) -> None:
    """Copies a clip, unless it is there already."""
    if file_digest(source, relative) != expected:
        raise StudyError(f"the clip {relative} is not the one that was exported: copy it again")
    place = target / relative
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"the folder {place.parent} cannot be made ({error.strerror}): use another folder") from None
    if target.resolve() not in place.parent.resolve().parents and place.parent.resolve() != target.resolve():
        raise StudyError(f"the place of the clip {relative} is outside the study's folder")
    if place.is_symlink() or place.exists():
        if file_digest(target, relative) != expected:
            raise StudyError(f"another clip is at {place}: import into a new folder")
        return
    with (
        open_below(source, relative) as file,
        replacing(place, StudyError, "use another folder") as new,
        open(new, "wb") as copy,
    ):
        shutil.copyfileobj(file, copy)
