"""The trainer's side of a ranking study: rounds are rendered, opened to raters, answered and consumed by the optimiser.

Every step is one transaction. Only the process that claimed the study last may take it: a trainer that was thought dead
and comes back gets an error instead of consuming an answer a second time.
"""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rlopt.errors import StudyError
from rlopt.feedback.agreement import Given, Reliability, reliabilities
from rlopt.feedback.clips import Clip
from rlopt.feedback.files import file_digest, flush, inside
from rlopt.feedback.ranking import Ranking
from rlopt.feedback.schema import answer, candidate, clip, optimizer_state, rater, round_, study
from rlopt.feedback.store import Study, StudyStore, digest, insert, log, opaque
from rlopt.storage.json import dump_json, parse_json


@dataclass(frozen=True)
class OptimizerState:
    """An optimiser after some updates, as ``state_dict`` gave it."""

    iteration: int
    digest: str
    state: dict[str, Any]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Move:
    """What the answers of a round did to the optimiser."""

    after: OptimizerState
    point: np.ndarray
    step_norm: float
    distance_from_start: float


class TrainerSession:
    """The steps of the one process that trains a study; making one claims the study.

    :raises StudyError: from every method, once another process has claimed the study
    """

    def __init__(self, store: StudyStore, study_: Study) -> None:
        self.store, self.study = store, study_
        self._claim = opaque()
        with store.database.write() as connection:
            mine = study.c.id == study_.id
            values = {"trainer": self._claim, "trainer_seen": store.clock(), "finished": False}
            connection.execute(sa.update(study).where(mine).values(**values))
            log(connection, study_.id, "trainer", store.clock())

    def alive(self) -> None:
        """Notes the time, so that the page can say whether a trainer is at work."""
        with self.store.database.write(durable=False) as connection:
            self._own(connection)

    def state(self, iteration: int | None = None) -> OptimizerState:
        """The optimiser's newest stored state, or that after ``iteration`` rounds."""
        return read_state(self.store, self.study, iteration)

    def live_round(self, iteration: int) -> sa.RowMapping | None:
        """The round of that iteration which is not void."""
        wanted = (round_.c.study_id == self.study.id) & (round_.c.iteration == iteration) & (round_.c.status != "void")
        with self.store.database.read() as connection:
            return connection.execute(sa.select(round_).where(wanted)).mappings().first()

    def begin(self, iteration: int, kind: str, candidates: np.ndarray, k: int, current: int | None, before: str) -> int:
        """Opens a round of which the clips are yet to be made; one left so by a killed process becomes void.

        :param candidates: float64 [m, d]
        :param before: digest of the optimiser
        :returns: the round's id
        """
        now = self.store.clock()
        # A loss of power may lose a round without clips: it would be void anyway.
        with self.store.database.write(durable=False) as connection:
            self._own(connection)
            stale = (round_.c.study_id == self.study.id) & (round_.c.status == "rendering")
            connection.execute(sa.update(round_).where(stale).values(status="void"))
            values = {
                "study_id": self.study.id,
                "public_id": opaque(),
                "iteration": iteration,
                "kind": kind,
                "m": len(candidates),
                "k": k,
                "current": current,
                "status": "rendering",
                "params": pack({"candidates": candidates}),
                "digest_before": before,
                "created_at": now,
            }
            identity = insert(connection, round_, values)
            log(connection, self.study.id, "begun", now, round_=identity)
        return identity

    def open(self, round_id: int, candidates: np.ndarray, clips: Sequence[Clip]) -> None:
        """Gives a round its clips and lets raters have it."""
        rows = clip_rows(self.store, self.study.id, clips)
        now = self.store.clock()
        with self.store.database.write() as connection:
            self._own(connection)
            added = sa.insert(clip).returning(clip.c.id, sort_by_parameter_order=True)
            shown = [
                {
                    "round_id": round_id,
                    "clip_id": clip_id,
                    "public_id": opaque(),
                    "slot": slot,
                    "params_sha256": digest(np.ascontiguousarray(candidates[slot]).tobytes()),
                }
                for slot, clip_id in enumerate(connection.execute(added, rows).scalars())
            ]
            connection.execute(sa.insert(candidate), shown)
            mine = (round_.c.id == round_id) & (round_.c.status == "rendering")
            if connection.execute(sa.update(round_).where(mine).values(status="open", opened_at=now)).rowcount != 1:
                raise StudyError("another process has discarded this round: only one may train a study")
            log(connection, self.study.id, "opened", now, round_=round_id)

    def answered(self, round_ids: Collection[int]) -> dict[int, float]:
        """Those of the rounds that are complete: when each got the last of the answers that it needs."""
        wanted = (round_.c.study_id == self.study.id) & (round_.c.status == "answered")
        with self.store.database.read() as connection:
            found = connection.execute(sa.select(round_.c.id, round_.c.answered_at).where(wanted)).all()
        return {row.id: float(row.answered_at) for row in found if row.id in round_ids}

    def consume(
        self,
        round_ids: Sequence[int],
        before: str,
        tell: Callable[[list[list[Ranking]], list[list[float]] | None], Move],
    ) -> Move | None:
        """Answered -> consumed with the optimiser's new state, all or nothing; None if a rater has just undone.

        :param before: digest of the optimiser that ``tell`` will change; it must equal the newest stored state's
        :param tell: tells the optimiser the answers to each round, and how far each is trusted once that is known
        """
        now = self.store.clock()
        with self.store.database.write() as connection:
            self._own(connection)
            mine = round_.c.id.in_(round_ids) & (round_.c.status == "answered")
            locked = sa.select(round_.c.id).where(mine).order_by(round_.c.id).with_for_update()
            if len(connection.execute(locked).all()) != len(round_ids):
                return None
            connection.execute(sa.update(round_).where(mine).values(status="consumed", consumed_at=now))
            newest = sa.select(optimizer_state.c.digest).where(optimizer_state.c.study_id == self.study.id)
            newest = newest.order_by(optimizer_state.c.iteration.desc()).limit(1)
            if connection.execute(newest).scalar() != before:
                raise StudyError("the optimiser is in another state than the study: only one process may train it")
            trust = self._trust(connection, round_ids)
            move = tell([standing_answers(connection, round_id) for round_id in round_ids], trust)
            self._keep(connection, move, round_ids)
            for round_id in round_ids:
                log(connection, self.study.id, "consumed", now, round_=round_id)
        return move

    def _trust(self, connection: sa.Connection, round_ids: Sequence[int]) -> list[list[float]] | None:
        """How far the answers to rounds are trusted, which is stored with them; None while nothing tells of it.

        Relative to the rater who is trusted most: where clips are hard to tell apart for all, all continue to count.
        """
        known = study_reliabilities(connection, self.study)
        most = max((each.trust for each in known.values()), default=0.0)
        if not most or not any(each.pairs for each in known.values()):
            return None
        found: list[list[float]] = []
        for round_id in round_ids:
            wanted = (answer.c.round_id == round_id) & answer.c.withdrawn_at.is_(None)
            rows = connection.execute(
                sa.select(answer.c.id, answer.c.rater_id).where(wanted).order_by(answer.c.rater_id)
            )
            found.append([])
            for answer_id, rater_id in rows.all():
                trust = known[rater_id].trust / most if rater_id in known else 1.0  # without any opinion so far
                connection.execute(sa.update(answer).where(answer.c.id == answer_id).values(trust=trust))
                found[-1].append(trust)
        return found

    def finish(self) -> None:
        """Says that no further rounds will come; those that still wait become void."""
        waiting = (round_.c.study_id == self.study.id) & round_.c.status.in_(("rendering", "open", "answered"))
        with self.store.database.write() as connection:
            self._own(connection)
            connection.execute(sa.update(round_).where(waiting).values(status="void"))
            connection.execute(sa.update(study).where(study.c.id == self.study.id).values(finished=True))
            log(connection, self.study.id, "finished", self.store.clock())

    def show_point(self, which: str, made: Clip) -> None:
        """Keeps the clip of a point for the results page.

        :param which: "start" or "now"
        """
        (values,) = clip_rows(self.store, self.study.id, [made])
        with self.store.database.write() as connection:
            self._own(connection)
            shown = {f"{which}_clip": insert(connection, clip, values)}
            connection.execute(sa.update(study).where(study.c.id == self.study.id).values(**shown))

    def match_point(self, which: str, point: np.ndarray) -> bool:
        """Takes the clip of a candidate that is ``point``, bit for bit, as :meth:`show_point`; whether there is one."""
        with self.store.database.write() as connection:
            self._own(connection)
            return self._match(connection, which, point)

    def _keep(self, connection: sa.Connection, move: Move, round_ids: Sequence[int]) -> None:
        after = move.after
        keep_state(connection, self.study.id, after, self.store.clock())
        # A replay begins at the first state, and training continues at the newest; rounds hold the digests of all.
        old = (optimizer_state.c.study_id == self.study.id) & (optimizer_state.c.iteration > 0)
        connection.execute(sa.delete(optimizer_state).where(old & (optimizer_state.c.iteration < after.iteration - 1)))
        values = {
            "step": after.iteration - 1,
            "digest_after": after.digest,
            "step_norm": move.step_norm,
            "distance_from_start": move.distance_from_start,
        }
        connection.execute(sa.update(round_).where(round_.c.id.in_(round_ids)).values(**values))
        self._match(connection, "now", move.point)

    def _match(self, connection: sa.Connection, which: str, point: np.ndarray) -> bool:
        same = candidate.c.params_sha256 == digest(np.ascontiguousarray(point).tobytes())
        found = connection.execute(
            sa.select(candidate.c.clip_id)
            .join(round_, round_.c.id == candidate.c.round_id)
            .where(same, round_.c.study_id == self.study.id)
            .order_by(candidate.c.id.desc())
            .limit(1)
        ).scalar()
        values = {f"{which}_clip": found}
        connection.execute(sa.update(study).where(study.c.id == self.study.id).values(**values))
        return found is not None

    def _own(self, connection: sa.Connection) -> None:
        """Leaves the time; refuses where another process has claimed the study."""
        mine = (study.c.id == self.study.id) & (study.c.trainer == self._claim)
        seen = sa.update(study).where(mine).values(trainer_seen=self.store.clock())
        if connection.execute(seen).rowcount != 1:
            raise StudyError(f"another process trains study {self.study.name!r} now: this one stops; nothing is lost")


