"""The table of a study: runs are found again, added once, and survive writers that are killed or write at once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import reproduction

    return reproduction.Results(tmp_path / "study.jsonl", "method", "seed")


def test_a_row_is_added_once_and_found_by_its_values(results: Any) -> None:
    results.add({"method": "a", "seed": 0, "score": 1.5})
    results.add({"method": "a", "seed": 0, "score": 9.0})
    results.add({"method": "b", "seed": 0, "score": 2.5})
    assert results.find(method="a") == [{"method": "a", "seed": 0, "score": 1.5}]
    assert [row["method"] for row in results.find(seed=0)] == ["a", "b"]
    assert results.find(method="a", seed=1) == [] and len(results.find()) == 2


def test_equal_settings_are_written_once(results: Any) -> None:
    for seed, rate in ((0, 0.1), (1, 0.1), (2, 0.2)):
        results.add({"method": "a", "seed": seed}, {"config": {"rate": rate}, "versions": {}})
    first, second, third = (row["settings"] for row in results.find())
    kept = [json.loads(line) for line in results.path.with_name("settings.jsonl").read_text().splitlines()]
    assert first == second != third
    assert {row["settings"]: row["config"]["rate"] for row in kept} == {first: 0.1, third: 0.2}


def test_the_line_of_a_killed_writer_is_no_row(results: Any) -> None:
    results.add({"method": "a", "seed": 0})
    with open(results.path, "a") as file:
        file.write('{"method": "a", "see')
    assert len(results.find()) == 1
    results.add({"method": "a", "seed": 1})
    assert results.path.read_text() == '{"method":"a","seed":0}\n{"method":"a","seed":1}\n'


def test_writers_at_the_same_time_lose_nothing(results: Any) -> None:
    code = """
import sys
from pathlib import Path
from reproduction import Results
results = Results(Path(sys.argv[1]), "method", "seed")
for seed in range(60):
    results.add({"method": "both", "seed": seed})
    results.add({"method": sys.argv[2], "seed": seed})
"""
    command = [sys.executable, "-c", code, str(results.path)]
    writers = [subprocess.Popen([*command, name], cwd=SCRIPTS) for name in ("one", "two")]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    found = sorted((row["method"], row["seed"]) for row in results.find())
    assert found == [(name, seed) for name in ("both", "one", "two") for seed in range(60)]


def test_the_seconds_of_a_run_are_those_of_all_its_parts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, results: Any
) -> None:
    import reproduction

    run, clock = tmp_path / "run", iter([0.0, 5.0, 100.0, 107.0, 200.0, 203.0])
    monkeypatch.setattr(reproduction.time, "perf_counter", lambda: next(clock))

    def called(command: list[str], check: bool) -> None:
        run.mkdir(exist_ok=True)
        if "train" in command:
            raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(reproduction.subprocess, "run", called)
    with pytest.raises(subprocess.CalledProcessError):
        reproduction.train("sac", run)
    assert reproduction.train("sac", run) == 12.0
    assert reproduction.train("sac", run) == 15.0
