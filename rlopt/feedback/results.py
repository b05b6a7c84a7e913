"""How far a study is, for those who rank and for its results page. Nothing here reads a return."""

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from rlopt.console.progress import duration
from rlopt.feedback import protocol_rounds, schema
from rlopt.feedback.agreement import Agreement, Given, agreement, between_raters, each_rater, wilson
from rlopt.feedback.protocol import StudyProtocol
from rlopt.feedback.rounds import LEASE_SECONDS, ShownClip
from rlopt.feedback.schema import answer, clip, round_
from rlopt.feedback.statements import ANSWERED_IN_OPEN, ANY_FOR_RATER, FREE, OF_STUDY, OPEN_COUNT, STANDING, Prepared
from rlopt.feedback.store import Study, StudyStore, is_opaque
from rlopt.feedback.trainer import answers_by_clips, study_reliabilities

DUELS = 10
"""Duels of a point of the learning curve."""
SILENT_SECONDS = 60.0
"""After which people are told since when nothing was heard of the trainer."""
_PROGRESS = Prepared(
    sa.select(
        sa.func.count().label("rounds"),
        sa.func.sum(round_.c.m).label("clips"),
        sa.func.sum(answer.c.seconds).label("seconds"),
        sa.func.sum(sa.case(((round_.c.status == "open") | (round_.c.status == "answered"), 1), else_=0)).label("open"),
        sa.select(sa.func.count())
        .select_from(done := round_.alias())
        .where(done.c.study_id == sa.bindparam("study"), done.c.status == "consumed")
        .scalar_subquery()
        .label("consumed"),
    )
    .select_from(answer.join(round_, round_.c.id == answer.c.round_id))
    .where(answer.c.rater_id == sa.bindparam("rater"), STANDING, OF_STUDY)
)
_OPEN = "open", "There are clips to rank."
_LIVE = sa.select(round_.c.id).where(OF_STUDY, FREE, round_.c.status.in_(("open", "answered", "rendering"))).limit(1)
_TRAINER = Prepared(
    sa.select(schema.study.c.trainer_seen, schema.study.c.finished).where(schema.study.c.id == sa.bindparam("study"))
)


def progress(
    store: StudyStore,
    study: Study,
    rater_id: int,
    lease_seconds: float = LEASE_SECONDS,
    protocol: StudyProtocol | None = None,
    holds: bool = False,
) -> dict[str, Any]:
    """What a rater sees of the study: ``rounds_answered``, ``clips_watched`` and ``minutes`` are the rater's own.

    ``state`` is ``open`` (there is something to rank), ``rendering`` (the trainer is at work), ``waiting`` (for other
    people's answers) or ``finished``; ``message`` says so in a sentence. ``rounds_asked`` is how many the protocol asks
    of a rater, ``completion`` its code and address for one who is done.

    :param lease_seconds: as the server's
    :param holds: whether the rater was just given a round, so that nothing needs to be looked for
    """
    now, protocol = store.clock(), protocol or StudyProtocol()
    with store.database.read() as connection:
        row = _PROGRESS.first(connection, {"study": study.id, "rater": rater_id})
        state, message = _OPEN if holds else _state(connection, study, rater_id, now, lease_seconds)
        if protocol_rounds.is_done(connection, protocol, study, rater_id):
            state, message = "finished", "You have done all that was asked: thank you."
        elif protocol_rounds.is_over(connection, protocol, study, now):
            state, message = "finished", "The study is finished: thank you."
    completion = protocol.completion
    return {
        "rounds_asked": protocol.rounds_per_rater,
        "completion": completion if state == "finished" and row.rounds and any(completion.values()) else None,
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
        .order_by(round_.c.step, round_.c.iteration)
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


def study_raters(store: StudyStore, study: Study) -> tuple[list[dict[str, Any]], list[list[float | None]]]:
    """Each rater who had an opinion, and how far each two agree.

    Of a rater: name, or the number in the order in which they came; rounds; agreement with others; how often the rater
    saw the same clips twice, and the share of pairs in the same order then; trust.
    """
    opinions = _opinions(store, study)
    found = each_rater(opinions)
    wanted = sa.select(schema.rater.c.id, schema.rater.c.name).where(schema.rater.c.study_id == study.id)
    with store.database.read() as connection:
        raters = connection.execute(wanted.order_by(schema.rater.c.id)).all()
        known = study_reliabilities(connection, study)
        twice = _twice(answers_by_clips(connection, study))
    shown = [(number, rater, name) for number, (rater, name) in enumerate(raters, start=1) if rater in found]
    rows = []
    for number, rater, name in shown:
        again = agreement(twice.get(rater, []), 1)
        row = {"name": name or f"rater {number}", "rounds": found[rater].rounds, "pairwise": found[rater].pairwise}
        row |= {"repeats": again.rounds, "same": again.pairwise}
        rows.append({**row, "trust": known[rater].trust if known[rater].pairs else None})
    return rows, between_raters(opinions, [rater for _, rater, _ in shown])


def study_duels(store: StudyStore, study: Study) -> list[dict[str, Any]]:
    """Blind duels of the current policy with the first, by update: how many, the share that it won, its interval.

    Updates are joined until a group has :data:`DUELS` duels. A tie counts half; an answer without opinion does not.
    """
    wanted = (
        sa.select(round_.c.step, answer.c.tiers)
        .join(answer, answer.c.round_id == round_.c.id)
        .where(round_.c.study_id == study.id, round_.c.kind == "duel", STANDING, answer.c.abstain.is_(False))
        .order_by(round_.c.step, round_.c.id)
    )
    with store.database.read() as connection:
        duels = connection.execute(wanted).all()
    found: list[dict[str, Any]] = []
    for begin in range(0, len(duels), DUELS):
        group = duels[begin : begin + DUELS]
        won = sum({(1,): 1.0, (0,): 0.0}.get(tuple(json.loads(tiers)[0]), 0.5) for _, tiers in group)
        found.append({"step": group[-1].step or 0, "rounds": len(group), "won": won / len(group),
                      "interval": wilson(won, len(group))})  # fmt: skip
    return found


def study_activity(store: StudyStore, study: Study) -> dict[str, Any]:
    """What goes on: rounds open to raters, raters, those who hold a round now, answers, minutes of ranking."""
    now = store.clock()
    mine = round_.c.study_id == study.id
    with store.database.read() as connection:
        answers, seconds = connection.execute(
            sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(answer.c.seconds), 0.0))
            .select_from(answer.join(round_, round_.c.id == answer.c.round_id))
            .where(mine, STANDING)
        ).one()
        raters = sa.select(sa.func.count()).select_from(schema.rater).where(schema.rater.c.study_id == study.id)
        held = schema.assignment
        active = (
            sa.select(sa.func.count(sa.distinct(held.c.rater_id)))
            .select_from(held.join(round_, round_.c.id == held.c.round_id))
            .where(mine, held.c.state == "leased", held.c.lease_until > now)
        )
        return {
            "open": int(OPEN_COUNT.scalar(connection, {"study": study.id})),
            "raters": int(connection.execute(raters).scalar_one()),
            "active": int(connection.execute(active).scalar_one()),
            "answers": int(answers),
            "minutes": round(float(seconds) / 60, 1),
        }


