"""Several runs in one process: random states of their own, joint calls, and runs that end early."""

import random
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from rlopt.optim.lockstep import Lockstep, has_other_runs, together, wait_for_other_runs


def draws(seed: int, count: int) -> list[tuple[float, float, float, float]]:
    """What a run with ``seed`` draws from the global generators when it is alone."""
    seed_all(seed)
    return [draw() for _ in range(count)]


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def draw() -> tuple[float, float, float, float]:
    return random.random(), float(np.random.normal()), float(np.random.rand()), float(torch.rand(()))


def total(requests: Sequence[int]) -> list[tuple[int, int]]:
    """Answers each request with itself and the sum of all."""
    random.random()  # what a joint call draws must not reach the runs
    return [(request, sum(requests)) for request in requests]


def run(seed: int, count: int, seen: list[tuple[int, int]]) -> list[tuple[float, float, float, float]]:
    seed_all(seed)
    numbers = []
    for _ in range(count):
        wait_for_other_runs()
        numbers.append(draw())
        seen.append(together(total, seed))
    return numbers


def test_each_run_sees_its_own_random_numbers_and_its_own_answers() -> None:
    seen: list[list[tuple[int, int]]] = [[], [], []]
    seed_all(77)
    results = Lockstep([lambda s=s: run(s, 5, seen[s]) for s in range(3)]).run()  # type: ignore[misc]
    after = draw()
    assert results == [draws(seed, 5) for seed in range(3)]
    assert seen == [[(seed, 3)] * 5 for seed in range(3)]
    seed_all(77)
    assert after == draw()  # the caller's own stream is untouched


def test_runs_that_end_early_leave_the_others_together() -> None:
    seen: list[list[tuple[int, int]]] = [[], [], []]
    counts = (1, 3, 4)
    results = Lockstep([lambda s=s: run(s, counts[s], seen[s]) for s in range(3)]).run()  # type: ignore[misc]
    assert [len(result) for result in results] == [1, 3, 4]
    # The first run has seed 0, so only the absence of the second shows in the sums.
    assert seen == [[(0, 3)], [(1, 3)] * 3, [(2, 3), (2, 3), (2, 3), (2, 2)]]


def test_a_run_that_fails_later_is_an_outcome_and_the_others_go_on() -> None:
    def failing() -> None:
        wait_for_other_runs()
        raise ArithmeticError("too large")

    def other() -> list[bool]:
        found = []
        for _ in range(3):
            wait_for_other_runs()
            found.append(has_other_runs())
        return found

    failure, found = Lockstep([failing, other]).run()
    assert isinstance(failure, ArithmeticError)
    assert found == [False, False, False]
    assert not has_other_runs()


def test_a_run_that_fails_before_its_first_turn_ends_all() -> None:
    ended: list[str] = []

    def patient() -> None:
        try:
            wait_for_other_runs()
        finally:
            ended.append("patient")

    def broken() -> None:
        raise ValueError("no such environment")

    def never() -> None:
        ended.append("never")

    with pytest.raises(ValueError, match="no such environment"):
        Lockstep([patient, broken, never]).run()
    assert ended == ["patient"]


def test_an_error_of_the_joint_call_reaches_every_run() -> None:
    def fails(requests: Sequence[int]) -> list[int]:
        raise ArithmeticError(f"{len(requests)} requests")

    def job(own: bool) -> Callable[[], str]:
        def work() -> str:
            try:
                together(fails, 1)
            except ArithmeticError as error:
                if own:
                    raise
                return str(error)
            return "no error"

        return work

    first, second = Lockstep([job(False), job(False)]).run()
    assert first == second == "2 requests"


def test_rounds_are_told_and_a_run_of_its_own_meets_itself() -> None:
    rounds: list[int] = []

    def job() -> int:
        for _ in range(4):
            wait_for_other_runs()
        return together(total, 5)[1]

    assert Lockstep([job, job], on_round=lambda: rounds.append(1)).run() == [10, 10]
    assert len(rounds) >= 5
    assert together(total, 5) == (5, 5)
    wait_for_other_runs()


def test_a_single_run_stays_in_its_thread() -> None:
    rounds: list[int] = []

    def job() -> tuple[str, list[tuple[float, float, float, float]], int]:
        assert not has_other_runs()
        seed_all(4)
        numbers = []
        for _ in range(3):
            wait_for_other_runs()
            numbers.append(draw())
            answer = together(lambda requests: [10 * request for request in requests], 4)
        return threading.current_thread().name, numbers, answer

    def failing() -> None:
        wait_for_other_runs()
        raise ArithmeticError("too large")

    def broken() -> None:
        raise ValueError("no such environment")

    seed_all(77)
    (result,) = Lockstep([job], on_round=lambda: rounds.append(1)).run()
    after = draw()
    seed_all(77)
    assert after == draw()  # the caller's own stream is untouched
    assert result == (threading.current_thread().name, draws(4, 3), 40) and rounds
    assert isinstance(Lockstep([failing]).run()[0], ArithmeticError)
    with pytest.raises(ValueError, match="no such"):
        Lockstep([broken]).run()
    with pytest.raises(ArithmeticError, match="too large"):
        raise Lockstep([lambda: together(lambda requests: failing(), 1)]).run()[0]  # type: ignore[arg-type, misc, return-value]
