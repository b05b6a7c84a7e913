"""A study as the page sees it: plain values for JSON and templates. No return, no path and no slot is among them."""

from contextlib import nullcontext
from typing import Any

from starlette.requests import Request

from rlopt.feedback import protocol_rounds
from rlopt.feedback.protocol import StudyProtocol
from rlopt.feedback.results import (
    point_clip,
    progress,
    study_activity,
    study_agreement,
    study_duels,
    study_raters,
    study_rounds,
)  # fmt: skip
from rlopt.feedback.rounds import LEASE_SECONDS, RaterSession, ShownClip, ShownRound
from rlopt.feedback.store import Study, StudyStore


class RaterView:
    """One study, for the server."""

    def __init__(
        self,
        store: StudyStore,
        study: Study,
        lease_seconds: float = LEASE_SECONDS,
        minimum_seconds: float = 0.0,
        protocol: StudyProtocol | None = None,
    ) -> None:
        self.store, self.study = store, study
        self.session = RaterSession(store, study, lease_seconds, minimum_seconds, protocol)

    @staticmethod
    def rater_of(request: Request) -> int:
        """Who asks; the guard has looked at the session."""
        return int(request.scope["rlopt.rater"].id)

    def study_json(self, rater: int) -> dict[str, Any]:
        """``GET /api/study``"""
        study = self.study
        return {
            "name": study.name,
            "instructions": self.store.instructions(study),
            "media": study.media,
            "progress": self.progress_json(rater),
        }

    def progress_json(self, rater: int, holds: bool = False) -> dict[str, Any]:
        """See :func:`rlopt.feedback.results.progress`."""
        return progress(self.store, self.study, rater, self.session.lease_seconds, self.session.protocol, holds)

    def lease_json(self, rater: int) -> dict[str, Any]:
        """``POST /api/lease``"""
        with self.store.database.read():
            if not self.session.any_open():
                return self._leased(None, rater)
        with self.store.database.write(durable=False):
            return self._leased(self.session.lease(rater), rater)

    def answer_json(self, rater: int, round_id: str, key: str, next_: bool, **order: Any) -> dict[str, Any]:
        """``POST /api/rounds/ID/answer``: the answer, and the lease of the next round.

        They are one transaction on SQLite alone: on Postgres two raters who hold the rounds that they answered would
        wait for each other's.
        """
        database = self.store.database
        with database.write() if database.is_sqlite else nullcontext():
            with database.write():
                revision = self.session.answer(rater, round_id, key, **order)
                told = self.training_json(rater, round_id) if self.session.protocol.training_rounds else None
            with database.write(durable=database.is_sqlite):
                following = self.session.lease(rater) if next_ and told is None else None
                leased = self._leased(following, rater)
        return {"accepted": True, "revision": revision, "training": told, **leased}

    def undo_json(self, rater: int) -> dict[str, Any]:
        """``POST /api/undo``"""
        with self.store.database.write():
            return self._leased(self.session.undo(rater), rater)

    def _leased(self, shown: ShownRound | None, rater: int) -> dict[str, Any]:
        given = None if shown is None else self.round_json(shown)
        return {"round": given, "progress": self.progress_json(rater, holds=shown is not None)}

    def round_json(self, shown: ShownRound) -> dict[str, Any]:
        """A round in the rater's own order."""
        return {
            "id": shown.id,
            "kind": self._kind(shown),
            "k": shown.k,
            "lease_seconds": int(self.session.lease_seconds),
            "clips": [_clip(clip) for clip in shown.clips],
            "answer": shown.former,
        }

    def training_json(self, rater: int, round_id: str) -> dict[str, Any] | None:
        """What a rater is told after a training round of an expert; None after any other round."""
        with self.store.database.read() as connection:
            told = protocol_rounds.told(connection, self.study, rater, round_id)
        if told is None:
            return None
        noun = "images" if self.study.media == "image" else "clips"
        compared = f"Your order agrees with the expert's in {told.same} of {told.pairs} pairs of {noun}."
        return {
            "message": f"{compared if told.pairs else ''} This is the expert's order.".strip(),
            "order": {"tiers": told.tiers, "unranked": told.unranked},
            "posters": {clip: f"/media/{poster}" for clip, poster in told.posters.items()},
        }

    def _kind(self, shown: ShownRound) -> str:
        """A check must not be told from other rounds; that a round is for training people may know."""
        protocol = self.session.protocol
        blind = shown.kind != "training" and (protocol.repeat_every or protocol.duel_every)
        return "round" if blind else shown.kind

    def results_json(self, rater: int) -> dict[str, Any]:
        """``GET /api/results``"""
        start, now = (point_clip(self.store, self.study, which) for which in ("start", "now"))
        raters, matrix = study_raters(self.store, self.study)
        return {
            "progress": self.progress_json(rater),
            "activity": study_activity(self.store, self.study),
            "duels": study_duels(self.store, self.study),
            "matrix": matrix,
            "rounds": study_rounds(self.store, self.study),
            "agreement": study_agreement(self.store, self.study).as_dict(),
            "raters": raters,
            "start": None if start is None else _clip(start),
            "now": None if now is None else _clip(now),
        }


def _clip(clip: ShownClip) -> dict[str, Any]:
    return {
        "id": clip.id,
        "url": f"/media/{clip.media_id}",
        "poster": f"/media/{clip.poster_id}",
        "fps": clip.fps,
        "frames": clip.frames,
        "width": clip.width,
        "height": clip.height,
    }
