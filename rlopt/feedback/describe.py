"""What a study is, for who runs it."""

from __future__ import annotations

import sqlalchemy as sa

from rlopt.console.progress import duration
from rlopt.feedback.results import study_agreement, study_rounds
from rlopt.feedback.schema import answer, rater, round_
from rlopt.feedback.store import Study, StudyStore


def describe(store: StudyStore, study: Study) -> str:
    """A few lines for people."""
    of_study = round_.c.study_id == study.id
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
