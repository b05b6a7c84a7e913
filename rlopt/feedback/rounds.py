"""The rater's side of a ranking study: raters lease a round, answer it and may undo. Every step is one transaction.

A round is *open* until it has the answers that it needs, then *answered* until the trainer consumes it. While a rater
watches, the rater holds a lease; leases and standing answers together never exceed the answers that the round needs. An
expired lease frees its place, and the rater who lost it may still answer as long as nobody has taken the place. Answers
name candidates by slot. The order in which a rater saw them is stored with the lease and is used nowhere else, so that
it cannot influence the search.
"""

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from rlopt.errors import AnswerError, StudyError
from rlopt.feedback import protocol_rounds, statements
from rlopt.feedback.protocol import StudyProtocol
from rlopt.feedback.store import Study, StudyStore, is_opaque, log
from rlopt.storage.json import dump_json

LEASE_SECONDS = 120
LONGEST_HOLD = 10
"""For how many leases a round can be kept without an answer, while others may be waiting for it."""
_TRIES = 20
_random = random.Random()


class LeaseError(StudyError):
    """The round is not, or no longer, this rater's."""


@dataclass(frozen=True)
class ShownClip:
    """One candidate as a rater sees it. Every field may reach a browser: none may tell how good the candidate is."""

    id: str
    media_id: str
    poster_id: str
    fps: float
    frames: int
    width: int
    height: int


@dataclass(frozen=True)
class ShownRound:
    """A round that a rater holds, with the clips in the rater's own order."""

    id: str
    kind: str
    k: int
    clips: tuple[ShownClip, ...]
    former: dict[str, list[Any]] | None
    """The rater's withdrawn answer by clip id, after an undo: ``{"tiers": [[id]], "unranked": [id]}``."""


