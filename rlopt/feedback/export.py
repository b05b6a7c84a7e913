"""Studies as text: everything as JSON lines, which can be imported again, pairs for preference learning, or a table.

A JSON line is ``{"type": "round", "id": 3, ...}``: a row of the table of that name (:mod:`rlopt.feedback.schema`).
Ids count from 1 in the file and link its lines; binary values are base64; sessions are left out, and names unless asked
for.
"""

import base64
import csv
import itertools
import json
from collections.abc import Iterator
from typing import IO, Any

import sqlalchemy as sa

from rlopt.errors import unknown_name
from rlopt.feedback.agreement import places
from rlopt.feedback.schema import TABLES, answer, candidate, clip, rater, round_
from rlopt.feedback.store import Study, StudyStore
from rlopt.storage.json import dump_json

HEADER = {"type": "rlopt-study", "version": 1}
FORMATS = ("jsonl", "pairs", "csv")
LEFT_OUT = {"session_digest", "trainer", "trainer_seen"}
"""Columns that mean nothing elsewhere."""
CSV_COLUMNS = (
    "study", "round", "iteration", "kind", "rater", "revision", "slot", "clip", "place", "abstain", "seconds",
)  # fmt: skip


def export(store: StudyStore, study: Study, form: str, out: IO[str], *, names: bool = False) -> int:
    """Writes a study; returns the number of lines.

    :param form: ``jsonl`` (everything), ``pairs`` or ``csv`` (the standing answers)
    :param names: whether the raters' names are written too, as ``name``
    :raises UnknownNameError: another format
    """
    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS)
    with store.database.read() as connection:
        if form == "csv":
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow([*CSV_COLUMNS, *(["name"] if names else [])])
            rows = list(_table(connection, study, names))
            writer.writerows(rows)
            return 1 + len(rows)
        lines = _everything(connection, study, names) if form == "jsonl" else _pairs(connection, study, names)
        count = 0
        for line in lines:
            out.write(dump_json(line) + "\n")
            count += 1
    return count


def links(table: sa.Table) -> dict[str, str]:
    """Column -> the table whose ids it holds."""
    found = {key.parent.name: key.column.table.name for key in table.foreign_keys}
    more = {"study": {"start_clip": "clip", "now_clip": "clip"}, "round": {"source": "round", "for_rater": "rater"}}
    return found | more.get(table.name, {})


def _everything(connection: sa.Connection, study: Study, names: bool) -> Iterator[dict[str, Any]]:
    yield HEADER
    numbers: dict[str, dict[int, int]] = {}
    for table in TABLES:
        own = connection.execute(_ids(table, study.id)).scalars()
        numbers[table.name] = {row_id: number for number, row_id in enumerate(own, start=1)}
    for table in TABLES:
        linked = links(table)
        for row_id, number in numbers[table.name].items():  # one at a time: states and candidates may be large
            row = connection.execute(sa.select(table).where(table.c.id == row_id)).mappings().one()
            line: dict[str, Any] = {"type": table.name}
            for name, value in row.items():
                if name in LEFT_OUT:
                    continue
                if name == "id":
                    value = number
                elif name in linked and value is not None:
                    value = numbers[linked[name]][value]
                elif isinstance(value, bytes):
                    value = base64.b64encode(value).decode()
                elif table.name == "rater" and name == "name" and not names:
                    value = None
                line[name] = value
            yield line


def _ids(table: sa.Table, study_id: int) -> sa.Select[Any]:
    """The ids of the rows that belong to a study, oldest first."""
    wanted = sa.select(table.c.id).order_by(table.c.id)
    if table.name == "study":
        return wanted.where(table.c.id == study_id)
    if "study_id" in table.c:
        return wanted.where(table.c.study_id == study_id)
    return wanted.where(table.c.round_id.in_(sa.select(round_.c.id).where(round_.c.study_id == study_id)))


def _standing(connection: sa.Connection, study: Study) -> Iterator[sa.RowMapping]:
    """The standing answers of a study with the rounds and raters that they are of."""
    columns = (
        answer, round_.c.public_id.label("round"), round_.c.iteration, round_.c.kind, rater.c.public_id.label("rater"),
        rater.c.name,
    )  # fmt: skip
    wanted = (
        sa.select(*columns)
        .join(round_, round_.c.id == answer.c.round_id)
        .join(rater, rater.c.id == answer.c.rater_id)
        .where(round_.c.study_id == study.id, answer.c.withdrawn_at.is_(None))
        .order_by(round_.c.iteration, answer.c.id)
    )
    yield from connection.execute(wanted).mappings().all()


def _candidates(connection: sa.Connection, round_id: int) -> list[sa.RowMapping]:
    """The candidates of a round with their clips, by slot."""
    columns = (candidate.c.slot, candidate.c.params_sha256, clip.c.path, clip.c.sha256, clip.c.seeds)
    wanted = sa.select(*columns).join(clip, clip.c.id == candidate.c.clip_id).where(candidate.c.round_id == round_id)
    return list(connection.execute(wanted.order_by(candidate.c.slot)).mappings().all())


def _pairs(connection: sa.Connection, study: Study, names: bool) -> Iterator[dict[str, Any]]:
    """A line for every pair of candidates that an answer compares.

    ``preference`` is the probability that the first is preferred, as preference learners (``imitation``) take it: 1, 0,
    or .5 for a tie. Two unranked candidates were not compared.
    """
    for row in _standing(connection, study):
        if row["abstain"]:
            continue
        tiers, unranked = json.loads(row["tiers"]), json.loads(row["unranked"])
        place = places(tiers, unranked)
        found = _candidates(connection, row["round_id"])
        for first, second in itertools.combinations(range(len(found)), 2):
            if place[first] == place[second] == len(tiers):
                continue
            preference = 0.5 if place[first] == place[second] else float(place[first] < place[second])
            yield {
                "study": study.name,
                "round": row["round"],
                "iteration": row["iteration"],
                "kind": row["kind"],
                "rater": row["rater"],
                **({"name": row["name"]} if names else {}),
                "first": _side(found[first]),
                "second": _side(found[second]),
                "preference": preference,
            }


def _side(row: sa.RowMapping) -> dict[str, Any]:
    return {
        "slot": row["slot"],
        "clip": row["path"],
        "clip_sha256": row["sha256"],
        "seeds": json.loads(row["seeds"]),
        "params_sha256": row["params_sha256"],
    }


def _table(connection: sa.Connection, study: Study, names: bool) -> Iterator[list[Any]]:
    """A row for every candidate of every standing answer; the place is empty for what was not ranked."""
    for row in _standing(connection, study):
        tiers = json.loads(row["tiers"])
        by_slot = {slot: place for place, tier in enumerate(tiers, start=1) for slot in tier}
        for found in _candidates(connection, row["round_id"]):
            place = by_slot.get(found["slot"], "")
            yield [
                study.name, row["round"], row["iteration"], row["kind"], row["rater"], row["revision"], found["slot"],
                found["path"], place, int(row["abstain"]), row["seconds"], *([row["name"] or ""] if names else []),
            ]  # fmt: skip
