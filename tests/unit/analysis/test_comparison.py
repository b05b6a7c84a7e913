"""Groups of runs compared: which scores are taken, how they are aggregated, what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scored_runs import scored_run, scored_runs

from rlopt.analysis.comparison import ALL_TASKS, compare_runs
from rlopt.analysis.plotting import draw_comparison
from rlopt.analysis.report import format_table
from rlopt.errors import ConfigError, RunError, UnknownNameError
from rlopt.statistics.aggregates import (
    bootstrap_interval,
    improvement_interval,
    iqm,
    mean,
    median,
    probability_of_improvement,
)

OURS, THEIRS = [3.0, 8.0, 1.0, 5.0, 9.0], [2.0, 4.0, 6.0, 3.5]


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return scored_runs(tmp_path, "ours", OURS) + scored_runs(tmp_path, "theirs", THEIRS, agent="ppo")


def test_last_scores_are_compared_and_not_the_best(two: list[Path]) -> None:
    comparison = compare_runs(two, reference="ppo")
    theirs, ours = comparison.groups
    assert (theirs.label, ours.label) == ("ppo", "mdpo")
    assert ours.scores["Hopper-v5"].tolist() == OURS and theirs.scores["Hopper-v5"].tolist() == THEIRS
    for name, statistic in (("iqm", iqm), ("median", median), ("mean", mean)):
        assert ours.aggregates[name].value == pytest.approx(statistic(OURS))
        assert ours.aggregates[name].interval == bootstrap_interval(OURS, statistic)
    assert "optimality_gap" not in ours.aggregates  # 1 means nothing on the scale of returns
    assert ours.improvement is not None and theirs.improvement is None
    # pairs won, of 20: 3 beats 2; 8 and 9 beat all four; 1 none; 5 beats 2, 4, 3.5
    assert ours.improvement.value == pytest.approx((1 + 4 + 0 + 3 + 4) / 20)
    assert ours.improvement.interval == improvement_interval(OURS, THEIRS)
    assert (ours.seeds, theirs.seeds, ours.steps) == ((5, 5), (4, 4), (300, 300))


def test_the_first_runs_group_is_the_reference_and_the_others_follow_by_score(tmp_path: Path) -> None:
    runs = [run for rate in (0.1, 0.3, 0.2) for run in scored_runs(tmp_path, str(rate), [rate] * 2, learning_rate=rate)]
    labels = [group.label for group in compare_runs(runs, by="learning-rate").groups]
    assert labels == ["learning_rate = 0.1", "learning_rate = 0.3", "learning_rate = 0.2"]
    both = [group.label for group in compare_runs(runs, by="agent, learning_rate").groups]
    assert both[0] == "mdpo, learning_rate = 0.1"


def test_another_key_takes_the_last_row_of_the_log(two: list[Path]) -> None:
    for index, run in enumerate(two):
        (run / "progress.csv").write_text(f"step,rollout/ep_rew_mean\n100,99\n300,{index}\n")
    comparison = compare_runs(two, key="rollout/ep_rew_mean")
    assert comparison.groups[0].scores["Hopper-v5"].tolist() == [0, 1, 2, 3, 4]
    assert "last return while training (rollout/ep_rew_mean)" in format_table(comparison)


def test_a_run_without_evaluations_makes_it_a_comparison_of_training_returns_which_is_said(two: list[Path]) -> None:
    for run in two:
        (run / "progress.csv").write_text("step,rollout/ep_rew_mean\n300,7\n")
    assert compare_runs(two).key == "evaluation"
    (two[3] / "evaluations.csv").write_text("step,episode,return,length\n")
    comparison = compare_runs(two)
    assert comparison.key == "rollout/ep_rew_mean"
    assert comparison.notes[0] == f"training returns are used for all: {two[3]} has no evaluations"
    assert "last return while training (rollout/ep_rew_mean) of each run" in format_table(comparison)


def test_profiles_begin_at_one_and_end_at_zero_on_common_thresholds(two: list[Path]) -> None:
    ours, theirs = (group.profile for group in compare_runs(two).groups)
    assert np.array_equal(ours.thresholds, theirs.thresholds)
    assert (ours.share[0], ours.share[-1], theirs.share[0], theirs.share[-1]) == (1, 0, 1, 0)
    for profile, scores in ((ours, OURS), (theirs, THEIRS)):
        wanted = [np.mean([score > tau for score in scores]) for tau in profile.thresholds]
        assert profile.share == pytest.approx(wanted)
        assert np.all(profile.low <= profile.share + 1e-9) and np.all(profile.share <= profile.high + 1e-9)


@pytest.fixture
def four(tmp_path: Path) -> list[Path]:
    """Two groups on two tasks, with unequal numbers of seeds."""
    scores = {
        ("mdpo", "Hopper-v5"): [1000.0, 2000.0, 3000.0],
        ("mdpo", "Ant-v5"): [50.0, 70.0],
        ("ppo", "Hopper-v5"): [500.0, 1500.0],
        ("ppo", "Ant-v5"): [60.0, 90.0, 110.0],
    }
    return [
        run
        for (agent, env), last in scores.items()
        for run in scored_runs(tmp_path, f"{agent}-{env}", last, agent=agent, env=env)
    ]


def test_several_tasks_by_references_from_a_file(four: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "scales.json"
    file.write_text(json.dumps({"Hopper-v5": {"random": 0, "expert": 4000}, "Ant-v5": {"low": 10.0, "high": 110.0}}))
    comparison = compare_runs(four, normalise=str(file), mix={"tasks"})
    ours, theirs = comparison.groups
    normalised = {"Hopper-v5": [0.25, 0.5, 0.75], "Ant-v5": [0.4, 0.6]}
    other = {"Hopper-v5": [0.125, 0.375], "Ant-v5": [0.5, 0.8, 1.0]}
    assert {task: scores.tolist() for task, scores in ours.scores.items()} == {
        task: pytest.approx(scores) for task, scores in normalised.items()
    }
    # every task the same weight: 12 values, 3 of each end cut: .25 .25 .4 .4 .4 .5 .5 .6 .6 .6 .75 .75
    assert ours.aggregates["iqm"].value == pytest.approx((0.4 + 0.4 + 0.5 + 0.5 + 0.6 + 0.6) / 6)
    assert ours.aggregates["mean"].value == pytest.approx(0.5)
    assert ours.aggregates["optimality_gap"].value == pytest.approx(0.5)
    assert theirs.improvement is not None
    assert theirs.improvement.value == pytest.approx(probability_of_improvement(other, normalised))
    assert (ours.seeds, theirs.seeds) == ((2, 3), (2, 3))
    text = format_table(comparison)
    assert "Ant-v5, Hopper-v5" in text and str(file) in text and "Hopper-v5: 0 is 0, 1 is 4000" in text
    assert "stratified by task" in text and "2 to 3" in text


def test_min_max_takes_its_references_from_the_runs(four: list[Path]) -> None:
    comparison = compare_runs(four, normalise="min-max", mix={"tasks"})
    assert comparison.scales == {"Ant-v5": (50.0, 110.0), "Hopper-v5": (500.0, 3000.0)}
    assert "changes with the runs" in comparison.scale_source


def test_dm_control_is_scaled_by_its_bound(tmp_path: Path) -> None:
    runs = [
        run
        for env in ("dm_control/walker-walk", "dm_control/cheetah-run")
        for run in scored_runs(tmp_path, env[-5:], [250.0, 500.0], env=env)
    ]
    comparison = compare_runs(runs, normalise="dm_control", mix={"tasks"})
    assert comparison.groups[0].scores["dm_control/walker-walk"].tolist() == [0.25, 0.5]


def test_curves_of_each_task_and_of_all(four: list[Path]) -> None:
    comparison = compare_runs(four, normalise="min-max", mix={"tasks"})
    curves = comparison.curves()
    found = [(curve.env, curve.label) for curve in curves]
    assert found == [(env, label) for env in ("Ant-v5", "Hopper-v5", ALL_TASKS) for label in ("mdpo", "ppo")]
    for group in comparison.groups:  # at the end of all curves are the numbers of the table
        (whole,) = [curve for curve in curves if (curve.env, curve.label) == (ALL_TASKS, group.label)]
        assert whole.low is not None and whole.high is not None
        assert whole.center[-1] == pytest.approx(group.aggregates["iqm"].value)
    figure = draw_comparison(comparison)
    titles = [panel.get_title(loc="left") for panel in figure.axes if panel.get_visible()]
    assert titles == ["Ant-v5", "Hopper-v5", ALL_TASKS, "performance profile, last scores"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        f"{group.label} (2 to 3 runs a task)" for group in comparison.groups
    ]


def test_the_band_of_all_tasks_ends_at_the_interval_of_the_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    runs = [
        run
        for env, count in (("Ant-v5", 8), ("Hopper-v5", 12))
        for run in scored_runs(tmp_path, env, rng.normal(size=count).tolist(), env=env)
    ]
    comparison = compare_runs(runs, normalise="min-max", mix={"tasks"})
    whole = comparison.curves()[-1]
    assert whole.env == ALL_TASKS and whole.low is not None and whole.high is not None
    low, high = comparison.groups[0].aggregates["iqm"].interval
    assert (whole.low[-1], whole.high[-1]) == pytest.approx((low, high), abs=0.05 * (high - low))


def refused(runs: list[Path], *words: str, **options: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        compare_runs(runs, **options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_tasks_are_not_mixed(four: list[Path], tmp_path: Path) -> None:
    refused(four, "different tasks: Hopper-v5", "Ant-v5 in", "--mix-tasks and --normalise")
    refused(four, "no common scale", "min-max", mix={"tasks"})
    only_hopper = [run for run in four if "ppo-Ant" not in str(run)]
    refused(only_hopper, "ppo has no run of Ant-v5", mix={"tasks"}, normalise="min-max")
    other_limit = scored_runs(tmp_path, "short", [1.0], max_episode_steps=50, agent="ppo")
    refused([four[0], *other_limit], "Hopper-v5, 50 steps an episode", "--mix-tasks")


def test_versions_of_an_environment_are_not_mixed(tmp_path: Path) -> None:
    old = scored_runs(tmp_path, "old", [1.0, 2.0], env="Hopper-v4", agent="ppo")
    new = scored_runs(tmp_path, "new", [3.0, 4.0], env="Hopper-v5")
    refused(old + new, "Hopper-v4 in", "Hopper-v5 in", "--mix-versions")
    comparison = compare_runs(old + new, mix={"versions"})
    assert comparison.tasks == ("Hopper",) and len(comparison.groups) == 2


def test_action_repeats_are_not_mixed_and_then_counted_in_the_simulator(tmp_path: Path) -> None:
    one = scored_runs(tmp_path, "one", [1.0, 2.0], agent="ppo", every=200)  # 600 steps
    two = scored_runs(tmp_path, "two", [3.0, 4.0], action_repeat=2)  # 300 steps, 600 of the simulator
    refused(one + two, "action repeats: 1 in", "2 in", "--mix-repeats")
    comparison = compare_runs(one + two, mix={"repeats"})
    assert [group.steps for group in comparison.groups] == [(600, 600), (600, 600)]
    assert draw_comparison(comparison).axes[0].get_xlabel() == "simulator steps"
    longer = scored_runs(tmp_path, "longer", [3.0, 4.0], action_repeat=4)
    refused(one + longer, "600 in", "1,200 in", "--mix-budgets", mix={"repeats"})


def test_budgets_are_not_mixed_and_then_cut_at_the_shortest(tmp_path: Path) -> None:
    short = [scored_run(tmp_path / "short", [1.0, 2.0], agent="ppo")]
    long = [scored_run(tmp_path / "long", [5.0, 7.0, 9.0])]
    refused(short + long, "numbers of training steps: 200 in", "300 in", "--mix-budgets")
    comparison = compare_runs(short + long, mix={"budgets"})
    assert [(group.label, *group.scores["Hopper-v5"]) for group in comparison.groups] == [("ppo", 2.0), ("mdpo", 7.0)]
    assert any("up to step 200" in note for note in comparison.notes)
    other_task = [
        scored_run(tmp_path / f"ant-{agent}", [1.0, 2.0, 3.0 + count, 4.0][:count], agent=agent, env="Ant-v5")
        for agent, count in (("mdpo", 4), ("ppo", 3))
    ]
    comparison = compare_runs(short + long + other_task, mix={"budgets", "tasks"}, normalise="min-max")
    assert comparison.groups[0].steps == (200, 300)  # each task is cut at its own shortest run
    late = [scored_run(tmp_path / "late", [5.0], every=300)]
    refused(short + late, "no score up to step 200", mix={"budgets"})


def test_a_run_that_is_not_complete_is_refused_with_the_command_that_completes_it(two: list[Path]) -> None:
    file = two[3] / "evaluations.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:-2]) + "\n")
    refused(two, "step 200 of 300", f"rlopt resume {two[3]}", "--mix-budgets")
    assert compare_runs(two, mix={"budgets"}).groups[0].scores["Hopper-v5"].tolist() == [999.0] * 5


def test_steps_of_the_environment_are_not_mixed_with_gradient_steps(tmp_path: Path) -> None:
    runs = [scored_run(tmp_path / "a", [1.0]), scored_run(tmp_path / "b", [1.0], agent="td3_bc")]
    refused(runs, "gradient steps", "environment steps", mix={"budgets"})
    assert compare_runs(runs[1:]).step_unit == "gradient steps"


def test_settings_are_not_taken_for_seeds(tmp_path: Path) -> None:
    runs = [scored_run(tmp_path / str(k), [1.0 * k], kl_coef=k / 10, seed=k) for k in range(4)]
    refused(runs, "differ in kl_coef (0.0 in", "--by ...,kl_coef", "--mix-settings")
    assert len(compare_runs(runs, mix={"settings"}).groups) == 1
    assert len(compare_runs(runs, by="kl_coef").groups) == 4
    harmless = [scored_run(tmp_path / f"h{k}", [1.0], seed=k, preset=f"p{k}") for k in range(2)]
    assert len(compare_runs(harmless).groups) == 1
    agents = [scored_run(tmp_path / f"a{k}", [1.0], seed=k, agent=agent) for k, agent in enumerate(("mdpo", "gail"))]
    refused(agents, "differ in agent (mdpo in", by="learning_rate")


def test_a_seed_does_not_count_twice(two: list[Path], tmp_path: Path) -> None:
    refused([*two, two[0]], "given twice")
    copy = scored_run(tmp_path / "copy", [1.0, 2.0, 3.0], seed=2)
    refused([*two, copy], "same seed 2", "twice", str(copy))
    other = [scored_run(tmp_path / f"o{k}", [1.0], seed=0, kl_coef=k) for k in range(2)]
    assert compare_runs(other, mix={"settings"}).groups[0].seeds == (2, 2)  # the seed is the same, the run is not


def test_other_simulators_are_noted(tmp_path: Path) -> None:
    runs = [
        scored_run(tmp_path / "a", [1.0], packages={"mujoco": "3.17.0", "gymnasium": "1.2"}),
        scored_run(tmp_path / "b", [1.0], packages={"mujoco": "4.0.0", "gymnasium": "1.2"}, agent="ppo"),
    ]
    (note,) = [note for note in compare_runs(runs).notes if "mujoco" in note]
    assert note == f"mujoco is 3.17.0 in {runs[0]}, 4.0.0 in {runs[1]}"
    (runs[0] / "versions.json").write_text("[")  # what cannot be read is not compared
    assert not any("mujoco" in note for note in compare_runs(runs).notes)


def test_few_seeds_are_noted(two: list[Path]) -> None:
    assert not [note for note in compare_runs([run for run in two if "ours" in str(run)]).notes if "seeds" in note]
    few = [run for run in two if run.name[-1] in "012"]
    (note,) = [note for note in compare_runs(few).notes if "seeds" in note]
    assert note.startswith("3 seeds") and "fewer than 4" in note
    single = [run for run in two if run.name[-1] == "0"]
    comparison = compare_runs(single)
    assert comparison.groups[1].seeds_needed is None
    assert "cannot be said" in format_table(comparison)


def test_the_table_says_whether_the_seeds_are_enough(tmp_path: Path) -> None:
    apart = scored_runs(tmp_path, "low", [1.0, 1.1, 0.9, 1.0, 1.05], agent="ppo")
    apart += scored_runs(tmp_path, "high", [5.0, 5.1, 4.9, 5.0, 5.05])
    comparison = compare_runs(apart)
    assert comparison.groups[1].seeds_needed == 4
    row = next(line for line in format_table(comparison).splitlines() if line.startswith("mdpo"))
    assert row.split("  ")[-1].strip() == "4, enough"
    row = next(line for line in format_table(comparison).splitlines() if line.startswith("ppo"))
    assert row.endswith("reference")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "not a mapping"),
        ("{", "cannot be read"),
        ('{"Hoper-v5": {"low": 0, "high": 1}}', "did you mean 'Hoper-v5'"),
        ('{"Hopper-v5": {"low": 0}}', "high or expert"),
        ('{"Hopper-v5": [0, 1]}', "low or random"),
        ('{"Hopper-v5": {"low": true, "high": 1}}', "finite number"),
        ('{"Hopper-v5": {"low": NaN, "high": 1}}', "finite number"),
        ('{"Hopper-v5": {"low": 2, "high": 2}}', "low must be below high"),
    ],
)
def test_a_bad_file_of_references_is_one_line(two: list[Path], tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "scales.json"
    file.write_text(text)
    with pytest.raises((ConfigError, RunError), match=words.replace("(", r"\(")) as caught:
        compare_runs(two, normalise=str(file))
    assert str(file) in str(caught.value) or "Hopper-v5" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_arguments_name_the_nearest(two: list[Path], tmp_path: Path) -> None:
    for options, words in [
        ({"by": "learning_rat"}, "learning_rate"),
        ({"by": "agent,"}, "setting"),
        ({"reference": "pppo"}, "'ppo'"),
        ({"normalise": "minmax"}, "min-max"),
        ({"mix": {"task"}}, "tasks"),
    ]:
        with pytest.raises(UnknownNameError, match=words):
            compare_runs(two, **options)  # type: ignore[arg-type]
    refused(two, "no file", normalise="nowhere.json")
    refused(two, "not bounded", normalise="dm_control")
    refused(two, "confidence", confidence=1.0)
    refused([], "no run")
    equal = scored_runs(tmp_path, "equal", [1.0, 1.0])
    refused(equal, "low must be below high", normalise="min-max")
    with pytest.raises(RunError, match="no such folder"):
        compare_runs([tmp_path / "nowhere"])
    (two[0] / "evaluations.csv").unlink()
    with pytest.raises(RunError, match=r"evaluations\.csv .*--key rollout/ep_rew_mean"):
        compare_runs(two, key="evaluation")
    (two[0] / "config.json").write_text('{"agent": "mdpo", "run": {"env": "Hopper-v5"}, "agent_config": [1]}')
    with pytest.raises(RunError, match="agent_config"):
        compare_runs(two)
