"""Rounds that a study's protocol makes for one rater: training, checks and duels. The search uses none of them."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from rlopt.feedback import schema, statements
from rlopt.feedback.agreement import pair_signs
from rlopt.feedback.protocol import StudyProtocol
from rlopt.feedback.schema import answer, candidate, rater, round_
from rlopt.feedback.store import Study, digest, insert, log, opaque
from rlopt.feedback.trainer import pack

_LATER = 3
"""Rounds that lie at least between an order and its repetition."""
_STANDING = answer.c.withdrawn_at.is_(None)
_MINE: sa.BindParameter[int] = sa.bindparam("rater")
_COUNTS = (
    sa.select(sa.func.count().label("rounds"), sa.func.coalesce(sa.func.sum(answer.c.seconds), 0.0).label("seconds"))
    .select_from(answer.join(round_, round_.c.id == answer.c.round_id))
    .where(answer.c.rater_id == _MINE, _STANDING, round_.c.study_id == sa.bindparam("study"))
)
_DONE = sa.select(round_.c.source).where(round_.c.for_rater == _MINE, round_.c.source.is_not(None))
_OWN = (
    sa.select(round_.c.id)
    .join(answer, answer.c.round_id == round_.c.id)
    .where(round_.c.study_id == sa.bindparam("study"), round_.c.for_rater.is_(None), round_.c.m > 2)
    .where(_STANDING, answer.c.abstain.is_(False))
)
_OF_EXPERTS = (
    _OWN.join(rater, rater.c.id == answer.c.rater_id)
    .where(rater.c.expert.is_(True), answer.c.rater_id != _MINE, round_.c.id.not_in(_DONE))
    .where(~sa.exists().where(answer.c.rater_id == _MINE, answer.c.round_id == round_.c.id).correlate(round_))
    .order_by(round_.c.id)
    .limit(1)
)
_REPEATABLE = (
    _OWN.where(answer.c.rater_id == _MINE, round_.c.id.not_in(_DONE)).order_by(answer.c.id.desc()).offset(_LATER - 1)
).limit(1)
_OF_OTHERS = (
    _OWN.where(answer.c.rater_id != _MINE, round_.c.id.not_in(_DONE))
    .where(round_.c.status.in_(("consumed", "answered")))
    .order_by(round_.c.id)
    .limit(1)
)

_TRAINED = (
    sa.select(round_.c.id, round_.c.source, answer.c.tiers, answer.c.unranked, answer.c.abstain)
    .join(answer, answer.c.round_id == round_.c.id)
    .where(statements.OF_STUDY, round_.c.public_id == sa.bindparam("public_id"), round_.c.kind == "training")
    .where(answer.c.rater_id == _MINE, _STANDING)
)
_EXPERTS_ORDER = (
    sa.select(answer.c.tiers, answer.c.unranked)
    .join(rater, rater.c.id == answer.c.rater_id)
    .where(answer.c.round_id == sa.bindparam("source"), rater.c.expert.is_(True))
    .where(_STANDING, answer.c.abstain.is_(False))
    .order_by(answer.c.id)
    .limit(1)
)


def counts(connection: sa.Connection, study: Study, rater_id: int) -> tuple[int, float]:
    """How many rounds a rater has answered, and for how many minutes."""
    row = connection.execute(_COUNTS, {"rater": rater_id, "study": study.id}).one()
    return int(row.rounds), float(row.seconds) / 60


def is_over(connection: sa.Connection, protocol: StudyProtocol, study: Study, now: float) -> bool:
    """Whether the study's time is up."""
    if protocol.study_hours is None:
        return False
    made = connection.execute(sa.select(schema.study.c.created_at).where(schema.study.c.id == study.id)).scalar_one()
    return now >= float(made) + 3600 * protocol.study_hours


def is_done(connection: sa.Connection, protocol: StudyProtocol, study: Study, rater_id: int) -> bool:
    """Whether a rater has answered all that the protocol asks of one."""
    if not protocol.ends:
        return False
    rounds, minutes = counts(connection, study, rater_id)
    enough = protocol.rounds_per_rater is not None and rounds >= protocol.rounds_per_rater
    return enough or (protocol.minutes_per_rater is not None and minutes >= protocol.minutes_per_rater)


def may_go_on(connection: sa.Connection, protocol: StudyProtocol, study: Study, rater_id: int, now: float) -> bool:
    """Whether a rater is to get a round."""
    return not (is_over(connection, protocol, study, now) or is_done(connection, protocol, study, rater_id))