class RaterSession:
    """Gives rounds of one study to raters and takes their answers. Server and tests use one for all raters.

    :param lease_seconds: how long a round is kept for a rater who shows no sign of life
    :param minimum_seconds: between the moment when a rater was first given a round and the earliest order of it that is
        taken; no longer than its longest clip
    :param protocol: of the study; by default no rounds but those of the search, and no end
    """

    def __init__(
        self,
        store: StudyStore,
        study: Study,
        lease_seconds: float = LEASE_SECONDS,
        minimum_seconds: float = 0.0,
        protocol: StudyProtocol | None = None,
    ) -> None:
        self.store, self.study, self.lease_seconds = store, study, lease_seconds
        self.minimum_seconds = minimum_seconds
        self.protocol = protocol or StudyProtocol()

    def any_open(self) -> bool:
        """Whether a round of the search waits for answers."""
        with self.store.database.read() as connection:
            return statements.ANY_OPEN.first(connection, {"study": self.study.id}) is not None

    def lease(self, rater_id: int) -> ShownRound | None:
        """The round that the rater holds, or a free one, or None."""
        if not self.any_open():  # browsers that wait for the trainer ask often: they only read, and lock nothing
            return None
        with self.store.database.write(durable=False) as connection:
            # Not before the transaction: who waited long for others' must not judge their leases by an old time.
            now = self.store.clock()
            if not protocol_rounds.may_go_on(connection, self.protocol, self.study, rater_id, now):
                return None
            row = self._held(connection, rater_id, now)
            if row is None:
                made = protocol_rounds.due(connection, self.protocol, self.study, rater_id, now)
                row = self._found(connection, rater_id, now) if made is None else self._locked(connection, made)
            if row is None:
                return None
            display = self._take(connection, row, rater_id, now)
            return self._shown(connection, row, rater_id, display)

    def renew(self, rater_id: int, round_id: str) -> float:
        """Keeps the round for this rater; returns for how many seconds.

        For :data:`LONGEST_HOLD` leases at most: after that, somebody else may take it as long as there is no answer.

        :raises LeaseError: it was lost, or was never this rater's
        """
        with self.store.database.write(durable=False) as connection:
            now = self.store.clock()
            row = self._locked(connection, round_id)
            self._require_place(connection, row, rater_id, now)
            self._take(connection, row, rater_id, now, renewed=True)
        return self.lease_seconds

    def answer(
        self,
        rater_id: int,
        round_id: str,
        key: str,
        tiers: Sequence[Sequence[str]] = (),
        unranked: Sequence[str] = (),
        *,
        abstain: bool = False,
        seconds: float = 0.0,
    ) -> int:
        """Stores an answer once: a key that is sent again changes nothing. Returns the answer's revision, from 1.

        A rater's later answer to the same round replaces the earlier one while the round is not consumed.

        :param key: 1 to 80 characters that the client chooses, new for every new answer; a browser that heard nothing
            back sends the same again
        :param tiers: clip ids, best first; the clips of a tier tie
        :param unranked: clip ids worse than every tier
        :param abstain: no opinion; then there are no tiers
        :param seconds: how long it took, for the statistics
        :raises AnswerError: a clip of the round is missing in tiers and unranked, or is there twice
        :raises LeaseError: consumed meanwhile, or not this rater's round
        """
        if not 1 <= len(key) <= 80 or not key.isprintable():
            raise AnswerError("the answer's key must have 1 to 80 printable characters")
        if not math.isfinite(seconds):
            raise AnswerError("the seconds that an answer took must be a finite number")
        with self.store.database.write() as connection:
            now = self.store.clock()
            row = self._locked(connection, round_id)
            before = statements.SENT.first(connection, {"rater": rater_id, "key": key})
            if before is not None:
                if before.round_id != row.id:
                    raise AnswerError("the answer's key was used for another round: use a new one")
                return int(before.revision)
            held = self._require_place(connection, row, rater_id, now, revising=True)
            slots = statements.SLOTS.all(connection, {"round": row.id})
            ordered = _partition({found.public_id: found.slot for found in slots}, tiers, unranked, abstain)
            # Seconds since the rater was first given the round, if no clock was set back.
            since = float(now - held.created_at) if now >= held.created_at else math.inf
            if not abstain:
                self._require_watched(connection, row, since)
            revision = self._replace(connection, row, rater_id, now)
            values = {
                "round_id": row.id,
                "rater_id": rater_id,
                "revision": revision,
                "key": key,
                "tiers": dump_json(ordered[0]),
                "unranked": dump_json(ordered[1]),
                "abstain": abstain,
                "seconds": min(max(seconds, 0.0), since, 86400.0),
                "created_at": now,
            }
            statements.ADD_ANSWER.run(connection, values)
            held = {"round": row.id, "rater": rater_id, "new_state": "answered"}
            statements.SET_HELD.run(connection, held)
            kind = "abstained" if abstain else "answered"
            log(connection, self.study.id, kind, now, round_=row.id, rater=rater_id, revision=revision)
            self._settle(connection, row, now)
        return revision

    def undo(self, rater_id: int) -> ShownRound:
        """Withdraws the rater's newest answer that is not consumed, and gives the rater its round again.

        :raises LeaseError: there is none
        """
        with self.store.database.write() as connection:
            now = self.store.clock()
            newest = statements.UNDOABLE.scalar(connection, {"rater": rater_id, "study": self.study.id})
            # The trainer may consume the round before it is locked: its status counts only after that.
            row = None if newest is None else self._locked(connection, newest)
            if row is None or row.status not in ("open", "answered"):
                raise LeaseError("there is no answer left to undo: the search has gone on with it")
            self._replace(connection, row, rater_id, now)
            statements.SET_HELD.run(connection, {"round": row.id, "rater": rater_id, "new_state": "leased"})
            display = self._take(connection, row, rater_id, now)
            log(connection, self.study.id, "undone", now, round_=row.id, rater=rater_id)
            self._settle(connection, row, now)
            return self._shown(connection, row, rater_id, display)

    def _locked(self, connection: sa.Connection, public_id: str) -> Any:
        """The round, which no other transaction can change until this one ends."""
        wanted = {"public_id": public_id, "study": self.study.id}
        row = statements.LOCKED.first(connection, wanted) if is_opaque(public_id) else None
        if row is None:
            raise LeaseError("there is no such round in this study")
        return row

    def _held(self, connection: sa.Connection, rater_id: int, now: float) -> Any | None:
        """The open round that the rater has, as long as nobody else has taken its place."""
        wanted: dict[str, float] = {"rater": rater_id, "study": self.study.id}
        for row in statements.OPEN_OF_RATER.all(connection, wanted):
            if self._place(connection, row, rater_id, now):
                return row
        return None

    def _found(self, connection: sa.Connection, rater_id: int, now: float) -> Any | None:
        """The oldest open round with a free place that the rater never had."""
        wanted: dict[str, float] = {"rater": rater_id, "study": self.study.id, "now": now}
        wanted |= {"latest": self._latest(now), "annotators": self.study.annotators}
        for statement in statements.OPEN_TO_RATER:
            for _ in range(_TRIES):  # on Postgres another rater may take the place before the round is locked
                found = statement.first(connection, wanted)
                if found is None:
                    break
                if self._place(connection, found, rater_id, now):
                    return found
        return None

    def _latest(self, now: float) -> float:
        """The end of a lease that begins now; a second more for another process's clock."""
        return now + self.lease_seconds + 1.0

    def _require_watched(self, connection: sa.Connection, row: Any, since: float) -> None:
        if since >= self.minimum_seconds:
            return
        shown = statements.SHOWN.all(connection, {"round": row.id})
        longest = max((clip.frames / clip.fps for clip in shown), default=0.0)
        if since < min(self.minimum_seconds, longest):
            raise AnswerError(
                f"the order came {since:.1f} s after the clips were given out, before they can have been seen: look "
                "at them, and send it again"
            )

    def _place(self, connection: sa.Connection, row: Any, rater_id: int, now: float) -> bool:
        """Whether the round has a place that is not taken by another rater."""
        wanted = {"round": row.id, "rater": rater_id, "now": now, "latest": self._latest(now)}
        return int(statements.TAKEN_BY_OTHERS.scalar(connection, wanted)) < self.study.annotators

    def _require_place(
        self, connection: sa.Connection, row: Any, rater_id: int, now: float, revising: bool = False
    ) -> Any:
        """What the rater holds of the round; refuses who may not answer it, or not renew it."""
        held = statements.HELD.first(connection, {"round": row.id, "rater": rater_id})
        if held is None:
            raise LeaseError("this round was not given to you: ask for one first")
        if row.status not in ("open", "answered"):
            raise LeaseError("the search has already gone on without this answer: ask for the next round")
        if held.state == "answered":
            if not revising:
                raise LeaseError("this round is answered: undo first")
        elif not self._place(connection, row, rater_id, now):
            raise LeaseError("the round was given to somebody else after a long silence: ask for the next one")
        return held

    def _take(self, connection: sa.Connection, row: Any, rater_id: int, now: float, renewed: bool = False) -> list[int]:
        """Leases the round to the rater; returns the slots in the order that was drawn for this rater, once."""
        held, until = {"round": row.id, "rater": rater_id}, now + self.lease_seconds
        found = statements.HELD.first(connection, held)
        if found is not None:
            if renewed and until > found.created_at + LONGEST_HOLD * self.lease_seconds:
                until = min(until, max(now, found.created_at + LONGEST_HOLD * self.lease_seconds))
            statements.KEEP.run(connection, {**held, "until": until})
            return [int(slot) for slot in json.loads(found.display)]
        display = _random.sample(range(row.m), row.m)
        values = {"round_id": row.id, "rater_id": rater_id, "display": dump_json(display), "state": "leased"}
        statements.ADD_ASSIGNMENT.run(connection, {**values, "lease_until": until, "created_at": now})
        log(connection, self.study.id, "leased", now, round_=row.id, rater=rater_id)
        return display

    def _replace(self, connection: sa.Connection, row: Any, rater_id: int, now: float) -> int:
        """Withdraws the rater's standing answer to the round; returns the number of the next revision."""
        own = {"round": row.id, "rater": rater_id}
        former = int(statements.REVISIONS.scalar(connection, own))
        if former:
            statements.WITHDRAW.run(connection, {**own, "now": now})
        return 1 + former

    def _settle(self, connection: sa.Connection, row: Any, now: float) -> None:
        """Sets the round to open or answered, by the number of standing answers; one of the protocol is kept."""
        count = statements.STANDING_COUNT.scalar(connection, {"round": row.id})
        full = count >= (self.study.annotators if row.for_rater is None else 1)
        done = "answered" if row.for_rater is None else "kept"
        values = {"new_status": done if full else "open", "new_answered_at": now if full else None}
        statements.SET_STATUS.run(connection, {"round": row.id, **values})

    def _shown(self, connection: sa.Connection, row: Any, rater_id: int, display: list[int]) -> ShownRound:
        own = {"round": row.id, "rater": rater_id}
        found = statements.SHOWN.all(connection, {"round": row.id})
        by_slot = {slot: ShownClip(*values) for slot, *values in found}
        last = statements.LAST.first(connection, own)
        former: dict[str, list[Any]] | None = None
        if last is not None and not last.abstain:
            tiers, unranked = json.loads(last.tiers), json.loads(last.unranked)
            named = [[by_slot[slot].id for slot in tier] for tier in tiers]
            former = {"tiers": named, "unranked": [by_slot[slot].id for slot in unranked]}
        return ShownRound(row.public_id, row.kind, row.k, tuple(by_slot[slot] for slot in display), former)


def _partition(
    slots: Mapping[str, int], tiers: Sequence[Sequence[str]], unranked: Sequence[str], abstain: bool
) -> tuple[list[list[int]], list[int]]:
    """The answer by slots."""
    named = [name for tier in tiers for name in tier] + list(unranked)
    if abstain:
        if named:
            raise AnswerError("an answer without opinion names no clips: leave tiers and unranked empty")
        return [], []
    if any(name not in slots for name in named):
        raise AnswerError("the answer names a clip that is not in this round")
    if len(set(named)) != len(named):
        raise AnswerError("the answer names a clip twice")
    if len(named) != len(slots):
        raise AnswerError(f"the answer names {len(named)} of {len(slots)} clips: name each once, ranked or unranked")
    if not tiers or not all(tiers):
        raise AnswerError("rank at least one clip, and leave no tier empty; or skip the round")
    return [[slots[name] for name in tier] for tier in tiers], [slots[name] for name in unranked]
