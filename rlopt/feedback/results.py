"""How far a study is, for those who rank and for its results page. Nothing here reads a return."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from rlopt.feedback import schema
from rlopt.feedback.agreement import Agreement, Given, agreement, each_rater
from rlopt.feedback.rounds import LEASE_SECONDS, ShownClip
from rlopt.feedback.schema import answer, clip, round_
from rlopt.feedback.statements import ANSWERED_IN_OPEN, ANY_FOR_RATER, OF_STUDY, OPEN_COUNT, STANDING
from rlopt.feedback.store import Study, StudyStore, is_opaque

SILENT_SECONDS = 60.0
"""After which people are told since when nothing was heard of the trainer."""
_PROGRESS = (
    sa.select(
        sa.func.count().label("rounds"),
        sa.func.sum(round_.c.m).label("clips"),
        sa.func.sum(answer.c.seconds).label("seconds"),
        sa.func.sum(sa.case((round_.c.status.in_(("open", "answered")), 1), else_=0)).label("open"),
        sa.select(sa.func.count())
        .select_from(done := round_.alias())
        .where(done.c.study_id == sa.bindparam("study"), done.c.status == "consumed")
        .scalar_subquery()
        .label("consumed"),
    )
    .select_from(answer.join(round_, round_.c.id == answer.c.round_id))
    .where(answer.c.rater_id == sa.bindparam("rater"), STANDING, OF_STUDY)
)
_LIVE = sa.select(round_.c.id).where(OF_STUDY, round_.c.status.in_(("open", "answered", "rendering"))).limit(1)
_TRAINER = sa.select(schema.study.c.trainer_seen, schema.study.c.finished).where(
    schema.study.c.id == sa.bindparam("study")
)


def progress(store: StudyStore, study: Study, rater_id: int, lease_seconds: float = LEASE_SECONDS) -> dict[str, Any]:
    """What a rater sees of the study: ``rounds_answered``, ``clips_watched`` and ``minutes`` are the rater's own.

    ``state`` is ``open`` (there is something to rank), ``rendering`` (the trainer is at work), ``waiting`` (for other
    people's answers) or ``finished``; ``message`` says so in a sentence.

    :param lease_seconds: as the server's
    """
    now = store.clock()
    with store.database.read() as connection:
        row = connection.execute(_PROGRESS, {"study": study.id, "rater": rater_id}).one()
        state, message = _state(connection, study, rater_id, now, lease_seconds)
    return {
        "rounds_answered": row.rounds,
        "rounds_consumed": row.consumed,
        "clips_watched": row.clips or 0,
        "minutes": round((row.seconds or 0.0) / 60, 2),
        "state": state,
        "message": message,
        "can_undo": bool(row.open),
    }


def study_rounds(store: StudyStore, study: Study) -> list[dict[str, Any]]:
    """The rounds that were consumed, oldest first, by what they did to the parameters."""
    standing = (
        sa.select(answer.c.round_id, sa.func.count().label("answers"), sa.func.sum(answer.c.seconds).label("seconds"))
        .where(STANDING)
        .group_by(answer.c.round_id)
        .subquery()
    )
    rows = (
        sa.select(
            round_.c.iteration, round_.c.kind, round_.c.step_norm, round_.c.distance_from_start,
            standing.c.answers, standing.c.seconds,
        )
        .outerjoin(standing, standing.c.round_id == round_.c.id)
        .where(round_.c.study_id == study.id, round_.c.status == "consumed")
        .order_by(round_.c.iteration)
    )  # fmt: skip
    with store.database.read() as connection:
        return [
            {
                "iteration": row["iteration"],
                "kind": row["kind"],
                "step_norm": row["step_norm"],
                "distance_from_start": row["distance_from_start"],
                "stayed": row["kind"] == "line_search" and row["step_norm"] == 0,
                "answers": row["answers"] or 0,
                "seconds": round(row["seconds"] or 0.0, 1),
            }
            for row in connection.execute(rows).mappings().all()
        ]


def study_agreement(store: StudyStore, study: Study) -> Agreement:
    """How far raters who answered the same rounds agree."""
    rounds = _opinions(store, study)
    return agreement([list(answers.values()) for answers in rounds], len({rater for each in rounds for rater in each}))


def study_raters(store: StudyStore, study: Study) -> list[dict[str, Any]]:
    """Each rater who had an opinion: name, or the number in the order in which they came; rounds; agreement."""
    found = each_rater(_opinions(store, study))
    wanted = sa.select(schema.rater.c.id, schema.rater.c.name).where(schema.rater.c.study_id == study.id)
    with store.database.read() as connection:
        raters = connection.execute(wanted.order_by(schema.rater.c.id)).all()
    return [
        {"name": name or f"rater {number}", "rounds": found[rater].rounds, "pairwise": found[rater].pairwise}
        for number, (rater, name) in enumerate(raters, start=1)
        if rater in found
    ]


def _opinions(store: StudyStore, study: Study) -> list[dict[int, Given]]:
    """For every round the answers that stand, by rater."""
    wanted = (
        sa.select(answer.c.round_id, answer.c.rater_id, answer.c.tiers, answer.c.unranked)
        .join(round_, round_.c.id == answer.c.round_id)
        .where(round_.c.study_id == study.id, STANDING, answer.c.abstain.is_(False))
        .order_by(answer.c.round_id, answer.c.rater_id)
    )
    by_round: dict[int, dict[int, Given]] = {}
    with store.database.read() as connection:
        for round_id, rater_id, tiers, unranked in connection.execute(wanted).all():
            by_round.setdefault(round_id, {})[rater_id] = (json.loads(tiers), json.loads(unranked))
    return list(by_round.values())


def point_clip(store: StudyStore, study: Study, which: str) -> ShownClip | None:
    """The clip of the point where the search began ("start") or is ("now"), if there is one."""
    column = schema.study.c[f"{which}_clip"]
    columns = (clip.c.media_id, clip.c.media_id, clip.c.poster_id, clip.c.fps, clip.c.frames, clip.c.width)
    wanted = sa.select(*columns, clip.c.height).join(schema.study, column == clip.c.id)
    with store.database.read() as connection:
        row = connection.execute(wanted.where(schema.study.c.id == study.id)).first()
    return None if row is None else ShownClip(*row)


def media_file(store: StudyStore, study: Study, media_id: str) -> tuple[str, str] | None:
    """Path below the media folder and SHA-256 of what an opaque id names, in this study."""
    if not is_opaque(media_id):
        return None
    mine = clip.c.study_id == study.id
    with store.database.read() as connection:
        row = connection.execute(
            sa.select(clip.c.path, clip.c.sha256)
            .where(mine, clip.c.media_id == media_id)
            .union_all(sa.select(clip.c.poster, clip.c.poster_sha256).where(mine, clip.c.poster_id == media_id))
        ).first()
    return None if row is None else (row[0], row[1])


def _state(connection: sa.Connection, study: Study, rater_id: int, now: float, lease_seconds: float) -> tuple[str, str]:
    """The state of a study for a rater, and a sentence about it."""
    wanted = {"study": study.id, "rater": rater_id, "now": now, "latest": now + lease_seconds + 1.0}
    if connection.execute(ANY_FOR_RATER, {**wanted, "annotators": study.annotators}).first() is not None:
        return "open", "There are clips to rank."
    needed = study.annotators * int(connection.execute(OPEN_COUNT, {"study": study.id}).scalar_one())
    missing = needed - int(connection.execute(ANSWERED_IN_OPEN, {"study": study.id}).scalar_one()) if needed else 0
    seen, finished = connection.execute(_TRAINER, {"study": study.id}).one()
    if missing:
        return "waiting", f"Waiting for {missing} more answer{'s' if missing > 1 else ''} of other people."
    if finished and connection.execute(_LIVE, {"study": study.id}).first() is None:
        return "finished", "The study is finished: thank you."
    silent = now - seen if seen is not None else None
    if silent is not None and silent > SILENT_SECONDS:
        minutes = max(1, round(silent / 60))
        return "rendering", (
            f"The trainer was last heard of {minutes} minute{'s' if minutes > 1 else ''} ago: it may be drawing long "
            "clips, or need to be started again."
        )
    return "rendering", "The trainer is working: the next clips are being made."
