"""A person who ranks what a study shows, in a thread, until it is over."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rlopt.errors import StudyError
from rlopt.feedback.ranking import Ranking
from rlopt.feedback.results import media_file
from rlopt.feedback.rounds import RaterSession
from rlopt.feedback.store import open_store


@contextmanager
def person_who_answers(folder: Path, value: Callable[[Path], float]) -> Iterator[None]:
    """While the context is open: answers the study in ``folder``, which may not exist yet.

    :param value: of the file of a clip; the larger the better
    """
    over = threading.Event()
    thread = threading.Thread(target=_answer, args=(folder, value, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _answer(folder: Path, value: Callable[[Path], float], over: threading.Event) -> None:
    while not over.is_set():
        try:
            store = open_store(str(folder), None)
            study = store.study(None)
            break
        except StudyError:  # it is being made
            time.sleep(0.05)
    else:
        return
    session = RaterSession(store, study)
    rater = store.rater(study, "somebody") or store.add_rater(study, "somebody")
    while not over.is_set():
        shown = session.lease(rater.id)
        if shown is None:
            time.sleep(0.05)
            continue
        files = [media_file(store, study, clip.media_id) for clip in shown.clips]
        values = [value(store.media_root / file[0]) for file in files if file]
        ranking = Ranking.from_values(values, shown.k, maximize=True)
        ids = [clip.id for clip in shown.clips]
        tiers = [[ids[index] for index in tier] for tier in ranking.tiers]
        session.answer(rater.id, shown.id, shown.id, tiers, [ids[index] for index in ranking.unranked])
    store.close()