def keep_state(connection: sa.Connection, study_id: int, state: OptimizerState, now: float) -> None:
    """Stores an optimiser's state within a transaction."""
    values = {
        "study_id": study_id,
        "iteration": state.iteration,
        "digest": state.digest,
        "state": dump_json(state.state),
        "arrays": pack(state.arrays),
        "created_at": now,
    }
    insert(connection, optimizer_state, values)


def read_state(store: StudyStore, study_: Study, iteration: int | None = None) -> OptimizerState:
    """The newest stored state of a study's optimiser, or that after ``iteration`` rounds.

    :raises StudyError: it is missing or damaged
    """
    wanted = sa.select(optimizer_state).where(optimizer_state.c.study_id == study_.id)
    if iteration is not None:
        wanted = wanted.where(optimizer_state.c.iteration == iteration)
    with store.database.read() as connection:
        row = connection.execute(wanted.order_by(optimizer_state.c.iteration.desc()).limit(1)).mappings().first()
    if row is None:
        raise StudyError(f"study {study_.name!r} holds no such state of its optimiser: it is damaged")
    try:
        return OptimizerState(row["iteration"], row["digest"], parse_json(row["state"]), unpack(row["arrays"]))
    except ValueError as error:
        raise StudyError(f"the optimiser's state in study {study_.name!r} is damaged ({error})") from None


