"""Processes that are killed at any moment, and many raters at once: no answer is lost, none counts twice."""

import random
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from ranking_processes import Person, Processes
from ranking_study import optimizer, told_exactly

from rlopt.agents.zo_ranksgd.parallel import ParallelSearch
from rlopt.feedback import schema
from rlopt.feedback.store import StudyStore, open_store
from rlopt.feedback.study import replay

KILLS, ROUNDS = 50, 60


def stored_answers(store: StudyStore) -> list[Any]:
    columns = (schema.answer.c.key, schema.answer.c.revision, schema.round_.c.public_id, schema.round_.c.status)
    of_round = schema.round_.c.id == schema.answer.c.round_id
    with store.database.read() as connection:
        rows = sa.select(*columns, schema.answer.c.withdrawn_at).join(schema.round_, of_round)
        return list(connection.execute(rows).all())


def waited_for(people: list[Person], seconds: float) -> None:
    for person in people:
        person.join(seconds)
        assert person.failure is None and not person.is_alive(), person.failure


@pytest.mark.slow
def test_fifty_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    """Trainer or server, at random moments, with SIGKILL; the search ends where an uninterrupted one does."""
    store = open_store(tmp_path, create=True)
    processes, chance = Processes(store, ROUNDS), random.Random(20261124)
    try:
        person = Person(store, processes.base)
        person.start()
        killed = {"trainer": 0, "server": 0}
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.0, 0.5))
            which = chance.choice(("trainer", "server"))
            killed[which] += processes.kill(which)
            processes.start(which)
        waited_for([person], 120)
    finally:
        processes.stop()
    assert min(killed.values()) > 10, f"both were killed while at work: {killed}"
    answers = stored_answers(store)
    by_key = {row.key: row for row in answers}
    assert len(by_key) == len(answers) == ROUNDS, "one answer a round, each stored once"
    for key, (round_id, revision) in person.accepted.items():
        assert (by_key[key].public_id, by_key[key].revision) == (round_id, revision), "what was accepted is there"
    assert {row.status for row in answers} == {"consumed"} and all(row.withdrawn_at is None for row in answers)
    search = optimizer()
    assert replay(store, store.study(), search) == ROUNDS
    assert search.digest() == told_exactly(ROUNDS).digest()
    with store.database.read() as connection:
        consumed = sa.select(schema.event.c.round_id).where(schema.event.c.kind == "consumed")
        rounds = connection.execute(consumed).scalars().all()
    assert len(set(rounds)) == len(rounds) == ROUNDS, "no round was consumed twice"


@pytest.mark.slow
def test_twenty_raters_at_once_are_all_stored_once(store: StudyStore) -> None:
    """Twenty browsers rank every round of a study that needs all their answers."""
    annotators, rounds = 20, 5
    processes = Processes(store, rounds, annotators)
    try:
        people = [Person(store, processes.base, seed) for seed in range(annotators)]
        for person in people:
            person.start()
        waited_for(people, 120)
    finally:
        processes.stop()
    answers = stored_answers(store)
    accepted = {key: value for person in people for key, value in person.accepted.items()}
    assert len(accepted) == len(answers) == annotators * rounds
    assert {row.key: (row.public_id, row.revision) for row in answers} == accepted
    search = optimizer()
    assert replay(store, store.study(), search) == rounds
    assert search.digest() == told_exactly(rounds, annotators).digest()


@pytest.mark.slow
def test_kills_lose_and_double_nothing_of_rounds_that_wait(store: StudyStore) -> None:
    """Three people at once, each with clips of their own, on both databases."""
    rounds, chance = 24, random.Random(7)
    processes = Processes(store, rounds, people=3)
    try:
        people = [Person(store, processes.base, seed) for seed in range(3)]
        for person in people:
            person.start()
        for _ in range(10):
            time.sleep(chance.uniform(0.0, 0.5))
            which = chance.choice(("trainer", "server"))
            processes.kill(which)
            processes.start(which)
        waited_for(people, 120)
    finally:
        processes.stop()
    answers = stored_answers(store)
    by_key = {row.key: row for row in answers}
    accepted = {key: value for person in people for key, value in person.accepted.items()}
    assert len(by_key) == len(answers) and all(row.withdrawn_at is None for row in answers)
    for key, value in accepted.items():
        assert (by_key[key].public_id, by_key[key].revision) == value, "what was accepted is there"
    statuses = [row.status for row in answers]
    assert statuses.count("consumed") == rounds and set(statuses) <= {"consumed", "void"}
    search = ParallelSearch.for_people(optimizer(), 3)
    assert replay(store, store.study(), search) == rounds
