"""The trainer's side of a study: an optimiser that people answer, one durable round after the other.

All that the search depends on is in the database: a process that is killed at any moment and started again continues
where the last round was consumed, with the same query.
"""

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import sqlalchemy as sa

from rlopt import __version__
from rlopt.console.progress import say
from rlopt.errors import ConfigError, StudyError
from rlopt.feedback.clips import Clip
from rlopt.feedback.database import DatabaseUnreachableError
from rlopt.feedback.ranking import Ranking
from rlopt.feedback.schema import round_
from rlopt.feedback.store import Study, StudyStore
from rlopt.feedback.trainer import (
    Move,
    OptimizerState,
    TrainerSession,
    keep_state,
    read_state,
    standing_answers,
    stored_trust,
    unpack,
)

_ALIVE_SECONDS = 5.0
"""Between two signs of life that are written while people are waited for."""
OUTAGE_SECONDS = 600.0
"""For how long a trainer waits for a database that does not answer."""


class Asked(Protocol):
    """A query; see :class:`rlopt.agents.zo_ranksgd.optimizer.Query`."""

    @property
    def kind(self) -> str:
        """What the query is for, as ``gradient`` or ``line_search``."""
        ...

    @property
    def candidates(self) -> np.ndarray:
        """``[m, d]`` float64, a candidate a row."""
        ...

    @property
    def k(self) -> int:
        """How many of the best are to be ranked, from 1 to m."""
        ...

    @property
    def current(self) -> int | None:
        """Row of the candidate that is the current point; None where it is not among them."""
        ...