def standing_answers(connection: sa.Connection, round_id: int) -> list[Ranking]:
    """The answers of a round that were not withdrawn, in the order in which its raters first came.

    :raises rlopt.errors.AnswerError: one does not fit the round's query
    """
    wanted = (answer.c.round_id == round_id) & answer.c.withdrawn_at.is_(None)
    rows = connection.execute(sa.select(answer).where(wanted).order_by(answer.c.rater_id)).mappings().all()
    given = [Ranking(json.loads(row["tiers"]), json.loads(row["unranked"]), row["abstain"]) for row in rows]
    m = connection.execute(sa.select(round_.c.m).where(round_.c.id == round_id)).scalar_one()
    for ranking in given:
        ranking.check(m)
    return given


def stored_trust(connection: sa.Connection, round_id: int) -> list[float] | None:
    """With how much trust the answers of :func:`standing_answers` were used; None if nothing told of it then."""
    wanted = (answer.c.round_id == round_id) & answer.c.withdrawn_at.is_(None)
    found = connection.execute(sa.select(answer.c.trust).where(wanted).order_by(answer.c.rater_id)).scalars().all()
    return None if None in found else [float(trust) for trust in found]


def answers_by_clips(connection: sa.Connection, study_: Study) -> list[list[tuple[int, Given]]]:
    """For every set of clips all orders of it, as (rater, order), oldest first; who saw it twice is there twice."""
    clips = sa.func.coalesce(round_.c.source, round_.c.id)
    rows = connection.execute(
        sa.select(clips, answer.c.rater_id, answer.c.tiers, answer.c.unranked)
        .join(round_, round_.c.id == answer.c.round_id)
        .where(round_.c.study_id == study_.id, answer.c.withdrawn_at.is_(None), answer.c.abstain.is_(False))
        .where(round_.c.kind != "duel")
        .order_by(clips, answer.c.id)
    ).all()
    seen: dict[int, list[tuple[int, Given]]] = {}
    for key, rater_id, tiers, unranked in rows:
        seen.setdefault(key, []).append((rater_id, (json.loads(tiers), json.loads(unranked))))
    return list(seen.values())