def _twice(seen: Sequence[Sequence[tuple[int, Given]]]) -> dict[int, list[list[Given]]]:
    """For every rater the orders of the sets of clips that the rater saw more than once."""
    found: dict[int, list[list[Given]]] = {}
    for answers in seen:
        for rater in {rater for rater, _ in answers}:
            own = [given for one, given in answers if one == rater]
            if len(own) > 1:
                found.setdefault(rater, []).append(own)
    return found


def _opinions(store: StudyStore, study: Study) -> list[dict[int, Given]]:
    """For every set of clips the first order of each rater."""
    with store.database.read() as connection:
        seen = answers_by_clips(connection, study)
    return [dict(reversed(answers)) for answers in seen]


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
    if ANY_FOR_RATER.first(connection, {**wanted, "annotators": study.annotators}) is not None:
        return _OPEN
    needed = study.annotators * int(OPEN_COUNT.scalar(connection, {"study": study.id}))
    missing = needed - int(ANSWERED_IN_OPEN.scalar(connection, {"study": study.id})) if needed else 0
    seen, finished = _TRAINER.first(connection, {"study": study.id})
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


def describe(store: StudyStore, study: Study) -> str:
    """A few lines for people."""
    of_study, rater = round_.c.study_id == study.id, schema.rater
    with store.database.read() as connection:
        by_status = sa.select(round_.c.status, sa.func.count()).where(of_study).group_by(round_.c.status)
        counts = {str(status): int(count) for status, count in connection.execute(by_status).all()}
        standing = answer.c.withdrawn_at.is_(None)
        answers, abstained, seconds = connection.execute(
            sa.select(
                sa.func.count(), sa.func.sum(sa.cast(answer.c.abstain, sa.Integer)), sa.func.sum(answer.c.seconds)
            )
            .select_from(answer.join(round_, round_.c.id == answer.c.round_id))
            .where(of_study, standing)
        ).one()
        raters = connection.execute(
            sa.select(rater.c.public_id, rater.c.name, sa.func.count(answer.c.id))
            .outerjoin(answer, (answer.c.rater_id == rater.c.id) & standing)
            .where(rater.c.study_id == study.id)
            .group_by(rater.c.id, rater.c.public_id, rater.c.name)
            .order_by(rater.c.id)
        ).all()
    rounds, agreed = study_rounds(store, study), study_agreement(store, study)
    shown = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "none yet"
    facts = {
        "algorithm": study.algorithm,
        "media": f"{study.media}, in {store.media_root}",
        "rounds": shown,
        "answers": f"{answers}, of which {abstained or 0} without opinion, in {duration(seconds or 0.0)}; "
        f"{study.annotators} a round",
        "moved": f"{rounds[-1]['distance_from_start']:.4g} from the start" if rounds else "not yet",
        "agreement": "no round was ranked by two people"
        if agreed.pairwise is None
        else f"{100 * agreed.pairwise:.0f} % of pairs, in {agreed.rounds} rounds",
    }
    lines = [f"study {study.name!r}", *(f"  {name:<11}{value}" for name, value in facts.items())]
    lines += [f"  rater      {public[:8]} {name or '(no name)'}: {count} answers" for public, name, count in raters]
    return "\n".join(lines)