def due(connection: sa.Connection, protocol: StudyProtocol, study: Study, rater_id: int, now: float) -> str | None:
    """Makes the round that the protocol has for a rater now; its public id, or None if it is the search's turn."""
    if not (protocol.training_rounds or protocol.repeat_every or protocol.duel_every):
        return None
    number = counts(connection, study, rater_id)[0]
    mine = {"rater": rater_id, "study": study.id}
    expert = connection.execute(sa.select(rater.c.expert).where(rater.c.id == rater_id)).scalar()
    if number < protocol.training_rounds and not expert:
        source = connection.execute(_OF_EXPERTS, mine).scalar() or connection.execute(_OF_OTHERS, mine).scalar()
        if source is not None:
            return _again(connection, study, rater_id, number, source, "training", now)
    if protocol.duel_every and number % protocol.duel_every == protocol.duel_every - 1:
        made = _duel(connection, study, rater_id, number, now)
        if made is not None:
            return made
    if protocol.repeat_every and number % protocol.repeat_every == protocol.repeat_every - 1:
        source = None if expert else connection.execute(_OF_EXPERTS, mine).scalar()
        source = source or connection.execute(_REPEATABLE, mine).scalar()
        if source is not None:
            return _again(connection, study, rater_id, number, source, "check", now)
    return None


@dataclass(frozen=True)
class Told:
    """What a rater is told after a training round."""

    pairs: int
    """That the expert and the rater both order."""
    same: int
    """Of these, how many both put in the same order."""
    tiers: list[list[str]]
    """The expert's order, by the ids of the clips that the rater saw."""
    unranked: list[str]
    posters: dict[str, str]
    """Media ids of the clips' posters."""


def told(connection: sa.Connection, study: Study, rater_id: int, round_public_id: str) -> Told | None:
    """How a rater's order in a training round agrees with the expert's; None of other rounds, and without an expert."""
    mine = {"rater": rater_id, "study": study.id, "public_id": round_public_id}
    own = connection.execute(_TRAINED, mine).first()
    known = own and connection.execute(_EXPERTS_ORDER, {"source": own.source}).first()
    if own is None or known is None:
        return None
    # The clips have the slots that they have in the expert's round.
    shown = statements.SHOWN.all(connection, {"round": own.id})
    name = {clip.slot: clip.public_id for clip in shown}
    tiers, unranked = json.loads(known.tiers), json.loads(known.unranked)
    given = json.loads(own.tiers), json.loads(own.unranked)
    both = np.zeros(0) if own.abstain else pair_signs(given) * pair_signs((tiers, unranked))
    return Told(
        int((both != 0).sum()),
        int((both > 0).sum()),
        [[name[slot] for slot in tier] for tier in tiers],
        [name[slot] for slot in unranked],
        {clip.public_id: clip.poster_id for clip in shown},
    )


def _again(
    connection: sa.Connection, study: Study, rater_id: int, number: int, source: int, kind: str, now: float
) -> str:
    """The clips of a round once more."""
    row = connection.execute(sa.select(round_).where(round_.c.id == source)).mappings().one()
    shown = connection.execute(
        sa.select(candidate.c.clip_id, candidate.c.params_sha256)
        .where(candidate.c.round_id == source)
        .order_by(candidate.c.slot)
    ).all()
    values = {"m": row["m"], "k": row["k"], "params": row["params"], "source": source}
    return _made(connection, study, rater_id, number, kind, values, [(clip, sha) for clip, sha in shown], now)


def _duel(connection: sa.Connection, study: Study, rater_id: int, number: int, now: float) -> str | None:
    """The first policy (slot 0) and the current one (slot 1), once they are two and have clips."""
    columns = (schema.study.c.start_clip, schema.study.c.now_clip)
    start, present = connection.execute(sa.select(*columns).where(schema.study.c.id == study.id)).one()
    if start is None or present is None or start == present:
        return None
    values = {"m": 2, "k": 1, "params": pack({"candidates": np.zeros((2, 0))}), "source": None}
    return _made(connection, study, rater_id, number, "duel", values, [(start, digest("")), (present, digest(""))], now)


def _made(
    connection: sa.Connection, study: Study, rater_id: int, number: int, kind: str, values: dict[str, Any],
    clips: list[tuple[int, str]], now: float,
) -> str:  # fmt: skip
    last = sa.select(sa.func.max(round_.c.step)).where(round_.c.study_id == study.id, round_.c.status == "consumed")
    step = connection.execute(last).scalar()
    public_id = opaque()
    own = {
        "study_id": study.id,
        "public_id": public_id,
        # No round of the search has such a number, and of a rater's two requests at once only one can make it.
        "iteration": -(100_000 * rater_id + number + 1) % -(2**31),
        "kind": kind,
        "status": "open",
        "digest_before": digest(""),
        "for_rater": rater_id,
        "step": step,
        "created_at": now,
        "opened_at": now,
    }
    round_id = insert(connection, round_, {**own, **values})
    for slot, (clip, sha) in enumerate(clips):
        shown = {"round_id": round_id, "clip_id": clip, "public_id": opaque(), "slot": slot, "params_sha256": sha}
        insert(connection, candidate, shown)
    log(connection, study.id, kind, now, round_=round_id, rater=rater_id)
    return public_id
