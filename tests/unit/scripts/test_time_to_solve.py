"""When a contestant of the race to a return has solved its task."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def race(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "scripts"))
    return importlib.import_module("benchmark_time_to_solve")


@pytest.mark.parametrize(
    ("scores", "solved"),
    [
        ([1, 5, 5, 5], (20.0, 200)),
        ([5, 5, 1, 5, 5], None),
        ([5, 5, 1, 6, 5, 7], (40.0, 400)),
        ([5, 5], None),
        ([], None),
    ],
)
def test_a_task_is_solved_at_the_first_of_three_in_a_row(scores, solved, race) -> None:
    curve = [(10.0 * turn, 100 * turn, float(score)) for turn, score in enumerate(scores, start=1)]
    assert race.Progress(curve=curve).solved(5.0) == solved


def rows(*seconds: float | None) -> list[dict[str, float | None]]:
    return [{"seconds": each, "steps": each, "stopped": each or 100.0} for each in seconds]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ((10.0, 30.0, 20.0), "20 [10, 30]"),
        ((10.0, None, 20.0), "20 [10, 20] (1 of 3 not solved)"),
        ((10.0, None, None), "not within 100 s"),
        ((10.0, 30.0), "30 [10, 30] (2 of 3 seeds)"),
        ((), "not run"),
    ],
)
def test_a_race_that_was_not_won_counts_as_longer_than_all(seconds, text, race) -> None:
    assert race.cell(rows(*seconds), "seconds") == text


def test_the_quickest_peer_is_a_lower_bound_where_it_was_stopped(race) -> None:
    ours, slow, stopped = rows(10.0, 10.0, 20.0), rows(60.0, 80.0, 70.0), rows(None, None, None)
    assert race.factor(ours, {"sb3_ppo": slow, "sb3_sac": stopped}) == "7.0 x (SB3 PPO)"
    assert race.factor(ours, {"sb3_sac": stopped, "sbx_sac": []}) == "at least 10.0 x"
    assert race.factor(rows(10.0, 30.0), {"sb3_ppo": rows(60.0, 60.0)}) == "2.0 x (SB3 PPO)"
    assert race.factor(rows(10.0, None, 20.0), {"sb3_ppo": slow}) == ""