def study_reliabilities(connection: sa.Connection, study_: Study) -> dict[int, Reliability]:
    """The reliability of each rater, from the clips that were ranked more than once."""
    experts = sa.select(rater.c.id).where(rater.c.study_id == study_.id, rater.c.expert.is_(True))
    return reliabilities(answers_by_clips(connection, study_), connection.execute(experts).scalars().all())


def clip_rows(store: StudyStore, study_id: int, clips: Sequence[Clip]) -> list[dict[str, Any]]:
    """Clips as rows; their files must lie in the media folder, and survive a loss of power from now on.

    :raises StudyError: one is missing, a link, or elsewhere
    """
    root = store.media_root
    places = [(inside(root, Path(made.path)), inside(root, Path(made.poster))) for made in clips]
    names = {name for place in places for name in place}
    flush(root, names)
    digests = {name: file_digest(root, name) for name in names}
    return [
        {
            "study_id": study_id,
            "media_id": opaque(),
            "poster_id": opaque(),
            "path": path,
            "poster": poster,
            "sha256": digests[path],
            "poster_sha256": digests[poster],
            "fps": float(made.fps),
            "frames": int(made.frames),
            "width": int(made.width),
            "height": int(made.height),
            "seeds": dump_json([int(seed) for seed in made.seeds]),
            "hidden_return": None if made.hidden_return is None else float(made.hidden_return),
        }
        for made, (path, poster) in zip(clips, places, strict=True)
    ]


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays as the bytes of a safetensors file."""
    return bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def unpack(data: bytes) -> dict[str, np.ndarray]:
    """Arrays from the bytes of a safetensors file; ``ValueError`` where they are none."""
    try:
        return dict(load(data))
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"arrays that cannot be read: {error}") from None
