"""The tables of docs/results are refused where they would flatter."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from rlopt.statistics.aggregates import iqm

ROOT = Path(__file__).resolve().parents[3]
ROLES = {"ours": "ours", "without": "ablation", "a": "peer", "b": "peer"}
SCORES: dict[str, list[float]] = {"ours": [3.0], "without": [1.0], "a": [2.0, 2.0], "b": [5.0, 1.0]}


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("evidence")


@pytest.fixture
def study(evidence: Any) -> Any:
    return importlib.import_module("reproduce_defaults")


@pytest.fixture
def arms(evidence: Any) -> list[Any]:
    return [evidence.Arm(key, key, role) for key, role in ROLES.items()]


def declared(evidence: Any, **other: Any) -> Any:
    sets = {"tuning_tasks": {"x"}, "tuning_seeds": {100}, "test_tasks": {"y"}, "test_seeds": {0, 1}}
    settings = {
        name: frozenset(values) if isinstance(values, set) else values for name, values in (sets | other).items()
    }
    return evidence.Declared(**settings)


def test_what_was_tuned_on_is_not_reported(evidence: Any) -> None:
    declared(evidence).check()
    with pytest.raises(evidence.RefusedError, match="seeds 0 were tuned on"):
        declared(evidence, tuning_seeds={0, 100}).check()
    with pytest.raises(evidence.RefusedError, match="tasks x were tuned on"):
        declared(evidence, test_tasks={"x", "y"}).check()
    rows = [{"task": task, "seed": seed} for task in "xy" for seed in (0, 100)]
    assert declared(evidence).reported(rows) == [{"task": "y", "seed": 0}]


def test_a_preset_of_one_task_may_be_tuned_on_other_seeds_of_it(evidence: Any) -> None:
    declared(evidence, test_tasks={"x"}, tasks_too=False).check()


def test_an_arm_that_was_run_is_shown(evidence: Any, arms: list[Any]) -> None:
    evidence.check_all_shown([{"arm": "a"}, {"arm": "ours"}], arms)
    with pytest.raises(evidence.RefusedError, match="arms kl0 were run and are not shown"):
        evidence.check_all_shown([{"arm": "a"}, {"arm": "kl0"}], arms)


def test_a_headline_has_the_best_peer_and_the_ablation(evidence: Any, arms: list[Any]) -> None:
    evidence.check_headline(SCORES, arms, ["ours", "without", "b"], iqm, "x")
    for shown, reason in {
        ("ours", "without", "a"): "leaves out b, the best peer",
        ("ours", "a", "b"): r"leaves out without \(ablation\)",
        ("without", "a", "b"): r"leaves out ours \(ours\)",
    }.items():
        with pytest.raises(evidence.RefusedError, match=f"x: the row {reason}"):
            evidence.check_headline(SCORES, arms, shown, iqm, "x")
    with pytest.raises(evidence.RefusedError, match="no peer was run"):
        evidence.check_headline({"ours": [1.0], "without": [1.0]}, arms, ["ours", "without"], iqm, "x")
    with pytest.raises(evidence.RefusedError, match=r"x: without \(ablation\) was not run: run it"):
        evidence.check_headline({**SCORES, "without": []}, arms, SCORES, iqm, "x")
    with pytest.raises(evidence.RefusedError, match="the study has no arm ablation"):
        evidence.check_headline(SCORES, [arm for arm in arms if arm.role != "ablation"], SCORES, iqm, "x")


def test_the_study_of_defaults_is_declared_so(study: Any) -> None:
    study.DECLARED.check()
    assert len(study.TASKS) == 15 and {task.scale for task in study.TASKS} == {0.01, 1.0, 100.0}
    presets = [path.read_text().splitlines() for path in (ROOT / "configs").rglob("*.yaml")]
    with_preset = {line.split()[1] for lines in presets for line in lines if line.startswith("env:")}
    assert not with_preset & {task.env for task in study.TASKS}


def test_its_table_shows_every_arm_and_test_seeds_alone(evidence: Any, study: Any, tmp_path: Path) -> None:
    results = study.Results(tmp_path / "defaults.jsonl", *study.KEY)
    task = study.TASKS[0].name
    for arm, score in zip(study.ARMS, (4.0, 3.0, 1.0, 1.5, 2.0), strict=True):
        for seed in (0, 1, 100):  # the last is not a test seed
            results.add({"arm": arm.key, "task": task, "seed": seed, "mean_return": score if seed < 100 else 99.0})
    text = study.table_text(results)
    assert f"| {task} | 4.0 [4.0, 4.0] (2 of 10 seeds) | 3.0" in text and "99" not in text
    assert "P(MDPO better than SB3 PPO) = 1.00 [1.00, 1.00], 1 tasks" in text
    for peers in ("PPO and TRPO at their defaults", "all peers"):
        assert f"not below that of the best of {peers} on 1 of 1 tasks" in text
    results.add({"arm": "tuned", "task": task, "seed": 0, "mean_return": 0.0})
    with pytest.raises(evidence.RefusedError, match="arms tuned were run"):
        study.table_text(results)
