"""When a contestant of the race to a return has solved its task."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


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
def test_a_task_is_solved_at_the_first_of_three_in_a_row(scores, solved, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "scripts"))
    race = importlib.import_module("benchmark_time_to_solve")
    curve = [(10.0 * turn, 100 * turn, float(score)) for turn, score in enumerate(scores, start=1)]
    assert race.Progress(curve=curve).solved(5.0) == solved