class AskTell(Protocol):
    """An optimiser that needs only rankings; see :class:`rlopt.agents.zo_ranksgd.optimizer.ZORankSGD`."""

    @property
    def point(self) -> np.ndarray:
        """``[d]`` float64: the current point."""
        ...

    def ask(self) -> Any:
        """The query to be ranked now, an :class:`Asked`; the same one until it is told. A list from one of many."""
        ...

    def tell(self, answer: Any, *trust: Any) -> Any:
        """Takes the answers to the query, one of each rater, and moves the point.

        One that asks many queries at a time (:class:`rlopt.agents.zo_ranksgd.parallel.ParallelSearch`) has ``rounds``,
        returns a list of queries from :meth:`ask`, and takes the answers by the queries' ``iteration``, and how
        far each is trusted.

        :raises rlopt.errors.AnswerError: if one does not fit the query; nothing changes then
        """
        ...

    def state_dict(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(values for JSON, arrays): all that the search depends on."""
        ...

    def load_state_dict(self, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Continues bit for bit where :meth:`state_dict` was called.

        :raises rlopt.errors.CheckpointError: if it is malformed, or of a search with other settings
        """
        ...

    def digest(self) -> str:
        """SHA-256 of the whole state, in hexadecimal digits."""
        ...


Render = Callable[[Any, Path], list[Clip]]
"""Draws the candidates of a query into a folder of the study's media folder: a clip each, in the order of the slots."""


class HumanStudy:
    """Creates the study of that name, or continues it: the optimiser then takes the state of the last consumed round.

    Only the process that started last trains a study; an earlier one raises an error at its next step.

    :param store: where the study is
    :param name: name of the study, 1 to 200 characters
    :param optimizer: as it was when the study was created (a new one made with the same settings will do)
    :param render: draws a query's candidates; see :data:`Render`
    :param annotators: number of answers that every round needs, each from a different person
    :param instructions: plain text, shown above the clips; new instructions replace the earlier ones, empty ones do not
    :param config: JSON values that the study stores
    :param media: what ``render`` draws: video or image
    :param undo_seconds: for how long a complete round can still be undone before it is consumed, counted from when the
        trainer found it complete, by the trainer's own clock
    :param poll_seconds: between two looks at the database while waiting
    :param deadline_seconds: after which :meth:`step` gives up waiting; None waits for ever
    :param outage_seconds: for how long a database that stops answering is waited for
    :raises StudyError: the study is of another optimiser, or was made with other settings
    """

    def __init__(
        self,
        store: StudyStore,
        name: str,
        optimizer: AskTell,
        render: Render,
        *,
        annotators: int = 1,
        instructions: str = "",
        config: dict[str, Any] | None = None,
        media: str = "video",
        undo_seconds: float = 2.0,
        poll_seconds: float = 0.5,
        deadline_seconds: float | None = None,
        outage_seconds: float = OUTAGE_SECONDS,
    ) -> None:
        if not poll_seconds > 0 or not undo_seconds >= 0:
            raise ConfigError("poll_seconds must be above 0 and undo_seconds at least 0")
        self.store, self.optimizer, self.render = store, optimizer, render
        self.undo_seconds, self.poll_seconds, self.deadline_seconds = undo_seconds, poll_seconds, deadline_seconds
        self.outage_seconds = outage_seconds
        settings = {"annotators": annotators, "instructions": instructions, "config": config, "media": media}
        self.study = store.find(name) or _create(store, name, optimizer, settings)
        _check_same(self.study, optimizer, annotators, media)
        if instructions and instructions != self.study.instructions:
            self.study = store.set_instructions(self.study, instructions)
            say(f"study {name!r}: the new instructions replace the former ones")
        self._session = TrainerSession(store, self.study)
        together: int | None = getattr(optimizer, "rounds", None)
        self._many, self._needed = together is not None, together or 1
        self._rounds: dict[int, int] = {}
        """The ids of the rounds of queries that wait, by the query's number."""
        self._complete: dict[int, tuple[float, float]] = {}
        self._outage: float | None = None
        self._lost: tuple[int, Any] | None = None
        self._state: OptimizerState
        self._start = self._load(self._session.state(0)).copy()
        self._load(self._session.state())

    @property
    def iteration(self) -> int:
        """Updates of the search; each consumed a round, or as many as the search takes together."""
        return self._state.iteration

    def step(self) -> Any | None:
        """Asks people the queries that wait, and tells the optimiser the answers to as many as it needs, durably.

        :returns: the query that was answered, of a search of many a list; None if the deadline came first
            (the round stays open: call again)
        :raises StudyError: another process trains this study now, or the database refuses
        """
        started = time.monotonic()
        while True:
            try:
                found = self._step(started)
            except DatabaseUnreachableError as error:
                if self._outage is None:
                    self._outage = time.monotonic()
                    say(f"waiting for the database: {error}")
                if time.monotonic() - self._outage >= self.outage_seconds:
                    raise
            else:
                self._outage = None
                return found
            if self._is_late(started):
                return None
            time.sleep(self.poll_seconds)

    def _step(self, started: float) -> Any | None:
        """As :meth:`step`, with a database that answers."""
        if self._lost is not None:
            iteration, query = self._lost
            self._load(self._session.state())
            self._lost = None
            if self.iteration > iteration:
                return query
        queries, heard = self._queries(), started
        while True:
            ready = self._rested(queries)
            if len(ready) >= self._needed:
                taken = ready[: self._needed]
                if self._consume(taken, queries):
                    return [queries[number] for number in taken] if self._many else queries[taken[0]]
                continue
            unopened = next((number for number in queries if number not in self._rounds), None)
            if unopened is not None:
                self._rounds[unopened] = self._open(unopened, queries[unopened])
                continue
            if self._is_late(started):
                return None
            if time.monotonic() - heard > _ALIVE_SECONDS:
                self._session.alive()
                heard = time.monotonic()
            time.sleep(self.poll_seconds)

    def _queries(self) -> dict[int, Asked]:
        """The queries that wait for answers, by their numbers, which no two queries of a study share."""
        if self._many:
            return {query.iteration: query for query in self.optimizer.ask()}
        return {self.iteration: self.optimizer.ask()}

    def _is_late(self, started: float) -> bool:
        return self.deadline_seconds is not None and time.monotonic() - started >= self.deadline_seconds

    def _rested(self, queries: Collection[int]) -> list[int]:
        """The queries complete for so long that nobody can undo an answer any more; oldest answer first."""
        open_rounds = {self._rounds[number]: number for number in queries if number in self._rounds}
        answered = self._session.answered(open_rounds) if open_rounds else {}
        complete, now = {}, time.monotonic()
        for round_id, at in answered.items():
            known = self._complete.get(round_id)
            complete[round_id] = known if known is not None and known[0] == at else (at, now)  # an answer after an undo
        self._complete = complete
        rested = [round_id for round_id, (_, since) in complete.items() if now - since >= self.undo_seconds]
        return [open_rounds[round_id] for round_id in sorted(rested, key=lambda found: (answered[found], found))]

    def finish(self) -> None:
        """Tells those who rank that the study is over, with a clip of where the search ended."""
        point = np.asarray(self.optimizer.point, np.float64)
        if not self._session.match_point("now", point):
            self._session.show_point("now", self._draw(_Point(point), "end", self.iteration)[0])
        self._session.finish()

    def _open(self, number: int, query: Asked) -> int:
        """The id of the open round of this query, with its clips; made unless a former process made it."""
        candidates = np.asarray(query.candidates, np.float64)
        row = self._session.live_round(number)
        if row is not None and row["status"] != "rendering":
            same = (self._many or row["digest_before"] == self._state.digest) and row["kind"] == query.kind
            if not same or not np.array_equal(unpack(row["params"])["candidates"], candidates):
                raise StudyError(
                    f"study {self.study.name!r} waits for answers to another query than this optimiser's: use the "
                    "versions of rlopt and numpy that the study started with"
                )
            return int(row["id"])
        round_id = self._session.begin(number, query.kind, candidates, query.k, query.current, self._state.digest)
        clips = self._draw(query, f"round-{number:05d}", round_id)
        if number == 0 and query.current is None:
            self._session.show_point("start", self._draw(_Point(self._start), "start", round_id)[0])
        self._session.open(round_id, candidates, clips)
        if number == 0 and query.current is not None:
            self._session.match_point("start", self._start)
        return round_id

    def _draw(self, query: Asked, what: str, number: int) -> list[Clip]:
        """The clips of a query, in a folder that no other process writes to; what a killed one left is removed."""
        name = f"{self.study.id}-{hashlib.sha256(self.study.name.encode()).hexdigest()[:8]}"
        for left in (self.store.media_root / name).glob(f"{what}-*"):
            shutil.rmtree(left, ignore_errors=True)
        folder = self.store.media_root / name / f"{what}-{number}"
        folder.mkdir(parents=True)
        clips = self.render(query, folder)
        if len(clips) != len(query.candidates):
            raise StudyError(f"render drew {len(clips)} clips of {len(query.candidates)} candidates: draw one each")
        return clips

    def _consume(self, numbers: Sequence[int], queries: Mapping[int, Asked]) -> bool:
        """Whether the answers to the queries were taken; if anything fails, the optimiser is as before."""

        def tell(given: list[list[Ranking]], trust: list[list[float]] | None) -> Move:
            before = np.array(self.optimizer.point, np.float64)
            if self._many:
                weights = None if trust is None else dict(zip(numbers, trust, strict=True))
                self.optimizer.tell(dict(zip(numbers, given, strict=True)), weights)
            else:
                self.optimizer.tell(given[0])
            point = np.array(self.optimizer.point, np.float64)
            after = snapshot(self.optimizer, self.iteration + 1)
            away = float(np.linalg.norm(point - self._start))
            return Move(after, point, float(np.linalg.norm(point - before)), away)

        iteration = self.iteration
        answered = [queries[number] for number in numbers] if self._many else queries[numbers[0]]
        try:
            move = self._session.consume([self._rounds[number] for number in numbers], self._state.digest, tell)
        except BaseException as error:
            # Where the connection broke, nobody told whether the database has the answers: its newest state says so.
            self._lost = (iteration, answered)
            self._load(self._session.state())
            self._lost = None
            if isinstance(error, DatabaseUnreachableError) and self.iteration > iteration:
                return True
            raise
        if move is None:
            return False
        self._state = move.after
        for number in numbers:
            del self._rounds[number]
        return True

    def _load(self, state: OptimizerState) -> np.ndarray:
        """Puts the optimiser into a stored state; returns its point."""
        self.optimizer.load_state_dict(state.state, state.arrays)
        if self.optimizer.digest() != state.digest:
            raise StudyError(f"the optimiser's state in study {self.study.name!r} is damaged: its digest is another")
        self._state = state
        self._rounds.clear()
        return np.asarray(self.optimizer.point, np.float64)


class _Point:
    """A query about a single point, which is only looked at."""

    kind, k, current = "point", 1, 0

    def __init__(self, point: np.ndarray) -> None:
        self.candidates = np.asarray(point, np.float64)[None]


Part = Callable[[OptimizerState], tuple[dict[str, Any], dict[str, np.ndarray]]]


def replay(store: StudyStore, study: Study, optimizer: AskTell, part: Part | None = None) -> int:
    """Runs the whole search again, from its first state, on the consumed answers; returns the number of rounds.

    Every query and every state must come out bit for bit as they are stored.

    :param optimizer: made with the settings of the study; its state is replaced
    :param part: if the study's state holds more than the optimiser's (such as statistics of an environment), a function
        that extracts the optimiser's; then every query and the last state are compared
    :raises StudyError: the first round that differs, by its iteration
    """

    def take(state: OptimizerState) -> None:
        optimizer.load_state_dict(*((state.state, state.arrays) if part is None else part(state)))

    many = hasattr(optimizer, "rounds")
    take(read_state(store, study, 0))
    consumed = (round_.c.study_id == study.id) & (round_.c.status == "consumed")
    with store.database.read() as connection:
        steps: dict[int, list[int]] = {}
        step = sa.func.coalesce(round_.c.step, round_.c.iteration)  # none in a study of an earlier version
        for round_id, at in connection.execute(
            sa.select(round_.c.id, step).where(consumed).order_by(step, round_.c.iteration)
        ):
            steps.setdefault(at, []).append(round_id)
        for count, (at, ids) in enumerate(steps.items()):
            rows = [connection.execute(sa.select(round_).where(round_.c.id == each)).mappings().one() for each in ids]
            what = f"round {rows[0]['iteration']} of study {study.name!r}"
            if at != count:
                raise StudyError(f"{what} follows on round {count - 1}: a consumed round is missing")
            if part is None and not many and optimizer.digest() != rows[0]["digest_before"]:
                raise StudyError(f"{what} began in another state than in the replay: is it damaged, or made "
                                 "with other versions?")  # fmt: skip
            asked = {query.iteration: query for query in optimizer.ask()} if many else {count: optimizer.ask()}
            for row in rows:
                query = asked.get(row["iteration"])
                if query is None or not np.array_equal(unpack(row["params"])["candidates"], query.candidates):
                    raise StudyError(f"{what} asked about other candidates than the replay does")
            given = {row["iteration"]: standing_answers(connection, row["id"]) for row in rows}
            trust = {row["iteration"]: stored_trust(connection, row["id"]) for row in rows}
            if many:
                optimizer.tell(given, None if None in trust.values() else trust)
            else:
                optimizer.tell(given[count])
            if part is None and optimizer.digest() != rows[0]["digest_after"]:
                raise StudyError(f"{what} ended in another state than in the replay: an answer was changed")
    replayed = optimizer.digest()
    take(read_state(store, study))
    if optimizer.digest() != replayed:
        raise StudyError(f"the optimiser's stored state in study {study.name!r} is not that of its answers")
    return sum(map(len, steps.values()))


def snapshot(optimizer: AskTell, iteration: int) -> OptimizerState:
    """The optimiser's state after ``iteration`` rounds, for the store."""
    state, arrays = optimizer.state_dict()
    return OptimizerState(iteration, optimizer.digest(), state, {name: np.array(a) for name, a in arrays.items()})


def _create(store: StudyStore, name: str, optimizer: AskTell, settings: dict[str, Any]) -> Study:
    algorithm = f"{_kind(optimizer)} {__version__}"
    with store.database.write() as connection:
        study = store.create_study(connection, name, algorithm=algorithm, **settings)
        keep_state(connection, study.id, snapshot(optimizer, 0), store.clock())
    return study


def _check_same(study: Study, optimizer: AskTell, annotators: int, media: str) -> None:
    kind = study.algorithm.rpartition(" ")[0]
    if kind != _kind(optimizer):
        raise StudyError(f"study {study.name!r} is of {kind}, not {_kind(optimizer)}: use another name")
    for what, own, given in (("annotators", study.annotators, annotators), ("media", study.media, media)):
        if own != given:
            raise StudyError(f"study {study.name!r} has {what}={own}, not {given}: keep it, or use another name")
    if not all(math.isfinite(value) for value in np.asarray(optimizer.point).ravel()):
        raise StudyError("the optimiser's point is not finite")


def _kind(optimizer: AskTell) -> str:
    return type(optimizer).__name__
