"""A small ranking study: a quadratic to be minimised, still images in the place of clips, people who rank exactly."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.agents.zo_ranksgd.optimizer import ZORankSGD
from rlopt.feedback.clips import Clip, write_image
from rlopt.feedback.store import StudyStore, open_store
from rlopt.feedback.study import HumanStudy

DIMENSION = 3
TARGET = np.array([0.5137, -0.2471, 0.7593])


def objective(candidates: np.ndarray) -> np.ndarray:
    """f [m] of candidates [m, d]; the lowest is the best."""
    return ((np.asarray(candidates) - TARGET) ** 2).sum(axis=-1)


def optimizer(m: int = 4, k: int = 4, **settings: Any) -> ZORankSGD:
    """A search of few candidates, always the same one."""
    return ZORankSGD(np.zeros(DIMENSION), m=m, k=k, line_search_points=m, seed=7, **settings)


def render(query: Any, folder: Path) -> list[Clip]:
    """A grey image for each candidate: the darker, the better. What it is worth is its hidden return."""
    clips = []
    for slot, value in enumerate(objective(query.candidates)):
        grey = np.full((4, 6, 3), int(255 * value / (1 + value)), np.uint8)
        clips.append(write_image(folder / f"{slot}.png", grey, seeds=(slot,), hidden_return=-float(value)))
    return clips


def make_study(place: Path | StudyStore, name: str = "grey", search: Any = None, **settings: Any) -> HumanStudy:
    """A study in a folder or a store, ready to be stepped."""
    store = place if isinstance(place, StudyStore) else open_store(place, create=True)
    given = {"media": "image", "undo_seconds": 0.0, "poll_seconds": 0.005, **settings}
    return HumanStudy(store, name, search or optimizer(), render, **given)


def order_by_value(values: Mapping[str, float], k: int) -> tuple[list[list[str]], list[str]]:
    """Tiers and unranked of the clips with these values: the k lowest in order, without ties."""
    best = sorted(values, key=values.__getitem__)
    return [[clip] for clip in best[:k]], list(best[k:])


def values_of(store: StudyStore, clips: Sequence[Any]) -> dict[str, float]:
    """f of the candidates behind the clip ids, looked up in the database as no browser can."""
    import sqlalchemy as sa

    from rlopt.feedback.schema import candidate, clip

    wanted = sa.select(candidate.c.public_id, clip.c.hidden_return).join(clip, clip.c.id == candidate.c.clip_id)
    with store.database.read() as connection:
        found = dict(connection.execute(wanted.where(candidate.c.public_id.in_([str(c) for c in clips]))).all())
    return {str(name): -float(value) for name, value in found.items()}


def answer_all(study: HumanStudy, rater_ids: Sequence[int], key: str) -> None:
    """Every rater ranks the open round exactly."""
    from rlopt.feedback.rounds import RaterSession

    session = RaterSession(study.store, study.study)
    for rater_id in rater_ids:
        shown = session.lease(rater_id)
        assert shown is not None
        tiers, unranked = order_by_value(values_of(study.store, [clip.id for clip in shown.clips]), shown.k)
        session.answer(rater_id, shown.id, f"{key} {rater_id}", tiers, unranked, seconds=1.5)


def told_exactly(rounds: int, annotators: int = 1, search: ZORankSGD | None = None) -> ZORankSGD:
    """The search after so many rounds that an exact oracle answered, without any study."""
    from rlopt.feedback.ranking import Ranking

    search = search or optimizer()
    for _ in range(rounds):
        query = search.ask()
        search.tell([Ranking.from_values(objective(query.candidates), query.k)] * annotators)
    return search
